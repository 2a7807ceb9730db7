from pgambassador.routing.brevity cimport Brevity

cdef enum:
    NOT_A_BEGIN = 0
    UNSAID = 1
    READ_ONLY = 2
    READ_WRITE = 3

cdef class Verdict(Brevity):
    cdef readonly object decision
    # It only reads.
    cdef readonly bint harmless
    # A standby may answer it.
    cdef readonly bint read
    # One of several that share a write, if its text says so too.
    cdef readonly bint batchable
    # And their text a simple query.
    cdef readonly bint combines
    cdef readonly int begins
    # By START TRANSACTION, which has a tag of its own.
    cdef readonly bint starts
    cdef readonly bint makes_read_only
    # It ends a transaction.
    cdef readonly bint ends
    cdef readonly double max_lag
    # Seconds for which its answer may be given again; 0: never. Whether it may change rows that others see.
    cdef readonly double cache
    cdef readonly bint changes
    # Seconds that a hint lets it wait for a server connection; below zero: there is none.
    cdef readonly double wait_timeout
    # What it means depends on its literals.
    cdef readonly bint literal

cdef class Verdicts:
    cdef dict shapes
    cdef dict texts
    cdef object judge
    cdef Py_ssize_t size
    cdef readonly unsigned long long generation
    cdef readonly unsigned long long misses

    cdef Verdict find(self, const char *text, Py_ssize_t n)
    cdef Verdict learn(self, bytes text, Py_ssize_t size)
    cdef int keep(self, bint by_text, bytes key, Verdict verdict) except -1

cdef Verdict UNKNOWN

cdef Verdict together(Verdict begin, Verdict one)
cdef bint closes(int kind, Verdict whole) noexcept
