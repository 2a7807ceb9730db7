"""Logging in to real servers, and to some that only pretend."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import pytest
import uvloop

from pgambassador.cluster.upstream import Upstream, parse_url
from pgambassador.credentials.keyring import Attempt, Issued
from pgambassador.credentials.provider import Secret
from pgambassador.credentials.registry import keyring_of
from pgambassador.embedded import Authority, Postgres, Workspace
from pgambassador.embedded.ports import free_port
from pgambassador.errors import AmbassadorError, ConfigError, Refused, ServerRefused, Unreachable
from pgambassador.net.connector import connect, send_cancel
from pgambassador.net.conversation import Conversation
from pgambassador.net.link import Link
from pgambassador.net.tasks import spawn
from pgambassador.net.transport import Transport
from pgambassador.wire import build, parse
from pgambassador.wire.frames import Dialogue
from tests.harness import HBA, USERS, populate
from tests.harness import Link as Relay

T = TypeVar("T")
HOST = "127.0.0.1"


@pytest.fixture(scope="module")
def odd(workspace: Workspace) -> Postgres:
    """A server whose TLS settings may be changed; each test says which ones it wants."""
    server = workspace.primary("odd", hba=("host all all all scram-sha-256", *HBA))
    populate(server)
    return server


def run(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(work)
    gc.collect()  # a socket left open would be a ResourceWarning now
    return result


@contextlib.asynccontextmanager
async def linked(url: str | Upstream, user: str = "app", **more: Any) -> AsyncIterator[Link]:
    upstream = parse_url(url) if isinstance(url, str) else url
    secret = more.pop("secret", USERS[user].password.encode() if user in USERS else None)
    link = await connect(upstream, keys(secret), database=more.pop("database", "app"), user=user, **more)
    try:
        yield link
    finally:
        link.close()


def keys(secret: bytes | None) -> Attempt:
    """Of a keyring that knows this one only."""
    return keyring_of("main", None, lambda user: secret, spawn).attempt("app", "app")


def ask(link: Link, sql: str) -> Coroutine[Any, Any, str]:
    transport = Transport(link.sock, link.peer)
    transport.tls, transport.incoming, transport.outgoing = link.tls, link.incoming, link.outgoing
    return Conversation(transport).hold(question(sql))


def question(sql: str) -> Dialogue[str]:
    value, error = "", None
    kind, payload = yield build.query(sql)
    while kind != ord("Z"):
        if kind == ord("D"):
            value = payload[6:].decode()
        if kind == ord("E"):
            error = ServerRefused(parse.fields(payload))
        kind, payload = yield b""
    if error:
        raise error
    return value


async def answer(url: str | Upstream, sql: str, user: str = "app", **more: Any) -> str:
    async with linked(url, user, **more) as link:
        return await ask(link, sql)


def failure(url: str | Upstream, user: str = "app", **more: Any) -> AmbassadorError:
    async def main() -> None:
        async with linked(url, user, **more):
            pass

    with pytest.raises(AmbassadorError) as raised:
        run(main())
    return raised.value


def without_root(server: Postgres, mode: str, **parameters: str) -> str:
    url = server.url("app", database="app", sslmode=mode, **parameters)
    return url.replace("sslrootcert", "application_name")


# --- a good connection --------------------------------------------------------------------------------------


def test_a_link_over_verified_tls(primary: Postgres) -> None:
    async def main() -> None:
        async with linked(primary.url("app", application_name="ours")) as link:
            assert isinstance(link.tls, ssl.SSLObject)
            assert link.tls_version == "TLSv1.3"
            assert link.address == f"127.0.0.1:{primary.port}"
            assert link.endpoint.port == primary.port
            assert len(link.key) == 32
            assert link.leftover == b""
            assert link.parameters["application_name"] == "ours"
            assert link.parameters["in_hot_standby"] == "off"
            assert link.sock.getblocking() is False
            assert link.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert await ask(link, "select pg_backend_pid()") == str(link.pid)
            assert await ask(link, "select ssl from pg_stat_ssl where pid = pg_backend_pid()") == "t"
            assert await ask(link, "select current_user || '/' || current_database()") == "app/app"
            assert len(await ask(link, "select repeat('x', 200000)")) == 200_000
            assert link.key.hex() not in repr(link)

    run(main())


def test_keepalive_options_reach_the_socket(primary: Postgres) -> None:
    async def main() -> None:
        url = primary.url("app", keepalives_idle="31", keepalives_interval="7", keepalives_count="4")
        async with linked(url + "&tcp_user_timeout=9000") as link:
            option = link.sock.getsockopt
            assert option(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert option(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 7
            assert option(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 4
            if hasattr(socket, "TCP_KEEPIDLE"):
                assert option(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 31
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                assert option(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 9000
        async with linked(primary.url("app", keepalives="0")) as link:
            assert not link.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)

    run(main())


@pytest.mark.parametrize("user", [name for name in USERS if name != "app_cert"])
def test_every_way_to_log_in(primary: Postgres, user: str) -> None:
    """Among them passwords of 10 kB, by SCRAM and in clear text inside verified TLS."""
    assert run(answer(primary.url(user), "select current_user", user)) == user


def test_startup_parameters(primary: Postgres) -> None:
    url = primary.url("app") + "&options=-c%20geqo%3Doff%20-c%20search_path%3Dhere"
    assert run(answer(url, "show geqo")) == "off"
    assert run(answer(url, "show geqo", params={"options": "-c geqo=on"})) == "on"
    assert run(answer(url, "show application_name", params={"application_name": "x y"})) == "x y"


def test_a_system_postgres(system_postgres: Postgres) -> None:
    assert run(answer(system_postgres.url("app", channel_binding="require"), "select 1")) == "1"


def test_a_unix_socket(primary: Postgres) -> None:
    async def main() -> None:
        url = f"postgresql:///?host={primary.socket_folder}&port={primary.port}"
        async with linked(url) as link:
            assert link.tls is None
            assert link.address == f"{primary.socket_folder}/.s.PGSQL.{primary.port}"
            assert await ask(link, "select 1") == "1"
            await send_cancel(parse_url(url), link)

    run(main())


def test_ipv6(primary: Postgres) -> None:
    async def main() -> None:
        async with linked(primary.url("app").replace(HOST, "[::1]")) as link:
            assert link.address == f"[::1]:{primary.port}"
            assert await ask(link, "select host(inet_client_addr())") == "::1"

    run(main())


def test_a_host_name(primary: Postgres) -> None:
    assert run(answer(primary.url("app").replace(HOST, "localhost"), "select 1")) == "1"


def test_many_at_once(primary: Postgres) -> None:
    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            links = await asyncio.gather(
                *(stack.enter_async_context(linked(primary.url("app"))) for _ in range(20))
            )
            assert len({link.pid for link in links}) == 20

    run(main())


# --- TLS ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full", "allow", "prefer"])
def test_modes_that_end_in_tls(primary: Postgres, mode: str) -> None:
    """The server takes nothing else from this user."""
    assert (
        run(
            answer(
                primary.url("app", sslmode=mode), "select ssl from pg_stat_ssl where pid = pg_backend_pid()"
            )
        )
        == "t"
    )


@pytest.mark.parametrize(("mode", "encrypted"), [("disable", "f"), ("allow", "f"), ("prefer", "t")])
def test_modes_where_the_server_takes_both(primary: Postgres, mode: str, encrypted: str) -> None:
    url = without_root(primary, mode)
    sql = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"
    assert run(answer(url, sql, "app_plain")) == encrypted


def test_plain_text_where_the_server_wants_tls(primary: Postgres) -> None:
    error = failure(primary.url("app", sslmode="disable"))
    assert isinstance(error, ServerRefused)
    assert error.sqlstate == "28000"
    assert "no encryption" in error.message


def test_the_minimum_version(primary: Postgres) -> None:
    async def main() -> None:
        async with linked(primary.url("app", ssl_min_protocol_version="TLSv1.3")) as link:
            assert link.tls_version == "TLSv1.3"

    run(main())


@pytest.mark.parametrize("binding", ["disable", "prefer", "require"])
def test_channel_binding(primary: Postgres, binding: str) -> None:
    assert run(answer(primary.url("app", channel_binding=binding), "select 1")) == "1"


@pytest.mark.parametrize("user", ["app_md5", "app_cleartext", "app_trust"])
def test_channel_binding_required_of_a_login_that_cannot(primary: Postgres, user: str) -> None:
    error = failure(primary.url(user, channel_binding="require"), user)
    assert isinstance(error, Refused)
    assert "channel_binding=require" in error.message


def test_direct_tls(primary: Postgres) -> None:
    async def main() -> None:
        async with linked(primary.url("app", sslnegotiation="direct")) as link:
            assert link.tls is not None
            assert link.tls.selected_alpn_protocol() == "postgresql"
            assert await ask(link, "select 1") == "1"

    run(main())


def test_direct_tls_with_an_older_server(system_postgres: Postgres) -> None:
    if int(system_postgres.installation.version.split(".")[0]) >= 17:
        pytest.skip("the PostgreSQL of this machine knows direct TLS")
    error = failure(system_postgres.url("app", sslnegotiation="direct"))
    assert isinstance(error, Unreachable)
    assert "PostgreSQL 17" in (error.hint or "")


def test_a_password_in_clear_text_needs_verified_tls(primary: Postgres) -> None:
    error = failure(without_root(primary, "require"), "app_cleartext")
    assert isinstance(error, Refused)
    assert "in clear text" in error.message
    assert error.hint
    url = primary.url("app_cleartext", sslmode="verify-ca")
    assert run(answer(url, "select 1", "app_cleartext")) == "1"


def test_a_client_certificate(primary: Postgres, ca: Authority, tmp_path: Path) -> None:
    own = ca.client(tmp_path, "app_cert")
    url = primary.url("app_cert", sslcert=str(own.chain), sslkey=str(own.key))
    assert run(answer(url, "select current_user", "app_cert")) == "app_cert"

    error = failure(primary.url("app_cert"), "app_cert")
    assert isinstance(error, ServerRefused)
    assert "client certificate" in error.message

    stranger = Authority(tmp_path, "stranger").client(tmp_path, "app_cert")
    url = primary.url("app_cert", sslcert=str(stranger.chain), sslkey=str(stranger.key))
    error = failure(url, "app_cert")
    assert isinstance(error, Unreachable)
    assert "it refused the client certificate (unknown ca)" in error.message


@contextlib.contextmanager
def certified(server: Postgres, **options: Any) -> Iterator[None]:
    server.certify(**options)
    server.reload()
    try:
        yield
    finally:
        server.certify()
        server.reload()


def test_an_expired_certificate(odd: Postgres) -> None:
    with certified(odd, expired=True):
        error = failure(odd.url("app"))
    assert error.message == f"could not connect to 127.0.0.1:{odd.port}: a certificate it showed has expired"
    assert error.hint
    assert error.sqlstate == "08001"


def test_a_certificate_for_another_host(odd: Postgres) -> None:
    with certified(odd, hosts=("db.example", "10.1.2.3")):
        error = failure(odd.url("app"))
        assert error.message == (
            f"could not connect to 127.0.0.1:{odd.port}: its certificate is not for 127.0.0.1"
            " but for db.example, 10.1.2.3"
        )
        named = odd.url("app").replace(HOST, "db.example") + "&hostaddr=127.0.0.1"
        assert run(answer(named, "select 1")) == "1"
        direct = failure(odd.url("app", sslnegotiation="direct"))
        assert direct.message.endswith("but for db.example, 10.1.2.3")
        assert run(answer(odd.url("app", sslmode="verify-ca"), "select 1")) == "1"


def test_an_unknown_ca(odd: Postgres, ca: Authority, tmp_path: Path) -> None:
    with certified(odd, authority=Authority(tmp_path, "stranger")):
        error = failure(odd.url("app"))
        assert error.message.endswith(f"its certificate comes from a CA that is not in {ca.root}")
        assert "sslrootcert=FILE" in (error.hint or "")
        assert run(answer(without_root(odd, "require"), "select 1")) == "1"
        # As with libpq: TLS does not come about, and `prefer` has a second way.
        sql = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"
        assert run(answer(odd.url("app", sslmode="prefer"), sql)) == "f"


def test_the_systems_cas(primary: Postgres) -> None:
    error = failure(without_root(primary, "verify-full"))
    assert "not among the system's CAs" in error.message


def test_a_server_without_tls(odd: Postgres) -> None:
    odd.sql("alter system set ssl = off")
    odd.reload()
    try:
        for mode in ("require", "verify-ca", "verify-full"):
            error = failure(odd.url("app", sslmode=mode))
            assert error.message == f"could not connect to 127.0.0.1:{odd.port}: it does not offer TLS"
            assert error.hint
        for mode in ("disable", "allow", "prefer"):
            assert run(answer(without_root(odd, mode), "select 1")) == "1"
    finally:
        odd.sql("alter system reset ssl")
        odd.reload()


def test_a_ca_file_that_is_missing(primary: Postgres, tmp_path: Path) -> None:
    error = failure(primary.url("app", sslrootcert=str(tmp_path / "none")))
    assert isinstance(error, ConfigError)
    assert "cannot be read" in error.message


# --- refusals and several hosts -----------------------------------------------------------------------------


def test_the_servers_own_refusals(primary: Postgres) -> None:
    error = failure(primary.url("app"), secret=b"wrong")
    assert isinstance(error, ServerRefused)
    assert (error.sqlstate, error.message) == ("28P01", 'password authentication failed for user "app"')
    error = failure(primary.url(), "postgres", secret=primary.password.encode(), database="nowhere")
    assert (error.sqlstate, error.message) == ("3D000", 'database "nowhere" does not exist')
    error = failure(primary.url("app"), secret=None)
    assert isinstance(error, ConfigError)
    assert error.sqlstate == "28P01"


def both(first: str, second: Postgres, **parameters: str) -> str:
    return second.url("app", **parameters).replace(f"{HOST}:", f"{first},{HOST}:", 1)


def test_the_next_host_after_one_that_is_down(primary: Postgres) -> None:
    assert run(answer(both(f"{HOST}:{free_port()}", primary), "select 1")) == "1"
    assert run(answer(both("nowhere.invalid:5432", primary), "select 1")) == "1"


def test_no_next_host_after_a_wrong_password(primary: Postgres) -> None:
    with Relay(primary.port) as second:
        url = primary.url("app").replace(f"{HOST}:", f"{HOST}:{primary.port},{HOST}:", 1)
        url = url.replace(f"{HOST}:{primary.port}/", f"{HOST}:{second.port}/")
        assert failure(url, secret=b"wrong").sqlstate == "28P01"
        assert second.accepted == 0


def test_all_hosts_are_named_with_their_causes(primary: Postgres) -> None:
    one, two = free_port(), free_port()
    error = failure(f"postgresql://{HOST}:{one},{HOST}:{two},nowhere.invalid/app")
    assert error.message == (
        f"could not connect to 127.0.0.1:{one} and 127.0.0.1:{two}: connection refused; "
        + error.message[error.message.index("nowhere.invalid:5432: the host name was not found") :]
    )
    assert error.sqlstate == "08001"
    assert "that the server runs" in (error.hint or "")
    error = failure(f"postgresql://localhost:{one}/app")
    assert f"localhost:{one} (127.0.0.1)" in error.message


def test_names_that_are_none(primary: Postgres) -> None:
    for host in ("a..b", "x" * 300, "%ef%bc%8e"):
        error = failure(f"postgresql://{host}/app")
        assert isinstance(error, Unreachable), host
        assert error.hint


@pytest.mark.parametrize(
    ("wanted", "standby"),
    [
        ("any", None),
        ("read-write", "off"),
        ("primary", "off"),
        ("read-only", "on"),
        ("standby", "on"),
        ("prefer-standby", "on"),
    ],
)
def test_session_attributes(primary: Postgres, replica: Postgres, wanted: str, standby: str | None) -> None:
    async def main() -> None:
        for hosts in (both(f"{HOST}:{primary.port}", replica), both(f"{HOST}:{replica.port}", primary)):
            async with linked(f"{hosts}&target_session_attrs={wanted}") as link:
                if standby is not None:
                    assert link.parameters["in_hot_standby"] == standby
                assert await ask(link, "select 1") == "1"

    run(main())


def test_the_default_with_several_hosts(primary: Postgres, replica: Postgres) -> None:
    assert run(answer(both(f"{HOST}:{replica.port}", primary), "select pg_is_in_recovery()")) == "f"


def test_a_primary_will_do_if_there_is_no_standby(primary: Postgres) -> None:
    async def main() -> None:
        url = both(f"{HOST}:{primary.port}", primary, target_session_attrs="prefer-standby")
        async with linked(url, params={"application_name": "chosen"}) as link:
            sql = "select count(*) from pg_stat_activity where application_name = 'chosen'"
            end = time.monotonic() + 10
            while await ask(link, sql) != "1":
                assert time.monotonic() < end, "the other connection is still open"

    run(main())


def test_no_host_is_what_was_asked_for(primary: Postgres) -> None:
    error = failure(primary.url("app", target_session_attrs="standby"))
    assert error.message == f"could not connect to 127.0.0.1:{primary.port}: the server is not a standby"
    assert error.hint == "The URL asks for target_session_attrs=standby."


# --- cancelling ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parameters", [{}, {"sslnegotiation": "direct"}, {"sslmode": "disable"}])
def test_cancel(primary: Postgres, parameters: dict[str, str]) -> None:
    async def main() -> None:
        upstream = parse_url(primary.url("app_plain", **parameters))
        async with linked(upstream, "app_plain") as link, linked(upstream, "app_plain") as watcher:
            sleeping = asyncio.get_running_loop().create_task(ask(link, "select pg_sleep(60)"))
            sql = f"select count(*) from pg_stat_activity where pid = {link.pid} and wait_event = 'PgSleep'"
            while await ask(watcher, sql) != "1":
                pass
            await send_cancel(upstream, link)
            with pytest.raises(ServerRefused) as raised:
                await sleeping
            assert raised.value.sqlstate == "57014"
            assert await ask(link, "select 1") == "1"

    run(main())


def test_a_cancel_request_never_leaves_in_clear_text(primary: Postgres) -> None:
    async def main() -> None:
        upstream = parse_url(primary.url("app"))
        async with linked(upstream) as link, pretending(refuse_tls) as (port, heard):
            elsewhere = replace(link.peer, sockaddr=(HOST, port))
            link.peer = elsewhere
            with pytest.raises(
                Unreachable, match=r"could not send a cancel request to .* does not offer TLS"
            ):
                await send_cancel(upstream, link)
            assert b"".join(heard) == build.SSL_REQUEST

    run(main())


# --- servers that only pretend ------------------------------------------------------------------------------

Reader: TypeAlias = asyncio.StreamReader


class Writer:
    """Of a StreamWriter what is needed here, and what was heard so far."""

    def __init__(self, writer: asyncio.StreamWriter, heard: list[bytes]) -> None:
        self.write, self.close, self.heard = writer.write, writer.close, heard


Pretender: TypeAlias = Callable[[Reader, Writer], Awaitable[None]]


@contextlib.asynccontextmanager
async def pretending(server: Pretender) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Its port, and all that it hears after it has done its part."""
    heard: list[bytes] = []
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: Reader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        serving.add(task)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await server(reader, Writer(writer, heard))
            while data := await reader.read(65536):
                heard.append(data)
        writer.close()

    listener = await asyncio.start_server(serve, HOST, 0)
    try:
        yield listener.sockets[0].getsockname()[1], heard
    finally:
        listener.close()
        if serving:
            _, late = await asyncio.wait(serving, timeout=5)
            for task in late:
                task.cancel()


