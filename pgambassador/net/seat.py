"""What a start packet asks for, and the session its client will have, made ready while it shows who it is.

1. For who has shown nothing yet only that is used which others have brought before: nothing is made that
   stays, and nothing knows of the session before it starts.
2. What has changed since is not used.
3. It takes as long whoever is named: for a stranger a session is made as well, which nobody will have.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import lru_cache

from pgambassador.net.facts import Facts
from pgambassador.net.greeting import BASE, Words
from pgambassador.net.house import House
from pgambassador.net.keeper import Keeper
from pgambassador.net.lodgings import Given, Lodger
from pgambassador.net.session import Session
from pgambassador.net.visitor import Visitor
from pgambassador.protocol.options import read_options
from pgambassador.protocol.settings import Settings
from pgambassador.wire.parse import StartupPacket

log = logging.getLogger(__name__)

NOT_SETTINGS = frozenset({"user", "database", "options", "replication"})
_NONE: Mapping[str, str] = {}


class Seat:
    """`prepare` is called while the client answers; `session` once it may have one."""

    def __init__(self, house: House, visitor: Visitor, packet: StartupPacket) -> None:
        self._house, self._visitor, self._packet = house, visitor, packet
        self._prepared: tuple[Keeper, Words, Session] | None = None

    def prepare(self) -> None:
        house, packet = self._house, self._packet
        if not _usual(packet) or "replication" in packet.params:
            return  # what is wrong with it is told once it is known whose it is
        settings, given = parts(packet)
        user = house.porter.server_user(packet.user)
        known = house.lodgings.known(Lodger(packet.database, packet.user, user, given))
        lodging = known or house.lodgings.last
        words = None if lodging is None else lodging[0].greeting.spoken(settings)
        if lodging is not None and words is not None:
            session = self._make(lodging[0], words)
            self._prepared = None if known is None else (lodging[0], words, session)

    def session(self, keeper: Keeper, words: Words) -> Session:
        """In that pool, told these words; not started yet."""
        if self._prepared is not None and self._prepared[0] is keeper and self._prepared[1] is words:
            return self._prepared[2]
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
