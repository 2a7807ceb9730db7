from pgambassador.net.backend cimport Backend
from pgambassador.net.lane cimport Lane
from pgambassador.net.sight cimport Sight
from pgambassador.net.verdicts cimport Verdict

cdef bytes READY_IDLE

cdef class Errands(Sight):
    cdef readonly bint closed
    cdef readonly bint leaving
    # The lane in which it waits.
    cdef Lane asked
    cdef double waited
    # What becomes of the server connection that it gets next, if not 0.
    cdef int fate
    # What is known of what it is doing.
    cdef Verdict doing
    # What its client is told in place of an answer.
    cdef bytes refusal
    # A BEGIN that its client has been told of, which goes out with what comes next.
    cdef bytes begun
    # What it does on the primary may have written something, and where that began.
    cdef bint wrote
    cdef Py_ssize_t first_part
    # What is repeated shares no connection, comes first, and may have to go to the primary.
    cdef bint repeating
    cdef bint again_at_primary
    # The transaction that its client has been told of has failed before it was begun.
    cdef bint aborted
    # How often it was asked again because its server connection was lost, and whether that may have done it twice.
    cdef int tries
    cdef bint ventured
    # It lost a server connection: its client may know of parameters that are not as it was told.
    cdef bint bereaved

    cdef int take(self, Py_ssize_t n) except -1
    cdef bint acquire(self, int kind) except -1
    cdef bint may_share(self) except -1
    cdef int arrive(self, Backend backend) except -1
    cdef Lane choose(self)
    cdef bint may_follow(self, Backend backend, int kind) except -1
    cdef bint puts_off(self) except -1
    cdef int written(self) except -1
    cdef bytes readiness(self)
    cdef bint spurns(self, int kind) except -1
    cdef int skip_part(self) except -1
    cdef int rewind(self, bint at_primary) except -1
    cdef int begin(self, Backend backend) except -1
    cdef bint held_up(self) noexcept