async def read_packet(reader: Reader, writer: Writer) -> bytes:
    head = await reader.readexactly(4)
    packet = head + await reader.readexactly(int.from_bytes(head, "big") - 4)
    writer.heard.append(packet)
    return packet


async def refuse_tls(reader: Reader, writer: Writer) -> None:
    await read_packet(reader, writer)
    writer.write(b"N")


def saying(answer: bytes, *, close: bool = False) -> Pretender:
    """Hears one packet, answers, and says no more."""

    async def server(reader: Reader, writer: Writer) -> None:
        await read_packet(reader, writer)
        writer.write(answer)
        if close:
            writer.close()

    return server


async def silent(reader: Reader, writer: Writer) -> None:
    pass


def pretended(
    server: Pretender, query: str = "sslmode=disable", **more: Any
) -> tuple[AmbassadorError, bytes]:
    """The error from a server that pretends, and what it heard."""

    async def main() -> tuple[AmbassadorError, bytes]:
        async with pretending(server) as (port, heard):
            with pytest.raises(AmbassadorError) as raised:
                async with linked(f"postgresql://{HOST}:{port}/app?{query}", secret=b"s3cret", **more):
                    pass
            told = not isinstance(raised.value, ServerRefused) and raised.value.sqlstate == "08001"
            assert not told or f"127.0.0.1:{port}: " in raised.value.message
        return raised.value, b"".join(heard)

    return run(main())


