from pgambassador.net.channel cimport Channel

cdef double clock() noexcept

cdef class Statement:
    cdef object __weakref__
    cdef readonly bytes name
    cdef public bytes frame
    cdef readonly bytes text
    cdef readonly bint sets
    cdef readonly bint resets
    cdef public object shape
    cdef public object age

cdef class Client:
    cdef readonly Channel channel
    cdef readonly object backend
    cdef readonly dict statements
    cdef public object state
    cdef bytes unnamed
    # Its next message needs an answer that is still to come.
    cdef bint stalled

    cdef bint mid_message(self) noexcept
    cdef int settled(
        self, int kind, object note, double started, double now, unsigned long long rows, object sqlstate
    ) except -1
    cdef int served(self) except -1
    cdef int resume(self) except -1
    cdef bint has_left(self) noexcept
    cdef bint may_read(self) noexcept
    cdef int cancelled(self, bytes error, bint ended) except -1
    cdef int orphaned(self, str reason, bint told) except -1

cdef class Home:
    cdef readonly unsigned long long transactions
    cdef readonly unsigned long long bytes_sent
    cdef public bint sticky
    cdef public Py_ssize_t statement_limit
    cdef public object policy
    cdef public Py_ssize_t high_water

    cdef int freed(self, object backend) except -1
    cdef int gone(self, object backend, str reason) except -1
