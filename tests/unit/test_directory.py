import os
from pathlib import Path
from typing import Any

import pytest

from pgambassador.auth.credential import Plain
from pgambassador.auth.lookup import NOBODY, Entry
from pgambassador.config import Auth, Secret
from pgambassador.errors import Unreachable
from pgambassador.net.directory import MEMORY, PAUSE, SIZE, Directory, listed
from tests.loop import Loop

BOB = Entry(Plain(b"bobs"))


class Enquiry:
    """Knows Bob."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.broken = False

    async def ask(self, user: str) -> Entry:
        self.asked.append(user)
        if self.broken:
            raise Unreachable("no answer")
        return BOB if user == "bob" else NOBODY


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def enquiry() -> Any:
    return Enquiry()


def test_the_list_comes_first(loop: Loop, enquiry: Any) -> None:
    subject = Directory(Auth(), {"bob": Plain(b"listed"), "nobody": None}, enquiry)
    assert loop.complete(subject.find("bob")) == Entry(Plain(b"listed"))
    assert loop.complete(subject.find("nobody")) == Entry(None)
    assert enquiry.asked == []
    assert subject.has_plain
    assert not Directory(Auth(), {"nobody": None}).has_plain


def test_without_a_query_others_are_unknown(loop: Loop) -> None:
    assert loop.complete(Directory(Auth(), {}).find("bob")) == NOBODY


@pytest.mark.parametrize(("user", "entry"), [("bob", BOB), ("eve", NOBODY)])
def test_an_answer_is_believed_for_a_while(loop: Loop, enquiry: Any, user: str, entry: Entry) -> None:
    subject = Directory(Auth(), {}, enquiry)
    for _ in range(3):
        assert loop.complete(subject.find(user)) == entry
    assert enquiry.asked == [user]
    loop.pass_time(MEMORY)
    loop.complete(subject.find(user))
    assert enquiry.asked == [user] * 2
    subject.forget(user)
    loop.complete(subject.find(user))
    assert enquiry.asked == [user] * 3


@pytest.mark.parametrize("user", ["x" * 64, "\udcff"])
def test_what_is_no_name_is_not_asked_for(loop: Loop, enquiry: Any, user: str) -> None:
    subject = Directory(Auth(), {}, enquiry)
    assert loop.complete(subject.find(user)) == NOBODY
    assert enquiry.asked == []
    assert not subject._answers


def test_answers_are_forgotten(loop: Loop, enquiry: Any) -> None:
    subject = Directory(Auth(), {}, enquiry)
    loop.complete(subject.find("eve"))
    loop.pass_time(MEMORY / 2)
    loop.complete(subject.find("bob"))
    loop.complete(subject.refresh(loop.time()))
    assert list(subject._answers) == ["eve", "bob"]
    loop.pass_time(MEMORY / 2)
    loop.complete(subject.refresh(loop.time()))
    assert list(subject._answers) == ["bob"]


def test_what_cannot_be_asked_is_not_an_answer(loop: Loop, enquiry: Any) -> None:
    subject = Directory(Auth(), {}, enquiry)
    enquiry.broken = True
    with pytest.raises(Unreachable):
        loop.complete(subject.find("bob"))
    enquiry.broken = False
    assert loop.complete(subject.find("bob")) == BOB


def test_names_are_the_clients_and_their_number_is_bounded(loop: Loop, enquiry: Any) -> None:
    subject = Directory(Auth(), {}, enquiry)
    for number in range(SIZE + 10):
        loop.complete(subject.find(str(number)))
    assert len(subject._answers) == SIZE


def test_the_file_is_read_again(loop: Loop, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "users.txt"
    file.write_text('"bob" "one"\n')
    auth = Auth(users={"alice": Secret("hers")}, users_file=str(file))
    subject = Directory(auth, listed(auth))
    assert subject.users == {"bob": Plain(b"one"), "alice": Plain(b"hers")}

    def look() -> None:
        loop.pass_time(PAUSE)
        loop.complete(subject.refresh(loop.time()))

    before = subject.users
    look()
    assert subject.users is before  # unchanged, so not read
    file.write_text('"bob" "two"\n')
    os.utime(file, ns=(1, 1))
    loop.complete(subject.refresh(loop.time()))
    assert subject.users is before  # looked at a moment ago
    look()
    assert subject.users == {"bob": Plain(b"two"), "alice": Plain(b"hers")}

    caplog.clear()
    file.write_text("what?\n")
    look()
    look()
    assert subject.users["bob"] == Plain(b"two")
    assert caplog.text.count("the users stay as they were") == 1
    file.unlink()
    look()
    assert subject.users["bob"] == Plain(b"two")
    assert "hers" not in caplog.text
