"""`aws-dsql`: tokens of IAM as passwords for Aurora DSQL.

They are signed like those of RDS (see there) with an action instead of the user: DbConnectAdmin for `admin`,
DbConnect for everybody else.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from pgambassador.config.aws import AwsDsqlCredentials
from pgambassador.credentials.aws import sigv4
from pgambassador.credentials.aws.partitions import default_region, dsql_region, plain
from pgambassador.credentials.aws.rds import end, no_region
from pgambassador.credentials.aws.wallet import Wallet
from pgambassador.credentials.provider import Login, Secret
from pgambassador.errors import ConfigError

ADMIN = "admin"
REMEDY = (
    "Check that a policy allows dsql:DbConnect (for admin dsql:DbConnectAdmin), that AWS IAM GRANT ties the"
    " role to the user, that the clock here is right, and that the URL (or credentials.host) has the name of"
    " the cluster itself."
)


class Dsql:
    """The provider."""

    per_host = True
    window = 0.0
    remedy = REMEDY

    def __init__(self, options: AwsDsqlCredentials, environ: Mapping[str, str] = os.environ) -> None:
        self._options = options
        self._environ = environ
        self._wallet = Wallet(options, environ)

    async def fetch(self, login: Login) -> Secret:
        host, region = place(self._options, login, self._environ)
        keys = await self._wallet.keys(region)
        now = time.time()
        token = sigv4.presign(
            keys,
            service="dsql",
            region=region,
            host=host,
            port=None,
            query={"Action": "DbConnectAdmin" if login.user == ADMIN else "DbConnect"},
            now=now,
        )
        return Secret(None, token.encode(), end(keys, now))


def place(options: AwsDsqlCredentials, login: Login, environ: Mapping[str, str]) -> tuple[str, str]:
    """The cluster's name and region, which a token is signed for."""
    host = plain(options.host or login.host)
    found = dsql_region(host)
    if options.host is None and found is None:
        raise ConfigError(
            f"{login.host} is not the name of an Aurora DSQL cluster, for which a token is signed.",
            hint="Write the cluster's own name as the host of the URL (hostaddr=… says where to connect"
            " instead), or set credentials.host.",
        )
    region = options.region or found or default_region(environ)
    if region is None:
        raise no_region(host)
    return host, region
