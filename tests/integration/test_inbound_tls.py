"""TLS towards clients: who gets in, what they are shown, and that nothing is different inside."""

from __future__ import annotations

import _ssl
import asyncio
import ctypes
import hashlib
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
from psycopg import Connection

from pgambassador.auth import binding, scram
from pgambassador.embedded import Authority, Certificate, Postgres
from pgambassador.embedded.ports import HOST
from pgambassador.wire import build, parse
from tests.harness import USERS, Ambassador, Wire, psql, wait_until
from tests.harness.activity import wait_running

Make = Callable[..., Ambassador]
MB = 1 << 20
PASSWORDS = {"alice": "alice-secret", "app": "app-secret"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def ours(ca: Authority, folder: Path) -> Certificate:
    return ca.server(folder, "ours")


@pytest.fixture(scope="module")
def alice(ca: Authority, folder: Path) -> Certificate:
    return ca.client(folder, "alice")


@pytest.fixture(scope="module")
def sockets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s")


@pytest.fixture(scope="module")
def make(
    primary: Postgres, ca: Authority, ours: Certificate, sockets: Path, ambassadors: Make
) -> Callable[..., Ambassador]:
    def one(tls: dict[str, str], **more: Any) -> Ambassador:
        tls = {"certificate": str(ours.chain), "key": str(ours.key), **tls}
        process = ambassadors(
            primary.url("app", USERS["app"].password, "app"),
            start=False,
            tls=tls,
            **{"pool": {"size": 3}, **more},
        )
        process.config["listen"].append(f"unix:{sockets}")
        process.start()
        return process

    return one


@pytest.fixture(scope="module")
def proxy(make: Make, ca: Authority) -> Ambassador:
    """Anybody may come, with TLS or without, with a certificate or without."""
    return make({"ca": str(ca.root)})


@pytest.fixture(scope="module")
def strict(make: Make) -> Ambassador:
    """TLS and a password."""
    return make({"mode": "require"}, auth={"users": PASSWORDS})


@pytest.fixture(scope="module")
def verifying(make: Make, ca: Authority) -> Ambassador:
    return make({"mode": "verify-ca", "ca": str(ca.root), "min_version": "TLSv1.3"})


@pytest.fixture
def context(ca: Authority) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(ca.root))
    made.set_alpn_protocols(["postgresql"])
    return made


@pytest.fixture
def parameters(ca: Authority) -> dict[str, str]:
    return {"sslmode": "verify-full", "sslrootcert": str(ca.root)}


def shown(certificate: Certificate) -> dict[str, str]:
    return {"sslcert": str(certificate.chain), "sslkey": str(certificate.key)}


def session(proxy: Ambassador, context: ssl.SSLContext, **more: Any) -> Wire:
    wire = Wire(proxy.port, **more)
    wire.encrypt(context)
    wire.login(user="app", database="app")
    return wire


def failed(proxy: Ambassador, reason: str) -> None:
    """The log says why a handshake has failed, in one line at level info."""
    line = proxy.wait_for_log(lambda line: reason in line["message"], reason)
    assert line["message"].startswith("TLS handshake failed: ")
    assert line["level"] == "info"
    assert line["client"].startswith(HOST)


def rejected(proxy: Ambassador, reason: str) -> float:
    name = "pgambassador_clients_rejected_total"
    return dict(proxy.metrics()).get((name, frozenset({("reason", reason)})), 0)


def handshake_failures(proxy: Ambassador) -> float:
    return rejected(proxy, "TLS handshake")


# Who gets in.


@pytest.mark.parametrize("negotiation", ["postgres", "direct"])
@pytest.mark.parametrize("mode", ["require", "verify-full"])
def test_psql(proxy: Ambassador, parameters: dict[str, str], mode: str, negotiation: str) -> None:
    dsn = proxy.dsn(**{**parameters, "sslmode": mode, "sslnegotiation": negotiation})
    said = psql(dsn, "select 'served'; \\conninfo")
    assert "served" in said
    assert "TLSv1.3" in said


def test_without_tls_as_before(proxy: Ambassador) -> None:
    assert psql(proxy.dsn(sslmode="disable"), "select 1") == "1"


def test_tls_is_taken_where_it_is_offered(proxy: Ambassador) -> None:
    with psycopg.connect(proxy.dsn()) as connection:
        assert connection.pgconn.ssl_in_use


