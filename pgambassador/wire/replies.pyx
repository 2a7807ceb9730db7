# cython: language_level=3, boundscheck=False, wraparound=False
"""What two replies say at a glance: a command's tag, and the head of an ErrorResponse.

1. Neither reads beyond what it is given, whatever a server sent.
2. A tag concerns the session if it may be that of SET, RESET, DISCARD, DEALLOCATE, PREPARE, LISTEN, UNLISTEN,
   LOAD, DO, CALL, CLOSE, DROP, CREATE or ALTER; a few others that begin like them are included, for whoever looks
   closer.
3. An error without SQLSTATE has XX000.
"""
from libc.string cimport memchr, memcmp, strlen

cdef extern from "strings.h" nogil:
    int strncasecmp(const char *a, const char *b, size_t n)

cdef const unsigned char *UNKNOWN = <const unsigned char *>b"XX000"


cdef Command command(const unsigned char *tag, Py_ssize_t n) noexcept:
    """A CommandComplete's tag of n bytes, without its zero byte: the rows it counts come last."""
    cdef Command found
    cdef Py_ssize_t i = n
    cdef unsigned long long scale = 1
    found.rows = 0
    found.concerns_session = found.ends = False
    while i > 0 and c'0' <= tag[i - 1] <= c'9' and n - i < 19:
        found.rows += scale * (tag[i - 1] - c'0')
        scale *= 10
        i -= 1
    if n == 2:
        found.concerns_session = tag[0] == c'D' and tag[1] == c'O'
    elif n >= 3:
        found.concerns_session = (
            (tag[0] == c'S' and tag[1] == c'E' and tag[2] == c'T')
            or (tag[0] == c'R' and tag[1] == c'E' and tag[2] == c'S')
            or (tag[0] == c'D' and (tag[1] == c'I' or tag[1] == c'R' or (tag[1] == c'E' and tag[2] == c'A')))
            or (tag[0] == c'L' and (tag[1] == c'I' or tag[1] == c'O'))
            or (tag[0] == c'U' and tag[1] == c'N')
            or (tag[0] == c'P' and tag[1] == c'R')
            or (tag[0] == c'C' and (tag[1] == c'A' or tag[1] == c'R' or (tag[1] == c'L' and tag[2] == c'O')))
            or (tag[0] == c'A' and tag[1] == c'L')
        )
        found.ends = (
            (tag[0] == c'C' and tag[1] == c'O' and tag[2] == c'M')
            or (tag[0] == c'R' and tag[1] == c'O')
            or (tag[0] == c'P' and n > 8)
        )
    return found


cdef Failure failure(const unsigned char *fields, Py_ssize_t n) noexcept:
    """The fields of an ErrorResponse, as many of them as have come: its SQLSTATE's 5 bytes, and whether it is fatal."""
    cdef Failure found
    cdef const unsigned char *at = fields
    cdef const unsigned char *end = fields + n
    cdef const unsigned char *stop
    found.sqlstate = UNKNOWN
    found.fatal = False
    while at < end and at[0]:
        stop = <const unsigned char *>memchr(at, 0, end - at)
        if stop == NULL:
            break
        if at[0] == c'C' and stop - at == 6:
            found.sqlstate = at + 1
        elif (at[0] == c'V' or at[0] == c'S') and stop - at == 6:
            if memcmp(at + 1, b"FATAL", 5) == 0 or memcmp(at + 1, b"PANIC", 5) == 0:
                found.fatal = True
        at = stop + 1
    return found


cdef const unsigned char *behind_comment(const unsigned char *at, const unsigned char *end) noexcept:
    """Where a comment that begins here ends; those of the one kind may be nested."""
    cdef int depth = 0
    if at[0] == c'-':
        while at < end and at[0] != c'\n' and at[0] != c'\r':
            at += 1
        return at
    while end - at > 1:
        if at[0] == c'/' and at[1] == c'*':
            depth += 1
            at += 2
        elif at[0] == c'*' and at[1] == c'/':
            depth -= 1
            at += 2
            if depth == 0:
                return at
        else:
            at += 1
    return end


cdef bint begins_like_set(const unsigned char *at, Py_ssize_t n) noexcept:
    """Whether a statement begins like SET, RESET, DISCARD, DEALLOCATE or DO, behind whatever means nothing."""
    cdef int first, second
    cdef const unsigned char *end = at + n
    while n > 4 and at[0] <= c';':
        if at[0] in (c' ', c'\n', c'\t', c'\r', c'\f', c'\v', c';'):
            at += 1
        elif (at[0] == c'/' and at[1] == c'*') or (at[0] == c'-' and at[1] == c'-'):
            at = behind_comment(at, end)
        else:
            break
        n = end - at
    if n < 4:
        return False
    first = at[0] | 0x20
    second = at[1] | 0x20
    return (
        (first == c's' and second == c'e' and at[2] | 0x20 == c't')
        or (first == c'r' and second == c'e' and at[2] | 0x20 == c's')
        or (first == c'd' and second in (c'i', c'o', c'e'))
    )


# By the first two letters of a word, as five bits each, its place in WORDS and one more.
cdef unsigned char BY_LETTERS[1024]
cdef const char *WORDS[14]
cdef Py_ssize_t LENGTHS[14]
WORDS[:] = [
    b"temp", b"set_config", b"deallocate", b"hold", b"pg_settings",
    b'u&"', b"currval", b"lastval", b"database", b"advisory",
    b"xml", b"ts_", b"execute", b"prepare",
]


cdef void _fill() noexcept:
    cdef int place
    for place in range(14):
        LENGTHS[place] = strlen(WORDS[place])
        BY_LETTERS[(WORDS[place][0] & 31) << 5 | (WORDS[place][1] & 31)] = place + 1


_fill()


cdef bint mentions_state(const char *text, Py_ssize_t n) noexcept:
    """Whether a statement may leave something in its session that no tag tells of: set_config, temporary objects,
    advisory locks, cursors WITH HOLD, names in disguise, texts that query_to_xml or ts_stat executes; or needs
    something of us: names of statements, currval, lastval, DROP DATABASE. Only their letters are looked for,
    wherever they stand."""
    cdef const unsigned char *at = <const unsigned char *>text
    cdef const unsigned char *end = at + n - 2
    cdef unsigned int pair = 0
    cdef Py_ssize_t place
    if n < 4:
        return False
    pair = at[0]
    while at < end:
        pair = (pair << 5 | (at[1] & 31)) & 1023
        if BY_LETTERS[pair]:
            place = BY_LETTERS[pair] - 1
            if end + 2 - at >= LENGTHS[place] and strncasecmp(<const char *>at, WORDS[place], LENGTHS[place]) == 0:
                return True
        at += 1
    return False


def mentions(bytes text not None):
    """Whether a statement may leave something in its session that no tag tells of."""
    return bool(mentions_state(text, len(text)))


def read_command(bytes tag not None):
    """(rows, whether it concerns the session) of a tag."""
    cdef Command found = command(tag, len(tag))
    return found.rows, bool(found.concerns_session)


def read_failure(bytes fields not None):
    """(SQLSTATE, whether it is fatal) of an ErrorResponse's body, or the beginning of one."""
    cdef Failure found = failure(fields, len(fields))
    return (<const char *>found.sqlstate)[:5].decode("ascii", "replace"), bool(found.fatal)
