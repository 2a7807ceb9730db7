# cython: language_level=3, boundscheck=False, wraparound=False
"""Readable sockets, many for one call of the event loop.

An event loop runs each callback in a handle and a context of its own, which costs more than a short reply needs
to be relayed. All sockets of the relay are watched by one epoll, and only that is watched by the event loop.

1. `add_reader` and `remove_reader` mean what the event loop's own mean; everything else is the event loop's. A socket
   that is watched can be given another callback so, without a system call; it has to be removed before it is closed.
2. A socket that was removed in the same turn is not called any more, even if its number has been given away.
3. One reactor can come before another: what its sockets have said is heard first. So a server connection's end
   is known before a client, who spoke after it, could be given that connection.
4. A turn goes on while more comes, up to `ROUNDS`: returning to the event loop costs more than another look.
5. Who is in `behind` is told when all that are readable have been heard (`heard_all`), and then no more.
6. What nobody waits for is put off (`later`) until nothing is readable any more: it is done while those who were heard
   make up their minds, and whose answer comes meanwhile does not have to wake a processor that sleeps.
7. A callback that fails is the event loop's to report, and does not keep others from being called.
"""
import os

cdef extern from *:
    """
    #ifdef __linux__
    #include <sys/epoll.h>
    static int pga_create(void) { return epoll_create1(EPOLL_CLOEXEC); }
    static int pga_watch(int watch, int fd, int on) {
        struct epoll_event event = {0};
        event.events = EPOLLIN;
        event.data.fd = fd;
        return epoll_ctl(watch, on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, fd, &event);
    }
    static int pga_ready(int watch, int *fds, int most) {
        struct epoll_event events[64];
        int i, n = epoll_wait(watch, events, most < 64 ? most : 64, 0);
        for (i = 0; i < n; i++) fds[i] = events[i].data.fd;
        return n;
    }
    #else
    static int pga_create(void) { return -1; }
    static int pga_watch(int watch, int fd, int on) { return -1; }
    static int pga_ready(int watch, int *fds, int most) { return 0; }
    #endif
    """
    int pga_create() nogil
    int pga_watch(int watch, int fd, int on) nogil
    int pga_ready(int watch, int *fds, int most) nogil

cdef enum:
    MOST = 64
    ROUNDS = 8


readable = 0
behind = []

cdef int turning = 0
cdef list put_off = []


def later(callback):
    """Call it when this turn has heard all; now, if there is no turn."""
    if turning:
        put_off.append(callback)
    else:
        callback()


cdef class Reactor:
    """Stands in for `loop` where sockets are read; `close` before the loop ends."""

    cdef object loop
    cdef int watch
    cdef list callbacks  # by file descriptor
    cdef Reactor before
    cdef readonly object add_writer
    cdef readonly object remove_writer
    cdef readonly object call_soon

    def __init__(self, loop, Reactor before=None):
        self.loop = loop
        self.callbacks = []
        self.before = before
        self.add_writer = loop.add_writer
        self.remove_writer = loop.remove_writer
        self.call_soon = loop.call_soon
        self.watch = pga_create()
        if self.watch < 0:
            raise OSError("this system has no epoll")
        loop.add_reader(self.watch, self.turn)

    def add_reader(self, int fd, callback):
        while len(self.callbacks) <= fd:
            self.callbacks.append(None)
        watched = self.callbacks[fd] is not None
        self.callbacks[fd] = callback
        if not watched and pga_watch(self.watch, fd, True) < 0:
            self.callbacks[fd] = None
            raise OSError(f"file descriptor {fd} cannot be watched")

    def remove_reader(self, int fd):
        if 0 <= fd < len(self.callbacks) and self.callbacks[fd] is not None:
            self.callbacks[fd] = None
            pga_watch(self.watch, fd, False)

    def turn(self):
        """Call what is readable, until nothing is, or others have waited long enough for the event loop."""
        global turning
        cdef int _round
        turning += 1
        try:
            for _round in range(ROUNDS):
                if (self.before.step() if self.before is not None else 0) + self.step() == 0:
                    break
        finally:
            turning -= 1
        while put_off and not turning:
            callback = put_off.pop()
            try:
                callback()
            except Exception as error:
                self.report(callback, error)

    cdef int step(self) except -1:
        """Call what is readable, each once; how many."""
        global readable
        cdef int fds[MOST]
        cdef int i, n
        n = pga_ready(self.watch, fds, MOST)
        cdef list ready = [self.callbacks[fds[i]] for i in range(n)]
        readable = n if self.before is not None else 0
        for i in range(n):
            callback = ready[i]
            if callback is None or self.callbacks[fds[i]] is not callback:
                continue
            try:
                callback()
            except Exception as error:
                self.report(callback, error)
        readable = 0
        while behind:
            callback = behind.pop()
            try:
                callback.heard_all()
            except Exception as error:
                self.report(callback, error)
        return n

    cdef int report(self, callback, error) except -1:
        self.loop.call_exception_handler({"message": f"in {callback!r}", "exception": error})
        return 0

    def close(self):
        if self.watch >= 0:
            self.loop.remove_reader(self.watch)
            os.close(self.watch)
            self.watch = -1
            self.callbacks = []

    def __repr__(self):
        return f"<Reactor {len(self.callbacks) - self.callbacks.count(None)} sockets>"


def reactor(loop, before=None):
    """A Reactor where the system has epoll, else the event loop itself."""
    try:
        return Reactor(loop, before if isinstance(before, Reactor) else None)
    except OSError:
        return loop
