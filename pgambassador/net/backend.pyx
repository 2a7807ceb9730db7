# cython: language_level=3, boundscheck=False, wraparound=False
"""One server connection: whose it is, what it knows of statements and settings, and how it goes home.

1. The connection returns to its home only when it owes nothing, its last ReadyForQuery said idle, nothing was sent
   since without a Sync, its client is not in the middle of a message, and no cancel request is under way.
2. A connection whose state is in doubt (`doubtful`) never returns: it is closed with its client.
3. Above its home's `high_water` a client that does not read stops its server connection being read.
4. What brings it into its client's state leaves in the same write as the client's first message, in the extended
   protocol and without a Sync: if it fails the server skips the client's message too, even a simple query, and
   the connection is closed (`fence`). A COMMIT at its end lets what follows begin a transaction of its own.
"""
from libc.stdlib cimport free

from pgambassador.net.failures cimport ASKED, STALE, SURVEY
from pgambassador.net.parties cimport Client, Home, Statement, clock
from pgambassador.net.store cimport store_add, store_clear
from pgambassador.protocol.ledger cimport FAKE, SWALLOW, Entry

from pgambassador.wire import build

cdef bytes TERMINATE = b"X\x00\x00\x00\x04"
cdef bytes FLUSH = b"H\x00\x00\x00\x04"
# Longer requests are not remembered.
cdef Py_ssize_t MEMO_MOST = 64 * 1024


