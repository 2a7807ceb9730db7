cdef enum:
    # Bytes that a server keeps of what it has to say, in all versions.
    KEPT = 8192

cdef class Brevity:
    # Seconds that servers take for it, lately; below zero: not known. And how many of all take long.
    cdef readonly double seconds
    cdef readonly double long_ones
    # How many take long, but for those that fail where others share their transaction.
    cdef double stalls
    # Bytes that it has to say.
    cdef readonly double volume
    # So many measures that tell less do not count.
    cdef int trust
    # How many trials in a row were quick, how many statements lie between two, and how many are left to the next.
    cdef int quick
    cdef int pause
    cdef int left

    cpdef int took(self, double seconds, bint apart, bint alarms) noexcept
    cpdef int lasts(self) noexcept
    cpdef int said(self, Py_ssize_t size) noexcept
    cpdef bint brief(self) noexcept
    cpdef bint steady(self) noexcept
    cpdef bint volunteers(self) noexcept
    cdef int tried(self, double seconds, bint alarms) noexcept
