# cython: language_level=3, boundscheck=False, wraparound=False
"""A client's messages while it holds no server connection: answered here, refused, or the reason to wait for one.

1. What says nothing to a server (a Sync, a Flush, the rest of a COPY that is over) waits for none.
2. A refusal answers one query, or the extended protocol up to its Sync, as an error of the server would.
3. A BEGIN that is put off is answered as a server would: to the byte, with its own tag, and what it has named is known
   afterwards. A part in which anything else is asked, or anything is not as usual, is a server's to answer.
"""
from pgambassador.net.choice cimport Choice
from pgambassador.net.parties cimport clock
from pgambassador.net.preparing cimport NAME_MOST
from pgambassador.net.sight cimport behind, behind_message
from pgambassador.net.verdicts cimport READ_ONLY, UNSAID
from pgambassador.wire.framing cimport Scanner

cdef bytes BEGUN = b"C\0\0\0\x0aBEGIN\0", STARTED = b"C\0\0\0\x16START TRANSACTION\0"
cdef bytes CLOSED = b"3\0\0\0\4"


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
            if self.verdict.begins == UNSAID and self.lane.choice is not None and self.puts_off(kind):
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

    cdef bint puts_off(self, int kind) except -1:
        """Answer a BEGIN that does not say what its transaction does, if there is a standby that may have it. Other
        characters than ASCII's in a comment may be none in the client's encoding, or none that the server has."""
        cdef bytes text
        if self.begun is not None or not (<Choice>self.lane.choice).lanes or self.stays:
            return False
        if kind != c'Q':
            return self.puts_off_part()
        text = (<const char *>self.scanner.at)[5:self.scanner.have - 1]
        if not text.isascii():
            return False
        self.unnamed = self.unnamed_at = None
        self.promise(text, b"", b"")
        return True

    cdef bint puts_off_part(self) except -1:
        """The same in the extended protocol. Where what makes its transaction read only stands right behind it, in the
        same part, nothing is put off: all of that may go to a standby."""
        cdef Scanner scanner = self.scanner
        cdef const unsigned char *at = scanner.at
        cdef const unsigned char *stop
        cdef bytes name, parse, text, answers, closed = None
        if self.lane.sticky:
            return False
        execution = self.execution_at(at)
        if execution is None:
            return False
        size, name, parse, text, answers = execution
        if self.verdicts.find(text, len(text)).begins != UNSAID:
            return False
        at += <Py_ssize_t>size
        if at[0] == c'P' or at[0] == c'B':
            self.heed_restriction(at)
            return False
        if at[0] == c'C':
            stop = behind_message(at)
            if at[5] != c'S' or behind(at + 6, stop) != stop:
                return False
            closed = (<const char *>at)[6:min(stop - at - 1, 6 + NAME_MOST)]
            at = stop
        if at[0] != c'S' or behind_message(at) != at + 5 or not text.isascii():
            return False
        if parse is not None and name:
            self.statements[name] = self.policy.statement(parse[parse.index(b"\0", 5) + 1:], self.state)
        elif parse is not None:
            self.unnamed = parse
            self.unnamed_at = None
        self.bound = self.statements[name] if name else self.unnamed
        if closed:
            self.statements.pop(closed, None)
        elif closed is not None:
            self.unnamed = None
        self.promise(text, answers, b"" if closed is None else CLOSED)
        self.part += 1
        scanner.pos += at + 5 - scanner.at - scanner.have
        scanner.left = 0
        return True

    cdef int heed_restriction(self, const unsigned char *at) except -1:
        """Behind a BEGIN of the same part: if that makes its transaction read only, and is executed, a standby may have
        all of it."""
        if at[0] == c'B' and at[5] == 0 and at[6] == 0:
            return 0  # that is the BEGIN, or what was there before it
        if self.restriction_at(at) is None:
            return 0
        while at[0] != c'S' and at[0] != c'C':
            at = behind_message(at)
        if at[0] == c'S' and self.verdict.makes_read_only:
            self.verdict.begins = READ_ONLY  # that of this part alone
        return 0

    cdef int promise(self, bytes text, bytes before, bytes after) except -1:
        """Its client is told that a transaction has begun."""
        cdef bytes answer
        self.begun = text
        self.opening = self.verdict
        self.rested = self.now
        self.lane.promised.add(self)
        self.repeating = self.again_at_primary = False
        answer = before + (STARTED if self.verdict.starts else BEGUN) + after + self.readiness()
        return self.channel.stage(answer, len(answer))

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
