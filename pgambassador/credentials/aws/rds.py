"""`aws-rds-iam`: tokens of IAM as passwords for RDS, Aurora and RDS Proxy.

1. A token is good for one endpoint, port and user.
2. The server compares the endpoint's name with its own, so a name that cannot be one is refused beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping

from pgambassador.config.aws import AwsRdsIamCredentials
from pgambassador.credentials.aws.iam import Place, Signer, no_region
from pgambassador.credentials.aws.partitions import plain, rds_region, region_of
from pgambassador.credentials.provider import Login
from pgambassador.errors import ConfigError

REMEDY = (
    "Check that the user has rds_iam (GRANT rds_iam TO it), that a policy allows rds-db:connect for it, that"
    " the clock here is right, and that the URL (or credentials.host) has the endpoint's own name."
)
"""For a token that a server refuses with 28000 or 28P01 ("PAM authentication failed"): it says no more."""


class RdsIam(Signer[AwsRdsIamCredentials]):
    """The provider."""

    remedy = REMEDY
    service = "rds-db"

    def place(self, login: Login) -> Place:
        return place(self._options, login, self._environ)

    def query(self, login: Login) -> Mapping[str, str]:
        return {"Action": "connect", "DBUser": login.user}


def place(options: AwsRdsIamCredentials, login: Login, environ: Mapping[str, str]) -> Place:
    host = plain(options.host or login.host)
    found = rds_region(host)
    if options.host is None and found is None and not _is_global(host):
        raise ConfigError(
            f"{login.host} is not the name of an RDS endpoint, for which a token is signed.",
            hint="Write the endpoint's own name as the host of the URL (hostaddr=… says where to connect"
            " instead), or set credentials.host, and credentials.port if a tunnel has another.",
        )
    region = region_of(options.region, found, environ)
    if region is None:
        raise no_region(host)
    return Place(host, options.port or login.port, region)


def _is_global(host: str) -> bool:
    """A writer of an Aurora global database: its name is an endpoint's, but of no region."""
    return host.endswith(".global.rds.amazonaws.com")
