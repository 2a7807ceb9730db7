"""Where a driver's programme runs: on the server itself, or on a pool of the ambassador."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg import Connection

from tests.harness.activity import wait_running

MANY = 50_000
"""Rows of a big result."""


@dataclass(frozen=True)
class Place:
    port: int
    user: str
    password: str
    database: str
    connections: int
    """Over how many server connections the statements of one client may go."""
    server: str
    """The way past the ambassador, for whoever must not need its pool."""
    host: str = "127.0.0.1"

    def dsn(self, scheme: str = "postgresql", *, database: str = "", password: str = "") -> str:
        login = f"{self.user}:{quote(password or self.password)}"
        return f"{scheme}://{login}@{self.host}:{self.port}/{database or self.database}"

    def arguments(self, **more: Any) -> dict[str, Any]:
        """For drivers that take no URL."""
        names = ("host", "port", "user", "password", "database")
        return {name: getattr(self, name) for name in names} | more

    def turns(self, number: int) -> Iterator[int]:
        """In each turn other clients hold none, one, or more of the server connections, those used last, so
        that a client's next statement goes over another one."""
        with ExitStack() as stack:
            others = [stack.enter_context(psycopg.connect(self.dsn())) for _ in range(self.connections - 1)]
            for turn in range(number):
                for other in others:
                    other.rollback()
                for other in others[: turn % self.connections]:
                    other.execute("select 1")
                yield turn
            for other in others:
                other.rollback()

    def notify(self, channel: str, payload: str) -> None:
        with psycopg.connect(self.server, autocommit=True) as connection:
            connection.execute("select pg_notify(%s, %s)", (channel, payload))


@contextmanager
def when_running(observer: Connection, text: str, act: Callable[[], object]) -> Iterator[None]:
    """`act` in a thread, as soon as the server is at work on a statement that contains the text."""
    failures: list[BaseException] = []

    def watch() -> None:
        try:
            wait_running(observer, text)
            act()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    assert not failures, failures
