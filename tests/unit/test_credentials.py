"""Passwords for servers: what a command may print, how long it holds, and that it is never shown."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

import pytest

from pgambassador.config import ExecCredentials, StaticCredentials
from pgambassador.config import Secret as Hidden
from pgambassador.errors import Unreachable
from pgambassador.net.credentials import MARGIN, Exec, Provider, Secret, Static, provider_of, read_answer

NOW = 1_000_000_000.0


def ask(provider: Provider) -> Secret | None:
    return asyncio.run(provider.secret())


@pytest.mark.parametrize(
    ("printed", "secret"),
    [
        (b"token", Secret(None, b"token", None)),
        (b"  token with spaces \n", Secret(None, b"token with spaces", None)),
        (b'"quoted"', Secret(None, b'"quoted"', None)),
        (b"\xff\xfe", Secret(None, b"\xff\xfe", None)),
        (b'{"password": "x"}', Secret(None, b"x", None)),
        (b'\n{"password": "\\u00e9", "user": "app"}\n', Secret("app", "é".encode(), None)),
        (
            b'{"password": "x", "user": null, "expires_at": "2001-09-09T01:46:40Z"}',
            Secret(None, b"x", NOW),
        ),
        (b'{"password": "x", "expires_at": "2001-09-09T03:46:40+02:00", "more": 1}', Secret(None, b"x", NOW)),
    ],
)
def test_what_a_command_may_print(printed, secret):
    assert read_answer(printed, "/bin/token") == secret


@pytest.mark.parametrize(
    "printed",
    [
        b'{"password": "hunter2"',
        b'{"user": "hunter2"}',
        b'{"password": ["hunter2"]}',
        b'{"password": "hunter2", "user": 7}',
        b'{"password": "hunter2", "expires_at": "tomorrow"}',
        b'{"password": "hunter2", "expires_at": 7}',
        b'{"password": "\xff hunter2"}',
    ],
)
def test_what_is_not_understood_is_not_shown(printed):
    with pytest.raises(Unreachable) as caught:
        read_answer(printed, "/bin/token")
    assert caught.value.message == "the credentials command /bin/token printed JSON that is not understood"
    assert "hunter2" not in caught.value.sentence()
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("printed", [b"", b" \n"])
def test_nothing_was_printed(printed):
    with pytest.raises(Unreachable, match="printed nothing"):
        read_answer(printed, "token")


def test_a_repr_without_the_password():
    assert "hunter2" not in repr(Secret("app", b"hunter2", None))


def test_which_provider():
    assert ask(provider_of(None, b"of the URL")) == Secret(None, b"of the URL", None)
    assert ask(provider_of(None, None)) is None
    written = StaticCredentials(password=Hidden("written"))
    assert ask(provider_of(written, b"of the URL")) == Secret(None, b"written", None)
    assert isinstance(provider_of(ExecCredentials(command=("token",)), b"of the URL"), Exec)
    assert isinstance(provider_of(None, None), Static)


class Printed(Exec):
    """Prints these answers, one after the other, without a process."""

    def __init__(self, *answers: Secret | Exception) -> None:
        super().__init__(("token",), 1.0)
        self.answers = list(answers)
        self.running = 0

    async def _run(self) -> Secret:
        self.running += 1
        assert self.running == 1
        await asyncio.sleep(0)
        self.running -= 1
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def answers(count: int, not_after: float | None) -> list[Secret]:
    return [Secret(None, b"%d" % number, not_after) for number in range(count)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [NOW]
    monkeypatch.setattr(time, "time", lambda: now[0])
    return now


def test_a_secret_that_expires_is_kept_until_shortly_before(clock):
    first, second = answers(2, NOW + 900)
    printed = Printed(first, second)

    async def main() -> None:
        assert await printed.secret() is first
        clock[0] = NOW + 900 - MARGIN - 1
        assert await printed.secret() is first
        clock[0] = NOW + 900 - MARGIN
        assert await printed.secret() is second

    asyncio.run(main())


def test_a_secret_without_an_end_is_asked_for_each_time():
    first, second = answers(2, None)
    printed = Printed(first, second)

    async def main() -> None:
        assert await printed.secret() is first
        assert await printed.secret() is second

    asyncio.run(main())


def test_those_who_ask_at_once_share_one_answer():
    first, second = answers(2, None)
    printed = Printed(first, second)

    async def main() -> None:
        assert await asyncio.gather(*(printed.secret() for _ in range(5))) == [first] * 5
        assert await printed.secret() is second

    asyncio.run(main())


def test_a_failure_is_not_kept():
    first, second = answers(2, None)
    printed = Printed(first, Unreachable("it failed"), second)

    async def main() -> None:
        assert await printed.secret() is first
        with pytest.raises(Unreachable):
            await printed.secret()
        assert await printed.secret() is second

    asyncio.run(main())


def test_the_margin_of_a_real_answer(clock):
    expires = datetime.fromtimestamp(NOW + 3600, UTC).isoformat()
    answer = read_answer(b'{"password": "x", "expires_at": "%s"}' % expires.encode(), "token")
    assert answer.not_after == NOW + 3600


def run(*command: str, timeout: float = 10.0) -> Secret | None:
    return ask(Exec(command, timeout))


def test_a_command_is_run_without_a_shell():
    assert run("/bin/echo", "$HOME", "&&") == Secret(None, b"$HOME &&", None)


def test_a_command_that_is_not_there():
    with pytest.raises(Unreachable, match="/nonexistent/token cannot be run: No such file") as caught:
        run("/nonexistent/token", "hunter2")
    assert "hunter2" not in caught.value.sentence()


def test_a_command_that_fails():
    with pytest.raises(Unreachable, match="failed with exit status 3") as caught:
        run("/bin/sh", "-c", "echo hunter2; echo hunter2 >&2; exit 3")
    assert "hunter2" not in caught.value.sentence()


def test_a_command_that_never_ends_is_ended():
    with pytest.raises(Unreachable, match=r"was not done within 0\.05 s"):
        run("/bin/sh", "-c", "sleep 1000; echo late", timeout=0.05)


def test_a_pipe_that_stays_open_is_not_waited_for():
    with pytest.raises(Unreachable, match=r"was not done within 0\.1 s"):
        run("/bin/sh", "-c", "sleep 1 & echo token", timeout=0.1)


def test_all_that_a_command_prints_counts():
    assert run("/bin/sh", "-c", "printf to; sleep 0.05; printf ken") == Secret(None, b"token", None)


def test_a_command_that_prints_too_much():
    with pytest.raises(Unreachable, match="printed more than"):
        run("/bin/sh", "-c", "yes hunter2")
