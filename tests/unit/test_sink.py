"""Where lines go: append, follow a moved file, survive a torn line."""

from __future__ import annotations

import errno
import os

import pytest

from pgambassador.observe.sink import Sink


def test_lines_are_appended(tmp_path):
    path = tmp_path / "queries.log"
    path.write_bytes(b"old\n")
    sink = Sink(str(path))
    sink.write(b"one\n")
    sink.write(b"two\n")
    sink.close()
    sink.close()
    assert path.read_bytes() == b"old\none\ntwo\n"
    assert repr(sink) == str(path)


def test_it_follows_a_file_that_was_moved_away(tmp_path):
    path = tmp_path / "queries.log"
    sink = Sink(str(path))
    sink.write(b"one\n")
    path.rename(tmp_path / "queries.log.1")
    sink.write(b"two\n")
    path.unlink()
    sink.write(b"three\n")
    sink.close()
    assert path.read_bytes() == b"three\n"
    assert (tmp_path / "queries.log.1").read_bytes() == b"one\n"


def test_a_directory_that_is_missing_is_an_error_each_time(tmp_path):
    sink = Sink(str(tmp_path / "missing" / "queries.log"))
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            sink.write(b"x\n")
    (tmp_path / "missing").mkdir()
    sink.write(b"y\n")
    sink.close()
    assert (tmp_path / "missing" / "queries.log").read_bytes() == b"y\n"


def test_a_torn_line_does_not_spoil_the_next(tmp_path, monkeypatch):
    path = tmp_path / "queries.log"
    sink = Sink(str(path))
    real, room = os.write, [4]

    def full(fd, data):
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, bytes(data[: room.pop()]))

    monkeypatch.setattr(os, "write", full)
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            sink.write(b"12345678\n")
    monkeypatch.undo()
    sink.write(b"next\n")
    sink.write(b"last\n")
    sink.close()
    assert path.read_bytes() == b"1234\nnext\nlast\n"
