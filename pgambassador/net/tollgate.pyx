# cython: language_level=3, boundscheck=False, wraparound=False
"""What stands before the requests of a session that rules or faults concern: its `guard` is asked of each.

1. Asked about is what begins something: a transaction, or a statement outside of one. Whether it does is known when
   all that was asked before is answered, so that such a session's requests go one by one.
   What is asked again was judged before, but its new connection may be cut like the one before.
2. Who has to wait (`detained`) holds everything that comes behind, and may be told no meanwhile.
3. A session without a guard pays for it with one look at `guard`.
"""
from pgambassador.net.backend cimport Backend
from pgambassador.net.parties cimport Statement

from pgambassador.net.statements import statement_text

cdef enum:
    UNTOUCHED = 0
    CUT_BEFORE = 1
    CUT_AFTER = 2


cdef class Tollgate(Recall):
    """The part of a session that can be stopped before it is given a server connection."""

    cdef bint lets_by(self, int kind) except -1:
        """Whether the message in hand, which begins something, goes on. If not it waits, or `refusal` says why."""
        if self.detained:
            return self.stall()
        if self.absolved:
            self.absolved = False
            return True
        if self.repeating:
            judgement = self.guard.judge_again(self.words(kind), self.now)
        else:
            self.ventured = False
            judgement = self.guard.judge(self, self.words(kind), self.now)
        if judgement is None:
            return True
        if type(judgement) is bytes:
            self.refusal = judgement
            return False
        if type(judgement) is float:
            self.detained = True
            return self.stall()
        self.fate = CUT_AFTER if judgement == "after" else CUT_BEFORE
        return True

    cdef bint may_begin(self, Backend backend, int kind) except -1:
        """The same, on a server connection that the session has already."""
        if self.refusal is not None:
            return False
        if self.absolved:
            self.absolved = False
            return True
        if self.riding or kind == c'S' or kind == c'H' or kind == c'd' or kind == c'c' or kind == c'f':
            return True
        if backend.unsynced or backend.copying or backend.status != c'I' or backend.ledger.skipping:
            return True
        if backend.ledger.count:
            return self.stall()
        if not self.lets_by(kind):
            return False
        if self.fate:
            self.meet_fate(backend)
        return True

    cdef bytes words(self, int kind):
        """The statement of the message in hand, where it is known."""
        cdef const char *at = <const char *>self.scanner.at
        cdef Statement statement
        cdef Py_ssize_t start = 5, end
        if kind == c'Q':
            return None if self.scanner.left else at[5:self.scanner.have - 1]
        if kind == c'P':
            end = self.name_end(5)
            return None if end < 0 else at[end:self.scanner.have].partition(b"\0")[0]
        if kind == c'B':
            start = self.name_end(5)
        elif kind == c'D' and self.scanner.have > 6 and at[5] == c'S':
            start = 6
        else:
            return None
        end = self.name_end(start) if start > 0 else -1
        if end < 0:
            return None
        if end - start == 1:
            return None if self.unnamed is None else statement_text(self.unnamed)
        statement = self.statements.get(self.name_at(start, end))
        return None if statement is None else statement.text

    cdef int arrive(self, Backend backend) except -1:
        Recall.arrive(self, backend)
        if self.fate:
            self.meet_fate(backend)
        return 0

    cdef int meet_fate(self, Backend backend) except -1:
        """Its server connection breaks, before or after what it asks is sent."""
        cdef int fate = self.fate
        self.fate = UNTOUCHED
        if fate == CUT_BEFORE:
            return cut(backend)
        # What it is answered comes too late, however fast that is.
        backend.channel.stop_reading()
        self.channel.loop.call_soon(self.cut_off, backend)
        return 0

    def cut_off(self, Backend backend not None):
        """It has been sent."""
        if not backend.closed:
            backend.lose("the server closed the connection unexpectedly")

    def proceed(self):
        """It has waited long enough."""
        if self.detained:
            self.detained = False
            if not self.closed:
                self.absolved = True
                self.resume()


cdef int cut(Backend backend) except -1:
    """As if the network or the server were gone."""
    try:
        backend.channel.sock.shutdown(2)
    except OSError:
        pass  # it is
    return 0
