# cython: language_level=3, boundscheck=False, wraparound=False
"""What a client asks: its messages on their way to a server connection, as little changed as can be.

1. What goes to the server is a run of bytes as they came; only names of prepared statements are rewritten, and
   what the server lacks is put before it. All of one read leaves in one write.
2. Each message that will be answered has its entry in the ledger before its bytes leave.
3. RESET means the start packet, which the server connection does not know: what leads back there follows it at
   once, before the server reports what has changed.
"""
from pgambassador.net.backend cimport Backend
from pgambassador.net.parties cimport Statement
from pgambassador.protocol.ledger cimport FAKE, FORWARD, SWALLOW
from pgambassador.wire.replies cimport begins_like_set, mentions_state

from pgambassador.net.statements import statement_text
from pgambassador.wire import build

cdef bytes SYNC = b"S\x00\x00\x00\x04"


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
        if kind == c'c' or kind == c'f':
            # Perhaps of a COPY whose CopyInResponse is still on its way.
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

    cdef int query(self, Backend backend) except -1:
        cdef object text = None
        cdef bytes before
        if backend.unsynced:
            # PostgreSQL 18 confuses its transactions when a simple query follows an Execute without a Sync.
            backend.retiring = True
        elif backend.unfamiliar and not backend.untouched() and mentions_state(
            <const char *>self.scanner.at, self.scanner.have
        ):
            self.stall()
            return 0
        self.part += 1
        if begins_like_set(self.scanner.at + 5, self.scanner.have - 5):
            text = (<const char *>self.scanner.at)[5:self.scanner.have]
            # Where it fails for certain it shall fail as what it is.
            if not self.scanner.left and not backend.unsynced and (backend.status != c'E' or backend.ledger.count):
                change = self.policy.led_back(self, backend, text) if text[len(text) - 1] == 0 else None
                if change:
                    return self.lead_back(backend, text, change)
        elif self.lane.sink is not None:
            text = (<const char *>self.scanner.at)[5:self.scanner.have]
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
        cdef bytes run, close
        self.cut(backend)
        for statement in change:
            run, close = build.aside(statement, unnamed=False)
            backend.channel.stage(run, len(run))
            backend.channel.stage(close, len(close))
            for kind in b"PBECC":
                backend.ledger.put(kind, SWALLOW, self, None, None, self.now)
        return 0

    cdef int execute(self, Backend backend) except -1:
        cdef Py_ssize_t end = self.name_end(5)
        cdef object text = self.bound
        backend.unsynced = True
        if end > 6:
            text = self.portals.get((<const char *>self.scanner.at)[5:end - 1])
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
