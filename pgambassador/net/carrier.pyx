# cython: language_level=3, boundscheck=False, wraparound=False
"""Several clients on one server connection at once: their short reads leave in one write, and each gets its own answer.

1. All of them are in the state in which the connection is, and each has asked one thing that only reads and is
   complete. What becomes of one does not touch the others.
2. While nothing of an answer has been passed on, its client may ask again elsewhere: if the connection dies, if
   somebody else's cancel request hits it, or if one of those before it takes long (`relieve`).
3. An answer that nobody wants any more is swallowed.
4. Neighbours share a transaction and a write of the server, as long as that takes no more than `Home.together`: their
   answers come at once. In the extended protocol they share a Sync, and what several parse without a name is parsed
   once for a few; simple queries become one, of a text that has each of theirs as a statement. Each is told that it
   is ready when its statement is done: one that only reads cannot fail afterwards, unless it is serializable. Who is
   behind an error has not been heard, and asks again, as does who has failed in a text that is not its own.
"""
from cpython.ref cimport Py_DECREF, Py_INCREF

from pgambassador.net.failures cimport BETWEEN
from pgambassador.net.parties cimport APART, BEFORE_SYNC, IN_QUERY, LOUD, QUIET_AS_IT_IS, Client
from pgambassador.protocol.ledger cimport FAKE, FORWARD, SWALLOW, Entry
from pgambassador.routing.brevity cimport KEPT

from pgambassador.wire import build

# Seconds that they wait for one of them at least, and how many times what it, or the first answer, usually takes: where
# all processors are busy everything is slow, and asking again would only add to it. A server's process that gets no
# processor for a while is what the slowest hundredth of answers comes from.
cdef double PATIENCE = 0.002
cdef double UNUSUAL = 4
# Then the first of those who share its Sync asks again as well. It may itself be what takes long: that has to be noted
# (`lasts`) before it is asked again, for how long it takes then may be seldom enough.
cdef double LOST = 0.02
cdef double LOST_UNUSUAL = 8

cdef bytes SYNC = b"S\x00\x00\x00\x04"
# A text that several have written is no longer than this.
cdef Py_ssize_t TEXT_MOST = 32 * 1024
# So many executions of a statement PostgreSQL plans each for its own parameters, whatever it has learnt meanwhile.
cdef Py_ssize_t PLANNED = 5
# Has the same length as a Parse's answer, and costs the server next to nothing.
cdef bytes NOTHING = build.close_statement(b"pga_nothing")


