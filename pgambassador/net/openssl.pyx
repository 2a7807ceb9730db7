# cython: language_level=3, boundscheck=False, wraparound=False
"""The OpenSSL that Python's ssl module has loaded, called without Python objects in between.

The ssl module makes the connection, verifies it and owns it. Once its handshake is done, reading and writing
records through SSLObject and MemoryBIO costs five Python calls and as many small objects for each statement:
a tenth of all that a proxied statement costs. So the two memory BIOs and the SSL* are borrowed from it.

1. What is borrowed lives as long as the SSLObject, which the borrower keeps.
2. Nothing is borrowed unless it proves itself: the SSL* that CPython's object holds must know that object as its
   application data, as CPython sets it. Where that, or one of the functions, is missing (an OpenSSL that is
   linked statically, another interpreter), the caller goes through the SSLObject as everybody does.
3. A memory BIO never shrinks, and clears all that it ever grew to whenever it is emptied. One that has grown is
   given a new buffer, unless it is in the middle of a stream of large pieces.
"""
import sys

cdef extern from "dlfcn.h" nogil:
    void *dlopen(const char *path, int mode)
    void *dlsym(void *handle, const char *name)
    int RTLD_NOW
    int RTLD_NOLOAD

# CPython's PySSLSocket begins like this in every version so far; the newest that was looked at:
NEWEST = (3, 14)

cdef extern from *:
    """
    typedef struct { PyObject_HEAD PyObject *socket; void *ssl; } pga_python_ssl;
    """
    ctypedef struct pga_python_ssl:
        void *socket
        void *ssl

# OpenSSL's BUF_MEM, of its public buffer.h.
cdef struct Buffer:
    size_t length
    char *data
    size_t max

cdef enum:
    SSL_ERROR_WANT_READ = 2
    BIO_CTRL_RESET = 1
    BIO_CLOSE = 1
    BIO_C_SET_BUF_MEM = 114
    BIO_C_GET_BUF_MEM_PTR = 115
    GROWN = 32 * 1024
    GROWN_OUTGOING = 8 * 1024
    STREAM = 96 * 1024
    SSL_CTRL_SET_SESS_CACHE_MODE = 44
    SSL_SESS_CACHE_OFF = 0
    SSL_CTRL_CLEAR_MODE = 78
    SSL_MODE_RELEASE_BUFFERS = 0x10

ctypedef void *(*get_fn)(const void *) noexcept
ctypedef void *(*data_fn)(const void *, int) noexcept
ctypedef int (*error_fn)(const void *, int) noexcept
ctypedef long (*control_fn)(void *, int, long, void *) noexcept
ctypedef void (*clear_fn)() noexcept
ctypedef void *(*make_fn)() noexcept
ctypedef unsigned long (*peek_fn)() noexcept

cdef pga_read_fn ssl_read = NULL
cdef pga_write_fn ssl_write = NULL
cdef pga_write_fn bio_write = NULL
cdef error_fn ssl_error = NULL
cdef get_fn ssl_rbio = NULL
cdef get_fn ssl_wbio = NULL
cdef data_fn ssl_data = NULL
cdef control_fn bio_control = NULL
cdef control_fn ssl_control = NULL
cdef get_fn ssl_context = NULL
cdef control_fn context_control = NULL
cdef make_fn make_buffer = NULL
cdef clear_fn clear_errors = NULL
cdef peek_fn peek_error = NULL


cdef bint find() except -1:
    """Look the functions up in what the ssl module is linked with."""
    global ssl_read, ssl_write, bio_write, ssl_error, ssl_rbio, ssl_wbio, ssl_data, bio_control
    global ssl_control, ssl_context, context_control, make_buffer, clear_errors, peek_error
    import _ssl

    path = getattr(_ssl, "__file__", None)
    if path is None or sys.implementation.name != "cpython" or sys.version_info[:2] > NEWEST:
        return False
    cdef void *library = dlopen(path.encode(), RTLD_NOW | RTLD_NOLOAD)
    if library == NULL:
        return False
    ssl_read = <pga_read_fn>dlsym(library, "SSL_read")
    ssl_write = <pga_write_fn>dlsym(library, "SSL_write")
    bio_write = <pga_write_fn>dlsym(library, "BIO_write")
    ssl_error = <error_fn>dlsym(library, "SSL_get_error")
    ssl_rbio = <get_fn>dlsym(library, "SSL_get_rbio")
    ssl_wbio = <get_fn>dlsym(library, "SSL_get_wbio")
    ssl_data = <data_fn>dlsym(library, "SSL_get_ex_data")
    bio_control = <control_fn>dlsym(library, "BIO_ctrl")
    ssl_control = <control_fn>dlsym(library, "SSL_ctrl")
    ssl_context = <get_fn>dlsym(library, "SSL_get_SSL_CTX")
    context_control = <control_fn>dlsym(library, "SSL_CTX_ctrl")
    make_buffer = <make_fn>dlsym(library, "BUF_MEM_new")
    clear_errors = <clear_fn>dlsym(library, "ERR_clear_error")
    peek_error = <peek_fn>dlsym(library, "ERR_peek_error")
    return (
        ssl_read != NULL
        and ssl_write != NULL
        and bio_write != NULL
        and ssl_error != NULL
        and ssl_rbio != NULL
        and ssl_wbio != NULL
        and ssl_data != NULL
        and bio_control != NULL
        and ssl_control != NULL
        and ssl_context != NULL
        and context_control != NULL
        and make_buffer != NULL
        and clear_errors != NULL
        and peek_error != NULL
    )


