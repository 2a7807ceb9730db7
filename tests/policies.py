"""Stand-ins for what decides, in the plays of `tests/playbook.py`."""

from __future__ import annotations

from typing import Any

from pgambassador.net.backend import Backend
from pgambassador.net.parties import Statement
from pgambassador.net.session import Session
from pgambassador.net.statements import Statements
from pgambassador.net.verdicts import Verdict, Verdicts
from pgambassador.routing.decision import Decision
from pgambassador.wire import build
from tests import messages

SWITCH = "SET state TO '{}'"
QUESTION = build.query("what is set?")
ROLLBACK = build.query("ROLLBACK")
LED_BACK = b"select set_config('it', 'as the start packet said', false)"


class Policy:
    """Decides the least that is needed, and writes down what it was asked: `play.policy.heard`."""

    def __init__(self) -> None:
        self.old_news: set[tuple[str, str]] = set()
        self.heard: list[tuple[Any, ...]] = []
        self.known: dict[bytes, Statement] = {}
        self.statements = Statements()
        self.routes = Routes()
        self.generous = False
        self.fate: Any = None
        """What becomes of sessions whose connection is lost; without one they end."""
        self.second: Any = None

    def count(self, event: str) -> int:
        return sum(each[0] == event for each in self.heard)

    def statement(self, body: bytes, settings: object) -> Statement:
        if body not in self.known:
            name = b"pga_%d" % (len(self.known) + 1)
            frame = build.frame(ord("P"), name + b"\0" + body)
            self.known[body] = Statement(name, frame, body.partition(b"\0")[0])
        return self.known[body]

    def prepared(self, session: Session, backend: Backend, statement: Statement) -> None: ...

    def wanted(self) -> None:
        self.heard.append(("wanted",))

    def carries(self) -> None: ...

    def yields(self) -> bool:
        self.heard.append(("yields",))
        return self.generous

    def switch(self, backend: Backend, session: Session) -> tuple[bytes, int]:
        return switched(session.state), 1

    def reported(self, session: Session, backend: Backend, name: str, value: str) -> bool:
        self.heard.append(("reported", name, value))
        if (name, value) in self.old_news:
            return False
        session.state = backend.state = f"{name}={value}"
        return True

    def abides(self, session: Session, backend: Backend) -> None: ...

    def overheard(self) -> None:
        self.heard.append(("overheard",))

    def unreported(self, session: Session, backend: Backend) -> bytes:
        return b""

    def tagged(self, session: Session, backend: Backend, tag: str) -> None:
        self.heard.append(("tagged", tag))
        if tag == "SET":
            backend.marked_by = session
        elif tag == "LISTEN":
            backend.pinned = True
        elif tag == "DEALLOCATE ALL":
            backend.forget_statements(session)

    def pid_told(self, session: Session, backend: Backend, pid: bytes) -> bytes:
        return pid

    def called(self, session: Session, backend: Backend, text: bytes, bound: bytes = b"") -> None:
        self.heard.append(("called", text))
        backend.marked_by = session

    def led_back(self, session: Session, backend: Backend, text: bytes) -> list[bytes]:
        return [LED_BACK] if text.startswith(b"reset it") else []

    def question(self, session: Session, backend: Backend) -> bytes:
        return QUESTION

    def due(self, session: Session, backend: Backend, failed: bool) -> None: ...

    def answered(self, session: Session, backend: Backend, rows: list[bytes] | None) -> None:
        self.heard.append(("answered", rows))
        if rows is None:
            backend.pinned = True
        else:
            session.state = backend.state = b" ".join(rows)

    def abandoned(self, backend: Backend, half: bool) -> None:
        self.heard.append(("abandoned", half))
        if backend.finish_survey():
            return
        if half or not backend.clean:
            backend.close("abandoned")
        else:
            rollback = backend.transaction != "I"
            backend.ask(ROLLBACK if rollback else b"", int(rollback))

    def bereft(self, session: Session, backend: Backend, loss: Any) -> Any:
        self.heard.append(("bereft", loss))
        if self.fate is not None:
            return self.fate
        session.tell(build.error_response("FATAL", "08006", loss.reason))
        session.close(loss.reason)
        return None

    def refused(
        self,
        session: Session,
        backend: Backend,
        sqlstate: str,
        request: bytes,
        unnamed: bytes | None,
        tries: int,
    ) -> Any:
        self.heard.append(("refused", sqlstate, request, tries))
        return self.second

    def later(self, session: Session, pause: float) -> None:
        self.heard.append(("later", session, pause))

    def uncertain(self, error: bytes) -> bytes:
        return build.error_response("ERROR", "08007", "not known")

    def lost(self, backend: Backend, reason: str) -> None:
        self.heard.append(("lost", reason))

    def failed(self, session: Session, error: Any) -> None:
        session.tell(build.error_response("FATAL", error.sqlstate, error.message))
        session.close(error.message)

    def broke(self, who: Session | Backend, error: Exception) -> None:
        raise AssertionError(f"an error of ours in {who!r}") from error

    def drained(self, session: Session) -> None:
        session.close("drained")

    def left(self, session: Session, reason: str) -> None:
        self.heard.append(("left", reason))


class Routes:
    """Judges statements by how they begin, in place of what a database's catalog says."""

    no_replica = build.error_response("ERROR", "57P03", "no replica will do")
    route: str | None = None
    judge_as_writes = False

    def __init__(self) -> None:
        self.verdicts = Verdicts(self.judge)

    def circle(self, session: Session) -> Routes:
        return self

    def judge(self, text: bytes) -> Verdict:
        text = text.lower()
        if text.startswith(b"select") and self.judge_as_writes:
            decision = Decision("write", "primary", "writes now")
        elif text.startswith(b"ruled"):
            decision = Decision("unknown", "replica", "a rule says so")
        elif text.startswith(b"select"):
            decision = Decision("read", "replica", "reads", batchable=b"slow" not in text)
        elif text == b"begin read only":
            decision = Decision("transaction", "replica", "begins", begins="read only")
        elif text.startswith(b"begin"):
            decision = Decision("transaction", "primary", "begins", begins="unsaid")
        elif text == b"start transaction":
            decision = Decision("transaction", "primary", "begins", begins="unsaid", starts=True)
        elif text.startswith(b"set transaction read only"):
            decision = Decision("transaction", "any", "makes it read only", makes_read_only=True)
        elif text in (b"commit", b"rollback"):
            decision = Decision("transaction", "any", "ends it", ends=True)
        else:
            decision = Decision("write", "primary", "writes")
        return Verdict(decision)


class Routed(Policy):
    """There are standbys, or connections that several clients share."""

    def __init__(self) -> None:
        super().__init__()
        self.wants_fresher = 0

    def joins(self, state: object) -> bool:
        return state != "serializable"

    def discreet(self, state: object) -> bool:
        return state != "log"

    def fresher_wanted(self, now: float) -> None:
        self.wants_fresher += 1


def switched(state: object) -> bytes:
    """The messages with which `Policy` brings a server into a state."""
    return build.execution(SWITCH.format(state))


AGREED = messages.PARSE_COMPLETE + messages.BIND_COMPLETE + messages.complete("SET")
"""What a server answers to each statement of that."""
