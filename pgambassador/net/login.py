"""From accept to the first ReadyForQuery: the life of a client before it is a session.

1. Nothing is read beyond what the next step needs to know, and all of it within `clients.login_timeout`, or
   what its database or user has instead.
2. What goes wrong is one ErrorResponse (FATAL) and a closed connection. Who left meanwhile is not waited for.
3. The success is one write: AuthenticationOk, ParameterStatus, BackendKeyData, ReadyForQuery.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from dataclasses import replace
from functools import partial
from typing import Any

from pgambassador.admin.exchange import Exchange
from pgambassador.auth.peer import Peer
from pgambassador.auth.rules import LOGICAL, PHYSICAL, SESSION
from pgambassador.config.values import seconds
from pgambassador.errors import AmbassadorError, Refused, ServerRefused, Unreachable
from pgambassador.net import patience
from pgambassador.net.arrival import peer_of
from pgambassador.net.console import Console
from pgambassador.net.desk import COLUMNS, Desk, check_admin, settings_for
from pgambassador.net.gate import explain
from pgambassador.net.greeting import reports_of
from pgambassador.net.guests import Guest
from pgambassador.net.herald import Newcomer, changed
from pgambassador.net.house import House
from pgambassador.net.seat import NOT_SETTINGS, Place, Seat, parts, settings_of, told
from pgambassador.net.session import Session
from pgambassador.net.tunnel import Tunnel
from pgambassador.net.visitor import Gone, Visitor
from pgambassador.pool.census import Stay
from pgambassador.protocol.negotiate import Cancel, Opening, Send, Start, Tls
from pgambassador.protocol.options import read_options, truth
from pgambassador.wire import build
from pgambassador.wire.build import PROTOCOL_3_2
from pgambassador.wire.parse import StartupPacket

log = logging.getLogger(__name__)

CANNOT_CONNECT_NOW = "57P03"
# So much of what strangers say is read without need.
_READ = 1024
_CANCELED = build.error_response("ERROR", "57014", "canceling statement due to user request")
LIMIT = "pgambassador.login_timeout"


async def welcome(house: House, newcomer: Newcomer, task: asyncio.Task[Any]) -> None:
    """Take one connection to its end: a session, or closed. `task` is the one that does it."""
    started = False
    guest = house.guests.enter(task)
    visitor = Visitor(newcomer, house.sockets)
    newcomer.look()
    peer = peer_of(newcomer.sock, newcomer.address)
    try:
        house.arrive(guest, peer)
        start = await _first_packets(house, visitor)
        if start is not None:
            started = await _login(house, visitor, start, peer, guest)
    except asyncio.CancelledError:
        if not guest.leaves:
            raise
        guest.stays()
        _too_late(house, visitor, guest)
    except AmbassadorError as error:
        house.login_failures += 1
        for note in getattr(error, "__notes__", ()):
            log.info("login refused: %s", note, extra={"client": newcomer.address})
        if not error.delay or await _held_back(house, visitor, guest, error.delay):
            refuse(visitor, error)
    except (Gone, OSError) as error:
        if visitor.handshaking:
            why = explain(error, house.config.tls) if isinstance(error, ssl.SSLError) else "it went away"
            _unshaken(house, visitor, why)
    finally:
        house.guests.leave(guest)
        house.doorway.leave(guest)
        visitor.done()
        if not started:
            visitor.close()


async def _held_back(house: House, visitor: Visitor, guest: Guest, seconds: float) -> bool:
    """Let the time pass that a failure is told after; whether the client is still there."""
    house.guests.leave(guest)
    try:
        await visitor.pause(seconds)
    except asyncio.CancelledError:
        if not guest.leaves:
            raise
        guest.stays()  # others need its place
    except (Gone, OSError):
        return False
    return True


def _too_late(house: House, visitor: Visitor, guest: Guest) -> None:
    if guest.crowded:
        error = Refused("too many clients are logging in just now", sqlstate="53300", hint="Try again.")
        refuse(visitor, error)
        return
    house.rejected["login timeout"] += 1
    limit, option = guest.limit or (house.config.clients.login_timeout, "clients.login_timeout")
    if visitor.handshaking:
        _unshaken(house, visitor, f"it was not finished within {limit:g} s")
    keeper = visitor.waits_in
    if keeper is not None and patience.shares(keeper):
        refuse(visitor, patience.crowded(keeper, limit))
        return
    error = Refused(
        f"the login was not finished within {limit:g} s",
        sqlstate="57014",
        hint=f"The limit is {option}.",
    )
    refuse(visitor, error)


def _unshaken(house: House, visitor: Visitor, why: str) -> None:
    house.rejected["TLS handshake"] += 1
    log.info("TLS handshake failed: %s", why, extra={"client": visitor.address})


async def _first_packets(house: House, visitor: Visitor) -> Start | None:
    gate = house.gate  # what was offered is kept, although a reload may change it meanwhile
    opening = Opening(tls=gate.offers and not visitor.is_unix)
    while True:
        for action in opening.feed(await visitor.read()):
            match action:
                case Send(data):
                    await visitor.send(data)
                case Tls(data, direct):
                    await visitor.start_tls(gate, data, direct=direct)
                case Start():
                    if not (visitor.encrypted or visitor.is_unix):
                        gate.check_plain()
                    return action
                case Cancel(request):
                    await _cancel(house, request.pid, request.key)
                    visitor.last_words(b"")
                    return None


async def _cancel(house: House, pid: int, key: bytes) -> None:
    """Cancel what the session with this key is doing; its connection closes when the server has been told."""
    session = house.keys.find(pid, key)
    if session is None or session.closed or isinstance(session, Console):
        return
    if isinstance(session, Session) and (session.waiting or session.detained):
        keeper = session.policy
        keeper.cancels += 1
        session.refuse(_CANCELED)
        return
    await house.cancels.hold(session, partial(_cancel_at_server, session))


async def _cancel_at_server(session: Session | Tunnel) -> None:
    if isinstance(session, Tunnel):
        await session.cancel()
    elif session.riding:
        # Others share its connection: they are out of the way before anything is cancelled there.
        backend = session.give_up(_CANCELED)
        if backend is None:
            session.policy.cancels += 1
        else:
            await session.policy.cancel(backend)
    elif session.backend is not None and session.backend.works:
        await session.policy.cancel(session.backend)


async def _login(house: House, visitor: Visitor, start: Start, peer: Peer, guest: Guest) -> bool:
    packet = start.packet
    house.check_open()
    kind = _kind(packet.params["replication"]) if "replication" in packet.params else SESSION
    visitor.begin(start.tail)
    limit = _limit(packet, house.config.login_timeout(packet.database, packet.user))
    if limit[0] != house.config.clients.login_timeout:
        house.guests.allow(guest, limit)
    shown = _shown(peer, visitor)
    seat = Seat(house, visitor, packet, peer)
    visitor.meanwhile = seat.prepare
    console = kind == SESSION and house.config.is_console(packet.database)
    success, user = await house.porter.admit(shown, packet.user, packet.database, visitor, kind)
    if visitor.newcomer.ahead:
        visitor.newcomer.check()
    if console and not peer.local:
        check_admin(house.config, packet.user)
    try:
        stay = house.admit(peer)
        try:
            if console:
                _attend(seat, success, stay)
                return True
            house.lodge(stay, packet.database, packet.user)
            if kind == SESSION and (place := seat.place(user)) is not None:
                _begin(seat, success, stay, place)
                return True
            house.doorway.leave(guest)
            if kind == SESSION:
                _begin(seat, success, stay, await _place(seat, user))
            else:
                await _replicate(seat, success, stay, user, kind)
            return True
        except BaseException:
            house.dismiss(stay)
            raise
    except AmbassadorError as error:
        if _sqlstate(error) != CANNOT_CONNECT_NOW and visitor.newcomer.greeted is None:
            # As a server does it: whom it knows is told so, and then what else is wrong.
            visitor.say(success)
        raise


def _limit(packet: StartupPacket, limit: tuple[float, str]) -> tuple[float, str]:
    """How long its login may take, and where that is written: who comes may ask for less than others have."""
    text = packet.params.get(LIMIT)
    options = packet.params.get("options", "")
    if text is None and "login" in options and len(options) <= _READ:
        with contextlib.suppress(Refused):  # only those are told whom a server would know
            text = read_options(options)[0].get(LIMIT)
    asked = None if text is None else seconds(text)
    return (asked, LIMIT) if asked and asked < limit[0] else limit


# For somebody who has shown who it is: `success` tells it so, `user` is who it is on the server.


def _begin(seat: Seat, success: bytes, stay: Stay, place: Place) -> None:
    """A session, in its place."""
    house, keeper = seat.house, place.keeper
    session, words = seat.session(place)
    greeted = seat.visitor.newcomer.greeted
    if greeted is not None and greeted != success + words:
        house.keys.release(session.facts.pid)
        raise changed()
    session.facts.stay = stay
    session.bereaved = place.parameters is None  # it was told what was known last
    keeper.clients.add(session)
    house.logins += 1
    if greeted is None:
        session.tell(success + words)
    keeper.timekeeper.allow(session, place.allowance, time.monotonic())
    house.tolls.attend(session)
    session.start(seat.visitor.rest())
    if house.draining:
        session.drain()


async def _place(seat: Seat, user: str) -> Place:
    """The pool's server may have to be reached for it."""
    packet = seat.packet
    settings, given = parts(packet)
    keeper, allowance = seat.house.lodging(packet.database, packet.user, user, given)
    seat.visitor.waits_in = keeper
    words = await keeper.greeting.words(settings)
    return Place(keeper, allowance, words, user, keeper.greeting.parameters)


