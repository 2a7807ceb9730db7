# cython: language_level=3, boundscheck=False, wraparound=False
"""The OpenSSL that Python's ssl module has loaded, called without Python objects in between.

The ssl module makes the connection, verifies it and owns it. Once its handshake is done, reading and writing
records through SSLObject and MemoryBIO costs five Python calls and as many small objects for each statement:
a tenth of all that a proxied statement costs. So the two memory BIOs and the SSL* are borrowed from it.

1. What is borrowed lives as long as the SSLObject, which the borrower keeps.
2. Nothing is borrowed unless it proves itself: the SSL* that CPython's object holds must know that object as its
   application data, as CPython sets it. Where that, or one of the functions, is missing (an OpenSSL that is
   linked statically, another interpreter), the caller goes through the SSLObject as everybody does.
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

cdef enum:
    SSL_ERROR_WANT_READ = 2
    BIO_CTRL_RESET = 1
    BIO_CTRL_INFO = 3
    BIO_CTRL_PENDING = 10
    SSL_CTRL_CLEAR_MODE = 78
    SSL_MODE_RELEASE_BUFFERS = 0x10

ctypedef void *(*get_fn)(const void *) noexcept
ctypedef void *(*data_fn)(const void *, int) noexcept
ctypedef int (*error_fn)(const void *, int) noexcept
ctypedef long (*control_fn)(void *, int, long, void *) noexcept
ctypedef void (*clear_fn)() noexcept
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
cdef clear_fn clear_errors = NULL
cdef peek_fn peek_error = NULL


cdef bint find() except -1:
    """Look the functions up in what the ssl module is linked with."""
    global ssl_read, ssl_write, bio_write, ssl_error, ssl_rbio, ssl_wbio, ssl_data, bio_control
    global ssl_control, clear_errors, peek_error
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
        and clear_errors != NULL
        and peek_error != NULL
    )


available = find()


cdef bint borrow(object tls, Session *session) except -1:
    """Borrow from an SSLObject; False if that cannot be done."""
    cdef object inner = getattr(tls, "_sslobj", None)
    cdef pga_python_ssl *python
    if not available or inner is None or type(inner).__basicsize__ < <Py_ssize_t>sizeof(pga_python_ssl):
        return False
    python = <pga_python_ssl *><void *>inner
    if python.socket != NULL or python.ssl == NULL or ssl_data(python.ssl, 0) != <void *>inner:
        return False
    session.ssl = python.ssl
    session.incoming = ssl_rbio(python.ssl)
    session.outgoing = ssl_wbio(python.ssl)
    # The ssl module has OpenSSL give its buffers back after each record: two allocations of 17 kB a statement.
    ssl_control(python.ssl, SSL_CTRL_CLEAR_MODE, SSL_MODE_RELEASE_BUFFERS, NULL)
    return session.incoming != NULL and session.outgoing != NULL


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
    return bio_control(session.incoming, BIO_CTRL_PENDING, 0, NULL) == 0


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
    return bio_control(session.outgoing, BIO_CTRL_INFO, 0, records)


cdef void taken(Session *session) noexcept:
    bio_control(session.outgoing, BIO_CTRL_RESET, 0, NULL)
