"""The query log: one JSON object a line for each logged statement, written without holding up the data path.

1. `add` appends to a bounded queue and returns; it never formats, writes or waits. A full queue drops and
   counts.
2. One thread normalises, formats and writes. It is woken when the queue was empty, then lingers, so that a
   busy proxy pays for a few wake-ups a second and not for one per statement.
3. The thread holds the interpreter for about half a millisecond at a time, then yields it.
4. A sink that fails (full disk, closed pipe) costs lines, never more: they are counted, and the log says so
   once.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import OrderedDict, deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from pgambassador.observe.normalize import CUT, normalize
from pgambassador.routing.reading import fingerprint

if TYPE_CHECKING:
    from pgambassador.observe.sink import Sink

logger = logging.getLogger("pgambassador.querylog")

Record = tuple[float, str, str, str, str, bytes, float, float, int, int, int, str, str, str, str, bool]
"""wall clock, client, database, user, application_name, statement, seconds, seconds waited, rows,
bytes in, bytes out, server, SQLSTATE or '', primary or replica or '', why, whether it was batched"""

RECORDS_LIMIT = 8192
BYTES_LIMIT = 16 << 20  # of statements in the queue
STATEMENT_LIMIT = 16 << 10  # bytes of a statement that are looked at
TEXT_LIMIT = 4096  # characters of a statement that are written
CACHE_LIMIT = 1024
LINGER = 0.05
SLICE, PAUSE = 0.0005, 0.0005  # work, then let the event loop have the interpreter


class QueryLog:
    """`start`, then `add` from one thread, then `close`."""

    def __init__(
        self,
        sink: Sink,
        *,
        slow: float | None = 0.25,
        sample: float = 0.0,
        errors: bool = True,
        literals: bool = False,
    ) -> None:
        self.written = 0
        self.dropped = 0
        self.failed = 0
        self._sink = sink
        self.configure(slow=slow, sample=sample, errors=errors, literals=literals)
        self._queue: deque[Record] = deque()
        self._bytes_in = 0  # written by the adding thread only
        self._bytes_out = 0  # written by the log's thread only, so that neither needs a lock
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._complained = False
        self._thread = threading.Thread(target=self._run, name="query log", daemon=True)

    def configure(self, *, slow: float | None, sample: float, errors: bool, literals: bool) -> None:
        """What is logged from now on, and how."""
        self._slow = slow
        self._sample = sample
        self._errors = errors
        self._format = Formatter(slow=slow, literals=literals)

    def __repr__(self) -> str:
        counts = f"written={self.written} dropped={self.dropped} failed={self.failed}"
        return f"<QueryLog {self._sink} queued={len(self._queue)} {counts}>"

    def start(self) -> None:
        self._thread.start()

    def wants(self, duration: float, sqlstate: str) -> bool:
        """Whether a statement is to be logged: slow, failed, or in the sample."""
        return (
            (self._slow is not None and duration >= self._slow)
            or (self._errors and sqlstate != "")
            or (self._sample > 0.0 and random.random() < self._sample)
        )

    def add(self, record: Record) -> None:
        size = len(record[5])
        if size > STATEMENT_LIMIT:
            # One byte more than the limit, by which the formatter sees that this is not all of it.
            record = (*record[:5], record[5][: STATEMENT_LIMIT + 1], *record[6:])
            size = STATEMENT_LIMIT + 1
        queue = self._queue
        if len(queue) >= RECORDS_LIMIT or self._bytes_in - self._bytes_out + size > BYTES_LIMIT:
            self.dropped += 1
            return
        self._bytes_in += size
        queue.append(record)
        if len(queue) == 1:
            self._wake.set()

    def close(self, timeout: float = 2.0) -> None:
        """Writes what is queued; gives up after the timeout (a pipe that nobody reads blocks its writer)."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait()
            self._stop.wait(LINGER)
            self._wake.clear()
            self._drain()
        self._drain()
        self._sink.close()

    def _drain(self) -> None:
        while self._queue:
            lines: list[bytes] = []
            until = time.monotonic() + SLICE
            while time.monotonic() < until:
                try:
                    record = self._queue.popleft()
                except IndexError:
                    break
                self._bytes_out += len(record[5])
                lines.append(self._format(record))
            self._write(lines)
            time.sleep(PAUSE)

    def _write(self, lines: list[bytes]) -> None:
        try:
            self._sink.write(b"".join(lines))
        except OSError as error:
            self.failed += len(lines)
            if not self._complained:
                self._complained = True
                logger.error(
                    "The query log %s cannot be written: %s. Statements are lost.", self._sink, error.strerror
                )
        else:
            self.written += len(lines)
            if self._complained:
                self._complained = False
                logger.warning(
                    "The query log %s is written again; %d statements were lost.", self._sink, self.failed
                )


class Formatter:
    """A record into a line. Remembers the statements that it has seen."""

    def __init__(self, *, slow: float | None, literals: bool) -> None:
        self._slow = slow
        self._literals = literals
        self._seen: OrderedDict[bytes, tuple[str, str | None]] = OrderedDict()
        self._encode = msgspec.json.Encoder().encode

    def __call__(self, record: Record) -> bytes:
        (
            when,
            client,
            database,
            user,
            application,
            text,
            duration,
            wait,
            rows,
            received,
            sent,
            server,
            sqlstate,
            route,
            why,
            batched,
        ) = record
        query, mark = self._statement(text)
        line = {
            "time": _timestamp(when),
            "client": client,
            "database": _clean(database),
            "user": _clean(user),
            "application_name": _clean(application),
            "query": query,
            "fingerprint": mark,
            "duration_ms": round(duration * 1000, 3),
            "wait_ms": round(wait * 1000, 3),
            "rows": rows,
            "bytes_in": received,
            "bytes_out": sent,
            "server": server,
            "route": route,
            "why": why,
            "batched": batched,
            "sqlstate": sqlstate,
            "slow": self._slow is not None and duration >= self._slow,
        }
        return self._encode(line) + b"\n"

    def _statement(self, text: bytes) -> tuple[str, str | None]:
        seen = self._seen.get(text)
        if seen is None:
            seen = self._read(text)
            if len(text) <= TEXT_LIMIT:
                self._seen[text] = seen
                if len(self._seen) > CACHE_LIMIT:
                    self._seen.popitem(last=False)
        else:
            self._seen.move_to_end(text)
        return seen

    def _read(self, text: bytes) -> tuple[str, str | None]:
        written = text[:STATEMENT_LIMIT].decode("utf-8", "replace")
        whole = len(text) <= STATEMENT_LIMIT
        query = written if self._literals else normalize(written, TEXT_LIMIT)
        if len(query) > TEXT_LIMIT or not (whole or query.endswith(CUT)):
            query = query[:TEXT_LIMIT] + CUT
        return query, (fingerprint(written) or None) if whole else None


def _timestamp(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _clean(text: str) -> str:
    """msgspec refuses lone surrogates, which a name that was not UTF-8 may have been decoded to."""
    return text.encode("utf-8", "replace").decode("utf-8")
