"""`aws-dsql`: tokens of IAM as passwords for Aurora DSQL.

They are signed with an action instead of the user: DbConnectAdmin for `admin`, DbConnect for everybody else.
"""

from __future__ import annotations

from collections.abc import Mapping

from pgambassador.config.aws import AwsDsqlCredentials
from pgambassador.credentials.aws.iam import Place, Signer, no_region
from pgambassador.credentials.aws.partitions import dsql_region, plain, region_of
from pgambassador.credentials.provider import Login
from pgambassador.errors import ConfigError

ADMIN = "admin"
REMEDY = (
    "Check that a policy allows dsql:DbConnect (for admin dsql:DbConnectAdmin), that AWS IAM GRANT ties the"
    " role to the user, that the clock here is right, and that the URL (or credentials.host) has the name of"
    " the cluster itself."
)


class Dsql(Signer[AwsDsqlCredentials]):
    """The provider."""

    remedy = REMEDY
    service = "dsql"

    def place(self, login: Login) -> Place:
        return place(self._options, login, self._environ)

    def query(self, login: Login) -> Mapping[str, str]:
        return {"Action": "DbConnectAdmin" if login.user == ADMIN else "DbConnect"}


def place(options: AwsDsqlCredentials, login: Login, environ: Mapping[str, str]) -> Place:
    host = plain(options.host or login.host)
    found = dsql_region(host)
    if options.host is None and found is None:
        raise ConfigError(
            f"{login.host} is not the name of an Aurora DSQL cluster, for which a token is signed.",
            hint="Write the cluster's own name as the host of the URL (hostaddr=… says where to connect"
            " instead), or set credentials.host.",
        )
    region = region_of(options.region, found, environ)
    if region is None:
        raise no_region(host)
    return Place(host, None, region)
