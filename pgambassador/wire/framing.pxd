cdef enum:
    MORE = -1

cdef class Scanner:
    cdef unsigned int needs[256]
    cdef Py_ssize_t limit
    cdef Py_ssize_t whole_limit
    cdef bytearray kept
    cdef bytearray anchor
    cdef Py_ssize_t wanted
    cdef Py_ssize_t asked
    cdef const unsigned char *data
    cdef Py_ssize_t pos
    cdef Py_ssize_t end
    # The chunk that next() has just delivered.
    cdef const unsigned char *at
    cdef Py_ssize_t have
    cdef Py_ssize_t size
    cdef Py_ssize_t left

    cdef int begin(self, const unsigned char *data, Py_ssize_t n) except -1
    cdef int next(self) except -2
    cdef void back(self) noexcept
    cdef int ask(self, Py_ssize_t n) except -1
    cdef int finish(self) except -1
    cdef int prepend(self, bytes data) except -1
    cdef int append(self, const unsigned char *data, Py_ssize_t n) except -1
