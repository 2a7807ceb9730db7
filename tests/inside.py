"""`python -m tests.inside` is the command `pgambassador` with somebody inside who counts.

A thread of its own answers at the Unix socket that INSIDE names: which tasks there are, and how late the
event loop was at worst since it was last asked.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import threading
import time

from pgambassador.cli import main
from pgambassador.net import tasks

EVERY = 0.005


class _Watcher:
    def __init__(self) -> None:
        self._late: list[float] = []
        self._lock = threading.Lock()

    def watch(self) -> None:
        """Something is put into the loop's queue again and again: when was its turn?"""
        while not (loop := _loop()):
            time.sleep(EVERY)
        while not loop.is_closed():
            there = threading.Event()
            began = time.monotonic()

            def turn(began: float = began, there: threading.Event = there) -> None:
                late = time.monotonic() - began
                with self._lock:
                    self._late.append(late)
                there.set()

            try:
                loop.call_soon_threadsafe(turn)
            except RuntimeError:  # closed in between
                return
            there.wait()
            time.sleep(EVERY)

    def serve(self, path: str) -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            while True:
                end, _ = listener.accept()
                with end:
                    end.sendall(self._look())

    def _look(self) -> bytes:
        with self._lock:
            late, self._late = sorted(self._late), []
        loop = _loop()
        names: dict[str, int] = {}
        for task in asyncio.all_tasks(loop) if loop else ():
            name = task.get_name().partition(" ")[0].rstrip("-0123456789")
            names[name] = names.get(name, 0) + 1
        return json.dumps(
            {
                "tasks": names,
                "lag": late[-1] if late else 0.0,
                "median": late[len(late) // 2] if late else 0.0,
            }
        ).encode()


def _loop() -> asyncio.AbstractEventLoop | None:
    for task in list(tasks._running):  # every task of ours is among them
        return task.get_loop()
    return None


if __name__ == "__main__":
    watcher = _Watcher()
    threading.Thread(target=watcher.watch, daemon=True).start()
    threading.Thread(target=watcher.serve, args=(os.environ["INSIDE"],), daemon=True).start()
    sys.exit(main())
