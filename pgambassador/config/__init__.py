"""The configuration: typed structs, and all sources into them."""

from pgambassador.config.address import Address
from pgambassador.config.auth import Auth, AuthQuery
from pgambassador.config.checks import warnings
from pgambassador.config.load import load
from pgambassador.config.providers import (
    Credentials,
    EnvCredentials,
    ExecCredentials,
    FileCredentials,
    InstalledCredentials,
    StaticCredentials,
)
from pgambassador.config.reload import compare
from pgambassador.config.secret import Secret, redact
from pgambassador.config.structs import (
    EVERY_OTHER,
    Clients,
    Cluster,
    Config,
    Database,
    Log,
    Pool,
    PoolOverrides,
    QueryLog,
    Target,
    Tls,
    User,
)
from pgambassador.config.timeouts import Allowance, Timeouts
from pgambassador.config.users import read_users

__all__ = [
    "EVERY_OTHER",
    "Address",
    "Allowance",
    "Auth",
    "AuthQuery",
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
    "Timeouts",
    "Tls",
    "User",
    "compare",
    "load",
    "read_users",
    "redact",
    "warnings",
]
