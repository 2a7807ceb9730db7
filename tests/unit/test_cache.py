"""The answers that are kept: what is given again is what a server would say, or said not long ago."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgambassador.config import Cluster, Config
from pgambassador.config.cache import Cache as CacheConfig
from pgambassador.config.cache import CacheRule
from pgambassador.config.routing import Functions, Routing
from pgambassador.config.secret import Secret
from pgambassador.routing.cache import OVERHEAD, SHARE, Cache, Draft, Shelf, caches, shown, written
from pgambassador.routing.catalog import NOTHING_KNOWN, Catalog, Effect
from pgambassador.routing.decision import EVERYTHING, NOTHING, Decision, Overrides, decide
from pgambassador.routing.reading import fingerprint

MEMORY = 1 << 20
T = shown("db", frozenset({"t"}))


def one(cache: Cache, key: object = "q", *, at: float = 0.0, ttl: float = 5.0, data: bytes = b"a") -> bool:
    draft = cache.asks(key, 1, T, ttl, at)
    return draft is not None and cache.keep(draft, data, 1)


def test_an_answer_is_found_until_it_is_too_old() -> None:
    cache = Cache(MEMORY)
    assert cache.find("q", 0.0) is None
    assert one(cache)
    found = cache.find("q", 4.9)
    assert found is not None and found.data == b"a" and found.rows == 1
    assert cache.find("q", 5.0) is None
    assert (cache.hits, cache.misses, cache.expired, cache.stored) == (1, 2, 1, 1)
    assert len(cache) == 0 and cache.bytes == 0
    assert repr(cache) == f"<Cache 0 answers, 0 of {MEMORY} bytes>"


def test_a_standbys_answer_is_as_old_as_what_it_shows() -> None:
    cache = Cache(MEMORY)
    draft = cache.asks("q", 1, T, 5.0, now=10.0, fresh_until=8.0)
    assert draft is not None and draft.expires == 13.0
    cache.ends(_begun(cache, written("db", frozenset({"t"}))), now=9.0)
    assert cache.asks("q", 1, T, 5.0, now=10.0, fresh_until=9.0) is None, "it may not show the write yet"
    assert cache.asks("q", 1, T, 5.0, now=10.0, fresh_until=9.1) is not None


def _begun(cache: Cache, parts: frozenset[tuple[str, ...]]) -> frozenset[tuple[str, ...]]:
    cache.begins(parts)
    return parts


@pytest.mark.parametrize(
    ("write", "read", "meets"),
    [
        ({"t"}, {"t"}, True),
        ({"t"}, {"u"}, False),
        ({"t"}, {"t", "u"}, True),
        ({"t"}, {"*"}, True),
        ({"*"}, {"t"}, True),
        ({"*"}, set(), True),
        ({"t"}, set(), False),
    ],
)
def test_what_a_write_takes_away(write: set[str], read: set[str], meets: bool) -> None:
    parts = written("db", frozenset(write)), shown("db", frozenset(read))
    assert bool(parts[0] & parts[1]) is meets
    assert not written("db", frozenset(write)) & shown("other", frozenset(read))
    assert written("db", frozenset(), defines=True) & shown("other", frozenset(read))


def test_memory_is_bounded_and_what_was_used_longest_ago_goes_first() -> None:
    each = OVERHEAD + 1 + 100
    cache = Cache(SHARE * each)
    for key in range(SHARE):
        assert one(cache, key, data=b"x" * 100)
    assert cache.find(0, 0.0) is not None
    assert one(cache, "new", data=b"x" * 100)
    assert cache.find(1, 0.0) is None and cache.find(0, 0.0) is not None
    assert (cache.evicted, len(cache), cache.bytes) == (1, SHARE, SHARE * each)
    assert not one(cache, "big", data=b"x" * 101), "it is more than its share"
    assert one(cache, 0, data=b""), "in place of the one before"
    assert len(cache) == SHARE


def test_no_more_tables_are_remembered_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgambassador.routing.cache.REMEMBERED", 4)
    cache = Cache(MEMORY)
    draft = cache.asks("q", 1, T, 5.0, 0.0)
    assert draft is not None
    for name in "abcdef":
        cache.ends(_begun(cache, written("db", frozenset({name}))), now=1.0)
    assert not cache.keep(draft, b"", 0), "it is not known any more that its table was not written"
    assert one(cache)


SHOP = Catalog(
    {"now": Effect.READ, "nextval": Effect.VOLATILE, "own": Effect.VOLATILE, "count": Effect.READ},
    frozenset({"t", "u", "v"}),
    own=frozenset({"own"}),
    plain_to_read=frozenset({"t", "u"}),
    plain_to_write=frozenset({"t", "u"}),
)


@pytest.mark.parametrize(
    ("text", "writes"),
    [
        ("select * from t", ""),
        ("select now()", ""),
        ("select nextval('s')", ""),
        ("select own()", "*"),
        ("select unheard_of()", "*"),
        ("select * from t for update", ""),
        ("select own() from t for update", "*"),
        ("insert into t select * from u", "t"),
        ("insert into t values (nextval('s'))", "t"),
        ("insert into t values (own())", "*"),
        ("insert into v values (1)", "*"),
        ("with d as (delete from t returning *) insert into u select * from d", "t u"),
        ("update t set n = 1; update u set n = 1", "*"),
        ("set x = 1", ""),
        ("set x = 1; update t set n = 1", "*"),
        ("begin", ""),
        ("begin isolation level serializable", ""),
        ("set transaction isolation level serializable", ""),
        ("commit", ""),
        ("commit and chain", ""),
        ("rollback to savepoint a", ""),
        ("set constraints all immediate", "*"),
        ("commit prepared 'a'", "*"),
        ("explain delete from t", ""),
        ("explain analyze delete from t", "*"),
        ("explain delete from t; delete from t", "*"),
        ("declare c cursor for select * from t", ""),
        ("declare c cursor for select own()", "*"),
        ("fetch 10 from c", ""),
        ("prepare p as delete from t", ""),
        ("execute p", "*"),
        ("copy t to stdout", ""),
        ("copy t from stdin", "*"),
        ("copy (select own()) to stdout", "*"),
        ("call p()", "*"),
        ("do ''", "*"),
        ("truncate t", "*"),
        ("create temp table x (n int)", ""),
        ("create table x (n int)", "*"),
        ("create temp table x as select own()", "*"),
        ("listen x", ""),
        ("lock t", ""),
        ("not sql", "*"),
        ("", ""),
        ("select '" + "x" * 20_000 + "'", "*"),
    ],
)
def test_what_a_statement_may_write(text: str, writes: str) -> None:
    assert decide(text, SHOP).writes == frozenset(writes.split())


def test_all_may_be_written_by_what_is_not_known() -> None:
    assert decide("select 1", NOTHING_KNOWN).writes == EVERYTHING


RULES = (
    CacheRule(tables=("t", "v"), ttl=1.0),
    CacheRule(fingerprint=(fingerprint("select * from u where id = 1").upper(),), ttl=2.0),
)


@pytest.mark.parametrize(
    ("text", "ttl"),
    [
        ("select * from t, v", 1.0),
        ("select * from t, u", None),
        ("select * from u where id = 7", 2.0),
        ("select 1", None),
        ("/* pgambassador: cache=9s */ select 1", 9.0),
        ("/* pgambassador: cache=9s */ select * from t", 9.0),
        ("/* pgambassador: cache=9s, primary */ select * from t", 9.0),
        ("/* pgambassador: primary */ select * from t", None),
        ("/* pgambassador: replica */ select * from t", 1.0),
        ("/* pgambassador: cache=9s */ select * from pg_catalog.pg_class", None),
        ("/* pgambassador: cache=9s */ select own()", None),
        ("/* pgambassador: cache=9s */ update t set n = 1", None),
        ("with t as (select 1) select * from t", None),
    ],
)
def test_how_long_an_answer_is_kept(text: str, ttl: float | None) -> None:
    overrides = Overrides.of(Functions(), (), CacheConfig(rules=RULES))
    decision = decide(text, SHOP, overrides)
    assert decision.cache == ttl
    obeyed = "cache is not obeyed" not in decision.rule
    assert obeyed or ("cache=" in text and ttl is None)
    assert decide(text, SHOP, Overrides.of(Functions(), ())).cache is None, "without the section"


def test_a_rule_for_all() -> None:
    overrides = Overrides.of(Functions(), (), CacheConfig(rules=(CacheRule(ttl=3.0),)))
    assert decide("select 1", SHOP, overrides).cache == 3.0
    assert decide("select own()", SHOP, overrides).cache is None


def test_a_cache_for_each_cluster_that_has_the_section() -> None:
    url = Secret("postgresql://app@db/shop")
    with_section = Cluster(url=url, routing=Routing(cache=CacheConfig(memory=MEMORY)))
    found = caches(Config(clusters={"one": with_section, "other": Cluster(url=url)}))
    assert list(found) == ["one"] and found["one"].memory == MEMORY


READS = Decision(
    "read", "replica", "only reads", batchable=True, cache=5.0, tables=frozenset({"t"}), writes=NOTHING
)


def _defining(cache: Cache) -> bool:
    return cache.defining


def test_a_pool_keeps_answers_when_it_knows_what_statements_do() -> None:
    cache = Cache(MEMORY)
    one, other = Shelf(cache, "db"), Shelf(cache, "db")
    assert not one.current and one.asks("q", 1, READS, 0.0, math.inf) is None
    assert one.touched(READS) == written("db", EVERYTHING), "for all that is known it may write"
    one.seen = other.seen = one.definitions
    assert one.asks("q", 1, READS, 0.0, math.inf) is not None
    assert not one.touched(READS)
    assert one.touched(None) == written("db", EVERYTHING)
    assert one.touched(replace(READS, writes=frozenset({"t"}))) == written("db", frozenset({"t"}))
    assert one.asks("q", 1, replace(READS, cache=None), 0.0, math.inf) is None
    defines = Decision("ddl", "primary", "")
    cache.begins(one.touched(defines))
    assert other.asks("q", 1, READS, 0.0, math.inf) is None
    assert _defining(cache)
    assert other.touched(READS) == written("db", EVERYTHING)
    assert not other.touched(Decision("transaction", "any", "", writes=NOTHING))
    one.redefined()
    cache.ends(one.touched(defines), 1.0)
    assert not _defining(cache)
    assert not other.current
    assert "behind" in repr(other)
    other.seen = other.definitions
    assert other.asks("q", 1, READS, 0.0, math.inf) is not None
    assert one.asks("q", 1, READS, 0.0, math.inf) is None, "it has not read the catalog since"
    assert Shelf(cache, "elsewhere", seen=0).current


TABLES = ("t", "u")
TTL = 5.0


@dataclass
class Asked:
    tables: frozenset[str]
    draft: Draft | None
    shows: dict[str, int]


@dataclass
class Writing:
    tables: tuple[str, ...]
    parts: frozenset[tuple[str, ...]]
    committed: dict[str, int] | None = None


class Life:
    """A primary and a standby that replays when it likes, sessions that write and read, and a cache between.

    Time is invented; each table is a counter. What is given again must show all that had been acknowledged to
    anybody when it was asked for, and be what a server showed not longer ago than its time to live."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.cache = Cache(SHARE * (OVERHEAD + 100))
        self.now = 100.0
        self.primary = dict.fromkeys(TABLES, 0)
        self.standby = dict(self.primary)
        self.fresh_until = self.now
        self.acknowledged = dict(self.primary)
        self.writing: list[Writing] = []
        self.asked: list[Asked] = []
        self.history = [(self.now, dict(self.primary))]

    def time_passes(self) -> None:
        self.now += self.random.choice((0.001, 0.5, 3.0))

    def a_write_is_sent(self) -> None:
        if len(self.writing) < 2 and self.random.random() < 0.4:
            tables = self.random.choice((("t",), ("u",), TABLES))
            known = EVERYTHING if self.random.random() < 0.2 else frozenset(tables)
            parts = written("db", known)
            self.cache.begins(parts)
            self.writing.append(Writing(tables, parts))

    def it_commits_on_the_server(self) -> None:
        if self.writing and (found := self.random.choice(self.writing)).committed is None:
            self._changes(*found.tables)
            found.committed = {name: self.primary[name] for name in found.tables}

    def it_is_acknowledged(self) -> None:
        """Or it is rolled back, or its connection is lost."""
        if self.writing:
            found = self.writing.pop(self.random.randrange(len(self.writing)))
            self.cache.ends(found.parts, self.now)
            for name, value in (found.committed or {}).items():
                self.acknowledged[name] = max(self.acknowledged[name], value)

    def somebody_writes_past_us(self) -> None:
        self._changes("t")

    def the_standby_replays(self) -> None:
        self.standby = dict(self.primary)
        self.fresh_until = self.now

    def a_read_is_asked(self) -> None:
        tables = frozenset(self.random.choice((("t",), ("u",), TABLES)))
        known = self.random.random() < 0.7
        found = self.cache.find((tables, known), self.now)
        if found is not None:
            return self._judge(tables, found.data.decode())
        shows, fresh = self.primary, math.inf
        if self.random.random() < 0.5:
            shows, fresh = self.standby, self.fresh_until
        parts = shown("db", tables if known else EVERYTHING)
        draft = self.cache.asks((tables, known), 1, parts, TTL, self.now, fresh)
        self.asked.append(Asked(tables, draft, dict(shows)))
        if self.random.random() < 0.5:
            self.an_answer_comes()
        return None

    def an_answer_comes(self) -> None:
        if self.asked:
            found = self.asked.pop(self.random.randrange(len(self.asked)))
            if found.draft is not None:
                data = ",".join(f"{name}={found.shows[name]}" for name in sorted(found.tables))
                self.cache.keep(found.draft, data.encode(), 1)

    def _changes(self, *tables: str) -> None:
        for name in tables:
            self.primary[name] += 1
        self.history.append((self.now, dict(self.primary)))

    def _judge(self, tables: frozenset[str], data: str) -> None:
        told = {name: int(value) for name, value in (each.split("=") for each in data.split(","))}
        for name in tables:
            assert told[name] >= self.acknowledged[name], "it does not show what was acknowledged"
        of_late = [state for at, state in self.history if at > self.now - TTL]
        before = [state for at, state in self.history if at <= self.now - TTL][-1:]
        assert any(all(state[name] == told[name] for name in tables) for state in (*before, *of_late)), (
            "no server has shown that of late"
        )

    def check_the_books(self) -> None:
        cache = self.cache
        assert cache.bytes == sum(each.size for each in cache._answers.values()) <= cache.memory
        assert {each for users in cache._by_part.values() for each in users} == set(cache._answers.values())
        assert set(cache._under_way) == {part for each in self.writing for part in each.parts}


STEPS: tuple[Callable[[Life], None], ...] = (
    *(Life.time_passes, Life.a_write_is_sent, Life.it_commits_on_the_server, Life.it_is_acknowledged),
    *(Life.it_is_acknowledged, Life.somebody_writes_past_us, Life.the_standby_replays, Life.an_answer_comes),
    *(Life.a_read_is_asked, Life.a_read_is_asked, Life.a_read_is_asked, Life.a_read_is_asked),
)


@given(st.integers(0, 2**32))
@settings(max_examples=25)
def test_a_life(seed: int) -> None:
    life = Life(Random(seed))
    for _ in range(4000):
        life.random.choice(STEPS)(life)
        life.check_the_books()
    assert life.cache.hits > 20, "nothing was tried"
