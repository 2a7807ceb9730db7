# cython: language_level=3, boundscheck=False, wraparound=False
"""What a client is about to ask, read before it goes anywhere: one part of its pipeline, and what is known of it.

1. A part is all up to its Sync, or a simple query. It is looked at when all of it is here; one that is long, or
   that asks for an answer before its end, counts as not known.
2. Of several statements in a part the first that is not known to read says what the part is. Behind one that begins a
   read-only transaction, or makes it read only, stand only reads, and behind one that ends it nothing. Behind a BEGIN
   that does not say it may stand what makes its transaction read only: whether that comes at once, and is executed, is
   left to who wants to know (`restriction_at`).
"""
from libc.string cimport memchr, memcmp

from pgambassador.net.lane cimport Lane
from pgambassador.net.parties cimport APART, BEFORE_SYNC, IN_QUERY, LOUD, QUIET, QUIET_AS_IT_IS, Statement
from pgambassador.net.preparing cimport NAME_MOST
from pgambassador.net.verdicts cimport UNKNOWN, Verdict, Verdicts, closes, together
from pgambassador.wire.framing cimport Scanner
from pgambassador.wire.replies cimport mentions_state

cdef enum:
    # Longer parts are not waited for.
    LOOK_MOST = 64 * 1024

cdef const char *NO_LIMIT = b"\0\0\0\0"
cdef bytes PARSED = b"1\0\0\0\4", BOUND = b"2\0\0\0\4", NO_DATA = b"n\0\0\0\4"
cdef bytes NO_PARAMETERS = b"t\0\0\0\6\0\0"


