"""Who is let in, as whom, and what others can tell from how it was refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from pgambassador.auth import scram
from pgambassador.auth.credential import Credential, Md5Hash, Plain, md5_digest, md5_response
from pgambassador.auth.lookup import NOBODY, Entry
from pgambassador.auth.peer import Peer
from pgambassador.auth.throttle import FIRST, LONGEST, TURNS
from pgambassador.auth.verifier import Borrowed, Keys, derive, make_verifier
from pgambassador.config import Auth, Cluster, Config, Database, Secret, Tls
from pgambassador.config.auth import AuthRule
from pgambassador.errors import (
    AmbassadorError,
    ConfigError,
    ProtocolViolation,
    Refused,
    ServerRefused,
    Unreachable,
)
from pgambassador.net import porter as module
from pgambassador.net import trials
from pgambassador.net.directory import Directory
from pgambassador.net.porter import Admitted, Porter
from pgambassador.net.turns import EACH
from pgambassador.wire import build, parse
from pgambassador.wire.frames import Dialogue
from tests.loop import Loop

T = TypeVar("T")

OK = build.authentication_ok()
LOCAL = Peer.at("unix", 1000)
LOOPBACK = Peer.at("127.0.0.1:1")
REMOTE = Peer.at("10.0.0.1:1")
VERIFIER = make_verifier(b"secret", b"0123456789abcdef", 4096)
PLAIN = Tls()
OPEN = Cluster(url=Secret("postgresql://db.example"))
CLOSED = Cluster(url=Secret("postgresql://app:its-own@db.example"))


class Client:
    """Does what it is asked for, with one password; `asked` are the kinds of what it was asked."""

    def __init__(self, password: bytes, user: str = "alice") -> None:
        self.asked: list[tuple[int, int]] = []
        self.heard: list[bytes] = []
        self._password, self._user = password, user
        self._exchange = scram.client(password)
        self._next = b""

    def hear(self, data: bytes) -> None:
        kind, rest = parse.authentication(data[5:])
        self.asked.append((kind, len(rest)))
        self.heard.append(rest)
        if kind == 3:
            self._next = self._password + b"\0"
        elif kind == 5:
            self._next = md5_response(md5_digest(self._password, self._user), rest) + b"\0"
        elif kind == 10:
            self._next = build.sasl_initial_response("SCRAM-SHA-256", next(self._exchange))[5:]
        else:
            self._next = self._exchange.send(rest)

    nonce = None

    def expect(self, user: str | None, expected: object) -> None:
        pass

    async def turn(self, delay: Callable[[float], float]) -> None:
        if (seconds := delay(asyncio.get_running_loop().time())) > 0:
            await asyncio.sleep(seconds)
            await self.turn(delay)

    async def hold(self, dialogue: Dialogue[T], delay: Callable[[float], float]) -> T:
        try:
            data = next(dialogue)
            while True:
                self.hear(data)
                await self.turn(delay)
                data = dialogue.send((ord("p"), self._next))
        except StopIteration as stop:
            result: T = stop.value
            return result


class Server:
    """Takes one password. `asks` False: and asks for none."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.password = b"secret"
        self.asks = True
        self.error: AmbassadorError | None = None
        self.tried: list[tuple[str, str, str, bytes]] = []
        self.hold: asyncio.Future[None] | None = None

    def probe(self, target: Any, user: str, password: bytes) -> Any:
        async def open_() -> Any:
            self.tried.append((target.cluster, target.database, user, password))
            if self.hold is not None:
                await self.hold
            if self.error is not None:
                raise self.error
            if password != self.password:
                raise ServerRefused({"C": "28P01", "M": "the server's own words"})
            return SimpleNamespace(close=lambda: None, asked=self.asks)

        return SimpleNamespace(open=open_)


