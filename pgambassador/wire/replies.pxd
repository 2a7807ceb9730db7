cdef struct Command:
    unsigned long long rows
    bint concerns_session
    # It may have ended its transaction.
    bint ends

cdef Command command(const unsigned char *tag, Py_ssize_t n) noexcept

cdef struct Failure:
    const unsigned char *sqlstate
    bint fatal

cdef bint mentions_state(const char *text, Py_ssize_t n) noexcept

cdef Failure failure(const unsigned char *fields, Py_ssize_t n) noexcept
cdef bint begins_like_set(const unsigned char *message, Py_ssize_t n) noexcept
