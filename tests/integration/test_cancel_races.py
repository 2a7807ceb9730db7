"""Cancel requests at random moments, on a pool smaller than the number of clients.

Whoever never asks for it is never cancelled, and whoever is has asked for it just now. What is random follows
a seed, which a failure shows. How many of the races are won is the machine's affair, so beside them there are
requests that cannot miss and requests that come too late for certain.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest
from psycopg import Connection

from pgambassador.embedded import Postgres
from pgambassador.wire import build
from tests.harness import USERS, Ambassador, Answer, wait_until
from tests.harness.activity import sessions, wait_running
from tests.harness.cancelling import Cancellable
from tests.messages import SYNC, bind, execute, extended, parse

SIZE = 3
CANCELLING = 6
BYSTANDERS = 6
RACES = 20
"""For each client that cancels: 120 in all."""
AIMS = ("sure", "late", "race", "race", "race")
"""In turn: of a statement that runs and does not end by itself, of one that was answered, of one that runs
briefly. (One on its way may be missed, with PostgreSQL itself too: 1 or 2 of 100 on a busy machine.)"""


class Client:
    """`done`: what became of its statements; `wrong`: what must not have happened."""

    def __init__(self, number: int, seed: int) -> None:
        self.number = number
        self.chance = random.Random(f"{seed} {number}")
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []

    def run(self, port: int, work: Callable[[Cancellable], None]) -> None:
        try:
            with Cancellable.session(port) as wire:
                work(wire)
        except Exception as error:
            self.wrong.append(f"client {self.number}: {error!r}")

    def say(self, wire: Cancellable, token: str) -> None:
        """Send a statement of any kind."""
        kind = self.chance.choice(["short", "long", "extended", "prepared", "transaction"])
        sleep = f"pg_sleep({self.chance.uniform(0.005, 0.03):.4f})"
        if kind == "short":
            wire.send(build.query(f"select '{token}', 1"))
        elif kind == "long":
            wire.send(build.query(f"select '{token}', {sleep}"))
        elif kind == "extended":
            wire.send(extended(f"select '{token}', {sleep}".encode()), SYNC)
        elif kind == "prepared":
            wire.send(parse(token.encode(), b"select $1, pg_sleep(0.01)"))
            wire.send(bind(token.encode(), token.encode()), execute(), SYNC)
        else:
            wire.send(build.query(f"begin; select '{token}', {sleep}; commit"))

    def hear(self, wire: Cancellable, token: str, may_fail: bool) -> None:
        answer = wire.until("Z")
        if "E" in answer.kinds:
            state = answer.error.sqlstate
            if state == "57014" and may_fail:
                self.done["cancelled"] += 1
            else:
                self.wrong.append(f"{token}: {answer.error.fields}")
            if answer[-1].payload != b"I":
                wire.ask("rollback")
        elif not answer.rows or answer.rows[0][0] != token:
            self.wrong.append(f"{token}: {_shown(answer)}")
        else:
            self.done["answered"] += 1

    def cancel_often(self, wire: Cancellable, seen_by: Connection) -> None:
        """Each request is over before the statement behind the next one is sent."""
        for turn in range(RACES):
            token, aim = f"canceller {self.number} {turn}", AIMS[turn % len(AIMS)]
            if aim == "sure":
                wire.send(build.query(f"select '{token}', pg_sleep(60)"))
                wait_running(seen_by, token)
            else:
                self.say(wire, token)
            if aim == "late":
                self.hear(wire, token, may_fail=False)
            else:  # the moment of the race
                time.sleep(self.chance.choice([0, 0, 0.001, 0.02]) * self.chance.random())
            with wire.begin_cancel() as request:
                if aim != "late":
                    self.hear(wire, token, may_fail=True)
                self.done["requests"] += 1
                if request.rest():
                    self.wrong.append(f"{token}: an answer to a cancel request")
            self.say(wire, token + " behind")
            self.hear(wire, token + " behind", may_fail=False)

    def look_on(self, wire: Cancellable, until: threading.Event) -> None:
        turn = 0
        while not until.is_set():
            token = f"bystander {self.number} {turn}"
            self.say(wire, token)
            self.hear(wire, token, may_fail=False)
            turn += 1


def _shown(answer: Answer) -> str:
    return f"{answer.kinds} {answer.rows}"


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_only_those_who_asked_for_it_are_cancelled(
    mode: str, primary: Postgres, ambassador: Callable[..., Ambassador], observer: Connection
) -> None:
    """In session mode each has a server connection, and requests race with the end of statements alone."""
    seed = int(os.environ.get("SEED", "0")) or random.randrange(1 << 30)
    proxy = ambassador(
        primary.url("app", USERS["app"].password, "app"),
        pool={"mode": mode, "size": SIZE if mode == "transaction" else CANCELLING + BYSTANDERS},
    )
    cancelling = [Client(number, seed) for number in range(CANCELLING)]
    bystanders = [Client(CANCELLING + number, seed) for number in range(BYSTANDERS)]
    over = threading.Event()
    often = partial(Client.cancel_often, seen_by=observer)
    threads = [
        threading.Thread(target=client.run, args=(proxy.port, partial(often, client)))
        for client in cancelling
    ]
    others = [
        threading.Thread(
            target=client.run, args=(proxy.port, lambda wire, client=client: client.look_on(wire, over))
        )
        for client in bystanders
    ]
    for thread in (*threads, *others):
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    for thread in others:
        thread.join()

    clients = [*cancelling, *bystanders]
    done = sum((client.done for client in clients), Counter())
    wrong = [line for client in clients for line in client.wrong]
    assert not wrong, "\n".join((f"seed {seed}, {dict(done)}", *wrong[:20]))
    assert done["requests"] == CANCELLING * RACES
    assert all(client.done["cancelled"] == 0 < client.done["answered"] for client in bystanders)
    for client in cancelling:
        assert client.done["cancelled"] + client.done["answered"] == 2 * RACES
        assert client.done["cancelled"] >= RACES // len(AIMS)
    wait_until(lambda: set(sessions(observer).values()) <= {"idle"}, "the end of all statements")
    assert proxy.metrics().total("pgambassador_pool_waiting_clients") == 0