class Place:
    def __init__(
        self,
        *rules: Mapping[str, Any],
        users: Mapping[str, Credential | None] | None = None,
        found: Mapping[str, Entry] | None = None,
        cluster: Cluster = OPEN,
        tls: Tls = PLAIN,
        **auth: Any,
    ) -> None:
        self.loop = Loop()
        self.server = Server(self.loop)
        config = Config(
            clusters={"main": cluster},
            databases={"shop": Database(), "stock": Database()},
            tls=tls,
            auth=Auth(rules=tuple(AuthRule(**{"address": ("all",), **rule}) for rule in rules), **auth),
        )
        self.queries: list[str] = []

        async def ask(user: str) -> Entry:
            self.queries.append(user)
            return (found or {}).get(user, NOBODY)

        enquiry: Any = (
            None if found is None else SimpleNamespace(ask=ask, tick=lambda now: None, iterations=4096)
        )
        self.directory = Directory(config.auth, users or {}, enquiry)
        self.porter = Porter(config, self.directory, self.server.probe)

    def lets_in(
        self, peer: Peer, user: str = "alice", password: bytes = b"secret", database: str = "shop"
    ) -> Admitted:
        return self.loop.complete(self.porter.admit(peer, user, database, Client(password, user)))

    def begins(self, peer: Peer, user: str) -> asyncio.Task[Admitted]:
        return self.loop.create_task(self.porter.admit(peer, user, "shop", Client(b"secret", user)))

    def refuses(
        self, peer: Peer, user: str = "alice", password: bytes = b"secret", database: str = "shop"
    ) -> AmbassadorError:
        with pytest.raises((Refused, ServerRefused)) as caught:
            self.lets_in(peer, user, password, database)
        return caught.value


# --- rules


def test_without_rules_there_is_one_method() -> None:
    assert Place().lets_in(LOOPBACK) == Admitted(OK, "alice")
    place = Place(method="scram-sha-256", users={"alice": Plain(b"secret")})
    assert place.lets_in(REMOTE).user == "alice"
    assert place.refuses(REMOTE, password=b"wrong").sqlstate == "28P01"


def test_rules_decide() -> None:
    place = Place(
        {"address": ("local",), "method": "trust"},
        {"user": ("eve",), "method": "reject"},
        {"address": ("10.0.0.0/8",), "method": "md5"},
        users={"alice": Plain(b"secret")},
    )
    assert place.lets_in(LOCAL, "anybody").success == OK
    assert place.lets_in(REMOTE).success == OK
    assert "rejects connection" in place.refuses(REMOTE, "eve").message
    error = place.refuses(LOOPBACK)
    assert (error.sqlstate, error.delay) == ("28000", 0)
    assert error.message.startswith('no entry in auth.rules for host "127.0.0.1", user "alice"')


# --- names


@pytest.mark.parametrize(
    ("shown", "user", "on_the_server"),
    [
        ("alice", "alice", "app"),
        ("svc.example", "app", "app"),
        ("svc.example", "svc.example", "app"),
        ("bob", "bob", "bob"),
        ("alice", "app", "app"),
        ("alice", "bob", None),
        ("bob", "app", None),
        ("bob", "BOB", None),
        (None, "bob", None),
    ],
)
def test_a_certificate_shows_a_name(shown: str | None, user: str, on_the_server: str | None) -> None:
    place = Place({"tls": True, "method": "cert"}, map={"alice": "app", "svc.example": "app"})
    peer = Peer(ip_address("10.0.0.1"), tls=True, common_name=shown)
    if on_the_server is None:
        error = place.refuses(peer, user)
        assert error.sqlstate == "28000"
        assert shown is None or shown not in error.message.replace(user, "")
    else:
        assert place.lets_in(peer, user) == Admitted(OK, on_the_server)
    assert "no entry" in place.refuses(Peer(peer.host, common_name=shown), user).message


