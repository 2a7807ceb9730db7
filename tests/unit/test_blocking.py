"""Questions in threads: their answers, their errors, and an end for those that have none."""

from __future__ import annotations

import asyncio
import threading

import pytest

from pgambassador.credentials.blocking import ask
from pgambassador.errors import ConfigError, Unreachable


def test_an_answer_comes_from_another_thread() -> None:
    async def main() -> threading.Thread:
        return await ask(threading.current_thread, seconds=30, whom="somebody")

    thread = asyncio.run(main())
    assert thread is not threading.current_thread()
    assert thread.daemon
    assert thread.name == "ask somebody"


def test_what_the_question_raises_is_raised() -> None:
    def question() -> None:
        raise ConfigError("no", hint="yes")

    async def main() -> None:
        await ask(question, seconds=30, whom="somebody")

    with pytest.raises(ConfigError, match="no"):
        asyncio.run(main())


def test_one_that_takes_too_long_is_left_alone() -> None:
    go_on = threading.Event()
    gone: list[threading.Thread] = []

    def question() -> None:
        gone.append(threading.current_thread())
        go_on.wait(30)

    async def main() -> None:
        await ask(question, seconds=0.001, whom="Somebody")

    with pytest.raises(Unreachable) as raised:
        asyncio.run(main())
    assert raised.value.message == "Somebody did not answer within 0.001 s"
    assert "credentials.timeout" in (raised.value.hint or "")
    go_on.set()
    gone[0].join(10)  # its answer finds a loop that is closed, which is no error
    assert not gone[0].is_alive()


def test_who_stops_waiting_is_not_told_any_more() -> None:
    go_on = threading.Event()

    async def main() -> None:
        task = asyncio.get_running_loop().create_task(ask(go_on.wait, seconds=30, whom="somebody"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()

    asyncio.run(main())
