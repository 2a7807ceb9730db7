from pgambassador.net.carrier cimport Carrier
from pgambassador.net.channel cimport Channel
from pgambassador.net.parties cimport Client, Statement
from pgambassador.net.store cimport Store

cdef class Backend(Carrier):
    cdef readonly object link
    cdef public object state
    cdef public object marked_by
    cdef public object defaults
    cdef public bint tied
    cdef readonly double opened
    cdef public double expires
    cdef readonly double freed_at
    cdef readonly bint parked
    cdef readonly int cancelling
    cdef bint counted
    # What its client has asked first, as far as that was sent, and how much either side had been sent before.
    cdef Store memo
    cdef unsigned long long told_before
    cdef unsigned long long delivered_before
    # It was sent data of a COPY behind that, which may not have begun yet.
    cdef bint fed
    # What its client has set for good is still to be asked.
    cdef bint overdue
    # How many entries the ledger had seen when none of them might take statements away.
    cdef unsigned long long harmless
    # Which entry may, that was found last.
    cdef unsigned long long forgetting

    cdef int release(self) except -1
    cdef int join(self, Client client) except -1
    cdef int remember(self, Client client) except -1
    cdef bint note_down(self, const unsigned char *data, Py_ssize_t n) except -1
    cdef int survey(self, Client session) except -1
    cdef int drop(self, Statement statement, Client client) except -1
    cdef bint knows(self, Statement statement) except -1
    cdef bint touch(self, Statement statement) except -1
    cdef int teach(self, Statement statement, Client client) except -1
    cdef int inquire(self, Statement statement, Client client) except -1
    cpdef adopt(self, Statement statement, Client client)