@pytest.mark.usefixtures("inline")
def test_the_user_of_the_operating_system(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {1000: "alice", 0: "root"}
    monkeypatch.setattr(
        module, "pwd", SimpleNamespace(getpwuid=lambda uid: SimpleNamespace(pw_name=names[uid]))
    )
    place = Place({"address": ("local",), "method": "peer"}, map={"root": "postgres"})
    assert place.lets_in(LOCAL) == Admitted(OK, "alice")
    assert place.lets_in(Peer.at("unix", 0), "postgres") == Admitted(OK, "postgres")
    for peer, user in ((LOCAL, "root"), (Peer.at("unix", 0), "alice"), (Peer.at("unix", 7), "alice")):
        error = place.refuses(peer, user)
        assert (error.sqlstate, error.message) == ("28000", f'Peer authentication failed for user "{user}"')
    assert place.refuses(Peer.at("unix", None)).sqlstate == "28000"


@pytest.mark.parametrize("method", ["trust", "scram-sha-256", "md5"])
def test_a_user_is_another_on_the_server(method: str) -> None:
    place = Place(method=method, users={"alice": Plain(b"secret")}, map={"alice": "app"})
    assert place.lets_in(LOOPBACK).user == "app"
    if method != "trust":
        assert place.refuses(LOOPBACK, "app").sqlstate == "28P01"


# --- passwords that are known


@pytest.mark.parametrize("method", ["scram-sha-256", "md5"])
@pytest.mark.parametrize("credential", [Plain(b"secret"), VERIFIER])
def test_users_that_a_server_knows(method: str, credential: Credential) -> None:
    place = Place(method=method, found={"alice": Entry(credential)})
    for _ in range(3):
        place.lets_in(REMOTE)
    assert place.queries == ["alice"]
    place.refuses(REMOTE, password=b"wrong")
    place.lets_in(REMOTE)
    assert place.queries == ["alice", "alice"]  # what was known may have been of yesterday


def counted(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The passwords that keys were derived from."""
    derivations: list[bytes] = []

    def watched(password: bytes, salt: bytes, iterations: int) -> Keys:
        derivations.append(password)
        return derive(password, salt, iterations)

    monkeypatch.setattr("pgambassador.net.derivation.derive", watched)
    return derivations


@pytest.mark.parametrize("method", ["scram-sha-256", "md5"])
def test_nobody_can_tell_why(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong password, unknown, expired, without a password: the same messages, derivations, and wait."""
    derivations = counted(monkeypatch)
    names = ["alice", "locked", "expired", "other", "hashed", "nobody"]
    users: dict[str, Credential | None] = {"alice": Plain(b"secret"), "locked": None}
    found = None
    if method == "md5":
        users |= {"other": Plain(b"other"), "hashed": Md5Hash(b"0a" * 16)}
        names.remove("expired")
    else:
        found = {
            "expired": Entry(Plain(b"secret"), "the account has expired"),
            "other": Entry(Plain(b"other")),
            "hashed": Entry(Md5Hash(b"0a" * 16)),
        }
    place = Place(method=method, users=users, found=found)
    seen = []
    for number, user in enumerate(names):
        for attempt, site in enumerate((1, 1, 2)):
            client = Client(b"wrong" if user == "alice" else b"secret", user)
            peer = Peer.at(f"10.0.{site}.{number}:1")
            before = len(derivations)
            with pytest.raises(Refused) as caught:
                place.loop.complete(place.porter.admit(peer, user, "shop", client))
            said = caught.value.sentence().replace(user, "")
            seen.append(
                (
                    attempt,
                    client.asked,
                    caught.value.sqlstate,
                    said,
                    caught.value.delay,
                    len(derivations) - before,
                )
            )
    for attempt in range(3):
        assert all(each == seen[attempt] for each in seen[attempt::3])
        assert seen[attempt][1:4] == seen[0][1:4]
    # Each place's first question for a name costs one, also where the keys are known already.
    assert [each[5] for each in seen[:3]] == ([1, 0, 1] if method == "scram-sha-256" else [0, 0, 0])


def kinds(place: Place, names: list[str]) -> dict[str, int]:
    """What each is asked for first: 5 is md5, 10 is SCRAM. From an address of its own."""
    asked = {}
    for number, name in enumerate(names):
        client = Client(b"wrong", name)
        with pytest.raises(Refused):
            place.loop.complete(place.porter.admit(Peer.at(f"10.1.1.{number}:1"), name, "shop", client))
        asked[name] = client.asked[0][0]
    return asked


def test_where_the_method_is_md5_strangers_are_asked_as_the_known_are() -> None:
    strangers = [f"stranger{number}" for number in range(60)]
    verified = Place(method="md5", users={"alice": VERIFIER})
    assert set(kinds(verified, ["alice", *strangers]).values()) == {10}
    hashed = Place(method="md5", users={"alice": Plain(b"x"), "bob": Md5Hash(b"0a" * 16)})
    assert set(kinds(hashed, ["alice", "bob", *strangers]).values()) == {5}
    mixed = Place(method="md5", users={"alice": Plain(b"x"), "bob": VERIFIER, "locked": None})
    asked = kinds(mixed, strangers)
    assert set(asked.values()) == {5, 10}
    assert kinds(mixed, strangers) == asked
    # A server is asked about all others, and has verifiers, unless told otherwise.
    served = Place(method="md5", users={"alice": Plain(b"x")}, found={"bob": Entry(VERIFIER)})
    assert set(kinds(served, ["bob", *strangers]).values()) == {10}


def test_salts_are_the_same_wherever_the_private_key_is(tmp_path: Path) -> None:
    def salt(key: bytes | None, user: str) -> bytes:
        files: dict[str, Any] = {}
        if key is not None:
            for name in ("certificate", "key"):
                (tmp_path / name).write_bytes(key)
                files[name] = str(tmp_path / name)
        client = Client(b"wrong")
        place = Place(method="scram-sha-256", users={"bob": Plain(b"secret")}, tls=Tls(**files))
        with pytest.raises(Refused):
            place.loop.complete(place.porter.admit(REMOTE, user, "shop", client))
        return client.heard[1].split(b",")[1]

    for user in ("bob", "nobody"):
        assert salt(b"one", user) == salt(b"one", user)
        assert salt(b"one", user) != salt(b"two", user)
        assert salt(None, user) != salt(None, user)


def test_the_salt_of_an_expired_user_is_that_of_before() -> None:
    def salt(entry: Entry, password: bytes) -> bytes:
        client = Client(password)
        place = Place(method="scram-sha-256", found={"alice": entry})
        with pytest.raises(Refused):
            place.loop.complete(place.porter.admit(REMOTE, "alice", "shop", client))
        return client.heard[1].split(b",")[1]

    valid = salt(Entry(VERIFIER), b"wrong")
    assert valid == salt(Entry(VERIFIER, "the account has expired"), b"secret") != salt(NOBODY, b"secret")


def test_failures_wait_and_successes_do_not() -> None:
    place = Place(method="md5", users={"alice": Plain(b"secret")})
    delays = []
    for _ in range(12):
        delays.append(place.refuses(REMOTE, password=b"wrong").delay)
        place.loop.pass_time(delays[-1])
    assert delays[0] == 0 and delays[-1] == LONGEST and delays == sorted(delays)
    place.lets_in(REMOTE)
    assert place.refuses(Peer.at("10.0.0.2:1"), password=b"wrong").delay == 0


def test_who_hangs_up_does_not_guess_faster() -> None:
    """Only so many guesses of one address are looked at until the first of them has been told."""
    place = Place(method="md5", users={"alice": Plain(b"secret")})
    for _ in range(10):
        place.loop.pass_time(place.refuses(REMOTE, password=b"wrong").delay)

    def guess(peer: Peer, password: bytes) -> asyncio.Task[Admitted]:
        return place.loop.create_task(place.porter.admit(peer, "alice", "shop", Client(password)))

    guesses = [guess(REMOTE, b"wrong") for _ in range(50)]
    place.loop.run()
    assert sum(task.done() for task in guesses) == TURNS
    right = guess(REMOTE, b"secret")
    elsewhere = guess(Peer.at("10.0.0.2:1"), b"secret")
    place.loop.run()
    assert elsewhere.result().user == "alice"
    assert not right.done()
    place.loop.pass_time(LONGEST)
    assert sum(task.done() for task in guesses) == 2 * TURNS
    for task in guesses:
        if task.done():
            assert isinstance(task.exception(), Refused)
        task.cancel()
    place.loop.pass_time(LONGEST)
    assert right.result().user == "alice"


def test_what_is_tried_at_the_server_takes_a_turn() -> None:
    place = Place({"method": "upstream"})
    for _ in range(3):
        place.refuses(LOOPBACK, password=b"wrong")
    place.loop.pass_time(LONGEST)
    place.server.hold = place.loop.create_future()
    place.server.tried.clear()
    tasks = [
        place.loop.create_task(place.porter.admit(LOOPBACK, "alice", "shop", Client(b"guess%d" % number)))
        for number in range(20)
    ]
    place.loop.run()
    assert len(place.server.tried) == TURNS
    for task in tasks:
        task.cancel()  # who hangs up has tried all the same
    place.loop.run()
    assert place.porter.throttle.wait(LOOPBACK.site, place.loop.time()) > 0
    place.server.hold.set_result(None)
    place.server.hold = None
    place.loop.run()
    assert len(place.server.tried) == TURNS
    assert place.porter.throttle.wait(LOOPBACK.site, place.loop.time()) > 0
    place.loop.pass_time(LONGEST)
    assert place.lets_in(LOOPBACK).user == "alice"


def test_nobody_begins_with_a_volley() -> None:
    """An address that has never failed has no more guesses under way at the server than one that has."""
    place = Place({"method": "upstream"})
    place.server.hold = place.loop.create_future()
    tasks = [
        place.loop.create_task(place.porter.admit(LOOPBACK, "alice", "shop", Client(b"guess%d" % number)))
        for number in range(100)
    ]
    place.loop.pass_time(1.0)
    assert len(place.server.tried) == TURNS
    place.server.hold.set_result(None)
    place.loop.run()
    assert sum(task.done() for task in tasks) == TURNS
    place.loop.pass_time(LONGEST)
    assert len(place.server.tried) <= 3 * TURNS
    for task in tasks:
        task.cancel()
    place.loop.run()


def test_strangers_of_one_place_do_not_make_others_wait_for_the_server() -> None:
    """Names without end, asked for by who hangs up at once: few of one place are in the server's queue."""
    place = Place(method="scram-sha-256", found={"alice": Entry(VERIFIER)})
    answer: asyncio.Future[None] = place.loop.create_future()
    asking = place.directory.enquiry
    assert asking is not None
    ask = asking.ask

    async def slowly(user: str) -> Entry:
        entry = await ask(user)
        await answer
        return entry

    asking.ask = slowly  # type: ignore[method-assign]
    strangers = [place.begins(REMOTE, f"stranger{number}") for number in range(100)]
    place.loop.run()
    for task in strangers:
        task.cancel()
    strangers = [place.begins(REMOTE, f"other{number}") for number in range(100)]
    place.loop.run()
    assert len(place.queries) == EACH
    alice = place.begins(Peer.at("10.9.9.9:1"), "alice")
    place.loop.run()
    assert place.queries[EACH:] == ["alice"]
    answer.set_result(None)
    place.loop.run()
    assert alice.result().user == "alice"
    place.loop.pass_time(20 * LONGEST * TURNS)
    assert all(task.done() for task in strangers)
    assert repr(place.porter._questions) == "<Turns of 0 places>"


def test_nor_for_derivations(monkeypatch: pytest.MonkeyPatch) -> None:
    derivations = counted(monkeypatch)
    place = Place(method="scram-sha-256", users={"alice": Plain(b"secret")})
    place.loop.complete(place.porter._keys.turn.acquire())  # one takes its time
    strangers = [place.begins(REMOTE, f"stranger{number}") for number in range(100)]
    alice = place.begins(Peer.at("10.9.9.9:1"), "alice")
    place.loop.run()
    place.porter._keys.turn.release()
    for _ in range(20):
        place.loop.run()
        if alice.done():
            break
    assert alice.result().user == "alice"
    assert b"secret" in derivations[: EACH + 1]
    place.loop.pass_time(20 * LONGEST * TURNS)
    assert all(task.done() for task in strangers)


def test_many_first_logins_of_one_user_derive_once(monkeypatch: pytest.MonkeyPatch) -> None:
    derivations = counted(monkeypatch)
    place = Place(method="scram-sha-256", users={"alice": Plain(b"secret")})
    tasks = [
        place.loop.create_task(place.porter.admit(REMOTE, "alice", "shop", Client(b"secret")))
        for _ in range(100)
    ]
    place.loop.run()
    assert all(task.result().user == "alice" for task in tasks)
    assert len(derivations) == 1


def test_what_a_name_is_shown_is_worked_out_once_known_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(method="scram-sha-256", users={"alice": Plain(b"secret"), "old": Md5Hash(b"0a" * 16)})
    place.lets_in(REMOTE)
    for user in ("old", "nobody"):
        place.refuses(REMOTE, user)
    place.loop.pass_time(100)

    def again(*_: object) -> bytes:
        raise AssertionError("it is known")

    monkeypatch.setattr("pgambassador.net.porter.own_salt", again)
    monkeypatch.setattr("pgambassador.auth.verifier.own_salt", again)
    monkeypatch.setattr("pgambassador.net.derivation.derive", again)
    place.lets_in(REMOTE)
    for user in ("old", "nobody", "alice"):
        assert place.refuses(REMOTE, user, b"wrong").sqlstate == "28P01"
        place.loop.pass_time(100)
    assert len(place.porter._shown) == 3
    monkeypatch.undo()
    monkeypatch.setattr(module, "REMEMBERED", 3)
    place.refuses(REMOTE, "somebody else")
    assert "alice" not in place.porter._shown and len(place.porter._shown) == 3
    place.loop.pass_time(100)
    place.lets_in(REMOTE)


def test_a_password_of_yesterday_opens_nothing() -> None:
    place = Place(method="scram-sha-256", users={"alice": Plain(b"secret")})

    def changes(**users: Credential | None) -> None:
        place.loop.pass_time(100)
        place.directory._take(users)  # as the file of users is read again

    place.lets_in(REMOTE)
    changes(alice=Plain(b"new"))
    place.refuses(REMOTE, password=b"secret")
    place.lets_in(REMOTE, password=b"new")
    changes()
    place.refuses(REMOTE, password=b"new")
    changes(alice=None)
    place.refuses(REMOTE, password=b"new")
    changes(alice=Plain(b"secret"))
    place.lets_in(REMOTE, password=b"secret")
    changes(alice=VERIFIER)
    place.lets_in(REMOTE, password=b"secret")
    changes(bob=Plain(b"secret"))
    place.refuses(REMOTE, password=b"secret")


def test_strangers_are_shown_what_the_lists_show_now() -> None:
    place = Place(method="scram-sha-256", users={"alice": VERIFIER})
    shown = [place.porter._stand_in("nobody", None) for _ in range(2)]
    assert shown[0] is shown[1] and (shown[0].iterations, len(shown[0].salt)) == (4096, 16)
    longer = make_verifier(b"x", b"s" * 20, 5000, lambda *_: Keys(b"c" * 32, b"s" * 32))
    place.directory._take({"alice": longer})
    found = place.porter._stand_in("nobody", None)
    assert (found.iterations, len(found.salt)) == (5000, 20)
    asked = Place(method="scram-sha-256", found={})
    shown = [asked.porter._stand_in("nobody", None) for _ in range(2)]
    assert shown[0] is not shown[1] and not asked.porter._shown  # the server may change its mind


def test_nor_one_whose_keys_are_derived_while_it_changes() -> None:
    place = Place(method="scram-sha-256", users={"alice": Plain(b"secret"), "bob": Plain(b"x")})
    place.loop.complete(place.porter._keys.turn.acquire())  # one takes its time
    late = place.begins(REMOTE, "alice")
    place.loop.run()
    assert not late.done()
    place.directory._take({"alice": Plain(b"new"), "bob": Plain(b"x")})
    other = place.begins(Peer.at("10.0.0.9:1"), "bob")  # somebody sees the new list meanwhile
    place.loop.run()
    place.porter._keys.turn.release()
    place.loop.run()
    assert late.result().user == "alice"  # who came while it was right
    with pytest.raises(Refused):
        other.result()
    place.loop.pass_time(100)
    place.refuses(REMOTE, password=b"secret")
    place.lets_in(REMOTE, password=b"new")


# --- what pools log in with


def test_a_verifier_and_a_login_make_a_key() -> None:
    place = Place(method="scram-sha-256", users={"alice": VERIFIER})
    place.lets_in(REMOTE)
    secret = place.porter.wallet.get("main", "alice")
    assert isinstance(secret, Borrowed)
    assert (secret.salt, secret.iterations) == (VERIFIER.salt, VERIFIER.iterations)
    assert secret.keys.stored_key == VERIFIER.stored_key
    assert b"secret" not in repr(secret).encode() and secret.keys.client_key.hex() not in repr(secret)


@pytest.mark.parametrize("password", [b"wrong", b"secret"])
def test_who_is_refused_brings_nothing(password: bytes) -> None:
    place = Place(method="scram-sha-256", found={"alice": Entry(VERIFIER, "the account has expired")})
    place.refuses(REMOTE, password=password)
    assert len(place.porter.wallet) == 0


@pytest.mark.parametrize(
    "place",
    [
        Place(method="scram-sha-256", users={"alice": VERIFIER}, cluster=CLOSED),
        Place(method="scram-sha-256", users={"alice": VERIFIER}, map={"alice": "app"}),
        Place(method="scram-sha-256", users={"alice": Plain(b"secret")}),
        Place({"method": "upstream"}, cluster=CLOSED),
        Place({"method": "upstream"}, map={"alice": "app"}),
    ],
    ids=["the URL has its own", "another user", "listed", "upstream", "upstream, another"],
)
def test_nothing_is_kept_that_no_pool_needs(place: Place) -> None:
    place.lets_in(LOOPBACK)
    assert len(place.porter.wallet) == 0


def test_a_password_that_a_server_gave_is_kept_for_the_pool() -> None:
    place = Place(method="md5", found={"alice": Entry(Plain(b"secret"))})
    place.lets_in(REMOTE)
    assert place.porter.wallet.get("main", "alice") == b"secret"


# --- passwords that only the server knows


def test_the_server_is_asked_once() -> None:
    place = Place({"method": "upstream"})
    for _ in range(3):
        assert place.lets_in(LOOPBACK) == Admitted(OK, "alice")
    assert place.server.tried == [("main", "shop", "alice", b"secret")]
    assert place.porter.wallet.get("main", "alice") == b"secret"
    place.lets_in(LOOPBACK, database="stock")
    assert place.server.tried[1:] == [("main", "stock", "alice", b"secret")]


def test_many_at_once_are_one_question() -> None:
    place = Place({"method": "upstream"})
    place.server.hold = place.loop.create_future()
    tasks = [
        place.loop.create_task(place.porter.admit(LOOPBACK, "alice", "shop", Client(b"secret")))
        for _ in range(50)
    ]
    place.loop.run()
    assert len(place.server.tried) == 1
    place.server.hold.set_result(None)
    place.loop.pass_time(FIRST)
    assert len(place.server.tried) == 1
    assert all(task.result().user == "alice" for task in tasks)


def test_no_more_than_a_few_questions_at_once() -> None:
    place = Place({"method": "upstream"})
    place.server.hold = place.loop.create_future()
    places = [Peer(ip_address(f"10.0.0.{number}"), tls=True) for number in range(50)]
    tasks = [place.begins(each, f"user{number}") for number, each in enumerate(places)]
    place.loop.run()
    assert len(place.server.tried) == trials.CHECKS
    place.loop.pass_time(trials.TURN)
    late = [task for task in tasks if task.done()]
    assert len(late) == 50 - trials.CHECKS
    for task in late:
        with pytest.raises(Unreachable, match="too many passwords"):
            task.result()
    place.server.hold.set_result(None)
    place.loop.run()
    assert sum(task.exception() is None for task in tasks) == trials.CHECKS
    assert place.lets_in(LOOPBACK).user == "alice"


def test_the_servers_refusal_in_its_words_and_slowed() -> None:
    place = Place({"method": "upstream"})
    errors = []
    for _ in range(10):
        errors.append(place.refuses(LOOPBACK, password=b"wrong"))
        place.loop.pass_time(errors[-1].delay)
    assert {(error.sqlstate, error.message) for error in errors} == {("28P01", "the server's own words")}
    assert errors[0].delay == 0 and errors[-1].delay == LONGEST
    assert len(place.server.tried) == 10
    assert len(place.porter.wallet) == 0
    place.refuses(LOOPBACK, password=b"")
    assert len(place.server.tried) == 10


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("/etc/ca.pem cannot be read"),
        ProtocolViolation("at 10.9.9.9: nonsense"),
        Refused("the server asks by GSSAPI"),
        ServerRefused({"C": "28000", "M": 'no pg_hba.conf entry for host "10.9.9.9"'}),
    ],
)
def test_strangers_hear_nothing_of_what_lies_behind(
    error: AmbassadorError, caplog: pytest.LogCaptureFixture
) -> None:
    place = Place({"method": "upstream"})
    place.server.error = error
    with pytest.raises(AmbassadorError) as caught:
        place.lets_in(LOOPBACK)
    assert error.message not in caught.value.sentence()
    assert error.message in caplog.text + "".join(getattr(caught.value, "__notes__", ()))


