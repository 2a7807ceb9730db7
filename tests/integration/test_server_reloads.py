"""A server reads its configuration again while clients of a pool are there: each is told what is new."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pgambassador.embedded import Postgres, Workspace
from tests.harness import HBA, USERS, Ambassador, Wire, populate, wait_until

PASSWORD = USERS["app"].password


@pytest.fixture(scope="module")
def server(workspace: Workspace) -> Postgres:
    made = workspace.primary("rereads", {"timezone": "UTC"}, hba=HBA)
    populate(made)
    return made


def reads_again(server: Postgres, zone: str) -> None:
    server.configure({"timezone": zone})
    server.sql("select pg_reload_conf()")
    wait_until(lambda: server.sql("show timezone") == zone, "a new connection has it")


def is_asked(server: Postgres) -> None:
    """Wait until the pool's connection is, though no client does."""
    last = "select max(query_start) from pg_stat_activity where usename = 'app'"
    before = server.sql(last)
    wait_until(lambda: server.sql(last) != before, "it is asked by us")


@pytest.mark.parametrize("overheard", [False, True])
def test_each_client_is_told(
    ambassador: Callable[..., Ambassador], server: Postgres, overheard: bool
) -> None:
    """Also if a question of ours is what the server says it behind, and if it becomes what it was before."""
    reads_again(server, "UTC")
    proxy = ambassador({"clusters": {"main": {"url": server.url("app", PASSWORD, "app")}}}, pool={"size": 1})
    with Wire.session(proxy.port) as one, Wire.session(proxy.port) as two, Wire.session(proxy.port) as three:
        clients = (one, two, three)
        for zone in ("Asia/Tokyo", "UTC", "Asia/Tokyo"):
            for client in clients:
                client.ask("select 1")
            reads_again(server, zone)
            if overheard:
                is_asked(server)
            for client in clients:
                answer = client.ask("show timezone")
                assert (answer.value, answer.parameters) == (zone, {"TimeZone": zone})
                assert client.ask("select 1").parameters == {}
