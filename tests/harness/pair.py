"""Two servers of which each can be the primary, behind links that can break; the roles change hands."""

from __future__ import annotations

import contextlib
import time
from typing import Self

import psycopg
from psycopg import Connection

from pgambassador.embedded import Postgres, Workspace
from pgambassador.embedded.ports import HOST
from tests.harness.faults import thaw
from tests.harness.ledger import CREATE
from tests.harness.packets import Cable
from tests.harness.servers import HBA, USERS, populate
from tests.harness.waiting import wait_until


class Pair:
    """`primary` and `standby` are servers, `links` the way to each."""

    def __init__(self, workspace: Workspace, name: str, **settings: str) -> None:
        name = f"{name}-{len(workspace.servers)}"  # those that were stopped count too
        self.primary = workspace.primary(
            f"{name}-one", {"wal_log_hints": "on", "full_page_writes": "on", **settings}, hba=HBA
        )
        populate(self.primary)
        self.primary.sql("grant pg_read_all_stats to app")
        self.primary.sql(f"alter system set primary_conninfo = '{conninfo(self.primary)}'")
        self.standby = self.primary.replica(f"{name}-two")
        self._killed = False
        self.links = {server: Cable(server.port) for server in (self.primary, self.standby)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for link in self.links.values():
            link.close()
        for server in self.links:
            with contextlib.suppress(ProcessLookupError):
                thaw(server)
            server.stop(immediate=True)

    def url(self, **parameters: str) -> str:
        """Of both, through the links."""
        first, second = (f"{HOST}:{link.port}" for link in self.links.values())
        server = next(iter(self.links))
        url = server.url("app", USERS["app"].password, "app", **parameters)
        return url.replace(f"{HOST}:{server.port}", f"{first},{second}")

    def fresh(self) -> None:
        """An empty table, on both."""
        firsts = "create table if not exists firsts (a int); grant all on firsts to app;"
        self.primary.sql(f"set client_min_messages = error; {CREATE} {firsts}", database="app")
        self.caught_up()

    def found(self) -> list[str]:
        """The keys on the primary."""
        with psycopg.connect(self.primary.url(database="app")) as connection:
            return [key for (key,) in connection.execute("select key from deeds")]

    def caught_up(self) -> None:
        at = self.primary.sql("select pg_current_wal_lsn()")

        def there() -> bool:
            return self.standby.sql(f"select pg_last_wal_replay_lsn() >= '{at}'") == "t"

        wait_until(there, "the standby", deadline=30)

    def synchronous(self, on: bool) -> None:
        """Whether a commit is acknowledged only when the standby has it."""
        self.primary.sql(f"alter system set synchronous_standby_names = '{'*' if on else ''}'")
        self.primary.reload()

        def settled() -> bool:
            state = self.primary.sql("select sync_state from pg_stat_replication")
            return (state == "sync") is on

        wait_until(settled, "the standby's state")

    def down(self, *, kill: bool = False) -> None:
        """The primary is switched off, or dies."""
        self._killed = kill
        if kill:
            self.primary.kill()
        else:
            self.primary.stop()

    def promote(self) -> float:
        """The standby becomes the primary, whatever the primary does. When it took its first write."""
        self.standby.sql("alter system set synchronous_standby_names = ''")
        with psycopg.connect(self.standby.url(database="app"), autocommit=True) as connection:
            connection.execute("select pg_promote(false)")
            at = first_write(connection)
        self.primary, self.standby = self.standby, self.primary
        return at

    def demote(self) -> None:
        """The one that was the primary, and is down, comes back as a standby of the one that is."""
        server, source = self.standby, self.primary
        assert not server.running
        if self._killed:  # it may have written what its standby never saw
            source.sql("checkpoint")
            target = f"--target-pgdata={server.data}"
            server._run("pg_rewind", target, f"--source-server={conninfo(source)} dbname=postgres")
            server.configure({})
            for path in server.data.rglob("*"):
                server._account.give(path)
        with (server.data / "postgresql.auto.conf").open("a") as file:
            file.write(f"primary_conninfo = '{conninfo(source)}'\nsynchronous_standby_names = ''\n")
        mark = server.data / "standby.signal"
        mark.touch()
        server._account.give(mark)
        server.start()
        self.caught_up()


def conninfo(server: Postgres) -> str:
    return (
        f"host={HOST} port={server.port} user=postgres password={server.password}"
        f" sslmode=verify-full sslrootcert={server.authority.root} application_name=other"
    )


def first_write(connection: Connection, deadline: float = 30.0) -> float:
    """When a write past every ambassador succeeds."""

    def written() -> float:
        try:
            connection.execute("insert into firsts values (1)")
        except psycopg.errors.ReadOnlySqlTransaction:
            return 0.0
        return time.monotonic()

    return wait_until(written, "a write past the ambassador", deadline=deadline, poll=0.001)