def test_a_unix_socket_speaks_no_tls(proxy: Ambassador, strict: Ambassador, sockets: Path) -> None:
    for process in (proxy, strict):
        with Wire(f"{sockets}/.s.PGSQL.{process.port}") as wire:
            wire.send(build.SSL_REQUEST)
            assert wire.take(1) == b"N"
        with Wire(f"{sockets}/.s.PGSQL.{process.port}") as wire:
            wire.send(b"\x16\3\1")
            assert wire.rest().error.sqlstate == "08P01"
    dsn = f"host={sockets} port={strict.port} user=alice password=alice-secret dbname=app"
    assert psql(dsn, "select 1") == "1"


def test_gssapi_is_declined_and_tls_follows(proxy: Ambassador, context: ssl.SSLContext) -> None:
    with Wire(proxy.port) as wire:
        wire.send(build.GSSENC_REQUEST)
        assert wire.take(1) == b"N"
        wire.encrypt(context)
        wire.login(user="app", database="app")
        assert wire.ask("select 1").value == "1"


def test_required_tls(strict: Ambassador, parameters: dict[str, str]) -> None:
    password = PASSWORDS["alice"]
    with pytest.raises(psycopg.OperationalError, match="connections without TLS are not accepted here"):
        psycopg.connect(strict.dsn("alice", password=password, sslmode="disable"))
    with Wire(strict.port) as wire:
        wire.start(user="alice", database="app")
        error = wire.rest().error
        assert (error.sqlstate, error.fields["S"]) == ("28000", "FATAL")
    assert psql(strict.dsn("alice", password=password, **parameters), "select 1") == "1"
    # It goes on without TLS, and is refused; or it asks for TLS because it was refused: both get in.
    assert psql(strict.dsn("alice", password=password, sslmode="allow"), "select 1") == "1"


def test_client_certificates(
    proxy: Ambassador, verifying: Ambassador, parameters: dict[str, str], alice: Certificate
) -> None:
    for process in (proxy, verifying):
        assert psql(process.dsn(**parameters, **shown(alice)), "select 1") == "1"
    before = handshake_failures(verifying)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(verifying.dsn(**parameters))
    failed(verifying, "it showed no certificate")
    assert handshake_failures(verifying) == before + 1
    with pytest.raises(psycopg.OperationalError, match="connections without TLS"):
        psycopg.connect(verifying.dsn(sslmode="disable"))


def test_bad_client_certificates(
    proxy: Ambassador, ca: Authority, parameters: dict[str, str], tmp_path: Path
) -> None:
    late = ca.client(tmp_path, "late", expired=True)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(proxy.dsn(**parameters, **shown(late)))
    failed(proxy, "a certificate it showed has expired")
    stranger = Authority(tmp_path, "other").client(tmp_path, "alice")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(proxy.dsn(**parameters, **shown(stranger)))
    failed(proxy, f"its certificate comes from a CA that is not in {ca.root}")


def test_a_client_that_does_not_trust_us(proxy: Ambassador, tmp_path: Path) -> None:
    root = Authority(tmp_path, "other").root
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        psycopg.connect(proxy.dsn(sslmode="verify-full", sslrootcert=str(root)))
    failed(proxy, "it broke off (unknown ca)")


# The first packets.


def test_direct_tls_needs_its_protocol(proxy: Ambassador, ca: Authority) -> None:
    for offered in ([], ["http/1.1"]):
        context = ssl.create_default_context(cafile=str(ca.root))
        if offered:
            context.set_alpn_protocols(offered)
        with Wire(proxy.port) as wire:
            wire.encrypt(context, direct=True)
            error = wire.rest().error
            assert (error.sqlstate, "ALPN" in error.fields["M"]) == ("08P01", True)
        # By request it is not needed.
        with session(proxy, context) as wire:
            assert wire.ask("select 1").value == "1"


def test_clear_bytes_behind_the_request_are_refused(proxy: Ambassador) -> None:
    with Wire(proxy.port) as wire:
        wire.send(build.SSL_REQUEST, build.startup_message({"user": "app"}))
        error = wire.rest().error
        assert (error.sqlstate, "unencrypted data after SSL request" in error.fields["M"]) == ("08P01", True)


def test_a_second_request_inside_tls_is_refused_through_it(
    proxy: Ambassador, context: ssl.SSLContext
) -> None:
    for request in (build.SSL_REQUEST, build.GSSENC_REQUEST):
        with Wire(proxy.port) as wire:
            wire.encrypt(context)
            wire.send(request)
            assert wire.rest().error.sqlstate == "0A000"


