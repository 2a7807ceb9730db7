"""What a start packet asks for, and the session its client will have, made ready while it shows who it is.

1. For who has shown nothing yet only that is used which sessions have had before that began in the same way:
   nothing is made that stays, and nothing knows of the session before it starts.
2. What has changed since is not used.
3. It takes as long whoever is named: for a stranger a session is made as well, which nobody will have.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from pgambassador.auth.peer import Peer
from pgambassador.config import Allowance
from pgambassador.net.facts import Facts
from pgambassador.net.greeting import BASE, Words
from pgambassador.net.session import Session
from pgambassador.net.visitor import Visitor
from pgambassador.protocol.options import read_options
from pgambassador.protocol.settings import Settings
from pgambassador.wire import build
from pgambassador.wire.parse import StartupPacket

if TYPE_CHECKING:
    from pgambassador.net.house import House
    from pgambassador.net.keeper import Keeper

log = logging.getLogger(__name__)

Given = tuple[tuple[str, str], ...]
NOT_SETTINGS = frozenset({"user", "database", "options", "replication"})
SIZE = 1000
_NONE: Mapping[str, str] = {}
_READY = build.ready_for_query(b"I")


class Place(NamedTuple):
    """Where a client belongs that is `user` on the server, and what it is told; `parameters` are what the
    server has said of itself by then."""

    keeper: Keeper
    allowance: Allowance
    words: Words
    user: str
    parameters: dict[str, str] | None


class Seats:
    """The places of those who have become a session, by their start packets. `epoch` is another one after
    each change that may have given them other places."""

    def __init__(self) -> None:
        self.epoch = 0
        self._taken: dict[StartupPacket, Place] = {}
        self._last: Place | None = None

    def take(self, packet: StartupPacket, place: Place) -> None:
        """A client has shown who it is, and has this."""
        self._last = place
        if packet.usual:
            if len(self._taken) >= SIZE:
                self._taken.clear()
            self._taken[packet] = place

    def find(self, packet: StartupPacket) -> tuple[Place | None, bool]:
        """Of the last one who began so, and True; or somebody else's. None if there was nobody."""
        found = self._taken.get(packet)
        return (self._last, False) if found is None else (found, True)

    def clear(self) -> None:
        """Pools have gone, or may be others."""
        self.epoch += 1
        self._taken.clear()
        self._last = None

    def __repr__(self) -> str:
        return f"<Seats {len(self._taken)}>"


class Seat:
    """Of one client. `prepare` is called while it answers; `session` once it may have one."""

    def __init__(self, house: House, visitor: Visitor, packet: StartupPacket, peer: Peer) -> None:
        self.house, self.visitor, self.packet = house, visitor, packet
        self._peer = peer
        self._place: Place | None = None
        self._own = False
        self._epoch = house.seats.epoch
        self._session: Session | None = None
        self._key = (0, b"")
        self._told = b""

    def prepare(self) -> None:
        self._place, self._own = self.house.seats.find(self.packet)
        if self._place is not None:
            self._make(self._place)
            limited = self.house.limits.about(self._peer, self.packet.database, self.packet.user)
            self.visitor.newcomer.behind = None if limited else self.behind

    def behind(self, user: str) -> bytes | None:
        """What is told behind the success to who is `user` on the server; None if that cannot be said."""
        house = self.house
        full = house.draining or house.clients >= house.config.clients.max or house.memory.full
        return None if full or self.place(user) is None else self._told

    def place(self, user: str) -> Place | None:
        """That of the last one who began so, if somebody who is `user` has it still."""
        place = self._place
        if place is None or not self._own or place.user != user or self._epoch != self.house.seats.epoch:
            return None
        greeting = place.keeper.greeting
        same = greeting.parameters is place.parameters is not None
        return place if same and not greeting.notes else None

    def session(self, place: Place) -> tuple[Session, bytes]:
        """In that place, and what its client is told of it; not started yet."""
        if self._session is None or place is not self._place:
            self.house.seats.take(self.packet, place)
            self._make(place)
        session = self._session
        assert session is not None
        while not self.house.keys.give(session, *self._key):
            self._draw(place.words)
        session.facts.pid = self._key[0]
        return session, self._told

    def _make(self, place: Place) -> None:
        visitor, packet, words = self.visitor, self.packet, place.words
        facts = Facts(
            address=visitor.address,
            user=packet.user,
            database=packet.database,
            application_name=packet.params.get("application_name", ""),
            pid=0,
            connected_at=time.time(),
            start=words.settings,
            told=words.told,
        )
        self._session = Session(
            self.house.sockets, visitor.channel(), place.keeper.lane, words.settings, facts
        )
        self._draw(words)

    def _draw(self, words: Words) -> None:
        self._key = self.house.keys.draw(long=self.packet.version >= build.PROTOCOL_3_2)
        self._told = told(words.reports, *self._key)


def told(reports: bytes, pid: int, key: bytes) -> bytes:
    """What follows the success of a login."""
    return reports + build.backend_key_data(pid, key) + _READY


def parts(packet: StartupPacket) -> tuple[Settings, Given]:
    """What can be set at any time, and what a server connection begins with."""
    return _remembered(packet) if _usual(packet) else settings_of(packet).divided()


def _usual(packet: StartupPacket) -> bool:
    return packet.usual and "options" not in packet.params


@lru_cache(maxsize=1000)
def _remembered(packet: StartupPacket) -> tuple[Settings, Given]:
    return settings_of(packet).divided()


def settings_of(packet: StartupPacket) -> Settings:
    """The session's settings as the start packet gives them; `options` first, as a server does it."""
    if options := packet.params.get("options"):
        given, unparsed = read_options(options)
        if unparsed:
            log.warning("ignored in the options of a client: %s", " ".join(unparsed)[:200])
        return _settings(packet, given)
    return _settings(packet)


def _settings(packet: StartupPacket, options: Mapping[str, str] = _NONE) -> Settings:
    settings = {name.lower(): value for name, value in options.items()}
    for name, value in packet.params.items():
        if name not in NOT_SETTINGS:
            settings[name.lower()] = value
    return Settings.of(settings) if settings else BASE
