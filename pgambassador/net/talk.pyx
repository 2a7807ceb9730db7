# cython: language_level=3, boundscheck=False, wraparound=False
"""A dialogue with a client that has no session yet: the task that holds it goes on at its end, not at each message.

1. What the dialogue says is sent, and its answer given to it, where the socket is heard. A task would be woken for
   each message through all the layers of a login, which is dearer than what the message needs.
2. An answer is looked at when `delay` allows it: nothing happens between the two. Until then, and in a pause, what
   the client says is kept, up to a bound, and its end is noticed.
3. A message's length is judged at its header. What comes behind the last one is kept for who follows (`rest`).
"""
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from pgambassador.net.channel cimport Channel
from pgambassador.net.herald cimport Newcomer
from pgambassador.net.word cimport Word

from pgambassador.wire.frames import take_frame

cdef extern from "Python.h":
    ctypedef enum PySendResult:
        PYGEN_RETURN, PYGEN_ERROR, PYGEN_NEXT
    PySendResult PyIter_Send(object, object, PyObject **) except PYGEN_ERROR

cdef enum:
    ROOM = 16 * 1024

# PasswordMessage and SASL responses; a server allows as much.
cdef Py_ssize_t LIMIT = 65535 + 4

cdef char inbox[ROOM]


class Gone(Exception):
    """The client closed the connection; there is nobody to tell."""


cdef class Talk(Word):
    """`early` are bytes that came behind the start packet; `newcomer` knows what the client has been told already."""

    cdef Channel channel
    cdef Newcomer newcomer
    cdef bytearray kept
    cdef object dialogue
    cdef object delay
    cdef object timer
    # What waits for its turn.
    cdef object frame
    cdef bint over
    cdef object outcome
    cdef object error

    def __init__(self, loop, Channel channel not None, bytes early not None, Newcomer newcomer=None):
        Word.__init__(self, loop)
        self.channel, self.newcomer = channel, newcomer
        self.kept = bytearray(early)
        channel.on_readable = self.on_readable

    def hold(self, dialogue, delay):
        """Begin; awaited it is the dialogue's result. `delay(now)`: seconds that an answer has to wait, 0 for none."""
        self.dialogue, self.delay = dialogue, delay
        self.over = False
        self.outcome = self.error = None
        self.advance(None)
        self.take()
        if self.dialogue is not None:
            self.channel.start_reading()
        return self

    def pause(self, double seconds):
        """Begin to let time pass; Gone if the client goes."""
        self.over = False
        self.outcome = self.error = None
        self.timer = self.loop.call_later(seconds, self.rested)
        if len(self.kept) < LIMIT:
            self.channel.start_reading()
        return self

    def rest(self):
        """What the client has sent behind its last message."""
        return bytes(self.kept)

    def on_readable(self):
        """The socket has bytes, or its end."""
        cdef Py_ssize_t n
        if not self.listens() or len(self.kept) >= LIMIT + ROOM:
            self.channel.stop_reading()
            return
        while self.listens() and len(self.kept) < LIMIT + ROOM:
            n = self.channel.fill(inbox, ROOM)
            if n == -1:
                return
            if n <= 0:
                self.end(None, Gone())
                return
            self.hear(n)
            if not self.channel.more:
                return

    cdef bint listens(self) noexcept:
        """Whether somebody waits for what the client says now; else it may be another one's, who is told of it."""
        return self.dialogue is not None or self.timer is not None

    cdef int hear(self, Py_ssize_t n) except -1:
        cdef const unsigned char *at = <const unsigned char *>inbox
        cdef Py_ssize_t length = <Py_ssize_t>at[1] << 24 | at[2] << 16 | at[3] << 8 | at[4]
        if n >= 5 and length == n - 1 and not self.kept and self.timer is None:
            return self.look_at((<int>at[0], inbox[5:n]))  # the one message that was waited for, as usual
        self.kept += inbox[:n]
        return self.take()

    cdef int take(self) except -1:
        """Go on with what is kept."""
        while self.kept and self.dialogue is not None and self.timer is None:
            try:
                frame = take_frame(self.kept, LIMIT)
            except Exception as error:
                return self.end(None, error)
            if frame is None:
                return 0
            self.look_at(frame)
        return 0

    cdef int look_at(self, frame) except -1:
        """An answer has come, or its turn."""
        cdef double seconds = self.delay(self.loop.time())
        cdef bytes greeting
        if seconds > 0:
            self.frame = frame
            self.timer = self.loop.call_later(seconds, self.rested)
            return 0
        if self.newcomer is not None and not self.cancelled:
            greeting = self.newcomer.greet(frame)
            if greeting is not None:
                self.channel.send(<const char *>greeting, len(greeting))
        return self.advance(frame)

    cdef int advance(self, frame) except -1:
        """The dialogue goes on."""
        cdef PyObject *said = NULL
        cdef PySendResult how
        try:
            how = PyIter_Send(self.dialogue, frame, &said)
        except BaseException as error:
            return self.end(None, error)
        data = <object>said
        Py_DECREF(data)
        if how == PYGEN_RETURN:
            return self.end(data, None)
        if self.newcomer is not None:
            try:
                if self.newcomer.told(frame, <bytes>data):
                    return 0
            except Exception as error:
                return self.end(None, error)
        return self.channel.send(<const char *>(<bytes>data), len(<bytes>data))

    def rested(self):
        """Time has passed."""
        self.timer = None
        if self.dialogue is None:
            self.end(None, None)
            return
        self.channel.start_reading()
        frame, self.frame = self.frame, None
        self.look_at(frame)
        self.take()

    cdef int end(self, outcome, error) except -1:
        self.dialogue = self.delay = self.frame = None
        self.stop_timer()
        self.over = True
        self.outcome, self.error = outcome, error
        self.heard()
        return 0

    cdef int stop_timer(self) except -1:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        return 0

    # What a task asks of what it waits for.

    def result(self):
        if self.cancelled:
            self.stop_timer()
        Word.result(self)

    def __next__(self):
        if self.waited or self.over:
            error, self.error = self.error, None
            if error is not None:
                raise error
            outcome, self.outcome = self.outcome, None
            raise StopIteration(outcome)
        self.waited = self._asyncio_future_blocking = True
        return self
