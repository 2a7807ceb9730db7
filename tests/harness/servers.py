"""The users and rules of the servers under test: one user for each way to log in."""

from __future__ import annotations

from dataclasses import dataclass

from pgambassador.embedded import Postgres

LONG = "a cloud token is long; " * 450  # 10 kB
DATABASE = "app"


@dataclass(frozen=True)
class User:
    name: str
    password: str
    method: str
    encryption: str = "scram-sha-256"
    plain: bool = False
    """May come without TLS."""


USERS = {
    user.name: user
    for user in (
        User("app", "app-secret", "scram-sha-256"),
        User("app_plain", "plain-secret", "scram-sha-256", plain=True),
        User("app_md5", "md5-secret", "md5", encryption="md5"),
        User("app_cleartext", "cleartext-secret", "password"),
        User("app_long", LONG, "scram-sha-256"),
        User("app_token", LONG, "password"),
        User("app_cert", "", "cert"),
        User("app_trust", "", "trust"),
    )
}
HBA = (
    "local all postgres scram-sha-256",
    "local all all scram-sha-256",
    "hostssl all postgres all scram-sha-256",
    *(
        f"{'host' if user.plain else 'hostssl'} {DATABASE} {user.name} all {user.method}"
        for user in USERS.values()
    ),
)


def populate(server: Postgres) -> None:
    """The users, and the database that belongs to `app`."""
    roles = "\n".join(
        f"set password_encryption = '{user.encryption}';"
        f"create role {user.name} login password {_literal(user.password) if user.password else 'null'};"
        for user in USERS.values()
    )
    server.sql(
        f"""
        set client_min_messages = error;
        {roles}
        create database {DATABASE} owner app;
        \\connect {DATABASE}
        grant all on schema public to public;
        """
    )


def several(*servers: Postgres, user: str = "app") -> str:
    """A URL of several hosts."""
    first, *rest = [f"127.0.0.1:{server.port}" for server in servers]
    url = servers[0].url(user, USERS[user].password, "app")
    return url.replace(first, ",".join((first, *rest)))


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
