"""The configuration: typed structs, and all sources into them."""

from pgambassador.config.address import Address
from pgambassador.config.load import load
from pgambassador.config.providers import (
    Credentials,
    EnvCredentials,
    ExecCredentials,
    FileCredentials,
    InstalledCredentials,
    StaticCredentials,
)
from pgambassador.config.secret import Secret, redact
from pgambassador.config.structs import (
    Auth,
    Clients,
    Cluster,
    Config,
    Database,
    Log,
    Pool,
    PoolOverrides,
    QueryLog,
    Target,
)
from pgambassador.config.users import read_users

__all__ = [
    "Address",
    "Auth",
    "Clients",
    "Cluster",
    "Config",
    "Credentials",
    "Database",
    "EnvCredentials",
    "ExecCredentials",
    "FileCredentials",
    "InstalledCredentials",
    "Log",
    "Pool",
    "PoolOverrides",
    "QueryLog",
    "Secret",
    "StaticCredentials",
    "Target",
    "load",
    "read_users",
    "redact",
]
