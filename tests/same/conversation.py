"""Conversations with a server as text, and what comes of them.

One message of a client in a line. Lines that are no message say what is waited for, so that who says what
when does not depend on chance:

    A: Query "begin; select 1"        a client's name and a colon; without them it is the client before
    A: ready                          until ReadyForQuery; `ready 3` until the third
    B: Parse s1 "select $1::int" [23]
    B: Flush
    B: until 1                        until a message of that type (ParseComplete); `until 1 3`: the third
    B: answers 2                      until two messages of a pipeline are answered, or there is an error
    B: end                            until the other end closes

What a login sets stands before all else: `A: Start TimeZone "UTC"`. Strings are JSON's, x"00ff" are bytes,
null is SQL's, and "long "*1000 is what it looks like. Comments that are read: `# needs 2` (see Script),
`# without F L R: why` where an error is ours, and does not say where in a server's source it comes from, and
`# differs: why`, perhaps `# differs in transaction mode: why`, where answers are known not to be the same;
`# only in session mode: why` where they are meant not to be elsewhere.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from struct import pack

from pgambassador.wire import build
from tests.harness import Message, Wire

Value = bytes | None
Token = str | Value | list[Value]

_TOKEN = re.compile(r'\s*(?:(x?)("(?:[^"\\]|\\.)*")(?:\*(\d+))?|([\[\]])|([^\s\[\]",]+)),?')
_SPEAKER = re.compile(r"([A-Z]):\s*(.*)", re.DOTALL)
_DIFFERS = re.compile(r"# differs(?: in (transaction|session) mode)?: (.*)")
_ONLY = re.compile(r"# only in (transaction|session) mode: (.+)")
_WITHOUT = re.compile(r"# without ([A-Za-z ]+): (.+)")
MODES = ("transaction", "session")
ANSWERS = "answers"
# What ends the answer to a message of the extended protocol.
_LAST = "123TnCIs"
USER = "app"
OVERDUE = "nothing came within the deadline"


@dataclass(frozen=True)
class Step:
    """What one client does: send a message, wait for one (`until`), or begin or await the end."""

    client: str
    text: str
    data: bytes = b""
    until: str = ""
    times: int = 1
    start: dict[str, str] | None = None


@dataclass
class Script:
    """`needs`: how many server connections its clients hold at once in transaction mode. `only`: the mode in
    which answers are meant to be the same.
    `differs`: why answers are not the same yet, by mode of the pool. `without`: fields of errors that are not
    compared."""

    steps: list[Step] = field(default_factory=list)
    needs: int = 1
    only: str = ""
    differs: dict[str, str] = field(default_factory=dict)
    without: str = ""

    @property
    def clients(self) -> list[str]:
        return list(dict.fromkeys(step.client for step in self.steps))


def read(text: str) -> Script:
    script = Script()
    client = "A"
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line.startswith("# needs "):
            script.needs = int(line.split()[2])
        elif found := _WITHOUT.fullmatch(line):
            script.without = found[1].replace(" ", "")
        elif found := _ONLY.fullmatch(line):
            script.only = found[1]
        elif found := _DIFFERS.fullmatch(line):
            for mode in (found[1],) if found[1] else MODES:
                script.differs[mode] = found[2]
        if not line or line.startswith("#"):
            continue
        if found := _SPEAKER.fullmatch(line):
            client, line = found[1], found[2]
        try:
            script.steps.append(_step(client, line))
        except (ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
            raise ValueError(f"line {number}, {line[:100]!r}: {error!r}") from error
    return script


def _step(client: str, line: str) -> Step:
    word, *rest = list(_tokens(line))
    if word == "Start":
        pairs = [_text(each) for each in rest]
        return Step(client, line, start=dict(zip(pairs[::2], pairs[1::2], strict=True)))
    if word == "ready":
        return Step(client, line, until="Z", times=int(_text(rest[0])) if rest else 1)
    if word == "until":
        return Step(client, line, until=_text(rest[0]), times=int(_text(rest[1])) if rest[1:] else 1)
    if word == "answers":
        return Step(client, line, until=ANSWERS, times=int(_text(rest[0])))
    if word == "end":
        return Step(client, line, until="end")
    assert isinstance(word, str)
    return Step(client, line, _MESSAGES[word](*rest))


def _tokens(line: str) -> Iterator[Token]:
    """Words are str, strings bytes, and lists lists of values."""
    listed: list[Value] | None = None
    position = 0
    while position < len(line):
        found = _TOKEN.match(line, position)
        if found is None:
            raise ValueError(f"cannot be read: {line[position : position + 30]!r}")
        position = found.end()
        hexadecimal, string, times, bracket, word = found.groups()
        value: Value
        if bracket == "[":
            listed = []
            continue
        if bracket == "]":
            assert listed is not None
            yield listed
            listed = None
            continue
        if string is not None:
            inner = json.loads(string, strict=False)
            value = (bytes.fromhex(inner) if hexadecimal else inner.encode()) * int(times or 1)
        elif listed is None and word != "null":
            yield word
            continue
        else:
            value = None if word == "null" else word.encode()
        if listed is None:
            yield value
        else:
            listed.append(value)
    if listed is not None:
        raise ValueError("a list without its end")


def _bytes(token: Token) -> bytes:
    if isinstance(token, str):
        return token.encode()
    assert isinstance(token, bytes)
    return token


def _text(token: Token) -> str:
    return _bytes(token).decode()


def _typed(kind: str, payload: bytes = b"") -> bytes:
    return build.frame(ord(kind), payload)


def _string(token: Token) -> bytes:
    return _bytes(token) + b"\0"  # no check: a NUL in the middle is a case too


def _numbers(token: Token, code: str = "h") -> bytes:
    assert isinstance(token, list)
    numbers = [int(each or b"0") for each in token]
    return pack(f"!h{len(numbers)}{code}", len(numbers), *numbers)


def _values(token: Token) -> bytes:
    assert isinstance(token, list)
    parts = (pack("!i", -1) if each is None else pack("!i", len(each)) + each for each in token)
    return pack("!h", len(token)) + b"".join(parts)


def _parse(name: Token, sql: Token, types: Token = ()) -> bytes:  # type: ignore[assignment]
    return _typed("P", _string(name) + _string(sql) + _numbers(list(types or ()), "I"))  # type: ignore[arg-type]


def _bind(
    portal: Token,
    statement: Token,
    values: Sequence[Value] = (),
    formats: Sequence[Value] = (),
    results: Sequence[Value] = (),
) -> bytes:
    body = _numbers(list(formats)) + _values(list(values)) + _numbers(list(results))
    return _typed("B", _string(portal) + _string(statement) + body)


def _call(
    function: Token, values: Sequence[Value] = (), formats: Sequence[Value] = (), result: Token = "0"
) -> bytes:
    head = pack("!I", int(_bytes(function)))
    return _typed(
        "F", head + _numbers(list(formats)) + _values(list(values)) + pack("!h", int(_text(result)))
    )


_MESSAGES: dict[str, Callable[..., bytes]] = {
    "Query": lambda sql: _typed("Q", _string(sql)),
    "Parse": _parse,
    "Bind": _bind,
    "Describe": lambda kind, name: _typed("D", _bytes(kind) + _string(name)),
    "Execute": lambda portal, most="0": _typed("E", _string(portal) + pack("!i", int(_text(most)))),
    "Close": lambda kind, name: _typed("C", _bytes(kind) + _string(name)),
    "Flush": lambda: build.FLUSH,
    "Sync": lambda: build.SYNC,
    "CopyData": lambda data: _typed("d", _bytes(data)),
    "CopyDone": lambda: _typed("c"),
    "CopyFail": lambda why: _typed("f", _string(why)),
    "FunctionCall": _call,
    "Terminate": lambda: build.TERMINATE,
    "Message": lambda kind, body=b"": _typed(_text(kind), _bytes(body)),
    "Bytes": lambda data: _bytes(data),
}

Transcript = dict[str, list[str | Message]]
"""For each client what it did, as in the script, and what came while it waited."""


class Speaker:
    """One client of a conversation. `whole`: what it says before it waits leaves in one write."""

    def __init__(self, name: str, port: int, database: str, whole: bool) -> None:
        self.name = name
        self.whole = whole
        self.heard: list[str | Message] = []
        self._kept = b""
        self._wire = Wire(port, timeout=10.0)
        self._database = database
        self._ended = self._failed = False

    def begin(self, parameters: dict[str, str]) -> None:
        self._wire.start(user=USER, database=self._database, **parameters)
        self._until("Z", 1)

    def act(self, step: Step) -> None:
        if self._ended:
            return
        self.heard.append(f"> {step.text}")
        if step.until:
            self.flush()
            self._until(step.until, step.times)
        elif step.start is None:
            self._kept += step.data
            if not self.whole:
                self.flush()

    def flush(self) -> None:
        kept, self._kept = self._kept, b""
        try:
            self._wire.send(kept)
        except OSError:
            pass  # what came before the end is read when it is waited for

    def leave(self) -> None:
        """Say goodbye; what comes after that was not waited for is kept too."""
        if not self._ended:
            self._kept += build.TERMINATE
            self.flush()
            self._until("end", 1)
        self._wire.socket.close()

    def _until(self, kind: str, times: int) -> None:
        try:
            while times > 0:
                if kind == ANSWERS and self._failed:
                    return  # nothing else is answered before a Sync
                message = self._wire.receive()
                self.heard.append(message)
                self._failed = message.kind == "E" or (self._failed and message.kind != "Z")
                times -= message.kind in _LAST if kind == ANSWERS else message.kind == kind
        except TimeoutError:
            self.heard.append(OVERDUE)
            self._ended = True
        except OSError:
            self.heard.append("the end")
            self._ended = True


def run(script: Script, port: int, database: str, *, whole: bool = True) -> Transcript:
    """One step after the other, in the order of the script."""
    speakers: dict[str, Speaker] = {}
    last: Speaker | None = None
    try:
        for step in script.steps:
            if step.client not in speakers:
                speakers[step.client] = Speaker(step.client, port, database, whole)
                speakers[step.client].begin(step.start or {})
            if last is not None and last is not speakers[step.client]:
                last.flush()
            last = speakers[step.client]
            last.act(step)
    finally:
        for speaker in speakers.values():
            speaker.leave()
    return {name: speaker.heard for name, speaker in speakers.items()}


def run_at_once(script: Script, port: int, database: str, *, whole: bool = True) -> Transcript:
    """Each client by itself, at the same time as the others."""
    transcript: Transcript = {}

    def speak(client: str) -> None:
        own = Script([step for step in script.steps if step.client == client])
        transcript.update(run(own, port, database, whole=whole))

    threads = [threading.Thread(target=speak, args=(client,)) for client in script.clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {client: transcript[client] for client in script.clients}
