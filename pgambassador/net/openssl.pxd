cdef extern from *:
    """
    typedef int (*pga_read_fn)(void *, void *, int);
    typedef int (*pga_write_fn)(void *, const void *, int);
    """
    ctypedef int (*pga_read_fn)(void *, void *, int) noexcept
    ctypedef int (*pga_write_fn)(void *, const void *, int) noexcept

cdef struct Session:
    void *ssl
    void *incoming
    void *outgoing
    void *written

cdef enum:
    ENDED = 0
    WANTS_MORE = -1

cdef bint borrow(object tls, Session *session) except -1
cdef int put(Session *session, const char *records, int n) noexcept
cdef int decrypt(Session *session, char *into, int room) noexcept
cdef bint drained(Session *session) noexcept
cdef Py_ssize_t unsent(Session *session, char **records) noexcept
cdef Py_ssize_t encrypt(Session *session, const char *data, Py_ssize_t n, char **records) noexcept
cdef void taken(Session *session) noexcept
