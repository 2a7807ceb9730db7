# cython: language_level=3, boundscheck=False, wraparound=False
"""SHA-256 and HMAC-SHA-256 by the OpenSSL that hashlib has loaded, without looking them up by their names each time.

OpenSSL 3 finds an algorithm by its name, in its providers, whenever one is asked for: to a login, which needs two
HMACs of a few hundred bytes, that is dearer than the hashing (RFC 2104 is the whole of it).

1. Where that OpenSSL, or one of the three functions, is not to be had, or FIPS mode has a say, it is Python's own.
"""
import hashlib
import hmac
import sys

cdef extern from "dlfcn.h" nogil:
    void *dlopen(const char *path, int mode)
    void *dlsym(void *handle, const char *name)
    int RTLD_NOW
    int RTLD_NOLOAD

cdef enum:
    BLOCK = 64
    SIZE = 32

# OpenSSL's SHA256_CTX has 112 bytes, and is part of its ABI.
cdef struct State:
    unsigned long long words[32]

ctypedef int (*init_fn)(State *) noexcept
ctypedef int (*update_fn)(State *, const void *, size_t) noexcept
ctypedef int (*final_fn)(unsigned char *, State *) noexcept
ctypedef int (*fips_fn)(void *) noexcept

cdef init_fn init = NULL
cdef update_fn update = NULL
cdef final_fn final = NULL


cdef bint find() except -1:
    """Look the functions up in what hashlib is linked with."""
    global init, update, final
    try:
        import _hashlib
    except ImportError:
        return False
    path = getattr(_hashlib, "__file__", None)
    if path is None or sys.implementation.name != "cpython":
        return False
    cdef void *library = dlopen(path.encode(), RTLD_NOW | RTLD_NOLOAD)
    if library == NULL:
        return False
    cdef fips_fn fips = <fips_fn>dlsym(library, "EVP_default_properties_is_fips_enabled")
    init = <init_fn>dlsym(library, "SHA256_Init")
    update = <update_fn>dlsym(library, "SHA256_Update")
    final = <final_fn>dlsym(library, "SHA256_Final")
    return init != NULL and update != NULL and final != NULL and fips != NULL and not fips(NULL)


available = find()


def sha256(bytes message not None):
    """32 bytes."""
    cdef State state
    cdef unsigned char digest[SIZE]
    if not available:
        return hashlib.sha256(message).digest()
    init(&state)
    update(&state, <const char *>message, len(message))
    final(digest, &state)
    return digest[:SIZE]


def hmac_sha256(bytes key not None, bytes message not None):
    """32 bytes."""
    cdef State state
    cdef unsigned char pad[BLOCK]
    cdef unsigned char digest[SIZE]
    cdef const unsigned char *secret = key
    cdef Py_ssize_t i, n = len(key)
    if not available or n > BLOCK:
        return hmac.digest(key, message, "sha256")
    for i in range(BLOCK):
        pad[i] = (secret[i] if i < n else 0) ^ 0x36
    init(&state)
    update(&state, pad, BLOCK)
    update(&state, <const char *>message, len(message))
    final(digest, &state)
    for i in range(BLOCK):
        pad[i] ^= 0x36 ^ 0x5C
    init(&state)
    update(&state, pad, BLOCK)
    update(&state, digest, SIZE)
    final(digest, &state)
    return digest[:SIZE]
