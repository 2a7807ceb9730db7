# cython: language_level=3, boundscheck=False, wraparound=False
"""One non-blocking socket, in plain text or TLS: reads into the caller's buffer; its outlet writes.

1. TLS runs over memory: one recv takes all records that are there (a socket-bound SSL_read takes two system
   calls for each record), and what is decrypted but not yet delivered is announced by `more`, since no event of
   the socket will.
2. What was written before a channel was closed with `linger` still leaves, if its peer reads.
3. A broken socket is noticed in one place: `fail` calls `on_readable` once more, whose `fill` then reports it.
"""
from cpython.buffer cimport PyBUF_READ, PyBUF_WRITE
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdlib cimport free

from pgambassador.net cimport openssl
from pgambassador.net.outlet cimport Outlet
from pgambassador.net.store cimport store_clear
from pgambassador.net.tally cimport weigh

import ssl

from pgambassador.net.reactor import later

cdef extern from "sys/socket.h" nogil:
    ssize_t c_recv "recv"(int fd, void *buf, size_t n, int flags)
    ssize_t c_send "send"(int fd, const void *buf, size_t n, int flags)
    int MSG_PEEK
    int MSG_DONTWAIT

cdef object WantRead = ssl.SSLWantReadError
cdef object SSLError = ssl.SSLError

cdef enum:
    CIPHER_SIZE = 128 * 1024
    SLICE = 16 * 1024
    # Nobody who has something to say needs so many bytes for it.
    UNSAID_MOST = 32 * 1024

cdef char cipher[CIPHER_SIZE]

# Closed for everybody but the kernel, which has not taken all of it yet.
lingering = set()
cdef int PATIENCE = 40


def sweep():
    """Called a few times a second: a peer that does not read is given up after `PATIENCE` calls."""
    cdef Channel channel
    for channel in list(lingering):
        channel.patience -= 1
        if channel.patience <= 0:
            channel.release()


