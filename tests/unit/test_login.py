"""From accept to the first ReadyForQuery, over a loop without a clock."""

from __future__ import annotations

import asyncio
import gc
import select
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pgambassador.auth.credential import Plain, md5_digest, md5_response
from pgambassador.auth.doorway import FEW
from pgambassador.auth.throttle import LONGEST, TURNS
from pgambassador.config import Auth, Clients, Cluster, Config, Database, Secret
from pgambassador.config.auth import AuthRule
from pgambassador.config.failover import Failover
from pgambassador.errors import AmbassadorError, ServerRefused, Unreachable
from pgambassador.net.greeting import BASE
from pgambassador.net.herald import Newcomer
from pgambassador.net.house import House
from pgambassador.net.login import welcome
from pgambassador.net.seat import Seat, settings_of
from pgambassador.net.session import Session
from pgambassador.net.turns import EACH
from pgambassador.net.visitor import Visitor
from pgambassador.protocol.settings import Settings
from pgambassador.protocol.startup import Channel, upstream_login
from pgambassador.wire import build, parse
from pgambassador.wire.frames import take_frame
from tests.keeping import PARAMETERS, Upstream, says_what_hides
from tests.loop import Loop
from tests.messages import IDLE, complete, fatal, query
from tests.newcomers import newcomer

START = build.startup_message({"user": "app", "database": "shop"})
QUERY = query("x")


def welcomed(door: Door, sock: socket.socket) -> asyncio.Task[None]:
    """The task that takes somebody in, who is told which one that is."""
    told: asyncio.Future[asyncio.Task[None]] = door.loop.create_future()

    async def take() -> None:
        house = door.house
        who = newcomer(sock, "10.0.0.1:40000", house.sockets, house.herald)
        door.newcomers.append(who)
        await welcome(house, who, await told)

    task = door.loop.create_task(take())
    told.set_result(task)
    return task


class Caller:
    """A client as it arrives."""

    def __init__(self, door: Door, data: bytes = b"", *, piece: int = 0) -> None:
        self.door = door
        ours, self.sock = socket.socketpair()
        for sock in (ours, self.sock):
            sock.setblocking(False)
        self.task = welcomed(door, ours)
        door.callers.append(self)
        self.sends(data, piece=piece)

    def sends(self, data: bytes, *, piece: int = 0) -> None:
        for i in range(0, len(data), piece or len(data) or 1):
            self.sock.send(data[i : i + (piece or len(data))])
            self.door.loop.run()
        self.door.loop.run()

    def reads(self) -> bytes:
        """All that has come; b"" also when the connection was closed."""
        self.door.loop.run()
        try:
            return self.sock.recv(1 << 16)
        except BlockingIOError:
            return b"(nothing)"

    def is_refused(self) -> dict[str, str]:
        """The fields of the one error that has come before the connection was closed."""
        data = bytearray(self.reads())
        frame = take_frame(data, 1 << 16)
        if frame == (ord("R"), b"\0\0\0\0"):
            frame = take_frame(data, 1 << 16)  # it is who it says it is, but something else is wrong
        assert frame is not None and frame[0] == ord("E") and not data
        assert self.reads() == b""
        return parse.fields(frame[1])

    def logs_in(self) -> tuple[int, bytes]:
        """Its cancel key; what it is told is what a server tells."""
        frames = {}
        parameters = {}
        data = bytearray(self.reads())
        while (frame := take_frame(data, 1 << 16)) is not None:
            kind, payload = frame
            if kind == ord("S"):
                name, value, _ = payload.split(b"\0")
                parameters[name.decode()] = value.decode()
            frames[chr(kind)] = payload
        assert list(frames) == ["R", "S", "K", "Z"]
        assert (frames["R"], frames["Z"]) == (b"\0\0\0\0", b"I")
        self.parameters = parameters
        return int.from_bytes(frames["K"][:4], "big"), frames["K"][4:]


