"""Files that the configuration names: nobody waits for one, or takes in more of it than there is room for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

import pytest

from pgambassador.config import load
from pgambassador.config.plain import LIMIT, content, opened, read
from pgambassador.embedded import Authority
from pgambassador.errors import ConfigError
from pgambassador.process.service import prove


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def device(path: Path) -> Path:
    return Path("/dev/zero")


def huge(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(1 << 40)
    return path


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (pipe, "it is not a plain file"),
        (folder, "is a directory"),
        (device, "it is not a plain file"),
        (huge, "it is longer than 16384 KiB"),
        (lambda path: path, "no such file or directory"),
    ],
    ids=["pipe", "folder", "device", "huge", "nothing"],
)
def test_what_is_not_read(make: Callable[[Path], Path], why: str, tmp_path: Path) -> None:
    path = make(tmp_path / "it")
    said = f"The test.option file {path} cannot be read: {why}. Correct the path or its permissions."
    before = len(os.listdir("/dev/fd"))
    with pytest.raises(ConfigError) as caught:
        read(str(path), "test.option")
    assert caught.value.sentence() == said
    assert len(os.listdir("/dev/fd")) == before


def test_what_is_read(tmp_path: Path) -> None:
    """Also behind symbolic links, as a mounted Secret is."""
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "file").write_bytes(b"x" * LIMIT)
    (tmp_path / "file").symlink_to(tmp_path / "..data" / "file")
    assert len(read(str(tmp_path / "file"), "test")) == LIMIT
    with opened(str(tmp_path / "file")) as file:
        assert file.read(2) == b"xx"
    with pytest.raises(OSError, match="longer than 1 KiB"):
        content(str(tmp_path / "file"), 1024)


@pytest.mark.parametrize("make", [pipe, huge], ids=["pipe", "huge"])
@pytest.mark.parametrize(
    "option",
    [
        *("tls.certificate", "tls.key", "tls.ca", "auth.users_file"),
        *("sslrootcert", "sslcert", "sslkey", "rds_bundle"),
    ],
)
def test_every_option_that_names_a_file(option: str, make: Callable[[Path], Path], tmp_path: Path) -> None:
    """As the start and `pgambassador check` read them."""
    authority = Authority(tmp_path)
    ours = authority.server(tmp_path)
    files = {
        "tls.certificate": ours.chain,
        "tls.key": ours.key,
        "tls.ca": authority.root,
        "sslrootcert": authority.root,
        "sslcert": ours.chain,
        "sslkey": ours.key,
        option: make(tmp_path / "it"),
    }
    in_url = {name: str(path) for name, path in files.items() if name.startswith("ssl")}
    text = {name: str(path) for name, path in files.items()}
    if option == "rds_bundle":
        in_url["sslrootcert"] = "rds"
    flags: dict[str, object] = {name: path for name, path in text.items() if "." in name}
    if option == "rds_bundle":
        flags["clusters.main.rds_bundle"] = text["rds_bundle"]
    with pytest.raises(ConfigError) as caught:
        prove(load(url=f"postgresql://app@db.example/shop?{urlencode(in_url)}", flags=flags))
    said = caught.value.sentence()
    assert ("sslrootcert" if option == "rds_bundle" else option) in said
    assert f"{text[option]} cannot be read: it is " in said and "Correct the path" in said
