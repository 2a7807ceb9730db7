# cython: language_level=3, boundscheck=False, wraparound=False
"""The fast part of a pool: idle server connections, and clients waiting for one.

1. A connection is idle, or somebody's, or parked behind a cancel; never two of these.
2. Clients are served in the order in which they began to wait, those of other priorities than the normal one as
   `pool.precedence` says; one that gave up is skipped.
3. Nobody waits while a connection is idle, but for the rest of a turn of the reactor (`gather`), and
   `policy.wanted()` is told whenever somebody must wait although
   the limit allows one more connection.
4. A lane that is `contested` has its policy say of each connection that comes free whether it `yields()` it.
5. The connection used last is used next, so that those above the need grow old and are closed. One that has
   been idle for more than a moment is looked at before it is handed out: its server may have hung up.
"""
from collections import deque

from pgambassador.net.backend cimport Backend
from pgambassador.net.parties cimport Client, clock
from pgambassador.net.reactor cimport behind

from pgambassador.pool.precedence import Precedence

# An idle connection's end is seen by the event loop; only what came since its last turn could be missed.
cdef double MOMENT = 0.01
# How many share a connection at most, and for how long together.
cdef Py_ssize_t BATCH_MOST = 32
cdef double BATCH_SECONDS = 0.010
# How many of those that have spoken in one turn share a connection although others are idle: so many, or this part of
# all who share one now, for so long together. The more, the fewer system calls there are, and the more processors of
# the server may be idle. Where fewer than `GATHER_FROM` have been at work lately, those are worth more.
cdef Py_ssize_t GATHER_FROM = 5
cdef double LATELY = 0.98  # so much of that counts a turn later
cdef Py_ssize_t GATHER_LEAST = 8
cdef Py_ssize_t GATHER_PART = 3
cdef double GATHER_SECONDS = 0.0025


cdef class Waiter(Client):
    """A client that can be given a server connection."""

    cdef int granted(self, Backend backend, double now) except -1:
        return 0


cdef class Borrower(Waiter):
    """Waits in the queue for the policy: `granted_to(backend)` is called with the connection."""

    cdef readonly object granted_to

    def __init__(self, granted_to):
        self.granted_to = granted_to

    cdef int granted(self, Backend backend, double now) except -1:
        self.granted_to(backend)
        return 0


