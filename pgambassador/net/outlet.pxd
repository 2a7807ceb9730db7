from pgambassador.net cimport openssl
from pgambassador.net.store cimport Store

cdef class Outlet:
    cdef readonly int fd
    cdef readonly object tls
    cdef readonly bint closed
    cdef readonly bint broken
    cdef readonly bint writing
    cdef readonly unsigned long long sent
    # What the kernel has taken of it, as it is on the wire.
    cdef readonly unsigned long long delivered
    cdef public object on_drained
    cdef object loop
    cdef object outgoing
    cdef object encrypt
    cdef openssl.Session session
    cdef readonly bint borrowed
    # What is written is kept here as well, up to so many bytes; None beyond that.
    cdef bytearray heard
    cdef Py_ssize_t heard_most
    cdef Store held
    cdef Store rest

    cdef int hear(self, const char *data, Py_ssize_t n) except -1
    cdef int stage(self, const char *data, Py_ssize_t n) except -1
    cdef int send(self, const char *data, Py_ssize_t n) except -1
    cdef int flush(self) except -1
    cdef int push_out(self, const char *data, Py_ssize_t n) except -1
    cdef int seal(self, const char *data, Py_ssize_t n) except -1
    cdef Py_ssize_t backlog(self) noexcept
    cdef int fail(self) except -1
    cdef int release(self) except -1
