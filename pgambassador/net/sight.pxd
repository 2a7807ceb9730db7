from pgambassador.net.parties cimport Statement
from pgambassador.net.requests cimport Requests
from pgambassador.net.verdicts cimport Verdict, Verdicts

cdef class Sight(Requests):
    # What is known of the part that was looked at last, how long it is (0: it may not be sent twice), and whether
    # it may share a server connection.
    cdef Verdict verdict
    cdef Py_ssize_t extent
    cdef bint brief
    # In which state of the session it was asked what holds for its statements, and the answer.
    cdef object attuned
    cdef Verdicts verdicts
    cdef bint stays
    cdef readonly double written_at

    cdef bint look(self, int kind) except -1
    cdef bint look_through(self) except -1
    cdef tuple execution_at(self, const unsigned char *at)
    cdef Verdict restriction_at(self, const unsigned char *at)
    cdef bytes known_text(self, bytes name)
    cdef Verdict verdict_on(self, Statement statement)
    cdef bint as_before(self, Statement statement) except -1
    cdef int attune(self) except -1

cdef const unsigned char *behind(const unsigned char *start, const unsigned char *stop) noexcept
cdef const unsigned char *behind_message(const unsigned char *at) noexcept
