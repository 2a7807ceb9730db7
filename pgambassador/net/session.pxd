from pgambassador.net.wake cimport Wake

cdef class Session(Wake):
    cdef public object facts
    cdef readonly bint draining
    cdef object loop
    cdef object parting
    cdef unsigned long long received_mark
    cdef unsigned long long sent_mark
    # Bytes that are counted as kept for it.
    cdef Py_ssize_t weight

    cdef int reckon(self) except -1
    cdef int process(self) except -1
    cdef int terminate(self) except -1
    cdef int break_off(self, error) except -1
    cdef bint finishes(self) except -1
