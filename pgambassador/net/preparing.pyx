# cython: language_level=3, boundscheck=False, wraparound=False
"""Prepared statements on their way to a server: the client's names on one side, ours on the other.

1. Statements belong to the session under the client's names, to servers under ours. An unknown name passes unchanged,
   and so does what is malformed: the server's own error answers it. SQL's names are the protocol's too: what SQL shall
   know of ours is lent for that message (`lend`), and what its PREPARE may have taken is tried there.
2. What a name means is decided when all is known that it depends on: behind a Sync whose part of the pipeline may
   have failed, a message that needs a name which was changed there waits for the answers (`stalled`).
"""
from libc.string cimport memchr

from pgambassador.net.backend cimport Backend
from pgambassador.net.failures cimport ASKED, CHANGED, CHANGED_ROWS, STALE
from pgambassador.net.parties cimport Statement
from pgambassador.protocol.ledger cimport FAKE, FORWARD, SWALLOW, Entry
from pgambassador.wire.replies cimport begins_like_set, mentions_state

from pgambassador.net.statements import may_forget
from pgambassador.wire import build
from pgambassador.wire.parse import named_by_sql

# Of more portals than that it is not known what they execute.
cdef Py_ssize_t PORTALS_MOST = 1000, LENT_MOST = 64 * 1024, BULKY = 1024 * 1024
cdef bytes FLUSH = b"H\x00\x00\x00\x04", CLOSE_UNNAMED = b"C\x00\x00\x00\x06S\x00"
# NAMEDATALEN, without its zero byte.
cdef Py_ssize_t NAME_MOST = 63


