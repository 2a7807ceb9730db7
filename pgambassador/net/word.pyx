# cython: language_level=3
"""A task's wait for its own socket, which goes on where the socket is heard.

1. It is to a task what a future is (asyncio: "future-like"), but wakes it at once: by way of a future each step is a
   turn of the event loop more, with a handle, and one more look at all sockets.
2. `heard` is called by the event loop or a reactor, never within a task: two cannot run one in the other.
3. One task waits at a time.
"""
import asyncio


cdef class Word:
    """Await it as often as needed."""

    def __init__(self, loop):
        self.loop = loop

    cpdef bint heard(self) except -1:
        """Whether somebody waited, who has gone on now."""
        wake, self.wake = self.wake, None
        if wake is None:
            return False
        wake(self)
        return True

    def __await__(self):
        self.cancelled = self.waited = False
        return self

    def __iter__(self):
        return self

    def __next__(self):
        if self.waited:
            raise StopIteration
        self.waited = self._asyncio_future_blocking = True
        return self

    # What a task asks of what it waits for.

    def get_loop(self):
        return self.loop

    def add_done_callback(self, wake, *, context=None):
        self.wake = wake

    def cancel(self, msg=None):
        if self.wake is None:
            return False
        self.cancelled = True
        self.loop.call_soon(self.heard)
        return True

    def result(self):
        if self.cancelled:
            raise asyncio.CancelledError

    def __repr__(self):
        return f"<{type(self).__name__} {'awaited' if self.wake is not None else 'idle'}>"
