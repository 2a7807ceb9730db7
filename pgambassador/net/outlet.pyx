# cython: language_level=3, boundscheck=False, wraparound=False
"""The writing half of a channel: to the kernel at once, in plain text or TLS, and keeping what it does not take.

1. A write goes to the kernel at once; only what the kernel does not take is kept, and `backlog` counts it. Whoever
   feeds the channel stops feeding it above a bound, and is called through `on_drained` when it is empty again.
2. `stage` holds bytes back, so that they leave in one system call with the next `send`.
"""
from cpython.buffer cimport PyBUF_READ
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.errno cimport EAGAIN, EINTR, errno

from pgambassador.net cimport openssl
from pgambassador.net.store cimport store_add, store_clear
from pgambassador.net.tally cimport weigh

import ssl

cdef extern from "sys/socket.h" nogil:
    ssize_t c_send "send"(int fd, const void *buf, size_t n, int flags)

cdef object SSLError = ssl.SSLError


cdef class Outlet:
    """`Channel` is the whole of it."""

    cdef int fail(self) except -1:
        """The socket is broken."""
        return 0

    cdef int release(self) except -1:
        """All that was to be written is."""
        return 0

    cdef int hear(self, const char *data, Py_ssize_t n) except -1:
        if len(self.heard) + n > self.heard_most:
            self.heard = None
        else:
            self.heard += data[:n]
        return 0

    cdef int stage(self, const char *data, Py_ssize_t n) except -1:
        if self.heard is not None:
            self.hear(data, n)
        return store_add(&self.held, data, n)

    cdef int send(self, const char *data, Py_ssize_t n) except -1:
        """Write behind what is staged; nothing is lost, nothing waits."""
        if self.heard is not None:
            self.hear(data, n)
        if self.closed or self.broken:
            store_clear(&self.held)
            return 0
        if self.held.used:
            store_add(&self.held, data, n)
            return self.flush()
        if n == 0:
            return 0
        self.sent += n
        if self.tls is None:
            return self.push_out(data, n)
        return self.seal(data, n)

    cdef int flush(self) except -1:
        """Write what is staged."""
        if self.held.used == 0:
            return 0
        if not self.closed and not self.broken:
            self.sent += self.held.used
            if self.tls is None:
                self.push_out(self.held.base + self.held.start, self.held.used)
            else:
                self.seal(self.held.base + self.held.start, self.held.used)
        store_clear(&self.held)
        return 0

    cdef int seal(self, const char *data, Py_ssize_t n) except -1:
        cdef bytes records
        cdef Py_ssize_t done = 0
        cdef char *sealed
        if self.borrowed:
            done = openssl.encrypt(&self.session, data, n, &sealed)
            if done < 0:
                return self.fail()
            self.push_out(sealed, done)
            openssl.taken(&self.session)
            return 0
        try:
            while done < n:
                done += <Py_ssize_t>self.encrypt(PyMemoryView_FromMemory(<char *>data + done, n - done, PyBUF_READ))
        except SSLError:
            return self.fail()
        records = self.outgoing.read()
        return self.push_out(PyBytes_AS_STRING(records), PyBytes_GET_SIZE(records))

    cdef int push_out(self, const char *data, Py_ssize_t n) except -1:
        cdef Py_ssize_t taken
        if self.rest.used == 0:
            taken = c_send(self.fd, data, n, 0)
            if taken == n:
                self.delivered += n
                return 0
            if taken < 0:
                if errno != EAGAIN and errno != EINTR:
                    return self.fail()
                taken = 0
            self.delivered += taken
            data += taken
            n -= taken
        store_add(&self.rest, data, n)
        weigh(n)
        if not self.writing:
            self.writing = True
            self.loop.add_writer(self.fd, self.on_writable)
        return 0

    def on_writable(self):
        """The kernel takes bytes again."""
        cdef Py_ssize_t taken
        if not self.writing:
            return
        taken = c_send(self.fd, self.rest.base + self.rest.start, self.rest.used, 0)
        if taken < 0:
            if errno != EAGAIN and errno != EINTR:
                self.fail()
            return
        self.delivered += taken
        self.rest.start += taken
        self.rest.used -= taken
        weigh(-taken)
        if self.rest.used == 0:
            store_clear(&self.rest)
            self.writing = False
            self.loop.remove_writer(self.fd)
            if self.closed:
                self.release()
            elif self.on_drained is not None:
                self.on_drained()

    cdef Py_ssize_t backlog(self) noexcept:
        return self.rest.used + self.held.used

    @property
    def pending(self):
        """Bytes accepted from us and not yet by the kernel."""
        return self.backlog()

    def write(self, bytes data not None):
        """Write at once, behind what is staged."""
        self.send(data, len(data))

    def hold(self, bytes data not None):
        """Stage bytes for the next write."""
        self.stage(data, len(data))