def test_a_start_in_single_bytes_and_a_query_glued_to_it(proxy: Ambassador, context: ssl.SSLContext) -> None:
    start = build.startup_message({"user": "app", "database": "app"})
    with Wire(proxy.port) as wire:
        wire.encrypt(context)
        wire.send_bytewise(start)
        wire.until("Z")
        assert wire.ask("select 1").value == "1"
    with Wire(proxy.port) as wire:
        wire.encrypt(context)
        # More than a record, and more than one read before the session takes.
        wire.send(start, *(build.query(f"select {number}, '{'x' * 500}'") for number in range(200)))
        wire.until("Z")
        for number in range(200):
            assert wire.until("Z").rows[0][0] == str(number)


def handshake_bytes(context: ssl.SSLContext) -> bytes:
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=HOST).do_handshake()
    return outgoing.read()


def test_a_handshake_in_single_bytes(proxy: Ambassador, context: ssl.SSLContext) -> None:
    wire = Wire(proxy.port)
    with wire:
        wire.send(build.SSL_REQUEST)
        assert wire.take(1) == b"S"
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_hostname=HOST)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                wire.send_bytewise(outgoing.read())
                incoming.write(wire.socket.recv(65536))
        tls.write(build.startup_message({"user": "app", "database": "app"}))
        wire.send_bytewise(outgoing.read())
        received = b""
        while not received.endswith(b"Z\0\0\0\5I"):
            try:
                received += tls.read(65536)
            except ssl.SSLWantReadError:
                incoming.write(wire.socket.recv(65536))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x16\3\1\2\0" + b"x" * 600, "it sent something that is not TLS"),
        (b"GET / HTTP/1.1\r\n\r\n", "it speaks HTTP"),
        (b"Q\0\0\0\x0dselect 1\0", "it sent something that is not TLS"),
    ],
)
def test_rubbish_in_the_handshake(proxy: Ambassador, data: bytes, reason: str) -> None:
    before = handshake_failures(proxy)
    with Wire(proxy.port) as wire:
        wire.send(build.SSL_REQUEST)
        assert wire.take(1) == b"S"
        wire.send(data)
        rest = b""
        try:
            while part := wire.socket.recv(100):
                rest += part
        except ConnectionError:
            pass
        assert rest[:1] in (b"", b"\x15")  # an alert, never clear text
    failed(proxy, reason)
    assert handshake_failures(proxy) == before + 1


def test_an_old_version(verifying: Ambassador, context: ssl.SSLContext) -> None:
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with Wire(verifying.port) as wire, pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        wire.encrypt(context)
    failed(verifying, "it does not speak TLSv1.3 or newer")


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_client_that_leaves_in_the_handshake(
    proxy: Ambassador, context: ssl.SSLContext, reset: bool
) -> None:
    before = handshake_failures(proxy)
    wire = Wire(proxy.port)
    wire.send(build.SSL_REQUEST)
    assert wire.take(1) == b"S"
    wire.send(handshake_bytes(context)[:-1])
    wire.vanish(reset=reset)
    wait_until(lambda: handshake_failures(proxy) == before + 1, "the failure in the metrics")


def test_half_a_handshake_and_then_silence(make: Make, context: ssl.SSLContext) -> None:
    proxy = make({}, clients={"login_timeout": "1s"})
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(proxy.port)) for _ in range(3)]
        wires[0].send(build.SSL_REQUEST)
        assert wires[0].take(1) == b"S"
        wires[1].send(handshake_bytes(context)[:-1])
        for wire in wires[:2]:
            assert wire.socket.recv(100) == b""  # nothing in clear text
        failed(proxy, "it was not finished within 1 s")
        # And after the handshake it is told, through TLS.
        wires[2].socket.close()
        late = stack.enter_context(Wire(proxy.port))
        late.encrypt(context)
        assert late.rest().error.sqlstate == "57014"
    assert rejected(proxy, "login timeout") >= 3


