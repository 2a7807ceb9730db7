from pgambassador.net.backend cimport Backend
from pgambassador.net.lane cimport Lane
from pgambassador.net.sight cimport Sight
from pgambassador.net.verdicts cimport Verdict

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
    # The text of a BEGIN that its client has been told of, which goes out with what comes next.
    cdef bytes begun
    # What is known of that.
    cdef Verdict opening
    # What it does on the primary may have written something.
    cdef bint wrote
    # What is sent of that part is noted with its connection, this read's from so many bytes on.
    cdef bint noting
    cdef Py_ssize_t noted
    # What is repeated shares no connection, comes first, and may have to go to the primary.
    cdef bint repeating
    cdef bint again_at_primary
    # The transaction that its client is in was lost with its server connection, or has failed before it was begun.
    # Where `refusal` is set, the client has not been told yet.
    cdef readonly bint adrift
    # How often it was asked again because its server connection was lost, and whether that may have done it twice.
    cdef int tries
    cdef bint ventured
    # How often its server connection ended without a word, which may be the doing of what it asks, and when last.
    cdef int sudden
    cdef double lost_at

    cdef int take(self, Py_ssize_t n) except -1
    cdef bint acquire(self, int kind) except -1
    cdef bint may_share(self) except -1
    cdef int arrive(self, Backend backend) except -1
    cdef int anew(self, Backend backend) except -1
    cdef int begins_here(self) except -1
    cdef int asks_first(self) except -1
    cdef int note_down(self, Backend backend) except -1
    cdef Lane choose(self)
    cdef double longest(self) noexcept
    cdef bint comes_too_soon(self, Backend backend) noexcept
    cdef bint may_follow(self, Backend backend, int kind) except -1
    cdef bint adds_nothing(self, int kind) except -1
    cdef int written(self) except -1
    cdef bytes readiness(self)
    cdef int skip_part(self) except -1
    cdef int rewind(self, bint at_primary) except -1
    cdef int begin(self, Backend backend) except -1
    cdef bint held_up(self) noexcept
