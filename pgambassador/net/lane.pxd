from pgambassador.net.backend cimport Backend
from pgambassador.net.counting cimport Counting
from pgambassador.net.parties cimport Client

cdef enum:
    # It goes alone; first, with only one behind it that is tried out; as that one; anywhere.
    ALONE = 0
    FIRST = 1
    LAST = 2
    ANYWHERE = 3

cdef class Waiter(Client):
    cdef readonly bint waiting
    cdef readonly double waiting_since
    # Seconds that it waits this time, and that it waits if no hint says otherwise.
    cdef readonly double patience
    cdef public double wait_most
    # Where it waits. Its place in another queue, in which it waited before, is not its place any more.
    cdef object queued
    # Whether it may share a connection, and in which place.
    cdef int sharing
    # Above 0 it comes before others, below 0 behind them.
    cdef public int priority

    cdef int granted(self, Backend backend, double now) except -1

cdef class Lane(Counting):
    cdef readonly list idle
    cdef list free
    cdef bint serving
    cdef readonly object waiters
    # Who comes first, while any of those who wait have another priority than the normal one.
    cdef object order
    cdef bint ranked
    # So many may wait.
    cdef public Py_ssize_t most_waiting
    cdef readonly Py_ssize_t total
    cdef readonly Py_ssize_t waiting
    # Of those who wait who is no client, and some that wait no more.
    cdef list borrowers
    cdef public Py_ssize_t limit
    # Seconds that who is no client waits at most.
    cdef public double wait_most
    # Before then nobody has waited too long.
    cdef double soonest
    # Sessions that were told of a BEGIN which no server has, and perhaps some that are done with it.
    cdef readonly set promised
    cdef public double slow
    cdef public double sample
    # Every statement is shown to the policy.
    cdef public bint wary
    # Another pool waits for what this one has: the policy is asked at each release.
    cdef public bint contested
    cdef public object sink
    # Which standbys there are: None where everything goes one way.
    cdef public object choice
    # Where answers are kept (a Shelf): None where none are.
    cdef public object cache
    # Who is given the next connection that comes free, before all who wait.
    cdef public object next_free
    # Waiting clients may share a connection, and some have waited although there are as many as there may be.
    cdef public bint batching
    cdef readonly bint crowded
    # Who has spoken in this turn and may share one.
    cdef object gathered
    # How many clients have been at work lately at most, when several spoke at once.
    cdef public double at_work
    # Of a standby's lane: what was acknowledged before then has been replayed there; its share; nearer ones first.
    cdef public double fresh_until
    cdef public double weight
    cdef public int rank
    # Connections that several clients share.
    cdef list carriers
    cdef bint watched

    cdef Backend take(self, double now)
    cdef int serve(self, Backend backend) except -1
    cdef list collect(self, Waiter first, Py_ssize_t most, object gathered, double now)
    cdef bint lives(self, Backend backend) except -1
    cdef int queue(self, Waiter waiter, double now, bint first=*) except -1
    cdef int gather(self, Waiter waiter, double now) except -1
    cdef int give(self, Backend backend, list riders, double now) except -1
    cdef int unqueue(self, Waiter waiter) except -1
    cdef Waiter front(self, double now)
    cdef Waiter first_of(self, object queue)
    cdef int shift(self, double now) except -1
