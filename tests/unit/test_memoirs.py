"""What servers have said of themselves, and what of it the next process is told."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgambassador.config import Cluster, Secret
from pgambassador.net.memoirs import KNOWN, POOLS, SETS, SIZE, Memoir, Memoirs
from pgambassador.net.names import AGE
from pgambassador.process.store import LIMIT, Kept, Store
from pgambassador.protocol.settings import Settings

NOW = 1_700_000_000.0
SAID = {"server_version": "18.0", "TimeZone": "UTC", "DateStyle": "ISO, MDY", "application_name": ""}
CET = Settings.of({"timezone": "cet"})
TOLD = {**SAID, "TimeZone": "CET"}


def cluster(host: str = "db.example") -> Cluster:
    return Cluster(url=Secret(f"postgresql://app:hunter2@{host}/shop"))


class Process:
    """One: its clock, and what it knows."""

    def __init__(self, *, now: float = NOW, on: bool = True, host: str = "db.example") -> None:
        self.now = now
        self.keepers: dict[Any, Any] = {}
        self.memoirs = Memoirs({"main": cluster(host)}, self.keepers, on, lambda: self.now)

    def of(self, database: str = "shop", user: str = "app") -> Memoir:
        memoir = self.memoirs.of("main", database, user)
        assert memoir is not None
        return memoir

    def next(self, *, later: float = 0.0, **other: Any) -> Process:
        """What it leaves behind, as the disk gives it back."""
        process = Process(now=self.now + later, **other)
        memory = self.memoirs.memory()
        if memory is not None:
            process.memoirs.recall(json.loads(json.dumps(memory)))
        return process


@pytest.fixture
def process() -> Process:
    process = Process()
    process.of().learn(SAID)
    process.of().note(CET, {"TimeZone": "CET"})
    return process


def test_from_one_process_to_the_next(process: Process) -> None:
    known = process.next(later=60).of()
    assert known.told(Settings.of({})) == SAID
    assert known.told(CET) == TOLD
    assert known.told(Settings.of({"timezone": "Asia/Tokyo"})) is None
    assert known.at == NOW
    assert "hunter2" not in json.dumps(process.memoirs.memory())


def test_each_pool_has_its_own(process: Process) -> None:
    process.of("other").learn({**SAID, "TimeZone": "CET"})
    after = process.next()
    assert after.of().parameters["TimeZone"] == "UTC"
    assert after.of("other").parameters["TimeZone"] == "CET"
    assert after.of("shop", "eve").told(Settings.of({})) is None
    assert after.memoirs.of("main", "shop", "app", (("log_connections", "on"),)) is None


@pytest.mark.parametrize("other", [{"later": AGE + 1}, {"host": "elsewhere.example"}, {"on": False}])
def test_what_is_not_used(process: Process, other: dict[str, Any]) -> None:
    """Too old, of other servers, or not asked for."""
    assert process.next(**other).of().told(CET) is None
    assert process.next(later=AGE - 1).of().told(CET) == TOLD


def test_each_pool_has_its_own_time(process: Process) -> None:
    process.now += AGE - 10
    process.of("young").learn(SAID)
    after = process.next(later=20)
    assert after.of().told(CET) is None and after.of("young").told(Settings.of({})) == SAID
    # It gets older while it is known, and is as old after another start.
    between = process.next()
    between.now += 5
    assert between.of().told(CET) == TOLD
    assert between.next(later=10).of().told(CET) is None
    between.now += 10
    assert between.of().told(CET) is None
    # A client that logs in while the server is away makes it no younger.
    between = process.next(later=-20)
    between.of().note(Settings.of({"jit": "off"}), {})
    assert between.next().of().told(Settings.of({"jit": "off"})) == SAID
    assert between.next(later=40).of().told(Settings.of({"jit": "off"})) is None
    process.now -= 100_000  # somebody has put the clock right
    assert process.next().of("young").at == process.now


def test_what_is_still_so_is_young(process: Process) -> None:
    greeting = SimpleNamespace(remind=lambda: process.of().learn(SAID), remembers=True)
    process.keepers["main", "shop", "app", ()] = SimpleNamespace(greeting=greeting)
    process.now += AGE + 10
    before = process.memoirs.changes
    assert process.next().of().told(CET) == TOLD
    assert process.memoirs.changes == before
    assert process.memoirs.in_use == 1


@pytest.mark.parametrize(
    "values",
    [
        {"app.token": "s3cret"},
        {"timezone": "CET", "app.token": "s3cret"},
        {"my.own": "s3cret"},
        {"application_name": "s3cret\u00e9"},
        {"application_name": "s3cret", "timezone": "CET"},
        {"session_authorization": "s3cret"},
        {"role": "s3cret"},
        {"timezone": "s3cret" * 200},
    ],
)
def test_what_may_be_a_secret_is_not_kept(process: Process, values: dict[str, str]) -> None:
    given_by_it = Settings.of(values)
    before = process.memoirs.changes
    process.of().note(given_by_it, {"TimeZone": values.get("timezone", "UTC")})
    assert process.of().told(given_by_it) is None and process.memoirs.changes == before
    assert "s3cret" not in json.dumps(process.memoirs.memory())


def test_what_drivers_set_is_kept(process: Process) -> None:
    for values in (
        {"client_encoding": "UTF8", "datestyle": "ISO", "timezone": "CET", "extra_float_digits": "3"},
        {"search_path": "a, b", "statement_timeout": "5s"},
        dict.fromkeys(KNOWN, "1"),
    ):
        process.of().learn({**SAID, "client_encoding": "UTF8"})
        process.of().note(Settings.of(values), {**SAID, "client_encoding": "UTF8", "TimeZone": "CET"})
        known = process.next().of().told(Settings.of(values))
        assert known == {**SAID, "client_encoding": "UTF8", "TimeZone": "CET"}


def test_the_sets_used_last_are_kept(process: Process) -> None:
    sets = [Settings.of({"statement_timeout": str(number)}) for number in range(SETS)]
    for each in sets:
        process.of().note(each, {})
    after = process.next().of()
    assert after.told(CET) is None
    assert [after.told(each) for each in sets] == [SAID] * SETS
    changes = process.memoirs.changes
    process.of().note(sets[0], {})
    assert process.memoirs.changes == changes
    process.of().note(CET, {"TimeZone": "CET"})
    after = process.next().of()
    assert after.told(sets[0]) == SAID and after.told(sets[1]) is None and after.told(CET) == TOLD


def test_another_version_forgets_what_was_tried_out(process: Process) -> None:
    process.of().learn({**SAID, "DateStyle": "German"})
    assert process.of().told(CET) == {**TOLD, "DateStyle": "German"}
    process.of().learn({**SAID, "server_version": "19.0"})
    assert process.of().told(CET) is None


def test_the_oldest_pool_goes(process: Process) -> None:
    for number in range(POOLS):
        process.now += 1
        process.of(f"d{number}").learn(SAID)
    after = process.next()
    assert after.of().told(CET) is None
    assert all(after.of(f"d{number}").at == NOW + 1 + number for number in range(POOLS))


def test_nothing_is_known_of_a_pool_that_was_never_reached() -> None:
    process = Process()
    process.of().note(CET, {"TimeZone": "CET"})
    assert process.memoirs.memory() is None and process.memoirs.changes == 0
    process.of().learn({"server_version": "x" * 100_000})
    assert process.memoirs.memory() is None


def test_what_is_not_wanted_is_not_learnt() -> None:
    process = Process(on=False)
    process.of().learn(SAID)
    process.of().note(CET, {"TimeZone": "CET"})
    assert process.memoirs.memory() is None
    process.memoirs.on = True
    process.of().learn(SAID)
    assert process.of().told(Settings.of({})) == SAID


letters = st.characters(codec="utf-8", exclude_characters="\0") | st.sampled_from("\udc80\udcff")
texts = st.text(letters, max_size=300)
values = st.dictionaries(st.sampled_from(sorted(KNOWN)), texts, min_size=1, max_size=4)
said = st.dictionaries(
    st.sampled_from(["server_version", "TimeZone", "a", "b"]), st.text(letters, max_size=3000)
)
steps = st.lists(
    st.tuples(st.integers(0, 2 * POOLS), said, st.lists(values, max_size=SETS + 4)), min_size=1, max_size=20
)


@settings(max_examples=30)
@given(steps=steps, copies=st.integers(1, 40))
def test_whatever_is_known_fits_into_a_file(tmp_path_factory: Any, steps: Any, copies: int) -> None:
    process = Process()
    for copy in range(copies):
        for number, parameters, sets in steps:
            process.now += 1
            memoir = process.of(f"\u00fc{number + copy}")
            memoir.learn(parameters)
            for each in sets:
                memoir.note(Settings.of(each), parameters)
    memory = process.memoirs.memory()
    if memory is None:
        return
    folder = tmp_path_factory.mktemp("state") / "kept"
    store = Store(str(folder), lambda: process.now)
    store.write("parameters", Kept(process.now, memory))
    assert (folder / "parameters").stat().st_size <= LIMIT
    found = store.read("parameters")
    assert found is not None
    after = Process(now=process.now)
    after.memoirs.recall(found.body)
    assert after.memoirs.memory() == memory and len(memory["pools"]) <= POOLS
    assert all(len(sets) <= SETS for *_, sets in memory["pools"])
    # The newest are among them.
    times = [at for *_, at, _parameters, _sets in memory["pools"]]
    assert times == sorted(times, reverse=True)


def test_a_full_memory_loses_what_is_oldest(tmp_path: Path) -> None:
    process = Process()
    for number in range(POOLS):
        process.now += 1
        memoir = process.of(f"d{number}")
        memoir.learn({"server_version": "x" * 8000})
    memory = process.memoirs.memory()
    assert memory is not None
    names = [database for _, database, *_ in memory["pools"]]
    assert 100 < len(names) < POOLS and names == [f"d{POOLS - 1 - each}" for each in range(len(names))]
    assert SIZE - 10_000 < len(json.dumps(memory)) <= SIZE + 100
    Store(str(tmp_path / "kept"), lambda: process.now).write("parameters", Kept(process.now, memory))


@pytest.mark.parametrize(
    "change",
    [
        lambda pool: pool.pop(),
        lambda pool: pool.append(1),
        lambda pool: pool.__setitem__(1, 7),
        lambda pool: pool.__setitem__(4, "yesterday"),
        lambda pool: pool.__setitem__(4, float("inf")),
        lambda pool: pool.__setitem__(5, ["TimeZone"]),
        lambda pool: pool[5].__setitem__("TimeZone", 3),
        lambda pool: pool[5].__setitem__("TimeZone", "UTC\0S"),
        lambda pool: pool[5].__setitem__("TimeZone", "\ud800"),
        lambda pool: pool.__setitem__(6, None),
        lambda pool: pool[6].append(["x"]),
    ],
)
def test_what_is_not_understood_is_refused(process: Process, change: Any) -> None:
    memory = process.memoirs.memory()
    assert memory is not None
    body = json.loads(json.dumps(memory))
    change(body["pools"][0])
    after = Process()
    with pytest.raises((ValueError, TypeError, LookupError, AttributeError)):
        after.memoirs.recall(body)
    assert after.memoirs.memory() is None and after.of().told(Settings.of({})) is None


def test_what_may_be_a_secret_is_not_taken_from_the_file_either(process: Process) -> None:
    memory = process.memoirs.memory()
    assert memory is not None
    (pool,) = memory["pools"]
    pool[6] += [[{"app.token": "s3cret"}, {}], [{"timezone": "PST"}, {"never.told": "x"}], [{}, {}]]
    after = Process()
    after.memoirs.recall(memory)
    assert list(after.of().sets) == [CET]


def test_what_others_have_kept_is_added(process: Process) -> None:
    other = Process(now=NOW - 5)
    other.of().learn({**SAID, "TimeZone": "PST"})
    other.now = NOW + 6
    other.of("other").learn(SAID)
    memory = other.memoirs.memory()
    process.now += 10
    for number in range(POOLS - 2):
        process.of(f"d{number}").learn(SAID)
    process.memoirs.recall(json.loads(json.dumps(memory)))
    assert process.of().told(CET) == TOLD and process.of("other").told(Settings.of({})) == SAID
    process.of("one more").learn(SAID)
    assert process.of().told(CET) is None and process.of("other").told(Settings.of({})) == SAID
    process.memoirs.recall(json.loads(json.dumps(memory)))
    assert process.of().told(Settings.of({})) is None  # it is the oldest


def keeper_of(process: Process) -> Any:
    """Of a pool whose server has not been reached."""
    greeting = SimpleNamespace(remind=lambda: None, parameters=None, memoir=process.of())
    keeper = process.keepers["main", "shop", "app", ()] = SimpleNamespace(greeting=greeting)
    return keeper


@pytest.mark.parametrize("known", [True, False])
def test_what_others_have_heard_since_counts(process: Process, known: bool) -> None:
    """A process that does not reach a server keeps nothing younger from those who come later, and uses it."""
    waits = process.next() if known else Process()
    waits.now += 10
    greeting = keeper_of(waits).greeting
    process.now += 5
    process.of().learn({**SAID, "TimeZone": "PST"})
    waits.memoirs.recall(json.loads(json.dumps(process.memoirs.memory())))
    assert waits.next().of().at == NOW + 5
    assert greeting.memoir.told(Settings.of({})) == {**SAID, "TimeZone": "PST"}


def test_what_is_so_now_is_not_replaced(process: Process) -> None:
    """Whatever others have heard of it: this process has a connection."""
    greeting = SimpleNamespace(remind=lambda: process.of().learn(SAID), parameters=SAID)
    process.keepers["main", "shop", "app", ()] = SimpleNamespace(greeting=greeting)
    other = Process(now=NOW + 5)
    other.of().learn({**SAID, "TimeZone": "PST"})
    process.now += 10
    process.memoirs.recall(json.loads(json.dumps(other.memoirs.memory())))
    assert process.of().told(CET) == TOLD and process.of().at == NOW + 10


def test_what_was_given_stays_as_it_was_given(process: Process) -> None:
    """Though the server's own was the same then, and is not any more."""
    utc = Settings.of({"timezone": "utc"})
    process.of().note(utc, {"TimeZone": "UTC"})
    process.of().learn({**SAID, "TimeZone": "Asia/Tokyo"})
    assert process.next().of().told(utc) == SAID
    memory = process.memoirs.memory()
    assert memory is not None
    memory["pools"][0][6] = [[{"timezone": "utc"}, {}]]
    after = Process()
    after.memoirs.recall(memory)
    assert after.of().told(utc) is None
