import asyncio
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pgambassador.auth.credential import Md5Hash, Plain
from pgambassador.auth.lookup import NOBODY, Entry
from pgambassador.auth.verifier import Keys, Verifier, make_verifier
from pgambassador.config import Auth, Secret
from pgambassador.errors import Unreachable
from pgambassador.net.directory import MEMORY, PAUSE, SIZE, Directory, Users, listed
from tests.loop import Loop

BOB = Entry(Plain(b"bobs"))


class Enquiry:
    """Knows Bob."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.broken = False
        self.iterations = 4096
        self.retired = False
        self.answer: asyncio.Future[Entry] | None = None

    def retire(self) -> None:
        self.retired = True

    async def ask(self, user: str) -> Entry:
        self.asked.append(user)
        if self.answer is not None:
            return await self.answer
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


@pytest.mark.usefixtures("inline")
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


def test_other_lists_and_another_server(loop: Loop, enquiry: Any) -> None:
    """What was said before is forgotten, and an answer that comes late is kept for nobody."""
    subject = Directory(Auth(), {"alice": Plain(b"x")}, enquiry)
    loop.complete(subject.find("bob"))
    enquiry.answer = asyncio.Future(loop=loop)  # type: ignore[arg-type]
    late = loop.create_task(subject.find("eve"))
    loop.run()
    other: Any = Enquiry()
    subject.reload(Auth(), {"carol": None}, other)
    assert enquiry.retired
    assert set(subject.users) == {"carol"}
    assert not subject.has_plain
    enquiry.answer.set_result(BOB)
    loop.run()
    assert late.result() == BOB
    assert (subject._answers, subject.has_plain) == ({}, False)
    loop.complete(subject.find("bob"))
    assert other.asked == ["bob"]
    subject.reload(Auth(), {}, other)
    assert not other.retired
    subject.reload(Auth(), {}, None)
    assert other.retired
    assert loop.complete(subject.find("bob")) == NOBODY


# What strangers are shown.


def verifier(iterations: int, salt: int = 16) -> Verifier:
    return make_verifier(b"secret", b"s" * salt, iterations, lambda *_: Keys(b"c" * 32, b"s" * 32))


def shapes(subject: Directory, key: bytes = b"key") -> Counter[tuple[int, int]]:
    found = [subject.stand_in(f"stranger{number}", key) for number in range(400)]
    return Counter((each.iterations, len(each.salt)) for each in found)


def test_strangers_look_as_those_who_are_listed() -> None:
    """A name is not told from one of the list by iterations or salt, which are what there are there."""
    assert shapes(Directory(Auth(), {})) == {(4096, 16): 400}
    assert shapes(Directory(Auth(), {"a": verifier(10_000), "b": None})) == {(10_000, 16): 400}
    users: Users = {"a": verifier(10_000), "b": verifier(10_000, 24), "c": verifier(7), "d": Plain(b"x")}
    found = shapes(Directory(Auth(), {**users, "e": Md5Hash(b"0" * 32)}))
    assert set(found) == {(10_000, 16), (10_000, 24), (7, 16), (4096, 16)}
    assert min(found.values()) > 50, "as often as there"


def test_a_stranger_looks_the_same_each_time() -> None:
    users: Users = {"a": verifier(10_000), "b": verifier(7), "c": Plain(b"x")}
    one, other = Directory(Auth(), users), Directory(Auth(), dict(reversed(list(users.items()))))
    for number in range(50):
        shown = [each.stand_in(f"stranger{number}", b"key") for each in (one, one, other)]
        assert len({(each.iterations, each.salt) for each in shown}) == 1
    assert one.stand_in("x", b"key").salt != one.stand_in("x", b"another").salt
    assert one.stand_in("x", b"key").stored_key != one.stand_in("x", b"key").stored_key, "no password fits"


def test_where_a_server_is_asked_its_own_setting_counts(enquiry: Any) -> None:
    subject = Directory(Auth(), {"a": verifier(7)}, enquiry)
    assert shapes(subject) == {(4096, 16): 400}
    enquiry.iterations = 12_345
    assert shapes(subject) == {(12_345, 16): 400}
