"""`breaker.store`: several ambassadors over a real Redis, and one that misbehaves in each way that it can."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import psycopg
import pytest

from pgambassador.config.secret import Secret
from pgambassador.embedded import Authority, Postgres
from pgambassador.embedded.ports import HOST, free_port
from pgambassador.errors import ConfigError, Unreachable
from pgambassador.net.hearsay import key_of
from pgambassador.net.redis import MOST, RedisStore
from tests.harness import USERS, Ambassador, Link, Wire, wait_until

PROGRAM = shutil.which("redis-server")
SECRET = "hunter2"
needs_redis = pytest.mark.skipif(
    PROGRAM is None, reason="no redis-server is installed (Debian: apt-get install redis-server)"
)
ENDLESS = {"failures": 3, "first_pause": "1h", "longest_pause": "1h"}


class Redis:
    """A server for the tests of a module, with a password."""

    def __init__(self, folder: Path, *more: str, tls: bool = False) -> None:
        assert PROGRAM is not None
        self.port = free_port()
        self._command = (
            PROGRAM,
            *("--bind", HOST, "--dir", str(folder), "--save", "", "--appendonly", "no"),
            *("--requirepass", SECRET, "--unixsocket", str(folder / "socket")),
            *("--tls-port" if tls else "--port", str(self.port), *more),
        )
        self.socket = folder / "socket"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(self._answers, "the start of Redis")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as client, client.makefile("rb") as answers:
                client.connect(str(self.socket))
                client.sendall(b"PING\r\n")
                return answers.readline().startswith(b"-NOAUTH")
        except OSError:
            return False

    @property
    def url(self) -> str:
        return f"redis://:{SECRET}@{HOST}:{self.port}/3"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    server = Redis(tmp_path)
    server.start()
    yield server
    server.stop()


def through(primary: Postgres, link: Link) -> str:
    url = primary.url("app", USERS["app"].password, "app")
    return url.replace(f":{primary.port}/", f":{link.port}/")


def state(proxy: Ambassador) -> str:
    metrics = proxy.metrics()
    for each in ("closed", "open", "half-open"):
        if metrics.total("pgambassador_breaker_state", state=each):
            return each
    return ""


def up(proxy: Ambassador) -> bool:
    return proxy.metrics().total("pgambassador_breaker_store_up") == 1


def served(client: Wire) -> bool:
    return client.ask("select 'back'").kinds == "TDCZ"


def words(proxy: Ambassador, direction: str) -> float:
    return proxy.metrics().total("pgambassador_breaker_words_total", direction=direction)


# A fleet.


@needs_redis
def test_one_finds_out_and_the_others_need_no_three_failures(
    redis: Redis, link: Link, primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    """The other has a client at rest, and no failure of its own; then both find the server again."""
    common = {"failover": {"hold": "off"}, "breaker": {**ENDLESS, "store": redis.url}}
    one, other = (ambassador(through(primary, link), **common) for _ in range(2))
    with Wire.session(one.port) as client, Wire.session(other.port) as resting:
        assert client.ask("select 1").value == resting.ask("select 1").value == "1"
        link.refuse()
        link.cut()
        wait_until(lambda: client.ask("select 1").kinds == "EZ" and state(one) == "open")
        wait_until(lambda: words(one, "told") == 1)
        wait_until(lambda: state(other) == "open", "the other has asked, once")
        assert (words(other, "heard"), words(other, "told")) == (1, 0)
        assert other.metrics().total("pgambassador_breaker_failures_total") < 3
        other.wait_for_log(lambda line: "another pgambassador says" in line["message"])
        link.allow()
        for each in (client, resting):
            wait_until(partial(served, each))
        wait_until(lambda: said(redis, link) == b"", "the word is taken back")
    for proxy in (one, other):
        assert SECRET not in proxy.output() + proxy.http("/metrics")[1]


@needs_redis
def test_one_with_a_broken_network_takes_nobody_down(
    redis: Redis, link: Link, primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    """Both mean the same server by the same name; only the way of one of them is broken."""
    common = {"failover": {"hold": "off"}, "breaker": {**ENDLESS, "store": redis.url}}
    sick = ambassador(through(primary, link), **common)
    with Link(primary.port) as good:
        well = ambassador(through(primary, good), **common)
        with Wire.session(sick.port) as client, Wire.session(well.port) as other:
            assert client.ask("select 1").value == other.ask("select 1").value == "1"
            link.refuse()
            link.cut()
            wait_until(lambda: client.ask("select 1").kinds == "EZ" and words(sick, "told") == 1)
            value = said(redis, link)
            assert value.startswith(b"{")
            before = good.accepted
            keep(redis, key_of("main", f"{HOST}:{good.port}"), value)
            wait_until(lambda: words(well, "heard") == 1)
            wait_until(lambda: good.accepted > before, "it asks for itself")
            assert state(well) == "closed"
            assert other.ask("select 'served'").value == "served"


def said(redis: Redis, link: Link) -> bytes:
    """Of the server at its end."""

    async def read() -> bytes:
        store = RedisStore(Secret(redis.url))
        try:
            return (await store.read([key_of("main", f"{HOST}:{link.port}")]))[0]
        finally:
            await store.close()

    found = asyncio.run(read())
    assert USERS["app"].password.encode() not in found
    return found


def keep(redis: Redis, key: str, value: bytes) -> None:
    async def write() -> None:
        store = RedisStore(Secret(redis.url))
        await store.write(key, value, 60.0)
        await store.close()

    asyncio.run(write())


@needs_redis
def test_a_store_that_comes_and_goes(
    redis: Redis, primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    redis.stop()
    url = primary.url("app", USERS["app"].password, "app")
    proxy = ambassador(url, breaker={"store": redis.url})
    with Wire.session(proxy.port) as client:
        assert client.ask("select 1").value == "1"
        told = proxy.wait_for_log(lambda line: "cannot be reached" in line["message"])["message"]
        assert told.startswith(f"the store of breaker.store, redis://{HOST}:{redis.port}, is of no use: ")
        redis.start()
        wait_until(lambda: up(proxy), deadline=40)
        proxy.wait_for_log(lambda line: "is of use again" in line["message"])
        assert client.ask("select 1").value == "1"
    with psycopg.connect(proxy.dsn(database="pgambassador"), autocommit=True) as hand:
        shown = {row[0]: row[1:] for row in hand.execute("show config").fetchall()}
    assert (shown["breaker.store"][0], shown["breaker.store"][2]) == ("***", "no")
    assert SECRET not in proxy.output()


@needs_redis
def test_the_store_itself(redis: Redis, tmp_path: Path) -> None:
    """What is asked of it, over TCP and a Unix socket."""

    async def use(url: str) -> None:
        store = RedisStore(Secret(url))
        try:
            assert await store.read(["a", "b"]) == [b"", b""]
            await store.write("a", b"1", 60.0)
            await store.write("long", b"x" * 5000, 0.9)
            assert await store.read(["a", "b", "long"]) == [b"1", b"", b"x" * (MOST + 1)]
            await store.erase("a", b"2")
            assert await store.read(["a"]) == [b"1"]
            await store.erase("a", b"1")
            assert await store.read(["a"]) == [b""]
        finally:
            await store.close()

    asyncio.run(use(redis.url))
    asyncio.run(use(f"unix://:{SECRET}@{redis.socket}?db=1"))
    for wrong, why in (
        (redis.url.replace(SECRET, "wrong"), "it refuses the login"),
        (redis.url.replace(f":{SECRET}@", ""), "it refuses the login"),
        (redis.url.replace("/3", "/99999"), "it answers with an error"),
    ):
        with pytest.raises(Unreachable) as caught:
            asyncio.run(use(wrong))
        assert why in caught.value.sentence()
        assert SECRET not in caught.value.sentence()


@needs_redis
def test_tls_is_verified(ca: Authority, tmp_path: Path) -> None:
    def serving(name: str, host: str) -> Redis:
        folder = tmp_path / name
        folder.mkdir()
        ours = ca.server(folder, hosts=(host,))
        more = ("--tls-cert-file", ours.chain, "--tls-key-file", ours.key, "--tls-ca-cert-file", ca.root)
        server = Redis(folder, "--port", "0", *map(str, more), "--tls-auth-clients", "no", tls=True)
        server.start()
        return server

    async def use(server: Redis, trusted: Path | None) -> None:
        url = server.url.replace("redis:", "rediss:") + (f"?ssl_ca_certs={trusted}" if trusted else "")
        store = RedisStore(Secret(url))
        try:
            await store.write("a", b"1", 60.0)
            assert await store.read(["a"]) == [b"1"]
        finally:
            await store.close()

    good, elses = serving("good", HOST), serving("elses", "elsewhere.example")
    try:
        asyncio.run(use(good, ca.root))
        for server, trusted in ((good, None), (elses, ca.root)):
            with pytest.raises(Unreachable):
                asyncio.run(use(server, trusted))
    finally:
        good.stop()
        elses.stop()


@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile"])
def test_files_for_tls_that_cannot_be_read(option: str, tmp_path: Path) -> None:
    """They are not opened by the event loop, which would wait for ever."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    store = RedisStore(Secret(f"rediss://{HOST}:1/?{option}={pipe}"))
    with pytest.raises(
        ConfigError, match=f"The breaker.store {option} file {pipe} cannot be read: it is not"
    ):
        asyncio.run(store.read(["a"]))


