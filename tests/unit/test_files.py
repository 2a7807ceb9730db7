"""What is made of files: anew when they change, and never of what is of no use."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgambassador.config.plain import read
from pgambassador.errors import ConfigError
from pgambassador.net.files import Reread


class Maker:
    """Takes a file that begins with "good"."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.made = 0

    def __call__(self) -> str:
        self.made += 1
        text = read(str(self.path), "test").decode()
        if not text.startswith("good"):
            raise ConfigError(f"{text} is bad.", hint="Write good.")
        return text


def replace(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


def test_made_once_until_the_file_changes(path: Path) -> None:
    path.write_text("good")
    maker = Maker(path)
    reread = Reread((None, str(path)), maker)
    assert repr(reread) == f"<Reread {path}, not made yet>"
    assert [reread.get(), reread.get(), maker.made] == ["good", "good", 1]
    replace(path, "good again")
    assert [reread.get(), reread.get(), maker.made] == ["good again", "good again", 2]
    assert repr(reread) == f"<Reread {path}>"


def test_again_whether_it_has_changed_or_not(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_text("good")
    maker = Maker(path)
    reread = Reread((str(path),), maker)
    caplog.set_level("INFO")
    reread.again()
    assert maker.made == 0, "nobody has had a use for it"
    reread.get()
    reread.again()
    assert maker.made == 2
    assert not caplog.records
    replace(path, "rubbish")
    reread.again()
    assert [reread.get(), maker.made] == ["good", 3]
    assert len(caplog.records) == 1


def test_the_old_stays_and_it_is_told_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_text("good")
    maker = Maker(path)
    reread = Reread((str(path),), maker)
    reread.get()
    replace(path, "rubbish")
    assert [reread.get(), reread.get(), maker.made] == ["good", "good", 2]
    assert [each.getMessage() for each in caplog.records] == [
        "rubbish is bad. Write good. What was read before stays in use."
    ]
    path.unlink()
    assert [reread.get(), reread.get(), maker.made] == ["good", "good", 3]
    assert "no such file or directory" in caplog.records[-1].getMessage()
    replace(path, "good now")
    assert reread.get() == "good now"
    assert len(caplog.records) == 2


def test_what_never_was_good_is_an_error_each_time(path: Path) -> None:
    reread = Reread((str(path),), Maker(path))
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"The test file .* cannot be read: no such file or directory"):
            reread.get()
    path.write_text("rubbish")
    with pytest.raises(ConfigError, match="rubbish"):
        reread.get()
    replace(path, "good")
    assert reread.get() == "good"
