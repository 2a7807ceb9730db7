# cython: language_level=3, boundscheck=False, wraparound=False
"""Where a client's next message goes: to the primary, or to a standby that may answer it.

1. What is decided is decided for a part of the pipeline, up to its Sync, or for a simple query. All of it must be
   here and be known to read; whatever is not goes to the primary.
2. A transaction stays where it began. Behind a part that a standby has not answered yet goes only another that reads.
3. A BEGIN that does not say whether its transaction reads is answered at once, and sent with what comes next.
4. The message before which that BEGIN should have gone may be refused: then its transaction has failed, and all is
   refused up to its end (`adrift`).
5. A request that a standby may not be able to answer is kept until the first byte of its answer has been passed
   on; until then it can be repeated, which its client does not notice.
"""
from pgambassador.net.backend cimport Backend
from pgambassador.net.choice cimport Choice
from pgambassador.net.failures cimport READY_IDLE
from pgambassador.net.lane cimport ALONE, ANYWHERE, FIRST, LAST, Lane
from pgambassador.net.parties cimport APART, clock
from pgambassador.net.reactor cimport readable
from pgambassador.net.verdicts cimport READ_ONLY, Verdict

from pgambassador.wire import build

cdef double FOREVER = 1e300

cdef bytes READY_WITHIN = b"Z\x00\x00\x00\x05T"


