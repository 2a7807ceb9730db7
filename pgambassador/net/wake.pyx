# cython: language_level=3, boundscheck=False, wraparound=False
"""What becomes of a client whose server connection dies, or refuses, under it: it keeps its session where that can be.

1. Nothing is executed twice that was not proven safe or marked, no acknowledged commit is lost, and unknown is said
   as unknown: `routing.replay` decides it, `aftermath` puts it into words, and this carries it out.
2. Each Sync and each simple query that was sent is answered once, and each part of a pipeline that was not
   completed with an error.
3. In a transaction that was lost nothing but its end is done, here, and answered with ROLLBACK. A COMMIT is
   answered so only if its client has been told before.
4. Statements and settings are what they were before what was lost; nothing that was not completed counts.
"""
from pgambassador.net.backend cimport Backend
from pgambassador.net.failures cimport READY_IDLE
from pgambassador.net.parties cimport clock
from pgambassador.protocol.ledger cimport SWALLOW, Entry

from pgambassador.net.aftermath import IN_FAILED, Loss
from pgambassador.net.statements import statement_text
from pgambassador.routing.replay import FAREWELLS, Phase, ending

cdef bytes READY_FAILED = b"Z\x00\x00\x00\x05E"
cdef bytes ROLLBACK = b"C\x00\x00\x00\x0dROLLBACK\x00"
cdef bytes PARSED = b"1\x00\x00\x00\x04"
cdef bytes BOUND = b"2\x00\x00\x00\x04"
cdef bytes CLOSED = b"3\x00\x00\x00\x04"
cdef bytes NO_DATA = b"n\x00\x00\x00\x04"
cdef bytes NO_PARAMETERS = b"t\x00\x00\x00\x06\x00\x00"


