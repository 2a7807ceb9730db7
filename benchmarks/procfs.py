"""What the kernel says about a program and its children: CPU time and memory, from Linux's /proc."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_TICK = os.sysconf("SC_CLK_TCK")


def tree(root: int) -> list[int]:
    """The process and all its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields:
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def cpu_seconds(pids: list[int]) -> float:
    """User and system time, of all threads, that the processes have used so far."""
    ticks = 0
    for pid in pids:
        fields = _stat(pid)
        if fields:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICK


def rss(pids: list[int]) -> int:
    """Resident bytes, summed."""
    return sum(_status(pid, "VmRSS") for pid in pids)


def reset_peak(pids: list[int]) -> None:
    """Make `peak_rss` count from now on (writing 5 to clear_refs, proc(5))."""
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_rss(pids: list[int]) -> int:
    """The largest resident size since `reset_peak`, exact: no sampling can miss it."""
    return sum(_status(pid, "VmHWM") for pid in pids)


@contextmanager
def on_one_core(pids: list[int]) -> Iterator[None]:
    """Inside the block these processes, and whatever we start, share one core."""
    cores = os.sched_getaffinity(0)
    _pin(pids, {min(cores)})
    try:
        yield
    finally:
        _pin(pids, cores)


def _pin(pids: list[int], cores: set[int]) -> None:
    """The mask belongs to threads, so every thread is told; ours is inherited by what we start."""
    os.sched_setaffinity(0, cores)
    for pid in pids:
        with suppress(OSError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), cores)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the program's name, which may hold spaces and brackets."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _status(pid: int, key: str) -> int:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
