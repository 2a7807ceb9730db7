"""What the providers of Google Cloud are told: whose identity to use, and which instance."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from pgambassador.config.common import Common
from pgambassador.config.secret import Secret
from pgambassador.config.values import Duration
from pgambassador.errors import ConfigError

IpType = Literal["public", "private", "psc"]

# A project may have a domain in front: example.com:project.
_CLOUD_SQL = re.compile(r"((?:[a-z0-9.-]{1,128}:)?[a-z0-9-]{1,64}):([a-z0-9-]{1,64}):([a-z0-9-]{1,128})")
_ALLOYDB = re.compile(
    r"projects/(?:[a-z0-9.-]{1,128}:)?[a-z0-9-]{1,64}/locations/[a-z0-9-]{1,64}"
    r"/clusters/[a-z0-9-]{1,128}/instances/[a-z0-9-]{1,128}"
)
_EMAIL = re.compile(r"[A-Za-z0-9._-]{1,128}@[A-Za-z0-9.-]{1,128}")


class _Google(Common, frozen=True, kw_only=True):
    """As whom Google is asked, and for how long."""

    user: Annotated[
        str | None,
        Meta(description="The database user; left out: the service account's, for a person the URL's."),
    ] = None
    credentials_file: Annotated[
        str | None,
        Meta(description="A JSON file with Google credentials; left out: the ones that the machine has."),
    ] = None
    impersonate_service_account: Annotated[str | None, Meta(description="The service account to act as.")] = (
        None
    )
    impersonate_delegates: Annotated[
        tuple[str, ...],
        Meta(description="Service accounts on the way to it; the first is the one that we may impersonate."),
    ] = ()
    timeout: Annotated[Duration, Meta(description="All questions to Google together take this at most.")] = (
        30.0
    )


class GcpCloudSqlIam(_Google, frozen=True, kw_only=True, tag="gcp-cloudsql-iam"):
    """IAM login to Google Cloud SQL: a token as the password, or with `instance` a client certificate."""

    maker: ClassVar[str] = "pgambassador.credentials.gcp.cloudsql:CloudSql"

    instance: Annotated[
        str | None,
        Meta(description="PROJECT:REGION:INSTANCE; with it the URL names no host, and no network is opened."),
    ] = None
    ip_type: Annotated[IpType, Meta(description="Which address of the instance: public, private or psc.")] = (
        "public"
    )
    password: Annotated[
        Secret | None,
        Meta(description="With `instance`: the password of a user that does not log in by IAM."),
    ] = None

    def check(self) -> None:
        """ConfigError if this cannot be meant."""
        if self.instance is not None:
            cloud_sql_instance(self.instance)
        elif self.password is not None or self.ip_type != "public":
            name = "password" if self.password is not None else "ip_type"
            raise ConfigError(
                f"credentials.{name} needs credentials.instance.",
                hint="Name the instance as PROJECT:REGION:INSTANCE, or leave it out.",
            )
        _check_impersonation(self.impersonate_service_account, self.impersonate_delegates)


class GcpAlloyDb(_Google, frozen=True, kw_only=True, tag="gcp-alloydb"):
    """Google AlloyDB by a client certificate, with IAM login unless there is a password."""

    maker: ClassVar[str] = "pgambassador.credentials.gcp.alloydb:AlloyDb"

    instance: Annotated[
        str,
        Meta(
            description="projects/PROJECT/locations/REGION/clusters/CLUSTER/instances/INSTANCE; the URL names"
            " no host."
        ),
    ]
    ip_type: Annotated[IpType, Meta(description="Which address of the instance: public, private or psc.")] = (
        "private"
    )
    password: Annotated[
        Secret | None, Meta(description="The password of a user that does not log in by IAM.")
    ] = None

    def check(self) -> None:
        """ConfigError if this cannot be meant."""
        if not _ALLOYDB.fullmatch(self.instance):
            raise ConfigError(
                f"credentials.instance cannot be {self.instance[:200]!r}.",
                hint="Write projects/PROJECT/locations/REGION/clusters/CLUSTER/instances/INSTANCE.",
            )
        _check_impersonation(self.impersonate_service_account, self.impersonate_delegates)


def cloud_sql_instance(text: str) -> tuple[str, str, str]:
    """PROJECT:REGION:INSTANCE in its parts, or a ConfigError."""
    match = _CLOUD_SQL.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"credentials.instance cannot be {text[:200]!r}.",
            hint="Write PROJECT:REGION:INSTANCE, as `gcloud sql instances describe` shows it"
            " under connectionName.",
        )
    return match[1], match[2], match[3]


def _check_impersonation(target: str | None, delegates: tuple[str, ...]) -> None:
    if delegates and target is None:
        raise ConfigError(
            "credentials.impersonate_delegates needs credentials.impersonate_service_account.",
            hint="Name the service account at the end of the chain.",
        )
    for email in (*((target,) if target is not None else ()), *delegates):
        if not _EMAIL.fullmatch(email):
            raise ConfigError(
                f"A service account to impersonate cannot be {email[:100]!r}.",
                hint="Write its email address, NAME@PROJECT.iam.gserviceaccount.com.",
            )
