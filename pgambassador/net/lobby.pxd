from pgambassador.net.tollgate cimport Tollgate

cdef class Lobby(Tollgate):
    # Refused, in the extended protocol: up to its Sync.
    cdef bint skipping

    cdef int unlinked(self, int kind) except -1
    cdef bint puts_off(self, int kind) except -1
    cdef bint puts_off_part(self) except -1
    cdef int heed_restriction(self, const unsigned char *at) except -1
    cdef int promise(self, bytes text, bytes before, bytes after) except -1
    cdef bint said_goodbye(self) except -1
    cdef int refuse_one(self, int kind) except -1
