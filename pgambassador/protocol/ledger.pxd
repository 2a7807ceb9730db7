cdef enum Action:
    FORWARD = 0
    SWALLOW = 1
    FAKE = 2

cdef enum Verdict:
    UNOWED = 3
    BROKEN = 4

cdef struct Entry:
    unsigned char kind
    unsigned char action
    void *owner
    void *note
    void *name
    double started

cdef class Ledger:
    cdef Entry *ring
    cdef Py_ssize_t mask
    cdef Py_ssize_t first
    cdef readonly Py_ssize_t count
    # How many entries there have ever been.
    cdef readonly unsigned long long total
    cdef readonly bint skipping

    cdef Entry *head(self) noexcept
    cdef int put(self, int kind, int action, object owner, object note, object name, double started) except -1
    cdef int drop_head(self) except -1
    cdef int verdict(self, unsigned char kind) noexcept
    cdef bint completes(self, unsigned char kind) noexcept
    cdef int grow(self) except -1
    cpdef push(self, int kind, int action, object owner, object note=*, object name=*, double started=*)
    cpdef tuple due(self)
    cpdef int receive(self, int kind) except -1
    cpdef list fail(self)
    cpdef bint copy_in(self)