def test_a_remembered_password_does_not_take_the_place_of_a_newer_one() -> None:
    place = Place({"method": "upstream"})
    place.lets_in(LOOPBACK, password=b"secret")
    place.server.password = b"new"
    place.lets_in(LOOPBACK, password=b"new")
    place.lets_in(LOOPBACK, password=b"secret")  # still believed, as the documentation says
    assert place.porter.wallet.get("main", "alice") == b"new"
    # A pool has tried it: it is believed no longer, in no database.
    place.lets_in(LOOPBACK, password=b"new", database="stock")
    place.porter.refused("main", "alice", b"secret")
    assert place.porter.wallet.get("main", "alice") == b"new"
    place.refuses(LOOPBACK, password=b"secret")
    tried = len(place.server.tried)
    place.porter.refused("main", "alice", b"new")
    assert len(place.porter.wallet) == 0
    place.lets_in(LOOPBACK, password=b"new", database="stock")
    assert len(place.server.tried) == tried + 1


def test_what_pools_need_is_asked_for_again_if_it_was_lost() -> None:
    place = Place({"method": "upstream"})
    place.lets_in(LOOPBACK)
    place.porter.wallet.drop("main", "alice", b"secret")
    place.lets_in(LOOPBACK)
    assert len(place.server.tried) == 2
    assert place.porter.wallet.get("main", "alice") == b"secret"


