# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The shape of a statement: its tokens, with a placeholder byte for each literal.

1. Statements of equal shape are, to PostgreSQL's scanner, the same tokens but for the values of literals,
   and have the same comments that mention pgambassador.
2. A literal is as it was told apart by the scanner: \\x01 a string, \\x02 a number, \\x03 and \\x04 a string of
   bits. What is between tokens, if anything, is one space.
3. What scans otherwise under another setting, client_encoding or version has no shape: backslashes before a
   quote, bytes above 127 outside of quotes, dollar quotes, U&, N'', strings in several parts, 0x10 and 1_000.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

cdef enum:
    _OTHER = 0
    _SPACE = 1
    _LETTER = 2
    _DIGIT = 3
    _OPERATOR = 4
    _SELF = 5
    _QUOTE = 6
    _NAME = 7
    _DOLLAR = 8
    _DOT = 9

cdef enum:
    _STRING = 1
    _NUMBER = 2
    _BITS = 3
    _HEX = 4

cdef enum:
    # Bytes of a name that a server keeps.
    _NAME_MOST = 63

cdef unsigned char[256] _CLASS
cdef const char *_WORD = b"pgambassador"
cdef Py_ssize_t _WORD_LENGTH = 12


cdef void _classes() noexcept:
    cdef int c
    for c in range(256):
        _CLASS[c] = _OTHER
    for c in b" \t\n\r\f":
        _CLASS[c] = _SPACE
    for c in b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_":
        _CLASS[c] = _LETTER
    for c in b"0123456789":
        _CLASS[c] = _DIGIT
    for c in b"~!@#^&|`?+-*/%<>=":
        _CLASS[c] = _OPERATOR
    for c in b",()[];:":
        _CLASS[c] = _SELF
    _CLASS[c'\''] = _QUOTE
    _CLASS[c'"'] = _NAME
    _CLASS[c'$'] = _DOLLAR
    _CLASS[c'.'] = _DOT


_classes()


cdef inline bint _goes_on(unsigned char c) noexcept nogil:
    """Whether it would be part of the name or number before it."""
    cdef unsigned char kind = _CLASS[c]
    return kind == _LETTER or kind == _DIGIT or kind == _DOLLAR or c >= 128


cdef Py_ssize_t _string(const unsigned char *text, Py_ssize_t at, Py_ssize_t n, bint escapes) noexcept nogil:
    """Where the string ends that begins behind `at`, its first quote."""
    cdef unsigned char c
    at += 1
    while at < n:
        c = text[at]
        if c == c'\'':
            if at + 1 < n and text[at + 1] == c'\'':
                at += 2
                continue
            return _alone(text, at + 1, n)
        if c == c'\\':
            # It may be the second half of a character, or escape or not as settings say.
            if text[at - 1] >= 128 or at + 1 >= n or (text[at + 1] == c'\'' and not escapes):
                return -1
            at += 1
        at += 1
    return -1


cdef Py_ssize_t _bits(const unsigned char *text, Py_ssize_t at, Py_ssize_t n) noexcept nogil:
    """The same of b'10'. There two quotes are an end and a beginning."""
    at += 1
    while at < n and (_CLASS[text[at]] == _LETTER or _CLASS[text[at]] == _DIGIT):
        at += 1
    return _alone(text, at + 1, n) if at < n and text[at] == c'\'' else -1


cdef Py_ssize_t _alone(const unsigned char *text, Py_ssize_t end, Py_ssize_t n) noexcept nogil:
    """`end`, unless the string goes on behind spaces and line comments."""
    cdef Py_ssize_t at = end
    while at < n:
        if _CLASS[text[at]] == _SPACE:
            at += 1
        elif text[at] == c'-' and at + 1 < n and text[at + 1] == c'-':
            at = _line_end(text, at, n)
        else:
            return -1 if text[at] == c'\'' else end
    return end


cdef inline Py_ssize_t _line_end(const unsigned char *text, Py_ssize_t at, Py_ssize_t n) noexcept nogil:
    while at < n and text[at] != c'\n' and text[at] != c'\r':
        at += 1
    return at


cdef Py_ssize_t _block_end(const unsigned char *text, Py_ssize_t at, Py_ssize_t n) noexcept nogil:
    """Comments nest."""
    cdef Py_ssize_t depth = 1
    at += 2
    while at + 1 < n:
        if text[at] == c'*' and text[at + 1] == c'/':
            at += 2
            depth -= 1
            if depth == 0:
                return at
        elif text[at] == c'/' and text[at + 1] == c'*':
            at += 2
            depth += 1
        else:
            at += 1
    return -1


cdef bint _mentions(const unsigned char *text, Py_ssize_t at, Py_ssize_t end) noexcept nogil:
    cdef Py_ssize_t i
    while at + _WORD_LENGTH <= end:
        i = 0
        while i < _WORD_LENGTH and (text[at + i] | 32) == <unsigned char> _WORD[i]:
            i += 1
        if i == _WORD_LENGTH:
            return True
        at += 1
    return False


