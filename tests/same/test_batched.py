"""The same answers in a crowd: while a script is held, neighbours in the same pool of one always wait with
questions of their own, so that whatever can share a write with them does.

Each time some scripts at random; with PGAMBASSADOR_LONG all of them.
"""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pgambassador.routing.catalog import QUERY, Catalog
from pgambassador.routing.catalog import read as read_catalog
from pgambassador.routing.decision import Overrides, decide
from pgambassador.wire import build
from tests.harness import Ambassador, Message, Wire, wait_until
from tests.marked import CALM, Crowd
from tests.same.comparison import differences, in_time, readable
from tests.same.conversation import USER, Script, run
from tests.same.place import Kind, Place
from tests.same.test_scripts import SCRIPTS, fits

LONG = bool(os.environ.get("PGAMBASSADOR_LONG", "").strip("0"))
KIND = Kind("transaction", 1)
NAMES = [name for name, script in SCRIPTS.items() if fits(script, KIND) and KIND.mode not in script.differs]
AT_ONCE = 12
PARTS = -(-len(NAMES) // AT_ONCE) if LONG else 1
NEIGHBOURS = 6
ALWAYS = "short_reads"
"""Of which most can share a write."""


@dataclass
class Front:
    """One pool of one for each database, and a log of all statements as they were written, of which so many
    bytes are old."""

    proxy: Ambassador
    log: Path
    old: int = 0
    read: int = 0

    def logged(self, database: str) -> list[dict[str, Any]]:
        """What was asked there by others than neighbours."""
        with self.log.open("rb") as file:
            file.seek(self.old)
            *lines, rest = file.read().split(b"\n")
            self.read = file.tell() - len(rest)
        found = (json.loads(line) for line in lines if b"as marker" not in line)
        return [line for line in found if line["database"] == database]


@pytest.fixture(scope="module")
def front(place: Place, ambassadors: Callable[..., Ambassador], tmp_path_factory: Any) -> Front:
    log = tmp_path_factory.mktemp("queries") / "log"
    log.touch()
    proxy = ambassadors(
        place.server.url("app", None, ""),
        pool={"mode": KIND.mode, "size": KIND.size, "statements": KIND.statements, "wait_notice": "off"},
        query_log={"slow": 0, "literals": True, "file": str(log)},
    )
    return Front(proxy, log)


@contextmanager
def neighbours(port: int, database: str, start: Mapping[str, str], seed: int) -> Iterator[Crowd]:
    crowd = Crowd(port, NEIGHBOURS, seed, database=database, start=start, kinds=CALM)
    thread = threading.Thread(target=crowd.run, args=(60.0,))
    thread.start()
    try:
        yield crowd
    finally:
        crowd.stop()
        thread.join()


def texts(script: Script) -> Iterator[str]:
    """Of all that may be a statement."""
    for step in script.steps:
        if step.data[:1] in (b"Q", b"P"):
            text, _, behind = step.data[5:].partition(b"\0")
            if step.data[:1] == b"P":
                text, *_ = behind.split(b"\0")
            yield text.decode("utf-8", "replace")


def catalog(place: Place, database: str) -> Catalog:
    with Wire.session(place.port(None), USER, database) as wire:
        wire.send(QUERY)
        rows = [message.payload for message in wire.until("Z") if message.kind == "D"]
        return read_catalog(build.frame(ord("D"), payload) for payload in rows)


def warm_up(script: Script, front: Front, database: str, start: Mapping[str, str], known: Catalog) -> None:
    """Ask whatever may share a write until all that is needed for that is known."""
    asked = [text for text in texts(script) if decide(text, known, Overrides()).batchable]
    with Wire.session(front.proxy.port, USER, database, **start) as wire:

        def known_to_be_brief() -> bool:
            for text in ("select count(*) from items", *asked):
                wire.ask(text)
            return any(line["batched"] and "from items" in line["query"] for line in front.logged(database))

        wait_until(known_to_be_brief, "that a table is read together with others")
    end_of_log(front, database)


def end_of_log(front: Front, database: str) -> list[dict[str, Any]]:
    """What was logged since the last end."""
    with Wire.session(front.proxy.port, USER, database) as wire:
        wire.ask("select 'the end'")

    def ended() -> list[dict[str, Any]]:
        lines = front.logged(database)
        return lines if lines and "the end" in lines[-1]["query"] else []

    *lines, _ = wait_until(ended, "the end of the log")
    front.old = front.read
    return lines


def came_in(heard: list[str | Message]) -> bool:
    return any(isinstance(each, Message) and each.kind == "K" for each in heard)


def held(name: str, place: Place, front: Front, seed: int) -> tuple[str, int, int]:
    """How it differs, and how many of its own statements were asked, and together with others'."""
    script = SCRIPTS[name]
    direct = run(script, place.port(None), place.database())
    assert in_time(direct), readable(direct)
    database = place.database()
    known = catalog(place, database)
    start = next((step.start for step in script.steps if step.start and came_in(direct[step.client])), {})
    with neighbours(front.proxy.port, database, start, seed) as crowd:
        warm_up(script, front, database, start, known)
        through = run(script, front.proxy.port, database)
        own = end_of_log(front, database)
    assert not crowd.wrong, (name, crowd, *crowd.wrong)
    difference = differences(direct, through, script.without, shared=True)
    return difference, len(own), sum(line["batched"] for line in own)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("part", range(PARTS))
def test_answers_are_the_same(part: int, place: Place, front: Front) -> None:
    seed = int(os.environ.get("SEED", "0")) or random.randrange(1 << 30)
    names = NAMES[part::PARTS] if LONG else random.Random(seed).sample(NAMES, AT_ONCE)
    found = {name: held(name, place, front, seed) for name in dict.fromkeys((ALWAYS, *names))}
    different = [f"{name}:\n{difference}" for name, (difference, *_) in found.items() if difference]
    assert not different, "\n".join((f"seed {seed}", *different))
    shared = {name: f"{together} of {asked}" for name, (_, asked, together) in found.items()}
    print("batched:", shared)
    *_, together = found[ALWAYS]
    assert together, (seed, shared)
