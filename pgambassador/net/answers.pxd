from pgambassador.net.channel cimport Channel
from pgambassador.net.parties cimport Client, Home
from pgambassador.protocol.ledger cimport Ledger
from pgambassador.wire.framing cimport Scanner

cdef enum:
    SHARED = 128 * 1024

cdef char shared[SHARED]
cdef object SURVEY

cdef class Answers:
    cdef readonly Channel channel
    cdef readonly Ledger ledger
    cdef readonly Client session
    cdef readonly Home home
    cdef readonly dict parameters
    cdef readonly dict prepared
    cdef public bint pinned
    cdef public bint retiring
    cdef readonly bint copying
    cdef readonly bint doubtful
    cdef readonly bint resetting
    cdef readonly bint closed
    # Entries at the head of the ledger that bring the connection into its client's state.
    cdef readonly Py_ssize_t fence
    cdef bint unsettled
    cdef object loop
    cdef Scanner scanner
    cdef Client unnamed_of
    cdef Client reader
    cdef unsigned char status
    cdef bint copy_syncs
    cdef bint failed
    cdef bint dying
    cdef bint told
    cdef unsigned long long rows
    cdef object sqlstate
    cdef object done
    cdef object refused

    # A cancel request that is meant for what its client has sent behind a question of ours.
    cdef bint aimed

    # An error that its reader gets instead of the server's.
    cdef bytes instead

    # Rows of the answer to a question of ours.
    cdef list rows_asked

    cdef bint ready(self) noexcept
    cdef int settle_down(self) except -1
    cdef int lose(self, str reason) except -1
    cdef int take(self, Py_ssize_t n) except -1
    cdef int settle_news(self) except -1
    cdef bint wants_all(self, int kind) noexcept
    cdef int message(self, int kind, double now) except -1
    cdef int sender(self, unsigned char *at) except -1
    cdef bint parameter(self) except -1
    cdef int error(self, int verdict, double now) except -1
    cdef int fenced_off(self) except -1
    cdef int finished(self, int kind, double now) except -1
    cdef int tag(self) except -1
    cdef int pay(self) except -1
    cdef int undo(self, list dropped) except -1
    cdef bint mid_reply(self, Client client) noexcept
