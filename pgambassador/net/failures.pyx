# cython: language_level=3, boundscheck=False, wraparound=False
"""What an error of the server ends, who is told of it, and what did not happen because of it.

1. An error in the extended protocol ends all that was asked up to the next Sync, whoever asked; one of a simple
   query ends only itself.
2. An error in what brings the connection into its client's state (`fence`) ends the connection: the server skips
   what was sent behind it, and so no statement runs in the state of another client.
3. What was noted when a message was sent (a name given, a statement known) is taken back if the server never did it.
"""
from cpython.ref cimport Py_DECREF, Py_INCREF

from pgambassador.net.parties cimport Client, Statement
from pgambassador.protocol.ledger cimport FAKE, FORWARD, SWALLOW, UNOWED, Entry
from pgambassador.wire.replies cimport Failure, failure

from pgambassador.net.statements import renamed
from pgambassador.wire import build
from pgambassador.wire.parse import fields

SURVEY = object()
CHANGED = Statement(b"", b"", b"")
ASKED, CHANGED_ROWS, STALE = "asked", "changed", "stale"
# Such as "cached plan must not change result type", "cache lookup failed for type", "out of range for type integer".
cdef object MAY_BE_STALE = ("0A", "22", "42", "XX")

# What a standby cannot do, or will not do now, and what the primary may know already.
cdef object ELSEWHERE = frozenset(("25006", "40001", "40P01", "55000", "0A000"))
cdef object NOT_THERE_YET = frozenset(("42", "3F", "3D"))

# What the primary refuses because of others, or because it is none any more.
cdef object SECOND_TRY = frozenset(("25006", "40001", "40P01"))

# What ends a server connection and says nothing against its session; 40001: a standby had to make way for its primary.
cdef object SHUTDOWNS = frozenset(("57P01", "57P02", "57P05", "40001"))
cdef object FAREWELLS = frozenset((b"57P01", b"57P02"))

# The field of an error that a cancel request has brought about, and nothing else.
cdef bytes USER_REQUEST = b"\0Mcanceling statement due to user request\0"

# Between two statements: what is before it may end with a comment.
cdef bytes BETWEEN = b"\n;\n"

cdef bytes PARSE_COMPLETE = b"1\x00\x00\x00\x04"
cdef bytes CLOSE_COMPLETE = b"3\x00\x00\x00\x04"
cdef bytes READY_IDLE = b"Z\x00\x00\x00\x05I"


