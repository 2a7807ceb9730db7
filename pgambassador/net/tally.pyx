# cython: language_level=3, boundscheck=False, wraparound=False
"""How many bytes this process holds for all its clients together, counted where they are kept and let go.

Counted is what a peer decides how much it is: incomplete messages, prepared statements, and what a reader has not
taken yet. `on_tight` is called once when it has become more than `tight`, and again after `look_again`.
"""

cdef Py_ssize_t held = 0
cdef Py_ssize_t tight = 1 << 62
cdef object on_tight = None
cdef bint told = False


cdef int weigh(Py_ssize_t change) except -1:
    """So much more, or less."""
    global held, told
    held += change
    if change > 0 and held > tight and not told and on_tight is not None:
        told = True
        on_tight()
    return 0


def held_now():
    """Bytes."""
    return held


def look_again():
    """Tell of it again when it grows."""
    global told
    told = False


def limit(Py_ssize_t most, called):
    """From now on."""
    global tight, on_tight, told
    tight = most
    on_tight = called
    told = False