cdef class Errands(Sight):
    """The part of a session that knows the way."""

    cdef int take(self, Py_ssize_t n) except -1:
        """Go on with what its client has sent; n bytes of that are new."""
        return 0

    cdef Lane choose(self):
        """The lane for the part that was looked at; None: it is refused."""
        cdef Choice choice = <Choice>self.lane.choice
        cdef Verdict verdict = self.verdict
        cdef Lane lane = None
        cdef bint reads = verdict.read or verdict.begins == READ_ONLY
        cdef double max_lag = verdict.max_lag
        if self.begun is not None:
            if max_lag < 0:
                max_lag = self.opening.max_lag
            # A part may only prepare it.
            reads = verdict.makes_read_only and (
                self.scanner.at[0] == c'Q' or self.restriction_at(self.scanner.at) is not None
            )
        if reads and not self.stays and not self.again_at_primary:
            lane = choice.pick(self.written_at, self.now, max_lag)
            if lane is None and choice.strict:
                self.refusal = self.policy.routes.no_replica
                return None
        if lane is None:
            # What is made read only on the primary, for want of a fresh standby, writes nothing either.
            self.wrote = not (reads if self.begun is not None else verdict.harmless or verdict.begins == READ_ONLY)
            return self.lane
        self.wrote = False
        return lane

    cdef double longest(self) noexcept:
        """Seconds that it waits for a connection: as its hint says, or that of the BEGIN that goes before it."""
        if self.verdict.wait_timeout >= 0:
            return self.verdict.wait_timeout
        if self.begun is not None and self.opening.wait_timeout >= 0:
            return self.opening.wait_timeout
        return self.wait_most

    cdef bint comes_too_soon(self, Backend backend) noexcept:
        """Whether what is asked behind the first part waits: until the connection is known to be in its client's state,
        or, where that is about to end and the first part will be asked again, for the next one."""
        return backend.fence > 0 or (backend.dying and self.request is not None)

    cdef bint may_follow(self, Backend backend, int kind) except -1:
        """Whether a message goes on to the standby that is at work; else it comes again when that is done."""
        if self.part == self.first_part or backend.unsynced or backend.copying:
            return True
        if backend.ledger.skipping or not backend.ledger.count:
            return True
        if kind != c'S' and kind != c'H' and kind != c'd' and kind != c'c' and kind != c'f':
            if not self.look(kind) or not self.verdict.read:
                return False
        self.request = None  # it would come behind what follows
        return True

    cdef bint adds_nothing(self, int kind) except -1:
        """Whether the part that begins now, behind the first one, only reads, or only ends its transaction."""
        return self.look(kind) and (self.verdict.harmless or self.verdict.ends)

    cdef int written(self) except -1:
        """What may have written something has come to its end."""
        self.wrote = False
        if self.lane.choice is not None:
            self.written_at = (<Choice>self.lane.choice).writes.at = clock()
        return 0

    cdef int committed(self) except -1:
        # What it asks next may be under way already, and so it may keep its connection for long.
        cdef Backend backend = self.backend
        self.beginning = False  # that transaction has ended
        if backend is not None:
            backend.overdue = backend.curious
            if backend.curious:
                self.policy.due(self, backend, len(backend.sqlstate) > 0)
        if self.wrote and self.lane.choice is not None:
            self.written_at = (<Choice>self.lane.choice).writes.at = clock()
        return 0

    cdef bytes readiness(self):
        """What a ReadyForQuery of ours says."""
        return READY_IDLE if self.begun is None else READY_WITHIN

    cdef int begin(self, Backend backend) except -1:
        """Send the BEGIN that was put off: if it fails, a cancel request has hit it perhaps, the server does nothing
        of what stands behind it."""
        cdef bytes begun = self.begun
        self.begun = None
        self.beginning = True
        backend.precede(build.parse(b"", begun) + build.EXECUTION, 1)
        return 0

    cdef bint held_up(self) noexcept:
        """Whether a cancel request that its next statement should not meet is on its way."""
        return self.backend is not None and (<Backend>self.backend).cancelling > 0

    cdef bint acquire(self, int kind) except -1:
        """A server connection for the message in hand; without one it comes again."""
        cdef Lane lane = self.lane
        cdef Backend backend
        cdef bint again = self.repeating
        cdef bint looked = lane.choice is not None
        if looked:
            lane = self.choose()
            if lane is None:
                return False
        else:
            self.extent = 0
        self.repeating = self.again_at_primary = False
        if not again:
            self.suspected = False
            self.asks_first()
        if not self.suspected:
            self.doing = self.verdict if looked else None
        if readable > 1 and lane.batching and lane.idle and not again and self.begun is None and not self.fate:
            lane.crowded = True
            if (looked or self.look(kind)) and self.may_share() and self.verdict.steady():
                self.asked = lane
                self.patience = self.longest()
                lane.gather(self, self.now)
                return False
        # What is repeated must not meet the next connection that is dead and has not said so yet.
        backend = lane.take(self.now if not again else 1e300)
        if backend is not None:
            if lane.standby and self.extent and self.scanner.pos - self.scanner.have + self.extent == self.scanner.end:
                self.request = (<const char *>self.scanner.at)[:self.extent]
            self.waited = 0.0
            self.arrive(backend)
            self.noted = self.scanner.pos - self.scanner.have
            return True
        self.sharing = ALONE
        looked = looked or self.look(kind)
        self.patience = self.longest()
        if looked and lane.batching and not again and self.begun is None and not self.fate:
            self.may_share()
        if lane.waiting >= lane.most_waiting and not again:
            self.refusal = self.policy.overflow(self, lane)
            if self.refusal is not None:
                return False
        self.asked = lane
        lane.queue(self, self.now, again)
        return False

    cdef bint may_share(self) except -1:
        """Whether what was looked at may share a connection in any place, which is noted."""
        cdef Verdict verdict = self.verdict
        self.doing = verdict
        self.expected = verdict.seconds
        self.volume = verdict.volume
        if not self.brief or not self.extent or self.bereaved:
            self.sharing = ALONE
        elif verdict.brief():
            self.sharing = ANYWHERE
            if not verdict.steady():
                self.manner = APART
        elif verdict.volunteers():
            self.sharing = LAST
            self.expected = FOREVER  # nobody's Sync is for it as well
        else:
            self.sharing = FIRST
        return self.sharing == ANYWHERE

    cdef int arrive(self, Backend backend) except -1:
        self.beginning = False
        if self.bereaved:
            self.policy.abides(self, backend)
        backend.join(self)
        backend.begun = self.now if self.begun is None else self.rested
        backend.consoles = self.bereaved
        if self.bereaved:
            backend.unsettled = True
        if self.begun is not None:
            self.begin(backend)
        self.begins_here()
        self.noting = True
        self.noted = 0
        return backend.remember(self)

    cdef int anew(self, Backend backend) except -1:
        """All that it has asked here was answered: what comes now is as if it had just got the connection."""
        self.begins_here()
        self.doing = None
        self.beginning = False
        self.noting = True
        self.noted = self.scanner.pos - self.scanner.have
        self.asks_first()
        return backend.remember(self)

    cdef int begins_here(self) except -1:
        """What may have to be undone or asked again begins with this part."""
        self.first_part = self.part
        if self.former:
            self.former.clear()
        return 0

    cdef int asks_first(self) except -1:
        """What it asks now was never asked before."""
        self.tries = self.sudden = 0
        self.ventured = False
        self.lost_at = 0
        return 0

    cdef int note_down(self, Backend backend) except -1:
        """What this read has brought of the first part is on its way."""
        cdef Py_ssize_t n = self.scanner.pos - self.noted
        if n > 0:
            self.noting = backend.note_down(self.scanner.data + self.noted, n)
        self.noting = self.noting and self.part == self.first_part
        self.noted = 0
        return 0

    cdef int granted(self, Backend backend, double now) except -1:
        self.now = now
        self.waited = now - self.waiting_since
        if self.extent and (<Lane>backend.home).standby and len(self.scanner.kept) == self.extent:
            self.request = bytes(self.scanner.kept)
        self.arrive(backend)
        self.channel.start_reading()
        return self.take(0)

    cdef int board(self, object backend, double now) except -1:
        self.now = now
        self.waited = now - self.waiting_since
        self.request = bytes(self.scanner.kept[:self.extent])
        self.backend = backend
        self.riding = True
        self.beginning = self.noting = False
        self.begins_here()
        return 0

    cdef int speak(self) except -1:
        self.channel.start_reading()
        return self.take(0)

    cdef int landed(self) except -1:
        self.riding = False
        if self.closed:
            return 0
        self.served()
        if self.closed or self.leaving:
            return 0
        if self.scanner.kept is None:
            return self.channel.start_reading()  # it was stopped if all had much to say
        return self.resume()

    cdef int lasts(self) except -1:
        if self.doing is not None:
            self.doing.lasts()
        return 0

    cdef int refuted(self) except -1:
        if self.doing is not None:
            self.doing.refuted()
        return 0

    cdef int undone(self) except -1:
        for name, statement in self.former.items():
            if statement is None:
                self.statements.pop(name, None)
            else:
                self.statements[name] = statement
        if self.former:
            self.former.clear()
        self.changing.clear()
        return 0

    cdef int again(self, bint at_primary) except -1:
        self.rewind(at_primary)
        return 0 if self.closed else self.resume()

    cdef int rewind(self, bint at_primary) except -1:
        """What was asked stands before what its client has sent since."""
        cdef bytes request = self.request
        self.riding = self.noting = False
        self.request = None
        if self.closed:
            return 0
        self.undone()
        self.lane.repeated += 1
        if self.part == self.first_part:
            self.skip_part()
        self.scanner.prepend(request)
        self.repeating = True
        self.again_at_primary = at_primary
        return 0

    cdef int skip_part(self) except -1:
        """The rest of a request that has not been sent to its end is kept, and will come again with all of it."""
        cdef bytearray kept = self.scanner.kept
        cdef Py_ssize_t at = 0
        cdef int kind = 0
        self.litter.clear()
        self.lent.clear()
        while kept is not None and at + 5 <= len(kept) and kind != c'S' and kind != c'Q':
            kind = kept[at]
            at += 1 + int.from_bytes(kept[at + 1:at + 5], "big")
        self.scanner.kept = kept[at:] if kept is not None and at < len(kept) else None
        return 0

    # What the policy may do with it.

    @property
    def promised(self):
        """Whether its client has been told of a transaction that no server has."""
        return self.begun is not None or self.adrift

    @property
    def idle_since(self):
        """When its client has last said or heard something; None while an answer or a connection is awaited."""
        if self.closed or self.leaving or self.waiting or self.stalled or self.riding:
            return None
        if self.backend is not None and (<Backend>self.backend).ledger.count:
            return None
        return max(self.now, self.rested)

    @property
    def unheard(self):
        """Whether what it has asked can be asked again: no byte of the answer has reached it."""
        return self.request is not None

    def hold(self):
        """Keep what its client sends, until the cancel request that is on its way to its connection has arrived."""
        if self.backend is not None and not self.scanner.left:
            self.stalled = True

    def divert(self):
        """Stop waiting for a standby: the primary shall answer."""
        if not self.waiting:
            return
        self.asked.unqueue(self)
        self.repeating = self.again_at_primary = True
        self.resume()

    def give_up(self, bytes error not None):
        """The client wants no answer of the connection that it shares. That connection, if its statement runs there:
        nobody else's does then, and it may be cancelled; otherwise None."""
        cdef Backend backend = self.backend
        cdef bint leads
        if not self.riding or backend is None:
            return None
        if self.request is None:
            # It has got a part of its answer, and shall see how that ends.
            backend.clear_behind(self)
            return backend
        leads = backend.leave(self)
        if leads:
            backend.clear_behind(None)
        self.request = None
        self.channel.stage(error, len(error))
        self.channel.send(READY_IDLE, 6)
        self.landed()
        return backend if leads else None
