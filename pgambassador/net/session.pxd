from pgambassador.net.lobby cimport Lobby

cdef class Session(Lobby):
    cdef public object facts
    cdef readonly bint draining
    cdef object loop
    cdef object parting
    cdef unsigned long long received_mark
    cdef unsigned long long sent_mark

    cdef int process(self) except -1
    cdef int terminate(self) except -1
    cdef int break_off(self, error) except -1
    cdef bint finishes(self) except -1
