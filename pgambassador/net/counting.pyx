# cython: language_level=3, boundscheck=False, wraparound=False
"""What a lane adds up: statements, their time, and that of waiting for a server connection."""


cdef class Counting(Home):
    """`bounds`: upper edges of the histograms' buckets in seconds; at most 32."""

    def __init__(self, tuple bounds not None):
        cdef Py_ssize_t i
        if len(bounds) > 32:
            raise ValueError("at most 32 buckets")
        self.bounds = len(bounds)
        for i in range(self.bounds):
            self.bound[i] = bounds[i]

    cdef int count_query(self, double seconds, bint failed) except -1:
        cdef Py_ssize_t i = 0
        self.queries += 1
        self.errors += failed
        self.query_seconds += seconds
        while i < self.bounds and seconds > self.bound[i]:
            i += 1
        self.query_counts[i] += 1
        return 0

    cdef int count_wait(self, double seconds) except -1:
        cdef Py_ssize_t i = 0
        self.wait_seconds += seconds
        while i < self.bounds and seconds > self.bound[i]:
            i += 1
        self.wait_counts[i] += 1
        return 0

    def enters(self):
        self.sessions += 1

    def leaves(self):
        self.sessions -= 1

    @property
    def query_histogram(self):
        return tuple([self.query_counts[i] for i in range(self.bounds + 1)])

    @property
    def wait_histogram(self):
        return tuple([self.wait_counts[i] for i in range(self.bounds + 1)])
