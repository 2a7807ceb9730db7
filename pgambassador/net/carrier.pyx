# cython: language_level=3, boundscheck=False, wraparound=False
"""Several clients on one server connection at once: their short reads leave in one write, and each gets its own answer.

1. All of them are in the state in which the connection is, and each has asked one thing that only reads and is
   complete. What becomes of one does not touch the others.
2. While nothing of an answer has been passed on, its client may ask again elsewhere: if the connection dies, if
   somebody else's cancel request hits it, or if one of those before it takes long (`relieve`).
3. An answer that nobody wants any more is swallowed.
4. Neighbours that speak the extended protocol share a Sync, and with it a transaction and a write of the server, as
   long as that takes no more than `Home.together`: their answers come at once. Each is told that it is ready when its
   statement is done: one that only reads cannot fail afterwards, unless it is serializable. Who is behind an error
   has not been heard, and asks again.
"""
from cpython.ref cimport Py_DECREF, Py_INCREF

from pgambassador.net.parties cimport Client
from pgambassador.protocol.ledger cimport FAKE, FORWARD, SWALLOW, Entry

# Seconds that they wait for one of them at least, and how many times what it, or the first answer, usually takes: where
# all processors are busy everything is slow, and asking again would only add to it.
cdef double PATIENCE = 0.005
cdef double UNUSUAL = 4

cdef bytes SYNC = b"S\x00\x00\x00\x04"


cdef class Carrier(Answers):
    """The part of a server connection that can be shared."""

    cdef int carry(self, list clients, double now) except -1:
        """Several clients at once, in the state in which the connection is: what they ask leaves in one write."""
        cdef Client client, behind
        cdef Py_ssize_t i, n = len(clients)
        cdef double seconds = 0
        cdef bint joins
        cdef double most = self.home.together if self.home.together and self.home.policy.joins(self.state) else 0
        self.riders = clients
        self.resetting = True
        self.last = None
        self.unfamiliar = True
        self.departed = self.boarded = now
        self.joining = False
        for client in clients:
            client.board(self, now)
        for i in range(n):
            client = <Client>clients[i]
            behind = <Client>clients[i + 1] if i + 1 < n else None
            seconds += client.expected
            joins = self.joining
            self.joining = behind is not None and seconds + behind.expected < most and (
                not client.request.startswith(b"Q") and not behind.request.startswith(b"Q")
            )
            if not self.joining:
                seconds = 0
            client.joined = joins or self.joining
            client.speak()
            if self.closed:
                return 0
            if self.unsynced or self.copying or self.spoiled or self.curious or client.stalled:
                # None of it has been sent. They ask one by one.
                return self.lose("what several clients have asked does not go together")
        return self.channel.flush()

    cdef int land(self) except -1:
        """Some have got their answers, or ask again: they are on their own."""
        cdef Client client
        cdef list landing = self.landing
        self.landing = []
        if self.departed:
            # The median, found step by step.
            self.home.first_answer *= 1.05 if self.answered_at - self.departed > self.home.first_answer else 0.95
            self.departed = 0
        for client in landing:
            if client.backend is self:
                client.backend = None
            if self.session is client:
                self.session = None
                self.resetting = True
        if self.unsynced and self.session is None:
            # It has failed before its Sync was sent.
            self.unsynced = False
            self.ledger.put(c'S', SWALLOW, None, None, None, 0.0)
            self.channel.send(SYNC, 5)
        if self.ledger.count == 0:
            self.riders = None
        else:
            # Perhaps one of them did not read, which is no matter of the others.
            self.channel.start_reading()
        self.settle_down()
        return self.dismiss(landing)

    cdef int dismiss(self, list landing) except -1:
        """They go on: with what comes behind their answer, or by asking again."""
        cdef Client client
        for client in landing:
            if client.request is None:
                client.landed()
            else:
                client.again(self.home.standby)
        return 0

    def relieve(self, double now):
        """What runs here takes long: those who wait behind it ask elsewhere, which for reads is no matter. Whether
        anybody still rides."""
        cdef Client first
        cdef double usual = self.home.first_answer
        if self.riders is None or self.closed or not self.ledger.count:
            return False
        first = <Client>self.ledger.head().owner
        if first is not None:
            usual = max(usual, first.expected)
        if now - max(self.boarded, self.answered_at) >= max(PATIENCE, UNUSUAL * usual):
            # If it shares its Sync another one may be what takes long. It stays all the same: its timeouts are what
            # ends a statement that nobody else waits for any more.
            self.clear_behind(first)
        return True

    cdef Py_ssize_t ending(self, Py_ssize_t i) noexcept:
        """Which answer from now is the last of the statement of which this one is."""
        cdef int kind
        while i < self.ledger.count - 1:
            kind = self.ledger.ring[(self.ledger.first + i) & self.ledger.mask].kind
            if kind == c'S' or kind == c'Q' or kind == c'F':
                break
            i += 1
        return i

    cdef bint shared(self, Py_ssize_t ending) noexcept:
        """Whether its Sync is that of others."""
        return self.ledger.ring[(self.ledger.first + ending) & self.ledger.mask].action == FAKE

    cdef int clear_behind(self, Client first) except -1:
        """All but this one ask elsewhere."""
        cdef Client client
        for client in list(self.riders):
            if client is not first and client.request is not None and client.backend is self:
                self.leave(client)
                client.again(False)
        return 0

    cdef bint leave(self, Client client) except -1:
        """One of those who share it does not want its answer any more, and nothing that happens here is its concern.
        Whether that answer was to come next."""
        cdef Py_ssize_t i
        cdef Entry *entry
        cdef bint leads = self.ledger.count > 0 and <object>self.ledger.head().owner is client
        for i in range(self.ledger.count):
            entry = &self.ledger.ring[(self.ledger.first + i) & self.ledger.mask]
            if <object>entry.owner is client:
                if entry.action != FAKE:
                    entry.action = SWALLOW
                Py_INCREF(None)
                entry.owner = <void *>None
                Py_DECREF(client)
        if self.reader is client:
            self.reader = None
        if client in self.riders:
            self.riders.remove(client)
        client.backend = None
        self.channel.start_reading()  # if it was stopped because this one did not read
        return leads

    def scatter(self):
        """All who still can ask elsewhere."""
        self.clear_behind(None)

    @property
    def running(self):
        """Whose answer comes next of those that clients await, since when the server has had what it answers, the
        note of that, which of all that was ever asked here ends it, and whether others share its Sync; None if no
        client awaits any. Up to a Sync the server keeps answers to itself, and what of it runs cannot be told."""
        cdef Py_ssize_t first, last
        cdef Entry *entry
        for first in range(self.ledger.count):
            entry = &self.ledger.ring[(self.ledger.first + first) & self.ledger.mask]
            if entry.action == FORWARD and entry.kind != c'c':
                break
        else:
            return None
        last = self.ending(first)
        since = max(entry.started, self.answered_at)
        number = self.ledger.total - self.ledger.count + last
        return <object>entry.owner, since, <object>entry.note, number, self.shared(last)
