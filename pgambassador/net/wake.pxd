from pgambassador.net.backend cimport Backend
from pgambassador.net.lobby cimport Lobby

cdef class Wake(Lobby):
    # How long to wait before what is repeated is asked again.
    cdef double pause

    cdef list left_by(self, Backend backend)
    cdef bytes all_of_it(self, Backend backend)
    cdef int roll_back(self) except -1
    cdef int await_rollback(self, int kind) except -1
    cdef int await_prepared(self, int kind) except -1
    cdef int end_lost(self, int kind, str how) except -1