def test_a_thousand_half_handshakes(make: Make, context: ssl.SSLContext) -> None:
    proxy = make({}, clients={"max": 50})  # and so 100 at the door
    hello = build.SSL_REQUEST
    half = handshake_bytes(context)[:-1]
    with ExitStack() as stack:
        for _ in range(1000):
            wire = stack.enter_context(Wire(proxy.port))
            wire.send(hello)
            assert wire.take(1) == b"S"
            wire.send(half)
        # Those that have stood there longest had to go, and whoever can log in does.
        assert rejected(proxy, "too many logins") == 900
        with session(proxy, context) as wire:
            assert wire.ask("select 1").value == "1"
    wait_until(lambda: handshake_failures(proxy) >= 99, "those that have left")
    with session(proxy, context) as wire:
        assert wire.ask("select 1").value == "1"


# The login.


def test_channel_binding(strict: Ambassador, parameters: dict[str, str]) -> None:
    dsn = strict.dsn("alice", password=PASSWORDS["alice"], channel_binding="require", **parameters)
    assert psql(dsn, "select 1") == "1"
    with psycopg.connect(dsn) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(strict.dsn("alice", password="wrong", channel_binding="require", **parameters))


def offered(wire: Wire) -> list[str]:
    wire.start(user="alice", database="app")
    _, data = parse.authentication(wire.receive().payload)
    return parse.sasl_mechanisms(data)


def test_binding_is_offered_over_tls_only(strict: Ambassador, sockets: Path, context: ssl.SSLContext) -> None:
    with Wire(strict.port) as wire:
        wire.encrypt(context)
        assert offered(wire) == ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]
    with Wire(f"{sockets}/.s.PGSQL.{strict.port}") as wire:
        assert offered(wire) == ["SCRAM-SHA-256"]


def test_a_client_that_was_not_told_of_binding_is_refused(
    strict: Ambassador, context: ssl.SSLContext
) -> None:
    """Somebody on the way has taken the offer away (RFC 5802, section 6)."""
    with Wire(strict.port) as wire:
        wire.encrypt(context)
        offered(wire)
        wire.send(build.sasl_initial_response("SCRAM-SHA-256", b"y,,n=,r=abcdefghijkl"))
        error = wire.rest().error
        assert (error.sqlstate, error.fields["M"]) == (
            "28000",
            "SCRAM channel binding negotiation error",
        )


def test_a_binding_to_another_certificate_is_refused(
    strict: Ambassador, ca: Authority, context: ssl.SSLContext, tmp_path: Path
) -> None:
    """Somebody stands in between, with a certificate that the client trusts."""
    other = ca.server(tmp_path, "other")
    pem = other.chain.read_text().partition("-----END CERTIFICATE-----")
    theirs = binding.server_end_point(ssl.PEM_cert_to_DER_cert(pem[0] + pem[1]))
    with Wire(strict.port) as wire:
        wire.encrypt(context)
        offered(wire)
        exchange = scram.client(PASSWORDS["alice"].encode(), binding=theirs)
        wire.send(build.sasl_initial_response("SCRAM-SHA-256-PLUS", next(exchange)))
        _, first = parse.authentication(wire.receive().payload)
        wire.send(build.sasl_response(exchange.send(first)))
        error = wire.rest().error
        assert (error.sqlstate, error.fields["M"]) == ("28000", "the SCRAM channel binding check failed")


def test_refusals_come_through_tls(strict: Ambassador, parameters: dict[str, str]) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(strict.dsn("alice", password="wrong", **parameters))
    with pytest.raises(psycopg.OperationalError, match='database "nowhere"'):
        psycopg.connect(strict.dsn("alice", "nowhere", password=PASSWORDS["alice"], **parameters))


# Nothing is different inside.


@pytest.mark.parametrize("direct", [False, True], ids=["by request", "direct"])
def test_asyncpg(proxy: Ambassador, context: ssl.SSLContext, direct: bool) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(proxy.dsn(), ssl=context, direct_tls=direct)
        try:
            assert await connection.fetchval("select $1::int + 1", 41) == 42
            rows = [(n, "x" * 100) for n in range(20_000)]
            async with connection.transaction():
                await connection.execute("create temp table copied (n int, t text) on commit drop")
                await connection.copy_records_to_table("copied", records=rows)
                assert await connection.fetchval("select sum(n) from copied") == sum(range(20_000))
                assert len(await connection.fetch("select * from copied")) == 20_000
        finally:
            await connection.close()

    asyncio.run(run())


