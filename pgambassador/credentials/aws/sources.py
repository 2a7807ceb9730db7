"""AWS credentials without AWS's libraries: from variables, a pod's token, a container, an instance.

1. Each source asks its own endpoint, with a time limit and a bounded answer. All but the first block.
2. A token file is read anew each time, since whoever wrote it renews it.
3. Credentials are sent to nobody, and a container's endpoint is asked only at addresses that the SDKs allow.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from pgambassador.config.plain import content, reason
from pgambassador.credentials.aws.exchange import Answer, NoAnswer, ask
from pgambassador.credentials.aws.partitions import service_url
from pgambassador.credentials.aws.sigv4 import Keys
from pgambassador.errors import AmbassadorError, ConfigError, Unreachable

CONTAINER = "http://169.254.170.2"
INSTANCE = "http://169.254.169.254"
INSTANCE_IPV6 = "http://[fd00:ec2::254]"

_NEAR = 2.0  # seconds for what is on the same machine
_FAR = 4.0
_TOKEN_LIFE = "21600"
_MOST_TOKEN = 65_536
# Where a container's credentials may be asked for in plain text, beside loopback addresses.
_CONTAINER_HOSTS = frozenset(("169.254.170.2", "169.254.170.23", "fd00:ec2::23", "localhost"))
_ROLES = "/latest/meta-data/iam/security-credentials/"


def environment(environ: Mapping[str, str]) -> Keys | None:
    """What the variables say, None if they say nothing."""
    access, secret = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
    if not access:
        return None
    if not secret:
        raise ConfigError(
            "AWS_ACCESS_KEY_ID is set, but AWS_SECRET_ACCESS_KEY is not.",
            hint="Set both, or neither, so that other sources of AWS credentials are used.",
        )
    token = environ.get("AWS_SECURITY_TOKEN") or environ.get("AWS_SESSION_TOKEN") or None
    ends = environ.get("AWS_CREDENTIAL_EXPIRATION")
    try:
        return Keys(access, secret, token, _moment(ends) if ends else None)
    except ValueError:
        raise ConfigError(
            "AWS_CREDENTIAL_EXPIRATION is not a time.", hint="Write it as 2030-01-31T12:00:00Z."
        ) from None


def names_container(environ: Mapping[str, str]) -> bool:
    return bool(
        environ.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
        or environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI")
    )


def container(environ: Mapping[str, str]) -> Keys:
    """From the agent of ECS, or of EKS Pod Identity."""
    relative = environ.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
    url = CONTAINER + relative if relative else environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"]
    _check_container(url)
    headers = {"Accept": "application/json"}
    file = environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
    token = (
        _read(file, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
        if file
        else environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN")
    )
    if token:
        if "\r" in token or "\n" in token or not token.isascii():
            raise ConfigError(
                "The authorization token for the container's AWS credentials has more than one line.",
                hint="Look at AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE (or …_TOKEN).",
            )
        headers["Authorization"] = token
    answer = _ask("GET", url, headers, environ, _NEAR, "the container's endpoint for AWS credentials")
    if answer.status != 200:
        raise _of_status(
            answer.status,
            f"the container's endpoint for AWS credentials answered with status {answer.status}",
            "Give the task or the pod's service account a role, and look into the agent's log.",
        )
    return _keys(answer, "the container's endpoint for AWS credentials")


def _check_container(url: str) -> None:
    """The rule of AWS's SDKs, so that a variable that somebody has slipped in sends no token elsewhere."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        parts, host = urlsplit(""), ""
    try:
        near = ipaddress.ip_address(host).is_loopback
    except ValueError:
        near = False
    plain = parts.scheme == "http" and (near or host in _CONTAINER_HOSTS)
    if not host or not (plain or parts.scheme == "https"):
        raise ConfigError(
            "The URL for the container's AWS credentials leads to a host that is not allowed.",
            hint="AWS_CONTAINER_CREDENTIALS_FULL_URI needs https, a loopback address, or one of AWS's own.",
        )


def names_web_identity(environ: Mapping[str, str]) -> bool:
    return bool(environ.get("AWS_WEB_IDENTITY_TOKEN_FILE"))


def web_identity(environ: Mapping[str, str], region: str | None) -> Keys:
    """From STS, for the token that Kubernetes gives to a pod (IRSA)."""
    role = environ.get("AWS_ROLE_ARN")
    if not role:
        raise ConfigError(
            "AWS_WEB_IDENTITY_TOKEN_FILE is set, but AWS_ROLE_ARN is not.",
            hint="Annotate the service account with eks.amazonaws.com/role-arn.",
        )
    form = {
        "Action": "AssumeRoleWithWebIdentity",
        "Version": "2011-06-15",
        "RoleArn": role,
        "RoleSessionName": environ.get("AWS_ROLE_SESSION_NAME") or "pgambassador",
        "WebIdentityToken": _read(environ["AWS_WEB_IDENTITY_TOKEN_FILE"], "AWS_WEB_IDENTITY_TOKEN_FILE"),
    }
    url = service_url("sts", region, environ)
    headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
    answer = _ask("POST", url, headers, environ, _FAR, f"AWS STS ({url})", urlencode(form).encode())
    if answer.status != 200:
        raise _refused_role(role, answer)
    fields = {name: _element(answer.body, name) for name in ("AccessKeyId", "SecretAccessKey")}
    fields |= {"Token": _element(answer.body, "SessionToken")}
    fields |= {"Expiration": _element(answer.body, "Expiration")}
    return _keys_of(fields, f"AWS STS ({url})")


