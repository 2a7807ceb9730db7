"""Conversations at random, of several clients at once, are answered as directly.

Nothing that a client does depends on another: each has a table, a channel and a lock of its own.
"""

from __future__ import annotations

import json
import os
from itertools import chain

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from tests.same.comparison import differences, in_time
from tests.same.conversation import read, run_at_once
from tests.same.place import KINDS, Kind, Place

LONG = int(os.environ.get("PGAMBASSADOR_LONG", "0") or "0")
"""How many conversations, each run another; 0: the same few as always."""

CLIENTS = "ABC"
TABLES = "".join(
    f"drop table if exists own_{name.lower()};"
    f"create table own_{name.lower()} (a int primary key); alter table own_{name.lower()} owner to app;"
    for name in CLIENTS
)

# Those that mean the same at any time may have names; the others are only ever said once.
STATEMENTS = (
    "select 1",
    "select 'two', 2; ",
    "selec",
    "",
    "select count(*) from items",
    "select a from own order by a",
    "insert into own select coalesce(max(a), 0) + 1 from own returning a",
    "insert into own values (1)",
    "select i, 'row' from generate_series(1, 5) i",
    "select 1/0",
    "do $$ begin raise notice 'noticed'; end $$",
    "begin",
    "commit",
    "rollback",
    "savepoint s",
    "rollback to s",
    "release s",
    "set timezone = 'Asia/Tokyo'",
    "set datestyle = 'German'",
    "set local timezone = 'Europe/Paris'",
    "set app.own = 'own'",
    "reset timezone",
    "reset all",
    "reset datestyle",
    "set datestyle to default",
    "set local timezone to default",
    "show timezone",
    "select current_setting('datestyle'), '2020-01-02'::date, current_setting('timezone')",
    "select set_config('timezone', 'America/Lima', false)",
    "select set_config('work_mem', '7MB', true)",
    "show work_mem",
    "set role clerk",
    "reset role",
    "select current_user",
    "deallocate all",
    "discard all",
    "listen own",
    "unlisten own",
    "notify own, 'heard'",
    "copy own to stdout",
    "select * from own",
    "alter table own add if not exists b text",
    "alter table own drop if exists b",
    "alter table own alter a type bigint",
    "alter table own alter a type int",
)
WITH_A_VALUE = (
    "select $1::int",
    "select i from generate_series(1, $1::int) i",
    "select 10 / $1::int",
    "insert into own values ($1::int)",
    "delete from own where a = $1::int returning a",
    "select set_config('app.own', $1, false)",
)
PASSING = (
    "create temp table passing (a int)",
    "insert into passing values (1)",
    "select * from passing",
    "drop table passing",
    "declare c cursor for select id from items order by id",
    "declare h cursor with hold for select id from items order by id",
    "fetch 2 from c",
    "fetch 2 from h",
    "close all",
    "prepare q as select 'prepared'",
    "execute q",
    "deallocate q",
    "execute n1",
    "execute n2",
    "execute v1 (3)",
    "prepare n1 as select 'by SQL'",
    "deallocate n1",
    '/* in */ reset "timezone" -- other words',
    "select pg_try_advisory_lock(own_key)",
    "select pg_advisory_unlock_all()",
    "select 1; select 2; select 3",
    "begin; select 1; commit; select 2",
    "insert into own values (7); select 1/0",
    "set timezone = 'UTC'; show timezone; begin",
)
VALUES = ("1", "2", "3", "0", "x", None)
NAMES = ("n1", "n2")
WITH_A_VALUE_NAMES = ("v1", "v2")
LEADS_BACK = "r1"
"""What leads back to the start packet: by SQL's EXECUTE it leads to the server's own default first."""
LIMITS = (0, 1, 2, 1000)

Lines = list[str]


STARTS = (
    "",
    'TimeZone "Asia/Tokyo"',
    'DateStyle "SQL, DMY" application_name "mine" work_mem "5MB"',
    'options "-c timezone=Europe/Rome -c app.own=started -c role=clerk"',
)


def words(*parts: object) -> str:
    return " ".join(part if isinstance(part, str) else json.dumps(part) for part in parts)


@st.composite
def parsed(draw: st.DrawFn) -> tuple[Lines, int]:
    """Messages, and how many answers they have. A name is closed before it is used again."""
    how = draw(st.sampled_from(("unnamed", "unnamed", "named", "with a value", "passing")))
    if how == "unnamed":
        text = draw(st.sampled_from(STATEMENTS))
        return [words("Parse", '""', json.dumps(text))], 1
    if how == "passing":
        return [words("Parse", '""', json.dumps(draw(st.sampled_from(PASSING))))], 1
    named = how == "named"
    name = draw(st.sampled_from(NAMES if named else WITH_A_VALUE_NAMES))
    text = draw(st.sampled_from(STATEMENTS if named else WITH_A_VALUE))
    if text.startswith(("reset", "discard")) or text.endswith("default"):
        name = LEADS_BACK
    # Rows that nobody has asked for may change with an ALTER TABLE; those that a client was told of may not.
    return [words("Close S", name), words("Parse", name, json.dumps(text)), words("Describe S", name)], 3


