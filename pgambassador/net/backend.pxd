from pgambassador.net.channel cimport Channel
from pgambassador.protocol.ledger cimport Ledger
from pgambassador.wire.framing cimport Scanner

cdef enum:
    SHARED = 128 * 1024

cdef char shared[SHARED]

cdef double clock() noexcept

cdef class Statement:
    cdef object __weakref__
    cdef readonly bytes name
    cdef readonly bytes frame
    cdef readonly bytes text
    cdef readonly bint sets

cdef class Client:
    cdef readonly Channel channel
    cdef readonly Backend backend
    cdef readonly dict statements
    cdef public object state
    cdef bytes unnamed

    cdef bint mid_message(self) noexcept
    cdef int settled(
        self, int kind, object note, double started, double now, unsigned long long rows, object sqlstate
    ) except -1
    cdef int served(self) except -1
    cdef bint may_read(self) noexcept
    cdef int rejoin(self) except -1
    cdef int switched(self) except -1
    cdef int orphaned(self, str reason, bint told) except -1

cdef class Home:
    cdef readonly unsigned long long transactions
    cdef readonly unsigned long long bytes_sent
    cdef public bint sticky
    cdef public Py_ssize_t statement_limit
    cdef public object policy
    cdef public Py_ssize_t high_water

    cdef int freed(self, Backend backend) except -1
    cdef int gone(self, Backend backend, str reason) except -1

cdef class Backend:
    cdef readonly Channel channel
    cdef readonly Ledger ledger
    cdef readonly Client session
    cdef readonly Home home
    cdef readonly object link
    cdef readonly dict parameters
    cdef readonly dict prepared
    cdef public object state
    cdef public object marked_by
    cdef public object defaults
    cdef public bint pinned
    cdef public bint retiring
    cdef readonly double opened
    cdef public double expires
    cdef readonly double freed_at
    cdef readonly bint copying
    cdef readonly bint doubtful
    cdef readonly bint spoiled
    cdef readonly bint unsynced
    cdef readonly bint resetting
    cdef readonly bint parked
    cdef readonly bint closed
    cdef readonly int cancelling
    cdef object loop
    cdef Scanner scanner
    cdef Client unnamed_of
    cdef Client reader
    cdef unsigned char status
    cdef bint copy_syncs
    cdef bint failed
    cdef bint counted
    cdef bint dying
    cdef readonly bint switching
    cdef bint told
    cdef unsigned long long rows
    cdef object sqlstate
    cdef object done
    cdef object refused

    cdef int take(self, Py_ssize_t n) except -1
    cdef int message(self, int kind, double now) except -1
    cdef int parameter(self, int verdict) except -1
    cdef int error(self, int verdict, double now) except -1
    cdef int finished(self, int kind, double now) except -1
    cdef int tag(self) except -1
    cdef int pay(self) except -1
    cdef int undo(self, list dropped) except -1
    cdef int settle_down(self) except -1
    cdef bint mid_reply(self, Client client) noexcept
    cdef bint ready(self) noexcept
    cdef int release(self) except -1
    cdef int join(self, Client client) except -1
    cdef int drop(self, Statement statement, Client client) except -1
    cdef int prepare(self, Statement statement, Client client) except -1
    cpdef adopt(self, Statement statement, Client client)
    cdef int lose(self, str reason) except -1
