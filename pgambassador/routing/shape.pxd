cdef Py_ssize_t shape(
    const unsigned char *text, Py_ssize_t n, unsigned char *out, Py_ssize_t room
) noexcept nogil
cdef bint names_fit(const unsigned char *text, Py_ssize_t n) noexcept nogil
