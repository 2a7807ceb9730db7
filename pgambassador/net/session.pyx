# cython: language_level=3, boundscheck=False, wraparound=False
"""One client after its login: takes its messages to a server connection, as little changed as can be.

1. A message that a server must answer needs a server connection; without one the session waits with that message
   kept, and reads on only up to `WAIT_BOUND`, to notice that its client has gone.
2. What goes to the server is a run of bytes as they came; only names of prepared statements are rewritten, and
   what the server lacks is put before it. All of one read leaves in one write.
3. Each message that will be answered has its entry in the ledger before its bytes leave.
4. Statements belong to the session under the client's names, to servers under ours. An unknown name passes
   unchanged, so that the server's own error answers it.
5. Late CopyData of a COPY that has failed is dropped, as a server would.
"""
from libc.stdlib cimport RAND_MAX, rand
from libc.string cimport memchr

from pgambassador.net.backend cimport SHARED, Backend, Statement, clock
from pgambassador.net.channel cimport Channel
from pgambassador.net.lane cimport Lane, Waiter
from pgambassador.protocol.ledger cimport FAKE, FORWARD, SWALLOW, Entry
from pgambassador.wire.framing cimport MORE, Scanner
from pgambassador.wire.replies cimport mentions_set_config

from pgambassador.errors import ProtocolViolation
from pgambassador.wire.framing import WHOLE

# What a client may send after its login, and how much of it we look at.
cdef dict NEEDS = {
    ord("Q"): 64 * 1024, ord("P"): WHOLE, ord("B"): 256, ord("D"): WHOLE, ord("C"): WHOLE, ord("E"): WHOLE,
    ord("F"): 5, ord("d"): 5, ord("c"): 5, ord("f"): 5, ord("H"): 5, ord("S"): 5, ord("X"): 5,
}
cdef Py_ssize_t CLIENT_LIMIT = 0x3FFFFFFF
cdef Py_ssize_t WHOLE_LIMIT = 64 * 1024 * 1024
# Names of portals are kept for the query log alone.
cdef Py_ssize_t PORTALS_MOST = 1000
cdef Py_ssize_t WAIT_BOUND = 64 * 1024

# Not the buffer of the server connections: one of those may have to be read while a client's bytes are looked at.
cdef char inbox[SHARED]

cdef bytes CLOSE_COMPLETE = b"3\x00\x00\x00\x04"
cdef bytes CLOSE_UNNAMED = b"C\x00\x00\x00\x06S\x00"
cdef bytes READY_IDLE = b"Z\x00\x00\x00\x05I"