@needs_redis
def test_it_is_checked_beforehand(redis: Redis, primary: Postgres, tmp_path: Path) -> None:
    def check() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pgambassador", "check", "--config", str(config)],
            capture_output=True,
            text=True,
            timeout=60,
        )

    url = primary.url("app", USERS["app"].password, "app")
    config = tmp_path / "pgambassador.yaml"
    config.write_text(f"clusters: {{main: {{url: '{url}'}}}}\nbreaker: {{store: '{redis.url}'}}\n")
    done = check()
    assert done.returncode == 0, done.stderr
    assert f"breaker.store: redis://{HOST}:{redis.port} answers" in done.stdout.splitlines()
    redis.stop()
    done = check()
    assert done.returncode == 1 and done.stderr.startswith(
        "breaker.store: the store of breaker.store, redis:"
    )
    assert "logged in as app" in done.stdout
    assert SECRET not in done.stdout + done.stderr


# One that misbehaves.


class Impostor:
    """Listens where a Redis should, notes what it is asked, and answers in one way only."""

    def __init__(self, answer: Callable[[bytes], bytes | None]) -> None:
        self.heard = b""
        self.connections = 0
        self._answer = answer
        self._sock = socket.create_server((HOST, 0))
        self.port = self._sock.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                client, _ = self._sock.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            while data := client.recv(65536):
                self.heard += data
                answer = self._answer(data)
                if answer is None:
                    client.close()
                    return
                client.sendall(answer)
        except OSError:
            pass

    def close(self) -> None:
        self._sock.close()
        for each in self._open:
            each.close()


