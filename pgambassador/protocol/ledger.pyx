# cython: language_level=3, boundscheck=False, wraparound=False
"""The replies that one server connection owes, in order, and to whom.

An entry stands for one message that was sent (forward, swallow) or held back (fake), under the type byte of that
message: P B D C E for the extended protocol, S for Sync, Q for a simple query, F for a function call; or for what
stands in for one: q for one of several statements in a simple query, behind the last of which stands an S; p for a
Close of nothing, whose answer becomes that to a Parse.

1. Replies come in the order of the entries. The head entry says whose a message is, and whether its owner
   sees it (FORWARD) or not (SWALLOW: we asked). A FAKE entry has no reply coming: we owe it ourselves, and it is
   paid when it reaches the head.
2. Each entry is completed by the messages of `completes`; everything else at the head belongs to it.
3. After an error in the extended protocol the server skips everything up to the next Sync (manual: "Extended
   Query"): the entries up to it are dropped, and while no Sync has been sent, `skipping` says that nothing else
   will be answered. So it is among several statements, which an S ends. A failed simple query or function call ends
   only itself: its ReadyForQuery still comes.
4. CopyInResponse: a server in COPY ignores Sync (manual: "COPY Operations"), so Syncs sent behind it are dropped,
   up to the CopyDone or CopyFail (c) that ends the COPY, if that has been sent before CopyInResponse was seen. A c
   has no reply; one that no COPY has taken is dropped when it reaches the head, as a server ignores it.
"""
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_DECREF
from libc.stdlib cimport calloc, free

forward = FORWARD
swallow = SWALLOW
fake = FAKE
unowed = UNOWED
broken = BROKEN


