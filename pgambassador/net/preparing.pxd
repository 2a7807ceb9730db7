from pgambassador.net.backend cimport Backend
from pgambassador.net.lane cimport Lane, Waiter
from pgambassador.net.parties cimport Statement
from pgambassador.wire.framing cimport Scanner

# NAMEDATALEN, without its zero byte.
cdef Py_ssize_t NAME_MOST

cdef class Preparing(Waiter):
    cdef readonly Lane lane
    cdef readonly object policy
    cdef Scanner scanner
    cdef dict litter
    cdef dict lent
    cdef bint passing
    cdef double now
    # The server connection that has its unnamed statement.
    cdef object unnamed_at
    cdef object bound
    cdef readonly dict portals
    # Names of statements that messages under way have given or taken away, and in which part of the pipeline.
    cdef dict changing
    # What those of the first part meant before (None: nothing), for the case that it is asked again.
    cdef dict former
    cdef Py_ssize_t part
    cdef Py_ssize_t first_part
    # In which part of the pipeline something was found that may take statements away.
    cdef Py_ssize_t forgetting
    # What has been collected of this read and goes on as it came.
    cdef const unsigned char *run
    cdef Py_ssize_t length

    cdef int parse(self, Backend backend) except -1
    cdef int change(self, bytes name) except -1
    cdef bint certain(self, Backend backend, bytes name, bint may_end) except -1
    cdef bint certain_of_unnamed(self, Backend backend) except -1
    cdef bint stall(self) except -1
    cdef int bind(self, Backend backend) except -1
    cdef bint as_told(self, Backend backend, Statement statement, int kind) except -1
    cdef int make_sure(self, Backend backend, Statement statement) except -1
    cdef int bring_unnamed(self, Backend backend) except -1
    cdef int describe(self, Backend backend) except -1
    cdef bint lend(self, Backend backend, bytes text) except -1
    cdef int forward(self) except -1
    cdef int cut(self, Backend backend) except -1
    cdef Py_ssize_t name_end(self, Py_ssize_t start) noexcept
    cdef bytes name_at(self, Py_ssize_t start, Py_ssize_t end)
