"""Asking a server what it is and how far it has got: two statements that anybody may execute.

1. `abilities` is asked once for a connection: which of the functions there are, and may be used. What cannot
   be asked is left out of the question; nothing else is lost by that.
2. `report` is one row, read in one statement. Whether it is a standby is evaluated once for all of the row,
   so that a promotion in between mixes nothing up.
3. `life` tells one run of a server from every other run of any server: behind one address there may be
   several, and after a restart a standby may show less than it has shown before.
4. On a primary the timeline is exact. On a standby it is what is proven: by what it receives, if
   pg_stat_wal_receiver may be read, or else by its control file, which learns of a new timeline only at the
   next restartpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from struct import pack
from typing import Final

from pgambassador.errors import ProtocolViolation, ServerRefused
from pgambassador.wire import build, parse
from pgambassador.wire.frames import Backend, Dialogue, Frontend

MOST_ROWS: Final = 64
_MOST_FRAMES: Final = 200
_STATEMENT: Final = b"pga_probe"


def _micros(function: str) -> str:
    return f"(pg_catalog.date_part('epoch', pg_catalog.{function}())::numeric * 1000000)::bigint"


_BORN: Final = (
    f"{_micros('pg_postmaster_start_time')} + CASE WHEN pg_catalog.pg_is_in_recovery()"
    f" THEN coalesce({_micros('pg_stat_get_bgwriter_stat_reset_time')}, 0) ELSE 0 END"
)
"""A standby whose processes had to be started anew, because one of them was killed, replays again what was
not on disk, and may show less than before. Then its statistics begin anew too; its postmaster is the same."""


def _may(function: str) -> str:
    return (
        f"pg_catalog.has_function_privilege(pg_catalog.to_regprocedure('pg_catalog.{function}'), 'execute')"
    )


_POSITIONS: Final = (
    "pg_current_wal_insert_lsn()",
    "pg_current_wal_flush_lsn()",
    "pg_last_wal_replay_lsn()",
)
_CONTROLS: Final = ("pg_control_system()", "pg_control_checkpoint()", "pg_control_recovery()")
_AURORA: Final = ("aurora_replica_status()", "aurora_db_instance_identifier()")


def _all(functions: tuple[str, ...]) -> str:
    return f"coalesce({' AND '.join(_may(each) for each in functions)}, false)"


_ABILITIES: Final = f"""
    SELECT pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_block_size')),
        pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size')),
        {_all(_POSITIONS)}, {_all(_CONTROLS)}, {_all(("pg_walfile_name(pg_lsn)",))},
        pg_catalog.to_regclass('pg_catalog.pg_stat_wal_receiver') IS NOT NULL, {_all(_AURORA)}"""


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a connection can be asked. `block` and `segment`: bytes of a page and of a file of its WAL."""

    block: int
    segment: int
    positions: bool
    control: bool
    walfile: bool
    receiver: bool
    aurora: bool


@dataclass(frozen=True, slots=True)
class Report:
    """One answer. `position`: the end of what a primary has inserted into its WAL, or of what a standby has
    replayed; `durable`: what a primary has flushed, or a standby received. None where that cannot be asked.

    `system` and `timeline` are "" and 0 where they are not known. `lags`: on Aurora, by instance, the seconds
    for which it has shown nothing newer; `instance` is this one's name there.
    """

    standby: bool
    life: int
    position: int | None = None
    durable: int | None = None
    system: str = ""
    timeline: int = 0
    block: int = 8192
    segment: int = 16 << 20
    instance: str = ""
    lags: Mapping[str, float] = field(default_factory=dict)
    members: tuple[str, ...] = ()
    """On Aurora, what the writer says: the names of all instances."""

    def contradicts(self, other: Report) -> bool:
        """Whether two are primaries on one timeline: what follows which of them cannot be told."""
        return (
            not (self.standby or other.standby)
            and self.timeline != 0
            and (self.system, self.timeline) == (other.system, other.timeline)
            and self.life != other.life
        )


def abilities() -> Dialogue[Abilities]:
    """Raises ServerRefused or ProtocolViolation, as all dialogues here."""
    (row,) = yield from _rows(build.query(_ABILITIES), columns=7, rows=1)
    try:
        block, segment = int(row[0] or b""), int(row[1] or b"")
    except ValueError:
        raise _odd() from None
    if not (block > 0 and segment >= block):
        raise _odd()
    return Abilities(block, segment, *(value == b"t" for value in row[2:]))


class Probe:
    """The question, prepared on the connection when it is asked for the first time."""

    def __init__(self, can: Abilities) -> None:
        self._can = can
        self._text = _question(can)
        self._prepared = False

    def report(self) -> Dialogue[Report]:
        data = b"" if self._prepared else build.parse(_STATEMENT, self._text.encode())
        bind = build.cstring(b"") + build.cstring(_STATEMENT) + pack("!HHH", 0, 0, 0)
        data += build.frame(Frontend.BIND, bind) + build.frame(Frontend.EXECUTE, b"\0" + pack("!I", 0))
        rows = yield from _rows(data + build.SYNC, columns=10, rows=MOST_ROWS)
        self._prepared = True
        return _report(rows, self._can)