cdef class Wake(Lobby):
    """The part of a session that outlives its server connections."""

    cdef int unlinked(self, int kind) except -1:
        if self.adrift and not self.skipping:
            return self.await_rollback(kind)
        return Lobby.unlinked(self, kind)

    cdef int refuse_one(self, int kind) except -1:
        if self.ventured and self.refusal is not None:
            self.refusal = self.policy.uncertain(self.refusal)
            self.ventured = False
        return Lobby.refuse_one(self, kind)

    cdef bytes readiness(self):
        return READY_FAILED if self.adrift else Lobby.readiness(self)

    # The connection is gone.

    cdef int orphaned(self, object lost, str reason, bint told) except -1:
        cdef Backend backend = lost
        cdef list left
        cdef bytes request
        cdef bint sent, older
        cdef bint rode = self.riding
        self.riding = False
        if self.closed:
            return 0
        if self.touched is not None:
            self.lets_go()
        if told:
            (<object>self).close(reason)
            return 0
        if self.leaving:
            return self.served()
        left = self.left_by(backend)
        request = self.all_of_it(backend)
        sent = backend.channel.delivered != backend.delivered_before
        phase = Phase.SENT if sent else Phase.UNSENT
        if backend.last is not self or self.channel.sent + self.channel.held.used != backend.told_before:
            phase = Phase.ANSWERED
        # A server that ends takes all its connections with it: those that were there at the first loss do not count.
        older = backend.opened < self.lost_at
        backend.undo(left)
        fate = self.policy.bereft(self, backend, Loss(
            reason=reason,
            farewell=backend.farewell,
            owed=[(chr(kind), note) for kind, action, _owner, note, _name in left if action != SWALLOW],
            request=request,
            unnamed=self.unnamed,
            phase=phase,
            status=chr(backend.status),
            beginning=self.beginning,
            erred=backend.erred,
            executed=backend.executed,
            rode=rode,
            open=backend.unsynced or backend.ledger.skipping,
            overdue=backend.overdue,
            asking=backend.rows_asked is not None,
            tries=self.tries,
            sudden=0 if older else self.sudden,
        ))
        self.lost_at = self.lost_at or clock()
        self.sudden += backend.farewell is None and not older
        if fate is None or self.closed:
            return 0
        self.passing = False
        if fate.replay:
            self.request = request
            self.undone()
            if fate.adrift:
                return self.roll_back()
            self.tries += not older
            self.ventured = self.ventured or fate.ventured
            self.pause = fate.pause
            return self.again(False)
        self.noting = False
        self.bound = None
        self.litter.clear()
        self.lent.clear()
        self.beginning = False
        self.bereaved = True
        self.adrift = fate.adrift
        if self.adrift:
            self.lane.promised.add(self)
        self.refusal = fate.refusal
        self.skipping = fate.skipping
        if fate.answers:
            self.channel.stage(fate.answers, len(fate.answers))
        self.channel.flush()
        if self.may_read():
            self.channel.start_reading()
        # What it has sent behind its request waits only where it shared a connection.
        return self.landed() if rode else self.served()

    cdef list left_by(self, Backend backend):
        """What the connection owed this client, or did for it."""
        cdef Py_ssize_t i
        cdef Entry *entry
        cdef list left = []
        for i in range(backend.ledger.count):
            entry = &backend.ledger.ring[(backend.ledger.first + i) & backend.ledger.mask]
            if <object>entry.owner is self:
                left.append((entry.kind, entry.action, self, <object>entry.note, <object>entry.name))
        return left

    def under_way(self):
        """What its connection owes it, whether that is in a transaction, and how far it is, all as in a Loss."""
        cdef Backend backend = self.backend
        if backend is None or self.riding:
            return [], False, 0
        owed = [(chr(kind), note) for kind, action, _owner, note, _name in self.left_by(backend) if action != SWALLOW]
        return owed, backend.status != c'I' or self.beginning, backend.executed

    cdef bytes all_of_it(self, Backend backend):
        """All that the connection was sent for this client, if that is one part of a pipeline, and complete."""
        cdef const unsigned char *at = <const unsigned char *>backend.memo.base
        cdef Py_ssize_t n = backend.memo.used
        cdef Py_ssize_t size, i = 0
        cdef int kind = 0
        if backend.last is not self or self.part != self.first_part + 1:
            return None
        if backend.unsynced or backend.fed or backend.ledger.skipping or self.lane.sticky:
            return None
        while i + 5 <= n and kind != c'S' and kind != c'Q':
            kind = at[i]
            size = 1 + ((<Py_ssize_t>at[i + 1] << 24) | (at[i + 2] << 16) | (at[i + 3] << 8) | at[i + 4])
            if kind not in (c'Q', c'P', c'B', c'D', c'E', c'C', c'H', c'S') or size > n - i:
                return None
            i += size
        if (kind != c'S' and kind != c'Q') or (kind == c'Q' and backend.memo.base[0] != c'Q'):
            return None
        return backend.memo.base[:i]

    # The server refuses what was asked, and lives on.

    cdef bint reconsiders(self, object refused_by, str sqlstate) except -1:
        cdef Backend backend = refused_by
        cdef bytes request
        cdef bint older = backend.opened < self.lost_at
        if self.closed or self.leaving or backend.status != c'I' or self.beginning or backend.pinned:
            return False
        if sqlstate == "25006" and backend.home.standby and (backend.tied or backend.cancelling):
            return False  # what it has locked there is its own; and what is cancelled does not begin elsewhere
        if backend.overdue or backend.rows_asked is not None:
            return False  # what its client has set before would be lost with the connection
        if self.channel.sent + self.channel.held.used != backend.told_before:
            return False
        request = self.all_of_it(backend)
        if request is None:
            return False
        second = self.policy.refused(self, backend, sqlstate, request, self.unnamed, self.tries)
        if second is None:
            return False
        self.pause = second.pause
        self.ventured = self.ventured or second.ventured
        if sqlstate not in FAREWELLS:
            older = False
        else:
            self.lost_at = self.lost_at or clock()
        self.tries += not older
        self.request = request
        return True

    cdef int cancelled(self, bytes error, bint ended) except -1:
        self.passing = False
        self.skipping = not ended
        self.litter.clear()
        self.lent.clear()
        self.channel.stage(error, len(error))
        if ended:
            self.channel.stage(READY_IDLE, 6)
        self.channel.flush()
        if self.may_read():
            self.channel.start_reading()  # it was stopped if what was cancelled is long
        self.served()
        return self.resume() if self.stalled and not self.closed else 0

    cdef int again(self, bint at_primary) except -1:
        cdef double pause = self.pause
        self.pause = 0
        if self.leaving and not self.closed:
            self.riding = False
            return self.served()  # nobody is there to hear it
        self.rewind(at_primary)
        if self.closed:
            return 0
        if pause > 0:
            self.stalled = True
            self.policy.later(self, pause)
            return 0
        return self.resume()

    def try_again(self):
        """The pause is over."""
        if self.stalled and self.backend is None and not self.closed:
            self.resume()

    def not_again(self, bytes error not None):
        """The pause is over, and what was to be asked again is answered with this."""
        if self.stalled and self.backend is None and not self.closed:
            self.repeating = self.again_at_primary = False
            self.refusal = error
            self.resume()

    # In a transaction that is not there any more.

    cdef int roll_back(self) except -1:
        """What it has asked is said to what is lost, and so comes again to be answered here."""
        self.adrift = self.bereaved = True
        self.beginning = False
        self.lane.promised.add(self)
        self.rewind(False)
        self.repeating = False
        return self.resume()

    cdef int await_rollback(self, int kind) except -1:
        """A message of a client whose transaction was lost. False: it waits for a server connection."""
        cdef const char *at = <const char *>self.scanner.at
        self.passing = False
        if kind == c'S':
            self.channel.stage(READY_FAILED, 6)
            return True
        if kind == c'H' or kind == c'd' or kind == c'c' or kind == c'f':
            return True
        if kind == c'Q' and not self.scanner.left and self.scanner.have > 5:
            return self.end_lost(kind, ending(at[5:self.scanner.have - 1]))
        if kind == c'C' and self.scanner.have > 6:
            if at[5] == c'S':
                self.close_statement(None)
            else:
                self.portals.pop(self.name_at(6, self.scanner.have), None)
                self.channel.stage(CLOSED, 5)
            return True
        if self.scanner.left or kind == c'F':
            return self.end_lost(kind, "")
        return self.await_prepared(kind)

    cdef int await_prepared(self, int kind) except -1:
        """The same for what prepares and executes a statement."""
        cdef const char *at = <const char *>self.scanner.at
        cdef Py_ssize_t n = self.scanner.have
        cdef Py_ssize_t first = self.name_end(5)
        cdef Py_ssize_t second = -1
        cdef object note = None
        cdef bytes reply = BOUND
        if kind == c'P' and first > 0:
            how = ending(at[first:n].partition(b"\x00")[0])
            if how not in ("commit", "rollback"):
                return self.end_lost(kind, "")
            if first == 6:
                self.unnamed = at[:n]
                self.unnamed_at = None  # whatever a server has of ours is another one
            else:
                self.statements[self.name_at(5, first)] = self.policy.statement(at[first:n], None)
            self.channel.stage(PARSED, 5)
            return True
        if kind == c'B' and first > 0:
            second = self.name_end(first)
            if second > 0:
                note = self.unnamed if second - first == 1 else self.statements.get(self.name_at(first, second))
                if first == 6:
                    self.bound = note
                else:
                    self.portals[self.name_at(5, first)] = note
        elif kind == c'D' and n > 6 and at[5] == c'S':
            note = self.unnamed if n == 7 else self.statements.get(self.name_at(6, n))
            reply = NO_PARAMETERS + NO_DATA
        elif (kind == c'D' or kind == c'E') and n > 6:
            second = 5 + (kind == c'D')
            first = self.name_end(second)
            note = self.bound if first == second + 1 else self.portals.get(
                self.name_at(second, max(first, second + 1)))
            reply = NO_DATA
        how = "" if note is None else ending(statement_text(note))
        if how not in ("commit", "rollback"):
            return self.end_lost(kind, "")
        if kind == c'E':
            return self.end_lost(kind, how)
        self.channel.stage(reply, len(reply))
        return True

    cdef int end_lost(self, int kind, str how) except -1:
        """`how` the transaction ends by what is asked, if it does."""
        cdef bint told = self.refusal is None
        if how == "" or (how == "commit" and not told):
            if told:
                self.refusal = IN_FAILED
            self.adrift = how == ""
            self.refuse_one(kind)
            return True
        self.adrift = False
        self.refusal = None
        if how == "rollback;":
            return self.unlinked(kind)
        self.channel.stage(ROLLBACK, len(ROLLBACK))
        if kind == c'Q':
            self.unnamed = self.unnamed_at = None
            self.channel.stage(READY_IDLE, 6)
        if (<object>self).draining:
            (<object>self).drain()
        return True