cdef Py_ssize_t _number(const unsigned char *text, Py_ssize_t at, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t exponent
    while at < n and _CLASS[text[at]] == _DIGIT:
        at += 1
    if at < n and text[at] == c'.':
        at += 1
        if at < n and text[at] == c'.':
            return -1
        while at < n and _CLASS[text[at]] == _DIGIT:
            at += 1
    if at < n and (text[at] | 32) == c'e':
        exponent = at + 1
        if exponent < n and (text[exponent] == c'+' or text[exponent] == c'-'):
            exponent += 1
        if exponent >= n or _CLASS[text[exponent]] != _DIGIT:
            return -1
        at = exponent
        while at < n and _CLASS[text[at]] == _DIGIT:
            at += 1
    if at < n and _goes_on(text[at]):
        return -1
    return at


cdef Py_ssize_t _quoted_name(const unsigned char *text, Py_ssize_t at, Py_ssize_t n) noexcept nogil:
    at += 1
    while at < n:
        if text[at] == c'"':
            if at + 1 >= n or text[at + 1] != c'"':
                return at + 1
            at += 1
        at += 1
    return -1


cdef Py_ssize_t shape(
    const unsigned char *text, Py_ssize_t n, unsigned char *out, Py_ssize_t room
) noexcept nogil:
    """Writes the shape of `text`, and returns its length; -1: it has none, or it does not fit."""
    cdef Py_ssize_t at = 0, end, start, size = 0
    cdef unsigned char c, kind, literal
    cdef bint space = False, comment
    while at < n:
        c = text[at]
        kind = _CLASS[c]
        if kind == _SPACE:
            space = True
            at += 1
            continue
        literal = 0
        comment = False
        start = at
        end = at + 1
        if kind == _LETTER:
            while end < n and (_CLASS[text[end]] == _LETTER or _CLASS[text[end]] == _DIGIT or text[end] == c'$'):
                end += 1
            if end < n:
                if text[end] >= 128:
                    return -1
                if end == at + 1 and text[end] == c'\'':
                    c |= 32
                    if c == c'e':
                        literal = _STRING
                    elif c == c'b':
                        literal = _BITS
                    elif c == c'x':
                        literal = _HEX
                    elif c == c'n':
                        return -1
                    if literal == _STRING:
                        end = _string(text, end, n, True)
                    elif literal:
                        end = _bits(text, end, n)
                elif end == at + 1 and text[end] == c'&' and (c | 32) == c'u' and end + 1 < n and (
                    text[end + 1] == c'\'' or text[end + 1] == c'"'
                ):
                    return -1
        elif kind == _DIGIT:
            literal = _NUMBER
            end = _number(text, at, n)
        elif kind == _QUOTE:
            literal = _STRING
            end = _string(text, at, n, False)
        elif kind == _OPERATOR:
            if end < n and c == c'-' and text[end] == c'-':
                comment = True
                end = _line_end(text, at, n)
            elif end < n and c == c'/' and text[end] == c'*':
                comment = True
                end = _block_end(text, at, n)
        elif kind == _DOT:
            if end < n and text[end] == c'.':
                return -1
            if end < n and _CLASS[text[end]] == _DIGIT:
                literal = _NUMBER
                end = _number(text, at, n)
        elif kind == _NAME:
            end = _quoted_name(text, at, n)
        elif kind == _DOLLAR:
            if end >= n or _CLASS[text[end]] != _DIGIT:
                return -1
            while end < n and _CLASS[text[end]] == _DIGIT:
                end += 1
            if end < n and _goes_on(text[end]):
                return -1
        elif kind == _OTHER:
            return -1
        if end < 0:
            return -1
        at = end
        if comment and not _mentions(text, start, end):
            space = True
            continue
        # The space, a placeholder or the token, and the end of a line that lacks it.
        if size + (1 if literal else end - start) + 2 > room:
            return -1
        if space and size:
            out[size] = c' '
            size += 1
        space = False
        if literal:
            out[size] = literal
            size += 1
            continue
        while start < end:
            out[size] = text[start]
            size += 1
            start += 1
        if comment and c == c'-':
            out[size] = c'\n'
            size += 1
    return size


cdef bint names_fit(const unsigned char *text, Py_ssize_t n) noexcept nogil:
    """Whether a server keeps the names in a shape as they are. Of one that it cuts off it says so as soon as it reads
    the text. A few that would fit count as too long: those with quotes in them."""
    cdef Py_ssize_t at = 0, start
    while at < n:
        start = at
        if text[at] == c'"':
            at = _quoted_name(text, at, n)
            if at < 0 or at - start - 2 > _NAME_MOST:
                return False
        elif at + 1 < n and text[at] == c'/' and text[at + 1] == c'*':
            at = _block_end(text, at, n)
            if at < 0:
                return False
        elif at + 1 < n and text[at] == c'-' and text[at + 1] == c'-':
            at = _line_end(text, at, n)
        elif _goes_on(text[at]):
            while at < n and _goes_on(text[at]):
                at += 1
            if at - start > _NAME_MOST:
                return False
        else:
            at += 1
    return True


def shape_of(bytes text not None):
    """None: it has none."""
    cdef Py_ssize_t n = PyBytes_GET_SIZE(text), size
    cdef bytes out = PyBytes_FromStringAndSize(NULL, n + 2)
    size = shape(
        <const unsigned char *> PyBytes_AS_STRING(text), n, <unsigned char *> PyBytes_AS_STRING(out), n + 2
    )
    return None if size < 0 else out[:size]
