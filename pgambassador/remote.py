"""`pgambassador reload`: a running pgambassador is asked over its console, and what it says is told.

1. It is done when this says so: the console answers when everything has been read, or with why it was not.
"""

from __future__ import annotations

import getpass
from dataclasses import replace
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from pgambassador.cluster.upstream import parse_url
from pgambassador.config.structs import CONSOLE
from pgambassador.credentials.keyring import Keyring
from pgambassador.credentials.registry import keyring_of
from pgambassador.errors import ConfigError, ProtocolViolation, ServerRefused
from pgambassador.net.conversation import Conversation
from pgambassador.net.origin import Origin
from pgambassador.net.tasks import spawn
from pgambassador.net.transport import Transport
from pgambassador.wire import build, parse
from pgambassador.wire.frames import Backend, Dialogue

if TYPE_CHECKING:
    from pgambassador.config import Config

MOST_FRAMES: Final = 1000
_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def of_config(config: Config) -> str:
    """The URL of the console of who listens there; over a Unix socket if there is one."""
    first = next((each for each in config.addresses() if each.is_unix), config.addresses()[0])
    host = _ANY.get(first.host, first.host)
    return f"postgresql:///{CONSOLE[0]}?host={quote(host, safe='')}&port={first.port}&sslmode=prefer"


async def reload(url: str) -> int:
    """0 if everything was read again; ServerRefused says why it was not."""
    upstream = parse_url(url)
    if upstream.database is None:
        upstream = replace(upstream, database=CONSOLE[0])
    if upstream.database not in CONSOLE:
        raise ConfigError(
            f"{upstream.database!r} is not a console.", hint=f"Name the database {CONSOLE[0]} in the URL."
        )
    user = upstream.user or getpass.getuser()
    origin = Origin(upstream, _keyring(upstream.password), database=upstream.database, user=user)
    link = await origin.open()
    try:
        conversation = Conversation(
            Transport(link.sock, link.peer, link.tls, link.incoming, link.outgoing), link.leftover
        )
        await conversation.hold(_ask("RELOAD"))
        (last,) = await conversation.hold(_ask("SHOW RELOAD"))
    finally:
        link.close()
    _, _, applied, restart = last
    print(f"reloaded; applied: {applied}" if applied else "reloaded")
    if restart:
        print(f"only a restart will apply the changes of {restart}")
    return 0


def _keyring(password: str | None) -> Keyring:
    return keyring_of("console", None, lambda user: None if password is None else password.encode(), spawn)


def _ask(text: str) -> Dialogue[list[list[str]]]:
    """The rows of a statement of the console."""
    rows: list[list[str]] = []
    refusal: ServerRefused | None = None
    outgoing = build.query(text)
    for _ in range(MOST_FRAMES):
        kind, payload = yield outgoing
        outgoing = b""
        if kind == Backend.DATA_ROW:
            found = parse.columns(build.frame(kind, payload))
            rows.append([parse.decode(value) if value is not None else "" for value in found])
        elif kind == Backend.ERROR_RESPONSE:
            refusal = ServerRefused(parse.fields(payload))
        elif kind == Backend.READY_FOR_QUERY:
            if refusal is not None:
                raise refusal
            return rows
    raise ProtocolViolation("the console does not come to an end of its answer")
