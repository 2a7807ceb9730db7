from pgambassador.net.requests cimport Requests

cdef class Session(Requests):
    cdef public object facts
    cdef readonly bint closed
    cdef readonly bint leaving
    cdef readonly bint draining
    cdef object loop
    cdef object parting
    cdef bytes refusal
    cdef bint skipping
    cdef double waited
    cdef unsigned long long received_mark
    cdef unsigned long long sent_mark

    cdef int take(self, Py_ssize_t n) except -1
    cdef int process(self) except -1
    cdef int unlinked(self, int kind) except -1
    cdef bint acquire(self) except -1
    cdef bint said_goodbye(self) except -1
    cdef int refuse_one(self, int kind) except -1
    cdef int terminate(self) except -1
    cdef int break_off(self, error) except -1
    cdef bint finishes(self) except -1
