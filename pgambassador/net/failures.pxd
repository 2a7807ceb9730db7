from pgambassador.net.channel cimport Channel
from pgambassador.net.parties cimport Client, Home, Statement
from pgambassador.protocol.ledger cimport Ledger
from pgambassador.wire.framing cimport Scanner

# The note of a question of ours about the session's settings.
cdef object SURVEY
# The note of a message that shall fail as one of a statement whose rows have changed.
cdef Statement CHANGED
cdef bytes READY_IDLE
cdef bytes BETWEEN
# In what state the server's statement is, beside None: ready.
cdef object ASKED
cdef object CHANGED_ROWS
cdef object STALE

cdef class Failures:
    cdef readonly Channel channel
    cdef readonly Ledger ledger
    cdef readonly Client session
    cdef readonly Home home
    # What the server knows: None, or why it cannot be executed as it is.
    cdef readonly dict prepared
    cdef public bint pinned
    cdef public bint retiring
    cdef readonly bint copying
    cdef readonly bint doubtful
    # Entries at the head of the ledger that bring the connection into its client's state.
    cdef readonly Py_ssize_t fence
    cdef Scanner scanner
    cdef Client unnamed_of
    cdef Client reader
    # How many Closes of ours are under way, by statement.
    cdef dict dropping
    cdef bint copy_syncs
    cdef bint failed
    cdef bint dying
    cdef bint told
    # The fields of the server's last words, which were kept from its client.
    cdef bytes farewell
    # An error has been passed on since the last ReadyForQuery.
    cdef bint erred
    # What its client knows to be executed since then in the extended protocol, whose Sync is still to be answered:
    # nothing, something, or the end of a transaction.
    cdef int executed
    # Who asks again although the primary has refused it.
    cdef Client second
    cdef object sqlstate
    cdef object done
    cdef object refused

    # A cancel request that is meant for what its client has sent behind a question of ours.
    cdef bint aimed

    # An error that its reader gets instead of the server's.
    cdef bytes instead

    # Which of all entries was given up, and what its client is told if a cancel request ends it.
    cdef unsigned long long given_up
    cdef bytes excuse

    # The statement whose rows are being described, to a client or to us.
    cdef Statement described

    # Those who share it, and who has got an answer or has to ask again.
    cdef list riders
    cdef list landing

    # Rows of the answer to a question of ours.
    cdef list rows_asked
    cdef Py_ssize_t rows_held

    cdef bint ready(self) noexcept
    cdef bint goes_home(self) noexcept
    cdef int lose(self, str reason) except -1
    cdef int error(self, int verdict, double now) except -1
    cdef int fenced_off(self) except -1
    cdef bint untouched(self) noexcept
    cdef int aside(self, bytes sql, Client client) except -1
    cdef bint repeats(self, Client owner) except -1
    cdef bint asks_again(self, int kind) except -1
    cdef bint says_farewell(self) except -1
    cdef bint in_company(self) noexcept
    cdef bint quotes_others(self) except -1
    cdef bint not_here(self) except -1
    cdef int excuse_it(self) except -1
    cdef int doubt(self, Statement statement) except -1
    cdef int repeat(self, Client owner) except -1
    cdef int end_together(self, Client owner) except -1
    cdef int ready_early(self, Client owner) except -1
    cdef int dropped(self, Statement statement) except -1
    cdef int undo(self, list ended) except -1
    cdef int pay(self) except -1