def test_a_server_that_asks_for_nothing_proves_nothing() -> None:
    place = Place({"method": "upstream"})
    place.server.asks = False
    error = place.refuses(LOOPBACK)
    assert (error.sqlstate, error.message) == ("28P01", 'password authentication failed for user "alice"')
    assert len(place.porter.wallet) == 0


def test_an_unreachable_server_is_nobodys_failure(caplog: pytest.LogCaptureFixture) -> None:
    place = Place({"method": "upstream"})
    place.server.error = Unreachable("no way there")
    for _ in range(5):
        with pytest.raises(Unreachable) as caught:
            place.lets_in(LOOPBACK)
        assert caught.value.delay == 0
        assert caught.value.message == "it cannot be checked just now whether the password is right"
    assert caplog.text.count("a password cannot be checked at cluster main: no way there") == 1
    place.server.error = None
    place.lets_in(LOOPBACK)


def test_a_database_that_is_not_served_is_not_told() -> None:
    error = Place({"method": "upstream"}).refuses(LOOPBACK, database="other")
    assert (error.sqlstate, error.message) == ("28P01", 'password authentication failed for user "alice"')


def test_no_password_in_the_clear() -> None:
    place = Place({"method": "upstream"})  # a configuration like this is refused at start
    client = Client(b"secret")
    with pytest.raises(Refused, match="without TLS"):
        place.loop.complete(place.porter.admit(REMOTE, "alice", "shop", client))
    assert client.asked == []
    assert place.lets_in(Peer(REMOTE.host, tls=True)).user == "alice"