LOGIN = build.authentication_ok() + build.backend_key_data(7, b"key!") + build.ready_for_query(b"I")


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (b"SX", "with more than one byte"),
        (b"S" + LOGIN, "with more than one byte"),
        (b"N" + LOGIN, "with more than one byte"),
        (b"N", "it does not offer TLS"),
        (b"E", "with an error"),
        (b"H", "does not speak the PostgreSQL protocol"),
    ],
)
def test_answers_to_the_request_for_tls(answer: bytes, cause: str) -> None:
    error, heard = pretended(saying(answer), "sslmode=require")
    assert isinstance(error, Unreachable)
    assert cause in error.message
    assert error.hint
    assert heard == build.SSL_REQUEST


def test_clear_text_after_the_agreement_is_no_tls() -> None:
    async def server(reader: Reader, writer: Writer) -> None:
        await read_packet(reader, writer)
        writer.write(b"S")
        await reader.readexactly(1)
        writer.write(LOGIN)

    error, heard = pretended(server, "sslmode=require")
    assert "not TLS" in error.message or "handshake failed" in error.message
    assert b"app" not in heard


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "claims a length"),
        (b"R\0\0\0\x03", "claims a length"),
        (b"R\x7f\xff\xff\xff", "claims a length"),
        (build.authentication_ok() + build.ready_for_query(b"?"), "malformed ReadyForQuery"),
        (build.authentication_ok() + build.command_complete("X"), "message of type 'C'"),
        (build.notice_response("NOTICE", "00000", "x" * 100_000) * 20, "more data during login"),
    ],
)
def test_answers_that_are_no_login(answer: bytes, cause: str) -> None:
    error, _ = pretended(saying(answer))
    assert isinstance(error, Unreachable)
    assert cause in error.message


