from pgambassador.net.failures cimport Failures
from pgambassador.net.parties cimport Client, Statement

cdef enum:
    SHARED = 128 * 1024

cdef char shared[SHARED]

cdef class Answers(Failures):
    cdef readonly dict parameters
    cdef readonly bint resetting
    cdef readonly bint closed
    cdef bint unsettled
    # Its client came bereaved, and is that no more once it has been told.
    cdef bint consoles
    cdef object loop
    cdef unsigned char status
    # When the transaction began in which it is; 0: in none, or in one of which nothing has been answered yet.
    cdef readonly double begun
    cdef unsigned long long rows
    # Bytes that clients have been given of the answers since the last that was settled.
    cdef Py_ssize_t said
    # When that was asked for the sake of a client that was told of them before.
    cdef object asked_at

    cdef int settle_down(self) except -1
    cdef int take(self, Py_ssize_t n) except -1
    cdef int settle_news(self) except -1
    cdef bint wants_all(self, int kind) noexcept
    cdef int message(self, int kind, double now) except -1
    cdef int interrupt(self) except -1
    cdef int learn(self, int kind, int verdict) except -1
    cdef int sender(self, unsigned char *at) except -1
    cdef bint parameter(self) except -1
    cdef int finished(self, int kind, double now) except -1
    cdef int tag(self) except -1
    cdef bint mid_reply(self, Client client) noexcept
