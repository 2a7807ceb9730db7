"""psql and pgcli through a small pool in transaction mode say what they say on a direct connection.

Each test runs against PostgreSQL 18 and against the version that the machine has, with the psql of the same
version.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from pgambassador.embedded import Postgres
from tests.harness import Ambassador
from tests.harness.tools import Tools


@pytest.fixture(scope="module", params=["18", "system"])
def tools(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tools]:
    server: Postgres = request.getfixturevalue("primary" if request.param == "18" else "system_postgres")
    tools = Tools(server, tmp_path_factory.mktemp("home"))
    tools.shop()
    yield tools
    tools.drop("shop")


@pytest.fixture(scope="module")
def proxy(tools: Tools, ambassadors: Callable[..., Ambassador]) -> Ambassador:
    return ambassadors(tools.server.url(), pool={"size": 2, "wait_timeout": "20s"})


SCRIPTS = {
    "copy in and out": """
        create table copied (like customers);
        \\copy customers to 'customers.csv' with (format csv, header)
        \\copy copied from 'customers.csv' with (format csv, header)
        select count(*), sum(spent) from copied;
        \\copy (select id, name from copied where id < 4) to stdout
        select count(*) from (table copied except all table customers) x;
        drop table copied;
    """,
    "gdesc": "select 1 as one, now() as n, 'x'::mood as m, null::price[] as p \\gdesc\nselect 2;",
    "bind": "select $1::int + $2, pg_typeof($1) \\bind 40 2 \\g\nselect $1 \\bind 'a b' \\gx\nselect 1;",
    "describe": "\\d\n\\d+ customers\n\\d open_orders\n\\df bump\n\\dT+\n\\dn+\n\\di\n\\d nothing\n\\sf bump",
    "lists": "\\l\n\\du\n\\dx\n\\dconfig work_mem\n\\dL",
    "gexec": """
        select format('create table g%s (a int)', n) from generate_series(1, 3) n
        union all select 'select broken' union all select 'select count(*) from g3' order by 1 \\gexec
        drop table g1, g2, g3;
    """,
    "crosstab": """
        select customer % 3 as "row", extract(dow from at)::int as "column", count(*) from orders
        group by 1, 2 order by 1, 2 \\crosstabview
    """,
    "rolled back on error": """
        \\set ON_ERROR_ROLLBACK on
        create table tried (a int primary key);
        begin;
        insert into tried values (1);
        insert into tried values (1);
        select nonsense;
        insert into tried values (2);
        commit;
        table tried;
        drop table tried;
    """,
    "variables": """
        select count(*) as n, 'it''s' as text from customers \\gset got_
        select :got_n, :'got_text';
        begin;
        \\echo :SERVER_VERSION_NUM :ENCODING
        select 1 / 0;
        \\echo :ERROR :SQLSTATE :LAST_ERROR_MESSAGE :ROW_COUNT
        rollback;
        set client_encoding = 'LATIN1';
        \\encoding
        \\encoding UTF8
        show client_encoding;
    """,
    "timing": "\\timing on\nselect 1;\nselect 1 / 0;\n\\timing off\nselect 2;",
    "fetched in portions": """
        \\set FETCH_COUNT 7
        select id from customers where id < 30 order by id;
        select 1;
    """,
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_psql_says_the_same(tools: Tools, proxy: Ambassador, name: str) -> None:
    if name == "bind" and tools.server.installation.major < 16:
        pytest.skip(f"psql {tools.server.installation.version} has no \\bind; 16 and newer do")
    script = SCRIPTS[name].replace("\n        ", "\n")

    def transcript(through: Ambassador | None) -> str:
        return re.sub(r"Time: [\d.,]+ ms.*", "Time", tools.psql(through, script))

    said = transcript(proxy)
    assert said == transcript(None)
    assert len(said.splitlines()) > 3
    assert name != "timing" or "Time" in said


def test_psql_repeats_a_query(tools: Tools, proxy: Ambassador) -> None:
    """Other clients may get the server connection between two turns."""
    if tools.server.installation.major < 16:
        pytest.skip(f"\\watch of psql {tools.server.installation.version} has no count; 16 and newer do")
    script = "create temp sequence turns;\nselect nextval('turns') \\watch c=3 i=0.05\nselect 'behind it'"
    said = tools.psql(proxy, script, "-At")
    assert said == tools.psql(None, script, "-At")
    assert said.split() == ["1", "2", "3", "behind", "it"]


# pgcli

PGCLI = """select 40 + 2 as n;
\\dn
\\dt
\\d customers
select nonsense;
begin;
insert into parts values (7, 'north');
select count(*) from parts;
select 1 / 0;
select id, name, tags from customers where id between 10 and 12;
rollback;
select id, left(name, 6), extra from customers where id between 10 and 12;
set time zone 'Asia/Tokyo';
show time zone;
\\q
"""


def test_pgcli(tools: Tools, proxy: Ambassador) -> None:
    """It reads its completions by a second connection of its own."""
    if importlib.util.find_spec("pgcli") is None:
        pytest.skip("pgcli is not installed")

    def transcript(through: Ambassador | None) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pgcli", "--less-chatty", "--prompt", "> "],
            env=tools.environment(through) | {"XDG_CONFIG_HOME": str(tools.home), "TERM": "dumb"},
            input=PGCLI,
            capture_output=True,
            text=True,
            timeout=30,
            cwd=tools.home,
        )
        assert done.returncode == 0, done.stderr
        return re.sub(r"Time: .*", "Time", done.stdout)

    said = transcript(proxy)
    assert said == transcript(None)
    assert "division by zero" in said and "Asia/Tokyo" in said and "42" in said