@pytest.mark.parametrize("answer", [b"", b"R\0\0", build.authentication_ok()])
def test_an_end_in_the_middle_of_the_login(answer: bytes) -> None:
    error, _ = pretended(saying(answer, close=True))
    assert "it closed the connection during the login" in error.message


@pytest.mark.parametrize(
    "refusal",
    [
        b"",
        build.error_response("FATAL", "08P01", "bad startup packet"),
        build.error_response("FATAL", "0A000", "no"),
    ],
)
def test_who_does_not_know_protocol_3_2_is_asked_with_3_0(refusal: bytes) -> None:
    """Once: after that it is known."""

    async def server(reader: Reader, writer: Writer) -> None:
        if parse.startup((await read_packet(reader, writer))[4:]).minor:
            writer.write(refusal)
            writer.close()
        else:
            writer.write(LOGIN)

    async def main() -> list[int]:
        async with pretending(server) as (port, heard):
            for _ in range(2):
                async with linked(f"postgresql://{HOST}:{port}/app?sslmode=disable") as link:
                    assert link.key == b"key!"
            return [parse.startup(packet[4:]).minor for packet in heard]

    assert run(main()) == [2, 0, 0]


def test_the_newest_protocol_can_be_named() -> None:
    async def server(reader: Reader, writer: Writer) -> None:
        await read_packet(reader, writer)
        writer.write(LOGIN)

    async def main() -> list[int]:
        async with pretending(server) as (port, heard):
            for version in ("3.0", "3.2", "latest"):
                query = f"sslmode=disable&max_protocol_version={version}"
                async with linked(f"postgresql://{HOST}:{port}/app?{query}"):
                    pass
            return [parse.startup(packet[4:]).minor for packet in heard]

    assert run(main()) == [0, 2, 2]