cdef class Channel(Outlet):
    """`tls`, if given, is an SSLObject over `incoming` and `outgoing`, its handshake done."""

    def __cinit__(self, loop, sock, tls=None, incoming=None, outgoing=None):
        self.loop = loop
        self.sock = sock
        self.fd = sock.fileno()
        self.tls = tls
        if tls is not None:
            self.incoming = incoming
            self.outgoing = outgoing
            # The object behind an SSLObject, where there is one: the same calls without a Python frame around them.
            inner = getattr(tls, "_sslobj", tls)
            self.decrypt = inner.read
            self.encrypt = inner.write
            self.borrowed = openssl.borrow(tls, &self.session)
            # The handshake's last read may have brought the first records of the server along.
            self.more = incoming.pending > 0

    def __dealloc__(self):
        weigh(-self.rest.used)
        free(self.held.base)
        free(self.rest.base)

    # Reading.

    @property
    def on_readable(self):
        """Who is called when there is something to read. Another one may take over while the socket is read."""
        return self.listener

    @on_readable.setter
    def on_readable(self, listener):
        self.listener = listener
        if self.reading:
            self.loop.add_reader(self.fd, listener)
        if self.broken or self.reading and self.more:
            self.loop.call_soon(self.announce)

    def announce(self):
        """Tell whoever listens by now what the socket does not say."""
        if self.listener is not None:
            self.listener()

    cdef Py_ssize_t fill(self, char *into, Py_ssize_t room) except -3:
        """Read what is there: bytes read, 0 at the end, -1 if nothing is there yet, -2 if the socket is broken."""
        cdef Py_ssize_t n
        if self.closed or self.broken:
            return -2
        if self.tls is not None:
            return self.fill_tls(into, room)
        n = c_recv(self.fd, into, room, 0)
        if n > 0:
            self.received += n
            return n
        if n == 0:
            return 0
        if errno == EAGAIN or errno == EINTR:
            return -1
        return -2

    cdef Py_ssize_t fill_tls(self, char *into, Py_ssize_t room) except -3:
        cdef Py_ssize_t n, total = 0
        if not self.more:
            n = c_recv(self.fd, cipher, CIPHER_SIZE, 0)
            if n > SLICE and self.borrowed:
                total = self.sliced(n, into, room)
            elif n > 0 and self.borrowed:
                self.unsaid += n
                openssl.put(&self.session, cipher, n)
            elif n > 0:
                self.incoming.write(PyMemoryView_FromMemory(cipher, n, PyBUF_READ))
            elif n == 0:
                self.incoming.write_eof()
                self.ended = True
            elif errno == EAGAIN or errno == EINTR:
                return -1
            else:
                return -2
        self.more = total == room
        while self.borrowed and total < room and not self.ended:
            n = openssl.decrypt(&self.session, into + total, room - total)
            if n <= 0:
                self.ended = n == openssl.ENDED
                break
            total += n
            if total == room:
                self.more = True
            elif openssl.drained(&self.session):
                break
        while not self.borrowed and total < room:
            try:
                n = self.decrypt(room - total, PyMemoryView_FromMemory(into + total, room - total, PyBUF_WRITE))
            except WantRead:
                break
            except SSLError:
                # A close without notice, a broken record: either way nothing more can be believed.
                self.ended = True
                break
            if n == 0:
                self.ended = True
                break
            total += n
            if total == room:
                self.more = True
            elif self.incoming.pending == 0:
                break
        if total:
            self.unsaid = 0
        elif self.unsaid > UNSAID_MOST:
            # Records that say nothing, such as changes of keys, of which one costs more than a statement.
            self.ended = True
        # What says farewell is left for `release`.
        if not self.ended and self.answer() and self.broken:
            return -2
        self.received += total
        if total:
            if self.ended:
                self.more = True
            return total
        return 0 if self.ended else -1

    cdef Py_ssize_t sliced(self, Py_ssize_t n, char *into, Py_ssize_t room) noexcept:
        """Decrypt much in slices, so that records which say nothing are noticed before all of them are read."""
        cdef Py_ssize_t done = 0, total = 0, piece
        cdef int got
        while done < n:
            piece = n - done if total == room else min(n - done, SLICE)
            openssl.put(&self.session, cipher + done, piece)
            done += piece
            self.unsaid += piece
            while total < room:
                got = openssl.decrypt(&self.session, into + total, room - total)
                if got <= 0:
                    self.ended = got == openssl.ENDED
                    break
                total += got
                self.unsaid = 0
                if openssl.drained(&self.session):
                    break
            if self.ended or self.unsaid > UNSAID_MOST:
                break
        return total

    cdef bint answer(self) except -1:
        """Send what reading has made us write: alerts that end nothing. Whether there was any."""
        cdef char *records = NULL
        cdef Py_ssize_t n = openssl.unsent(&self.session, &records) if self.borrowed else self.outgoing.pending
        if n == 0:
            return False
        if self.rest.used > CIPHER_SIZE:
            # Who makes us write and does not read would pile them up here.
            self.fail()
        elif self.borrowed:
            self.push_out(records, n)
            openssl.taken(&self.session)
        else:
            self.seal(NULL, 0)
        return True

    cdef bint quiet(self) noexcept:
        """Whether the peer has sent nothing since the last read, not even its end: one system call."""
        cdef char probe
        if self.closed or self.broken or self.more:
            return False
        return c_recv(self.fd, &probe, 1, MSG_PEEK | MSG_DONTWAIT) < 0 and errno == EAGAIN

    cdef int start_reading(self) except -1:
        if not self.reading and not self.closed:
            self.reading = True
            self.loop.add_reader(self.fd, self.listener)
            if self.more:
                self.loop.call_soon(self.announce)
        return 0

    cdef int stop_reading(self) except -1:
        if self.reading and not self.closed:
            self.reading = False
            self.loop.remove_reader(self.fd)
        return 0

    cdef int fail(self) except -1:
        if not self.broken:
            self.broken = True
            if self.writing:
                self.writing = False
                self.loop.remove_writer(self.fd)
            weigh(-self.rest.used)
            store_clear(&self.rest)
            if self.closed:
                self.release()
            elif self.listener is not None:
                self.loop.call_soon(self.announce)
        return 0

    def read(self, Py_ssize_t most=65536):
        """What is there, b"" at the end, None if nothing is there yet; ConnectionError if the socket is broken."""
        cdef bytearray into = bytearray(most)
        cdef Py_ssize_t n = self.fill(into, most)
        if n == -1:
            return None
        if n == -2:
            raise ConnectionError("the socket is broken")
        return bytes(into[:n])

    def resume_reading(self):
        self.start_reading()

    def pause_reading(self):
        self.stop_reading()

    def close(self, bint linger=False):
        """Close now; with `linger` as soon as the kernel has taken what is kept, for which `sweep` sets a limit."""
        if self.closed:
            return
        self.stop_reading()
        if linger:
            self.flush()
        self.closed = True
        self.listener = self.on_drained = None
        if linger and self.rest.used and not self.broken:
            self.patience = PATIENCE
            lingering.add(self)
        else:
            self.release()

    def abandon(self):
        """What the kernel has not taken of a closed channel is not kept for it."""
        if self in lingering:
            self.release()

    cdef int release(self) except -1:
        """Let go of the socket; over TLS with a close_notify if the kernel takes it."""
        lingering.discard(self)
        if self.writing:
            self.writing = False
            self.loop.remove_writer(self.fd)
        if self.tls is not None and not self.broken and self.rest.used == 0:
            try:
                self.tls.unwrap()
            except SSLError:
                pass  # The peer's own notice is not waited for.
            notice = self.outgoing.read()
            c_send(self.fd, <const char *>notice, len(notice), 0)
        weigh(-self.rest.used)
        store_clear(&self.rest)
        store_clear(&self.held)
        later(self.sock.close)
        return 0

    def __repr__(self):
        state = "closed" if self.closed else "broken" if self.broken else "open"
        return f"<Channel fd={self.fd} {'tls ' if self.tls is not None else ''}{state} pending={self.backlog()}>"
