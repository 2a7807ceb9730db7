"""What a server is doing, as an observer sees it."""

from __future__ import annotations

from psycopg import Connection

from tests.harness.waiting import wait_until

_STATES = "select state, wait_event from pg_stat_activity where query like %s and pid <> pg_backend_pid()"


def is_running(observer: Connection, text: str) -> bool:
    """Whether a statement that contains the text is under way."""
    return any(state == "active" for state, _ in observer.execute(_STATES, (f"%{text}%",)))


def wait_running(observer: Connection, text: str) -> None:
    wait_until(lambda: is_running(observer, text), f"a server at work on {text!r}")


def wait_over(observer: Connection, text: str, *, deadline: float = 10.0) -> None:
    wait_until(lambda: not is_running(observer, text), f"the end of {text!r}", deadline=deadline)


def wait_blocked(observer: Connection, text: str, event: str = "ClientWrite") -> None:
    """Until the server's side of the connection is full and the statement rests (ClientRead: it is empty)."""

    def blocked() -> bool:
        return any(found == event for _, found in observer.execute(_STATES, (f"%{text}%",)))

    wait_until(blocked, f"{text!r} in {event}", deadline=20)


def sessions(observer: Connection, database: str = "app") -> dict[int, str]:
    """The state of each client's backend in the database."""
    rows = observer.execute(
        "select pid, state from pg_stat_activity where datname = %s and backend_type = 'client backend'",
        (database,),
    )
    return dict(rows.fetchall())


def terminate(observer: Connection, *pids: int) -> None:
    """Returns when they are gone."""
    for pid in pids:
        observer.execute("select pg_terminate_backend(%s, 5000)", (pid,))


def stop(observer: Connection, text: str) -> None:
    """End what a test has left running on purpose: to others it would look like theirs."""
    rows = observer.execute(
        "select pid from pg_stat_activity where query like %s and pid <> pg_backend_pid()", (f"%{text}%",)
    )
    terminate(observer, *(pid for (pid,) in rows.fetchall()))
