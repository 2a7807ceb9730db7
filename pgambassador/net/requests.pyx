# cython: language_level=3, boundscheck=False, wraparound=False
"""What a client asks: its messages on their way to a server connection, as little changed as can be.

1. What goes to the server is a run of bytes as they came; only names of prepared statements are rewritten, and
   what the server lacks is put before it. All of one read leaves in one write.
2. Each message that will be answered has its entry in the ledger before its bytes leave.
3. RESET means the start packet, which the server connection does not know: what leads back there follows it at
   once, before the server reports what has changed.
4. What is under way is bounded: beyond that the server is made to answer (`filled`), even what no Sync follows.
"""
from pgambassador.net.backend cimport Backend
from pgambassador.net.parties cimport Statement
from pgambassador.protocol.ledger cimport FAKE, FORWARD, SWALLOW
from pgambassador.wire.replies cimport begins_like_set, mentions_state

from pgambassador.net.statements import statement_text
from pgambassador.wire import build
from pgambassador.wire.parse import named_by_sql

# Messages that may be under way, and names that they may change.
cdef Py_ssize_t OWED_MOST = 4096
cdef bytes FLUSH = b"H\x00\x00\x00\x04"
cdef bytes SYNC = b"S\x00\x00\x00\x04"
cdef bytes CLOSE_COMPLETE = b"3\x00\x00\x00\x04"


