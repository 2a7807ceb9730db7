"""`python -m tests.warm FD` has imported what the command `pgambassador run` does, and forks: most of a start
is imports, and the tests need hundreds of them.

1. Each line at the socket FD asks for one process: arguments and environment as JSON, and with it its
   standard error and a pipe, into which its process ID is written, and when it has ended its status.
2. That process has nothing of ours but modules. It ends as an interpreter does.
3. When nobody is left at the other end, this one ends too; those that it has started go on.
"""

from __future__ import annotations

import gc
import json
import os
import selectors
import signal
import socket
import sys

import uvloop  # noqa: F401

import pgambassador.process.service  # noqa: F401
from pgambassador.cli import main

MOST = 1 << 20


def serve(asked: socket.socket) -> bool:
    """True in each process that was asked for, False at the end."""
    children: dict[int, int] = {}
    gc.freeze()  # nobody looks at modules again, and so they stay shared
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: those who started us see to it
    ended, wake = socket.socketpair()
    for end in (ended, wake):
        end.setblocking(False)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    with selectors.DefaultSelector() as selector, asked, ended, wake:
        selector.register(asked, selectors.EVENT_READ)
        selector.register(ended, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if ended in ready:
                ended.recv(4096)
                _tell_ends(children)
            if asked not in ready:
                continue
            text, files, *_ = socket.recv_fds(asked, MOST, 2)
            while text and not text.endswith(b"\n"):
                text += asked.recv(MOST)
            if not text:
                return False
            stderr, pipe = files
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.signal(signal.SIGINT, interrupt)
                _become(json.loads(text), stderr, [pipe, *children.values()])
                return True
            os.close(stderr)
            os.write(pipe, b"%d\n" % pid)
            children[pid] = pipe


def _tell_ends(children: dict[int, int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        pipe = children.pop(pid)
        try:
            os.write(pipe, b"%d\n" % os.waitstatus_to_exitcode(status))
        except BrokenPipeError:  # nobody wants to know
            pass
        os.close(pipe)


def _become(wanted: dict[str, dict[str, str]], stderr: int, others: list[int]) -> None:
    for each in others:
        os.close(each)
    os.environ.clear()
    os.environ.update(wanted["environment"])
    os.dup2(stderr, 1)
    os.dup2(stderr, 2)
    os.close(stderr)
    sys.argv[1:] = wanted["arguments"]


if __name__ == "__main__" and serve(socket.socket(fileno=int(sys.argv[1]))):
    sys.exit(main())