def _kind(value: str) -> str:
    """What the start packet's `replication` means, which takes every way to write a truth value."""
    if value == "database":
        return LOGICAL
    meaning = truth(value)
    if meaning is not None:
        return PHYSICAL if meaning else SESSION
    raise Refused(
        f'invalid value for parameter "replication": "{value[:64]}"',
        sqlstate="22023",
        hint='Valid values are: "false", 0, "true", 1, "database".',
    )


async def _replicate(seat: Seat, success: bytes, stay: Stay, user: str, kind: str) -> None:
    """A connection of its own, with what the client's start packet says."""
    house, visitor, packet = seat.house, seat.visitor, seat.packet
    settings = settings_of(packet).values
    for name in settings:
        # In a pool a server would be told of it as of a parameter; here it would be part of the start packet.
        if name in NOT_SETTINGS or name.startswith("_pq_."):
            raise Refused(
                f'unrecognized configuration parameter "{name[:64]}"',
                sqlstate="42704",
                hint="Leave it out of the options.",
            )
    origin = house.ways.replication(packet.database, user, settings, kind)
    link = await origin.open()
    early = visitor.rest()
    client = visitor.channel()
    tunnel = Tunnel(
        house.servers, client, link, origin, buffer=house.config.clients.buffer, stay=stay, ended=house.ended
    )
    tunnel.pid, key = house.keys.issue(tunnel, long=packet.version >= PROTOCOL_3_2)
    house.tunnels.add(tunnel)
    house.logins += 1
    tunnel.start(success + told(reports_of(link.parameters), tunnel.pid, key), early)
    if house.draining:
        tunnel.close()


