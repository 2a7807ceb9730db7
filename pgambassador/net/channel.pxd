from pgambassador.net cimport openssl
from pgambassador.net.store cimport Store

cdef class Channel:
    cdef readonly int fd
    cdef readonly object sock
    cdef readonly object tls
    cdef readonly bint closed
    cdef readonly bint broken
    cdef readonly bint reading
    cdef readonly bint writing
    cdef readonly unsigned long long received
    cdef readonly unsigned long long sent
    cdef public object on_readable
    cdef public object on_drained
    cdef object loop
    cdef object incoming
    cdef object outgoing
    cdef object decrypt
    cdef object encrypt
    cdef openssl.Session session
    cdef readonly bint borrowed
    cdef bint more
    cdef bint ended
    # Bytes that have come since the last that said something.
    cdef Py_ssize_t unsaid
    cdef int patience
    cdef Store held
    cdef Store rest

    cdef Py_ssize_t fill(self, char *into, Py_ssize_t room) except -3
    cdef Py_ssize_t fill_tls(self, char *into, Py_ssize_t room) except -3
    cdef Py_ssize_t sliced(self, Py_ssize_t n, char *into, Py_ssize_t room) noexcept
    cdef int stage(self, const char *data, Py_ssize_t n) except -1
    cdef int send(self, const char *data, Py_ssize_t n) except -1
    cdef int flush(self) except -1
    cdef int push_out(self, const char *data, Py_ssize_t n) except -1
    cdef int seal(self, const char *data, Py_ssize_t n) except -1
    cdef Py_ssize_t backlog(self) noexcept
    cdef bint answer(self) except -1
    cdef bint quiet(self) noexcept
    cdef int start_reading(self) except -1
    cdef int stop_reading(self) except -1
    cdef int fail(self) except -1
    cdef int release(self) except -1