class Door:
    """A house whose servers are opened by the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, users: dict[str, Any], **config: Any) -> None:
        self.loop = Loop()
        self.upstream = Upstream(self.loop)
        self.callers: list[Caller] = []
        self.newcomers: list[Newcomer] = []
        self.servers: list[socket.socket] = []
        monkeypatch.setattr("pgambassador.net.ways.Origin", lambda *_, **__: self.upstream)
        monkeypatch.setattr("pgambassador.net.openings.time", SimpleNamespace(monotonic=self.loop.time))
        cluster = Cluster(url=Secret("postgresql://app@db.example"))
        settings = Config(**{"clusters": {"main": cluster}, **config})
        self.house = self.loop.within(lambda: House(settings, users, None))

    def opens(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.setblocking(False)
        link: Any = SimpleNamespace(
            sock=ours,
            tls=None,
            incoming=None,
            outgoing=None,
            address="db",
            leftover=b"",
            retire_at=None,
            parameters=PARAMETERS,
        )
        self.upstream.openings.pop(0).set_result(link)
        self.loop.run()
        says_what_hides(theirs)
        self.loop.run()
        self.servers.append(theirs)
        return theirs

    def fails(self, error: AmbassadorError) -> None:
        self.upstream.openings.pop(0).set_exception(error)
        self.loop.run()

    def close(self) -> None:
        for caller in self.callers:
            caller.sock.close()
        for opening in self.upstream.openings:
            opening.cancel()
        self.loop.run()
        for keeper in self.house.keepers.values():
            self.loop.within(keeper.stop)
        for _, cancel in self.upstream.cancels:
            cancel.cancel()
        self.loop.run()
        for each in self.servers:
            each.close()
        if hasattr(self.house.sockets, "close"):
            self.house.sockets.close()
        assert self.house.clients == 0
        assert not self.loop.problems


MakeDoor = Callable[..., Door]


@pytest.fixture
def doors(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeDoor]:
    made: list[Door] = []

    def make(users: dict[str, Any] | None = None, **config: Any) -> Door:
        made.append(Door(monkeypatch, users or {}, **config))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def door(doors: MakeDoor) -> Door:
    return doors()


@pytest.mark.parametrize("piece", [0, 1], ids=["whole", "bytewise"])
def test_a_login(door: Door, piece: int) -> None:
    caller = Caller(door, START, piece=piece)
    assert caller.reads() == b"(nothing)"
    server = door.opens()
    pid, key = caller.logs_in()
    assert caller.parameters == PARAMETERS
    assert pid > 0 and len(key) == 4
    caller.sends(QUERY, piece=piece)
    assert server.recv(100) == QUERY
    server.send(complete("X") + IDLE)
    assert caller.reads() == complete("X") + IDLE
    assert (door.house.clients, door.house.logins, len(door.house.keys)) == (1, 1, 1)
    (session,) = door.house.keeper("shop", "app").clients
    assert (session.facts.user, session.facts.database, session.facts.pid) == ("app", "shop", pid)
    assert session.facts.address == "10.0.0.1:40000"


@pytest.mark.parametrize("piece", [0, 1], ids=["whole", "bytewise"])
def test_a_query_glued_to_the_start(door: Door, piece: int) -> None:
    caller = Caller(door, START + QUERY, piece=piece)
    server = door.opens()
    caller.logs_in()
    assert server.recv(100) == QUERY


def test_encryption_is_declined(door: Door) -> None:
    caller = Caller(door, build.SSL_REQUEST)
    assert caller.reads() == b"N"
    caller.sends(build.GSSENC_REQUEST)
    assert caller.reads() == b"N"
    caller.sends(START)
    door.opens()
    caller.logs_in()


def test_a_login_that_is_answered_without_the_server(doors: MakeDoor) -> None:
    """Whatever server connection its client gets first, what that says is compared with what it was told."""
    config: dict[str, Any] = {"failover": Failover(offline_logins=True), "state": "/nowhere"}
    before = doors(**config)
    caller = Caller(before, START)
    before.opens()
    caller.logs_in()
    (session,) = before.house.keeper("shop", "app").clients
    assert not session.bereaved
    memory = before.house.memoirs.memory()
    assert memory is not None
    after = doors(**config)
    after.house.memoirs.recall(memory)
    caller = Caller(after, START)
    after.fails(Unreachable("db.example refused the connection", passing=True))
    caller.logs_in()
    assert caller.parameters == PARAMETERS and after.house.memoirs.in_use == 1
    (session,) = after.house.keeper("shop", "app").clients
    assert session.bereaved


def test_settings_are_those_of_the_client(door: Door) -> None:
    caller = Caller(
        door, build.startup_message({"user": "app", "database": "shop", "application_name": "psql"})
    )
    door.opens()
    caller.logs_in()
    assert caller.parameters == {**PARAMETERS, "application_name": "psql"}
    (session,) = door.house.keeper("shop", "app").clients
    assert (session.state, session.facts.application_name) == (
        Settings.of({"application_name": "psql"}),
        "psql",
    )


def test_which_parameters_are_settings() -> None:
    packet = parse.startup(
        build.startup_message(
            {
                "user": "app",
                "database": "shop",
                "replication": "false",
                "options": "-c TimeZone=UTC -c work_mem=1MB",
                "DateStyle": "ISO",
                "timezone": "CET",
            }
        )[4:]
    )
    # What stands by itself is set behind the options.
    assert settings_of(packet) is Settings.of({"timezone": "CET", "work_mem": "1MB", "datestyle": "ISO"})
    assert settings_of(parse.startup(START[4:])) is BASE


def test_options_that_are_not_understood_are_logged(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    Caller(door, build.startup_message({"user": "app", "options": "-Z"}))
    door.opens()
    assert "-Z" in caplog.text


def test_a_newer_protocol_is_negotiated(door: Door) -> None:
    caller = Caller(door, build.startup_message({"user": "app", "database": "shop"}, version=(3 << 16) | 3))
    assert caller.reads()[:1] == b"v"
    door.opens()
    caller.logs_in()


# Refusals.


def test_the_servers_refusal_in_its_words(door: Door) -> None:
    caller = Caller(door, START)
    door.fails(ServerRefused({"S": "FATAL", "V": "FATAL", "C": "28P01", "M": "no such user", "F": "auth.c"}))
    assert caller.is_refused() == {
        "S": "FATAL",
        "V": "FATAL",
        "C": "28P01",
        "M": "no such user",
        "F": "auth.c",
    }
    assert (door.house.login_failures, door.house.clients) == (1, 0)


@pytest.mark.parametrize(
    ("start", "sqlstate"),
    [
        (build.startup_message({"user": "app", "database": "other"}), "3D000"),
        (build.startup_message({"user": "app", "database": "other", "replication": "database"}), "3D000"),
        (build.startup_message({"user": "app", "database": "shop", "replication": "1"}), "28000"),
        (build.startup_message({"user": "app", "database": "shop", "replication": "2"}), "22023"),
        (build.startup_message({"database": "shop"}), "28000"),
        (b"\0\0\0\x08\0\2\0\0", "0A000"),
        (b"\0\0\0\x04", "08P01"),
        (b"GET / HTTP/1.1\r\n\r\n", "08P01"),
    ],
)
def test_what_is_refused(doors: MakeDoor, start: bytes, sqlstate: str) -> None:
    door = doors(databases={"shop": Database()}, auth=Auth(rules=(AuthRule(method="trust"),)))
    fields = Caller(door, start).is_refused()
    assert (fields["S"], fields["C"]) == ("FATAL", sqlstate)
    assert fields["M"][0].islower()
    assert door.house.login_failures == 1


def test_too_many_clients(doors: MakeDoor) -> None:
    door = doors(clients=Clients(max=1))
    first = Caller(door, START)
    door.opens()
    first.logs_in()
    assert Caller(door, START).is_refused()["C"] == "53300"
    first.sock.close()
    door.loop.run()
    Caller(door, START).logs_in()


def test_shutting_down(door: Door) -> None:
    door.house.draining = True
    assert Caller(door, START).is_refused()["C"] == "57P03"


def test_a_login_that_takes_too_long(doors: MakeDoor) -> None:
    door = doors(clients=Clients(login_timeout=10.0))
    silent = Caller(door)
    slow = Caller(door, START[:9])
    waiting = Caller(door, START)
    door.loop.pass_time(9.9)
    assert silent.reads() == slow.reads() == waiting.reads() == b"(nothing)"
    door.loop.pass_time(0.2)
    for each in (silent, slow, waiting):
        assert each.is_refused()["C"] == "57014"
    assert door.house.rejected == {"login timeout": 3}


@pytest.mark.parametrize("data", [b"", START[:3], build.SSL_REQUEST, START])
def test_a_caller_that_goes_away(door: Door, data: bytes) -> None:
    caller = Caller(door, data)
    caller.sock.close()
    door.loop.run()
    if data == START:
        door.opens()
    assert caller.task.done()
    assert door.house.clients == 0


def test_a_session_that_begins_while_draining_ends_at_once(door: Door) -> None:
    caller = Caller(door, START)
    door.house.draining = True
    door.opens()
    data = caller.reads()
    assert data.startswith(b"R") and b"57P01" in data
    assert caller.reads() == b""


# Authentication.

USERS = {"app": Plain(b"right")}


def talks(door: Door, password: bytes, *, user: str = "app") -> bytearray:
    """A login as a client library does it; what comes behind is returned."""
    dialogue = upstream_login({"database": "shop"}, password, user=user, channel=Channel(local=True))
    caller = Caller(door, next(dialogue))
    buffer = bytearray(caller.reads())
    while True:
        while (frame := take_frame(buffer, 1 << 16)) is None:
            if door.upstream.openings:
                door.opens()
            buffer += caller.reads()
        try:
            caller.sends(dialogue.send(frame))
        except StopIteration as stop:
            assert stop.value.parameters == PARAMETERS
            return buffer


@pytest.mark.parametrize("method", ["scram-sha-256", "md5"])
def test_the_right_password(doors: MakeDoor, method: Any) -> None:
    door = doors(USERS, auth=Auth(method=method))
    assert talks(door, b"right") == b""
    assert door.house.logins == 1


@pytest.mark.parametrize("method", ["scram-sha-256", "md5"])
@pytest.mark.parametrize(("user", "password"), [("app", b"wrong"), ("nobody", b"right")])
def test_a_wrong_password_and_an_unknown_user_look_the_same(
    doors: MakeDoor, method: Any, user: str, password: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    door = doors(USERS, auth=Auth(method=method))
    caplog.set_level("INFO")
    with pytest.raises(ServerRefused) as refused:
        talks(door, password, user=user)
    assert refused.value.sqlstate == "28P01"
    assert refused.value.message == f'password authentication failed for user "{user}"'
    assert door.upstream.openings == []
    assert "login refused" in caplog.text
    assert password.decode() not in caplog.text.replace("the password is wrong", "")


class Made:
    """Notes which sessions are made, and when."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sessions: list[Session] = []
        monkeypatch.setattr("pgambassador.net.seat.Session", self.make)

    def make(self, *args: Any) -> Session:
        self.sessions.append(Session(*args))
        return self.sessions[-1]


