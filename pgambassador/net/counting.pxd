from pgambassador.net.parties cimport Home

cdef class Counting(Home):
    cdef readonly Py_ssize_t sessions
    cdef readonly unsigned long long batches
    cdef readonly unsigned long long batched
    cdef readonly unsigned long long repeated
    cdef readonly unsigned long long recalled
    cdef readonly unsigned long long queries
    cdef readonly unsigned long long errors
    cdef readonly unsigned long long bytes_received
    cdef readonly double query_seconds
    cdef readonly double wait_seconds
    cdef Py_ssize_t bounds
    cdef double bound[32]
    cdef unsigned long long query_counts[33]
    cdef unsigned long long wait_counts[33]

    cdef int count_query(self, double seconds, bint failed) except -1
    cdef int count_wait(self, double seconds) except -1
