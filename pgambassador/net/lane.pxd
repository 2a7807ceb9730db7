from pgambassador.net.backend cimport Backend
from pgambassador.net.parties cimport Client, Home

cdef class Waiter(Client):
    cdef readonly bint waiting
    cdef readonly double waiting_since
    # Seconds that it waits this time, and that it waits if no hint says otherwise.
    cdef readonly double patience
    cdef public double wait_most
    # Where it waits. Its place in another queue, in which it waited before, is not its place any more.
    cdef object queued
    # It may share a connection, for about so many seconds.
    cdef bint brief_now
    # Above 0 it comes before others, below 0 behind them.
    cdef public int priority

    cdef int granted(self, Backend backend, double now) except -1

cdef class Lane(Home):
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
    cdef readonly Py_ssize_t sessions
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
    cdef list gathered
    # Of a standby's lane: what was acknowledged before then has been replayed there; its share; nearer ones first.
    cdef public double fresh_until
    cdef public double weight
    cdef public int rank
    # Connections that several clients share.
    cdef list carriers
    cdef bint watched
    cdef readonly unsigned long long batches
    cdef readonly unsigned long long batched
    cdef readonly unsigned long long repeated
    cdef readonly unsigned long long recalled
    cdef readonly unsigned long long queries
    cdef readonly unsigned long long errors
    cdef readonly unsigned long long bytes_received
    cdef readonly double query_seconds
    cdef readonly double wait_seconds
    cdef Py_ssize_t bounds
    cdef double bound[32]
    cdef unsigned long long query_counts[33]
    cdef unsigned long long wait_counts[33]

    cdef Backend take(self, double now)
    cdef int serve(self, Backend backend) except -1
    cdef int load(self, Backend backend, Waiter first, double now) except -1
    cdef bint lives(self, Backend backend) except -1
    cdef int queue(self, Waiter waiter, double now, bint first=*) except -1
    cdef int gather(self, Waiter waiter, double now) except -1
    cdef int give(self, Backend backend, list riders, double now) except -1
    cdef int unqueue(self, Waiter waiter) except -1
    cdef Waiter front(self, double now)
    cdef int shift(self, double now) except -1
    cdef int count_query(self, double seconds, bint failed) except -1
    cdef int count_wait(self, double seconds) except -1
