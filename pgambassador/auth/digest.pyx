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
    # So many bytes in base64.
    TEXT = 44

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


cdef void hashed(const unsigned char *message, Py_ssize_t n, unsigned char *digest) noexcept:
    cdef State state
    init(&state)
    update(&state, message, n)
    final(digest, &state)


cdef void keyed(const unsigned char *key, Py_ssize_t size, bytes message, unsigned char *digest) noexcept:
    """With a key of at most `BLOCK` bytes."""
    cdef State state
    cdef unsigned char pad[BLOCK]
    cdef Py_ssize_t i
    for i in range(BLOCK):
        pad[i] = (key[i] if i < size else 0) ^ 0x36
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


def sha256(bytes message not None):
    """32 bytes."""
    cdef unsigned char digest[SIZE]
    if not available:
        return hashlib.sha256(message).digest()
    hashed(message, len(message), digest)
    return digest[:SIZE]


def hmac_sha256(bytes key not None, bytes message not None):
    """32 bytes."""
    cdef unsigned char digest[SIZE]
    if not available or len(key) > BLOCK:
        return hmac.digest(key, message, "sha256")
    keyed(key, len(key), message, digest)
    return digest[:SIZE]


def shown_by(bytes proof not None, bytes stored_key not None, bytes signature not None):
    """The client's key that a SCRAM proof shows (RFC 5802, section 3), None if it is wrong, ValueError if it is not
    32 bytes in base64. How long it takes does not tell where it is wrong."""
    cdef unsigned char key[SIZE + 1]
    cdef unsigned char digest[SIZE]
    cdef const unsigned char *mask = signature
    cdef const unsigned char *stored = stored_key
    cdef int i, wrong = 0
    if len(stored_key) != SIZE or len(signature) != SIZE or len(proof) != TEXT or not decoded(proof, key):
        raise ValueError("a proof has 32 bytes in base64")
    for i in range(SIZE):
        key[i] ^= mask[i]
    if not available:
        shown = key[:SIZE]
        return shown if hmac.compare_digest(hashlib.sha256(shown).digest(), stored_key) else None
    hashed(key, SIZE, digest)
    for i in range(SIZE):
        wrong |= digest[i] ^ stored[i]
    return None if wrong else key[:SIZE]


cdef bint decoded(const unsigned char *text, unsigned char *into) noexcept:
    """32 bytes from `TEXT`, which has one spelling of them (RFC 4648, section 3.5)."""
    cdef int i, found, bits = 0
    cdef unsigned int held = 0
    for i in range(TEXT - 1):
        found = value(text[i])
        if found < 0:
            return False
        held = held << 6 | found
        bits += 6
        if bits >= 8:
            bits -= 8
            into[0] = held >> bits & 0xFF
            into += 1
    return text[TEXT - 1] == b"=" and held & 3 == 0


cdef int value(unsigned char letter) noexcept:
    if b"A" <= letter <= b"Z":
        return letter - <int>b"A"
    if b"a" <= letter <= b"z":
        return letter - <int>b"a" + 26
    if b"0" <= letter <= b"9":
        return letter - <int>b"0" + 52
    return 62 if letter == b"+" else 63 if letter == b"/" else -1