cdef class Backend(Carrier):
    """`link` is what opened the connection (its address, pid and key); `early` came behind the login's end."""

    def __init__(self, loop, Channel channel not None, Home home not None, link, dict parameters not None, state,
                 bytes early=b""):
        Carrier.__init__(self, loop, channel, home, parameters)
        self.link = link
        self.state = state
        self.opened = self.freed_at = clock()
        channel.on_drained = self.on_drained
        channel.start_reading()
        if early:
            self.scanner.append(<const unsigned char *>early, len(early))
            self.take(0)

    def __dealloc__(self):
        free(self.memo.base)

    def on_drained(self):
        """The server takes what its client sends again."""
        if self.session is not None and self.session.may_read():
            self.session.channel.start_reading()

    # Whose it is.

    cdef bint ready(self) noexcept:
        return (
            self.ledger.count == 0
            and self.status == c'I'
            and not self.unsynced
            and not self.copying
            and not self.ledger.skipping
        )

    cdef int settle_down(self) except -1:
        """After a read, or after a client's message: does it go home?"""
        cdef Client session = self.session
        if self.landing:
            return self.land()
        if self.scanner.left and self.reader is not None:
            return 0
        if session is not None and session.stalled and not self.closed and not self.cancelling and not (
            self.home.standby and self.ready()
        ):
            return session.resume()
        if session is not None and self.copying and session.has_left():
            # A COPY that nobody will feed.
            return session.served()
        if self.failed and self.ledger.count == 0 and self.done is None:
            return self.lose("the server refused the session's settings")
        if session is None:
            if self.resetting and self.ready():
                self.resetting = self.failed = False
                done, self.done = self.done, None
                if done is not None:
                    done(self.refused)
                if self.dying:
                    return self.lose("the server ended the connection")
                if self.spoiled and not self.cancelling:
                    return self.lose("a cancel request may still reach it")
                return self.release()
            if self.resetting and self.ledger.count == 0 and self.status != c'I':
                self.close("what was asked there has left a transaction open")
            return 0
        if self.dying and not self.told and self.ready():
            self.session = None
            session.backend = None
            self.lose(f"the server ended the connection ({self.sqlstate})")
            return session.served()
        if self.ledger.count == 0 and not self.channel.reading and session.channel.backlog() <= self.home.high_water:
            self.channel.start_reading()
        if not self.ready() or session.mid_message():
            if self.ledger.count == 0:
                session.served()
            return 0
        if self.curious and not self.doubtful:
            return self.survey(session)
        if not self.home.sticky and not self.pinned and not self.doubtful:
            self.session = None
            session.backend = None
            if self.spoiled and not self.cancelling:
                self.close("a cancel request may still reach it")
            else:
                self.release()
        return session.served()

    cdef int release(self) except -1:
        self.session = None
        self.reader = None
        self.riders = None
        self.channel.start_reading()
        self.freed_at = clock()
        if self.cancelling:
            self.parked = True
            return 0
        return self.home.freed(self)

    cdef int join(self, Client client) except -1:
        """Give the connection to a client, brought into the client's state."""
        cdef Py_ssize_t statements
        self.session = client
        client.backend = self
        self.unfamiliar = self.last is not client
        self.last = client
        if self.state is client.state and (self.marked_by is None or self.marked_by is client):
            return 0
        change, statements = self.home.policy.switch(self, client)
        self.unsettled = statements > 0
        if statements:
            self.precede(change, statements)
        self.state = client.state
        self.marked_by = None
        return 0

    cdef int remember(self, Client client) except -1:
        """From here on what a client asks is noted, for the case that this connection is lost meanwhile."""
        store_clear(&self.memo)
        self.fed = False
        self.told_before = client.channel.sent + client.channel.held.used
        self.delivered_before = self.channel.delivered
        return 0

    cdef bint note_down(self, const unsigned char *data, Py_ssize_t n) except -1:
        """A piece of it is on its way. Whether there is room for more."""
        if self.memo.used + n > MEMO_MOST:
            store_clear(&self.memo)
            return False
        store_add(&self.memo, <const char *>data, n)
        return True

    cdef int survey(self, Client session) except -1:
        """Ask what the client has set, before anybody else gets the connection; what it sends goes on behind."""
        cdef bytes question = self.home.policy.question(session, self)
        self.curious = self.overdue = False
        if not question:
            return self.settle_down()
        self.rows_asked = []
        self.rows_held = 0
        self.unnamed_of = None
        self.ledger.put(c'Q', SWALLOW, session, SURVEY, None, 0.0)
        return self.channel.send(question, len(question))

    def finish_survey(self):
        """Whether nothing is awaited but such an answer, after which the connection goes home without its client."""
        if self.ledger.count != 1 or <object>self.ledger.head().note is not SURVEY or self.scanner.left:
            return False
        self.resetting = True
        return True

    cdef bint knows(self, Statement statement) except -1:
        """Whether the server has the statement, in a state that it can be executed in."""
        return statement in self.prepared and self.prepared[statement] is None

    cdef bint touch(self, Statement statement) except -1:
        """Whether the server knows a statement, which is being used now."""
        if self.prepared.get(statement, STALE) is not None:
            return False
        if len(self.prepared) > 1:
            del self.prepared[statement]
            self.prepared[statement] = None
        return True

    cdef int teach(self, Statement statement, Client client) except -1:
        """Make a statement known to the server, before what is staged next."""
        cdef object change = None
        if statement in self.prepared:
            self.drop(statement, client)
        if statement.settings is not None and statement.settings is not client.state:
            change = self.home.policy.read_as(client, statement)
        if change is not None:
            self.aside(<bytes>change[0], client)
        self.channel.stage(statement.frame, len(statement.frame))
        self.ledger.put(c'P', SWALLOW, client, statement, None, 0.0)
        if change is not None:
            self.aside(<bytes>change[1], client)
        self.adopt(statement, client)
        return 0

    cdef int inquire(self, Statement statement, Client client) except -1:
        """Teach the server a statement whose table may have changed, and have it say at once what rows it has."""
        cdef bytes frames = build.describe_statement(statement.name) + FLUSH
        self.teach(statement, client)
        self.prepared[statement] = ASKED
        self.asked_at = self.home.policy.statements.age
        self.channel.stage(frames, len(frames))
        return self.ledger.put(c'D', SWALLOW, client, statement, None, 0.0)

    cdef int drop(self, Statement statement, Client client) except -1:
        """Have the server forget a statement, whether it knows it or not."""
        cdef bytes close = build.close_statement(statement.name)
        self.prepared.pop(statement, None)
        self.channel.stage(close, len(close))
        if not self.ledger.skipping:
            self.dropping[statement] = self.dropping.get(statement, 0) + 1
        return self.ledger.put(c'C', SWALLOW, client, statement, None, 0.0)

    cpdef adopt(self, Statement statement, Client client):
        """The server is being taught a statement; beyond the limit it forgets the one used longest ago."""
        self.prepared[statement] = None
        self.taught = self.ledger.total
        if len(self.prepared) > self.home.statement_limit:
            self.drop(next(iter(self.prepared)), client)

    # What the policy may do with it.

    def detach(self):
        """Take the connection from its client, who has left."""
        if self.session is not None:
            self.session.backend = None
            self.session = None
        self.reader = None

    def ask(self, bytes queries not None, int count, done=None, list rows=None):
        """Send `count` simple queries of ours, then go home.

        `done` is called before with None or the body of the first ErrorResponse; without it an error closes the
        connection, since its state is not what the queries should have made it. `rows`, which needs it, takes
        the DataRows of one query.
        """
        if count == 0:
            self.release()
            return
        if not queries:
            raise ValueError("nothing to ask")
        self.resetting = True
        self.done = done
        self.refused = None
        for _ in range(count):
            self.ledger.put(c'Q', SWALLOW, None, SURVEY if rows is not None else None, None, 0.0)
        self.rows_asked = rows
        self.unnamed_of = None
        self.channel.send(queries, len(queries))
        self.channel.start_reading()

    def forget_statements(self, Client client=None, names=None):
        """DEALLOCATE, of these names or of ALL, has run here for this client: what was sent behind it comes later."""
        cdef Py_ssize_t i
        cdef Entry *entry
        cdef dict coming = {}
        if names is None:
            self.prepared.clear()
            self.unnamed_of = None
        for i in range(self.ledger.count):
            entry = &self.ledger.ring[(self.ledger.first + i) & self.ledger.mask]
            if entry.kind == c'P' and type(<object>entry.note) is Statement:
                if entry.action != FAKE:
                    self.prepared[<object>entry.note] = None
                name = <object>entry.name
                if name is not None and <object>entry.owner is client:
                    coming[name[0] if type(name) is tuple else name] = <object>entry.note
        if client is not None:
            for name in list(client.statements) if names is None else names:
                if name not in coming:
                    client.statements.pop(name, None)

    def spoil(self):
        """Its state is in doubt, or a cancel request may still reach it: it goes to nobody else."""
        self.spoiled = True

    def cancel_begins(self):
        """A cancel request is under way: nobody else may have the connection until it has arrived."""
        self.cancelling += 1
        self.aimed = self.rows_asked is not None

    def cancel_ends(self):
        self.cancelling -= 1
        if self.session is not None and self.session.stalled and not self.cancelling and not self.closed:
            self.settle_down()
        if self.parked and not self.cancelling and not self.closed:
            self.parked = False
            if self.spoiled:
                self.lose("a cancel request may still reach it")
            else:
                self.home.freed(self)

    def close(self, str reason not None):
        """Say goodbye and close; a client that still has it is told."""
        if not self.closed and not self.channel.broken and self.ready():
            self.channel.send(TERMINATE, 5)
        self.lose(reason)

    cdef int lose(self, str reason) except -1:
        cdef Client session = self.session
        cdef Client client, half_told
        cdef list riders, landing
        if self.closed:
            return 0
        half_told = self.reader if self.scanner.left else None
        riders, self.riders = self.riders, None
        landing, self.landing = self.landing, []
        # In the middle of a message to its client nothing of ours can be said.
        cdef bint half = self.mid_reply(session)
        self.closed = True
        self.session = None
        self.reader = None
        self.unnamed_of = None
        self.channel.close()
        self.home.gone(self, reason)
        done, self.done = self.done, None
        if done is not None:
            done(b"")
        for client in landing:
            client.backend = None
        self.dismiss(landing)
        if session is not None and session.backend is self:
            session.backend = None
            if session.request is not None and not half:
                self.undo(self.ledger.fail())
                session.again(self.home.standby)
            else:
                session.orphaned(self, reason, self.told or half)
        for client in riders or ():
            if client.backend is not self:
                continue
            client.backend = None
            if client.request is not None and client is not half_told:
                client.again(self.home.standby)
            else:
                client.orphaned(self, reason, client is half_told)
        return 0

    @property
    def owes(self):
        """Whether replies are outstanding."""
        return self.ledger.count > 0

    @property
    def strange(self):
        """Whether the last statements here were another client's."""
        return bool(self.unfamiliar)

    @property
    def fresh(self):
        """Whether nothing that a client has sent is under way."""
        return bool(self.untouched())

    @property
    def works(self):
        """Whether it is doing what its client has asked for, and not only what we have."""
        return self.ledger.count > (self.rows_asked is not None)

    @property
    def asking(self):
        """Whether what its client has set is just being asked."""
        return self.rows_asked is not None

    @property
    def note(self):
        """What is known of the statement that is being answered: its text, its Parse, a Statement, or None."""
        return <object>self.ledger.head().note if self.ledger.count else None

    @property
    def transaction(self):
        """The last ReadyForQuery: I, T or E."""
        return chr(self.status)

    @property
    def clean(self):
        """Whether it could serve another client after a ROLLBACK: nothing outstanding, nothing in doubt."""
        return (
            self.ledger.count == 0
            and not self.unsynced
            and not self.copying
            and not self.ledger.skipping
            and not self.doubtful
            and not self.spoiled
            and not self.scanner.left
            and not self.closed
            and not self.channel.broken
        )

    def __repr__(self):
        state = "closed" if self.closed else "active" if self.session is not None else "idle"
        return f"<Backend {getattr(self.link, 'address', '?')} {state} {chr(self.status)} {self.ledger!r}>"