cdef class Ledger:
    def __cinit__(self):
        self.mask = 7
        self.ring = <Entry *>calloc(8, sizeof(Entry))
        if self.ring == NULL:
            raise MemoryError

    def __dealloc__(self):
        if self.ring != NULL:
            while self.count:
                self.drop_head()
            free(self.ring)

    cdef Entry *head(self) noexcept:
        return &self.ring[self.first]

    cdef int grow(self) except -1:
        cdef Py_ssize_t size = self.mask + 1, i
        cdef Entry *ring = <Entry *>calloc(size * 2, sizeof(Entry))
        if ring == NULL:
            raise MemoryError
        for i in range(self.count):
            ring[i] = self.ring[(self.first + i) & self.mask]
        free(self.ring)
        self.ring = ring
        self.first = 0
        self.mask = size * 2 - 1
        return 0

    cdef int put(self, int kind, int action, object owner, object note, object name, double started) except -1:
        cdef Entry *entry
        if kind == c'S':
            self.skipping = False
        elif self.skipping or (kind == c'c' and self.count == 0):
            return 0
        if self.count > self.mask:
            self.grow()
        entry = &self.ring[(self.first + self.count) & self.mask]
        Py_INCREF(owner)
        Py_INCREF(note)
        Py_INCREF(name)
        entry.kind = kind
        entry.action = action
        entry.owner = <void *>owner
        entry.note = <void *>note
        entry.name = <void *>name
        entry.started = started
        self.count += 1
        self.total += 1
        return 0

    cdef int drop_head(self) except -1:
        cdef Entry *entry = &self.ring[self.first]
        cdef PyObject *owner = <PyObject *>entry.owner
        cdef PyObject *note = <PyObject *>entry.note
        cdef PyObject *name = <PyObject *>entry.name
        self.first = (self.first + 1) & self.mask
        self.count -= 1
        Py_DECREF(<object>owner)
        Py_DECREF(<object>note)
        Py_DECREF(<object>name)
        if self.count and self.ring[self.first].kind == c'c':
            return self.drop_head()
        return 0

    cdef int verdict(self, unsigned char kind) noexcept:
        """What to do with a message of the server: FORWARD, SWALLOW, UNOWED (nobody asked), BROKEN (impossible)."""
        cdef unsigned char of
        if self.count == 0:
            return UNOWED
        of = self.ring[self.first].kind
        if kind == c'Z':
            if of != c'S' and of != c'Q' and of != c'F':
                return BROKEN
        elif kind == c'1':
            if of != c'P':
                return BROKEN
        elif kind == c'2':
            if of != c'B':
                return BROKEN
        elif kind == c'3':
            if of != c'C' and of != c'p':
                return BROKEN
        elif kind == c'C' or kind == c'I':
            if of != c'E' and of != c'Q' and (of != c'q' or kind == c'I'):
                return BROKEN
        elif kind == c's':
            if of != c'E':
                return BROKEN
        return self.ring[self.first].action

    cdef bint completes(self, unsigned char kind) noexcept:
        """Whether a message of this type is the last one of the head entry."""
        cdef unsigned char of = self.ring[self.first].kind
        if of == c'Q' or of == c'S' or of == c'F':
            return kind == c'Z'
        if of == c'E':
            return kind == c'C' or kind == c'I' or kind == c's'
        if of == c'q':
            return kind == c'C'
        if of == c'P':
            return kind == c'1'
        if of == c'B':
            return kind == c'2'
        if of == c'D':
            return kind == c'T' or kind == c'n'
        return kind == c'3'

    cpdef push(self, int kind, int action, object owner, object note=None, object name=None, double started=0.0):
        """Owe one reply. While the server skips to the next Sync nothing but a Sync is answered, nor noted."""
        self.put(kind, action, owner, note, name, started)

    cpdef tuple due(self):
        """The fake at the head as (kind, owner), taken off; None when the head is not a fake."""
        cdef tuple due
        if self.count == 0 or self.ring[self.first].action != FAKE:
            return None
        due = (self.ring[self.first].kind, <object>self.ring[self.first].owner)
        self.drop_head()
        return due

    cpdef int receive(self, int kind) except -1:
        """The verdict on a server's message; the entry that it completes is taken off."""
        cdef int verdict = self.verdict(kind)
        if verdict <= SWALLOW and self.completes(kind):
            self.drop_head()
        return verdict

    cpdef list fail(self):
        """An ErrorResponse came: the entries that it ends, as (kind, action, owner, note, name)."""
        cdef Entry *entry
        cdef list dropped = []
        if self.count == 0:
            return dropped
        entry = &self.ring[self.first]
        if entry.kind == c'Q' or entry.kind == c'F' or entry.kind == c'S':
            return dropped
        while self.count:
            entry = &self.ring[self.first]
            if entry.kind == c'S':
                return dropped
            dropped.append(
                (entry.kind, entry.action, <object>entry.owner, <object>entry.note, <object>entry.name)
            )
            self.drop_head()
        self.skipping = True
        return dropped

    cpdef bint copy_in(self):
        """CopyInResponse came: drop the Syncs that the server will ignore. True if the client has ended its COPY."""
        cdef Entry kept
        cdef unsigned char behind
        while self.count > 1:
            behind = self.ring[(self.first + 1) & self.mask].kind
            if behind != c'S' and behind != c'c':
                return False
            kept = self.ring[self.first]
            self.ring[self.first] = self.ring[(self.first + 1) & self.mask]
            self.ring[(self.first + 1) & self.mask] = kept
            self.drop_head()
            if behind == c'c':
                return True
        return False

    def entries(self):
        """What is owed, as (kind, action, owner)."""
        cdef Py_ssize_t i
        cdef list out = []
        for i in range(self.count):
            entry = self.ring[(self.first + i) & self.mask]
            out.append((entry.kind, entry.action, <object>entry.owner))
        return out

    def __repr__(self):
        words = ("", "swallow:", "fake:")
        owed = " ".join(words[action] + chr(kind) for kind, action, _ in self.entries())
        return f"<Ledger {owed}{' skipping' if self.skipping else ''}>"
