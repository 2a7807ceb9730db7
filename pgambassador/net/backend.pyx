# cython: language_level=3, boundscheck=False, wraparound=False
"""One server connection: reads replies, settles them against its ledger and hands them to their owners.

1. Every message is matched with the ledger before it goes anywhere. A message that no entry explains, or that its
   entry cannot have, ends the connection: a reply must never reach a client that did not ask.
2. The connection returns to its home only when it owes nothing, its last ReadyForQuery said idle, nothing was sent
   since without a Sync, its client is not in the middle of a message, and no cancel request is under way.
3. A connection whose state is in doubt (`doubtful`) never returns: it is closed with its client.
4. Above its home's `high_water` a client that does not read stops its server connection being read.
"""
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from pgambassador.protocol.ledger cimport BROKEN, FAKE, FORWARD, SWALLOW, UNOWED, Entry
from pgambassador.wire.framing cimport MORE
from pgambassador.wire.replies cimport Command, Failure, command, failure, mentions_set_config

from pgambassador.errors import ProtocolViolation
from pgambassador.wire.framing import WHOLE

# What a server may send after its login, and how much of it we look at.
cdef dict NEEDS = {ord(kind): 5 for kind in "123DGHINTVWAcdnstv"}
NEEDS[ord("Z")] = NEEDS[ord("S")] = NEEDS[ord("C")] = WHOLE
NEEDS[ord("E")] = 128  # severity and SQLSTATE stand at its beginning
cdef Py_ssize_t SERVER_LIMIT = 0x7FFFFFFF
cdef Py_ssize_t WHOLE_LIMIT = 1024 * 1024

cdef bytes PARSE_COMPLETE = b"1\x00\x00\x00\x04"
cdef bytes CLOSE_COMPLETE = b"3\x00\x00\x00\x04"
cdef bytes TERMINATE = b"X\x00\x00\x00\x04"


cdef double clock() noexcept:
    """Seconds, monotonic."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec + now.tv_nsec * 1e-9


cdef class Statement:
    """A prepared statement as servers know it: its name there, the Parse that makes it, and its text."""

    def __init__(self, bytes name not None, bytes frame not None, bytes text not None):
        self.name = name
        self.frame = frame
        self.text = text
        self.sets = mentions_set_config(text, len(text))

    def __repr__(self):
        return f"<Statement {self.name.decode()}>"


cdef class Client:
    """The owner of replies, as a server connection sees it."""

    cdef bint mid_message(self) noexcept:
        return False

    cdef int settled(
        self, int kind, object note, double started, double now, unsigned long long rows, object sqlstate
    ) except -1:
        """A statement of yours has ended."""
        return 0

    cdef int served(self) except -1:
        """Your server connection owes you nothing, and may have been taken back."""
        return 0

    cdef bint may_read(self) noexcept:
        """Whether you want more of your client's messages."""
        return True

    cdef int rejoin(self) except -1:
        """Your server connection is not in your state any more."""
        return 0

    cdef int switched(self) except -1:
        """Your server connection is in your state now."""
        return 0

    cdef int orphaned(self, str reason, bint told) except -1:
        """Your server connection is gone; `told`: its own last words have reached you."""
        return 0


cdef class Home:
    """Where a server connection goes when nobody needs it. `policy` decides what is not mechanism."""

    cdef int freed(self, Backend backend) except -1:
        return 0

    cdef int gone(self, Backend backend, str reason) except -1:
        return 0