available = find()


cdef void *proven(object tls) except? NULL:
    """The SSL* of an SSLObject, NULL if it cannot be had."""
    cdef object inner = getattr(tls, "_sslobj", None)
    cdef pga_python_ssl *python
    if not available or inner is None or type(inner).__basicsize__ < <Py_ssize_t>sizeof(pga_python_ssl):
        return NULL
    python = <pga_python_ssl *><void *>inner
    if python.socket != NULL or python.ssl == NULL or ssl_data(python.ssl, 0) != <void *>inner:
        return NULL
    return python.ssl


cdef bint borrow(object tls, Session *session) except -1:
    """Borrow from an SSLObject; False if that cannot be done."""
    cdef void *found = proven(tls)
    if found == NULL:
        return False
    session.ssl = found
    session.incoming = ssl_rbio(found)
    session.outgoing = ssl_wbio(found)
    # The ssl module has OpenSSL give its buffers back after each record: two allocations of 17 kB a statement.
    # Clients are many and mostly idle, so there it stays as it is.
    if not tls.server_side:
        ssl_control(found, SSL_CTRL_CLEAR_MODE, SSL_MODE_RELEASE_BUFFERS, NULL)
    if session.incoming == NULL or session.outgoing == NULL:
        return False
    return content(session.incoming) != NULL and content(session.outgoing) != NULL


def forget_sessions(tls):
    """Turn off the cache of sessions in an SSLObject's context, which the ssl module cannot; whether it is off."""
    cdef void *found = proven(tls)
    if found == NULL:
        return False
    context_control(ssl_context(found), SSL_CTRL_SET_SESS_CACHE_MODE, SSL_SESS_CACHE_OFF, NULL)
    return True


cdef int put(Session *session, const char *records, int n) noexcept:
    """Records that came from the peer."""
    return bio_write(session.incoming, records, n)


cdef int decrypt(Session *session, char *into, int room) noexcept:
    """Bytes decrypted; WANTS_MORE without a complete record; ENDED at the peer's goodbye or a broken record."""
    cdef int n
    if peek_error():
        # Somebody else's; it would be taken for ours.
        clear_errors()
    n = ssl_read(session.ssl, into, room)
    if n > 0:
        return n
    if ssl_error(session.ssl, n) == SSL_ERROR_WANT_READ:
        return WANTS_MORE
    clear_errors()
    return ENDED


cdef bint drained(Session *session) noexcept:
    """Whether all records that were put have been read."""
    cdef Buffer *buffer = content(session.incoming)
    if buffer.length:
        return False
    if buffer.max > GROWN:
        renew(session.incoming)
    return True


cdef Py_ssize_t unsent(Session *session, char **records) noexcept:
    """The length of records that nobody has sent, written while reading: alerts. `taken` ends their life."""
    cdef Buffer *buffer = content(session.outgoing)
    session.written = buffer
    records[0] = buffer.data
    return buffer.length


cdef Py_ssize_t encrypt(Session *session, const char *data, Py_ssize_t n, char **records) noexcept:
    """Encrypt all of the data; the length of the records, -1 on failure. `taken` ends their life."""
    cdef Py_ssize_t done = 0
    cdef int k
    while done < n:
        k = ssl_write(session.ssl, data + done, <int>min(n - done, 1 << 30))
        if k <= 0:
            clear_errors()
            return -1
        done += k
    return unsent(session, records)


cdef void taken(Session *session) noexcept:
    cdef Buffer *buffer = <Buffer *>session.written
    if buffer.max <= GROWN_OUTGOING or buffer.length >= STREAM or not renew(session.outgoing):
        bio_control(session.outgoing, BIO_CTRL_RESET, 0, NULL)


cdef Buffer *content(void *bio) noexcept:
    """What is in a BIO; it is moved to the front of its buffer."""
    cdef Buffer *buffer = NULL
    bio_control(bio, BIO_C_GET_BUF_MEM_PTR, 0, &buffer)
    return buffer


cdef bint renew(void *bio) noexcept:
    """Give a BIO whose content is of no use any more a new buffer; False if there is no memory for it."""
    cdef void *fresh = make_buffer()
    if fresh == NULL:
        return False
    bio_control(bio, BIO_C_SET_BUF_MEM, BIO_CLOSE, fresh)
    return True
