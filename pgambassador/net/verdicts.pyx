# cython: language_level=3, boundscheck=False, wraparound=False
"""What is known of statements that have been seen before: where they may run, and how long they take.

1. A verdict is the policy's. It is found again by the statement's shape, or by its text where literals matter.
2. What is remembered is bounded in bytes: beyond that all is forgotten, and learnt anew.
3. What `combines` is one statement that begins and ends where its text does, whatever stands before and behind it and
   whatever is set, and of which the server says nothing before it executes it.
"""
from pgambassador.routing.shape cimport names_fit, shape

cdef enum:
    # Longer texts are not looked into.
    LONGEST = 10 * 1024
    REMEMBERED = 2 * 1024 * 1024
    # What an entry costs beside its key.
    OVERHEAD = 400

cdef unsigned char room[LONGEST]
cdef dict BEGINS = {"": NOT_A_BEGIN, "unsaid": UNSAID, "read only": READ_ONLY, "read write": READ_WRITE}


cdef class Verdict(Brevity):
    """`decision` is a `routing.decision.Decision`, or None: not known, and so nothing that a standby may have."""

    def __init__(self, decision=None):
        self.decision = decision
        self.max_lag = self.wait_timeout = -1
        self.changes = True
        if decision is None:
            return
        self.changes = len(decision.writes) > 0
        if decision.cache is not None:
            self.cache = decision.cache
        self.harmless = decision.kind == "read"
        self.read = decision.target == "replica" and not decision.begins or self.harmless and decision.target == "any"
        self.batchable = decision.batchable
        self.begins = BEGINS[decision.begins]
        self.starts = decision.starts
        if self.begins == READ_ONLY and decision.target == "primary":
            self.begins = READ_WRITE  # a hint or a rule wants it there
        self.makes_read_only = decision.makes_read_only and decision.target != "primary"
        self.ends = decision.ends
        self.literal = decision.literal
        if decision.max_lag is not None:
            self.max_lag = decision.max_lag
        if decision.wait_timeout is not None:
            self.wait_timeout = decision.wait_timeout

    def refuted(self):
        """A standby has refused it although it seemed to read: it goes to the primary from now on."""
        self.read = self.batchable = self.combines = self.harmless = False
        self.changes = True
        self.cache = 0

    def __repr__(self):
        return f"<Verdict {'read' if self.read else 'primary'} {self.seconds * 1e3:.3f} ms>"


UNKNOWN = Verdict()


cdef Verdict together(Verdict begin, Verdict one):
    """Of a part in which this one stands behind what begins a transaction, makes it read only or ends it; None: it may
    do anything. Behind a BEGIN what makes its transaction read only says so, if it is executed."""
    cdef Verdict found
    if begin.begins != UNSAID or not one.makes_read_only:
        return begin if one.harmless and (begin.makes_read_only or begin.begins == READ_ONLY) else None
    found = Verdict()
    found.begins = UNSAID
    found.makes_read_only = True
    found.max_lag = one.max_lag if one.max_lag >= 0 else begin.max_lag
    found.wait_timeout = one.wait_timeout if one.wait_timeout >= 0 else begin.wait_timeout
    return found


cdef bint closes(int kind, Verdict whole) noexcept:
    """Whether a message may be a Close behind a BEGIN, which `Lobby` answers."""
    return kind == c'C' and whole is not None and whole.begins == UNSAID


cdef class Verdicts:
    """`judge(text)` gives the Verdict on a text that is not remembered."""

    def __init__(self, judge):
        self.judge = judge
        self.clear()

    def clear(self):
        """All verdicts were given on what is not true any more."""
        self.shapes = {}
        self.texts = {}
        self.size = 0
        self.generation += 1

    cdef Verdict find(self, const char *text, Py_ssize_t n):
        cdef Verdict found
        cdef bytes key, whole
        cdef Py_ssize_t size
        if n > LONGEST:
            return UNKNOWN
        size = shape(<const unsigned char *>text, n, room, LONGEST)
        whole = None
        if size >= 0:
            key = (<const char *>room)[:size]
            found = <Verdict>self.shapes.get(key)
            if found is None:
                whole = text[:n]
                found = self.learn(whole, size)
                self.keep(False, key, found)
                if found.literal:
                    self.keep(True, whole, found)
                return found
            if not found.literal:
                return found
        whole = text[:n]
        found = <Verdict>self.texts.get(whole)
        if found is None:
            found = self.learn(whole, size)
            self.keep(True, whole, found)
        return found

    cdef Verdict learn(self, bytes text, Py_ssize_t size):
        """`size`: of its shape, which is in the room; -1 if it has none."""
        cdef bint fits = size >= 0 and names_fit(room, size)
        cdef Verdict found = <Verdict?>self.judge(text)
        self.misses += 1
        found.combines = fits and found.batchable
        return found

    cdef int keep(self, bint by_text, bytes key, Verdict verdict) except -1:
        if self.size + len(key) + OVERHEAD > REMEMBERED:
            self.clear()
        self.size += len(key) + OVERHEAD
        if by_text:
            self.texts[key] = verdict
        else:
            self.shapes[key] = verdict
        return 0

    def of(self, bytes text not None):
        """The Verdict on a text."""
        return self.find(<const char *>text, len(text))

    def __len__(self):
        return len(self.shapes) + len(self.texts)
