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
from typing import TYPE_CHECKING

from pgambassador.net.facts import Facts
from pgambassador.net.greeting import BASE, Words
from pgambassador.net.session import Session
from pgambassador.net.visitor import Visitor
from pgambassador.protocol.options import read_options
from pgambassador.protocol.settings import Settings
from pgambassador.wire.parse import StartupPacket

if TYPE_CHECKING:
    from pgambassador.net.house import House
    from pgambassador.net.keeper import Keeper

log = logging.getLogger(__name__)

Given = tuple[tuple[str, str], ...]
NOT_SETTINGS = frozenset({"user", "database", "options", "replication"})
SIZE = 1000
_NONE: Mapping[str, str] = {}


class Seats:
    """The pool and the words of those who have become a session, by their start packets."""

    def __init__(self) -> None:
        self._taken: dict[StartupPacket, tuple[Keeper, Words]] = {}
        self._last: tuple[Keeper, Words] | None = None

    def take(self, packet: StartupPacket, keeper: Keeper, words: Words) -> None:
        """A client has shown who it is, and has these."""
        self._last = keeper, words
        if packet.usual:
            if len(self._taken) >= SIZE:
                self._taken.clear()
            self._taken[packet] = self._last

    def find(self, packet: StartupPacket) -> tuple[Keeper, Words] | None:
        """Of the last one who began so, or somebody else's; None if there was nobody."""
        return self._taken.get(packet, self._last)

    def clear(self) -> None:
        """Pools have gone, or may be others."""
        self._taken.clear()
        self._last = None

    def __repr__(self) -> str:
        return f"<Seats {len(self._taken)}>"


class Seat:
    """`prepare` is called while the client answers; `session` once it may have one."""

    def __init__(self, house: House, visitor: Visitor, packet: StartupPacket) -> None:
        self._house, self._visitor, self._packet = house, visitor, packet
        self._keeper: Keeper | None = None
        self._words: Words | None = None
        self._session: Session | None = None

    def prepare(self) -> None:
        found = self._house.seats.find(self._packet)
        if found is not None:
            self._keeper, self._words = found
            self._session = self._make(*found)

    def session(self, keeper: Keeper, words: Words) -> Session:
        """In that pool, told these words; not started yet."""
        self._house.seats.take(self._packet, keeper, words)
        if self._session is not None and keeper is self._keeper and words is self._words:
            return self._session
        return self._make(keeper, words)

    def _make(self, keeper: Keeper, words: Words) -> Session:
        visitor, packet = self._visitor, self._packet
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
        return Session(self._house.sockets, visitor.channel(), keeper.lane, words.settings, facts)


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
