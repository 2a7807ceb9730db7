# cython: language_level=3, boundscheck=False, wraparound=False
"""Cut one direction of a connection into frames, holding no more of each than its reader needs.

1. A frame is delivered when its *head* is here: as many bytes as its type needs. What follows of it comes in
   further chunks (`MORE`), as the socket delivers them; a 1 GB row is never held.
2. A type that needs the whole frame is held up to `whole_limit`; a longer one is refused at its header.
3. A length below 4 or above `limit`, and a type that may not come from this side, are refused at the header,
   before a byte of the body is kept.
4. What is kept between two reads is one incomplete head, or what its reader handed back.

Protocol manual: "Message Formats"; every message but a start packet is a type byte and an int32 length that
counts itself.
"""
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from libc.string cimport memcpy

from pgambassador.errors import ProtocolViolation

cdef enum:
    ALL = 0x7FFFFFFF

WHOLE = ALL
HEADER = 5
CONTINUED = MORE


cdef class Scanner:
    """`needs` maps a type byte to the bytes of its head, `WHOLE` for all; a type that is missing is refused."""

    def __cinit__(self, dict needs, Py_ssize_t limit=0x3FFFFFFF, Py_ssize_t whole_limit=64 * 1024 * 1024):
        cdef int i
        for i in range(256):
            self.needs[i] = 0
        for kind, need in needs.items():
            self.needs[<unsigned char>kind] = need
        self.limit = limit
        self.whole_limit = whole_limit
        self.kept = None
        self.anchor = None

    cdef int begin(self, const unsigned char *data, Py_ssize_t n) except -1:
        """Start on freshly read bytes (none: on what is kept); they must live until finish()."""
        self.pos = 0
        if self.kept is None:
            self.data = data
            self.end = n
            return 0
        if n:
            self.append(data, n)
        if PyByteArray_GET_SIZE(self.kept) < self.wanted:
            self.end = 0
            return 0
        self.anchor = self.kept
        self.kept = None
        self.data = <const unsigned char *>PyByteArray_AS_STRING(self.anchor)
        self.end = PyByteArray_GET_SIZE(self.anchor)
        return 0

    cdef int next(self) except -2:
        """The next frame's type, MORE for a further chunk of the last one, 0 when the bytes are used up."""
        cdef Py_ssize_t avail = self.end - self.pos
        cdef Py_ssize_t head
        cdef unsigned int length, need
        cdef const unsigned char *p
        if avail <= 0:
            return 0
        p = self.data + self.pos
        if self.left > 0:
            self.at = p
            self.have = avail if avail < self.left else self.left
            self.pos += self.have
            self.left -= self.have
            return MORE
        if avail < 5:
            self.wanted = 5
            return 0
        need = self.needs[p[0]]
        length = (<unsigned int>p[1] << 24) | (<unsigned int>p[2] << 16) | (<unsigned int>p[3] << 8) | p[4]
        if need == 0:
            raise ProtocolViolation(f"invalid message type {p[0]}")
        if length < 4 or length > <size_t>self.limit:
            raise ProtocolViolation(f"invalid message length {length} of message type {chr(p[0])!r}")
        self.size = <Py_ssize_t>length + 1
        if need == ALL and self.size > self.whole_limit:
            raise ProtocolViolation(
                f"message of type {chr(p[0])!r} is {self.size} bytes long; at most {self.whole_limit} are taken",
                sqlstate="54000",
            )
        head = <Py_ssize_t>need
        if self.asked > head:
            head = self.asked
        if head > self.size:
            head = self.size
        if avail < head:
            self.wanted = head
            return 0
        self.asked = self.wanted = 0
        self.at = p
        self.have = avail if avail < self.size else self.size
        self.pos += self.have
        self.left = self.size - self.have
        return p[0]

    cdef void back(self) noexcept:
        """Hand the frame that next() has just started back: it comes again."""
        self.pos -= self.have
        self.left = 0
        self.wanted = 0

    cdef int ask(self, Py_ssize_t n) except -1:
        """Hand the frame back until n bytes of it are here; no more than a whole frame's limit."""
        if n > self.size:
            n = self.size
        if n > self.whole_limit:
            raise ProtocolViolation("a name in the message is too long", sqlstate="54000")
        self.back()
        self.asked = n
        return 0

    cdef int finish(self) except -1:
        """Keep what is not used up; the bytes given to begin() may go."""
        cdef Py_ssize_t rest = self.end - self.pos
        if rest > 0:
            if self.anchor is not None and self.pos == 0:
                self.kept = self.anchor
            else:
                self.kept = bytearray(rest)
                memcpy(PyByteArray_AS_STRING(self.kept), self.data + self.pos, rest)
        self.anchor = None
        self.data = NULL
        self.pos = self.end = 0
        return 0

    cdef int append(self, const unsigned char *data, Py_ssize_t n) except -1:
        """Keep bytes without looking at them."""
        cdef Py_ssize_t old
        if self.kept is None:
            self.kept = bytearray(n)
            memcpy(PyByteArray_AS_STRING(self.kept), data, n)
            return 0
        old = PyByteArray_GET_SIZE(self.kept)
        PyByteArray_Resize(self.kept, old + n)
        memcpy(PyByteArray_AS_STRING(self.kept) + old, data, n)
        return 0

    cdef int prepend(self, bytes data) except -1:
        """Whole frames come again, before what is kept."""
        self.kept = bytearray(data) + (self.kept or b"")
        self.wanted = 0
        return 0

    @property
    def held(self):
        """Bytes kept between two reads."""
        return 0 if self.kept is None else len(self.kept)

    @property
    def unfinished(self):
        """Bytes of the current frame that have not come yet."""
        return self.left

    def feed(self, bytes data not None):
        """All chunks that these bytes complete, as (type or CONTINUED, chunk, frame size)."""
        cdef list out = []
        cdef int kind
        self.begin(data, len(data))
        while True:
            kind = self.next()
            if kind == 0:
                break
            out.append((kind, (<const char *>self.at)[:self.have], self.size))
        self.finish()
        return out

    def __repr__(self):
        return f"<Scanner held={self.held} unfinished={self.left}>"