def test_copy_both_ways_and_pipelines(proxy: Ambassador, parameters: dict[str, str]) -> None:
    block = bytes(range(32, 127)).replace(b"\\", b"") * 100 + b"\n"
    with psycopg.connect(proxy.dsn(**parameters)) as connection:
        connection.execute("create temp table copied (t text)")
        with connection.cursor() as cursor:
            with cursor.copy("copy copied from stdin") as copy:
                for _ in range(1000):
                    copy.write(block)
            digest, size = hashlib.sha256(), 0
            with cursor.copy("copy copied to stdout") as copy:
                for data in copy:
                    digest.update(data)
                    size += len(data)
        assert size == 1000 * len(block) > 8 * MB
        assert digest.digest() == hashlib.sha256(block * 1000).digest()
        with connection.pipeline():
            cursors = [connection.execute("select %s::int, repeat('x', 3000)", (n,)) for n in range(500)]
        assert [row[0] for cursor in cursors for row in cursor] == list(range(500))


def test_what_is_counted_is_what_was_said(make: Make, context: ssl.SSLContext) -> None:
    """Not the records around it."""
    proxy = make({}, pool={"size": 1})
    query = build.query("select repeat('x', 100000)")
    with session(proxy, context) as wire:
        wire.ask("select 1")
        before = proxy.metrics()
        wire.send(query)
        answer = wire.until("Z")
        after = proxy.metrics()
        counted = [
            after.total(name) - before.total(name)
            for name in ("pgambassador_received_bytes_total", "pgambassador_sent_bytes_total")
        ]
        assert counted == [len(query), sum(5 + len(message.payload) for message in answer)]


@pytest.mark.parametrize("way", ["goodbye", "close_notify", "closed", "reset"])
def test_a_client_that_leaves_is_not_felt_by_the_next(
    make: Make, context: ssl.SSLContext, observer: Connection, way: str
) -> None:
    proxy = make({}, pool={"size": 1})
    wire = session(proxy, context)
    wire.ask("begin")
    wire.ask("create table of_one_that_left()")
    if way == "goodbye":
        wire.leave()
    elif way == "close_notify":
        with pytest.raises((ssl.SSLError, OSError)):
            wire.socket.unwrap()  # type: ignore[attr-defined]
            raise ssl.SSLError("both said goodbye")
        wire.socket.close()
    else:
        wire.vanish(reset=way == "reset")
    wait_until(lambda: proxy.metrics().total("pgambassador_clients") == 0, "an empty house")
    with session(proxy, context) as after:
        assert after.ask("select to_regclass('of_one_that_left') is null").value == "t"


def test_errors_and_transactions(proxy: Ambassador, context: ssl.SSLContext) -> None:
    with session(proxy, context) as wire, session(proxy, context) as other:
        wire.ask("begin")
        assert wire.ask("select 1/0").error.sqlstate == "22012"
        assert wire.ask("select 1").error.sqlstate == "25P02"
        assert other.ask("select 1").value == "1"
        assert wire.ask("rollback")[-1].payload == b"I"
        assert wire.ask("select 1").value == "1"


@pytest.mark.parametrize("way", ["through TLS", "in clear text"])
def test_cancel(
    strict: Ambassador, parameters: dict[str, str], observer: Connection, way: str, context: ssl.SSLContext
) -> None:
    dsn = strict.dsn("alice", password=PASSWORDS["alice"], **parameters)
    with psycopg.connect(dsn, autocommit=True) as connection:
        done: list[BaseException] = []

        def cancel() -> None:
            try:
                wait_running(observer, "pg_sleep(31)")
                if way == "through TLS":
                    connection.cancel_safe(timeout=10)
                else:
                    connection.pgconn.get_cancel().cancel()
            except BaseException as error:
                done.append(error)

        thread = threading.Thread(target=cancel)
        thread.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("select pg_sleep(31)")
        thread.join()
        assert not done, done
        assert connection.execute("select 1").fetchone() == (1,)


def test_a_slow_reader_costs_a_bounded_buffer(proxy: Ambassador, context: ssl.SSLContext) -> None:
    rows, width = 60_000, 1000
    with session(proxy, context) as warm:
        warm.ask(f"select repeat('x', {width}) from generate_series(1, 5000)")
    before = proxy.rss()
    with session(proxy, context, buffer=8192) as slow, session(proxy, context) as quick:
        slow.send(build.query(f"select repeat('x', {width}) from generate_series(1, {rows})"))
        for _ in range(20):
            assert quick.ask("select 1").value == "1"
        assert proxy.rss() - before < 8 * MB
        received = slow.until("Z")
        assert sum(message.kind == "D" for message in received) == rows
        # And as quickly as it was slow before.
        assert slow.ask("select 1").value == "1"


