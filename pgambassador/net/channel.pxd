from pgambassador.net.outlet cimport Outlet

cdef class Channel(Outlet):
    cdef readonly object sock
    cdef readonly bint reading
    cdef readonly unsigned long long received
    cdef object listener
    cdef object incoming
    cdef object decrypt
    cdef bint more
    cdef bint ended
    # Bytes that have come since the last that said something.
    cdef Py_ssize_t unsaid
    cdef int patience

    cdef Py_ssize_t fill(self, char *into, Py_ssize_t room) except -3
    cdef Py_ssize_t fill_tls(self, char *into, Py_ssize_t room) except -3
    cdef Py_ssize_t sliced(self, Py_ssize_t n, char *into, Py_ssize_t room) noexcept
    cdef bint answer(self) except -1
    cdef bint quiet(self) noexcept
    cdef int start_reading(self) except -1
    cdef int stop_reading(self) except -1
