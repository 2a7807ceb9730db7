"""Who may connect: the section `auth`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from pgambassador.auth.rules import Rule, for_all, read_databases, read_names, read_places
from pgambassador.config.secret import Secret
from pgambassador.config.values import Names

AuthMethod = Literal["trust", "scram-sha-256", "md5"]
RuleMethod = Literal["trust", "scram-sha-256", "md5", "cert", "peer", "upstream", "reject"]

# Not by rolname alone: `=` and `>` could be somebody's own in a schema of the search_path.
USER_STATEMENT = (
    "select rolname, rolpassword, rolvaliduntil is null or"
    " rolvaliduntil operator(pg_catalog.>) pg_catalog.clock_timestamp()"
    " from pg_catalog.pg_authid where rolcanlogin and rolname operator(pg_catalog.=) $1::pg_catalog.name"
)


class AuthRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whom it matches, and what they have to do."""

    address: Annotated[
        Names, Meta(description="Addresses, networks, `local` (Unix sockets), `loopback` or `all`.")
    ] = ("all",)
    database: Annotated[Names, Meta(description="Names of databases, `all`, or `replication`.")] = ("all",)
    user: Annotated[Names, Meta(description="Names of users, or `all`.")] = ("all",)
    tls: Annotated[bool, Meta(description="Only connections with TLS.")] = False
    method: Annotated[
        RuleMethod, Meta(description="trust, scram-sha-256, md5, cert, peer, upstream or reject.")
    ]

    def compiled(self, path: str) -> Rule:
        """ConfigError where the address is none."""
        databases, physical = read_databases(self.database)
        return Rule(
            self.method,
            read_places(self.address, f"{path}.address"),
            databases,
            read_names(self.user),
            self.tls,
            physical,
        )


class AuthQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Users that a server knows."""

    cluster: Annotated[
        str | None, Meta(description="The cluster that is asked; may be left out if there is only one.")
    ] = None
    database: Annotated[
        str | None, Meta(description="The database; left out: that of the URL, or postgres.")
    ] = None
    user: Annotated[str | None, Meta(description="Who asks; left out: the user of the URL.")] = None
    statement: Annotated[
        str,
        Meta(description="$1 is the name; one row of name, secret, and perhaps whether the user may log in."),
    ] = USER_STATEMENT


class Auth(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who may connect."""

    method: Annotated[
        AuthMethod | None,
        Meta(
            description="trust, scram-sha-256 or md5; left out: scram-sha-256 where there are users, else"
            " trust, which is for loopback and Unix sockets only."
        ),
    ] = None
    rules: Annotated[
        tuple[AuthRule, ...],
        Meta(description="In place of `method`: the first rule that matches counts; none: refused."),
    ] = ()
    users: Annotated[
        dict[str, Secret], Meta(description="User names and their passwords, SCRAM verifiers or md5 hashes.")
    ] = {}
    users_file: Annotated[
        str | None, Meta(description='A file of lines "user" "secret", as in PgBouncer\'s userlist.txt.')
    ] = None
    query: Annotated[
        AuthQuery | None, Meta(description="Asks a server about users who are not in the lists.")
    ] = None
    map: Annotated[
        dict[str, str],
        Meta(description="Who a client has shown to be, and as whom it works on the server."),
    ] = {}

    admins: Annotated[
        tuple[str, ...],
        Meta(min_length=0, description="Users who may use the console from other machines than this."),
    ] = ()

    @property
    def effective_method(self) -> AuthMethod:
        if self.method is not None:
            return self.method
        return "scram-sha-256" if self.users or self.users_file or self.query else "trust"

    def table(self) -> tuple[Rule, ...]:
        """The rules; where none are written, those that have the one method for everybody."""
        if not self.rules:
            return for_all(self.effective_method)
        return tuple(rule.compiled(f"auth.rules[{index}]") for index, rule in enumerate(self.rules))
