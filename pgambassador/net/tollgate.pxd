from pgambassador.net.backend cimport Backend
from pgambassador.net.recall cimport Recall

cdef class Tollgate(Recall):
    # Who is asked, where anything concerns the session.
    cdef public object guard
    # It waits because its guard has said so.
    cdef readonly bint detained
    # What it waits with has been judged.
    cdef bint absolved

    cdef bint lets_by(self, int kind) except -1
    cdef bint may_begin(self, Backend backend, int kind) except -1
    cdef bytes words(self, int kind)
    cdef int meet_fate(self, Backend backend) except -1
