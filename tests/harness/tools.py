"""PostgreSQL's own tools, on a database with a bit of everything."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from pgambassador.embedded import Postgres
from pgambassador.embedded.ports import HOST
from tests.harness.ambassador import Ambassador

SHOP = r"""
create type mood as enum ('sad', 'it''s ok', 'happy');
create domain price as numeric(12, 2) check (value >= 0);
create table customers (
    id int primary key generated always as identity, name text not null unique, feels mood default 'sad',
    spent price, tags text[], extra jsonb, picture bytea);
create table orders (
    id bigserial primary key, customer int references customers on delete cascade, at timestamptz, note text);
create table parts (id int, region text) partition by list (region);
create table parts_north partition of parts for values in ('north');
create table parts_rest partition of parts default;
create index orders_at on orders (at) where note is not null;
create view open_orders as select c.name, o.* from orders o join customers c on c.id = o.customer;
create materialized view totals as select customer, count(*) from orders group by customer;
create function bump() returns trigger language plpgsql as
    $$ begin new.note := coalesce(new.note, 'none \ $1'); return new; end $$;
create trigger bumps before insert on orders for each row execute function bump();
comment on table customers is E'who buys\n-- "and" pays';
insert into customers (name, feels, spent, tags, extra, picture)
    select 'Name ' || n || E'\t\\ \n' || chr(8364), 'it''s ok', n / 7.0, array['a,"', null, n::text],
        jsonb_build_object('n', n, 'x', null), decode(md5(n::text), 'hex')
    from generate_series(1, 2000) n;
insert into orders (customer, at, note)
    select 1 + n % 2000, '2024-01-01 UTC'::timestamptz + n * interval '1 minute',
        nullif(repeat('é', n % 5), '')
    from generate_series(1, 5000) n;
insert into parts select n, (array['north', 'south', null])[1 + n % 3] from generate_series(1, 90) n;
refresh materialized view totals;
select lo_from_bytea(70000 + n, decode(repeat(md5(n::text), 200), 'hex')) from generate_series(1, 5) n;
cluster customers using customers_pkey;
"""
LARGE = "select count(*), sum(hashtext(encode(lo_get(oid), 'hex'))) from pg_largeobject_metadata"


@dataclass(frozen=True)
class Tools:
    """Of the server's own version; each goes through an ambassador, or (None) directly."""

    server: Postgres
    home: Path

    def run(
        self,
        through: Ambassador | None,
        program: str,
        *arguments: str,
        stdin: str = "",
        code: int | tuple[int, ...] = 0,
    ) -> str:
        """What it wrote, errors included."""
        path = self.server.installation.folder / program
        if not path.exists():
            pytest.skip(f"PostgreSQL {self.server.installation.version} in {path.parent} has no {program}")
        done = subprocess.run(
            [path, *arguments],
            env=self.environment(through),
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=45,
            cwd=self.home,
        )
        assert done.returncode in (code if isinstance(code, tuple) else (code,)), (
            program,
            done.returncode,
            done.stdout[-2000:],
        )
        return done.stdout

    def environment(self, through: Ambassador | None) -> dict[str, str]:
        ours = {"PGHOST": HOST, "PGUSER": "postgres", "PGDATABASE": "shop", "HOME": str(self.home)}
        if through is not None:
            ours |= {"PGPORT": str(through.port)}
        else:
            ours |= {"PGPORT": str(self.server.port), "PGPASSWORD": self.server.password}
            ours |= {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": str(self.server.authority.root)}
        return self.server.installation.environment(PGCONNECT_TIMEOUT="20", **ours)

    def psql(self, through: Ambassador | None, script: str, *arguments: str) -> str:
        return self.run(through, "psql", "-X", "-q", *arguments, stdin=script)

    def make(self, name: str) -> None:
        self.drop(name)
        self.server.sql(f"create database {name}")

    def drop(self, name: str) -> None:
        self.server.sql(f"set client_min_messages = error; drop database if exists {name} with (force)")

    def shop(self) -> None:
        """Make it, or make it anew."""
        self.make("shop")
        self.server.sql(SHOP, database="shop")

    def ask(self, sql: str, database: str = "shop") -> str:
        return self.server.sql(sql, database=database)


def same_text(dump: str) -> str:
    """Without the key that each run of pg_dump invents, and an archive's time and database."""
    return re.sub(r"^(\\(un)?restrict|; *Archive created at|; *dbname:) .*$", "", dump, flags=re.MULTILINE)
