"""Bytes that wait to be written: a buffer that grows, is taken from at its front, and shrinks when it is empty."""
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove

cdef enum:
    # What an empty one may keep.
    KEEP = 16 * 1024

cdef struct Store:
    char *base
    Py_ssize_t start
    Py_ssize_t used
    Py_ssize_t room


cdef inline int store_add(Store *store, const char *data, Py_ssize_t n) except -1:
    cdef Py_ssize_t room
    cdef char *base
    if store.start and store.start + store.used + n > store.room:
        memmove(store.base, store.base + store.start, store.used)
        store.start = 0
    if store.used + n > store.room:
        room = store.room * 2
        if room < store.used + n:
            room = store.used + n
        if room < 512:
            room = 512
        base = <char *>realloc(store.base, room)
        if base == NULL:
            raise MemoryError
        store.base = base
        store.room = room
    memcpy(store.base + store.start + store.used, data, n)
    store.used += n
    return 0


cdef inline void store_clear(Store *store) noexcept:
    store.start = store.used = 0
    if store.room > KEEP:
        free(store.base)
        store.base = NULL
        store.room = 0
