import asyncio
import gc
import logging

import pytest

from pgambassador.errors import Unreachable
from pgambassador.net.tasks import spawn


def test_a_task_is_held_until_it_is_done() -> None:
    async def main() -> None:
        event = asyncio.Event()
        done: list[int] = []

        async def work() -> None:
            await event.wait()
            done.append(1)

        spawn(work(), "work")
        await asyncio.sleep(0)
        gc.collect()
        event.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert done == [1]

    asyncio.run(main())


def test_a_failure_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async def fail(error: Exception) -> None:
            raise error

        tasks = [
            spawn(fail(ValueError("odd")), "first"),
            spawn(fail(Unreachable("gone", hint="Wait.")), "second"),
        ]
        await asyncio.wait(tasks)
        await asyncio.sleep(0)

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    first, second = caplog.records
    assert first.getMessage() == "first failed"
    assert first.exc_info
    assert second.getMessage() == "second failed: gone. Wait."
    assert not second.exc_info


def test_a_cancelled_task_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        task = spawn(asyncio.Event().wait(), "waiting")
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(main())
    assert not caplog.records
