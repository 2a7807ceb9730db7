from pgambassador.net.backend cimport Backend, Client, Statement
from pgambassador.net.lane cimport Lane, Waiter
from pgambassador.wire.framing cimport Scanner

cdef class Session(Waiter):
    cdef readonly Lane lane
    cdef readonly object policy
    cdef public object facts
    cdef readonly bint closed
    cdef readonly bint leaving
    cdef readonly bint draining
    cdef readonly bint switching
    cdef object loop
    cdef Scanner scanner
    cdef bytes refusal
    cdef bytes litter
    cdef bint skipping
    cdef bint passing
    cdef double now
    cdef double waited
    cdef unsigned long long received_mark
    cdef unsigned long long sent_mark
    cdef object bound
    cdef dict portals
    cdef const unsigned char *run
    cdef Py_ssize_t length

    cdef int take(self, Py_ssize_t n) except -1
    cdef int process(self) except -1
    cdef int unlinked(self, int kind) except -1
    cdef int linked(self, int kind) except -1
    cdef int acquire(self) except -1
    cdef int query(self, Backend backend) except -1
    cdef int parse(self, Backend backend) except -1
    cdef bint just_prepared(self, Backend backend, bytes name) except -1
    cdef int bind(self, Backend backend) except -1
    cdef int bring_unnamed(self, Backend backend) except -1
    cdef int describe(self, Backend backend) except -1
    cdef int close_statement(self, Backend backend) except -1
    cdef int forward(self) except -1
    cdef int cut(self, Backend backend) except -1
    cdef Py_ssize_t name_end(self, Py_ssize_t start) except -2
    cdef bint said_goodbye(self) except -1
    cdef int refuse_one(self, int kind) except -1
    cdef int terminate(self) except -1
