"""Where AWS is: regions in the names of hosts, and the addresses of AWS's own services."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pgambassador.errors import ConfigError

_USUAL = "amazonaws.com"
# Every other partition by how the names of its regions begin.
_SUFFIXES = {
    "cn-": "amazonaws.com.cn",
    "eusc-": "amazonaws.eu",
    "us-iso-": "c2s.ic.gov",
    "us-isob-": "sc2s.sgov.gov",
    "eu-isoe-": "cloud.adc-e.uk",
    "us-isof-": "csp.hci.ic.gov",
}
_VARIABLES = {"secretsmanager": "SECRETS_MANAGER"}
_REGION = r"[a-z]{2,4}(?:-[a-z]+)+-[0-9]{1,2}"
_RDS = re.compile(
    # China and some others say rds.REGION, the rest REGION.rds.
    rf".+\.(?:({_REGION})\.rds|rds\.({_REGION}))\."
    rf"(?:{'|'.join(map(re.escape, (_USUAL, *_SUFFIXES.values())))})"
)
_DSQL = re.compile(rf".+\.dsql(?:-[a-z0-9-]+)?\.({_REGION})\.on\.[a-z0-9.-]+")


def is_region(text: str) -> bool:
    return re.fullmatch(_REGION, text) is not None


def plain(host: str) -> str:
    """A host name as AWS knows it: small letters, no dot at the end."""
    return host.lower().removesuffix(".")


def rds_region(host: str) -> str | None:
    """The region in the name of an instance, a cluster (-ro and custom too) or a proxy, if it is one."""
    found = _RDS.fullmatch(plain(host))
    return found and (found[1] or found[2])


def dsql_region(host: str) -> str | None:
    found = _DSQL.fullmatch(plain(host))
    return found and found[1]


def arn_region(text: str) -> str | None:
    """`arn:aws:secretsmanager:REGION:…`"""
    parts = text.split(":")
    return parts[3] if len(parts) >= 6 and parts[0] == "arn" and is_region(parts[3]) else None


def region_of(written: str | None, found: str | None, environ: Mapping[str, str]) -> str | None:
    """The one that is configured, else the one that a name has told, else that of the variables. ConfigError
    for what is no region's name: a server refuses tokens for another region without saying why."""
    said = {
        "credentials.region": written,
        "the name": found,
        **{name: environ.get(name) for name in ("AWS_REGION", "AWS_DEFAULT_REGION")},
    }
    for where, text in said.items():
        if text and not is_region(text):
            raise ConfigError(
                f"{where} is {text[:40]!r}, which is not the name of an AWS region.",
                hint="Write it as eu-west-1; eu-west-1a would be a zone of it.",
            )
        if text:
            return text
    return None


def service_url(service: str, region: str | None, environ: Mapping[str, str]) -> str:
    """The address of a service; the variables that the SDKs know for it win."""
    variable = f"AWS_ENDPOINT_URL_{_VARIABLES.get(service, service.upper())}"
    named = environ.get(variable) or environ.get("AWS_ENDPOINT_URL")
    if named:
        return named
    if region is None:
        return f"https://{service}.{_USUAL}"
    suffix = next((each for start, each in _SUFFIXES.items() if region.startswith(start)), _USUAL)
    return f"https://{service}.{region}.{suffix}"