def test_large_results_are_not_kept(make: Make, context: ssl.SSLContext) -> None:
    """OpenSSL's buffers never shrink by themselves; clients are many."""
    proxy = make({}, pool={"size": 2})
    query = "select repeat('x', 1000) from generate_series(1, 300)"
    with ExitStack() as stack:
        clients = [stack.enter_context(session(proxy, context)) for _ in range(120)]
        for client in clients[:20]:
            client.ask(query)
        before = proxy.rss()
        for client in clients:
            client.ask(query)
        assert proxy.rss() - before < 7 * MB


def test_a_server_that_reads_slowly_slows_its_client(proxy: Ambassador, context: ssl.SSLContext) -> None:
    with session(proxy, context) as wire, session(proxy, context) as other:
        other.ask("create table taken (t text)")
        other.ask("begin")
        other.ask("lock table taken")
        before = proxy.rss()
        wire.send(build.query("copy taken from stdin"))
        data = b"d" + (4 + 1001).to_bytes(4, "big") + b"x" * 1000 + b"\n"
        wire.socket.settimeout(1)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 60 * MB:
                wire.send(data * 64)
                sent += len(data) * 64
        assert sent < 40 * MB
        assert proxy.rss() - before < 12 * MB
        other.ask("rollback")
    with session(proxy, context) as wire:
        wire.ask("drop table if exists taken")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="renegotiation takes the openssl command")
def test_renegotiation_is_declined(proxy: Ambassador) -> None:
    command = ["openssl", "s_client", "-tls1_2", "-starttls", "postgres", "-connect", f"{HOST}:{proxy.port}"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        patience = threading.Timer(20, process.kill)
        patience.start()
        process.stdin.write(build.startup_message({"user": "app", "database": "app"}))
        process.stdin.flush()
        seen = b""
        while b"Z\0\0\0\5I" not in seen:
            part = process.stdout.read1(65536)  # type: ignore[attr-defined]
            assert part, seen
            seen += part
        # It is not in the middle of a message: what begins with R is a command for s_client.
        process.stdin.write(b"R\n")
        process.stdin.flush()
        rest = process.stdout.read()
        patience.cancel()
    assert b"no renegotiation" in rest


class _SslObject(ctypes.Structure):
    """The beginning of a PySSLSocket in _ssl.c, as far as the SSL*."""

    _fields_ = (
        ("references", ctypes.c_ssize_t),
        ("type", ctypes.c_void_p),
        ("socket", ctypes.c_void_p),
        ("ssl", ctypes.c_void_p),
    )


def key_changes(context: ssl.SSLContext, port: int, count: int) -> tuple[socket.socket, ssl.SSLObject, bytes]:
    """A connection with TLS 1.3, and as many records that only change its keys, not sent yet."""
    sock = socket.create_connection((HOST, port), timeout=20)
    sock.sendall(build.SSL_REQUEST)
    assert sock.recv(1) == b"S"
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=HOST)
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            sock.sendall(outgoing.read())
            incoming.write(sock.recv(65536))
    sock.sendall(outgoing.read())
    assert tls.version() == "TLSv1.3"
    tls.write(build.startup_message({"user": "app", "database": "app"}))
    sock.sendall(outgoing.read())
    library = ctypes.CDLL(_ssl.__file__)
    library.SSL_key_update.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.SSL_do_handshake.argtypes = [ctypes.c_void_p]
    address = _SslObject.from_address(id(tls._sslobj)).ssl  # type: ignore[attr-defined]
    records = bytearray()
    for _ in range(count):
        library.SSL_key_update(address, 1)
        library.SSL_do_handshake(address)
        records += outgoing.read()
    return sock, tls, bytes(records)


@pytest.mark.skipif(ssl.OPENSSL_VERSION_INFO < (1, 1, 1), reason="this OpenSSL knows no SSL_key_update()")
def test_who_says_nothing_but_changes_keys_is_cut_off(proxy: Ambassador, context: ssl.SSLContext) -> None:
    """Each change costs more than a statement; a few are anybody's right."""
    sock, _, records = key_changes(context, proxy.port, 20)
    with sock:
        sock.sendall(records)
        assert sock.recv(65536)
    sock, _, records = key_changes(context, proxy.port, 20_000)
    with sock, pytest.raises(ConnectionError):
        sock.sendall(records)
        while sock.recv(65536):
            pass
        raise ConnectionResetError  # or it ended in order
    assert psql(proxy.dsn("app"), "select 1") == "1"