cdef class Requests(Preparing):
    """The half of a session that speaks to servers; `Session` is the whole of it."""

    cdef int linked(self, int kind) except -1:
        """A message on its way to the server connection that the session holds."""
        cdef Backend backend = self.backend
        self.passing = True
        if backend.copying:
            # All of it belongs to the COPY: a Sync is ignored, anything else makes it fail.
            if kind == c'S':
                backend.copy_syncs = True
            elif kind == c'c' or kind == c'f':
                backend.copying = False
            return self.forward()
        if kind == c'd' or kind == c'c' or kind == c'f':
            # Perhaps of a COPY whose CopyInResponse is still on its way.
            backend.fed = True
        if kind == c'c' or kind == c'f':
            backend.ledger.put(c'c', FORWARD, self, None, None, self.now)
            return self.forward()
        if backend.ledger.skipping and kind != c'S':
            return self.forward()
        if kind == c'Q':
            return self.query(backend)
        if kind == c'E':
            return self.execute(backend)
        if kind == c'B':
            return self.bind(backend)
        if kind == c'S':
            self.part += 1
            backend.unsynced = False
            if backend.joining:
                return backend.ledger.put(c'S', FAKE, self, None, None, self.now)
            backend.ledger.put(c'S', FORWARD, self, None, None, self.now)
            self.forward()
            return self.clear_up(backend) if self.litter or self.lent else 0
        if kind == c'P':
            return self.parse(backend)
        if kind == c'D':
            return self.describe(backend)
        if kind == c'C':
            return self.close_statement(backend)
        if kind == c'H' and self.scanner.size > 5:
            # The server will say that it is malformed, and skip to the next Sync.
            backend.unsynced = True
            backend.ledger.put(c'D', FORWARD, self, None, None, self.now)
            return self.forward()
        if kind == c'H':
            if backend.ledger.count and backend.ledger.head().action == FAKE and not backend.scanner.left:
                # Nothing of the server's own is awaited before it.
                backend.pay()
            return self.forward()
        if kind == c'F':
            if backend.unsynced or self.lent:
                backend.retiring = True
                self.lent.clear()
            self.part += 1
            backend.unsynced = False
            self.policy.called(self, backend, b"")
            backend.unfamiliar = False
            backend.ledger.put(c'F', FORWARD, self, None, None, self.now)
        return self.forward()

    cdef bint filled(self, Backend backend) except -1:
        """Whether so much is under way that this message waits, until half of that is answered."""
        if backend.copying:
            self.full = False
            return False
        if backend.ledger.count and backend.ledger.head().action == FAKE and not backend.scanner.left:
            # Nothing of the server's own is awaited before it.
            backend.pay()
        if backend.ledger.count == 0:
            self.changing.clear()
        if backend.ledger.count <= (OWED_MOST // 2 if self.full else OWED_MOST) and len(self.changing) <= OWED_MOST:
            self.full = False
            return False
        if not self.full:
            self.full = True
            # The Sync that would have it answer may be behind this message.
            self.cut(backend)
            backend.channel.stage(FLUSH, 5)
        self.stall()
        return True

    cdef int query(self, Backend backend) except -1:
        cdef object text = None
        cdef bytes before
        if backend.quoting:
            return self.quote(backend)
        if backend.unsynced:
            # PostgreSQL 18 confuses its transactions when a simple query follows an Execute without a Sync.
            backend.retiring = True
        elif (backend.unfamiliar or self.statements) and not backend.untouched() and mentions_state(
            <const char *>self.scanner.at, self.scanner.have
        ):
            if backend.unfamiliar or named_by_sql((<const char *>self.scanner.at)[5:self.scanner.have]):
                self.stall()
                return 0
        if begins_like_set(self.scanner.at + 5, self.scanner.have - 5):
            text = (<const char *>self.scanner.at)[5:self.scanner.have]
            if not self.scanner.left and not backend.unsynced and text[len(text) - 1] == 0:
                change = self.policy.led_back(self, backend, text)
                if change and not backend.untouched():
                    self.stall()
                    return 0
                # Where its transaction has failed it shall fail as what it is.
                if change and backend.status != c'E':
                    return self.lead_back(backend, text, change)
        else:
            text = (<const char *>self.scanner.at)[5:self.scanner.have]
        self.part += 1
        backend.unsynced = False
        # A simple query ends the unnamed statement (manual: "Extended Query"), unless it is skipped.
        before, self.unnamed = self.unnamed, None
        backend.unnamed_of = None
        if self.scanner.left:
            self.policy.called(self, backend, b"")
        elif self.lane.wary or mentions_state(<const char *>self.scanner.at, self.scanner.have):
            self.cut(backend)
            text = (<const char *>self.scanner.at)[5:self.scanner.have - 1]
            self.policy.called(self, backend, text)
            if not backend.unsynced and backend.untouched():
                self.lend(backend, text)
        backend.unfamiliar = False
        backend.ledger.put(c'Q', FORWARD, self, text, before, self.now)
        self.forward()
        if self.lent and (self.scanner.left or b"copy" in text.lower()):
            backend.retiring = True  # nothing may be said to it now
            self.lent.clear()
        return self.clear_up(backend) if self.lent else 0

    cdef int quote(self, Backend backend) except -1:
        """The text alone, as one of several statements: what stands around it is the server connection's."""
        cdef bytes text = (<const char *>self.scanner.at)[5:self.scanner.have]
        cdef bytes before
        if self.lane.wary:
            self.policy.called(self, backend, text[:len(text) - 1])
        self.part += 1
        before, self.unnamed = self.unnamed, None
        backend.unnamed_of = None
        backend.unfamiliar = False
        backend.ledger.put(c'q', FORWARD, self, text, before, self.now)
        backend.ledger.put(c'S', FAKE if backend.joining else FORWARD, self, None, None, self.now)
        backend.channel.stage(<const char *>text, len(text) - 1)
        return 0

    cdef int lead_back(self, Backend backend, bytes text, list change) except -1:
        """A simple RESET as extended messages, so that what has to follow it does before anything is reported."""
        cdef bytes run, close
        cdef int _each
        run, close = build.aside(text[:len(text) - 1])
        self.part += 1
        self.unnamed = None
        backend.unnamed_of = None
        backend.unfamiliar = False
        self.cut(backend)
        backend.channel.stage(run, len(run))
        backend.ledger.put(c'C', SWALLOW, self, None, None, self.now)
        backend.ledger.put(c'P', SWALLOW, self, None, None, self.now)
        backend.ledger.put(c'B', SWALLOW, self, None, None, self.now)
        backend.ledger.put(c'E', FORWARD, self, text, None, self.now)
        backend.channel.stage(close, len(close))
        for _each in range(4):
            backend.ledger.put(c'C', SWALLOW, self, None, None, self.now)
        self.follow(backend, change)
        backend.channel.stage(SYNC, 5)
        return backend.ledger.put(c'S', FORWARD, self, None, None, self.now)

    cdef int follow(self, Backend backend, list change) except -1:
        """Statements of ours behind one of the client's, which touch nothing of its own."""
        self.cut(backend)
        for statement in change:
            backend.aside(statement, self)
        return 0

    cdef int close_statement(self, Backend backend) except -1:
        """Close: a statement is forgotten here, servers keep it for others; a portal is the server's."""
        cdef const char *at = <const char *>self.scanner.at
        cdef Statement statement
        cdef bytes name, before
        if self.scanner.have < 7 or at[5] != c'S' or self.lane.sticky:
            backend.unsynced = True
            backend.ledger.put(c'C', FORWARD, self, None, None, self.now)
            if self.lane.sticky and self.statements and self.scanner.have > 7 and at[5] == c'S':
                self.statements.pop(self.name_at(6, self.scanner.have), None)
            elif self.portals and self.scanner.have > 7:
                self.portals.pop(self.name_at(6, self.scanner.have), None)
            return self.forward()
        name = self.name_at(6, self.scanner.have)
        if backend is not None and name and not self.certain(backend, name, False):
            return 0
        if backend is not None and backend.tied and name and name not in self.statements:
            # Perhaps one of SQL's PREPARE, which has kept the connection until now.
            self.policy.called(self, backend, b"close")
            backend.unsynced = True
            backend.ledger.put(c'C', FORWARD, self, None, None, self.now)
            return self.forward()
        if backend is not None and name:
            self.change(name)
        statement = self.statements.pop(name, None)
        before = self.unnamed
        if not name:
            self.unnamed = None
        if backend is None:
            self.channel.stage(CLOSE_COMPLETE, 5)
            return 0
        backend.unsynced = True
        if not name:
            backend.ledger.put(c'C', FORWARD, self, None, before, self.now)
            return self.forward()
        backend.ledger.put(c'C', FAKE, self, statement, name, self.now)
        return 0

    cdef int clear_up(self, Backend backend) except -1:
        """Close what was made known to the server for the sake of its answer alone."""
        cdef bytes name, close
        self.cut(backend)
        for name in (*self.litter, *self.lent):
            if self.lent.get(name):
                backend.retiring = True  # it may be the client's now
                continue
            close = build.close_statement(name)
            backend.channel.stage(close, len(close))
            backend.ledger.put(c'C', SWALLOW, self, None, None, self.now)
        backend.channel.stage(SYNC, 5)
        self.litter.clear()
        self.lent.clear()
        return backend.ledger.put(c'S', SWALLOW, self, None, None, self.now)

    cdef int execute(self, Backend backend) except -1:
        cdef Py_ssize_t end = self.name_end(5)
        cdef object text = self.bound
        backend.unsynced = True
        if end > 6:
            text = self.portals.get(self.name_at(5, end))
        backend.ledger.put(c'E', FORWARD, self, text, None, self.now)
        self.forward()
        if text is not None and resets(text):
            change = self.policy.led_back(self, backend, statement_text(text))
            if change:
                self.follow(backend, change)
        return 0


cdef bint resets(object note) noexcept:
    """Whether a Statement, or the Parse of an unnamed one, may be a RESET."""
    cdef bytes frame
    if type(note) is Statement:
        return (<Statement>note).resets
    frame = note
    return len(frame) > 6 and begins_like_set(<const unsigned char *>frame + 6, len(frame) - 6)