def half(
    door: Door, password: bytes, *, user: str = "app", database: str = "shop"
) -> tuple[Caller, Any, Any]:
    """A client that has been asked for its proof, its dialogue, and the proof."""
    dialogue = upstream_login({"database": database}, password, user=user, channel=Channel(local=True))
    caller = Caller(door, next(dialogue))
    proof = b""
    for _ in range(2):
        frame = take_frame(bytearray(caller.reads()), 1 << 16)
        assert frame is not None
        proof = dialogue.send(frame)
        if frame[1][3] == 10:  # AuthenticationSASL
            caller.sends(proof)
    return caller, dialogue, proof


def told(caller: Caller) -> dict[str, str]:
    """The parameters that it is told with its success."""
    data = bytearray(caller.reads())
    found = {}
    while (frame := take_frame(data, 1 << 16)) is not None:
        if frame[0] == ord("S"):
            name, value, _ = frame[1].split(b"\0")
            found[name.decode()] = value.decode()
    return found


def test_a_session_is_made_while_its_client_answers(doors: MakeDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    door = doors(USERS, auth=Auth(method="scram-sha-256"))
    made = Made(monkeypatch)
    talks(door, b"right")
    assert len(made.sessions) == 1
    keeper = door.house.keeper("shop", "app")
    before = keeper.lane.sessions
    caller, _, proof = half(door, b"right")
    assert len(made.sessions) == 2, "it is there, and nobody knows of it"
    assert (len(keeper.clients), keeper.lane.sessions, len(door.house.keys)) == (1, before, 1)
    caller.sends(proof)
    assert told(caller) == PARAMETERS
    assert len(made.sessions) == 2
    assert made.sessions[1] in keeper.clients
    assert (keeper.lane.sessions, len(door.house.keys)) == (before + 1, 2)


def test_what_has_changed_meanwhile_is_not_used(doors: MakeDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    door = doors(USERS, auth=Auth(method="scram-sha-256"))
    made = Made(monkeypatch)
    talks(door, b"right")
    keeper = door.house.keeper("shop", "app")
    caller, _, proof = half(door, b"right")
    changed = {**PARAMETERS, "TimeZone": "Asia/Tokyo"}
    door.loop.within(lambda: keeper.greeting.learn(changed))
    caller.sends(proof)
    assert told(caller) == changed
    assert len(made.sessions) == 3
    assert made.sessions[1] not in keeper.clients
    assert made.sessions[2].facts.told == changed


def frames(caller: Caller) -> dict[str, bytes]:
    """What it has been told, by its letters; of each, but ParameterStatus, there is one."""
    data = bytearray(caller.reads())
    found: dict[str, bytes] = {}
    while (frame := take_frame(data, 1 << 16)) is not None:
        letter = chr(frame[0]) if frame[0] != ord("R") else f"R{frame[1][3]}"
        assert letter == "S" or letter not in found
        found[letter] = frame[1]
    assert not data
    return found


def test_who_answers_right_is_told_so_before_its_login_follows(doors: MakeDoor) -> None:
    door = doors(USERS, auth=Auth(method="scram-sha-256"))
    talks(door, b"right")
    assert door.newcomers[-1].greeted is None, "a server had to be reached first"
    for password in (b"right", b"wrong", b"right"):
        caller, _, proof = half(door, password)
        caller.sends(proof)
        greeted = door.newcomers.pop().greeted or b""
        assert greeted.endswith(IDLE) == (password == b"right")
        assert list(frames(caller)) == (["R12", "R0", "S", "K", "Z"] if greeted else ["E"])
    assert (door.house.logins, len(door.house.keys)) == (3, 3)


def test_who_has_to_be_told_something_before_is_told_nothing_ahead(doors: MakeDoor) -> None:
    """NegotiateProtocolVersion comes before everything else."""
    door = doors(USERS, auth=Auth(method="scram-sha-256"))
    start = build.startup_message({"user": "app", "database": "shop", "_pq_.later": "1"})
    for _ in range(3):
        caller = Caller(door, start)
        assert list(frames(caller)) == ["v", "R10"]
        caller.sends(build.sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=abcdefgh"))
        assert list(frames(caller)) == ["R11"]
    assert len(door.house.herald) == 0


def test_who_asks_for_tls_first_is_told_ahead_all_the_same(doors: MakeDoor) -> None:
    door = doors(USERS, auth=Auth(method="scram-sha-256"))
    talks(door, b"right")
    for pieces in ([build.SSL_REQUEST, None], [build.SSL_REQUEST, build.GSSENC_REQUEST, None]):
        for password in (b"right", b"wrong"):
            dialogue = upstream_login({"database": "shop"}, password, user="app", channel=Channel(local=True))
            start = next(dialogue)
            caller = Caller(door)
            for piece in pieces:
                caller.sends(piece or start)
                if piece is not None:
                    assert caller.reads() == b"N"
            for _ in range(2):
                frame = take_frame(bytearray(caller.reads()), 1 << 16)
                assert frame is not None
                caller.sends(dialogue.send(frame))
            door.loop.pass_time(10)
            heard = frames(caller)
            assert ("Z" if password == b"right" else "E") == list(heard)[-1]
            assert (door.newcomers[-1].nonce is not None) == (len(pieces) == 2), (
                "the answer to GSSAPI comes after"
            )
    assert door.house.logins == 3


@pytest.mark.parametrize("why", ["clients", "memory", "draining", "of a database", "expired"])
def test_who_will_not_be_let_in_is_told_nothing_before(
    doors: MakeDoor, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    databases = {"shop": Database(max_clients=1)} if why == "of a database" else {}
    door = doors(USERS, auth=Auth(method="scram-sha-256"), databases=databases)
    house = door.house
    talks(door, b"right")
    if why == "expired":
        known = house.directory.known("app")
        assert known is not None
        doubted = known._replace(doubt="it has expired")
        monkeypatch.setattr(house.directory, "known", lambda user: doubted)
    caller, _, proof = half(door, b"right")
    if why == "clients":
        monkeypatch.setattr(house, "clients", house.config.clients.max)
    elif why == "memory":
        monkeypatch.setattr("pgambassador.net.tally.held_now", lambda: 1 << 60)
    elif why == "draining":
        door.loop.within(house.drain)
    caller.sends(proof)
    monkeypatch.undo()
    heard = frames(caller)
    assert "E" in heard and "Z" not in heard
    assert door.newcomers[-1].greeted is None
    assert house.logins == 1


def test_who_has_to_go_is_not_greeted_though_its_proof_is_there(doors: MakeDoor) -> None:
    door = doors(USERS, auth=Auth(method="scram-sha-256"))
    talks(door, b"right")
    caller, _, proof = half(door, b"right")
    caller.sock.send(proof)
    guest = next(iter(door.house.doorway._sites))

    def both() -> None:
        guest.make_room()
        readable = [call for fd, call in door.loop.readers.items() if select.select([fd], [], [], 0)[0]]
        for call in readable:
            call()

    door.loop.call_soon(both)
    door.loop.run()
    assert list(frames(caller)) == ["E"]
    assert (door.house.logins, door.house.clients, len(door.house.keys)) == (1, 1, 1)


@pytest.mark.parametrize("password", [b"right", b"wrong"])
def test_a_login_leaves_nothing_to_the_garbage_collector(doors: MakeDoor, password: bytes) -> None:
    door = doors(USERS, auth=Auth(method="scram-sha-256"))
    talks(door, b"right")
    gc.collect()
    gc.disable()
    try:
        before = sum(isinstance(each, Seat | Visitor) for each in gc.get_objects())
        for _ in range(3):
            caller, _, proof = half(door, password)
            caller.sends(proof)
            door.loop.pass_time(60)
            caller.sock.close()
            door.loop.run()
            assert caller.task.done()
        door.newcomers.clear()
        assert sum(isinstance(each, Seat | Visitor) for each in gc.get_objects()) <= before
    finally:
        gc.enable()


def test_a_login_that_would_say_something_else_than_it_was_told_fails(
    doors: MakeDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = doors(USERS, auth=Auth(method="scram-sha-256"))
    talks(door, b"right")
    keeper, keys = door.house.keeper("shop", "app"), door.house.keys
    before = (keeper.lane.sessions, len(keys), len(keeper.clients), door.house.clients)
    caller, _, proof = half(door, b"right")
    pids = iter([7, 7, 8])
    monkeypatch.setattr(keys, "give", lambda session, pid, key: next(pids) == 8)
    caller.sends(proof)
    heard = frames(caller)
    assert list(heard) == ["R12", "R0", "S", "K", "Z", "E"]
    assert parse.fields(heard["E"])["C"] == "57P03"
    assert caller.reads() == b""
    assert before == (keeper.lane.sessions, len(keys), len(keeper.clients), door.house.clients)


def test_who_cannot_show_who_it_is_leaves_nothing(doors: MakeDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    door = doors(USERS, auth=Auth(method="scram-sha-256"))
    made = Made(monkeypatch)
    talks(door, b"right")
    keeper = door.house.keeper("shop", "app")
    before = keeper.lane.sessions
    caller, _, proof = half(door, b"wrong")
    caller.sends(proof)
    assert caller.is_refused()["C"] == "28P01"
    assert len(made.sessions) == 2
    assert (len(keeper.clients), keeper.lane.sessions, len(door.house.keys)) == (1, before, 1)
    gone, _, _ = half(door, b"right")
    gone.sock.close()
    door.loop.run()
    assert gone.task.done()
    assert (len(keeper.clients), keeper.lane.sessions, len(door.house.keys)) == (1, before, 1)


def test_seats_that_are_remembered_are_bounded(doors: MakeDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgambassador.net.seat.SIZE", 3)
    door = doors()
    for number in range(7):
        who = {"user": "app", "database": "shop", "application_name": str(number)}
        caller = Caller(door, build.startup_message(who))
        if number == 0:
            door.opens()
        caller.logs_in()
        assert repr(door.house.seats) == f"<Seats {number % 3 + 1}>"
    door.house.seats.clear()
    assert door.house.seats.find(parse.startup(START[4:])) == (None, False)


def test_strangers_cost_the_same_and_leave_nothing(doors: MakeDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    door = doors(USERS, auth=Auth(method="scram-sha-256"))
    made = Made(monkeypatch)
    half(door, b"right")
    assert made.sessions == [] and door.house.keepers == {}
    talks(door, b"right")
    for user, database in (("nobody", "shop"), ("app", "nowhere")):
        before = len(made.sessions)
        caller, _, _ = half(door, b"right", user=user, database=database)
        assert len(made.sessions) == before + 1
        caller.sends(build.sasl_response(b"no proof"))
        assert "R" not in caller.is_refused()
        assert made.sessions[before] not in door.house.keeper("shop", "app").clients
    assert [key[0:3] for key in door.house.keepers] == [("main", "shop", "app")]
    assert door.house.keeper("shop", "app").lane.sessions == 1


def test_a_failure_is_answered_later_each_time(doors: MakeDoor) -> None:
    door = doors(USERS, auth=Auth(method="md5"))

    def fails() -> Caller:
        caller = Caller(door, START)
        assert caller.reads()[:1] == b"R"
        caller.sends(build.password_message(b"md5wrong"))
        return caller

    assert fails().is_refused()["C"] == "28P01"
    second = fails()
    assert second.reads() == b"(nothing)"
    assert (door.house.clients, len(door.house.doorway)) == (0, 1)  # at the door, and nobody's place is taken
    talks(door, b"right")
    assert second.reads() == b"(nothing)"
    door.loop.pass_time(0.2)
    assert second.is_refused()["C"] == "28P01"
    gone = fails()
    gone.sock.close()
    door.loop.run()
    assert len(door.house.doorway) == 0  # nobody waits for the time at which it would have been told


def begins(door: Door, user: str = "app") -> Caller:
    """Has sent its start packet, was asked for a password, and says nothing."""
    caller = Caller(door, build.startup_message({"user": user, "database": "shop"}))
    assert caller.reads()[:1] == b"R"
    return caller


def test_who_has_shown_nothing_takes_nobodys_place(doors: MakeDoor) -> None:
    door = doors(USERS, auth=Auth(method="md5"), clients=Clients(max=1))
    silent = [begins(door, f"stranger {number}") for number in range(FEW)]
    assert (door.house.clients, len(door.house.doorway)) == (0, FEW)
    talks(door, b"right")
    assert door.house.clients == 1
    # The one that stood longest has made room.
    assert silent[0].is_refused() | {"M": ""} == {
        "S": "FATAL",
        "V": "FATAL",
        "C": "53300",
        "M": "",
        "H": "Try again.",
    }
    assert door.house.rejected == {"too many logins": 1}
    assert silent[1].reads() == b"(nothing)"
    with pytest.raises(ServerRefused, match="too many clients") as refused:
        talks(door, b"right")
    assert refused.value.sqlstate == "53300"
    with pytest.raises(ServerRefused) as refused:
        talks(door, b"wrong")  # who is wrong hears that first
    assert refused.value.sqlstate == "28P01"


def test_who_is_told_later_makes_room_at_once(doors: MakeDoor) -> None:
    door = doors(USERS, auth=Auth(method="md5"), clients=Clients(max=1))
    failing = []
    for _ in range(3):
        failing.append(begins(door))
        failing[-1].sends(build.password_message(b"md5wrong"))
    assert failing[0].is_refused()["C"] == "28P01"
    for _ in range(FEW - 1):
        begins(door)
    assert failing[1].is_refused()["C"] == "28P01"
    assert failing[2].reads() == b"(nothing)"


def test_what_is_said_while_others_have_their_turn_is_kept(doors: MakeDoor) -> None:
    door = doors(USERS, auth=Auth(method="md5"))
    for _ in range(2 * TURNS):
        begins(door).sends(build.password_message(b"md5wrong"))
        door.loop.pass_time(1)
    for _ in range(TURNS):
        begins(door).sends(build.password_message(b"md5wrong"))
    caller = Caller(door, START)
    salt = caller.reads()[-4:]
    answer = build.password_message(md5_response(md5_digest(b"right", "app"), salt))
    caller.sends(answer + QUERY[:3])
    caller.sends(QUERY[3:])
    assert caller.reads() == b"(nothing)"
    gone = begins(door)
    gone.sends(build.password_message(b"md5wrong"))
    gone.sock.close()
    door.loop.run()
    assert gone.task.done()
    door.loop.pass_time(LONGEST)
    server = door.opens()
    caller.logs_in()
    assert server.recv(100) == QUERY


class Counted(socket.socket):
    """Counts what is asked of the kernel by name."""

    calls: Counter[str]

    def recv(self, *args: Any) -> bytes:
        self.calls["recv"] += 1
        return super().recv(*args)

    def send(self, *args: Any) -> int:
        self.calls["send"] += 1
        return super().send(*args)

    def getsockopt(self, *args: Any) -> Any:
        self.calls["getsockopt"] += 1
        return super().getsockopt(*args)

    def setsockopt(self, *args: Any) -> Any:
        self.calls["setsockopt"] += 1
        return super().setsockopt(*args)


@pytest.mark.skipif(not hasattr(socket, "SOCK_SEQPACKET"), reason="writes cannot be told apart here")
def test_what_a_login_asks_of_the_kernel(doors: MakeDoor) -> None:
    """Each step is one write, and none but the waits for what the client says next."""
    door = doors(USERS, auth=Auth(method="scram-sha-256"))
    talks(door, b"right")  # keys are derived, a server is there
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near = Counted(fileno=ours.detach())
    calls: Counter[str] = Counter()
    near.calls = calls
    for each in (near, theirs):
        each.setblocking(False)
    sockets = door.house.sockets
    watched: list[str] = []

    def watch(name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            watched.append(name)
            return getattr(sockets, name)(*args)

        return call

    wrapped = {name: watch(name) for name in ("add_reader", "remove_reader")}
    rest = {name: getattr(sockets, name) for name in ("add_writer", "remove_writer", "call_soon")}
    door.house.sockets = SimpleNamespace(**wrapped, **rest)
    timers = len(door.loop._timers)
    welcomed(door, near)
    dialogue = upstream_login({"database": "shop"}, b"right", user="app", channel=Channel(local=True))
    theirs.send(next(dialogue))
    records = []
    try:
        while True:
            door.loop.run()
            records.append(theirs.recv(1 << 16))
            buffer = bytearray(records[-1])
            while (frame := take_frame(buffer, 1 << 16)) is not None:
                if data := dialogue.send(frame):
                    theirs.send(data)
    except StopIteration:
        pass
    assert [record[8] for record in records] == [10, 11, 12]  # AuthenticationSASL, …Continue, …Final
    assert records[-1].endswith(IDLE)
    assert not calls, "all of it is compiled: what it says came in records"
    assert set(watched) == {"add_reader"}, "the socket is watched once, and then by somebody else"
    assert len(door.loop._timers) <= timers + 1
    theirs.close()
    door.loop.run()
    door.house.sockets = sockets


# Cancelling.


def test_cancelling_a_query_that_runs(door: Door) -> None:
    caller = Caller(door, START)
    server = door.opens()
    pid, key = caller.logs_in()
    caller.sends(QUERY)
    canceller = Caller(door, build.cancel_request(pid, key))
    ((link, cancel),) = door.upstream.cancels
    assert link.address == "db"
    # The connection closes when the server has been told.
    assert canceller.reads() == b"(nothing)"
    cancel.set_result(None)
    assert canceller.reads() == b""
    assert server.recv(100) == QUERY


def test_many_cancel_requests_come_a_few_at_a_time(door: Door) -> None:
    """Each is a connection to the server beside all limits, and whoever has a key can send any number."""
    caller = Caller(door, START)
    door.opens()
    pid, key = caller.logs_in()
    caller.sends(QUERY)
    cancellers = [Caller(door, build.cancel_request(pid, key)) for _ in range(20)]
    told = 0
    while told < len(cancellers):
        under_way = door.upstream.cancels[told:]
        assert 1 <= len(under_way) <= EACH
        for _, cancel in under_way:
            cancel.set_result(None)
        told += len(under_way)
        door.loop.run()
    assert all(each.reads() == b"" for each in cancellers)
    assert repr(door.house.cancels) == "<Turns of 0 places>"


def test_cancelling_what_waits_for_a_connection(door: Door) -> None:
    caller = Caller(door, START)
    server = door.opens()
    pid, key = caller.logs_in()
    (keeper,) = door.house.keepers.values()
    server.send(fatal())
    server.close()
    door.loop.run()
    caller.sends(QUERY)
    assert keeper.lane.waiting == 1
    canceller = Caller(door, build.cancel_request(pid, key))
    assert canceller.reads() == b""
    answer = caller.reads()
    assert b"C57014\0" in answer and answer.endswith(IDLE)
    assert door.upstream.cancels == []


@pytest.mark.parametrize("state", ["idle", "wrong key", "gone"])
def test_cancelling_nothing(door: Door, state: str) -> None:
    caller = Caller(door, START)
    door.opens()
    pid, key = caller.logs_in()
    if state == "wrong key":
        caller.sends(QUERY)
        key = bytes(each ^ 1 for each in key)
    elif state == "gone":
        caller.sock.close()
        door.loop.run()
    assert Caller(door, build.cancel_request(pid, key)).reads() == b""
    assert door.upstream.cancels == []


@pytest.mark.parametrize("name", ["pgambassador", "pgbouncer"])
def test_the_console_is_for_admins_from_other_machines(doors: MakeDoor, name: str) -> None:
    packet = build.startup_message({"user": "app", "database": name})
    caller = Caller(doors(), packet)
    assert caller.is_refused()["C"] == "42501"
    door = doors(auth=Auth(admins=("app",)))
    caller = Caller(door, packet + query("show version"))
    data = caller.reads()
    assert b"server_version\x0018.0 (pgambassador" in data and data.count(b"pgambassador ") == 2
    assert (door.house.clients, len(door.house.tunnels), len(door.house.keepers)) == (1, 1, 0)
    caller.sends(build.TERMINATE)
    assert (door.house.clients, len(door.house.tunnels), len(door.house.keys)) == (0, 0, 0)


def test_the_console_does_not_ask_a_server_for_passwords(doors: MakeDoor) -> None:
    auth = Auth(admins=("app",), rules=(AuthRule(method="upstream"),))
    caller = Caller(doors(auth=auth), build.startup_message({"user": "app", "database": "pgambassador"}))
    assert caller.is_refused()["C"] == "0A000"


def test_a_listed_database_is_no_console(doors: MakeDoor) -> None:
    door = doors(databases={"pgbouncer": Database()})
    Caller(door, build.startup_message({"user": "app", "database": "pgbouncer"}))
    door.opens()
    assert door.house.keepers
