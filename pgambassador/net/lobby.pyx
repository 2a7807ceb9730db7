# cython: language_level=3, boundscheck=False, wraparound=False
"""A client's messages while it holds no server connection: answered here, refused, or the reason to wait for one.

1. What says nothing to a server (a Sync, a Flush, the rest of a COPY that is over) waits for none.
2. A refusal answers one query, or the extended protocol up to its Sync, as an error of the server would.
"""
from pgambassador.net.parties cimport clock
from pgambassador.net.verdicts cimport UNSAID


cdef class Lobby(Tollgate):
    """The part of a session that stands before a connection."""

    cdef int unlinked(self, int kind) except -1:
        """A message while no server connection is held. False: it waits for one."""
        self.passing = False
        if self.refusal is not None or self.skipping:
            self.refuse_one(kind)
            return True
        if kind == c'S' and self.scanner.size == 5:
            self.channel.stage(self.readiness(), 6)
            return True
        if kind == c'H' and self.scanner.size == 5 or kind in (c'd', c'c', c'f'):
            return True
        if kind == c'C' and self.scanner.have > 6 and self.scanner.at[5] == c'S' and not self.lane.sticky:
            self.close_statement(None)
            return True
        if (self.lane.choice is not None or self.lane.cache is not None) and not self.look(kind):
            self.scanner.back()
            return False
        if self.guard is not None and self.begun is None and not self.lets_by(kind):
            if self.refusal is None:
                return False
            self.refuse_one(kind)
            return True
        if self.lane.choice is not None or self.lane.cache is not None:
            self.sought = None
            if self.verdict.begins == UNSAID and kind == c'Q' and self.lane.choice is not None and self.puts_off():
                return True
            if self.verdict.cache > 0 and self.lane.cache is not None and self.recall():
                return True
        if not self.acquire(kind):
            if self.refusal is not None:
                self.refuse_one(kind)
                return True
            self.scanner.back()
            self.absolved = True
            return False
        self.linked(kind)
        return True

    cdef bint said_goodbye(self) except -1:
        """Whether the last of what is kept is a Terminate."""
        cdef bytes kept = bytes(self.scanner.kept or b"")
        cdef Py_ssize_t at = 0
        cdef int kind = 0
        while at + 5 <= len(kept):
            kind = kept[at]
            at += 1 + int.from_bytes(kept[at + 1:at + 5], "big")
        return kind == c'X' and at == len(kept)

    cdef int refuse_one(self, int kind) except -1:
        """Answer with the refusal what would have needed a server: a query alone, the extended protocol to its Sync."""
        cdef bytes refusal = self.refusal
        self.refusal = None
        if refusal is not None:
            if self.begun is not None:
                self.begun = None
                self.adrift = True
            self.channel.stage(refusal, len(refusal))
            if kind == c'Q' or kind == c'F':
                self.channel.stage(self.readiness(), 6)
                return 0
            self.skipping = True
        if kind == c'S':
            self.skipping = False
            self.channel.stage(self.readiness(), 6)
        return 0

    # What the policy may do with it.

    def refuse(self, bytes error not None):
        """Stop waiting: the message that waits is answered with this ErrorResponse; the session goes on."""
        if not (self.waiting or self.detained):
            return
        if self.waiting:
            self.asked.unqueue(self)
        if self.detained:
            self.detained = self.stalled = False
        self.absolved = False
        self.refusal = error
        self.now = clock()
        self.channel.start_reading()
        self.take(0)