def _refused_role(role: str, answer: Answer) -> AmbassadorError:
    code = _element(answer.body, "Code") or f"status {answer.status}"
    if code == "IDPCommunicationError":
        return _of_status(
            500, f"AWS STS could not reach the issuer of the pod's token ({code})", "Try again."
        )
    hints = {
        "AccessDenied": "Its trust policy must name the cluster's OIDC provider and this service account.",
        "ExpiredTokenException": "Check the clock here, and that Kubernetes renews the token's file.",
        "InvalidIdentityToken": "Create the cluster's IAM OIDC provider, for the audience sts.amazonaws.com.",
        "RegionDisabledException": "Activate STS for this region, or set AWS_REGION to another.",
    }
    hint = hints.get(code, "Check AWS_ROLE_ARN and the role's trust policy.")
    return _of_status(answer.status, f"AWS STS refused the role {role} ({code})", hint)


def instance(environ: Mapping[str, str]) -> Keys:
    """From the metadata service of EC2, version 2 only: a token, with it the role, then its credentials."""
    base = environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or (
        INSTANCE_IPV6
        if environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "").lower() == "ipv6"
        else INSTANCE
    )
    base = base.rstrip("/")
    lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": _TOKEN_LIFE}
    try:
        answer = ask("PUT", f"{base}/latest/api/token", lifetime, seconds=_NEAR)
    except NoAnswer as failure:
        raise Unreachable(
            "no AWS credentials: no variables, no container role, and no instance metadata service"
            f" ({failure})",
            hint="Give the pod, task or instance a role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY;"
            " in a container on EC2 the instance's http-put-response-hop-limit has to be 2.",
        ) from None
    if answer.status != 200:
        raise _of_status(
            answer.status,
            f"the instance metadata service gave no token (status {answer.status})",
            "Enable it for the instance (modify-instance-metadata-options --http-endpoint enabled).",
        )
    headers = {"X-aws-ec2-metadata-token": answer.body.decode("ascii", "replace").strip()}
    if not re.fullmatch(r"[!-~]+", headers["X-aws-ec2-metadata-token"]):
        raise _odd("the instance metadata service")
    role = _metadata(base, _ROLES, headers).body.decode("utf-8", "replace").strip().partition("\n")[0]
    return _keys(_metadata(base, _ROLES + quote(role), headers), "the instance metadata service")


def _metadata(base: str, path: str, headers: Mapping[str, str]) -> Answer:
    answer = _ask("GET", base + path, headers, {}, _NEAR, "the instance metadata service")
    if answer.status == 404:
        raise ConfigError(
            "This instance has no IAM role.", hint="Attach an instance profile, or set AWS_ACCESS_KEY_ID."
        )
    if answer.status != 200:
        raise _of_status(
            answer.status,
            f"the instance metadata service answered with status {answer.status}",
            "Look at the instance's IAM role.",
        )
    return answer


def _ask(
    method: str,
    url: str,
    headers: Mapping[str, str],
    environ: Mapping[str, str],
    seconds: float,
    who: str,
    body: bytes | None = None,
) -> Answer:
    try:
        return ask(method, url, headers, body, seconds=seconds, roots=environ.get("AWS_CA_BUNDLE") or None)
    except NoAnswer as failure:
        raise Unreachable(
            f"no AWS credentials from {who}: {failure}",
            hint="Check the network on the way there, and the variables that begin with AWS_.",
        ) from None


def _of_status(status: int, message: str, hint: str) -> AmbassadorError:
    """Too many questions and a server's own trouble pass by; the rest stays until somebody repairs it."""
    if status == 429 or status >= 500:
        return Unreachable(message, hint=hint)
    return ConfigError(f"{message[0].upper()}{message[1:]}.", hint=hint)


def _keys(answer: Answer, who: str) -> Keys:
    try:
        fields = json.loads(answer.body)
    except ValueError:
        raise _odd(who) from None
    if not isinstance(fields, dict):
        raise _odd(who)
    code = fields.get("Code", "Success")
    if code != "Success":
        shown = code if isinstance(code, str) and re.fullmatch(r"[\w.-]{1,64}", code) else "no reason given"
        raise ConfigError(
            f"{who[0].upper()}{who[1:]} has no credentials ({shown}).",
            hint="Check the role and its trust policy.",
        )
    return _keys_of(fields, who)


def _keys_of(fields: Mapping[str, Any], who: str) -> Keys:
    try:
        found = [fields[name] for name in ("AccessKeyId", "SecretAccessKey", "Token", "Expiration")]
        if not all(isinstance(each, str) and each for each in found):
            raise ValueError
        return Keys(found[0], found[1], found[2], _moment(found[3]))
    except (KeyError, ValueError):
        raise _odd(who) from None


def _odd(who: str) -> Unreachable:
    return Unreachable(
        f"no AWS credentials from {who}: its answer is not understood", hint="Look what it is."
    )


def _moment(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _element(body: bytes, name: str) -> str | None:
    """The text of an XML element of STS, whose texts have no markup inside."""
    found = re.search(rf"<{name}>([^<]*)</{name}>".encode(), body)
    if found is None:
        return None
    text = found[1].decode("utf-8", "replace").strip()
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&amp;", "&")


def _read(path: str, variable: str) -> str:
    try:
        text = content(path, _MOST_TOKEN).decode("ascii").strip()
        if not text:
            raise ValueError
        return text
    except OSError as error:
        why = reason(error)
    except ValueError:
        why = "it does not hold a token"
    raise ConfigError(
        f"The file {path}, which {variable} names, cannot be used: {why}.",
        hint="Mount the service account's token there, readable for this process.",
    )