cdef class Sight(Requests):
    """The part of a session that looks ahead."""

    def __init__(self, Lane lane not None):
        Requests.__init__(self, lane)
        self.verdict = UNKNOWN
        self.written_at = -1

    cdef bint look(self, int kind) except -1:
        """Read the part that begins with the message in hand. False: more of it has to come first."""
        cdef Scanner scanner = self.scanner
        cdef const unsigned char *text = scanner.at + 5
        cdef Py_ssize_t n = scanner.have - 6
        self.verdict = UNKNOWN
        self.extent = 0
        self.brief = False
        self.tone = LOUD
        if self.attuned is not self.state:
            self.attune()
        if kind == c'P' or kind == c'B' or kind == c'D' or kind == c'E':
            return self.look_through()
        if kind != c'Q' or scanner.left or n < 0 or memchr(text, 0, n + 1) != text + n:
            return True
        self.verdict = self.verdicts.find(<const char *>text, n)
        self.extent = scanner.size if self.verdict.harmless else 0
        self.brief = self.verdict.batchable and not mentions_state(<const char *>text, n)
        self.tone = tone(self.verdict, text, n)
        self.manner = IN_QUERY
        return True

    cdef bint look_through(self) except -1:
        """The same, for the extended protocol up to its Sync."""
        cdef Scanner scanner = self.scanner
        cdef Verdicts verdicts = self.verdicts
        cdef const unsigned char *at = scanner.at
        cdef const unsigned char *end = scanner.data + scanner.end
        cdef const unsigned char *name
        cdef const unsigned char *text
        cdef const unsigned char *stop
        cdef Verdict whole = None, one, unnamed = None
        cdef Statement statement
        cdef bint brief = True, once = True, names = False, kept = False
        cdef bint bound = False, own = False
        cdef Py_ssize_t size
        cdef int kind, executions = 0
        while True:
            if end - at < 5:
                return at - scanner.at > LOOK_MOST
            kind = at[0]
            size = 1 + ((<Py_ssize_t>at[1] << 24) | (at[2] << 16) | (at[3] << 8) | at[4])
            if size < 5 or size > LOOK_MOST or at + size - scanner.at > LOOK_MOST:
                return True
            if end - at < size:
                return False
            stop = at + size
            one = None
            if kind == c'S':
                break
            if kind == c'P':
                text = behind(at + 5, stop)
                if text == NULL or memchr(text, 0, stop - text) == NULL:
                    return True
                size = <const unsigned char *>memchr(text, 0, stop - text) - text
                one = verdicts.find(<const char *>text, size)
                brief = brief and not mentions_state(<const char *>text, size)
                if text == at + 6:
                    self.tone = tone(one, text, size) if unnamed is None else LOUD
                    unnamed = one
                    if kept:
                        brief = once = False  # asked again, the one before would not be there
                else:
                    names = True
                    brief = False
            elif kind == c'B' or (kind == c'D' and size > 6 and at[5] == c'S'):
                name = behind(at + 5, stop) if kind == c'B' else at + 6
                text = behind(name, stop) if name != NULL else NULL
                if text == NULL:
                    return True
                bound = bound or kind == c'B'
                own = own or kind == c'B' and at[5] != 0
                if text - name > 1:
                    statement = self.statements.get((<const char *>name)[:min(text - name - 1, NAME_MOST)])
                    if statement is not None:
                        one = self.verdict_on(statement)
                        brief = brief and not statement.sets and self.as_before(statement)
                    elif not names:
                        return True
                elif unnamed is None:
                    if self.unnamed is None:
                        return True
                    size = len(self.unnamed)
                    if not self.unnamed.startswith(b"P") or self.unnamed[5] or b"\0" not in self.unnamed[6:]:
                        return True
                    text = <const unsigned char *><const char *>self.unnamed + 6
                    size = <const unsigned char *>memchr(text, 0, size - 6) - text
                    one = unnamed = verdicts.find(<const char *>text, size)
                    kept = True
                    brief = brief and not mentions_state(<const char *>text, size)
            elif kind == c'E':
                executions += 1
                own = own or not bound or at[5] != 0
                # A number of rows: its portal stays open.
                if size < 10 or memcmp(stop - 4, NO_LIMIT, 4) != 0:
                    brief = once = False
            elif kind != c'D':
                if not closes(kind, whole):
                    return True
            else:
                own = own or not bound or size > 6 and at[6] != 0
            if one is not None:
                if whole is not None and whole is not one and (whole.begins or whole.makes_read_only or whole.ends):
                    whole = together(whole, one)
                    if whole is None:
                        return True  # what follows it may do more than that
                if whole is None or whole.harmless:
                    whole = one
                once = once and one.harmless
                brief = brief and one.batchable
                if not (one.read or one.harmless or one.begins or one.makes_read_only or one.ends):
                    self.verdict = one
                    return True
            at = stop
        if whole is None:
            return True
        self.verdict = whole
        self.extent = stop - scanner.at if once else 0
        self.brief = brief and once and executions == 1
        # Portals live as long as their transaction, and have their names there.
        self.manner = APART if own else BEFORE_SYNC
        return True

    cdef tuple execution_at(self, const unsigned char *at):
        """How long that is which executes one statement without parameters or rows: its name, its Parse (None: it is
        known), its text, and what a server answers before the tag. None if anything about it is not as usual.

        It stands in a part that was looked through to its end."""
        cdef const unsigned char *start = at
        cdef const unsigned char *stop
        cdef const unsigned char *rest
        cdef bytes name = None, parse = None, text = None
        cdef bytes answers = b""
        cdef bint bound = False
        while True:
            stop = behind_message(at)
            if at[0] == c'P' and at == start:
                rest = behind(at + 5, stop)
                name = (<const char *>at)[5:min(rest - at - 1, 5 + NAME_MOST)]
                text = (<const char *>rest)[:behind(rest, stop) - rest - 1]
                parse = (<const char *>at)[:stop - at]
                if name in self.statements or not takes_nothing(parse, rest - at, text):
                    return None
                answers = PARSED
            elif at[0] == c'B' and not bound and at[5] == 0:
                rest = behind(at + 6, stop)
                if rest == NULL or not binds_nothing(rest, stop):
                    return None
                known = (<const char *>at)[6:min(rest - at - 1, 6 + NAME_MOST)]
                if name is None:
                    name = known
                    text = self.known_text(name)
                if text is None or name != known:
                    return None
                bound = True
                answers += BOUND
            elif at[0] == c'D' and at[5] == c'S' and name is not None:
                if behind(at + 6, stop) != stop or name != (<const char *>at)[6:min(stop - at - 1, 6 + NAME_MOST)]:
                    return None
                answers += NO_PARAMETERS + NO_DATA
            elif at[0] == c'D' and at[5] == c'P' and bound and stop - at == 7 and at[6] == 0:
                answers += NO_DATA
            elif at[0] == c'E' and bound and stop - at == 10 and at[5] == 0:  # a number of rows limits nothing here
                return stop - start, name, parse, text, answers
            else:
                return None
            at = stop

    cdef Verdict restriction_at(self, const unsigned char *at):
        """What is known of the one that is executed there, if it makes its transaction read only; else None."""
        cdef Verdict found
        cdef bytes text
        execution = self.execution_at(at)
        if execution is None:
            return None
        text = execution[3]
        found = self.verdicts.find(text, len(text))
        return found if found.makes_read_only else None

    cdef bytes known_text(self, bytes name):
        """The text of a statement that was parsed in an earlier part; None if it takes parameters, or is not known."""
        cdef Statement statement
        cdef bytes text
        if name:
            statement = self.statements.get(name)
            if statement is None or not takes_nothing(statement.frame, 6 + len(statement.name), statement.text):
                return None
            return statement.text
        if self.unnamed is None:
            return None
        text = self.unnamed[6:].partition(b"\0")[0]
        return text if takes_nothing(self.unnamed, 6, text) else None

    cdef Verdict verdict_on(self, Statement statement):
        """What is remembered with the statement, if it is still true in this pool."""
        cdef Verdicts verdicts = self.verdicts
        if statement.judged_by is not verdicts or statement.generation != verdicts.generation:
            statement.verdict = verdicts.find(<const char *>statement.text, len(statement.text))
            statement.judged_by = verdicts
            statement.generation = verdicts.generation
        return <Verdict>statement.verdict

    cdef bint as_before(self, Statement statement) except -1:
        """Whether nothing has to be asked before it is executed."""
        return statement.shape is None or statement.age == self.policy.statements.age

    cdef int attune(self) except -1:
        """Find out which verdicts hold for the session as it is now."""
        circle = self.policy.routes.circle(self)
        self.attuned = self.state
        self.verdicts = circle.verdicts
        self.stays = circle.route == "primary"
        return 0


