"""Answers that are kept, and what takes them away."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import Connection

from pgambassador.embedded import Postgres
from tests.harness import Ambassador, Wire, several, wait_until

SCHEMA = """
drop schema if exists kept cascade; create schema kept; grant all on schema kept to public;
create table kept.t (n int); insert into kept.t values (1); create table kept.u (n int);
insert into kept.u values (1);
alter table kept.t owner to app; alter table kept.u owner to app;
create procedure kept.migrate() language plpgsql as $$ begin
    create or replace function kept.copy() returns trigger language plpgsql
        as 'begin update kept.u set n = new.n; return new; end';
    create or replace trigger copy after update on kept.t for each row execute function kept.copy(); end $$;
create function kept.migrated() returns int language plpgsql as
    $$ begin call kept.migrate(); return 1; end $$;
grant all on all tables in schema kept to public;
"""
READ = "/* pgambassador: cache=1h */ select n from kept.u"


@pytest.fixture
def observer(primary: Postgres) -> Iterator[Connection]:
    with psycopg.connect(primary.url(database="app"), autocommit=True) as connection:
        connection.execute(SCHEMA)
        yield connection
        connection.execute("drop schema kept cascade")


@pytest.fixture
def keeping(primary: Postgres, observer: Connection, ambassador: Callable[..., Ambassador]) -> Ambassador:
    cluster = {"url": several(primary), "routing": {"cache": {"memory": "1MiB"}}}
    made = ambassador({"clusters": {"main": cluster}})
    with Wire.session(made.port) as client:
        now = "/* pgambassador: cache=1h */ select now()"
        wait_until(lambda: client.ask(now).rows == client.ask(now).rows, "answers are kept")
    return made


@pytest.mark.parametrize("how", ["call kept.migrate()", "select kept.migrated()"])
def test_a_trigger_that_is_made_by_a_function(how: str, keeping: Ambassador) -> None:
    """What a function defines is noticed a second later, and nothing that is kept outlives that."""
    with Wire.session(keeping.port) as client:
        assert client.ask(READ).value == "1"
        assert client.ask(how).kinds.endswith("CZ")
        hits = keeping.metrics().total("pgambassador_cache_hits_total")

        def kept() -> bool:
            client.ask(READ)
            return keeping.metrics().total("pgambassador_cache_hits_total") > hits

        wait_until(kept, "the answer is kept")
        assert client.ask("update kept.t set n = 7").kinds == "CZ"
        wait_until(lambda: client.ask(READ).value == "7", "it is noticed")
