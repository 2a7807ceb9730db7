# cython: language_level=3, boundscheck=False, wraparound=False
"""What a server says: read, settled against the ledger of what it owes, and handed to those who are owed it.

1. Every message is matched with the ledger before it goes anywhere. A message that no entry explains, or that its
   entry cannot have, ends the connection: a reply must never reach a client that did not ask.
2. What a client is given is the bytes as they came, in runs as long as they can be; what was swallowed leaves no
   trace, and what we owe ourselves (a FAKE) is paid when it is its turn.
"""
from libc.string cimport memcpy

from pgambassador.net.channel cimport Channel
from pgambassador.net.failures cimport CHANGED_ROWS, SURVEY
from pgambassador.net.parties cimport Client, Home, Statement, clock
from pgambassador.protocol.ledger cimport BROKEN, FAKE, FORWARD, SWALLOW, UNOWED, Entry, Ledger
from pgambassador.wire.framing cimport MORE, Scanner
from pgambassador.wire.replies cimport Command, command, failure

from pgambassador.errors import ProtocolViolation
from pgambassador.net.statements import same_rows, with_types
from pgambassador.wire.framing import WHOLE

# What a server may send after its login, and how much of it we look at.
cdef dict NEEDS = {ord(kind): 5 for kind in "123DGHINTVWAcdnstv"}
NEEDS[ord("Z")] = NEEDS[ord("S")] = NEEDS[ord("C")] = WHOLE
NEEDS[ord("A")] = 9  # a process ID
NEEDS[ord("E")] = NEEDS[ord("N")] = 128  # severity and SQLSTATE stand at its beginning
cdef Py_ssize_t SERVER_LIMIT = 0x7FFFFFFF
cdef Py_ssize_t WHOLE_LIMIT = 1024 * 1024

# Errors longer than this may show our names of statements.
cdef Py_ssize_t NAMED_MOST = 64 * 1024
# Of what a session has set, as the server tells it.
cdef Py_ssize_t ROWS_MOST = 3 * 1024 * 1024
# Descriptions longer than this are not kept.
cdef Py_ssize_t SHAPE_MOST = 16 * 1024