IDENTITY: Final = build.query(f"SELECT {_BORN}, pg_catalog.pg_is_in_recovery()")
"""For any connection: the `life` of the server behind it, and whether that is a standby now."""


def identity(rows: Sequence[bytes]) -> tuple[int, bool]:
    """From the DataRows that answer IDENTITY."""
    if len(rows) != 1 or len(row := parse.columns(rows[0])) != 2:
        raise _odd()
    return _whole(row[0]), row[1] == b"t"


def _question(can: Abilities) -> str:
    # Aurora has the functions of a server with WAL, but some of them only raise an error.
    position = durable = "NULL::pg_catalog.pg_lsn"
    positions = can.positions and not can.aurora
    if positions:
        position = (
            "CASE WHEN r THEN pg_catalog.pg_last_wal_replay_lsn()"
            " ELSE pg_catalog.pg_current_wal_insert_lsn() END"
        )
        durable = (
            "CASE WHEN r THEN pg_catalog.pg_last_wal_receive_lsn()"
            " ELSE pg_catalog.pg_current_wal_flush_lsn() END"
        )
    system, proven = "''", ["0"]
    if can.control and not can.aurora:
        system = "(SELECT system_identifier::text FROM pg_catalog.pg_control_system())"
        proven.append("(SELECT timeline_id FROM pg_catalog.pg_control_checkpoint())")
        proven.append("(SELECT min_recovery_end_timeline FROM pg_catalog.pg_control_recovery())")
    if can.receiver and not can.aurora:
        proven.append("(SELECT received_tli FROM pg_catalog.pg_stat_wal_receiver)")
    written = "''"
    if can.walfile and positions:
        written = (
            "CASE WHEN NOT r THEN"
            " pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8) END"
        )
    instance, other, lag, source = "''", "''", "''", ""
    if can.aurora:
        instance = "pg_catalog.aurora_db_instance_identifier()"
        other = "a.server_id"
        # Without a time there is no lag: it would be of nobody knows when.
        lag = (
            "CASE WHEN a.last_update_timestamp IS NOT NULL THEN"
            " a.replica_lag_in_msec / 1000.0 + greatest(0, pg_catalog.date_part('epoch',"
            " pg_catalog.clock_timestamp() - a.last_update_timestamp)) END"
        )
        source = f" LEFT JOIN pg_catalog.aurora_replica_status() AS a ON NOT r LIMIT {MOST_ROWS}"
    return (
        f"SELECT r, {_BORN}, {position}, {durable}, {system}, greatest({', '.join(proven)}), {written},"
        f" {instance}, {other}, {lag}"
        f" FROM (SELECT pg_catalog.pg_is_in_recovery() AS r OFFSET 0) AS s{source}"
    )


def _report(rows: list[list[bytes | None]], can: Abilities) -> Report:
    if not rows:
        raise _odd()
    standby, life, position, durable, system, proven, written, instance, *_ = rows[0]
    timeline = _whole(proven) if standby == b"t" else _whole(written, 16)
    return Report(
        standby=standby == b"t",
        life=_whole(life),
        position=_lsn(position),
        durable=_lsn(durable),
        system=parse.decode(system or b""),
        timeline=timeline,
        block=can.block,
        segment=can.segment,
        instance=parse.decode(instance or b""),
        lags={parse.decode(row[8]): _seconds(row[9]) for row in rows if row[8] and row[9]},
        members=tuple(parse.decode(row[8]) for row in rows if row[8]),
    )


def _seconds(text: bytes) -> float:
    try:
        found = float(text)
    except ValueError:
        raise _odd() from None
    if not 0 <= found < 1e9:
        raise _odd()
    return found


def _whole(text: bytes | None, base: int = 10) -> int:
    """0 for what is not there."""
    try:
        return int(text or b"0", base)
    except ValueError:
        raise _odd() from None


def _lsn(text: bytes | None) -> int | None:
    if text is None:
        return None
    high, slash, low = text.partition(b"/")
    if not slash:
        raise _odd()
    return _whole(high, 16) << 32 | _whole(low, 16)


def _rows(data: bytes, *, columns: int, rows: int) -> Dialogue[list[list[bytes | None]]]:
    """The rows that answer this; an error is raised once the connection is ready again."""
    found: list[list[bytes | None]] = []
    refusal: ServerRefused | None = None
    for _ in range(_MOST_FRAMES):
        kind, payload = yield data
        data = b""
        match kind:
            case Backend.DATA_ROW:
                row = parse.columns(b"D\0\0\0\0" + payload)
                if len(row) != columns or len(found) == rows:
                    raise _odd()
                found.append(row)
            case Backend.ERROR_RESPONSE:
                refusal = ServerRefused(parse.fields(payload))
                if refusal.fields.get("V", refusal.fields.get("S")) in ("FATAL", "PANIC"):
                    raise refusal
            case Backend.READY_FOR_QUERY:
                if refusal is not None:
                    raise refusal
                return found
            case _:
                pass
    raise ProtocolViolation("the server does not come to an end of its answer")


def _odd() -> ProtocolViolation:
    return ProtocolViolation("the server answers the question for its role in a way that makes no sense")
