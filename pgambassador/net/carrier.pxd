from pgambassador.net.answers cimport Answers
from pgambassador.net.parties cimport Client

cdef class Carrier(Answers):
    cdef readonly bint spoiled
    cdef readonly bint unsynced
    cdef public bint curious
    # Its client has executed nothing since it joined, and another one was here before.
    cdef bint unfamiliar
    cdef Client last
    # When the last statement here had its answer, and when those who share it came.
    cdef double answered_at
    cdef double boarded
    cdef double departed
    # When it was noticed that nobody awaits what is left of those who have shared it.
    cdef double forsaken
    # Who is speaking shares the Sync of who speaks next.
    cdef bint joining
    # Who is speaking says one of the statements of a simple query.
    cdef bint quoting
    # The Parse of the unnamed statement there, if it is of one who shares this transaction (empty: of nobody yet), and
    # how many have used it.
    cdef bytes parsed
    cdef Py_ssize_t uses
    # How many entries the ledger had seen when the last statement was sent that the server did not know.
    cdef unsigned long long taught

    cdef int carry(self, list clients, double now) except -1
    cdef Py_ssize_t company(self, list clients, Py_ssize_t start, double most) except -1
    cdef bint just_parsed(self, bytes frame) except -1
    cdef int close_nothing(self, Client client, bytes frame, bytes before, double now) except -1
    cdef int land(self) except -1
    cdef int dismiss(self, list landing) except -1
    cdef Py_ssize_t awaited(self) noexcept
    cdef Py_ssize_t ending(self, Py_ssize_t i) noexcept
    cdef bint shared(self, Py_ssize_t ending) noexcept
    cdef bint owes(self, Py_ssize_t size) noexcept
    cdef bint may_lack(self, Client client, bytes name) except -1
    cdef int clear_behind(self, Client first) except -1
    cdef bint leave(self, Client client) except -1