cdef class Carrier(Answers):
    """The part of a server connection that can be shared."""

    cdef bint goes_home(self) noexcept:
        # What its client has set is still to be asked if it is curious.
        return self.ready() and not self.home.sticky and not self.pinned and not self.curious

    cdef int carry(self, list clients, double now) except -1:
        """Several clients at once, in the state in which the connection is: what they ask leaves in one write."""
        cdef Client client
        cdef Py_ssize_t i, n = len(clients), start = 0, end = 0
        cdef unsigned long long owed
        # What servers take in another encoding may be longer then, or end elsewhere.
        cdef bint converts = self.parameters.get("client_encoding") != self.parameters.get("server_encoding")
        cdef bint aloud = self.home.outspoken or not self.home.policy.discreet(self.state)
        cdef double most = self.home.together if self.home.together and self.home.policy.joins(self.state) else 0
        self.riders = clients
        self.resetting = True
        self.last = None
        self.unfamiliar = True
        self.departed = self.boarded = now
        self.forsaken = 0
        self.joining = False
        for client in clients:
            client.board(self, now)
            if client.tone == QUIET_AS_IT_IS and converts:
                client.tone = LOUD
            if client.manner == IN_QUERY and (aloud or client.tone == LOUD):
                client.manner = APART
        for i in range(n):
            client = <Client>clients[i]
            if i == end:
                start = end
                end += self.company(clients, start, most)
            self.joining = i + 1 < end
            client.joined = end - start > 1
            owed = self.ledger.total
            client.speak()
            if self.closed:
                return 0
            if self.unsynced or self.copying or self.spoiled or self.curious or client.stalled or (
                self.quoting and self.ledger.total != owed + 2
            ):
                # None of it has been sent. They ask one by one.
                return self.lose("what several clients have asked does not go together")
            if self.quoting and self.joining:
                self.channel.stage(BETWEEN, len(BETWEEN))
            elif self.quoting:
                self.channel.stage(b"\0", 1)
        self.quoting = False
        self.parsed = None
        return self.channel.flush()

    cdef Py_ssize_t company(self, list clients, Py_ssize_t start, double most) except -1:
        """How many from here share a transaction. If theirs is one simple query it begins."""
        cdef Client first = <Client>clients[start], client = first
        cdef Py_ssize_t n = 1, size = len(first.request)
        cdef double seconds = first.expected, volume = first.volume
        cdef bytes head
        while first.manner != APART and start + n < len(clients):
            client = <Client>clients[start + n]
            seconds += client.expected
            volume += client.volume
            size += len(client.request)
            if client.manner != first.manner or seconds >= most or volume >= KEPT or (
                first.manner == IN_QUERY and size > TEXT_MOST
            ):
                size -= len(client.request)
                break
            n += 1
        self.parsed = b"" if n > 1 and first.manner == BEFORE_SYNC else None
        self.quoting = n > 1 and first.manner == IN_QUERY
        if self.quoting:
            # Each has five bytes before its text and one behind it.
            head = b"Q" + (4 + size - 6 * n + (n - 1) * len(BETWEEN) + 1).to_bytes(4, "big")
            self.channel.stage(head, 5)
        return n

    cdef bint just_parsed(self, bytes frame) except -1:
        """Whether the server's unnamed statement is this one already, of a neighbour in the same transaction. None: it
        is one that every client has to parse for itself."""
        if self.parsed is None:
            return False
        if frame is None:
            self.parsed = b""
            return False
        if self.uses < PLANNED and frame == self.parsed:
            self.uses += 1
            return True
        self.parsed = frame
        self.uses = 1
        return False

    cdef int close_nothing(self, Client client, bytes frame, bytes before, double now) except -1:
        """Have the server answer a Parse that it has not been sent."""
        self.channel.stage(NOTHING, len(NOTHING))
        return self.ledger.put(c'p', FORWARD, client, frame, before, now)

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
                client.again(self.home.standby and not client.suspected)
        return 0

    def relieve(self, double now):
        """What runs here takes long: those who wait behind it ask elsewhere, which for reads is no matter. Whether
        anybody still rides."""
        cdef Client first
        cdef double usual = self.home.first_answer
        cdef double passed = now - max(self.boarded, self.answered_at)
        if self.riders is None or self.closed or not self.ledger.count:
            return False
        first = <Client>self.ledger.head().owner
        if first is not None:
            usual = max(usual, first.expected)
        if passed >= max(PATIENCE, UNUSUAL * usual):
            self.clear_behind(first)
        if first is not None and first.request is not None and self.shared(self.ending(0)) and (
            passed >= max(LOST, LOST_UNUSUAL * usual)
        ):
            # Another one may be what takes long, for a lock perhaps that this client holds in another session.
            first.lasts()
            self.clear_behind(None)
        if not self.forsaken and self.awaited() < 0:
            self.forsaken = now
            if self.departed:
                self.home.first_answer *= 1.05
                self.departed = 0
        return True

    cdef Py_ssize_t awaited(self) noexcept:
        """Which is the first answer that a client awaits; -1: none."""
        cdef Py_ssize_t i
        cdef Entry *entry
        for i in range(self.ledger.count):
            entry = &self.ledger.ring[(self.ledger.first + i) & self.ledger.mask]
            if entry.action == FORWARD and entry.kind != c'c':
                return i
        return -1

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

    cdef bint owes(self, Py_ssize_t size) noexcept:
        """Whether a statement without a name that is longer than this is still to be answered."""
        cdef Py_ssize_t i
        cdef Entry *entry
        for i in range(self.ledger.count):
            entry = &self.ledger.ring[(self.ledger.first + i) & self.ledger.mask]
            if entry.kind == c'P' and type(<object>entry.note) is bytes and len(<bytes>entry.note) > size:
                return True
        return False

    cdef bint may_lack(self, Client client, bytes name) except -1:
        """Whether an earlier part of the client's, in which the server was sent a statement, may have failed before
        that: what skips it does not skip what is asked now."""
        cdef Py_ssize_t i = self.ledger.count
        cdef Entry *entry
        cdef bint earlier = False, sent = False
        if self.taught <= self.ledger.total - i or client.riding:
            return False
        statement = client.statements.get(name)
        while i > 0 and statement is not None:
            i -= 1
            entry = &self.ledger.ring[(self.ledger.first + i) & self.ledger.mask]
            if entry.kind == c'S' or entry.kind == c'Q' or entry.kind == c'F':
                earlier = True
                if sent:
                    return False
            elif sent and entry.action == FORWARD:
                return True
            elif entry.kind == c'P' and <object>entry.note is statement and entry.action != FAKE:
                if not earlier:
                    return False
                sent = True
        return False

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
        if leads:
            self.said = 0
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
        client awaits any. Up to a Sync the server keeps answers to itself, and what of it runs cannot be told. What
        clients have left here is nobody's, since it was noticed."""
        cdef Py_ssize_t first = self.awaited(), last
        cdef Entry *entry
        if first < 0:
            if self.riders is None or not self.forsaken or not self.ledger.count:
                return None
            return None, self.forsaken, None, self.turn + self.ending(0), True
        entry = &self.ledger.ring[(self.ledger.first + first) & self.ledger.mask]
        last = self.ending(first)
        since = max(entry.started, self.answered_at)
        return <object>entry.owner, since, <object>entry.note, self.turn + last, self.shared(last)