cdef class Answers(Failures):
    """The half of a server connection that listens; `Backend` is the whole of it."""

    def __init__(self, loop, Channel channel not None, Home home not None, dict parameters not None):
        self.loop = loop
        self.channel = channel
        self.home = home
        self.parameters = parameters
        self.ledger = Ledger()
        self.scanner = Scanner(NEEDS, SERVER_LIMIT, WHOLE_LIMIT)
        self.prepared = {}
        self.dropping = {}
        self.landing = []
        self.status = c'I'
        self.sqlstate = ""
        channel.on_readable = self.on_readable

    cdef int settle_down(self) except -1:
        """What came has been dealt with."""
        return 0

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

    cdef int take(self, Py_ssize_t n) except -1:
        """Settle n bytes of the shared buffer."""
        cdef Scanner scanner = self.scanner
        cdef Client owner = None, creditor
        cdef const unsigned char *run = NULL
        cdef Py_ssize_t length = 0
        cdef int kind
        cdef bint due, news, again
        cdef double now = clock()
        cdef Home home = self.home
        scanner.begin(<const unsigned char *>shared, n)
        try:
            while True:
                kind = scanner.next()
                if kind == 0:
                    break
                if kind != MORE:
                    if scanner.left and self.wants_all(kind):
                        scanner.ask(scanner.size)
                        continue
                    again = (kind == c'E' or kind == c'N') and self.ledger.count and self.asks_again(kind)
                    if again and owner is not None and owner is <object>self.ledger.head().owner:
                        length = 0
                        owner = None
                    due = not again and self.ledger.count and self.ledger.head().action == FAKE
                    news = kind == c'Z' and self.unsettled and self.session is not None
                    if length and (kind == c'E' or due or news):
                        owner.request = None
                        home.bytes_sent += length
                        owner.channel.stage(<const char *>run, length)
                        length = 0
                        if kind == c'E':
                            owner.channel.flush()  # an error may have its client do something else
                    if due:
                        self.pay()
                    if news:
                        self.settle_news()
                    self.message(kind, now)
                    if self.closed:
                        break
                    if self.instead is not None:
                        if length:
                            owner.channel.send(<const char *>run, length)
                            length = 0
                        self.reader.request = None
                        self.reader.channel.send(self.instead, len(self.instead))
                        self.reader = self.instead = None
                # The message, or the next piece of it, goes to `reader` (nobody: it is swallowed).
                if self.reader is not owner or (length and scanner.at != run + length):
                    if length:
                        owner.request = None
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
        except Exception as error:
            # What came before it was still an answer, or is asked for elsewhere.
            if length and owner.request is None:
                owner.channel.send(<const char *>run, length)
            length = 0
            if isinstance(error, ProtocolViolation):
                self.reader = None
                self.lose(f"the server broke the protocol: {error.message}")
            else:  # Ours. What the connection owes is not known any more.
                self.home.policy.broke(self, error)
                self.lose("an internal error of pgambassador")
        home.bytes_sent += length
        if length:
            owner.request = None
        if not self.closed and not scanner.left and self.ledger.count and self.ledger.head().action == FAKE:
            if length:
                owner.channel.stage(<const char *>run, length)
                length = 0
            creditor = <Client>self.ledger.head().owner
            # Who may yet have to ask again is paid with the server's next word.
            if creditor is None or creditor.request is None:
                self.pay()
            if creditor is not None:
                creditor.channel.flush()
        if length:
            owner.channel.send(<const char *>run, length)
        elif owner is not None:
            owner.channel.flush()
        scanner.finish()
        if self.closed:
            return 0
        if owner is not None and owner.channel.backlog() > home.high_water:
            self.channel.stop_reading()
        return self.settle_down()

    cdef int settle_news(self) except -1:
        """The first ReadyForQuery behind a change of hands. A parameter that the client has set to what the server
        had reported last, before that change, is not reported to it: the server says only what differs."""
        cdef bytes news = self.home.policy.unreported(self.session, self)
        self.unsettled = False
        if self.consoles:
            self.session.bereaved = False
        return self.session.channel.stage(news, len(news))

    cdef bint wants_all(self, int kind) noexcept:
        """Whether the message is for us, and has to be read to its end."""
        if kind == c'E':
            named = self.ledger.count and type(<object>self.ledger.head().note) is Statement
            named = named or self.excuse is not None
            if self.fence or self.done is not None or (named and self.scanner.size <= NAMED_MOST):
                return True
            return self.scanner.size <= NAMED_MOST and failure(self.scanner.at + 5, self.scanner.have - 5).fatal
        if kind == c'T':
            return self.described is not None and self.scanner.size <= SHAPE_MOST
        if kind == c't':
            return self.scanner.size <= SHAPE_MOST
        if kind == c'N':
            return self.scanner.size <= NAMED_MOST and self.in_company()
        if kind != c'D' or self.rows_asked is None or <object>self.ledger.head().note is not SURVEY:
            return False
        return self.done is not None or self.scanner.size <= min(WHOLE_LIMIT, ROWS_MOST - self.rows_held)

    cdef int message(self, int kind, double now) except -1:
        """Who reads the message that begins here, and what it changes before it is passed on."""
        cdef int verdict = self.ledger.verdict(kind)
        cdef Entry *head
        if kind == c'3' and self.ledger.count and self.ledger.head().kind == c'p':
            (<unsigned char *>self.scanner.at)[0] = c'1'
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
        elif verdict == SWALLOW:
            self.reader = None
        else:
            head = self.ledger.head()
            self.reader = <Client>head.owner
            self.said += self.scanner.size
            if self.reader.request is not None and kind in (c'D', c'C', c'I', c'Z', c's', c'G', c'H', c'W'):
                self.reader.request = None
        if kind == c'A':
            # For who listens, whatever is being answered, a question of ours perhaps.
            self.reader = self.session if self.pinned or self.home.sticky else None
            if self.reader is not None and self.scanner.have >= 9:
                self.sender(<unsigned char *>self.scanner.at + 5)
        elif kind == c'N':
            if self.reader is not None and (self.says_farewell() or self.quotes_others()):
                self.reader = None
        elif kind == c'S':
            if not self.parameter():
                self.reader = None
            else:
                self.reader.request = None  # it is told of it once
        elif kind == c'E':
            self.error(verdict, now)
        elif kind == c'D':
            if verdict == SWALLOW and self.rows_asked is not None:
                self.rows_held += self.scanner.size
                if self.done is None and (self.scanner.left or self.rows_held > ROWS_MOST):
                    self.rows_asked = [b""]
                    self.rows_held = ROWS_MOST
                else:
                    self.rows_asked.append((<const char *>self.scanner.at)[:self.scanner.have])
        elif kind == c'G':
            self.copying = not self.ledger.copy_in()
            self.copy_syncs = False
            if self.copying and self.ledger.count > 1:
                self.interrupt()
        elif kind == c'Z':
            self.status = self.scanner.at[5]
            self.copying = self.erred = False
            self.executed = 0
            self.farewell = None
        elif kind == c'C':
            self.copying = False
            if verdict == FORWARD:
                self.tag()
        elif kind == c't' or ((kind == c'T' or kind == c'n') and self.described is not None):
            self.learn(kind, verdict)
        return 0

    cdef int interrupt(self) except -1:
        """What stands behind a COPY belongs to it. If it was not sent, the server must hear of it all the same."""
        cdef Entry *behind = &self.ledger.ring[(self.ledger.first + 1) & self.ledger.mask]
        cdef bytes frame
        if behind.action == FAKE:
            frame = bytes((behind.kind,)) + b"\x00\x00\x00\x06S\x00"
            self.channel.send(frame, len(frame))
        return 0

    cdef int learn(self, int kind, int verdict) except -1:
        """What rows a prepared statement has, as its clients have been told, or as we have asked again."""
        cdef Entry *head = self.ledger.head()
        cdef Statement statement = self.described
        if kind == c't':
            if self.ledger.count and head.kind == c'D' and type(<object>head.note) is Statement:
                self.described = statement = <Statement>head.note
                if verdict == FORWARD and statement.shape is None and not self.scanner.left:
                    # As on one connection: what was inferred once is not inferred anew from a table that has changed.
                    statement.frame = with_types(statement.frame, (<const char *>self.scanner.at)[:self.scanner.have])
            return 0
        self.described = None
        shape = None if self.scanner.left else (<const char *>self.scanner.at)[:self.scanner.have]
        if verdict == FORWARD:
            if statement.shape is None:
                statement.shape, statement.age = shape, self.home.policy.statements.age
        elif statement in self.prepared:
            if shape is not None and same_rows(shape, statement.shape):
                statement.age = self.asked_at
                self.prepared[statement] = None
            else:
                self.prepared[statement] = CHANGED_ROWS
        return 0

    cdef int sender(self, unsigned char *at) except -1:
        """Who has sent a notification: a client knows itself by the process ID that it was given at its login."""
        cdef bytes pid = self.home.policy.pid_told(self.session, self, (<const char *>at)[:4])
        memcpy(at, <const char *>pid, 4)
        return 0

    cdef bint parameter(self) except -1:
        """ParameterStatus: note it; the policy decides what it means for the client, and whether it is news."""
        cdef bytes body = (<const char *>self.scanner.at)[5:self.scanner.have]
        cdef list parts = body.split(b"\x00")
        if len(parts) != 3:
            raise ProtocolViolation("a ParameterStatus is malformed")
        name = parts[0].decode("utf-8", "replace")
        value = parts[1].decode("utf-8", "surrogateescape")
        if self.session is None and self.rows_asked is not None and self.parameters.get(name) != value:
            self.home.policy.overheard()  # no question of ours sets anything
        self.parameters[name] = value
        if self.session is None or self.session in self.landing:
            return False  # who asks again elsewhere is told there
        if not self.home.policy.reported(self.session, self, name, value):
            return False
        self.reader = self.session
        return True

    cdef int tag(self) except -1:
        """CommandComplete: count rows; a tag that may concern the session goes to the policy."""
        cdef const unsigned char *tag = self.scanner.at + 5
        cdef Py_ssize_t n = self.scanner.have - 6
        cdef Command found = command(tag, n)
        self.rows += found.rows
        if self.ledger.head().kind == c'E':
            self.executed = max(self.executed, 1 + found.ends)
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
        if self.fence and <object>head.note is not SURVEY:
            self.fence -= 1
        if of == c'C' and head.action == SWALLOW and <object>head.note is not None:
            self.dropped(<Statement>head.note)
        if head.action == FORWARD and (of == c'Q' or of == c'E' or of == c'q'):
            (<Client>head.owner).settled(of, <object>head.note, head.started, now, self.rows, self.sqlstate)
        if kind == c'Z':
            if head.action == FORWARD:
                (<Client>head.owner).rested = now
                if self.riders is not None:
                    self.landing.append(<object>head.owner)
            if self.status == c'I':
                self.begun = 0
            elif self.begun == 0:
                self.begun = head.started
            if self.status == c'I' and head.action == FORWARD:
                self.home.transactions += 1
                (<Client>head.owner).committed()
            self.sqlstate = ""
            self.said = 0
            if <object>head.note is SURVEY:
                self.aimed = False
                rows, self.rows_asked = self.rows_asked, None
                if self.session is not None:
                    self.home.policy.answered(self.session, self, rows)
        self.rows = 0
        self.ledger.drop_head()
        return 0

    cdef bint mid_reply(self, Client client) noexcept:
        """Whether the client has been given only a part of a message."""
        return client is not None and self.scanner.left > 0 and self.reader is client

    # What the policy may ask.

    @property
    def turn(self):
        """Which of all that was ever asked here is being answered."""
        return self.ledger.total - self.ledger.count

    @property
    def alone(self):
        """Which of all ends the statement that is being answered, if that has a transaction of its own; else None.
        In the extended protocol something may have been executed before it."""
        cdef int kind
        if self.ledger.count == 0 or self.status != c'I':
            return None
        kind = self.ledger.head().kind
        if kind == c'Q':
            return self.turn
        if kind != c'E' or self.ledger.count == 1:
            return None
        kind = self.ledger.ring[(self.ledger.first + 1) & self.ledger.mask].kind
        return self.turn + 1 if kind == c'S' else None