def _attend(seat: Seat, success: bytes, stay: Stay) -> None:
    """The console, which has no server connection."""
    house, visitor, packet = seat.house, seat.visitor, seat.packet
    known = settings_for(packet)
    desk = Desk(house, packet.user)
    exchange = Exchange(desk.answer, COLUMNS, known)
    channel, waits = visitor.channel(), lambda: desk.levers.waits()
    console = Console(house.sockets, channel, exchange, stay=stay, ended=house.ended, waits=waits)
    console.pid, key = house.keys.issue(console, long=packet.version >= PROTOCOL_3_2)
    house.tunnels.add(console)
    house.logins += 1
    console.start(success + told(reports_of(known), console.pid, key), visitor.rest())
    if house.draining:
        console.close()


def _shown(peer: Peer, visitor: Visitor) -> Peer:
    """With what TLS has told of it."""
    if not visitor.encrypted:
        return peer
    certificate = visitor.certificate
    return replace(
        peer,
        tls=True,
        common_name=None if certificate is None else certificate.common_name,
        binding=visitor.binding,
    )


def _sqlstate(error: AmbassadorError) -> str:
    """Of a login that fails. For libpq this one means to try another host, and for pg_isready "not yet"."""
    return CANNOT_CONNECT_NOW if isinstance(error, Unreachable) else error.sqlstate


def refuse(visitor: Visitor, error: AmbassadorError) -> None:
    """Tell a client that has no session, as far as its socket takes it."""
    if isinstance(error, ServerRefused):
        message = build.error_response_from({**error.fields, "S": "FATAL", "V": "FATAL"})
    else:
        message = build.error_response("FATAL", _sqlstate(error), error.message, error.detail, error.hint)
    visitor.last_words(message)
