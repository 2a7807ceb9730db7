# cython: language_level=3, boundscheck=False, wraparound=False
"""Prepared statements on their way to a server: the client's names on one side, ours on the other.

1. Statements belong to the session under the client's names, to servers under ours. An unknown name passes
   unchanged, and so does a message that is malformed: the server's own error answers it.
2. What a name means is decided when all is known that it depends on: behind a Sync whose part of the pipeline may
   have failed, a message that needs a name which was changed there waits for the answers (`stalled`).
"""
from libc.string cimport memchr

from pgambassador.net.backend cimport Backend
from pgambassador.net.failures cimport ASKED, CHANGED, CHANGED_ROWS, STALE
from pgambassador.net.parties cimport Statement
from pgambassador.protocol.ledger cimport FAKE, FORWARD, SWALLOW, Entry
from pgambassador.wire.replies cimport mentions_state

from pgambassador.net.statements import may_forget
from pgambassador.wire import build
from pgambassador.wire.parse import deallocated

cdef bytes CLOSE_COMPLETE = b"3\x00\x00\x00\x04"
cdef bytes CLOSE_UNNAMED = b"C\x00\x00\x00\x06S\x00"
cdef bytes SYNC = b"S\x00\x00\x00\x04"
# Names of portals are kept for the query log alone.
cdef Py_ssize_t PORTALS_MOST = 1000
cdef Py_ssize_t LENT_MOST = 64 * 1024
# NAMEDATALEN, without its zero byte.
cdef Py_ssize_t NAME_MOST = 63


