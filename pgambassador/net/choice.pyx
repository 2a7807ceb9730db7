# cython: language_level=3, boundscheck=False, wraparound=False
"""Which of a pool's standbys answers a read: the least busy of those that are fresh enough for the client.

1. A standby is fresh enough if everything that the client has written is visible there (`fresh_until` is a time
   of our own clock: whatever was acknowledged before it has been replayed), and if it lags no more than allowed.
2. None will do: the read goes to the primary, and the policy is told that fresher ones are wanted.
3. Of equals each has its turn.
"""
from pgambassador.net.lane cimport Lane


cdef class Writes:
    """When something was written last by clients of several pools, all those of one cluster."""

    def __init__(self):
        self.at = -1


cdef class Choice:
    """`lanes` are the standbys' lanes; `everybody`: what any client has written counts, not only one's own;
    `eventual`: nothing that was written counts; `strict`: not the primary instead; `choose(lanes)` picks in place
    of the least busy one."""

    def __init__(self, policy, *, double max_lag, Writes writes=None, bint everybody=False, bint eventual=False,
                 bint strict=False, choose=None):
        self.policy = policy
        self.lanes = ()
        self.writes = Writes() if writes is None else writes
        self.max_lag = max_lag
        self.everybody = everybody
        self.eventual = eventual
        self.strict = strict
        self.choose = choose

    cdef Lane pick(self, double written_at, double now, double max_lag):
        """None: it has to be the primary."""
        cdef Lane lane, best = None
        cdef Py_ssize_t i, count = len(self.lanes)
        cdef double load, least = 0
        cdef bint stale = False
        cdef list fit
        if count == 0:
            self.none += 1
            return None
        if self.everybody:
            written_at = self.writes.at
        if max_lag < 0:
            max_lag = self.max_lag
        self.turn = self.turn + 1 if self.turn + 1 < count else 0
        fit = [] if self.choose is not None else None
        for i in range(count):
            lane = <Lane>self.lanes[self.turn + i if self.turn + i < count else self.turn + i - count]
            if lane.weight <= 0:
                continue
            if not self.fresh(lane, written_at, now, max_lag):
                stale = True
                continue
            if fit is not None:
                fit.append(lane)
                continue
            load = (lane.total - len(lane.idle) + lane.waiting + 1) / lane.weight
            if best is None or lane.rank < best.rank or (lane.rank == best.rank and load < least):
                best = lane
                least = load
        if fit:
            best = <Lane>self.choose(fit)
        if best is None:
            if stale:
                self.stale += 1
                self.policy.fresher_wanted(now)
            else:
                self.none += 1
        return best

    cdef bint fresh(self, Lane lane, double written_at, double now, double max_lag) noexcept:
        return (self.eventual or written_at < lane.fresh_until) and now - lane.fresh_until <= max_lag

    def which(self, double written_at, double now, double max_lag=-1):
        """The lane that `pick` finds, or None."""
        return self.pick(written_at, now, max_lag)

    def __repr__(self):
        return f"<Choice of {len(self.lanes)}>"