cdef class Preparing(Waiter):
    """The part of a session that knows its statements."""

    def __init__(self, Lane lane not None):
        self.lane = lane
        self.policy = lane.policy
        self.wait_most = lane.wait_most
        self.statements, self.changing, self.former, self.portals = {}, {}, {}, {}
        self.forgetting = -1
        self.litter, self.lent = {}, {}

    cdef int parse(self, Backend backend) except -1:
        cdef Statement statement
        cdef const char *at = <const char *>self.scanner.at
        cdef Py_ssize_t end = self.name_end(5)
        cdef bytes name, before, text
        cdef object key
        cdef bint shared
        backend.unsynced = True
        if end < 0:
            backend.ledger.put(c'P', FORWARD, self, None, None, self.now)
            return self.forward()
        if end == 6:
            if self.scanner.size > BULKY and backend.owes(BULKY):
                return self.stall()
            before = self.unnamed
            if self.statements and mentions_state(at, self.scanner.have) and not self.lend(
                backend, at[6:self.scanner.have]
            ):
                return 0
            self.unnamed = at[:self.scanner.have]
            self.changing[b""] = self.part
            backend.unnamed_of = self
            self.unnamed_at = backend
            if backend.just_parsed(self.unnamed if self.tone else None):
                self.cut(backend)
                return backend.close_nothing(self, self.unnamed, before, self.now)
            backend.ledger.put(c'P', FORWARD, self, self.unnamed, before, self.now)
            self.forward()
            if self.scanner.size > BULKY:
                # What is kept until the answer comes is much: have the server say it at once.
                self.cut(backend)
                backend.channel.stage(FLUSH, 5)
            return 0
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
        if self.lane.sticky and begins_like_set(self.scanner.at + end, self.scanner.have - end):
            text = at[end:self.scanner.have].partition(b"\x00")[0]  # is needed (`follow`)
            statement = Statement(name, at[:self.scanner.have], text)
            key = (name, self.statements[name]) if name in self.statements else name
            self.statements[name] = statement
            backend.ledger.put(c'P', FORWARD, self, statement, key, self.now)
            return self.forward()
        if self.lane.sticky or name in self.litter:
            backend.ledger.put(c'P', FORWARD, self, at[end:self.scanner.have], None, self.now)
            return self.forward()
        if backend.tied and name not in self.statements and name not in self.lent and backend.status != c'E':
            # SQL's PREPARE may have made one of that name, which the server knows.
            self.cut(backend)
            trivial = build.parse(name, b"") + build.close_statement(name)
            backend.channel.stage(trivial, len(trivial))
            backend.ledger.put(c'P', SWALLOW, self, None, None, self.now)
            backend.ledger.put(c'C', SWALLOW, self, None, None, self.now)
        shared = backend.marked_by is None
        if self.statements and mentions_state(at, self.scanner.have):
            text = at[end:self.scanner.have]
            if not self.lend(backend, text):
                return 0
            shared = shared and len(text) <= LENT_MOST and not named_by_sql(text)  # names are the client's own
        statement = self.policy.statement(at[end:self.scanner.have], self.state if shared else None)
        if not shared:
            self.policy.prepared(self, backend, statement)
        self.change(name)
        self.statements[name] = statement
        if statement in backend.prepared:
            if backend.knows(statement) and backend.untouched() and backend.status != c'E':
                backend.ledger.put(c'P', FAKE, self, statement, key, self.now)
                return 0
            # What is under way may yet change what the server knows: then only the server can say.
            self.cut(backend)
            backend.drop(statement, self)
        else:
            self.cut(backend)
            self.make_sure(backend, statement)
        backend.channel.stage(statement.frame, len(statement.frame))
        backend.ledger.put(c'P', FORWARD, self, statement, key, self.now)
        backend.adopt(statement, self)
        return 0

    cdef int change(self, bytes name) except -1:
        """It is about to mean something else."""
        if self.part == self.first_part:
            self.former.setdefault(name, self.statements.get(name))
        self.changing[name] = self.part
        return 0

    cdef bint certain(self, Backend backend, bytes name, bint may_end) except -1:
        """Whether it is known what a name means, whatever becomes of all that is under way; else wait if that helps.

        `may_end`: a DEALLOCATE under way matters too. What is answered without another message of the client's is
        waited for; what stands in the same part of the pipeline fails together with the message that asks.
        """
        cdef Py_ssize_t i = backend.ledger.count
        cdef unsigned long long number = backend.ledger.total
        cdef Entry *entry
        cdef bint answered = False, named = name in self.changing
        if not may_end and (not self.changing or self.changing.get(name, self.part) == self.part):
            return not backend.may_lack(self, name) or self.stall()
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
                if may_end and entry.action == FORWARD and may_forget(<object>entry.note):
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

    cdef bint certain_of_unnamed(self, Backend backend) except -1:
        """The same of the unnamed statement: where a Parse was skipped the server has another one, perhaps not ours."""
        cdef Py_ssize_t i
        cdef Entry *entry
        if self.unnamed is None or self.changing.get(b"", self.part) == self.part:
            return True  # none is the server's to say
        for i in range(backend.ledger.count):
            entry = &backend.ledger.ring[(backend.ledger.first + i) & backend.ledger.mask]
            if (entry.kind == c'P' or entry.kind == c'p') and <object>entry.note is self.unnamed:
                return self.stall()
        del self.changing[b""]
        return True

    cdef bint stall(self) except -1:
        """This message comes again when more has been answered."""
        self.scanner.back()
        self.passing = False
        self.stalled = True
        return False

    cdef int bind(self, Backend backend) except -1:
        cdef Statement statement = None
        cdef const unsigned char *at = self.scanner.at
        cdef Py_ssize_t end, rest, portal = self.name_end(5)
        cdef bytes name, head
        cdef object before = None, note = None
        end = self.name_end(portal) if portal >= 0 else -1
        if end < 0 and self.scanner.left:
            return self.scanner.ask(self.scanner.have * 2)
        backend.unsynced = True
        if end < 0:
            backend.ledger.put(c'B', FORWARD, self, None, None, self.now)
            return self.forward()
        if end - portal == 1:
            if not self.certain_of_unnamed(backend):
                return 0
            note = self.unnamed
            if self.unnamed is not None and (
                self.lane.wary or mentions_state(<const char *>self.unnamed, len(self.unnamed))
            ):
                self.cut(backend)
                if not self.lend(backend, self.unnamed[6:]):
                    return 0
                self.policy.called(self, backend, self.unnamed[6:], (<const char *>at)[end:self.scanner.have])
            self.bring_unnamed(backend)
        elif self.lane.sticky:
            if self.statements:
                note = self.statements.get(self.name_at(portal, end))
        else:
            name = self.name_at(portal, end)
            if not self.certain(backend, name, False):
                return 0
            note = statement = self.statements.get(name)
        if portal == 6:
            self.bound = note
        else:
            if len(self.portals) >= PORTALS_MOST:
                self.portals.clear()
            name = self.name_at(5, portal)
            if name in self.portals:
                before = (name, self.portals[name])
            self.portals[name] = note
        if statement is not None:
            if statement.sets or self.lane.wary:
                self.cut(backend)
                if not self.lend(backend, statement.text):
                    return 0
                self.policy.called(self, backend, statement.text, (<const char *>at)[end:self.scanner.have])
            backend.unfamiliar = False
            if not self.as_told(backend, statement, c'B'):
                return 0
            rest = self.scanner.size - 1 - (end - portal) + len(statement.name) + 1
            head = b"B" + rest.to_bytes(4, "big") + (<const char *>at)[5:portal] + statement.name + b"\x00"
            backend.channel.stage(head, len(head))
            backend.ledger.put(c'B', FORWARD, self, statement, before, self.now)
            self.run = at + end
            self.length = self.scanner.have - end
            return 0
        backend.unfamiliar = False
        backend.ledger.put(c'B', FORWARD, self, note, before, self.now)
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
            if state is None:
                self.make_sure(backend, statement)
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

    cdef int make_sure(self, Backend backend, Statement statement) except -1:
        """A Close of a statement that made place for another one may be skipped yet: then the server still has it."""
        cdef bytes close
        if statement not in backend.dropping:
            return 0
        close = build.close_statement(statement.name)
        backend.channel.stage(close, len(close))
        # Skipped itself, it gives nothing back: what the server has then is a matter of the one before.
        return backend.ledger.put(c'C', SWALLOW, self, None, None, self.now)

    cdef int bring_unnamed(self, Backend backend) except -1:
        """The unnamed statement there must be ours, or none: never another client's."""
        cdef bytes frame = self.unnamed
        if backend.unnamed_of is self and self.unnamed_at is backend:
            return 0
        self.cut(backend)
        backend.just_parsed(None)
        if frame is not None:
            backend.ledger.put(c'P', SWALLOW, self, frame, None, self.now)
            backend.unnamed_of = self
            self.unnamed_at = backend
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
            if not self.certain_of_unnamed(backend):
                return 0
            self.bring_unnamed(backend)
        if statement is not None:
            if statement.sets and not self.lend(backend, statement.text):
                return 0
            if not self.as_told(backend, statement, c'D'):
                return 0
            frame = build.describe_statement(statement.name)
            backend.channel.stage(frame, len(frame))
            backend.ledger.put(c'D', FORWARD, self, statement, None, self.now)
            return 0
        note = self.unnamed if self.scanner.have == 7 and at[5] == c'S' else self.bound
        if self.scanner.have > 7:
            note = self.portals.get(self.name_at(6, self.scanner.have))
        backend.ledger.put(c'D', FORWARD, self, note, None, self.now)
        return self.forward()

    cdef bint lend(self, Backend backend, bytes text) except -1:
        """SQL's EXECUTE, PREPARE and DEALLOCATE may mean names that only we know: the server is given them, for this
        message or up to the next Sync. What is executed is the statement; elsewhere an empty one will do. False: the
        message waits until it is known what a name means."""
        cdef Statement statement
        cdef bytes name, frames
        if self.lane.sticky or not self.statements or len(text) > LENT_MOST:
            return True
        for name, uses in named_by_sql(text).items():
            if not self.certain(backend, name, False):
                return False
            statement = self.statements.get(name)
            if statement is None or name in self.lent or name in self.litter:
                continue
            self.cut(backend)
            frames = build.parse(name, b"")
            if b"execute" in uses:
                if backend.status == c'E':
                    continue  # the server will refuse it because of its transaction
                self.policy.called(self, backend, statement.text)
                frames = build.frame(c'P', name + statement.frame[5 + len(statement.name):])
            # SQL's PREPARE may have made one of that name where nobody could see it.
            frames = build.close_statement(name) + frames
            backend.channel.stage(frames, len(frames))
            backend.ledger.put(c'C', SWALLOW, self, None, None, self.now)
            backend.ledger.put(c'P', SWALLOW, self, None, None, self.now)
            self.lent[name] = b"deallocate" in uses and b"prepare" in uses
        return True

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
