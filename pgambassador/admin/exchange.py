"""The console's side of the protocol: a client's messages in, answers out, simple and extended.

1. All values are texts, so that a client that wants binary gets the same bytes.
2. As a server does it: an error in the extended protocol is followed by silence up to the next Sync, and ends
   the rest of a simple query; within a transaction it leaves the transaction failed. A transaction means
   nothing here, but drivers begin one.
3. What a client can prepare is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from struct import error as Malformed
from struct import pack, unpack_from
from typing import Final, NamedTuple

from pgambassador.admin.command import Command, read, unknown
from pgambassador.errors import AmbassadorError, ProtocolViolation, Refused
from pgambassador.wire import build, parse
from pgambassador.wire.frames import Backend, Frontend, letter

MOST: Final = 100
"""Statements, and portals, at the same time."""
TEXT: Final = 25  # pg_type.oid


class Table(NamedTuple):
    columns: tuple[str, ...]
    rows: Sequence[tuple[str | None, ...]]


Answer = Callable[[str, tuple[str, ...]], Table]
"""What is to be shown, given the verb and the texts of a Command; raises AmbassadorErrors."""


class Exchange:
    """`columns` are those of each table that SHOW knows; `settings` what the client was told at its login."""

    def __init__(
        self, answer: Answer, columns: Mapping[str, tuple[str, ...]], settings: Mapping[str, str]
    ) -> None:
        self._answer = answer
        self._columns = columns
        self._settings = settings
        self._statements: dict[bytes, Command | None] = {}
        self._portals: dict[bytes, tuple[Command | None, tuple[str, ...]]] = {}
        self._status = b"I"
        self._skipping = False
        self.ended = False

    def take(self, kind: int, payload: bytes) -> bytes:
        """The answer to one message; ProtocolViolation where it has none."""
        if kind == Frontend.TERMINATE:
            self.ended = True
            return b""
        if kind == Frontend.QUERY:
            return b"".join(self._query(payload)) + build.ready_for_query(self._status)
        if kind == Frontend.SYNC:
            self._skipping = False
            if self._status == b"I":
                self._portals.clear()
            return build.ready_for_query(self._status)
        if kind in (Frontend.FLUSH, Frontend.COPY_DATA, Frontend.COPY_DONE, Frontend.COPY_FAIL):
            return b""
        handlers: dict[int, Callable[[bytes], bytes]] = {
            Frontend.PARSE: self._parse,
            Frontend.BIND: self._bind,
            Frontend.DESCRIBE: self._describe,
            Frontend.EXECUTE: self._execute,
            Frontend.CLOSE: self._close,
        }
        if kind not in handlers:
            raise ProtocolViolation(f"the console does not take messages of type {letter(kind)}")
        if self._skipping:
            return b""
        try:
            return handlers[kind](payload)
        except (Malformed, IndexError):
            error: AmbassadorError = ProtocolViolation("the message is malformed", hint="Report the driver.")
        except AmbassadorError as refused:
            error = refused
        self._skipping = True
        return self._failed(error)

    def late(self, answer: bytes, error: AmbassadorError) -> bytes:
        """What is sent in place of an answer that was kept, since what was asked has failed meanwhile."""
        if answer.endswith(build.ready_for_query(self._status)):
            return self._failed(error) + build.ready_for_query(self._status)
        self._skipping = True
        return self._failed(error)

    # The simple protocol.

    def _query(self, payload: bytes) -> Iterator[bytes]:
        try:
            text, _ = parse.cstring(payload, 0, "Query")
            commands = self._read(text)
            if not commands:
                yield build.frame(Backend.EMPTY_QUERY_RESPONSE)
            for command in commands:
                if command.parameters:
                    raise Refused("there is no such parameter", sqlstate="42P02", hint="Write the text.")
                yield self._row_description(command) + self._run(command, ())
        except AmbassadorError as error:
            yield self._failed(error)

    # The extended protocol.

    def _parse(self, payload: bytes) -> bytes:
        name, at = parse.cstring(payload, 0, "Parse")
        text, _ = parse.cstring(payload, at, "Parse")
        commands = self._read(text)
        if len(commands) > 1:
            raise Refused(
                "cannot insert multiple commands into a prepared statement",
                sqlstate="42601",
                hint="Send one.",
            )
        if name and name in self._statements:
            raise Refused(f'prepared statement "{parse.decode(name)}" already exists', sqlstate="42P05")
        self._keep(self._statements, name)
        self._statements[name] = commands[0] if commands else None
        return build.frame(Backend.PARSE_COMPLETE)

    def _bind(self, payload: bytes) -> bytes:
        portal, at = parse.cstring(payload, 0, "Bind")
        name, at = parse.cstring(payload, at, "Bind")
        command = self._statement(name)
        (formats,) = unpack_from("!H", payload, at)
        at += 2 + 2 * formats
        (count,) = unpack_from("!H", payload, at)
        at += 2
        needed = command.parameters if command is not None else 0
        if count != needed:
            raise ProtocolViolation(f"bind message supplies {count} parameters, but {needed} are required")
        values = []
        for _ in range(count):
            (size,) = unpack_from("!i", payload, at)
            at += 4
            if size < 0 or at + size > len(payload):
                raise Refused("a parameter is null", sqlstate="22004", hint="Give a text.")
            values.append(parse.decode(payload[at : at + size]))
            at += size
        self._keep(self._portals, portal)
        self._portals[portal] = command, tuple(values)
        return build.frame(Backend.BIND_COMPLETE)

    def _describe(self, payload: bytes) -> bytes:
        name, _ = parse.cstring(payload, 1, "Describe")
        if payload[0] == ord("S"):
            command = self._statement(name)
            count = command.parameters if command is not None else 0
            types = pack(f"!H{count}I", count, *(TEXT for _ in range(count)))
            answer = build.frame(Backend.PARAMETER_DESCRIPTION, types)
        else:
            command, _values = self._portal(name)
            answer = b""
        rows = self._row_description(command) if command is not None else b""
        return answer + (rows or build.frame(Backend.NO_DATA))

    def _execute(self, payload: bytes) -> bytes:
        name, _ = parse.cstring(payload, 0, "Execute")
        command, values = self._portal(name)
        if command is None:
            return build.frame(Backend.EMPTY_QUERY_RESPONSE)
        return self._run(command, values)

    def _close(self, payload: bytes) -> bytes:
        name, _ = parse.cstring(payload, 1, "Close")
        if payload[0] == ord("S"):
            self._statements.pop(name, None)
        else:
            self._portals.pop(name, None)
        return build.frame(Backend.CLOSE_COMPLETE)

    def _statement(self, name: bytes) -> Command | None:
        if name not in self._statements:
            raise Refused(f'prepared statement "{parse.decode(name)}" does not exist', sqlstate="26000")
        return self._statements[name]

    def _portal(self, name: bytes) -> tuple[Command | None, tuple[str, ...]]:
        if name not in self._portals:
            raise Refused(f'portal "{parse.decode(name)}" does not exist', sqlstate="34000")
        return self._portals[name]

    def _keep(self, known: Mapping[bytes, object], name: bytes) -> None:
        if name not in known and len(known) >= MOST:
            raise Refused(f"more than {MOST} are prepared", sqlstate="53400", hint="Close some.")

    # Both.

    def _read(self, text: bytes) -> list[Command]:
        commands = read(parse.decode(text), tuple(self._columns))
        for command in commands:
            if self._status == b"E" and command.verb != "end":
                raise Refused(
                    "current transaction is aborted, commands ignored until end of transaction block",
                    sqlstate="25P02",
                )
            if command.verb == "setting" and self._setting(command) is None:
                raise unknown(f"SHOW {command.texts[0].value}")
        return commands

    def _setting(self, command: Command) -> tuple[str, str] | None:
        """As it is called in the answer, and its value."""
        asked = _SAME.get(command.texts[0].value, command.texts[0].value)
        return next(((name, value) for name, value in self._settings.items() if name.lower() == asked), None)

    def _row_description(self, command: Command) -> bytes:
        if command.verb == "setting":
            found = self._setting(command)
            names: tuple[str, ...] = (found[0],) if found is not None else ()
        else:
            names = self._columns.get(command.verb, ())
        if not names:
            return b""
        fields = (build.cstring(name) + pack("!IhIhih", 0, 0, TEXT, -1, -1, 0) for name in names)
        return build.frame(Backend.ROW_DESCRIPTION, pack("!H", len(names)) + b"".join(fields))

    def _run(self, command: Command, values: tuple[str, ...]) -> bytes:
        rows: Sequence[tuple[str | None, ...]] = ()
        if command.verb == "begin":
            self._status = b"T"
        elif command.verb == "end":
            tag = "ROLLBACK" if self._status == b"E" else command.tag
            self._status = b"I"
            return build.command_complete(tag)
        elif command.verb == "setting":
            found = self._setting(command)
            rows = [(found[1],)] if found is not None else ()
        elif command.verb != "ignore":
            rows = self._answer(command.verb, command.filled(values)).rows
        return b"".join(map(_row, rows)) + build.command_complete(command.tag)

    def _failed(self, error: AmbassadorError) -> bytes:
        if self._status == b"T":
            self._status = b"E"
        return build.error_response("ERROR", error.sqlstate, error.message, error.detail, error.hint)


# As SQL says it, and drivers too.
_SAME: Final = {
    "transaction isolation level": "transaction_isolation",
    "time zone": "timezone",
}


def _row(values: tuple[str | None, ...]) -> bytes:
    fields = []
    for value in values:
        data = None if value is None else build.encode(value)
        fields.append(pack("!i", -1) if data is None else pack("!i", len(data)) + data)
    return build.frame(Backend.DATA_ROW, pack("!H", len(values)) + b"".join(fields))