cdef class Lane(Counting):
    def __init__(self, policy, tuple bounds not None, Py_ssize_t limit, bint sticky, Py_ssize_t statement_limit,
                 Py_ssize_t high_water=256 * 1024):
        Counting.__init__(self, bounds)
        self.policy = policy
        self.idle = []
        self.free = []
        self.waiters = deque()
        self.borrowers = []
        self.carriers = []
        self.promised = set()
        self.gathered = deque()
        self.limit = limit
        self.most_waiting = 1 << 62
        self.sticky = sticky
        self.statement_limit = max(statement_limit, 1)
        self.high_water = high_water
        self.slow = self.soonest = self.wait_most = 1e300
        self.weight = 1
        self.first_answer = 0.0005

    cdef Backend take(self, double now):
        """An idle connection that lives, or None."""
        cdef Backend backend
        while self.idle:
            backend = <Backend>self.idle.pop()
            if backend.closed:
                continue
            if now - backend.freed_at < MOMENT or self.lives(backend):
                return backend
        return None

    cdef bint lives(self, Backend backend) except -1:
        """Hear what an idle connection has said: perhaps a ParameterStatus, perhaps its end."""
        cdef int _round
        for _round in range(4):
            if backend.closed:
                return False
            if backend.channel.quiet():
                return True
            backend.on_readable()
        backend.close("the server talks without being asked")
        return False

    cdef int queue(self, Waiter waiter, double now, bint first=False) except -1:
        """`first`: it has had its turn before."""
        waiter.waiting = True
        waiter.queued = self
        waiter.waiting_since = now
        self.soonest = min(self.soonest, now + waiter.patience)
        if waiter.priority:
            if self.order is None:
                self.order = Precedence(self.waiters, self.stays)
            self.order.put(waiter, waiter.priority, first=first)
            self.ranked = True
        elif first:
            self.waiters.appendleft(waiter)
        else:
            self.waiters.append(waiter)
        self.waiting += 1
        if self.total < self.limit:
            self.policy.wanted()
        elif waiter.channel is not None:
            self.crowded = True  # by clients
        return 0

    cdef int gather(self, Waiter waiter, double now) except -1:
        """Others are about to ask as well: what all of them ask may leave in one write, when they have been heard."""
        waiter.waiting = True
        waiter.queued = self
        waiter.waiting_since = now
        self.waiting += 1
        self.gathered.append(waiter)
        if len(self.gathered) == 1:
            behind.append(self)
        return 0

    def heard_all(self):
        """Give those who have gathered the connections that are idle, some of them together."""
        cdef object gathered = self.gathered
        cdef Waiter first
        cdef Client rider
        cdef Backend backend
        cdef list riders
        cdef double now = clock()
        cdef Py_ssize_t most = 1, sharing = len(gathered), alone = self.total - len(self.idle)
        for backend in self.carriers:
            if backend.riders is not None:
                alone -= 1
                for rider in backend.riders:
                    sharing += rider.backend is backend
        self.at_work = max(sharing + alone, self.at_work * LATELY)
        if self.at_work >= GATHER_FROM:
            most = min(max(sharing // GATHER_PART, GATHER_LEAST), BATCH_MOST)
        self.gathered = deque()
        while True:
            first = self.first_of(gathered)
            if first is None:
                return
            gathered.popleft()
            self.unqueue(first)
            backend = self.take(now)
            if backend is None:
                self.queue(first, now)
                continue
            riders = [first]
            if first.sharing and backend.state is first.state and backend.marked_by is None:
                riders = self.collect(first, most, gathered, now)
            self.give(backend, riders, now)

    def part(self):
        """What was known of statements is not known any more: of those who wait nobody shares a connection."""
        for queue in (*self.queues(), self.gathered):
            for waiter in queue:
                (<Waiter>waiter).sharing = ALONE

    cdef int unqueue(self, Waiter waiter) except -1:
        """A waiter gives up; its place in the queue is skipped when its turn comes."""
        if waiter.waiting:
            waiter.waiting = False
            self.waiting -= 1
        return 0

    cdef int freed(self, object backend) except -1:
        # A waiter may let go of it at once, and the next one too: a loop, or a long queue would be deep recursion.
        self.free.append(backend)
        if self.serving:
            return 0
        self.serving = True
        try:
            while self.free:
                self.serve(<Backend>self.free.pop())
        finally:
            self.serving = False
        return 0

    cdef int serve(self, Backend backend) except -1:
        cdef Waiter waiter
        cdef double now
        cdef Py_ssize_t most
        if backend.closed:
            return 0
        if backend.retiring:
            backend.close("retired")
            return 0
        if self.contested and self.policy.yields():
            backend.close("another pool's turn")
            return 0
        if self.next_free is not None:
            granted, self.next_free = self.next_free, None
            granted(backend)
            return 0
        while self.waiters or self.ranked:
            if self.ranked:
                now = clock()
                waiter = self.front(now)
                if waiter is None:
                    break
                self.shift(now)
            else:
                waiter = <Waiter>self.waiters.popleft()
            if not waiter.waiting or waiter.queued is not self:
                continue
            waiter.waiting = False
            self.waiting -= 1
            now = clock()
            if waiter.channel is not None:
                self.count_wait(now - waiter.waiting_since)  # of clients
            if waiter.sharing and self.waiting and backend.state is waiter.state and backend.marked_by is None:
                # As many as make the queue move on all connections alike.
                most = min(max(self.waiting // max(self.total, 1), self.waiting // 2) + 1, BATCH_MOST)
                return self.give(backend, self.collect(waiter, most, None, now), now)
            waiter.granted(backend, now)
            return 0
        self.idle.append(backend)
        return 0

    cdef list collect(self, Waiter first, Py_ssize_t most, object gathered, double now):
        """Who shares a connection: with the first one those behind it, of who has `gathered` or of all who wait.
        Nobody is passed by who cannot share, and nobody who is soon done is behind one who is not."""
        cdef list riders = [first]
        cdef Waiter waiter = first
        cdef double seconds = first.expected, longest = BATCH_SECONDS if gathered is None else GATHER_SECONDS
        while len(riders) < most and waiter.sharing != LAST:
            waiter = self.front(now) if gathered is None else self.first_of(gathered)
            if waiter is None or waiter.sharing < LAST or waiter.state is not first.state:
                break
            if waiter.sharing == ANYWHERE:
                seconds += waiter.expected
                if first.sharing != ANYWHERE or seconds > longest:
                    break
            if gathered is None:
                self.shift(now)
                self.count_wait(now - waiter.waiting_since)
            else:
                gathered.popleft()
            self.unqueue(waiter)
            riders.append(waiter)
        return riders

    cdef int give(self, Backend backend, list riders, double now) except -1:
        if len(riders) == 1:
            return (<Waiter>riders[0]).granted(backend, now)
        self.batches += 1
        self.batched += len(riders)
        if backend not in self.carriers:
            self.carriers.append(backend)
            if not self.watched:
                self.watched = True
                self.policy.carries()
        return backend.carry(riders, now)

    def relieve(self):
        """A few hundred times a second, while clients share connections: nobody waits long for another. Whether to
        go on."""
        cdef double now = clock()
        for backend in list(self.carriers):
            if not (<Backend>backend).relieve(now):
                self.carriers.remove(backend)
        self.watched = len(self.carriers) > 0
        return self.watched

    cdef int gone(self, object backend, str reason) except -1:
        if not (<Backend>backend).counted:
            return 0
        self.total -= 1
        if backend in self.idle:
            self.idle.remove(backend)
        self.policy.lost(backend, reason)
        return 0

    def add(self, Backend backend not None, bint free=True):
        """A connection has been opened for this lane; it comes when it is `free`."""
        self.total += 1
        backend.counted = True
        if free:
            self.freed(backend)

    def borrow(self, Borrower borrower not None, bint client=False):
        """Give the borrower a connection, now or in its turn; `Backend.ask` gives it back. `client`: somebody waits
        for what it is to ask."""
        cdef double now = clock()
        cdef Backend backend = self.take(now)
        if backend is None:
            borrower.patience = self.wait_most
            self.borrowers = [each for each in self.borrowers if self.stays(each)]
            if not client:
                self.borrowers.append(borrower)
            self.queue(borrower, now)
        else:
            borrower.granted(backend, now)

    def forgo(self, Waiter waiter not None):
        """A waiter gives up."""
        self.unqueue(waiter)

    def overdue(self, double now):
        """Those who have waited for longer than they should, in the order in which they began to."""
        cdef list late = []
        cdef Waiter waiter
        if now < self.soonest:
            return late
        self.soonest = 1e300
        for queue in self.queues():
            for waiter in queue:
                if waiter.waiting and waiter.queued is self:
                    if waiter.waiting_since + waiter.patience <= now:
                        late.append(waiter)
                    else:
                        self.soonest = min(self.soonest, waiter.waiting_since + waiter.patience)
        return late

    cdef Waiter front(self, double now):
        """The waiter whose turn is next, or None."""
        cdef Waiter waiter
        if self.ranked:
            waiter = <Waiter>self.order.first(now)
            self.ranked = self.order.needed
            return waiter
        return self.first_of(self.waiters)

    cdef Waiter first_of(self, object queue):
        """The same of one queue; those who gave up leave it."""
        cdef Waiter waiter
        while queue:
            waiter = <Waiter>queue[0]
            if waiter.waiting and waiter.queued is self:
                return waiter
            queue.popleft()
        return None

    cdef int shift(self, double now) except -1:
        """It has its turn."""
        if self.ranked:
            self.order.take(now)
            self.ranked = self.order.needed
        else:
            self.waiters.popleft()
        return 0

    def stays(self, Waiter waiter not None):
        """Whether somebody still waits here."""
        return waiter.waiting and waiter.queued is self

    def first_waiting(self):
        """Who has waited longest, or None."""
        return self.order.oldest() if self.ranked else self.front(0)

    def newest_below(self, int priority):
        """Who goes when there is no room for somebody of this priority, or None."""
        if not self.ranked and priority <= 0:
            return None
        if self.order is None:
            self.order = Precedence(self.waiters, self.stays)
        return self.order.newest_below(priority)

    def queues(self):
        """Those who wait, each queue in the order in which they came."""
        return [self.waiters] if not self.ranked else [self.order.high, self.waiters, self.order.low]

    @property
    def active(self):
        return self.total - len(self.idle)

    @property
    def clients_waiting(self):
        """How many of those who wait are clients; `waiting` counts our own questions too."""
        return self.waiting - sum(self.stays(each) for each in self.borrowers)

    def __repr__(self):
        return f"<Lane {self.active} active, {len(self.idle)} idle | {self.waiting} waiting>"
