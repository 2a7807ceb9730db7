"""A password that a command prints.

1. What the command printed appears in no message, whatever went wrong.
2. It inherits the environment, without the variables that hold our own secrets.
3. A command that takes too long or prints too much is ended, with all that it has started.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from datetime import datetime

from pgambassador.config.environment import without_secrets
from pgambassador.config.providers import ExecCredentials
from pgambassador.credentials.provider import Login, Secret
from pgambassador.errors import Unreachable

OUTPUT_LIMIT = 1 << 20


class Command:
    """`provider: exec`."""

    per_host = False
    window = 0.0

    def __init__(self, options: ExecCredentials) -> None:
        self._command = options.command
        self._timeout = options.timeout

    async def fetch(self, login: Login) -> Secret:
        program = self._command[0]
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
                env=without_secrets(os.environ),
            )
        except OSError as error:
            raise Unreachable(
                f"the credentials command {program} cannot be run: {error.strerror}",
                hint="Check credentials.command.",
            ) from None
        assert process.stdout is not None
        done = False
        try:
            async with asyncio.timeout(self._timeout):
                output = await _all_of(process.stdout, program)
                status = await process.wait()
            done = True
        except TimeoutError:
            raise Unreachable(
                f"the credentials command {program} was not done within {self._timeout:g} s",
                hint="Make it faster, or raise credentials.timeout.",
            ) from None
        finally:
            if not done:
                # It may have ended, and what it has started may not.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                # What it has printed is not read any more, and asyncio waits for the end of that too.
                pipe = process._transport.get_pipe_transport(1)  # type: ignore[attr-defined]
                if pipe is not None:
                    pipe.close()
                await process.wait()
            # Somebody else may still hold the other end of the pipe, and nothing public closes ours.
            process._transport.close()  # type: ignore[attr-defined]
        if status != 0:
            raise Unreachable(
                f"the credentials command {program} failed with exit status {status}",
                hint="Run it by hand to see why.",
            )
        return read_answer(output, program)


async def _all_of(pipe: asyncio.StreamReader, program: str) -> bytes:
    output = bytearray()
    while piece := await pipe.read(OUTPUT_LIMIT):
        output += piece
        if len(output) > OUTPUT_LIMIT:
            raise Unreachable(
                f"the credentials command {program} printed more than {OUTPUT_LIMIT} bytes",
                hint="Let it print the password only.",
            )
    return bytes(output)


def read_answer(output: bytes, program: str) -> Secret:
    """The bare secret, or one JSON object with password and perhaps user and expires_at."""
    text = output.strip()
    if not text:
        raise Unreachable(f"the credentials command {program} printed nothing", hint="Run it by hand.")
    if b"\n" in text and not text.startswith(b"{"):
        raise Unreachable(
            f"the credentials command {program} printed several lines, which cannot be the password",
            hint="Let it print the password only, and all else to its standard error.",
        )
    if not text.startswith(b"{"):
        return Secret(None, text)
    try:
        answer = json.loads(text)
        password, user, expires = answer["password"], answer.get("user"), answer.get("expires_at")
        if not isinstance(password, str) or not isinstance(user, str | None):
            raise TypeError
        moment = None if expires is None else datetime.fromisoformat(expires)
        if moment is not None and moment.tzinfo is None:
            raise ValueError  # of the day where?
        not_after = None if moment is None else moment.timestamp()
    except (OverflowError, ValueError, KeyError, TypeError):
        raise Unreachable(
            f"the credentials command {program} printed JSON that is not understood",
            hint='It prints {"user": …, "password": …, "expires_at": "RFC 3339"}; only password is required.',
        ) from None
    return Secret(user, password.encode(), not_after)
