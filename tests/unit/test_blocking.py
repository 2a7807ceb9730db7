"""Questions in threads: their answers, their errors, and an end for those that have none."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from pgambassador.credentials.blocking import MOST, ask
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
    over = threading.Event()

    def question() -> None:
        go_on.wait(30)
        over.set()

    async def main() -> None:
        await ask(question, seconds=0.001, whom="Somebody")

    with pytest.raises(Unreachable) as raised:
        asyncio.run(main())
    assert raised.value.message == "Somebody did not answer within 0.001 s"
    assert "credentials.timeout" in (raised.value.hint or "")
    go_on.set()
    assert over.wait(10)

    async def again() -> None:
        # Its answer has found a loop that is closed, which is no error, and the thread goes on.
        assert (await ask(threading.current_thread, seconds=30, whom="Somebody")).name == "ask Somebody"

    asyncio.run(again())


def test_their_number_is_bounded_and_the_rest_has_its_turn() -> None:
    go_on = threading.Event()
    threads: set[threading.Thread] = set()

    def question() -> None:
        threads.add(threading.current_thread())
        go_on.wait(30)

    async def main() -> None:
        crowd = asyncio.gather(*(ask(question, seconds=30, whom="a crowd") for _ in range(5 * MOST)))
        await asyncio.sleep(0)  # now all of them have asked
        with pytest.raises(Unreachable):
            await ask(question, seconds=0.01, whom="a crowd")
        go_on.set()
        assert await crowd == [None] * (5 * MOST)
        # Others are not in its way.
        assert await ask(threading.active_count, seconds=30, whom="another") > MOST

    asyncio.run(main())
    assert len(threads) == MOST


def test_a_thread_is_used_again() -> None:
    async def main() -> set[threading.Thread]:
        return {await ask(threading.current_thread, seconds=30, whom="one by one") for _ in range(20)}

    assert len(asyncio.run(main())) == 1


def test_the_interpreter_does_not_wait_for_what_is_never_answered() -> None:
    program = (
        "import asyncio, threading\n"
        "from pgambassador.credentials.blocking import ask\n"
        "from pgambassador.errors import Unreachable\n"
        "async def main():\n"
        "    try:\n"
        "        await ask(threading.Event().wait, seconds=0.01, whom='nobody')\n"
        "    except Unreachable as error:\n"
        "        print(error.message)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "nobody did not answer within 0.01 s\n"


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
