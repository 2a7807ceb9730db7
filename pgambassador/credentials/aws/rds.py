"""`aws-rds-iam`: tokens of IAM as passwords for RDS, Aurora and RDS Proxy.

1. A token is signed here, without a question to AWS. It is good for one endpoint, port and user, for fifteen
   minutes at the longest, and not longer than the AWS credentials that signed it.
2. The server compares the endpoint's name with its own, so a name that cannot be one is refused beforehand.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping

from pgambassador.config.aws import AwsRdsIamCredentials
from pgambassador.credentials.aws import sigv4
from pgambassador.credentials.aws.partitions import default_region, plain, rds_region
from pgambassador.credentials.aws.wallet import Wallet
from pgambassador.credentials.provider import Login, Secret
from pgambassador.errors import ConfigError

REMEDY = (
    "Check that the user has rds_iam (GRANT rds_iam TO it), that a policy allows rds-db:connect for it, that"
    " the clock here is right, and that the URL (or credentials.host) has the endpoint's own name."
)
"""For a token that a server refuses with 28000 or 28P01 ("PAM authentication failed"): it says no more."""


class RdsIam:
    """The provider."""

    per_host = True
    window = 0.0
    remedy = REMEDY

    def __init__(self, options: AwsRdsIamCredentials, environ: Mapping[str, str] = os.environ) -> None:
        self._options = options
        self._environ = environ
        self._wallet = Wallet(options, environ)

    async def fetch(self, login: Login) -> Secret:
        host, port, region = place(self._options, login, self._environ)
        keys = await self._wallet.keys(region)
        now = time.time()
        token = sigv4.presign(
            keys,
            service="rds-db",
            region=region,
            host=host,
            port=port,
            query={"Action": "connect", "DBUser": login.user},
            now=now,
        )
        return Secret(None, token.encode(), end(keys, now))


def place(options: AwsRdsIamCredentials, login: Login, environ: Mapping[str, str]) -> tuple[str, int, str]:
    """The endpoint's name, port and region, which a token is signed for."""
    host = plain(options.host or login.host)
    found = rds_region(host)
    if options.host is None and found is None and not _is_global(host):
        raise ConfigError(
            f"{login.host} is not the name of an RDS endpoint, for which a token is signed.",
            hint="Write the endpoint's own name as the host of the URL (hostaddr=… says where to connect"
            " instead), or set credentials.host, and credentials.port if a tunnel has another.",
        )
    region = options.region or found or default_region(environ)
    if region is None:
        raise no_region(host)
    return host, options.port or login.port, region


def no_region(host: str) -> ConfigError:
    return ConfigError(
        f"The name {host} does not tell its AWS region.",
        hint="Set credentials.region, or the variable AWS_REGION.",
    )


def end(keys: sigv4.Keys, now: float) -> float:
    """When a token that was signed now ends."""
    return min(now + sigv4.LIFE, math.inf if keys.not_after is None else keys.not_after)


def _is_global(host: str) -> bool:
    """A writer of an Aurora global database: its name is an endpoint's, but of no region."""
    return host.endswith(".global.rds.amazonaws.com")
