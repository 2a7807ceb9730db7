from pgambassador.net.errands cimport Errands

cdef class Session(Errands):
    cdef public object facts
    cdef readonly bint draining
    cdef object loop
    cdef object parting
    cdef bint skipping
    cdef unsigned long long received_mark
    cdef unsigned long long sent_mark

    cdef int process(self) except -1
    cdef int unlinked(self, int kind) except -1
    cdef bint said_goodbye(self) except -1
    cdef int refuse_one(self, int kind) except -1
    cdef int terminate(self) except -1
    cdef int break_off(self, error) except -1
    cdef bint finishes(self) except -1