def test_no_password_in_clear_text_without_tls() -> None:
    error, heard = pretended(saying(build.authentication_cleartext()))
    assert isinstance(error, Refused)
    assert b"s3cret" not in heard


def test_what_follows_the_login_is_kept() -> None:
    async def main() -> None:
        extra = build.notice_response("NOTICE", "00000", "later")
        async with (
            pretending(saying(LOGIN + extra)) as (port, _),
            linked(f"postgresql://{HOST}:{port}/app?sslmode=disable") as link,
        ):
            assert link.leftover == extra
            assert (link.pid, link.key, link.tls) == (7, b"key!", None)

    run(main())


def test_a_login_in_single_bytes() -> None:
    async def server(reader: Reader, writer: Writer) -> None:
        await read_packet(reader, writer)
        for index in range(len(LOGIN)):
            writer.write(LOGIN[index : index + 1])
            await asyncio.sleep(0)

    async def main() -> None:
        async with (
            pretending(server) as (port, _),
            linked(f"postgresql://{HOST}:{port}/app?sslmode=disable") as link,
        ):
            assert link.pid == 7

    run(main())


@pytest.mark.parametrize("sqlstate", ["57P03", "53300", "57P01", "53400", "08001", "08006"])
def test_a_server_that_cannot_serve_now(primary: Postgres, sqlstate: str) -> None:
    server = saying(build.error_response("FATAL", sqlstate, "not now"), close=True)
    error, _ = pretended(server)
    assert isinstance(error, ServerRefused), "alone it speaks for itself"
    assert (error.sqlstate, error.message) == (sqlstate, "not now")

    async def main() -> None:
        async with pretending(server) as (port, _):
            url = both(f"{HOST}:{port}", primary, sslmode="disable").replace(
                "sslrootcert", "application_name"
            )
            assert await answer(url, "select 1", "app_plain") == "1"

    run(main())


