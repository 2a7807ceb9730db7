# cython: language_level=3, boundscheck=False, wraparound=False
"""One client after its login: takes its messages to a server connection, as little changed as can be.

1. A message that a server must answer needs a server connection; without one the session waits with that message
   kept, and reads on only up to `WAIT_BOUND`, to notice that its client has gone.
2. Late CopyData of a COPY that has failed is dropped, as a server would.
"""
from libc.stdlib cimport RAND_MAX, rand

from pgambassador.net.answers cimport SHARED
from pgambassador.net.backend cimport Backend
from pgambassador.net.channel cimport Channel
from pgambassador.net.lane cimport Lane
from pgambassador.net.lobby cimport Lobby
from pgambassador.net.parties cimport Statement, clock
from pgambassador.net.requests cimport OWED_MOST
from pgambassador.net.tally cimport held, tight, weigh
from pgambassador.wire.framing cimport MORE, Scanner

from pgambassador.errors import ProtocolViolation
from pgambassador.wire.framing import WHOLE

# What a client may send after its login, and how much of it we look at.
cdef dict NEEDS = {
    ord("Q"): 64 * 1024, ord("P"): WHOLE, ord("B"): 256, ord("D"): WHOLE, ord("C"): WHOLE, ord("E"): WHOLE,
    ord("F"): 5, ord("d"): 5, ord("c"): 5, ord("f"): 5, ord("H"): 5, ord("S"): 5, ord("X"): 5,
}
cdef Py_ssize_t CLIENT_LIMIT = 0x3FFFFFFF
cdef Py_ssize_t WHOLE_LIMIT = 64 * 1024 * 1024
cdef Py_ssize_t WAIT_BOUND = 64 * 1024
# What is not worth counting.
cdef Py_ssize_t TRIFLE = 8 * 1024
# Bytes that a statement's name takes, beside those of the statement.
cdef Py_ssize_t NAMING = 200

# Not the buffer of the server connections: one of those may have to be read while a client's bytes are looked at.
cdef char inbox[SHARED]


