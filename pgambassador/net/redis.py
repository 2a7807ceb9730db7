"""The store of `breaker.store`: a few small values in Redis, each with an end.

1. The library is imported only here, and only where a store is configured.
2. TLS is verified, the host's name as well.
3. After anything that went wrong the connection is given up: an answer that comes late would be taken for
   that to another question.
4. Nothing that the store says is told on, and so no secret that it may repeat: only which kind of trouble it
   is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Final

from pgambassador.config.plain import read
from pgambassador.config.secret import Secret
from pgambassador.config.store import parse_store
from pgambassador.errors import AmbassadorError, ConfigError, Unreachable

MOST: Final = 1024
"""Bytes of a value that are read; ours are shorter."""
PATIENCE: Final = 1.0
_CODES: Final = ("READONLY", "LOADING", "OOM", "NOPERM", "NOAUTH", "WRONGPASS", "MOVED", "MISCONF")


class RedisStore:
    """`where` is its URL without user and password."""

    def __init__(self, url: Secret) -> None:
        try:
            from redis import asyncio as library
            from redis import backoff, exceptions
            from redis.asyncio.retry import Retry
        except ImportError:
            raise ConfigError(
                "breaker.store needs a library that is not installed.",
                hint="Run pip install 'pgambassador[redis]'.",
            ) from None
        self._library, self._errors = library, exceptions
        self._once = Retry(backoff.NoBackoff(), 0)
        self._url = parse_store(url)
        self._client: Any = None
        self.where = self._url.shown

    def _connected(self) -> Any:
        if self._client is None:
            url = self._url
            how: dict[str, Any] = {
                "db": url.database,
                "username": url.user,
                "password": url.password.reveal() if url.password is not None else None,
                "protocol": 2,
                "single_connection_client": True,
                "retry": self._once,
                "socket_timeout": PATIENCE,
                "socket_connect_timeout": PATIENCE,
            }
            if url.scheme == "unix":
                how["unix_socket_path"] = url.host
            else:
                how |= {"host": url.host, "port": url.port}
            if url.scheme == "rediss":
                for name, path in url.files.items():
                    read(path, f"breaker.store {name}")
                how |= {"ssl": True, "ssl_cert_reqs": "required", "ssl_check_hostname": True, **url.files}
            self._client = self._library.Redis(**how)
        return self._client

    async def read(self, keys: Sequence[str]) -> list[bytes]:
        """What each has, b"" for nothing; at most `MOST` bytes and one more."""
        async with self._bounded():
            asking = self._connected().pipeline(transaction=False)
            for key in keys:
                asking.getrange(key, 0, MOST)
            return [bytes(each) for each in await asking.execute()]

    async def write(self, key: str, value: bytes, seconds: float) -> None:
        """For so long."""
        async with self._bounded():
            await self._connected().set(key, value, px=max(1, round(seconds * 1000)))

    async def erase(self, key: str, value: bytes) -> None:
        """If that is what it has."""
        async with self._bounded():
            if await self._connected().getrange(key, 0, MOST) == value:
                await self._connected().delete(key)

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(PATIENCE):
                    await client.aclose(close_connection_pool=True)

    @contextlib.asynccontextmanager
    async def _bounded(self) -> Any:
        try:
            async with asyncio.timeout(PATIENCE):
                yield
        except BaseException as error:
            await self.close()
            if isinstance(error, Exception) and not isinstance(error, AmbassadorError):
                raise self._explained(error) from None
            raise

    def _explained(self, error: Exception) -> AmbassadorError:
        errors = self._errors
        if isinstance(error, TimeoutError | errors.TimeoutError):
            what = f"it has not answered within {PATIENCE:g} s"
        elif isinstance(error, errors.AuthenticationError):
            what = "it refuses the login"
        elif isinstance(error, errors.ResponseError):
            code = str(error).partition(" ")[0]
            what = f"it answers with an error{f' ({code})' if code in _CODES else ''}"
        elif isinstance(error, errors.ConnectionError | OSError):
            what = "it cannot be reached, or has closed the connection"
        else:
            what = "it does not speak Redis's protocol"
        return Unreachable(
            f"the store of breaker.store, {self.where}, is of no use: {what}",
            hint="Breakers go on by what happens here.",
            passing=True,
        )

    def __repr__(self) -> str:
        return f"<RedisStore {self.where}>"