# Replication.


@pytest.mark.parametrize("negotiation", ["postgres", "direct"])
def test_a_base_backup(
    primary: Postgres,
    ca: Authority,
    ours: Certificate,
    ambassador: Make,
    parameters: dict[str, str],
    tmp_path: Path,
    negotiation: str,
) -> None:
    """Replication has its own way through: here of some ten MB."""
    tls = {"certificate": str(ours.chain), "key": str(ours.key), "mode": "require"}
    proxy = ambassador(primary.url(), tls=tls, pool={"size": 1})
    dsn = proxy.dsn("postgres", "postgres", sslnegotiation=negotiation, **parameters)
    identity = psql(f"{dsn}&replication=database", "IDENTIFY_SYSTEM")
    assert identity.split("|")[0] == primary.sql("select system_identifier from pg_control_system()")
    backup = tmp_path / "backup"
    for program, arguments in (
        ("pg_basebackup", ["-d", dsn, "-D", str(backup), "-X", "stream", "-c", "fast"]),
        ("pg_verifybackup", [str(backup)]),
    ):
        done = subprocess.run(
            [primary.installation.folder / program, *arguments],
            env=primary.installation.environment(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr


# Files that change.


def seen(proxy: Ambassador, context: ssl.SSLContext) -> bytes:
    with Wire(proxy.port) as wire:
        wire.encrypt(context)
        assert isinstance(wire.socket, ssl.SSLSocket)
        found = wire.socket.getpeercert(binary_form=True)
        assert found is not None
        return found


def test_a_new_certificate_is_shown_without_a_restart(
    make: Make, ca: Authority, context: ssl.SSLContext, tmp_path: Path
) -> None:
    now, later = ca.server(tmp_path, "now", days=3), ca.server(tmp_path, "later", days=300)
    chain = later.chain.read_bytes()
    proxy = make({"certificate": str(now.chain), "key": str(now.key)})
    name = "pgambassador_certificate_expiry_timestamp_seconds"
    labels = {"cluster": "", "role": "tls.certificate"}
    soon = proxy.metrics().total(name, **labels)
    line = proxy.wait_for_log(lambda line: "tls.certificate ends on" in line["message"])
    assert (line["level"], "in 2 days" in line["message"]) == ("warning", True)
    first = seen(proxy, context)
    with session(proxy, context) as standing:
        later.chain.rename(now.chain)
        # The key has not come yet: the old pair stays.
        for _ in range(3):
            assert seen(proxy, context) == first
        warnings = [line for line in proxy.log_lines() if "What was read before stays" in line["message"]]
        assert [line["level"] for line in warnings] == ["warning"]
        later.key.rename(now.key)
        second = seen(proxy, context)
        assert second == ssl.PEM_cert_to_DER_cert(
            chain.decode().partition("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----"
        )
        assert standing.ask("select 1").value == "1"
    assert proxy.metrics().total(name, **labels) - soon > 290 * 86400
    assert proxy.metrics().total(name, cluster="main", role="sslrootcert") > soon


def test_a_new_ca_for_clients(
    make: Make, ca: Authority, parameters: dict[str, str], alice: Certificate, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "other")
    bob = other.client(tmp_path, "bob")
    trusted = tmp_path / "trusted.pem"
    shutil.copy(ca.root, trusted)
    proxy = make({"ca": str(trusted), "mode": "verify-ca"})
    assert psql(proxy.dsn(**parameters, **shown(alice)), "select 1") == "1"
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(proxy.dsn(**parameters, **shown(bob)))
    shutil.copy(other.root, tmp_path / "new.pem")
    (tmp_path / "new.pem").rename(trusted)
    assert psql(proxy.dsn(**parameters, **shown(bob)), "select 1") == "1"
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(proxy.dsn(**parameters, **shown(alice)))


@pytest.fixture(autouse=True)
def no_traceback(request: pytest.FixtureRequest) -> Iterator[None]:
    """Not at the end of the module only."""
    yield
    for name in ("proxy", "strict", "verifying"):
        if name in request.fixturenames:
            assert "Traceback" not in request.getfixturevalue(name).output()
