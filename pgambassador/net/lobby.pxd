from pgambassador.net.tollgate cimport Tollgate

cdef class Lobby(Tollgate):
    # Refused, in the extended protocol: up to its Sync.
    cdef bint skipping

    cdef int unlinked(self, int kind) except -1
    cdef bint said_goodbye(self) except -1
    cdef int refuse_one(self, int kind) except -1
