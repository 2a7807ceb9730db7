"""Files for the next process: what was written is read, and nothing else, whatever is there."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgambassador.net.names import AGE
from pgambassador.process.store import AHEAD, LIMIT, Busy, Kept, Store, Unusable

NOW = 1_700_000_000.0
BODY = {"db.example": [["10.0.0.1", "fd00::1"], NOW - 5], "ü": None}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(str(tmp_path / "state"), lambda: NOW)
    made.write("addresses", Kept(NOW - 5, BODY))
    return made


def file(store: Store, kind: str = "addresses") -> Path:
    return Path(store.directory) / kind


def refusal(store: Store, kind: str = "addresses") -> str:
    with pytest.raises(Unusable) as caught:
        store.read(kind)
    return str(caught.value)


def signed(content: bytes, head: str = "pgambassador state 1 addresses") -> bytes:
    return f"{head} {hashlib.sha256(content).hexdigest()}\n".encode() + content


def test_what_is_written_is_read(store: Store) -> None:
    assert store.read("addresses") == Kept(NOW - 5, BODY)
    store.write("addresses", Kept(NOW, ["other"]))
    assert store.read("addresses") == Kept(NOW, ["other"])
    assert os.listdir(store.directory) == ["addresses"]


def test_nothing_there(store: Store, tmp_path: Path) -> None:
    assert store.read("servers") is None
    assert Store(str(tmp_path / "missing")).read("addresses") is None


def test_it_is_for_nobody_else(store: Store) -> None:
    before = os.umask(0)
    try:
        store.write("servers", Kept(NOW, {}))
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(store.directory).st_mode) == 0o700
    assert stat.S_IMODE(file(store, "servers").stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_that_others_can_use(store: Store, mode: int) -> None:
    file(store).chmod(mode)
    assert refusal(store) == "it is open to other users of this machine"


def test_a_directory_that_others_can_write(store: Store) -> None:
    os.chmod(store.directory, 0o777)
    assert refusal(store) == "the directory is open to other users of this machine"
    with pytest.raises(Unusable, match="is open to"):
        store.write("addresses", Kept(NOW, {}))


def test_a_directory_that_others_can_read_is_no_harm(store: Store) -> None:
    os.chmod(store.directory, 0o755)
    assert store.read("addresses") is not None


def test_what_belongs_to_somebody_else(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: ours + 1)
    assert refusal(store) == "the directory belongs to another user of this machine"


def test_what_is_no_plain_file(store: Store) -> None:
    os.mkfifo(file(store, "pipe"), 0o600)
    assert refusal(store, "pipe") == "it is not a plain file"
    file(store, "link").symlink_to(file(store))
    assert "symbolic link" in refusal(store, "link")
    file(store, "folder").mkdir(mode=0o700)
    assert refusal(store, "folder")
    assert Store(str(file(store))).directory and refusal(Store(str(file(store)))) == "not a directory"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "another format"),
        (b"\x00" * 4096, "another format"),
        (signed(b'{"at": 1700000000, "body": 1}', "pgambassador state 2 addresses"), "another format"),
        (signed(b'{"at": 1700000000, "body": 1}', "pgambassador state 1 servers"), "damaged"),
        (signed(b'{"at": NaN, "body": 1}'), "damaged"),
        (signed(b'{"at": 1e999, "body": 1}'), "yet to come"),
        (signed(b'{"at": -1e999, "body": 1}'), "yet to come"),
        (signed(b'{"at": [], "body": 1}'), "damaged"),
        (signed(b'{"at": 1700000000}'), "damaged"),
        (signed(b"[" * 100_000), "damaged"),
        (signed(b"\xff"), "damaged"),
        (signed(b" " * LIMIT), "too long"),
    ],
)
def test_what_somebody_else_has_written(store: Store, text: bytes, said: str) -> None:
    file(store).write_bytes(text)
    assert said in refusal(store)


@pytest.mark.parametrize(
    ("at", "said"),
    [(NOW - AGE - 1, "it is too old"), (NOW + AHEAD + 1, "it was written at a time that is yet to come")],
)
def test_its_time(store: Store, at: float, said: str) -> None:
    store.write("addresses", Kept(at, BODY))
    assert refusal(store) == said


def test_a_clock_that_was_put_back_a_little(store: Store) -> None:
    store.write("addresses", Kept(NOW + 60, BODY))
    assert store.read("addresses") == Kept(NOW, BODY)


def test_what_is_too_long_is_not_written(store: Store) -> None:
    with pytest.raises(Unusable, match="larger than 1 MiB"):
        store.write("addresses", Kept(NOW, "x" * LIMIT))
    assert store.read("addresses") == Kept(NOW - 5, BODY)


def test_what_a_process_has_left_that_died(store: Store) -> None:
    file(store, "addresses.new").write_bytes(b"half")
    store.write("addresses", Kept(NOW, 1))
    assert store.read("addresses") == Kept(NOW, 1)
    assert os.listdir(store.directory) == ["addresses"]


def test_two_processes_do_not_write_at_once(store: Store) -> None:
    directory = os.open(store.directory, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        with pytest.raises(Busy, match="another process"):
            store.write("addresses", Kept(NOW, 1))
    finally:
        os.close(directory)
    assert store.read("addresses") == Kept(NOW - 5, BODY)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="no such file or directory"):
        Store(str(tmp_path / "a" / "b")).write("addresses", Kept(NOW, 1))


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_is_damaged_is_never_taken(store: Store, data: st.DataObject) -> None:
    store.write("addresses", Kept(NOW - 5, BODY))
    text = bytearray(file(store).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        match data.draw(st.sampled_from(("cut", "flip", "insert", "drop"))):
            case "cut":
                del text[at:]
            case "insert":
                text[at:at] = data.draw(st.binary(min_size=1, max_size=8))
            case "drop":
                del text[at : at + 3]
            case "flip" if at < len(text):
                text[at] ^= data.draw(st.integers(1, 255))
    whole = file(store).read_bytes()
    file(store).write_bytes(text)
    try:
        found = store.read("addresses")
    except Unusable:
        assert bytes(text) != whole
    else:
        assert found == Kept(NOW - 5, json.loads(json.dumps(BODY))) and bytes(text) == whole


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(max_size=300))
def test_noise_is_never_taken(store: Store, noise: bytes) -> None:
    file(store).write_bytes(noise)
    with pytest.raises(Unusable):
        store.read("addresses")
