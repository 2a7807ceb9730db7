from pgambassador.net.channel cimport Channel

cdef double clock() noexcept

# How what a client asks may share a transaction with what others ask: not at all, as one of several statements in a
# simple query, or before a Sync that is everybody's.
cdef enum:
    APART = 0
    IN_QUERY = 1
    BEFORE_SYNC = 2

# Whether a server says something of a text as soon as it reads it: perhaps, never, or never if it is in the server's
# own encoding.
cdef enum:
    LOUD = 0
    QUIET = 1
    QUIET_AS_IT_IS = 2

cdef class Statement:
    cdef object __weakref__
    cdef readonly bytes name
    cdef public bytes frame
    cdef readonly bytes text
    cdef readonly bint sets
    cdef readonly bint resets
    cdef public object shape
    cdef public object age
    # What its clients had set when they prepared it, as far as it matters; None: not known.
    cdef public object settings
    # What the pool that used it last knows of it.
    cdef object verdict
    cdef object judged_by
    cdef unsigned long long generation
    cdef Py_ssize_t weight

cdef class Client:
    cdef readonly Channel channel
    cdef readonly object backend
    cdef readonly dict statements
    cdef public object state
    cdef bytes unnamed
    # Its next message needs an answer that is still to come.
    cdef bint stalled
    # What it has asked, while that can be asked again: no byte of the answer has been passed on.
    cdef bytes request
    # Seconds that what it asks usually takes, and bytes of its answer.
    cdef double expected
    cdef double volume
    # It shares a server connection with others.
    cdef readonly bint riding
    # How it may share a transaction as well, and whether it does.
    cdef int manner
    cdef int tone
    cdef bint joined
    # What it asked with others has failed, perhaps because of it.
    cdef bint suspected
    # Before what it asks goes a BEGIN that its client has been told of.
    cdef bint beginning
    # Its server connection, or its server, was lost: parameters may not be as it knows them, until it has been told.
    cdef public bint bereaved
    # When it was told last that it may ask.
    cdef double rested

    cdef bint mid_message(self) noexcept
    cdef int settled(
        self, int kind, object note, double started, double now, unsigned long long rows, object sqlstate
    ) except -1
    cdef int committed(self) except -1
    cdef int served(self) except -1
    cdef int resume(self) except -1
    cdef bint has_left(self) noexcept
    cdef bint may_read(self) noexcept
    cdef int cancelled(self, bytes error, bint ended) except -1
    cdef int orphaned(self, object lost, str reason, bint told) except -1
    cdef bint reconsiders(self, object refused_by, str sqlstate) except -1
    cdef int board(self, object backend, double now) except -1
    cdef int speak(self) except -1
    cdef int landed(self) except -1
    cdef int again(self, bint at_primary) except -1
    cdef int refuted(self) except -1
    cdef int lasts(self) except -1
    cdef int undone(self) except -1

cdef class Home:
    # Servers tell their log's messages to its clients, with the texts that they have got.
    cdef bint outspoken
    cdef readonly unsigned long long transactions
    cdef readonly unsigned long long bytes_sent
    cdef public bint sticky
    # It has a standby's connections.
    cdef public bint standby
    # Seconds that those who share a transaction usually take at most; 0: nobody does.
    cdef public double together
    # Seconds that those who share a connection usually wait for the first of their answers.
    cdef public double first_answer
    cdef public Py_ssize_t statement_limit
    cdef public object policy
    cdef public Py_ssize_t high_water

    cdef int freed(self, object backend) except -1
    cdef int gone(self, object backend, str reason) except -1
