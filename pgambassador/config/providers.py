"""The providers of server passwords as frozen structs, told apart by `provider`.

1. One of ours is a struct here, a name in `Credentials`, and the same line in pyproject.toml.
2. `maker` is where the provider itself is ("module:name"); it is imported only when it is configured.
3. Ours win over those that other packages install, so that none of these can put itself into their place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

from msgspec import Meta

from pgambassador.config.aws import AwsDsqlCredentials, AwsRdsIamCredentials, AwsSecretsManagerCredentials
from pgambassador.config.azure import AzureEntra
from pgambassador.config.common import Common
from pgambassador.config.gcp import GcpAlloyDb, GcpCloudSqlIam
from pgambassador.config.secret import Secret

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "pgambassador.credentials"
"""The entry points by which other packages add providers."""
INSTALLED = "*"
"""The tag of what is not ours."""


class StaticCredentials(Common, frozen=True, tag="static"):
    """A password written down; it takes precedence over one in the URL."""

    maker: ClassVar[str] = "pgambassador.credentials.static:Static"
    password: Annotated[Secret, Meta(description="The password for the server.")]


class EnvCredentials(Common, frozen=True, tag="env"):
    """A password in an environment variable."""

    maker: ClassVar[str] = "pgambassador.credentials.environ:Environ"
    variable: Annotated[str, Meta(min_length=1, description="The variable's name.")]


class FileCredentials(Common, frozen=True, tag="file"):
    """A password in a file, which is read for each new connection."""

    maker: ClassVar[str] = "pgambassador.credentials.file:File"
    path: Annotated[str, Meta(min_length=1, description="The file.")]
    format: Annotated[
        Literal["password", "pgpass"],
        Meta(description="password: nothing but the password; pgpass: lines as in libpq's password file."),
    ] = "password"


class ExecCredentials(Common, frozen=True, tag="exec"):
    """A command that prints the secret, or JSON with user, password and expires_at."""

    maker: ClassVar[str] = "pgambassador.credentials.command:Command"
    command: Annotated[
        tuple[str, ...], Meta(min_length=1, description="The program and its arguments; no shell.")
    ]


class InstalledCredentials(Common, frozen=True, tag=INSTALLED):
    """A provider of another package. What its options mean, and which are secret, is its own affair."""

    name: str
    options: dict[str, Any]

    def __repr__(self) -> str:
        return f"InstalledCredentials(name={self.name!r})"


Credentials = (
    StaticCredentials
    | EnvCredentials
    | FileCredentials
    | ExecCredentials
    | AwsRdsIamCredentials
    | AwsDsqlCredentials
    | AwsSecretsManagerCredentials
    | GcpCloudSqlIam
    | GcpAlloyDb
    | AzureEntra
    | InstalledCredentials
)

OURS: dict[str, type[Common]] = {
    str(kind.__struct_config__.tag): kind
    for kind in get_args(Credentials)
    if kind is not InstalledCredentials
}


def name_of(credentials: Credentials) -> str:
    """The provider's name, as it is written in the file."""
    if isinstance(credentials, InstalledCredentials):
        return credentials.name
    return str(credentials.__struct_config__.tag)


def installed() -> dict[str, EntryPoint]:
    """The providers of other packages by name. Looks through all that is installed, which takes a while."""
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in entry_points(group=GROUP) if entry.name not in OURS}
