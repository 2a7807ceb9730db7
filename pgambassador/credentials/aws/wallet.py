"""The AWS credentials of one provider: found where the SDKs would find them, kept for a while.

1. The order is botocore's: a named profile or role; variables; a profile of the files; a pod's token; a
   container's endpoint; the instance.
2. They are asked for again after five minutes, or half of their life if that is less, so that a role that was
   changed is noticed and a token signed with them lives long. Variables are read each time.
3. If asking fails, those in hand are used as long as they are good. Who waits meanwhile shares the failure.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Mapping
from functools import partial

from pgambassador.config.aws import Aws
from pgambassador.credentials import blocking
from pgambassador.credentials.aws import profiles, sources
from pgambassador.credentials.aws.sigv4 import Keys
from pgambassador.errors import AmbassadorError, ConfigError, Unreachable

SECONDS = 6.0
"""For the whole search."""
KEPT = 300.0
_LEAST = 30.0
"""What is left of them at least when they are used although new ones could not be had."""


class Wallet:
    """ConfigError at once if botocore is needed and missing."""

    def __init__(self, options: Aws, environ: Mapping[str, str] = os.environ) -> None:
        self._options = options
        self._environ = environ
        self._lock = threading.Lock()
        self._known: Keys | None = None
        self._ask_at = 0.0
        self._failure: AmbassadorError | None = None
        self._failed_at = 0.0
        if what := profiles.reason(options, environ):
            profiles.require(what)

    def __repr__(self) -> str:
        return f"<Wallet {self._known!r}>"

    async def keys(self, region: str | None) -> Keys:
        """Credentials that are good now. `region`: whose STS to ask."""
        if self._options.profile is None and self._options.role_arn is None:
            written = sources.environment(self._environ)  # nothing that blocks
            if written is not None:
                return _good(written, time.time())
        try:
            async with asyncio.timeout(SECONDS):
                return await blocking.run(partial(self._kept, region, time.monotonic()), "AWS credentials")
        except TimeoutError:
            raise Unreachable(
                f"no AWS credentials within {SECONDS:g} s", hint="Check the network and the name servers."
            ) from None

    def forget(self) -> None:
        """Search again for the next who asks; those in hand are used if nothing is found."""
        self._ask_at = 0.0

    def _kept(self, region: str | None, since: float) -> Keys:
        with self._lock:
            if self._failure is not None and self._failed_at > since:
                raise self._failure  # what the one before us in the queue has heard
            now = time.time()
            known = self._known
            if known is not None and now < self._ask_at and _lasts(known, now):
                return known
            try:
                found = _good(self._search(region), now)
            except AmbassadorError as error:
                if known is not None and _lasts(known, now):
                    return known
                self._failure, self._failed_at = error, time.monotonic()
                raise
            self._failure = None
            left = KEPT if found.not_after is None else (found.not_after - now) / 2
            self._known, self._ask_at = found, now + min(KEPT, left)
            return found

    def _search(self, region: str | None) -> Keys:
        environ = self._environ
        if what := profiles.reason(self._options, environ):
            profiles.require(what)
            return profiles.fetch(self._options, region)
        if sources.names_web_identity(environ):
            return sources.web_identity(environ, region)
        if sources.names_container(environ):
            return sources.container(environ)
        if environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
            raise ConfigError(
                "No AWS credentials were found: no variables, no profile, no role of a pod or a container.",
                hint="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this task or pod a role.",
            )
        return sources.instance(environ)


def _lasts(keys: Keys, now: float) -> bool:
    return keys.not_after is None or now < keys.not_after - _LEAST


def _good(keys: Keys, now: float) -> Keys:
    if keys.not_after is not None and keys.not_after <= now:
        raise Unreachable(
            "the AWS credentials have expired",
            hint="Renew them where they come from, and check the clock here.",
        )
    return keys