cdef int tone(Verdict verdict, const unsigned char *text, Py_ssize_t n) noexcept:
    """Whether a server warns of a text when it reads it, as it may of strings with backslashes; or finds hints in it,
    which it would look for before the first of several."""
    cdef Py_ssize_t i
    cdef int found = QUIET if verdict.combines else LOUD
    for i in range(n if found else 0):
        if text[i] == c'\\' or (text[i] == c'+' and i > 1 and text[i - 1] == c'*' and text[i - 2] == c'/'):
            return LOUD
        if text[i] >= 128:
            found = QUIET_AS_IT_IS
    return found


cdef const unsigned char *behind(const unsigned char *start, const unsigned char *stop) noexcept:
    """Where the string that begins at `start` ends, behind its zero byte; NULL if it does not."""
    cdef const unsigned char *zero = NULL
    if start < stop:
        zero = <const unsigned char *>memchr(start, 0, stop - start)
    return zero + 1 if zero != NULL else NULL


cdef const unsigned char *behind_message(const unsigned char *at) noexcept:
    """Where a message ends that is all here."""
    return at + 1 + ((<Py_ssize_t>at[1] << 24) | (at[2] << 16) | (at[3] << 8) | at[4])


cdef bint takes_nothing(bytes parse, Py_ssize_t at, bytes text) noexcept:
    """Whether a Parse whose text stands there names no types, and its text nothing that needs something of us."""
    return (
        len(parse) == at + len(text) + 3
        and memcmp(<const char *>parse + len(parse) - 3, NO_LIMIT, 3) == 0
        and not mentions_state(<const char *>text, len(text))
    )


cdef bint binds_nothing(const unsigned char *at, const unsigned char *stop) noexcept:
    """Whether a Bind, behind its names, has no parameters, and at most one format, text or binary, for all of them and
    for all columns."""
    cdef int field
    for field in range(3):
        if stop - at < 2 or at[0] != 0 or at[1] > (field != 1):
            return False
        if at[1]:
            at += 2
            if stop - at < 2 or at[0] != 0 or at[1] > 1:
                return False
        at += 2
    return at == stop