cdef class Preparing(Waiter):
    """The part of a session that knows its statements."""

    def __init__(self, Lane lane not None):
        self.lane = lane
        self.policy = lane.policy
        self.statements = {}
        self.changing = {}
        self.portals = {}
        self.forgetting = -1
        self.litter = {}
        self.lent = {}

    cdef int parse(self, Backend backend) except -1:
        cdef Statement statement
        cdef const char *at = <const char *>self.scanner.at
        cdef Py_ssize_t end = self.name_end(5)
        cdef bytes name, before
        cdef object key
        backend.unsynced = True
        if end < 0:
            backend.ledger.put(c'P', FORWARD, self, None, None, self.now)
            return self.forward()
        if end == 6:
            before = self.unnamed
            self.unnamed = at[:self.scanner.have]
            backend.unnamed_of = self
            backend.ledger.put(c'P', FORWARD, self, self.unnamed, before, self.now)
            return self.forward()
        name = self.name_at(5, end)
        key = name
        sure = self.certain(backend, name, name in self.statements)
        if self.stalled:
            return 0
        if name in self.statements and not sure:
            # Only if what is under way has ended the one before, which the server will say.
            key = (name, self.statements[name])
        elif name in self.statements:
            # The server shall refuse it in its own words: make the name known there, until the next Sync.
            self.cut(backend)
            self.litter[name] = None
            trivial = build.parse(name, b"")
            backend.channel.stage(trivial, len(trivial))
            backend.ledger.put(c'P', SWALLOW, self, None, None, self.now)
        if self.lane.sticky or name in self.litter:
            backend.ledger.put(c'P', FORWARD, self, at[end:self.scanner.have], None, self.now)
            return self.forward()
        statement = self.policy.statement(at[end:self.scanner.have], self.state if backend.marked_by is None else None)
        self.statements[name] = statement
        self.changing[name] = self.part
        if statement in backend.prepared:
            if backend.knows(statement) and backend.untouched() and backend.status != c'E':
                backend.ledger.put(c'P', FAKE, self, statement, key, self.now)
                return 0
            # What is under way may yet change what the server knows: then only the server can say.
            self.cut(backend)
            backend.drop(statement, self)
        self.cut(backend)
        backend.channel.stage(statement.frame, len(statement.frame))
        backend.ledger.put(c'P', FORWARD, self, statement, key, self.now)
        backend.adopt(statement, self)
        return 0

    cdef bint certain(self, Backend backend, bytes name, bint may_end) except -1:
        """Whether it is known what a name means, whatever becomes of all that is under way; else wait if that helps.

        `may_end`: a DEALLOCATE under way matters too. What is answered without another message of the client's is
        waited for; what stands in the same part of the pipeline fails together with the message that asks.
        """
        cdef Py_ssize_t i = backend.ledger.count
        cdef unsigned long long number = backend.ledger.total
        cdef Entry *entry
        cdef bint answered = False
        cdef bint named
        if not may_end and (not self.changing or self.changing.get(name, self.part) == self.part):
            return True
        named = name in self.changing
        if may_end and not named and self.forgetting == self.part and backend.forgetting >= number - i:
            return False
        while i > 0:
            if not named and number <= backend.harmless:
                break
            i -= 1
            number -= 1
            entry = &backend.ledger.ring[(backend.ledger.first + i) & backend.ledger.mask]
            if entry.kind == c'S':
                answered = True
            elif entry.kind == c'Q' or entry.kind == c'F':
                answered = True
                if may_end and may_forget(<object>entry.note):
                    return self.stall()
            elif entry.kind == c'E':
                if may_end and entry.action == FORWARD and may_forget(<object>entry.note):
                    if answered:
                        return self.stall()
                    backend.forgetting, self.forgetting = number, self.part
                    return False
            elif entry.kind == c'P' or entry.kind == c'C':
                known = <object>entry.name
                if known is not None and (known == name or (type(known) is tuple and known[0] == name)):
                    return self.stall() if answered else True
        if may_end:
            backend.harmless = backend.ledger.total
        self.changing.pop(name, None)
        return True

    cdef bint stall(self) except -1:
        """This message comes again when more has been answered."""
        self.scanner.back()
        self.passing = False
        self.stalled = True
        return False

    cdef int bind(self, Backend backend) except -1:
        cdef Statement statement
        cdef const unsigned char *at = self.scanner.at
        cdef Py_ssize_t portal = self.name_end(5)
        cdef Py_ssize_t end, rest
        cdef bytes name, head
        end = self.name_end(portal) if portal >= 0 else -1
        if end < 0 and self.scanner.left:
            return self.scanner.ask(self.scanner.have * 2)
        backend.unsynced = True
        if end < 0:
            backend.ledger.put(c'B', FORWARD, self, None, None, self.now)
            return self.forward()
        statement = None
        self.bound = None
        if end - portal == 1:
            self.bound = self.unnamed
            if self.unnamed is not None and (
                self.lane.wary or mentions_state(<const char *>self.unnamed, len(self.unnamed))
            ):
                self.cut(backend)
                self.policy.called(self, backend, self.unnamed[6:], (<const char *>at)[end:self.scanner.have])
                self.lend(backend, self.unnamed[6:])
            self.bring_unnamed(backend)
        elif not self.lane.sticky:
            name = self.name_at(portal, end)
            if not self.certain(backend, name, False):
                return 0
            statement = self.statements.get(name)
            self.bound = statement
        if portal > 6:
            if len(self.portals) >= PORTALS_MOST:
                self.portals.clear()
            self.portals[(<const char *>at)[5:portal - 1]] = self.bound
        if statement is not None:
            if statement.sets or self.lane.wary:
                self.cut(backend)
                self.policy.called(self, backend, statement.text, (<const char *>at)[end:self.scanner.have])
                self.lend(backend, statement.text)
            backend.unfamiliar = False
            if not self.as_told(backend, statement, c'B'):
                return 0
            rest = self.scanner.size - 1 - (end - portal) + len(statement.name) + 1
            head = b"B" + rest.to_bytes(4, "big") + (<const char *>at)[5:portal] + statement.name + b"\x00"
            backend.channel.stage(head, len(head))
            backend.ledger.put(c'B', FORWARD, self, statement, None, self.now)
            self.run = at + end
            self.length = self.scanner.have - end
            return 0
        backend.unfamiliar = False
        backend.ledger.put(c'B', FORWARD, self, self.bound, None, self.now)
        return self.forward()

    cdef bint as_told(self, Backend backend, Statement statement, int kind) except -1:
        """The server shall know a statement, with the rows that clients have been told of; else the message waits, or
        fails as PostgreSQL has it, which keeps a statement's rows as they were when it was prepared."""
        cdef object state
        cdef bytes frame
        self.cut(backend)
        if not backend.touch(statement):
            state = backend.prepared.get(statement)
            if state is not None and backend.status == c'E' and not backend.ledger.count:
                return True  # the server will refuse it because of its transaction
            if statement.shape is not None and statement.age != self.policy.statements.age:
                if state is CHANGED_ROWS:
                    backend.prepared[statement] = STALE
                    frame = build.describe_statement(statement.name + b"_before")
                    backend.channel.stage(frame, len(frame))
                    backend.ledger.put(kind, FORWARD, self, CHANGED, None, self.now)
                    return False
                if state is not ASKED:
                    backend.inquire(statement, self)
                self.stall()
                return False
            backend.teach(statement, self)
        return True

    cdef int bring_unnamed(self, Backend backend) except -1:
        """The unnamed statement there must be ours, or none: never another client's."""
        cdef bytes frame = self.unnamed
        if backend.unnamed_of is self:
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
        cdef bytes frame, name
        backend.unsynced = True
        if self.scanner.have > 7 and at[5] == c'S' and not self.lane.sticky:
            name = self.name_at(6, self.scanner.have)
            if not self.certain(backend, name, False):
                return 0
            statement = self.statements.get(name)
        elif self.scanner.have == 7 and at[5] == c'S':
            self.bring_unnamed(backend)
        if statement is not None:
            if not self.as_told(backend, statement, c'D'):
                return 0
            frame = build.describe_statement(statement.name)
            backend.channel.stage(frame, len(frame))
            backend.ledger.put(c'D', FORWARD, self, statement, None, self.now)
            return 0
        note = self.unnamed if self.scanner.have == 7 and at[5] == c'S' else self.bound
        backend.ledger.put(c'D', FORWARD, self, note, None, self.now)
        return self.forward()

    cdef int close_statement(self, Backend backend) except -1:
        """Close: a statement is forgotten here, servers keep it for others; a portal is the server's."""
        cdef const char *at = <const char *>self.scanner.at
        cdef Statement statement
        cdef bytes name, before
        if self.scanner.have < 7 or at[5] != c'S' or self.lane.sticky:
            backend.unsynced = True
            backend.ledger.put(c'C', FORWARD, self, None, None, self.now)
            if self.portals and self.scanner.have > 7:
                self.portals.pop(at[6:self.scanner.have - 1], None)
            return self.forward()
        name = self.name_at(6, self.scanner.have)
        if backend is not None and name and not self.certain(backend, name, False):
            return 0
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
        self.changing[name] = self.part
        backend.ledger.put(c'C', FAKE, self, statement, name, self.now)
        return 0

    cdef int lend(self, Backend backend, bytes text) except -1:
        """A DEALLOCATE by SQL needs names that only we know: the server is given them, for empty statements."""
        cdef bytes name, trivial
        if self.lane.sticky or not self.statements or len(text) > LENT_MOST:
            return 0
        for name in deallocated(text):
            if name in self.statements and name not in self.lent and name not in self.litter:
                self.cut(backend)
                # SQL's PREPARE may have made one of that name, which the DEALLOCATE means as well.
                trivial = build.close_statement(name) + build.parse(name, b"")
                if backend.untouched():
                    backend.fence += 2
                backend.channel.stage(trivial, len(trivial))
                backend.ledger.put(c'C', SWALLOW, self, None, None, self.now)
                backend.ledger.put(c'P', SWALLOW, self, None, None, self.now)
                self.lent[name] = None
        return 0

    cdef int clear_up(self, Backend backend) except -1:
        """Close what was made known to the server for the sake of its answer alone."""
        cdef bytes name, close
        self.cut(backend)
        for name in (*self.litter, *self.lent):
            close = build.close_statement(name)
            backend.channel.stage(close, len(close))
            backend.ledger.put(c'C', SWALLOW, self, None, None, self.now)
        backend.channel.stage(SYNC, 5)
        self.litter.clear()
        self.lent.clear()
        return backend.ledger.put(c'S', SWALLOW, self, None, None, self.now)

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

    cdef bytes name_at(self, Py_ssize_t start, Py_ssize_t end):
        """A statement's name of these bytes, the zero byte last. Servers cut it off, as every identifier."""
        return (<const char *>self.scanner.at)[start:min(end - 1, start + NAME_MOST)]

    cdef Py_ssize_t name_end(self, Py_ssize_t start) noexcept:
        """Where the string that begins at `start` ends, behind its zero byte; -1 if that cannot be seen."""
        cdef const unsigned char *at = self.scanner.at
        cdef const unsigned char *zero = NULL
        if start < self.scanner.have:
            zero = <const unsigned char *>memchr(at + start, 0, self.scanner.have - start)
        return zero - at + 1 if zero != NULL else -1
