from pgambassador.net.word cimport Word

cdef class Herald:
    cdef object directory
    cdef object users
    cdef dict known
    cdef int epoch
    cdef bytes spare
    cdef bint offers

    cdef tuple find(self, bytes key)
    cdef bytes nonce(self)
    cdef int look_again(self) except -1

cdef class Newcomer(Word):
    cdef readonly object sock
    cdef readonly str address
    cdef readonly bint watched
    # What it has said, as it came: its first words, and what followed the first answer.
    cdef bytes first
    # And what it has asked for before that.
    cdef readonly bytes asked
    cdef readonly bytes early
    # The server's part of the nonce, if it has been told it.
    cdef readonly bytes nonce
    cdef Herald herald
    cdef object sockets
    cdef int fd
    cdef bytes key
    cdef int epoch
    # What it has been told, and how the challenge ends.
    cdef readonly list ahead
    cdef bytes shown
    cdef bint ready
    # How much of that a login has said, and what it has said first if nothing was told.
    cdef int step
    cdef bytes request
    # What a right answer to the challenge is and is answered with; what follows that, if it is known by then, and what
    # of it the client has been told.
    cdef str user
    cdef tuple expected
    cdef bytes success
    cdef public object behind
    cdef readonly bytes greeted

    cpdef int look(self) except -1
    cdef int opened(self, Py_ssize_t n) except -1
    cdef int followed(self, Py_ssize_t n) except -1
    cdef int over(self) except -1
    cdef int tell(self, bytes data) except -1
    cdef bint told(self, frame, bytes data) except -1
    cdef bytes greet(self, frame)
    cdef int learn(self, frame, bytes data) except -1