def test_all_servers_are_starting() -> None:
    async def main() -> None:
        starting = saying(build.error_response("FATAL", "57P03", "starting"), close=True)
        async with pretending(starting) as (one, _), pretending(starting) as (two, _):
            # Nobody listens on the other address that localhost may have.
            for hosts in (f"{HOST}:{one},{HOST}:{two}", f"localhost:{one}"):
                with pytest.raises(ServerRefused, match="starting"):
                    async with linked(f"postgresql://{hosts}/app?sslmode=disable"):
                        pass
            with pytest.raises(Unreachable, match=r"refused; .*: starting"):
                async with linked(f"postgresql://{HOST}:{free_port()},{HOST}:{one}/app?sslmode=disable"):
                    pass

    run(main())


def test_a_server_too_old_to_report_what_it_is() -> None:
    async def server(reader: Reader, writer: Writer) -> None:
        await read_packet(reader, writer)
        writer.write(LOGIN)
        await reader.readuntil(b"SHOW transaction_read_only\0")
        writer.write(build.frame(ord("D"), b"\0\1\0\0\0\2on") + build.ready_for_query(b"I"))

    error, heard = pretended(server, "sslmode=disable&target_session_attrs=read-write")
    assert "the session is read-only" in error.message
    assert heard.endswith(build.TERMINATE)