ANSWERS: dict[str, tuple[Callable[[bytes], bytes | None], str]] = {
    "silent": (lambda _: b"", "has not answered within 1 s"),
    "hangs up": (lambda _: None, "cannot be reached, or has closed"),
    "an echo": (lambda data: data, "it "),
    "another protocol": (lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n", "it "),
    "a huge answer": (lambda _: b"$999999999\r\n" + b"x" * 65536, "has not answered within 1 s"),
    "read-only": (lambda data: b"-READONLY no\r\n" * max(1, data.count(b"*")), "it "),
    "repeats the secret": (lambda _: b"-ERR you said hunter2\r\n" * 9, "it "),
}


def test_whatever_it_says_is_trouble_and_nothing_of_it_is_told() -> None:
    async def use(url: str) -> str:
        store = RedisStore(Secret(url))
        with pytest.raises(Unreachable) as caught:
            await store.read(["a", "b"])
        with pytest.raises(Unreachable):
            await store.write("a", b"1", 1.0)
        with pytest.raises(Unreachable):
            await store.erase("a", b"1")
        return caught.value.sentence()

    async def use_all(ports: list[int]) -> list[str]:
        return await asyncio.gather(*(use(f"redis://:{SECRET}@{HOST}:{port}/3") for port in ports))

    impostors = [Impostor(answer) for answer, _ in ANSWERS.values()]
    try:
        told = asyncio.run(use_all([each.port for each in impostors]))
    finally:
        for each in impostors:
            each.close()
    for (kind, (_, why)), sentence, each in zip(ANSWERS.items(), told, impostors, strict=True):
        assert why in sentence and SECRET not in sentence, kind
        assert each.heard.startswith(b"*2\r\n$4\r\nAUTH\r\n$7\r\nhunter2\r\n"), kind
        assert b"SET" not in each.heard, "nothing is asked of who has not let us in"


@pytest.mark.parametrize("kind", ["silent", "repeats the secret"])
def test_one_that_misbehaves_changes_nothing(
    kind: str, link: Link, primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    """Clients are served, breakers open and close by what happens here, one line in the log, no secret."""
    answer, why = ANSWERS[kind]
    with ExitStack() as stack:
        impostor = Impostor(answer)
        stack.callback(impostor.close)
        proxy = ambassador(
            through(primary, link),
            failover={"hold": "off"},
            breaker={**ENDLESS, "failures": 1, "store": f"redis://:{SECRET}@{HOST}:{impostor.port}/0"},
        )
        with Wire.session(proxy.port) as client:
            assert client.ask("select 1").value == "1"
            wait_until(lambda: proxy.metrics().total("pgambassador_breaker_store_failures_total") >= 2)
            assert b"AUTH" in impostor.heard and state(proxy) == "closed" and not up(proxy)
            link.refuse()
            link.cut()
            wait_until(lambda: client.ask("select 1").kinds == "EZ" and state(proxy) == "open")
            link.allow()
            wait_until(lambda: client.ask("select 'back'").kinds == "TDCZ")
        lines = [each["message"] for each in proxy.log_lines() if "breaker.store" in each["message"]]
        assert len(set(lines)) == len(lines) == 1 and why in lines[0], lines
        assert SECRET not in proxy.output()


def test_without_the_library(tmp_path: Path) -> None:
    """The sentence says what to install, and nothing has begun."""
    (tmp_path / "redis.py").write_text("raise ImportError\n")
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1));"
        "from pgambassador.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    config = tmp_path / "pgambassador.yaml"
    config.write_text(
        "clusters: {main: {url: 'postgresql://app@127.0.0.1:1/app'}}\n"
        f"listen: ['127.0.0.1:{free_port()}']\nhttp: off\n"
        f"breaker: {{store: 'redis://:{SECRET}@h/'}}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), "run", "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr == (
        "pgambassador: breaker.store needs a library that is not installed. Run pip install"
        " 'pgambassador[redis]'.\n"
    )
