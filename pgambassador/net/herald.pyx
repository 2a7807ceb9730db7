# cython: language_level=3, boundscheck=False, wraparound=False
"""Who has just come, and what it is told at once since whoever began so was told it before.

What a login says first, AuthenticationSASL and the challenge (protocol manual, "SASL Authentication"), follows from the
start packet and the address that it comes from, but for the server's part of the nonce. So it is said where the
socket is heard. The login takes ten times as long to find it out, and follows while the client derives its key.

So it is with the last answer: who has shown a right proof is greeted at once with what its login is about to say.

1. Nothing is decided here. The login hears all that the client has said and says all that it was told, word for word:
   where it would have said anything else it fails. Nobody is let in but by its login.
2. It is learnt of all names in the same way, from a login that has shown nothing yet: it tells nobody who is known.
3. It is forgotten with the rules and lists that it follows from. Where a server is asked who is known it is not learnt,
   since that may say something else at any time.
4. What strangers can make it remember is bounded, in number and size.
"""
import socket

from pgambassador.auth.client import OFFER as _OFFER
from pgambassador.auth.digest import shown_by
from pgambassador.auth.scram import NONCE_SIZE as _NONCE_SIZE, make_nonce
from pgambassador.errors import Refused
from pgambassador.wire.build import SSL_REQUEST as _SSL_REQUEST
from pgambassador.wire.parse import USUAL as _USUAL

from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, errno
from libc.string cimport memcmp

cdef extern from *:
    """
    #include <arpa/inet.h>
    #include <fcntl.h>
    #include <netinet/in.h>
    #include <sys/socket.h>
    #include <unistd.h>
    /* The connection's descriptor, or -1; its other end as text, and what `socket` calls it. */
    static int pga_accept(int listening, char *host, int *port, int *family, int *protocol) {
        struct sockaddr_storage at;
        socklen_t size = sizeof at;
    #ifdef __linux__
        int fd = accept4(listening, (struct sockaddr *)&at, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) return -1;
    #else
        int fd = accept(listening, (struct sockaddr *)&at, &size);
        if (fd < 0) return -1;
        fcntl(fd, F_SETFD, FD_CLOEXEC);
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    #endif
        host[0] = 0;
        *port = 0;
        *family = AF_UNIX;
        *protocol = 0;
        if (size >= sizeof(struct sockaddr_in) && at.ss_family == AF_INET) {
            struct sockaddr_in *in = (struct sockaddr_in *)&at;
            inet_ntop(AF_INET, &in->sin_addr, host, INET6_ADDRSTRLEN);
            *port = ntohs(in->sin_port);
        } else if (size >= sizeof(struct sockaddr_in6) && at.ss_family == AF_INET6) {
            struct sockaddr_in6 *in = (struct sockaddr_in6 *)&at;
            inet_ntop(AF_INET6, &in->sin6_addr, host, INET6_ADDRSTRLEN);
            *port = ntohs(in->sin6_port);
        }
        if (host[0]) {
            *family = at.ss_family;
            *protocol = IPPROTO_TCP;
        }
        return fd;
    }
    """
    int pga_accept(int listening, char *host, int *port, int *family, int *protocol) nogil

cdef extern from "sys/socket.h" nogil:
    ssize_t c_recv "recv"(int fd, void *buf, size_t n, int flags)
    ssize_t c_send "send"(int fd, const void *buf, size_t n, int flags)

cdef extern from "unistd.h" nogil:
    int c_close "close"(int fd)

cdef enum:
    ROOM = 16 * 1024
    SIZE = 1000
    HOST = 64
    # Where the client-first-message stands: behind the frame's header, the mechanism's name and a length.
    FIRST = 5 + 14 + 4
    PROOF = 44

cdef char inbox[ROOM]
cdef Py_ssize_t USUAL = _USUAL
cdef bytes MECHANISM = b"SCRAM-SHA-256\0"
cdef object STREAM = int(socket.SOCK_STREAM)
cdef bytes SSL_REQUEST = _SSL_REQUEST
cdef bytes MAJOR = b"\0\3"