cdef class Session(Waiter):
    """`facts` belong to the policy; `state` is the client's settings, compared by identity with the server's."""

    def __init__(self, loop, Channel channel not None, Lane lane not None, state, facts):
        self.loop = loop
        self.channel = channel
        self.lane = lane
        self.policy = lane.policy
        self.state = state
        self.facts = facts
        self.statements = {}
        self.portals = {}
        self.scanner = Scanner(NEEDS, CLIENT_LIMIT, WHOLE_LIMIT)
        channel.on_readable = self.on_readable
        channel.on_drained = self.on_drained
        lane.enters()

    def start(self, bytes early not None):
        """Begin to read; `early` are bytes that came behind the login."""
        cdef Py_ssize_t n = len(early)
        self.now = clock()
        self.channel.start_reading()
        if n:
            self.scanner.append(early, n)
            self.take(0)

    def on_readable(self):
        """The socket has bytes, or its end."""
        cdef Py_ssize_t n = -1
        cdef int _round
        for _round in range(4):
            n = self.channel.fill(inbox, SHARED)
            if n <= 0:
                break
            if self.waiting or self.switching:
                self.lane.bytes_received += n
                self.scanner.append(<const unsigned char *>inbox, n)
                if self.scanner.held > WAIT_BOUND:
                    self.channel.stop_reading()
                return
            self.now = clock()
            self.take(n)
            if self.closed or not self.channel.reading or not self.channel.more:
                return
        if n > 0:
            self.loop.call_soon(self.on_readable)
        elif n == 0 and (self.waiting or self.switching) and self.said_goodbye():
            # What it sent before it left is still done, when its turn comes.
            self.channel.stop_reading()
        elif n != -1:
            self.close("the client went away")

    def on_drained(self):
        """The client reads again."""
        if self.backend is not None:
            self.backend.channel.start_reading()
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
            self.length = 0
            self.fail(error)
            return 0
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
            if self.length:
                backend.channel.send(<const char *>self.run, self.length)
                self.length = 0
            else:
                backend.channel.flush()
            if backend.channel.backlog() > self.lane.high_water:
                self.channel.stop_reading()
        self.scanner.finish()
        self.channel.flush()
        if self.channel.backlog() > self.lane.high_water:
            self.channel.stop_reading()
        if backend is not None and backend.ledger.count == 0:
            # A COPY that failed ended while its client was in the middle of a message.
            backend.settle_down()
        return 0

    cdef int process(self) except -1:
        cdef int kind
        while not self.closed and not self.leaving:
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
                self.linked(kind)
        return 0

    cdef int unlinked(self, int kind) except -1:
        """A message while no server connection is held. False: it waits for one."""
        self.passing = False
        if self.refusal is not None or self.skipping:
            self.refuse_one(kind)
            return True
        if kind == c'S':
            self.channel.stage(READY_IDLE, 6)
            return True
        if kind in (c'H', c'd', c'c', c'f'):
            return True
        if kind == c'C' and self.scanner.have > 6 and self.scanner.at[5] == c'S' and not self.lane.sticky:
            self.close_statement(None)
            return True
        if not self.acquire():
            self.scanner.back()
            return False
        self.linked(kind)
        return True

    cdef int acquire(self) except -1:
        cdef Backend backend = self.lane.take(self.now)
        if backend is None:
            self.lane.queue(self, self.now)
            return False
        self.waited = 0.0
        self.switching = backend.join(self)
        return not self.switching

    cdef int granted(self, Backend backend, double now) except -1:
        self.now = now
        self.waited = now - self.waiting_since
        self.switching = backend.join(self)
        self.channel.start_reading()
        return 0 if self.switching else self.take(0)

    cdef int switched(self) except -1:
        self.switching = False
        self.now = clock()
        self.channel.start_reading()
        return self.take(0)

    cdef bint said_goodbye(self) except -1:
        """Whether the last of what is kept is a Terminate."""
        cdef bytes kept = bytes(self.scanner.kept or b"")
        cdef Py_ssize_t at = 0
        cdef int kind = 0
        while at + 5 <= len(kept):
            kind = kept[at]
            at += 1 + int.from_bytes(kept[at + 1:at + 5], "big")
        return kind == c'X' and at == len(kept)

    cdef int linked(self, int kind) except -1:
        """A message on its way to the server connection that the session holds."""
        cdef Backend backend = self.backend
        cdef object text
        cdef Py_ssize_t end
        self.passing = True
        if backend.copying:
            # All of it belongs to the COPY: a Sync is ignored, anything else makes it fail.
            if kind == c'S':
                backend.copy_syncs = True
            elif kind == c'c' or kind == c'f':
                backend.copying = False
            return self.forward()
        if kind == c'c' or kind == c'f':
            # Perhaps of a COPY whose CopyInResponse is still on its way.
            backend.ledger.put(c'c', FORWARD, self, None, None, self.now)
            return self.forward()
        if backend.ledger.skipping and kind != c'S':
            return self.forward()
        if kind == c'Q':
            return self.query(backend)
        if kind == c'E':
            backend.unsynced = True
            end = self.name_end(5)
            text = self.bound
            if end > 6:
                text = self.portals.get((<const char *>self.scanner.at)[5:end - 1], text)
            backend.ledger.put(c'E', FORWARD, self, text, None, self.now)
            return self.forward()
        if kind == c'B':
            return self.bind(backend)
        if kind == c'S':
            backend.unsynced = False
            backend.ledger.put(c'S', FORWARD, self, None, None, self.now)
            self.forward()
            if self.litter is not None:
                self.cut(backend)
                litter = (
                    b"C" + (6 + len(self.litter)).to_bytes(4, "big") + b"S" + self.litter + b"\x00S\x00\x00\x00\x04"
                )
                backend.channel.stage(litter, len(litter))
                backend.ledger.put(c'C', SWALLOW, self, None, None, self.now)
                backend.ledger.put(c'S', SWALLOW, self, None, None, self.now)
                self.litter = None
            return 0
        if kind == c'P':
            return self.parse(backend)
        if kind == c'D':
            return self.describe(backend)
        if kind == c'C':
            return self.close_statement(backend)
        if kind == c'H':
            backend.unsynced = True
            if backend.ledger.count and backend.ledger.head().action == FAKE and not backend.scanner.left:
                # Nothing of the server's own is awaited before it.
                backend.pay()
            return self.forward()
        if kind == c'F':
            backend.unsynced = False
            backend.ledger.put(c'F', FORWARD, self, None, None, self.now)
        return self.forward()

    cdef int query(self, Backend backend) except -1:
        cdef object text = None
        if self.lane.sink is not None:
            text = (<const char *>self.scanner.at)[5:self.scanner.have]
        backend.unsynced = False
        # A simple query ends the unnamed statement (manual: "Extended Query").
        self.unnamed = backend.unnamed_of = None
        if mentions_set_config(<const char *>self.scanner.at, self.scanner.have):
            backend.marked_by = self
        backend.ledger.put(c'Q', FORWARD, self, text, None, self.now)
        return self.forward()

    cdef int parse(self, Backend backend) except -1:
        cdef Statement statement
        cdef const char *at = <const char *>self.scanner.at
        cdef Py_ssize_t end = self.name_end(5)
        cdef bytes name
        backend.unsynced = True
        if end == 6:
            self.unnamed = at[:self.scanner.have]
            if mentions_set_config(at, self.scanner.have):
                backend.marked_by = self
            backend.unnamed_of = self
            backend.ledger.put(c'P', FORWARD, self, self.unnamed, None, self.now)
            return self.forward()
        name = at[5:end - 1]
        if name in self.statements and (backend.ledger.count == 0 or self.just_prepared(backend, name)):
            # The server shall refuse it in its own words: make the name known there, until the next Sync.
            self.cut(backend)
            self.litter = name
            trivial = b"P" + (8 + len(name)).to_bytes(4, "big") + name + b"\x00\x00\x00\x00"
            backend.channel.stage(trivial, len(trivial))
            backend.ledger.put(c'P', SWALLOW, self, None, None, self.now)
        if self.lane.sticky or self.litter is not None:
            backend.ledger.put(c'P', FORWARD, self, at[end:self.scanner.have], None, self.now)
            return self.forward()
        statement = self.policy.statement(at[end:self.scanner.have])
        self.statements[name] = statement
        if statement in backend.prepared:
            if backend.ledger.count == 0 and backend.status != c'E':
                backend.ledger.put(c'P', FAKE, self, statement, name, self.now)
                return 0
            # What is under way may yet change what the server knows: then only the server can say.
            self.cut(backend)
            backend.drop(statement, self)
        self.cut(backend)
        backend.channel.stage(statement.frame, len(statement.frame))
        backend.ledger.put(c'P', FORWARD, self, statement, name, self.now)
        backend.adopt(statement, self)
        return 0

    cdef bint just_prepared(self, Backend backend, bytes name) except -1:
        """Whether the name has been prepared in this part of the pipeline, with nothing since that could end it."""
        cdef Py_ssize_t i = backend.ledger.count
        cdef Entry *entry
        while i > 0:
            i -= 1
            entry = &backend.ledger.ring[(backend.ledger.first + i) & backend.ledger.mask]
            if entry.kind in (c'S', c'Q', c'E', c'C'):
                return False
            if entry.kind == c'P' and <object>entry.name == name:
                return True
        return False

    cdef int bind(self, Backend backend) except -1:
        cdef Statement statement
        cdef const unsigned char *at = self.scanner.at
        cdef Py_ssize_t portal = self.name_end(5)
        cdef Py_ssize_t end, rest
        cdef bytes name, head
        if portal < 0:
            return self.scanner.ask(self.scanner.have * 2)
        end = self.name_end(portal)
        if end < 0:
            return self.scanner.ask(self.scanner.have * 2)
        backend.unsynced = True
        statement = None
        if end - portal == 1:
            self.bound = self.unnamed
            self.bring_unnamed(backend)
        elif not self.lane.sticky:
            name = (<const char *>at)[portal:end - 1]
            statement = self.statements.get(name)
            self.bound = statement
        if portal > 6:
            if len(self.portals) >= PORTALS_MOST:
                self.portals.clear()
            self.portals[(<const char *>at)[5:portal - 1]] = self.bound
        if statement is not None:
            if statement.sets:
                backend.marked_by = self
            self.cut(backend)
            backend.prepare(statement, self)
            rest = self.scanner.size - 1 - (end - portal) + len(statement.name) + 1
            head = b"B" + rest.to_bytes(4, "big") + (<const char *>at)[5:portal] + statement.name + b"\x00"
            backend.channel.stage(head, len(head))
            backend.ledger.put(c'B', FORWARD, self, statement, None, self.now)
            self.run = at + end
            self.length = self.scanner.have - end
            return 0
        backend.ledger.put(c'B', FORWARD, self, self.bound, None, self.now)
        return self.forward()

    cdef int bring_unnamed(self, Backend backend) except -1:
        """The unnamed statement there must be ours, or none: never another client's."""
        cdef bytes frame = self.unnamed
        if self.lane.sticky or backend.unnamed_of is self:
            return 0
        self.cut(backend)
        if frame is not None:
            backend.ledger.put(c'P', SWALLOW, self, frame, None, self.now)
            backend.unnamed_of = self
        else:
            frame = CLOSE_UNNAMED
            backend.ledger.put(c'C', SWALLOW, self, None, None, self.now)
            backend.unnamed_of = None
        return backend.channel.stage(frame, len(frame))

    cdef int describe(self, Backend backend) except -1:
        cdef Statement statement = None
        cdef const char *at = <const char *>self.scanner.at
        cdef bytes frame
        backend.unsynced = True
        if self.scanner.have > 7 and at[5] == c'S' and not self.lane.sticky:
            statement = self.statements.get(at[6:self.scanner.have - 1])
        elif self.scanner.have == 7 and at[5] == c'S':
            self.bring_unnamed(backend)
        if statement is not None:
            self.cut(backend)
            backend.prepare(statement, self)
            frame = b"D" + (6 + len(statement.name)).to_bytes(4, "big") + b"S" + statement.name + b"\x00"
            backend.channel.stage(frame, len(frame))
            backend.ledger.put(c'D', FORWARD, self, statement, None, self.now)
            return 0
        backend.ledger.put(c'D', FORWARD, self, None, None, self.now)
        return self.forward()

    cdef int close_statement(self, Backend backend) except -1:
        """Close: a statement is forgotten here, servers keep it for others; a portal is the server's."""
        cdef const char *at = <const char *>self.scanner.at
        cdef Statement statement
        cdef bytes name
        if self.scanner.have < 7 or at[5] != c'S' or self.lane.sticky:
            backend.unsynced = True
            backend.ledger.put(c'C', FORWARD, self, None, None, self.now)
            if self.portals and self.scanner.have > 7:
                self.portals.pop(at[6:self.scanner.have - 1], None)
            return self.forward()
        name = at[6:self.scanner.have - 1]
        statement = self.statements.pop(name, None)
        if not name:
            self.unnamed = None
        if backend is None:
            self.channel.stage(CLOSE_COMPLETE, 5)
            return 0
        backend.unsynced = True
        if not name:
            backend.ledger.put(c'C', FORWARD, self, None, None, self.now)
            return self.forward()
        backend.ledger.put(c'C', FAKE, self, statement, name, self.now)
        return 0

    cdef int forward(self) except -1:
        """The chunk goes on as it came."""
        if self.length and self.run + self.length != self.scanner.at:
            self.cut(self.backend)
        if self.length == 0:
            self.run = self.scanner.at
        self.length += self.scanner.have
        return 0

    cdef int cut(self, Backend backend) except -1:
        """What has been collected goes before what comes now."""
        if self.length:
            backend.channel.stage(<const char *>self.run, self.length)
            self.length = 0
        return 0

    cdef Py_ssize_t name_end(self, Py_ssize_t start) except -2:
        """Where the string that begins at `start` ends, behind its zero byte; -1 if that has not come yet."""
        cdef const unsigned char *at = self.scanner.at
        cdef const unsigned char *zero = NULL
        if start < self.scanner.have:
            zero = <const unsigned char *>memchr(at + start, 0, self.scanner.have - start)
        if zero == NULL:
            if self.scanner.left == 0:
                raise ProtocolViolation("invalid string in message")
            return -1
        return zero - at + 1

    # Ends.

    cdef int refuse_one(self, int kind) except -1:
        """Answer with the refusal what would have needed a server: a query alone, the extended protocol to its Sync."""
        cdef bytes refusal = self.refusal
        self.refusal = None
        if refusal is not None:
            self.channel.stage(refusal, len(refusal))
            if kind == c'Q' or kind == c'F':
                self.channel.stage(READY_IDLE, 6)
                return 0
            self.skipping = True
        if kind == c'S':
            self.skipping = False
            self.channel.stage(READY_IDLE, 6)
        return 0

    cdef int terminate(self) except -1:
        """Terminate: what was sent before it is still done, as a server would."""
        cdef Backend backend = self.backend
        if backend is not None and self.length:
            backend.channel.send(<const char *>self.run, self.length)
            self.length = 0
        if backend is not None and backend.ledger.count and not backend.unsynced and not backend.copying:
            self.leaving = True
            self.channel.stop_reading()
            backend.channel.flush()
        else:
            self.close("")
        return 0

    cdef bint may_read(self) noexcept:
        return not self.leaving and self.channel.backlog() <= self.lane.high_water

    cdef int rejoin(self) except -1:
        self.switching = self.backend.join(self)
        return self.backend.channel.flush()

    cdef bint mid_message(self) noexcept:
        return self.scanner.left > 0

    cdef int settled(
        self, int kind, object note, double started, double now, unsigned long long rows, object sqlstate
    ) except -1:
        cdef double seconds = now - started
        cdef Lane lane = self.lane
        cdef bint failed = len(sqlstate) > 0
        lane.count_query(seconds, failed)
        if lane.sink is not None and (
            seconds >= lane.slow or failed or (lane.sample > 0 and rand() < lane.sample * RAND_MAX)
        ):
            lane.sink(self, note, seconds, self.waited, rows, sqlstate)
        self.waited = 0.0
        return 0

    cdef int served(self) except -1:
        if self.leaving:
            self.close("")
        elif self.draining and not self.closed:
            self.drain()
        if self.portals and (self.backend is None or self.backend.status == c'I'):
            self.portals.clear()
        return 0

    cdef int orphaned(self, str reason, bint told) except -1:
        if self.closed:
            return 0
        self.switching = False
        if told:
            self.close(reason)
        else:
            self.policy.orphaned(self, reason)
        return 0

    # What the policy may do with it.

    def refuse(self, bytes error not None):
        """Stop waiting: the message that waits is answered with this ErrorResponse; the session goes on."""
        if not self.waiting:
            return
        self.lane.unqueue(self)
        self.refusal = error
        self.now = clock()
        self.channel.start_reading()
        self.take(0)

    def tell(self, bytes message not None):
        """Send a message of ours between replies; within one there is no place for it."""
        if self.backend is not None and self.backend.mid_reply(self):
            return
        self.channel.send(message, len(message))

    def drain(self):
        """Leave as soon as nothing is under way."""
        self.draining = True
        if self.closed or self.waiting or self.scanner.held or self.scanner.left:
            return
        if self.backend is None or (self.backend.ready() and self.backend.ledger.count == 0):
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
        if self.waiting:
            self.lane.unqueue(self)
        self.lane.leaves()
        half = self.scanner.left > 0 and self.passing
        self.scanner.kept = None
        self.statements = {}
        self.portals = {}
        self.unnamed = self.bound = None
        self.channel.close(linger=True)
        try:
            if backend is not None:
                backend.detach()
                self.policy.abandoned(backend, half)
        finally:
            self.policy.left(self, reason)

    def __repr__(self):
        state = "closed" if self.closed else "waiting" if self.waiting else "active" if self.backend else "idle"
        return f"<Session {state}{' leaving' if self.leaving else ''} statements={len(self.statements)}>"
