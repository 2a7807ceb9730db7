from pgambassador.net.errands cimport Errands

cdef class Recall(Errands):
    # Whose answers may be given to it (pool, user, settings), as long as it is in the state in which it was attuned.
    cdef tuple whose
    # What it asks next, if the answer may be kept, and the Draft of that which is being answered.
    cdef object sought
    cdef object draft
    # What it may have written since its server connection owed it nothing.
    cdef object touched
    # It is being answered from what is kept.
    cdef readonly bint recalled

    cdef bint recall(self) except -1
    cdef tuple asks(self)
    cdef int answer_with(self, object answer, tuple asked) except -1
    cdef int notes(self, int kind) except -1
    cdef int listen(self, object backend) except -1
    cdef int keep(self) except -1
    cdef int lets_go(self) except -1