cdef class Herald:
    """`directory` has the lists of who is known; `offers` says whether TLS is offered."""

    def __init__(self, directory, bint offers=False):
        self.directory, self.offers = directory, offers
        self.users = directory.users
        self.known = {}
        self.spare = make_nonce()

    def accept(self, int listening, bint unix, loop, sockets):
        """Take in who has come to a listening socket, a Unix socket or not; OSError if that is not possible."""
        cdef char host[HOST]
        cdef int port = 0, family = 0, protocol = 0
        cdef int fd = pga_accept(listening, host, &port, &family, &protocol)
        if fd < 0:
            raise OSError(errno, "a connection cannot be taken in")
        cdef Newcomer found = Newcomer.__new__(Newcomer)
        found.loop, found.sockets, found.herald, found.fd = loop, sockets, self, fd
        try:
            if unix:
                found.address = "unix"
            elif host[0] == 0:
                raise OSError(ECONNABORTED, "a connection cannot be taken in")  # forgotten whose it was
            else:
                found.key = host
                name = found.key.decode("ascii")
                found.address = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
                found.look()
            found.sock = socket.socket(family, STREAM, protocol, fd)
        except BaseException:
            c_close(fd)
            raise
        found.sock.setblocking(False)  # which it is, but the object does not know it
        return found

    def clear(self, bint offers=False):
        """What logins follow from has changed; `offers`: whether TLS is offered now."""
        self.offers = offers
        self.epoch += 1
        self.known.clear()

    cdef int look_again(self) except -1:
        """Whether the lists have changed."""
        if self.directory.users is not self.users:
            self.users = self.directory.users
            self.clear(self.offers)
        return 0

    cdef tuple find(self, bytes key):
        """What is said to who comes from there and begins so: the request, and how the challenge ends."""
        self.look_again()
        return self.known.get(key)

    cdef bytes nonce(self):
        found, self.spare = self.spare, None
        return make_nonce() if found is None else found

    def __len__(self):
        return len(self.known)

    def __repr__(self):
        return f"<Herald {len(self)}>"


cdef class Newcomer(Word):
    """Awaited it gives the first bytes that the client has sent, b"" at its end; those behind `asked`, if it has asked
    for TLS, which is not offered."""

    def __cinit__(self, *arguments):
        self.early = b""

    def __init__(self, loop, sockets, Herald herald not None, sock, str address not None):
        """As if it had come by `accept`."""
        Word.__init__(self, loop)
        self.sockets, self.herald, self.fd = sockets, herald, sock.fileno()
        self.sock, self.address = sock, address
        if address != "unix":
            self.key = address.rpartition(":")[0].encode("ascii")

    def __next__(self):
        if not self.ready and not self.watched:
            self.look()
            if not self.ready:
                self.watched = True
                self.sockets.add_reader(self.fd, self.on_readable)
        if self.ready:
            raise StopIteration(self.first)
        self.waited = self._asyncio_future_blocking = True
        return self

    cpdef int look(self) except -1:
        """Read what it has said meanwhile, if it has: a task that works for it would only find that out at its end."""
        cdef Py_ssize_t n
        if self.ready:
            return 0
        n = c_recv(self.fd, inbox, ROOM, 0)
        if n < 0 and (errno == EAGAIN or errno == EINTR):
            return 0
        return self.opened(n) if self.first is None else self.followed(n)

    def on_readable(self):
        """The socket has bytes, or its end."""
        if self.ready:
            self.watched = False  # nobody has come yet to take it over
            self.sockets.remove_reader(self.fd)
        else:
            self.look()

    cdef int opened(self, Py_ssize_t n) except -1:
        """It has said something."""
        cdef bytes data = inbox[:n] if n > 0 else b""
        if data == SSL_REQUEST and not self.herald.offers and self.asked is None and self.key is not None:
            self.asked = data
            return self.tell(b"N")
        self.first = data
        if n < 8 or n > USUAL or self.key is None:
            return self.over()
        self.key += b"\0" + self.first
        said = self.herald.find(self.key)
        self.epoch = self.herald.epoch
        if said is None:
            return self.over()
        request, self.shown = said
        self.tell(request)
        return 0

    cdef int followed(self, Py_ssize_t n) except -1:
        """It has answered the request."""
        self.early = inbox[:n] if n > 0 else b""
        theirs = nonce_of(self.early)
        if theirs is not None:
            self.nonce = self.herald.nonce()
            self.tell(challenge(theirs, self.nonce, self.shown))
        return self.over()

    cdef int over(self) except -1:
        self.ready = True
        self.heard()
        return 0

    cdef int tell(self, bytes data) except -1:
        """An empty socket takes so little at once; where it does not, its reader finds it broken."""
        c_send(self.fd, <const char *>data, len(data), 0)
        if self.ahead is None:
            self.ahead = []
        self.ahead.append(data)
        return 0

    cdef bint told(self, frame, bytes data) except -1:
        """A login would say this next, as the answer to that: whether the client has been told."""
        if self.ahead:
            if self.ahead[0] != data:
                self.herald.known.pop(self.key, None)
                self.check()
            del self.ahead[0]
            if self.herald.spare is None:
                self.herald.spare = make_nonce()  # for the next one, who will not have to wait for it
            return True
        self.learn(frame, data)
        return False

    def says(self, bytes data not None):
        """A login says this before it asks for anything: whether the client has been told. What has not, who begins so
        must hear first."""
        if self.ahead:
            return self.told(None, data)
        self.key = None
        return False

    def check(self):
        """Refused if it was told what its login has not said."""
        if self.ahead:
            raise changed()

    def expect(self, str user, expected, bytes success not None):
        """What a right answer to the challenge is (`Expected`), and what it is answered with."""
        self.user, self.expected, self.success = user, tuple(expected), success

    cdef bytes greet(self, frame):
        """What to tell the client at once that has answered so, if it is right; what the login will say then."""
        cdef Py_ssize_t n
        cdef bytes message
        if self.expected is None or self.behind is None:
            return None
        expected, self.expected = self.expected, None
        beginning, signature, stored_key, _ = expected
        message = <bytes>frame[1]
        n = len(<bytes>beginning)
        if <int>frame[0] != c"p" or len(message) != n + PROOF or not message.startswith(beginning):
            return None
        try:
            if shown_by(message[n:], stored_key, signature) is None:
                return None
        except ValueError:
            return None
        words = self.behind(self.user) if self.user is not None else None
        if words is not None:
            self.greeted = self.success + <bytes>words
        return self.greeted

    cdef int learn(self, frame, bytes data) except -1:
        """Both of what it says first: then it can be said ahead."""
        cdef Herald herald = self.herald
        self.step += 1
        if self.step == 1 and data == _OFFER and self.key is not None and whole(self.first):
            self.request = data
        elif self.step == 2 and self.request is not None:
            theirs = nonce_of(b"p" + (len(frame[1]) + 4).to_bytes(4, "big") + frame[1])
            herald.look_again()
            # What it follows from is of when the client came.
            if theirs is not None and self.epoch == herald.epoch and herald.directory.enquiry is None:
                if len(herald.known) >= SIZE:
                    herald.known.clear()
                herald.known[self.key] = (self.request, data[9 + 2 + len(theirs) + _NONCE_SIZE :])
        return 0

    def __repr__(self):
        return f"<Newcomer {self.address}{' ready' if self.ready else ''}>"