cdef class Session(Wake):
    """`facts` belong to the policy; `state` is the client's settings, compared by identity with the server's."""

    def __init__(self, loop, Channel channel not None, Lane lane not None, state, facts):
        Lobby.__init__(self, lane)
        self.loop = loop
        self.channel = channel
        self.state = state
        self.facts = facts
        self.scanner = Scanner(NEEDS, CLIENT_LIMIT, WHOLE_LIMIT)

    def __dealloc__(self):
        weigh(-self.weight)

    def start(self, bytes early not None):
        """Begin to read; `early` are bytes that came behind the login. Before this nobody knows of it."""
        cdef Py_ssize_t n = len(early)
        self.lane.enters()
        self.received_mark, self.sent_mark = self.channel.received, self.channel.sent
        self.now = clock()
        self.channel.on_readable = self.on_readable
        self.channel.on_drained = self.on_drained
        self.channel.start_reading()
        if n:
            self.scanner.append(early, n)
            self.take(0)

    def on_readable(self):
        """The socket has bytes, or its end."""
        cdef Py_ssize_t n = -1
        cdef int _round
        for _round in range(4):
            if held > tight and self.scanner.held > WAIT_BOUND:
                self.channel.stop_reading()  # until there is room
                return
            n = self.channel.fill(inbox, SHARED)
            if n <= 0:
                break
            if self.waiting or self.stalled or self.riding:
                self.lane.bytes_received += n
                self.scanner.append(<const unsigned char *>inbox, n)
                if self.scanner.held > WAIT_BOUND:
                    self.channel.stop_reading()
                self.reckon()
                return
            self.now = clock()
            self.take(n)
            if self.closed or not self.channel.reading or not self.channel.more:
                return
        if n > 0:
            self.loop.call_soon(self.on_readable)
        elif n == 0 and (self.waiting or self.stalled or self.riding) and self.said_goodbye():
            # What it sent before it left is still done, when its turn comes.
            self.channel.stop_reading()
        elif n != -1:
            self.close("the client went away")

    def on_drained(self):
        """The client reads again."""
        if self.backend is not None:
            (<Backend>self.backend).channel.start_reading()
        if not self.leaving:
            self.channel.start_reading()

    cdef int take(self, Py_ssize_t n) except -1:
        """Carry n bytes of the inbox, behind what was kept, to the server."""
        cdef Backend backend
        self.lane.bytes_received += n
        self.scanner.begin(<const unsigned char *>inbox, n)
        try:
            self.process()
        except ProtocolViolation as error:
            return self.break_off(error)
        except Exception as error:
            # Ours. The session's state is not known any more, nor is what the server has been sent.
            self.length = 0
            self.policy.broke(self, error)
            return 0
        if self.closed:
            self.length = 0
            return 0
        backend = self.backend
        if backend is not None:
            if self.noting:
                self.note_down(backend)
            if self.riding:
                self.cut(backend)
            elif self.length:
                backend.channel.send(<const char *>self.run, self.length)
                self.length = 0
            else:
                backend.channel.flush()
            if backend.channel.backlog() > self.lane.high_water:
                self.channel.stop_reading()
        self.scanner.finish()
        self.reckon()
        self.channel.flush()
        if self.channel.backlog() > self.lane.high_water:
            self.channel.stop_reading()
        if backend is not None and backend.ledger.count == 0:
            # A COPY that failed ended while its client was in the middle of a message.
            backend.settle_down()
        return 0

    cdef int reckon(self) except -1:
        """Count what is kept for this client. Who keeps more while there is no room for it is not read."""
        cdef Py_ssize_t n = NAMING * len(self.statements)
        if self.scanner.kept is not None:
            n += len(self.scanner.kept)
        if self.unnamed is not None:
            n += len(self.unnamed)
        if n < TRIFLE:
            n = 0
        if n != self.weight:
            if n > self.weight and n > WAIT_BOUND and held > tight:
                self.channel.stop_reading()
            n, self.weight = n - self.weight, n
            weigh(n)
        return 0

    cdef int process(self) except -1:
        cdef Backend backend
        cdef int kind
        while not self.closed and not self.leaving and not self.stalled:
            kind = self.scanner.next()
            if kind == 0:
                return 0
            if kind == MORE:
                if self.passing and self.backend is not None:
                    self.forward()
            elif kind == c'X':
                self.terminate()
            elif self.backend is None:
                if not self.unlinked(kind):
                    return 0
            else:
                backend = self.backend
                if (self.full or backend.ledger.count > OWED_MOST or len(self.changing) > OWED_MOST) and (
                    self.filled(backend)
                ):
                    return 0
                if self.guard is not None or self.absolved or self.skipping or self.refusal is not None:
                    if self.skipping or not self.may_begin(backend, kind):
                        if self.stalled:
                            return 0
                        self.refuse_one(kind)
                        continue
                if self.part != self.first_part and not backend.unsynced and self.comes_too_soon(backend):
                    self.stall()
                    return 0
                if backend.home.standby:
                    if not self.may_follow(backend, kind):
                        self.stall()
                        return 0
                elif self.part != self.first_part:
                    if not self.wrote and not backend.unsynced:
                        self.wrote = self.lane.choice is None or not self.adds_nothing(kind)
                    if not backend.unsynced and not backend.copying and backend.untouched():
                        self.anew(backend)
                self.linked(kind)
                if self.riding and not backend.unsynced:
                    return 0
        return 0

    # Ends.

    cdef int terminate(self) except -1:
        if not self.finishes():
            self.close("")
        return 0

    cdef int break_off(self, error) except -1:
        """The client has broken the protocol."""
        if self.finishes():
            self.parting = error
        else:
            self.fail(error)
        return 0

    cdef bint finishes(self) except -1:
        """Nothing more is taken from the client; True if what it has sent before must still be done and answered."""
        cdef Backend backend = self.backend
        if backend is None:
            self.length = 0
            return False
        if self.length:
            backend.channel.send(<const char *>self.run, self.length)
            self.length = 0
        if not backend.ledger.count or backend.unsynced or backend.copying:
            return False
        self.leaving = True
        self.channel.stop_reading()
        backend.channel.flush()
        return True

    cdef bint has_left(self) noexcept:
        return self.leaving

    cdef int resume(self) except -1:
        if self.detained:
            return 0
        self.stalled = False
        self.now = clock()
        if self.scanner.held <= WAIT_BOUND:
            self.channel.start_reading()
            return self.take(0)
        self.take(0)
        # It may wait again with as much as before.
        if self.closed or (self.scanner.held > WAIT_BOUND and (self.waiting or self.stalled or self.riding)):
            return 0
        if self.may_read() and (
            self.backend is None or (<Backend>self.backend).channel.backlog() <= self.lane.high_water
        ):
            self.channel.start_reading()
        return 0

    cdef bint may_read(self) noexcept:
        return not self.leaving and self.channel.backlog() <= self.lane.high_water

    cdef bint mid_message(self) noexcept:
        return self.scanner.left > 0

    cdef int settled(
        self, int kind, object note, double started, double now, unsigned long long rows, object sqlstate
    ) except -1:
        cdef double seconds = now - started
        cdef Lane lane = self.lane
        cdef Backend backend = self.backend
        cdef bint failed = len(sqlstate) > 0
        if backend is None:
            lane.count_query(seconds, failed)
        else:
            (<Lane>backend.home).count_query(seconds, failed)
            if self.doing is not None and self.brief and self.part == self.first_part + 1:
                # It is what was looked at, and alone.
                self.doing.took(
                    now - max(started, backend.answered_at),
                    self.riding and not self.joined and backend.answered_at > started,
                    failed and (self.riding or self.suspected),
                )
                self.doing.said(backend.said)
            self.suspected = False
            backend.said = 0
            backend.answered_at = now
        if lane.sink is not None and (
            seconds >= lane.slow or failed or (lane.sample > 0 and rand() < lane.sample * RAND_MAX)
        ):
            lane.sink(self, note, seconds, self.waited, rows, sqlstate)
        self.waited = 0.0
        return 0

    cdef int served(self) except -1:
        cdef Backend backend = self.backend
        cdef bint rests = backend is None or backend.ready()
        if backend is None:
            self.request = None
        if self.wrote and rests:
            self.written()
        if self.draft is not None:
            self.keep()
        if self.touched is not None and rests:
            self.lets_go()
        if self.leaving and self.parting is not None:
            self.fail(self.parting)
        elif self.leaving:
            self.close("")
        elif self.draining and not self.closed:
            self.drain()
        self.changing.clear()
        if self.portals and (self.backend is None or (<Backend>self.backend).status == c'I'):
            self.portals.clear()
        return 0 if not self.stalled or not rests or self.closed or self.held_up() else self.resume()

    # What the policy may do with it.

    def tell(self, bytes message not None):
        """Send a message of ours between replies; within one there is no place for it."""
        if self.backend is not None and (<Backend>self.backend).mid_reply(self):
            return
        self.channel.send(message, len(message))

    def holds(self):
        """Bytes that are kept for it."""
        cdef Statement statement
        cdef Py_ssize_t n = self.weight + self.channel.backlog()
        for statement in self.statements.values():
            n += statement.weight
        if self.backend is not None and not self.riding:
            n += (<Backend>self.backend).channel.backlog()
        return n

    def pause(self):
        """Read nothing of it for now."""
        self.channel.stop_reading()

    def go_on(self):
        """Read on."""
        if not self.closed and self.may_read():
            self.channel.start_reading()

    def drain(self):
        """Leave as soon as nothing is under way."""
        self.draining = True
        if self.closed or self.waiting or self.scanner.held or self.scanner.left or self.begun is not None:
            return
        if self.backend is None or (<Backend>self.backend).ready():
            self.policy.drained(self)

    def traffic(self):
        """Bytes from and to the client since this was asked last, roughly those of one statement."""
        cdef unsigned long long received = self.channel.received - self.received_mark
        cdef unsigned long long sent = self.channel.sent - self.sent_mark
        self.received_mark += received
        self.sent_mark += sent
        return received, sent

    def fail(self, error):
        """End the session with an error of ours."""
        if not self.closed:
            self.policy.failed(self, error)

    def spoil(self):
        """What has been sent to the server connection is in doubt: nobody may have it after this client."""
        if self.backend is not None:
            self.backend.spoil()

    def close(self, str reason not None):
        """End the session; its server connection is the policy's to clean up. `reason` is empty if it said goodbye."""
        cdef Backend backend = self.backend
        if self.closed:
            return
        self.closed = True
        if self.touched is not None:
            self.lets_go()
        if self.waiting:
            self.asked.unqueue(self)
        self.lane.leaves()
        half = self.scanner.left > 0 and self.passing
        self.scanner.kept = None
        self.statements = {}
        self.portals = {}
        self.unnamed = self.bound = None
        self.reckon()
        self.channel.close(linger=True)
        try:
            if self.riding and backend is not None:
                backend.leave(self)
            elif backend is not None:
                backend.detach()
                self.policy.abandoned(backend, half)
        finally:
            self.policy.left(self, reason)

    def __repr__(self):
        state = "closed" if self.closed else "waiting" if self.waiting else "active" if self.backend else "idle"
        return f"<Session {state}{' leaving' if self.leaving else ''} statements={len(self.statements)}>"
