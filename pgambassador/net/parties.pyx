# cython: language_level=3, boundscheck=False, wraparound=False
"""Who deals with server connections, as those see them: the client that has one, and the home it returns to.

What is here is what `answers` and `backend` call; `lane` and `session` say what it does.
"""
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from pgambassador.net.tally cimport weigh
from pgambassador.wire.replies cimport begins_like_set, mentions_state


cdef double clock() noexcept:
    """Seconds, monotonic."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec + now.tv_nsec * 1e-9


cdef class Statement:
    """A prepared statement as servers know it: its name there, the Parse that makes it, and its text.

    `shape` is the RowDescription (or NoData) that clients have been told, `age` when that was true.
    """

    def __init__(self, bytes name not None, bytes frame not None, bytes text not None):
        self.name = name
        self.frame = frame
        self.text = text
        self.sets = mentions_state(text, len(text))
        self.resets = begins_like_set(<const unsigned char *>text, len(text))
        # The frame, the text, and what it is found by.
        self.weight = 3 * len(frame)
        weigh(self.weight)

    def __dealloc__(self):
        weigh(-self.weight)

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

    cdef int committed(self) except -1:
        """Outside a transaction a ReadyForQuery is about to reach you."""
        return 0

    cdef int served(self) except -1:
        """Your server connection owes you nothing, and may have been taken back."""
        return 0

    cdef int resume(self) except -1:
        """You were stalled, and more has been answered."""
        return 0

    cdef bint has_left(self) noexcept:
        """Whether your client will send nothing more, though what it has asked is still done."""
        return False

    cdef bint may_read(self) noexcept:
        """Whether you want more of your client's messages."""
        return True

    cdef int cancelled(self, bytes error, bint ended) except -1:
        """What you have asked was cancelled before it began; `ended`: its Sync or all of its query has been sent."""
        return 0

    cdef int orphaned(self, object lost, str reason, bint told) except -1:
        """Your server connection is gone; `told`: its own last words have reached you, or half a message."""
        return 0

    cdef bint reconsiders(self, object refused_by, str sqlstate) except -1:
        """Whether you ask again what is refused: then `request` is set."""
        return False

    cdef int board(self, object backend, double now) except -1:
        """You share a connection."""
        return 0

    cdef int speak(self) except -1:
        """Say what you have to say to the connection that you share; it leaves with the others' words."""
        return 0

    cdef int landed(self) except -1:
        """What you have asked on a connection that you share is answered."""
        return 0

    cdef int again(self, bint at_primary) except -1:
        """Ask once more: nothing of the answer has reached you."""
        return 0

    cdef int refuted(self) except -1:
        """What you have asked does more than read."""
        return 0

    cdef int lasts(self) except -1:
        """What you have asked takes long, or what a neighbour has asked in the same transaction."""
        return 0

    cdef int undone(self) except -1:
        """What you ask again was taken back: your statements are those of before."""
        return 0


cdef class Home:
    """Where a server connection goes when nobody needs it. `policy` decides what is not mechanism."""

    cdef int freed(self, object backend) except -1:
        return 0

    cdef int gone(self, object backend, str reason) except -1:
        return 0
