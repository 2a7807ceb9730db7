"""What functions do to their session is known before the first client of a pool comes."""

from __future__ import annotations

from collections.abc import Callable

import psycopg

from pgambassador.embedded import Postgres
from tests.harness import Ambassador

# Functions that mention each other, so that to read them all takes longer than to open another connection.
MANY = """
create function memory() returns int language plpgsql as $$ begin set work_mem = '77MB'; return 1; end $$;
do $d$ begin for i in 1..800 loop
    execute format('create function chain_%s() returns int language plpgsql as
        $x$ begin return chain_%s(); end $x$', i, i + 1);
end loop; end $d$;
create function chain_801() returns int language plpgsql as $$ begin return memory(); end $$;
"""


def test_clients_that_come_together_find_nothing_of_each_other(
    primary: Postgres, observer: psycopg.Connection, ambassador: Callable[..., Ambassador]
) -> None:
    observer.execute("drop database if exists at_the_start")
    observer.execute("create database at_the_start")
    with psycopg.connect(primary.url(database="at_the_start"), autocommit=True) as inside:
        inside.execute(MANY)
    front = ambassador(primary.url(), pool={"size": 4})
    clients = [psycopg.connect(front.dsn(database="at_the_start"), autocommit=True) for _ in range(4)]
    try:
        for client in clients:
            client.pgconn.send_query(b"select memory()")
        for client in clients:
            while client.pgconn.get_result() is not None:
                pass
            client.close()
        clients = [psycopg.connect(front.dsn(database="at_the_start")) for _ in range(4)]
        # Each in a transaction, so that all connections are looked at.
        assert [client.execute("show work_mem").fetchone() for client in clients] == [("4MB",)] * 4
    finally:
        for client in clients:
            client.close()
