# cython: language_level=3, boundscheck=False, wraparound=False
"""What a client asks that was answered before: told again by us, or listened to, so that it can be.

1. Only who holds no server connection is answered so, and only a part of a pipeline that is all here: one read,
   proven to be harmless, whose meaning lies in its bytes, in the statement that it names, and in the session's state.
2. What is kept is what its client was sent, to the byte, if that was an answer and nothing else.
3. Before a statement leaves that may write, the cache is told of it; and again when its server connection owes
   nothing and is in no transaction, or is lost.
"""
from libc.math cimport INFINITY
from libc.string cimport memchr

from pgambassador.net.backend cimport Backend
from pgambassador.net.lane cimport Lane
from pgambassador.net.parties cimport Statement, clock
from pgambassador.net.preparing cimport NAME_MOST
from pgambassador.net.sight cimport behind
from pgambassador.net.verdicts cimport UNKNOWN, Verdict
from pgambassador.wire.framing cimport Scanner


cdef class Recall(Errands):
    """The part of a session that remembers."""

    cdef int attune(self) except -1:
        Errands.attune(self)
        self.whose = (self.lane.cache, (<object>self).facts.user, self.state)
        return 0

    cdef bint recall(self) except -1:
        """Answer what was looked at from what is kept. If that cannot be, see whether the answer is to be kept."""
        cdef Scanner scanner = self.scanner
        cdef tuple asked
        self.sought = None
        if self.verdict.cache <= 0 or not self.brief or not self.extent or self.stays or self.repeating:
            return False
        if self.begun is not None or self.lane.sticky or (<object>self).draining:
            return False
        if self.channel.backlog() > self.lane.high_water:
            return False
        if scanner.pos - scanner.have + self.extent > scanner.end:
            return False
        asked = self.asks()
        if asked is None:
            return False
        answer = self.lane.cache.cache.find(asked, self.now)
        if answer is None:
            self.sought = asked
            return False
        self.answer_with(answer, asked)
        return True

    cdef tuple asks(self):
        """All that the answer depends on but data; None if that is not plain."""
        cdef const unsigned char *at = self.scanner.at
        cdef const unsigned char *end = at + self.extent
        cdef const unsigned char *stop
        cdef const unsigned char *name
        cdef const unsigned char *text
        cdef bytes named = None, one
        cdef Statement statement
        cdef list pieces
        cdef bint parsed = at[0] == c'P'
        if at[0] == c'Q':
            return (self.whose, (<const char *>at)[:self.extent], None)
        if parsed and at[5] != 0:
            return None
        pieces = []
        while at < end:
            stop = at + 1 + ((<Py_ssize_t>at[1] << 24) | (at[2] << 16) | (at[3] << 8) | at[4])
            if at[0] == c'B':
                name = behind(at + 5, stop)
                text = behind(name, stop) if name != NULL else NULL
                if text == NULL:
                    return None
                one = (<const char *>name)[:min(text - name - 1, NAME_MOST)]
                pieces.append((<const char *>at)[5:name - at])
                pieces.append((<const char *>text)[:stop - text])
            elif at[0] == c'D' and at[5] == c'S':
                one = (<const char *>at)[6:min(stop - at - 1, 6 + NAME_MOST)]
                pieces.append(b"DS")
            elif at[0] == c'P' and at != self.scanner.at:
                return None
            else:
                pieces.append((<const char *>at)[:stop - at])
                at = stop
                continue
            if named is not None and one != named or parsed and one:
                return None
            named = one
            at = stop
        # What a constant or a name means was decided when it was parsed, perhaps with other settings: those who share
        # the object had the same then. Of the unnamed statement that is known only if it is parsed here.
        statement = self.statements.get(named) if named else None
        return (self.whose, tuple(pieces), statement) if parsed or statement is not None else None

    cdef int answer_with(self, object answer, tuple asked) except -1:
        cdef Scanner scanner = self.scanner
        cdef const unsigned char *at = scanner.at
        cdef bytes data = answer.data
        cdef object note
        if at[0] == c'Q':
            note = (<const char *>at)[5:self.extent]
            self.unnamed = None
        elif at[0] == c'P':
            note = self.unnamed = (<const char *>at)[:scanner.size]
        else:
            note = asked[2]
        self.unnamed_at = None  # whatever a server has of ours is another one
        self.channel.stage(data, len(data))
        self.part += 1
        self.lane.transactions += 1
        self.lane.recalled += 1
        scanner.pos += self.extent - scanner.have
        scanner.left = 0
        self.recalled = True
        self.settled(at[0], note, self.now, clock(), answer.rows, "")
        self.recalled = False
        return 0

    # What is on its way to a server.

    cdef int linked(self, int kind) except -1:
        if self.lane.cache is not None and (kind == c'Q' or kind == c'B' or kind == c'F'):
            self.notes(kind)
        return Errands.linked(self, kind)

    cdef int notes(self, int kind) except -1:
        """Tell the cache what the message in hand may write. In the mode `session` nobody knows what names mean."""
        cdef Scanner scanner = self.scanner
        cdef const unsigned char *at = scanner.at
        cdef const unsigned char *stop = at + scanner.have
        cdef const unsigned char *name
        cdef const unsigned char *text
        cdef Verdict verdict = UNKNOWN
        cdef Statement statement
        cdef bytes frame
        cdef Py_ssize_t n
        if self.attuned is not self.state:
            self.attune()
        if kind == c'Q':
            n = scanner.have - 6
            if not scanner.left and n >= 0 and memchr(at + 5, 0, n + 1) == at + 5 + n:
                verdict = self.verdicts.find(<const char *>at + 5, n)
        elif kind == c'B':
            name = behind(at + 5, stop)
            text = behind(name, stop) if name != NULL else NULL
            if text != NULL and text - name > 1:
                statement = self.statements.get((<const char *>name)[:min(text - name - 1, NAME_MOST)])
                if statement is not None:
                    verdict = self.verdict_on(statement)
            elif text != NULL and self.unnamed is not None:
                frame = self.unnamed
                if len(frame) > 6 and frame[5] == 0 and b"\0" in frame[6:]:
                    n = frame.index(b"\0", 6) - 6
                    verdict = self.verdicts.find(<const char *>frame + 6, n)
        decision = verdict.decision
        if verdict.changes and decision is not None and not decision.writes:
            decision = None  # it has proved to do more than was believed
        found = self.lane.cache.touched(decision)
        if not found:
            return 0
        if self.touched is not None:
            found = found - self.touched
            if not found:
                return 0
        self.lane.cache.cache.begins(found)
        self.touched = found if self.touched is None else self.touched | found
        return 0

    cdef int lets_go(self) except -1:
        """Nothing that it may have written is under way any more."""
        touched, self.touched = self.touched, None
        self.lane.cache.cache.ends(touched, clock())
        return 0

    # Answers that are to be kept.

    cdef int arrive(self, Backend backend) except -1:
        if self.lane.cache is not None:
            self.listen(backend)
        return Errands.arrive(self, backend)

    cdef int board(self, object backend, double now) except -1:
        if self.lane.cache is not None:
            self.listen(backend)
        return Errands.board(self, backend, now)

    cdef int listen(self, object backend) except -1:
        """What was sought in vain is asked of a server now."""
        cdef Lane home = <Lane>(<Backend>backend).home
        asked, self.sought = self.sought, None
        self.draft = self.channel.heard = None
        if asked is None:
            return 0
        fresh_until = home.fresh_until if home.standby else INFINITY
        self.draft = self.lane.cache.asks(asked, self.extent, self.verdict.decision, clock(), fresh_until)
        if self.draft is not None:
            self.channel.heard = bytearray()
            self.channel.heard_most = self.lane.cache.largest
        return 0

    cdef int keep(self) except -1:
        """Its server connection owes it nothing: if what it was sent is a whole answer and nothing else, keep it."""
        cdef bytearray heard = self.channel.heard
        cdef Py_ssize_t length, rows = 0
        draft, self.draft = self.draft, None
        self.channel.heard = None
        if heard is None:
            return 0
        length = answer_in(<const unsigned char *><char *>heard, len(heard), &rows)
        if length:
            self.lane.cache.cache.keep(draft, bytes(heard[:length]), rows)
        return 0


cdef Py_ssize_t answer_in(const unsigned char *data, Py_ssize_t n, Py_ssize_t *rows) noexcept:
    """How long the answer is that these messages begin with, outside a transaction, and how many rows it has; 0 if
    there is anything else in it: an error, a notice, a parameter."""
    cdef Py_ssize_t at = 0, size
    cdef int kind
    while at + 5 <= n:
        kind = data[at]
        size = 1 + ((<Py_ssize_t>data[at + 1] << 24) | (data[at + 2] << 16) | (data[at + 3] << 8) | data[at + 4])
        if size < 5 or at + size > n:
            return 0
        if kind == c'Z':
            return at + size if data[at + 5] == c'I' else 0
        if kind == c'D':
            rows[0] += 1
        elif kind not in (c'1', c'2', c'T', c't', c'n', c'C', c'I'):
            return 0
        at += size
    return 0