cdef class Failures:
    """What a server connection owes, and what becomes of it; `Answers` listens to it."""

    cdef bint ready(self) noexcept:
        """Whether it could serve another client."""
        return False

    cdef bint goes_home(self) noexcept:
        """Whether its client is only about to let go of it."""
        return False

    cdef int lose(self, str reason) except -1:
        """The connection is not to be used any more."""
        return 0

    cdef int error(self, int verdict, double now) except -1:
        """ErrorResponse: what it ends, and who is told."""
        cdef Entry *head
        cdef Client owner
        cdef Failure found = failure(self.scanner.at + 5, self.scanner.have - 5)
        self.described = None
        self.sqlstate = (<const char *>found.sqlstate)[:5].decode("ascii", "replace")
        if found.fatal:
            # Its last words go to whoever holds it.
            self.dying = True
            if self.session is None:
                self.lose(f"the server ended an idle connection ({self.sqlstate})")
            elif self.session.request is not None or self.goes_home():
                # Its client will ask again elsewhere, or is only about to let go of it, and need not know.
                self.reader = None
            elif self.home.sticky or self.pinned or self.sqlstate not in SHUTDOWNS:
                # What it says is about this session: it has broken the protocol, or been idle for too long.
                self.reader = self.session
                self.told = True
            else:
                # Its session goes on.
                self.reader = None
                self.farewell = (<const char *>self.scanner.at)[5:self.scanner.have]
                self.lose(f"the server ended the connection ({self.sqlstate})")
            return 0
        if verdict == UNOWED:
            return 0
        head = self.ledger.head()
        if self.fence and <object>head.note is not SURVEY:
            return self.fenced_off()
        if self.repeats(<Client>head.owner):
            return self.repeat(<Client>head.owner)
        if self.excuse is not None and self.sqlstate == "57014":
            self.excuse_it()
        self.erred = verdict == FORWARD
        if head.kind == c'Q' or head.kind == c'F' or head.kind == c'S':
            if verdict == SWALLOW and <object>head.note is SURVEY and self.done is None:
                self.rows_asked = None
                if self.aimed and self.sqlstate == "57014":
                    self.home.policy.cancel_again(self)
            elif verdict == SWALLOW and self.refused is None and self.riders is None:
                self.failed = True
                self.refused = (<const char *>self.scanner.at)[5:self.scanner.have]
        else:
            # Also what we asked for on a client's behalf, such as a Parse: its own message fails with it.
            self.reader = <Client>head.owner
            if <object>head.note is CHANGED and self.sqlstate == "26000":
                self.sqlstate = "0A000"
                self.instead = self.home.policy.statements.refusal
            elif self.sqlstate in ("26000", "42P05") and type(<object>head.note) is Statement and not self.home.sticky:
                # What this server knows is not what we think it knows (a DO block can DEALLOCATE).
                self.retiring = True
            elif <object>head.note in self.prepared:
                self.doubt(<Statement>head.note)
            note = <object>head.note
            self.erred = self.reader is not None
            if self.reader is not None:
                self.reader.settled(head.kind, note, head.started, now, 0, self.sqlstate)
            if self.copying and self.copy_syncs:
                self.doubtful = True
            owner = <Client>head.owner
            if self.ledger.head().kind == c'q':
                self.ledger.fail()  # it has ended the unnamed statement all the same
            else:
                self.undo(self.ledger.fail())
            self.end_together(owner)
            if self.reader is not None and self.instead is None and type(note) is Statement and not self.scanner.left:
                # A Close that has not happened has given its name back.
                message = (<const char *>self.scanner.at)[:self.scanner.have]
                self.instead = renamed(message, note, self.reader.statements)
            self.sqlstate = ""
        self.copying = False
        return 0

    cdef bint untouched(self) noexcept:
        """Whether nothing that a client has sent is under way."""
        return self.ledger.count == self.fence + (self.rows_asked is not None)

    def precede(self, bytes change not None, Py_ssize_t statements):
        """Extended messages without a Sync that execute so many statements, before anything else is executed."""
        cdef Py_ssize_t _each
        if self.untouched():
            self.fence += 3 * statements
        for _each in range(statements):
            self.ledger.put(c'P', SWALLOW, self.session, None, None, 0.0)
            self.ledger.put(c'B', SWALLOW, self.session, None, None, 0.0)
            self.ledger.put(c'E', SWALLOW, self.session, None, None, 0.0)
        self.unnamed_of = None
        self.channel.stage(change, len(change))

    cdef int aside(self, bytes sql, Client client) except -1:
        """A statement of ours that touches nothing of its client's."""
        run, close = build.aside(sql, unnamed=False)
        for frames in (run, close):
            self.channel.stage(<bytes>frames, len(frames))
        for kind in b"CPBECC":
            self.ledger.put(kind, SWALLOW, client, None, None, 0.0)
        return 0

    def give_up(self, unsigned long long number, str why not None):
        """What was asked as this one of all is to be cancelled; its client is told why, if that is what ends it."""
        if self.session is not None:
            self.session.request = None  # nor is it asked anywhere else
        self.given_up = number
        self.excuse = b"\0M" + why.encode() + b"\0"

    def still_owes(self, unsigned long long number):
        """Whether what was asked as this one of all is not answered yet."""
        return self.ledger.count > 0 and self.ledger.total - self.ledger.count <= number

    cdef int excuse_it(self) except -1:
        """A cancel request has ended something. If that is what was given up, its client is told why."""
        cdef Entry *head = self.ledger.head()
        cdef bytes error
        if self.given_up < self.ledger.total - self.ledger.count:
            return 0  # what followed it
        # Of what we have asked on its behalf in the extended protocol its client is told, too.
        if head.action == FORWARD or <object>head.owner is not None and head.kind != c'Q' and head.kind != c'S':
            error = (<const char *>self.scanner.at)[:self.scanner.have]
            if not self.scanner.left and USER_REQUEST in error:
                self.instead = build.frame(c'E', error[5:].replace(USER_REQUEST, self.excuse, 1))
        self.excuse = None
        return 0

    cdef int doubt(self, Statement statement) except -1:
        """A statement that the server knows has failed."""
        if self.prepared[statement] is ASKED:
            self.prepared[statement] = STALE
        elif self.sqlstate[:2] in MAY_BE_STALE:
            # Perhaps a table or a type has changed, and it has to be parsed again: not if a client was told of its
            # rows, which the server keeps from becoming others.
            if self.sqlstate == "0A000":
                self.home.policy.statements.outdated((<const char *>self.scanner.at)[:self.scanner.have])
            if self.sqlstate != "0A000" or statement.shape is None:
                self.prepared[statement] = STALE
        return 0

    cdef bint asks_again(self, int kind) except -1:
        """Whether the error in hand, or the notice of a server that stops at once, reaches nobody: then nothing may
        that was to go out with it."""
        cdef Client owner = <Client>self.ledger.head().owner
        cdef Failure found = failure(self.scanner.at + 5, self.scanner.have - 5)
        cdef bint last = found.fatal or kind == c'N'
        if owner is None or owner.backend is not self or (kind == c'N' and found.sqlstate[:5] not in FAREWELLS):
            return False
        self.sqlstate = found.sqlstate[:5].decode("ascii", "replace")
        if owner.request is None and not self.fence and not self.home.sticky:
            if last or self.sqlstate in SECOND_TRY and (self.sqlstate == "25006" or not self.home.standby):
                self.second = owner if owner.reconsiders(self, self.sqlstate) else None
        return owner.request is not None and (last or self.fence > 0 or self.repeats(owner))

    cdef bint says_farewell(self) except -1:
        """Whether a notice is that of a server which stops at once. Who goes on elsewhere need not know."""
        cdef Failure found = failure(self.scanner.at + 5, self.scanner.have - 5)
        cdef bint asked_again = self.reader.request is not None
        if found.sqlstate[:5] not in FAREWELLS or (not asked_again and (self.home.sticky or self.pinned)):
            return False
        self.dying = self.dying or asked_again  # what comes behind it waits for another server
        self.farewell = (<const char *>self.scanner.at)[5:self.scanner.have]
        return True

    cdef bint in_company(self) noexcept:
        """Whether one of several statements in a simple query may be what is being answered."""
        if self.riders is None or not self.ledger.count:
            return False
        return self.ledger.head().kind == c'q' or self.ledger.head().kind == c'S'

    cdef bint quotes_others(self) except -1:
        """Whether a notice shows what several clients have asked in one text, as those of the server's log may.
        Where it tells its clients such things they ask no more in one text."""
        cdef bytes notice
        if not self.in_company():
            return False
        notice = (<const char *>self.scanner.at)[5:self.scanner.have]
        if b"\0VLOG\0" not in notice and b"\0VDEBUG" not in notice and BETWEEN not in notice:
            return False
        self.home.outspoken = True
        return True

    cdef bint not_here(self) except -1:
        """Whether a standby cannot do it that the primary may."""
        if not self.home.standby:
            return False
        return self.sqlstate in ELSEWHERE or self.sqlstate[:2] in NOT_THERE_YET and self.sqlstate != "42601"

    cdef bint repeats(self, Client owner) except -1:
        """Whether the error is not one of the statement's, but of where it runs or whom it meets there."""
        if owner is None or owner.request is None or owner.backend is not self:
            return False
        if self.ledger.head().kind == c'q':
            return True  # it names a place in a text that its client has not written
        if self.home.standby:
            return self.not_here()
        if owner is self.second:
            return True
        return self.riders is not None and self.sqlstate in ("57014", "26000")  # who was to teach it may have failed

    cdef int repeat(self, Client owner) except -1:
        """Nothing of the answer reaches its client, who asks again, elsewhere."""
        cdef Entry *head = self.ledger.head()
        if self.sqlstate == "25006" and self.home.standby:
            owner.refuted()
        owner.suspected = head.kind == c'q' and not self.not_here()
        self.reader = self.second = None
        if head.kind != c'Q' and head.kind != c'S':
            if self.sqlstate == "42P05" or self.sqlstate == "26000" and <object>head.note in self.prepared:
                self.retiring = True
            elif <object>head.note in self.prepared:
                self.doubt(<Statement>head.note)
            self.undo(self.ledger.fail())
            owner.undone()
            self.end_together(None)
        if self.ledger.count:
            self.ledger.head().action = SWALLOW
        self.sqlstate = ""
        self.landing.append(owner)
        return 0

    cdef int end_together(self, Client owner) except -1:
        """The server skips to a Sync that several share, and then says to all of them that it is ready: to the one
        that has failed, who alone was heard."""
        cdef Client behind
        cdef Entry *head
        cdef bint suspected
        if not self.ledger.count or self.ledger.head().action != FAKE or self.ledger.head().kind != c'S':
            return 0
        while self.ledger.head().action == FAKE:
            self.ledger.drop_head()
            behind = <Client>self.ledger.head().owner
            suspected = self.ledger.head().kind == c'q'  # servers read all before they do anything
            self.undo(self.ledger.fail())
            if behind is not None and behind is not owner and behind.request is not None:
                behind.suspected = suspected
                self.landing.append(behind)
        head = self.ledger.head()
        Py_INCREF(owner)
        Py_DECREF(<object>head.owner)
        head.owner = <void *>owner
        head.action = SWALLOW if owner is None else FORWARD
        return 0

    cdef int fenced_off(self) except -1:
        """The connection could not be brought into its client's state; nothing of its client's has been done."""
        cdef Client session = self.session
        cdef bytes message = (<const char *>self.scanner.at)[:self.scanner.have]
        cdef Py_ssize_t i
        cdef Entry *entry
        cdef int kind
        cdef bint ended = False
        # Without a BEGIN what follows would count by itself.
        if self.sqlstate == "57014" and session is not None and not session.beginning:
            for i in range(self.fence, self.ledger.count):
                entry = &self.ledger.ring[(self.ledger.first + i) & self.ledger.mask]
                if entry.action == SWALLOW:
                    continue  # ours
                if ended:
                    break
                kind = entry.kind
                ended = kind == c'Q' or kind == c'F' or kind == c'S'
            else:
                # A cancel request came too early. It was meant for all that its client has asked.
                self.undo(self.ledger.fail())
                self.session = None
                session.backend = None
                session.cancelled(message, ended)
                return self.lose("a cancel request hit its change of hands")
        self.doubtful = True  # nowhere else would they be taken
        return self.lose(f"the server refused the session's settings: {fields(message[5:]).get('M')}")

    cdef int dropped(self, Statement statement) except -1:
        """A Close of ours is not under way any more."""
        cdef Py_ssize_t others = self.dropping.pop(statement, 1) - 1
        if others:
            self.dropping[statement] = others
        return 0

    cdef int undo(self, list ended) except -1:
        """What an error has kept from happening did not happen."""
        cdef Client owner
        for kind, action, owner, note, name in reversed(ended):
            if kind == c'P' or kind == c'p':
                if type(note) is not Statement:
                    self.unnamed_of = None
                    if action == FORWARD and owner.unnamed is note:
                        # A Parse that was skipped leaves the one before; one that failed leaves none.
                        owner.unnamed = name if len(ended) > 1 and note is not ended[0][3] else None
                    continue
                if action != FAKE:
                    self.prepared.pop(note, None)
                if type(name) is tuple:
                    owner.statements[name[0]] = name[1]
                elif name is not None and owner is not None and owner.statements.get(name) is note:
                    del owner.statements[name]
            elif kind == c'C' and action != FORWARD:
                if note is not None and action == SWALLOW:
                    self.prepared[note] = None
                    self.dropped(note)
                elif note is not None and owner is not None:
                    owner.statements.setdefault(name, note)
            elif kind == c'B':
                if name is not None and owner is not None:
                    (<object>owner).portals[name[0]] = name[1]  # the portal of that name is the one before
            elif name is not None and owner is not None:
                # Of a Close or a simple query that was skipped: the unnamed statement is still there.
                owner.unnamed = name
            if kind == c'Q' and action == FORWARD and self.ledger.count and self.ledger.head().action == SWALLOW:
                # What was lent to it has failed. The server skips to our Sync, whose answer it has instead of its own.
                self.ledger.head().action = FORWARD
        return 0

    cdef int pay(self) except -1:
        """Pay the fakes that have reached the head; they leave with their owner's next bytes, or end its answer."""
        cdef Entry *head
        cdef Client owner
        while self.ledger.count and self.ledger.head().action == FAKE:
            head = self.ledger.head()
            owner = <Client>head.owner
            if head.kind == c'S':
                self.ready_early(owner)
                self.ledger.drop_head()
                continue
            owner.request = None
            owner.channel.stage(PARSE_COMPLETE if head.kind == c'P' else CLOSE_COMPLETE, 5)
            self.ledger.drop_head()
        return 0

    cdef int ready_early(self, Client owner) except -1:
        """Its statement is done, and the Sync behind it is that of others."""
        if owner is None:
            return 0
        owner.request = None
        self.executed = 0  # of the next one's nothing
        self.home.bytes_sent += 6
        self.home.transactions += 1
        owner.channel.send(READY_IDLE, 6)
        self.landing.append(owner)
        return 0