# --- time ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "step"),
    [
        ("sslmode=disable", "to the login"),
        ("sslmode=require", "to the request for TLS"),
        ("sslmode=require&sslnegotiation=direct", "to the request for TLS"),
    ],
)
def test_a_server_that_says_nothing(query: str, step: str) -> None:
    begun = time.monotonic()
    error, _ = pretended(silent, query, timeout=0.3)
    assert 0.2 < time.monotonic() - begun < 5
    assert f"no answer {step} within 0.3 s" in error.message
    assert "connect_timeout" in (error.hint or "")


def test_a_silent_host_leaves_time_for_the_next(primary: Postgres) -> None:
    async def main() -> None:
        async with pretending(silent) as (port, _):
            assert await answer(both(f"{HOST}:{port}", primary), "select 1", timeout=4) == "1"

    run(main())


class Keyed:
    """Keys as a test wants them: for each host the secrets to try, in their order."""

    def __init__(self, **secrets: list[Secret]) -> None:
        self.secrets = secrets
        self.asked: list[str] = []

    async def issued(self, host: str, port: int) -> Issued:
        self.asked.append(host)
        return Issued(self.secrets[host][0], 1, True, 123.0)

    async def refused(self, host: str, port: int) -> bool:
        self.asked.append(f"not {host}")
        del self.secrets[host][0]
        return bool(self.secrets[host])


