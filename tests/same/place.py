"""A server that clients reach directly, and ambassadors in front of it, one for each kind of pool."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
import pytest
from psycopg import Connection, sql

from pgambassador.embedded import Postgres
from tests.harness import Ambassador, wait_until

# Plain text for those who come directly, so that the same client can be used.
HBA = ("local all postgres scram-sha-256", "hostssl all postgres all scram-sha-256", "host all app all trust")
ROLES = """
create role app login;
create role clerk;
grant clerk to app;
"""
CLEAN = """
drop owned by app cascade;
drop table if exists items;
create table items (id int primary key, name text not null, price numeric(8,2));
insert into items select i, 'item ' || i, i * 1.5 from generate_series(1, 10) i;
grant all on items to app;
grant select on items to clerk;
grant create on schema public to app;
do $$ begin execute format('grant all on database %I to app', current_database()); end $$;
"""


@dataclass(frozen=True)
class Kind:
    """Of a pool. `whole`: clients say all in one write before they wait; otherwise each message by itself."""

    mode: str
    size: int

    @property
    def whole(self) -> bool:
        return self.size == 1

    @property
    def statements(self) -> int:
        """How many a server connection keeps."""
        return 2 if self.size == 1 else 100

    def __str__(self) -> str:
        return f"{self.mode} pool of {self.size}"


KINDS = [Kind(mode, size) for mode in ("transaction", "session") for size in (1, 4)]


class Place:
    """Where conversations are held: directly or through an ambassador."""

    def __init__(self, server: Postgres, superuser: Connection, folders: pytest.TempPathFactory) -> None:
        self.server = server
        self.fronts: dict[Kind, Ambassador] = {}
        self._superuser = superuser
        self._folders = folders
        self._count = 0
        superuser.execute(ROLES)
        superuser.execute(f"create database {self._name}")

    @property
    def _name(self) -> str:
        return _numbered(self._count)

    def port(self, kind: Kind | None) -> int:
        return self.server.port if kind is None else self.front(kind).port

    def front(self, kind: Kind) -> Ambassador:
        if kind not in self.fronts:
            self.fronts[kind] = Ambassador(
                self._folders.mktemp("ambassador"),
                self.server.url("app", None, ""),
                pool={
                    "mode": kind.mode,
                    "size": kind.size,
                    "statements": kind.statements,
                    "wait_notice": "off",
                },
            )
            self.fronts[kind].start()
        return self.fronts[kind]

    def database(self, more: str = "") -> str:
        """With the tables that scripts may use (and `more`) and nothing else, under a name that no ambassador
        knows, so that nothing of the last conversation is in its pool. To make a new one takes longer."""
        self._leave()
        with psycopg.connect(self.server.url(database=self._name), autocommit=True) as inside:
            for (prepared,) in inside.execute("select gid from pg_prepared_xacts").fetchall():
                inside.execute(sql.SQL("rollback prepared {}").format(prepared))
            inside.execute(CLEAN + more)
        wait_until(self._renamed, "another name of the database")
        return self._name

    def _renamed(self) -> bool:
        """An ambassador that was to ask about functions, and has lost its connection by `_leave`, may just be
        opening another one, which nobody sees yet; it keeps the database in use when it is there."""
        self._leave()
        try:
            self._superuser.execute(f"alter database {self._name} rename to {_numbered(self._count + 1)}")
        except psycopg.errors.ObjectInUse:
            return False
        self._count += 1
        return True

    def _leave(self) -> None:
        """Nobody is connected any more."""

        def alone() -> bool:
            there = self._superuser.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (self._name,)
            )
            return not there.fetchall()

        wait_until(alone, "the end of all sessions", poll=0.001)

    def close(self) -> None:
        for process in self.fronts.values():
            assert process.stop() == 0, process.output()[-4000:]
            assert "Traceback" not in process.output(), process.output()[-4000:]


def _numbered(count: int) -> str:
    return f"same_{count:06}"
