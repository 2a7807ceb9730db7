from pgambassador.net.backend cimport Backend
from pgambassador.net.preparing cimport Preparing

cdef class Requests(Preparing):
    cdef int linked(self, int kind) except -1
    cdef int query(self, Backend backend) except -1
    cdef int execute(self, Backend backend) except -1
    cdef int lead_back(self, Backend backend, bytes text, list change) except -1
    cdef int follow(self, Backend backend, list change) except -1
    cdef int clear_up(self, Backend backend) except -1
    cdef int close_statement(self, Backend backend) except -1