def changed():
    """What ends a login that would have said something else than its client was told."""
    return Refused(
        "who may log in here, and how, has been changed just now", sqlstate="57P03", hint="Connect again."
    )


cdef bint whole(bytes first) except -1:
    """Whether it is one start packet and nothing else."""
    return int.from_bytes(first[:4], "big") == len(first) <= USUAL and first[4:6] == MAJOR


cdef bytes nonce_of(bytes frame):
    """The client's part of the nonce, if it is one SASLInitialResponse with a usual client-first-message (RFC 5802,
    section 7): no binding, no other identity, no extensions."""
    cdef const unsigned char *c = frame
    cdef Py_ssize_t n = len(frame), at = FIRST + 5, i
    if n < at + 4 or c[0] != b"p" or number(c + 1) != n - 1 or number(c + FIRST - 4) != n - FIRST:
        return None
    if memcmp(c + 5, <const char *>MECHANISM, 14) != 0 or memcmp(c + FIRST, b"n,,n=", 5) != 0:
        return None
    while at < n and c[at] != b"," and c[at] != 0:
        at += 1  # the name, which is the start packet's
    if n - at < 4 or n - at > 3 + 1024 or at > FIRST + 5 + 1024 or memcmp(c + at, b",r=", 3) != 0:
        return None
    for i in range(at + 3, n):
        if not 0x21 <= c[i] <= 0x7E or c[i] == b",":
            return None
    return frame[at + 3 :]


cdef Py_ssize_t number(const unsigned char *c) noexcept:
    return <Py_ssize_t>c[0] << 24 | c[1] << 16 | c[2] << 8 | c[3]


cdef bytes challenge(bytes theirs, bytes ours, bytes shown):
    """AuthenticationSASLContinue with a server-first-message."""
    cdef Py_ssize_t n = 4 + 4 + 2 + len(theirs) + len(ours) + len(shown)
    cdef char header[11]
    header[0] = b"R"
    header[1], header[2], header[3], header[4] = n >> 24, n >> 16 & 0xFF, n >> 8 & 0xFF, n & 0xFF
    header[5] = header[6] = header[7] = 0
    header[8] = 11
    header[9], header[10] = b"r", b"="
    return header[:11] + theirs + ours + shown