@st.composite
def bound(draw: st.DrawFn) -> tuple[Lines, int]:
    name = draw(st.sampled_from(('""', *NAMES, LEADS_BACK, *WITH_A_VALUE_NAMES, "missing")))
    values = [draw(st.sampled_from(VALUES))] if name in WITH_A_VALUE_NAMES else []
    portal = draw(st.sampled_from(('""', '""', "p")))
    formats = draw(st.sampled_from(("", "[] [1]")))
    lines = [words("Bind", portal, name, json.dumps(values), formats)]
    count = 1
    if draw(st.booleans()):
        lines.append(words("Describe P", portal))
        count += 1
    for _ in range(draw(st.integers(0, 2))):
        lines.append(words("Execute", portal, str(draw(st.sampled_from(LIMITS)))))
        count += 1
    return lines, count


others = st.sampled_from(
    [
        (["Describe S n1"], 1),
        (["Describe S v1"], 1),
        (["Close S n2"], 1),
        (["Close P p"], 1),
        (["Describe P p"], 1),
        (["Execute p 1"], 1),
        (['Execute "" 1'], 1),
    ]
)


@st.composite
def pipelines(draw: st.DrawFn) -> tuple[Lines, int]:
    """Up to its Sync, perhaps with waits at a Flush; how many ReadyForQuery are to come."""
    lines: Lines = []
    count = 0
    for more, answers in draw(st.lists(parsed() | bound() | others, max_size=5)):
        lines += more
        count += answers
        if draw(st.integers(0, 4)) == 0:
            lines += ["Flush", f"answers {count}"]
            count = 0
    return [*lines, "Sync"], 1


@st.composite
def copies(draw: st.DrawFn) -> tuple[Lines, int]:
    """COPY FROM STDIN with all that belongs to it, whether the server will want it or not."""
    data = draw(st.lists(st.sampled_from(("5\n", "6\n7\n", "8", "\n", "x\n", "5\n" * 500)), max_size=4))
    end = draw(st.sampled_from(("CopyDone", 'CopyFail "no"')))
    rest = [*(words("CopyData", json.dumps(each)) for each in data), end]
    if draw(st.booleans()):
        return ['Query "copy own from stdin"', *rest], 1
    # Under a name that nothing else uses: whoever else executed it would be waiting for ever.
    said = ["Close S cp", 'Parse cp "copy own from stdin"', 'Bind "" cp', 'Execute ""', *rest, "Sync"]
    return said, 1


queries = st.sampled_from((*STATEMENTS, *PASSING)).map(lambda text: ([words("Query", json.dumps(text))], 1))


@st.composite
def clients(draw: st.DrawFn, name: str) -> Lines:
    start = draw(st.sampled_from(STARTS))
    lines: Lines = [f"Start {start}"] if start else []
    for batch in draw(
        st.lists(st.lists(queries | pipelines() | copies(), min_size=1, max_size=3), max_size=6)
    ):
        count = 0
        for more, readies in batch:
            # What is waited for at a Flush is answered behind what was asked before.
            if count and any(line.startswith("answers") for line in more):
                lines.append(f"ready {count}")
                count = 0
            lines += more
            count += readies
        lines.append(f"ready {count}")
    own = {"own_key": str(ord(name)), "own": f"own_{name.lower()}"}
    text = "\n".join(f"{name}: {line}" for line in lines)
    for word, mine in own.items():
        text = text.replace(f" {word}", f" {mine}").replace(f"({word}", f"({mine}")
    return text.splitlines()


conversations = st.tuples(*(clients(name) for name in CLIENTS)).map(
    lambda each: "\n".join(chain.from_iterable(each))
)


@settings(
    max_examples=LONG or 60,
    derandomize=not LONG,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(text=conversations, kind=st.sampled_from(KINDS))
def test_answers_are_the_same(text: str, kind: Kind, place: Place) -> None:
    note(f"{kind}\n{text}")
    script = read(text)
    direct = run_at_once(script, place.port(None), place.database(TABLES))
    assert in_time(direct), "it cannot be held even directly"
    through = run_at_once(script, place.port(kind), place.database(TABLES), whole=kind.whole)
    difference = differences(direct, through)
    assert not difference, f"\n{difference}"