cdef class Backend:
    """`link` is what opened the connection (its address, pid and key); `early` came behind the login's end."""

    def __init__(self, loop, Channel channel not None, Home home not None, link, dict parameters not None, state,
                 bytes early=b""):
        self.loop = loop
        self.channel = channel
        self.home = home
        self.link = link
        self.parameters = parameters
        self.state = state
        self.ledger = Ledger()
        self.scanner = Scanner(NEEDS, SERVER_LIMIT, WHOLE_LIMIT)
        self.prepared = {}
        self.status = c'I'
        self.sqlstate = ""
        self.opened = self.freed_at = clock()
        channel.on_readable = self.on_readable
        channel.on_drained = self.on_drained
        channel.start_reading()
        if early:
            self.scanner.append(<const unsigned char *>early, len(early))
            self.take(0)

    # What the server says.

    def on_readable(self):
        """The socket has bytes, or its end."""
        cdef Py_ssize_t n = -1
        cdef int _round
        for _round in range(4):
            n = self.channel.fill(shared, SHARED)
            if n <= 0:
                break
            self.take(n)
            if self.closed or not self.channel.reading:
                return
            if not self.channel.more:
                return
        if n > 0:
            self.loop.call_soon(self.on_readable)
        elif n == 0:
            self.lose("the server closed the connection unexpectedly")
        elif n == -2:
            self.lose("the connection to the server broke")

    def on_drained(self):
        """The server takes what its client sends again."""
        if self.session is not None and self.session.may_read():
            self.session.channel.start_reading()

    cdef int take(self, Py_ssize_t n) except -1:
        """Settle n bytes of the shared buffer."""
        cdef Scanner scanner = self.scanner
        cdef Client owner = None
        cdef const unsigned char *run = NULL
        cdef Py_ssize_t length = 0
        cdef int kind
        cdef double now = clock()
        cdef Home home = self.home
        scanner.begin(<const unsigned char *>shared, n)
        try:
            while True:
                kind = scanner.next()
                if kind == 0:
                    break
                if kind != MORE:
                    if kind == c'E' and self.done is not None and scanner.left:
                        scanner.ask(scanner.size)
                        continue
                    if self.ledger.count and self.ledger.head().action == FAKE:
                        if length:
                            home.bytes_sent += length
                            owner.channel.stage(<const char *>run, length)
                            length = 0
                        self.pay()
                    self.message(kind, now)
                    if self.closed:
                        break
                # The message, or the next piece of it, goes to `reader` (nobody: it is swallowed).
                if self.reader is not owner or (length and scanner.at != run + length):
                    if length:
                        home.bytes_sent += length
                        owner.channel.send(<const char *>run, length)
                        length = 0
                    owner = self.reader
                if owner is not None:
                    if length == 0:
                        run = scanner.at
                    length += scanner.have
                if kind != MORE and kind in (c'Z', c'C', c'E', c'I', c'1', c'2', c'3', c's', c'T', c'n'):
                    self.finished(kind, now)
        except ProtocolViolation as error:
            # What came before it was still an answer.
            if length:
                owner.channel.send(<const char *>run, length)
                length = 0
            self.reader = None
            self.lose(f"the server broke the protocol: {error.message}" if not self.switching else error.message)
        except Exception as error:
            # Ours. What the connection owes is not known any more.
            self.home.policy.broke(self, error)
            self.lose("an internal error of pgambassador")
        home.bytes_sent += length
        if not self.closed and not scanner.left and self.ledger.count and self.ledger.head().action == FAKE:
            if length:
                owner.channel.stage(<const char *>run, length)
            owner = <Client>self.ledger.head().owner
            self.pay()
            owner.channel.flush()
        elif length:
            owner.channel.send(<const char *>run, length)
        elif owner is not None:
            owner.channel.flush()
        scanner.finish()
        if self.closed:
            return 0
        if owner is not None and owner.channel.backlog() > home.high_water:
            self.channel.stop_reading()
        return self.settle_down()

    cdef int message(self, int kind, double now) except -1:
        """Who reads the message that begins here, and what it changes before it is passed on."""
        cdef int verdict = self.ledger.verdict(kind)
        cdef Entry *head
        if self.doubtful and (verdict == BROKEN or verdict == UNOWED):
            # Its client alone has it, and takes what comes.
            verdict = UNOWED
            self.reader = self.session
        elif verdict == BROKEN:
            raise ProtocolViolation(f"message {chr(kind)!r} does not answer anything that was asked")
        elif verdict == UNOWED:
            if kind not in (c'N', c'S', c'E', c'A'):
                raise ProtocolViolation(f"message {chr(kind)!r} came unasked")
            self.reader = self.session
            if kind == c'A' and not self.pinned and not self.home.sticky:
                self.reader = None
        elif verdict == SWALLOW:
            self.reader = None
        else:
            head = self.ledger.head()
            self.reader = <Client>head.owner
            if kind == c'A' and not self.pinned and not self.home.sticky:
                self.reader = None
        if kind == c'S':
            self.parameter(verdict)
        elif kind == c'E':
            self.error(verdict, now)
        elif kind == c'G':
            self.copying = not self.ledger.copy_in()
            self.copy_syncs = False
        elif kind == c'Z':
            self.status = self.scanner.at[5]
            self.copying = False
        elif kind == c'C':
            self.copying = False
            if verdict == FORWARD:
                self.tag()
        return 0

    cdef int parameter(self, int verdict) except -1:
        """ParameterStatus: note it; the policy decides what it means for the client's session."""
        cdef bytes body = (<const char *>self.scanner.at)[5:self.scanner.have]
        cdef list parts = body.split(b"\x00")
        if len(parts) != 3:
            raise ProtocolViolation("a ParameterStatus is malformed")
        name = parts[0].decode("utf-8", "replace")
        value = parts[1].decode("utf-8", "surrogateescape")
        self.parameters[name] = value
        if verdict != SWALLOW and self.session is not None:
            self.home.policy.reported(self.session, self, name, value)
        return 0

    cdef int error(self, int verdict, double now) except -1:
        """ErrorResponse: what it ends, and who is told."""
        cdef Entry *head
        cdef Failure found = failure(self.scanner.at + 5, self.scanner.have - 5)
        self.sqlstate = (<const char *>found.sqlstate)[:5].decode("ascii", "replace")
        if found.fatal:
            # Its last words go to whoever holds it.
            self.dying = True
            if self.session is None:
                self.lose(f"the server ended an idle connection ({self.sqlstate})")
            elif self.ready() and not self.home.sticky and not self.pinned:
                # Its client is only about to let go of it, and need not know.
                self.reader = None
            else:
                self.reader = self.session
                self.told = True
            return 0
        if verdict == UNOWED:
            return 0
        head = self.ledger.head()
        if head.kind == c'Q' or head.kind == c'F' or head.kind == c'S':
            if verdict == SWALLOW and not self.resetting:
                # What its client has sent behind it would be done in the wrong state.
                raise ProtocolViolation("the server refused the session's settings")
            if verdict == SWALLOW and self.refused is None:
                self.failed = True
                self.refused = (<const char *>self.scanner.at)[5:self.scanner.have]
        else:
            # Also what we asked for on a client's behalf, such as a Parse: its own message fails with it.
            self.reader = <Client>head.owner
            if self.sqlstate in ("26000", "42P05") and type(<object>head.note) is Statement:
                # What this server knows is not what we think it knows (a DO block can DEALLOCATE).
                self.retiring = True
            if self.reader is not None:
                self.reader.settled(head.kind, <object>head.note, head.started, now, 0, self.sqlstate)
            if self.copying and self.copy_syncs:
                self.doubtful = True
            self.undo(self.ledger.fail())
            self.sqlstate = ""
        self.copying = False
        return 0

    cdef int tag(self) except -1:
        """CommandComplete: count rows; a tag that may concern the session goes to the policy."""
        cdef const unsigned char *tag = self.scanner.at + 5
        cdef Py_ssize_t n = self.scanner.have - 6
        cdef Command found = command(tag, n)
        self.rows += found.rows
        if found.concerns_session:
            self.home.policy.tagged(self.reader, self, (<const char *>tag)[:n].decode("ascii", "replace"))
        return 0

    cdef int finished(self, int kind, double now) except -1:
        """The message is passed on; take the entry that it completes off."""
        cdef Entry *head
        cdef int of
        if self.ledger.count == 0 or kind == c'E' or not self.ledger.completes(kind):
            return 0
        head = self.ledger.head()
        of = head.kind
        if head.action == FORWARD and (of == c'Q' or of == c'E'):
            (<Client>head.owner).settled(of, <object>head.note, head.started, now, self.rows, self.sqlstate)
        if kind == c'Z':
            if self.status == c'I' and head.action == FORWARD:
                self.home.transactions += 1
            self.sqlstate = ""
        self.rows = 0
        self.ledger.drop_head()
        return 0

    cdef int pay(self) except -1:
        """Pay the fakes that have reached the head; they leave with the next bytes of their owner."""
        cdef Entry *head
        cdef Client owner
        while self.ledger.count and self.ledger.head().action == FAKE:
            head = self.ledger.head()
            owner = <Client>head.owner
            owner.channel.stage(PARSE_COMPLETE if head.kind == c'P' else CLOSE_COMPLETE, 5)
            self.ledger.drop_head()
        return 0

    cdef int undo(self, list dropped) except -1:
        """What an error has kept from happening did not happen."""
        cdef Client owner
        for kind, action, owner, note, name in reversed(dropped):
            if kind == c'P':
                if type(note) is not Statement:
                    self.unnamed_of = None
                    if owner is not None and owner.unnamed is note:
                        owner.unnamed = None
                    continue
                if action != FAKE:
                    self.prepared.pop(note, None)
                if name is not None and owner is not None and owner.statements.get(name) is note:
                    del owner.statements[name]
            elif kind == c'C' and note is not None:
                if action == SWALLOW:
                    self.prepared[note] = None
                elif action == FAKE and owner is not None:
                    owner.statements.setdefault(name, note)
        return 0

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
        if self.scanner.left and self.reader is not None:
            return 0
        if self.failed and self.ledger.count == 0 and self.done is None:
            return self.lose("the server refused the session's settings")
        if session is None:
            if self.resetting and self.ready():
                self.resetting = self.failed = False
                done, self.done = self.done, None
                if done is not None:
                    done(self.refused)
                return self.release()
            return 0
        if self.dying and not self.told and self.ready():
            self.session = None
            session.backend = None
            self.lose(f"the server ended the connection ({self.sqlstate})")
            # Nothing of what a client has said while the connection was prepared for it has been sent.
            return session.switched() if self.switching else session.served()
        if self.switching and self.ready():
            self.switching = False
            return session.switched()
        if self.ledger.count == 0 and not self.channel.reading and session.channel.backlog() <= self.home.high_water:
            self.channel.start_reading()
        if not self.ready() or session.mid_message():
            if self.ledger.count == 0:
                session.served()
            return 0
        if self.home.sticky and self.state is not session.state:
            return session.rejoin()
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
        self.channel.start_reading()
        self.freed_at = clock()
        if self.cancelling:
            self.parked = True
            return 0
        return self.home.freed(self)

    cdef bint mid_reply(self, Client client) noexcept:
        """Whether the client has been given only a part of a message."""
        return client is not None and self.scanner.left > 0 and self.reader is client

    cdef int join(self, Client client) except -1:
        """Give the connection to a client, brought into the client's state. True: it is still on its way there.

        What a client sends must never be done in the state of the one before. So it waits for the server's word,
        unless it could not matter; then the change leaves in the same write.
        """
        cdef bytes change
        self.session = client
        client.backend = self
        if self.state is not client.state or (self.marked_by is not None and self.marked_by is not client):
            change = self.home.policy.switch(self, client)
            if change:
                self.ledger.put(c'Q', SWALLOW, client, None, None, 0.0)
                self.unnamed_of = None
                self.switching = not self.home.policy.harmless(self, client)
                if self.switching:
                    self.channel.send(change, len(change))
                else:
                    self.channel.stage(change, len(change))
            self.state = client.state
            self.marked_by = None
        return self.switching

    cdef int prepare(self, Statement statement, Client client) except -1:
        """Make sure that the server knows a statement, before what is staged next."""
        if statement in self.prepared:
            if len(self.prepared) > 1:
                del self.prepared[statement]
                self.prepared[statement] = None
            return 0
        self.channel.stage(statement.frame, len(statement.frame))
        self.ledger.put(c'P', SWALLOW, client, statement, None, 0.0)
        self.adopt(statement, client)
        return 0

    cdef int drop(self, Statement statement, Client client) except -1:
        """Have the server forget a statement, whether it knows it or not."""
        cdef bytes close = b"C" + (6 + len(statement.name)).to_bytes(4, "big") + b"S" + statement.name + b"\x00"
        self.prepared.pop(statement, None)
        self.channel.stage(close, len(close))
        return self.ledger.put(c'C', SWALLOW, client, statement, None, 0.0)

    cpdef adopt(self, Statement statement, Client client):
        """The server is being taught a statement; beyond the limit it forgets the one used longest ago."""
        self.prepared[statement] = None
        if len(self.prepared) > self.home.statement_limit:
            self.drop(next(iter(self.prepared)), client)

    # What the policy may do with it.

    def detach(self):
        """Take the connection from its client, who has left."""
        if self.session is not None:
            self.session.backend = None
            self.session = None
        self.reader = None

    def ask(self, bytes queries not None, int count, done=None):
        """Send `count` simple queries of ours, then go home.

        `done` is called before with None or the body of the first ErrorResponse; without it an error closes the
        connection, since its state is not what the queries should have made it.
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
            self.ledger.put(c'Q', SWALLOW, None, None, None, 0.0)
        self.unnamed_of = None
        self.channel.send(queries, len(queries))
        self.channel.start_reading()

    def forget_statements(self, Client client=None):
        """DEALLOCATE ALL or DISCARD ALL has run here, for this client: what was sent behind it comes after it."""
        cdef Py_ssize_t i
        cdef Entry *entry
        cdef dict kept = {}
        self.prepared.clear()
        self.unnamed_of = None
        for i in range(self.ledger.count):
            entry = &self.ledger.ring[(self.ledger.first + i) & self.ledger.mask]
            if entry.kind == c'P' and type(<object>entry.note) is Statement:
                if entry.action != FAKE:
                    self.prepared[<object>entry.note] = None
                if <object>entry.name is not None and <object>entry.owner is client:
                    kept[<object>entry.name] = <object>entry.note
        if client is not None:
            client.statements.clear()
            client.statements.update(kept)

    def spoil(self):
        """Its state is in doubt, or a cancel request may still reach it: it goes to nobody else."""
        self.spoiled = True

    def cancel_begins(self):
        """A cancel request is under way: nobody else may have the connection until it has arrived."""
        self.cancelling += 1

    def cancel_ends(self):
        self.cancelling -= 1
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
        if self.closed:
            return 0
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
        if session is not None:
            session.backend = None
            session.orphaned(reason, self.told or half)
        return 0

    @property
    def owes(self):
        """Whether replies are outstanding."""
        return self.ledger.count > 0

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