def keyed(url: str, keys: Keyed) -> Link:
    async def main() -> Link:
        link = await connect(parse_url(url), keys, database="app", user="app")
        link.close()
        return link

    return run(main())


RIGHT = Secret(None, USERS["app"].password.encode())
WRONG = Secret(None, b"wrong")


def test_each_host_has_its_own_secret(primary: Postgres) -> None:
    url = primary.url("app").replace(
        f"{HOST}:{primary.port}", f"{HOST}:{free_port()},localhost:{primary.port}"
    )
    subject = Keyed(**{HOST: [WRONG], "localhost": [RIGHT]})
    assert keyed(url, subject).retire_at == 123.0
    assert subject.asked == [HOST, "localhost"]


def test_a_secret_that_is_refused_is_replaced_as_often_as_there_is_another(primary: Postgres) -> None:
    subject = Keyed(**{HOST: [WRONG, WRONG, RIGHT]})
    keyed(primary.url("app"), subject)
    assert subject.asked == [HOST, f"not {HOST}"] * 2 + [HOST]


def test_the_refusal_is_the_servers_if_there_is_no_other(primary: Postgres) -> None:
    subject = Keyed(**{HOST: [WRONG, WRONG]})
    with pytest.raises(ServerRefused, match="password authentication failed") as raised:
        keyed(primary.url("app"), subject)
    assert raised.value.sqlstate == "28P01"
    assert subject.asked == [HOST, f"not {HOST}"] * 2


def test_a_user_that_may_not_come_is_refused_too(primary: Postgres) -> None:
    """28000: there is no line for it in pg_hba.conf."""
    subject = Keyed(**{HOST: [Secret("nobody", b"x"), RIGHT]})
    keyed(primary.url("app"), subject)
    assert subject.asked == [HOST, f"not {HOST}", HOST]


def test_another_refusal_is_not_the_secrets_fault(primary: Postgres) -> None:
    subject = Keyed(**{HOST: [RIGHT, RIGHT]})
    with pytest.raises(ServerRefused) as raised:
        run(connect(parse_url(primary.url("app")), subject, database="app", user="app", params={"geqo": "x"}))
    assert raised.value.sqlstate == "22023"
    assert subject.asked == [HOST]


def test_a_secret_may_be_another_users(primary: Postgres) -> None:
    user = USERS["app_md5"]
    subject = Keyed(**{HOST: [Secret(user.name, user.password.encode())]})
    assert keyed(primary.url("app"), subject).parameters["session_authorization"] == user.name


def test_a_failure_to_get_a_secret_ends_the_search(primary: Postgres) -> None:
    class Failing(Keyed):
        async def issued(self, host: str, port: int) -> Issued:
            raise Unreachable("the source is away", hint="Wait.")

    with pytest.raises(Unreachable, match=r"^the source is away$"):
        keyed(primary.url("app"), Failing())


def test_giving_up_closes_the_socket() -> None:
    async def main() -> None:
        reached, ended = asyncio.Event(), asyncio.Event()

        async def server(reader: Reader, writer: Writer) -> None:
            await read_packet(reader, writer)
            reached.set()
            await reader.read()
            ended.set()

        async with pretending(server) as (port, _):
            upstream = parse_url(f"postgresql://{HOST}:{port}/app?sslmode=disable")
            loop = asyncio.get_running_loop()
            task = loop.create_task(connect(upstream, keys(b"x"), database="app", user="app"))
            await reached.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(ended.wait(), 10)

    run(main())


def test_a_frozen_server(workspace: Workspace, odd: Postgres) -> None:
    odd.freeze()
    try:
        error = failure(odd.url("app"), timeout=0.3)
    finally:
        odd.thaw()
    assert "no answer to the request for TLS" in error.message
