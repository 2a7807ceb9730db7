cdef Py_ssize_t held
cdef Py_ssize_t tight

cdef int weigh(Py_ssize_t change) except -1
