from pgambassador.net.backend cimport Backend
from pgambassador.net.preparing cimport Preparing

# Messages that may be under way, and names that they may change.
cdef Py_ssize_t OWED_MOST

cdef class Requests(Preparing):
    # So much is owed to it that it waits until that is little.
    cdef bint full

    cdef int linked(self, int kind) except -1
    cdef bint filled(self, Backend backend) except -1
    cdef int query(self, Backend backend) except -1
    cdef int quote(self, Backend backend) except -1
    cdef int execute(self, Backend backend) except -1
    cdef int lead_back(self, Backend backend, bytes text, list change) except -1
    cdef int follow(self, Backend backend, list change) except -1
    cdef int clear_up(self, Backend backend) except -1
    cdef int close_statement(self, Backend backend) except -1
