from pgambassador.net.lane cimport Lane

cdef class Writes:
    cdef public double at

cdef class Choice:
    cdef public tuple lanes
    cdef public Writes writes
    cdef public double max_lag
    cdef public bint everybody
    cdef public bint eventual
    cdef public bint strict
    cdef public object policy
    cdef public object choose
    cdef readonly unsigned long long stale
    cdef readonly unsigned long long none
    cdef Py_ssize_t turn

    cdef Lane pick(self, double written_at, double now, double max_lag)
    cdef bint fresh(self, Lane lane, double written_at, double now, double max_lag) noexcept
