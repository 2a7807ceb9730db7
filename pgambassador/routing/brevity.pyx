# cython: language_level=3, boundscheck=False, wraparound=False
"""Whether others may wait behind a statement on one server connection, by what those like it have taken.

1. What counts is how long the server is busy with it: so long do others wait. That shows where it was itself behind
   another, between the two answers (`apart`). Else the way there and back is in it, and whatever time passes until
   a busy machine comes to it, which others would not have to wait once more. Such measures count only where there
   are none of the first kind.
2. What is long now and then counts as long, however brief it is on average. What has been long more than once of
   late shares no transaction, since the server keeps the answers before it to itself until it is done, and no
   connection while others are idle. That is remembered for some thousand statements: of a hundredth that are long
   one must not be met in a transaction because for a while there was none.
3. What does not seem brief is tried out: now and then one goes as the last of those who share a connection, so that
   nobody waits behind it. Many in a row that were quick there prove it; the more were not, the more seldom it is tried.
4. Who shares a transaction must be able to ask again until its answer is there, so no part of that may come before the
   rest: all answers together have to be less than the server keeps until the end (`KEPT`). What is expected of one is
   the most that it has had to say, forgotten slowly.
"""

# Brief is what takes less than that on average, and is seldom long.
cdef double BRIEF = 0.005
cdef double LONG = 0.020
cdef double SELDOM = 0.05
cdef double OF_LATE = 0.0015
# More than that is not remembered: a machine that stops for a moment makes many long at once.
cdef double OFTEN_LONG = 0.003
# What the last one counts for in the average, in the share of long ones, and in what is remembered for longer.
cdef double MEAN = 1 / 32.0
cdef double SHARE = 1 / 256.0
cdef double FORGOTTEN = 1 / 1024.0

cdef enum:
    # Measures that tell less, which do not count behind one that tells all.
    TRUST = 64
    # Trials that prove it, and how many statements lie between two of them: at least, and at most.
    TRIALS = 32
    OFTEN = 16
    RARELY = 1024


cdef class Brevity:
    """`seconds`: the average; `long_ones`: from 0 to 1; `volume`: bytes of the answer."""

    def __cinit__(self):
        self.seconds = -1
        self.pause = OFTEN

    cpdef int took(self, double seconds, bint apart, bint alarms) noexcept:
        """`alarms`: it has failed where others share its transaction, who ask again; what does so often goes alone."""
        if apart and not self.brief():
            return self.tried(seconds, alarms)
        if apart:
            self.trust = TRUST
        elif self.trust and not alarms:
            self.trust -= 1
            return 0
        if self.seconds < 0:
            self.seconds = seconds
        self.seconds += (seconds - self.seconds) * MEAN
        self.long_ones += ((seconds > LONG or alarms) - self.long_ones) * SHARE
        if seconds > LONG:
            self.lasts()
        else:
            self.stalls -= self.stalls * FORGOTTEN
        if not self.brief():
            self.trust = 0
        return 0

    cdef int tried(self, double seconds, bint alarms) noexcept:
        if seconds >= BRIEF or alarms:
            self.quick = 0
            self.pause = min(2 * self.pause, RARELY)
            return 0
        self.pause = OFTEN
        self.quick += 1
        if self.quick >= TRIALS:
            self.quick = 0
            self.seconds = seconds
            self.long_ones = 0
            self.trust = TRUST
        return 0

    cpdef int lasts(self) noexcept:
        """It has been long, or another one with which it shares a transaction."""
        self.stalls = min(self.stalls + (1 - self.stalls) * FORGOTTEN, OFTEN_LONG)
        return 0

    cpdef int said(self, Py_ssize_t size) noexcept:
        self.volume = max(size, self.volume - (self.volume - size) * FORGOTTEN)
        return 0

    cpdef bint brief(self) noexcept:
        """Others may wait behind it."""
        return 0 <= self.seconds < BRIEF and self.long_ones < SELDOM

    cpdef bint steady(self) noexcept:
        """Others may share its transaction."""
        return self.stalls < OF_LATE and self.volume < KEPT

    cpdef bint volunteers(self) noexcept:
        """Of one that does not seem brief: whether this time it is tried out."""
        if self.left > 0:
            self.left -= 1
            return False
        self.left = self.pause
        return self.seconds >= 0
