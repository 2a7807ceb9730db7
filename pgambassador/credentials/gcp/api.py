"""The admin APIs of Google's databases: one JSON question and its answer, and a sentence for each refusal.

1. What fails on Google's side (5xx) is asked again a few times, with growing pauses, within the time limit.
2. After "too many requests" nothing is asked before the time that Google has named, or half a minute.
"""

from __future__ import annotations

import ipaddress
import json
import random
import re
import time
from typing import Any

from google.auth.exceptions import TransportError

from pgambassador import __version__
from pgambassador.credentials.gcp.account import Token
from pgambassador.credentials.gcp.http import Failure, Http
from pgambassador.errors import AmbassadorError, ConfigError, Unreachable

ATTEMPTS = 5
PAUSE = 0.2
COOLDOWN, LONGEST_COOLDOWN = 30.0, 600.0
USER_AGENT = f"pgambassador/{__version__}"
_QUOTA = frozenset(("RATE_LIMIT_EXCEEDED", "rateLimitExceeded", "userRateLimitExceeded", "quotaExceeded"))
_DISABLED = frozenset(("SERVICE_DISABLED", "accessNotConfigured"))
_SCOPES = frozenset(("ACCESS_TOKEN_SCOPE_INSUFFICIENT", "insufficientPermissions"))
_DNS = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?")


class Api:
    """`name` is what people call it, `service` what they enable; `grant` and `names` are remedies."""

    def __init__(self, name: str, service: str, *, grant: str, names: str) -> None:
        self._name = name
        self._service = service
        self._grant = grant
        self._names = names
        self._not_before = 0.0

    def wait_over(self) -> None:
        """Unreachable while Google has asked us to wait."""
        rest = self._not_before - time.monotonic()
        if rest > 0:
            raise Unreachable(
                f"the {self._name} has been asked too often, and wants {rest:.0f} s of silence",
                hint=f"Raise the quota of {self._service} in the project, or run fewer processes.",
            )

    def call(
        self, http: Http, token: Token, method: str, url: str, body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The answer's JSON object; raises Unreachable or ConfigError."""
        headers = {"Authorization": f"Bearer {token.value}", "User-Agent": USER_AGENT}
        if token.project is not None:
            headers["X-Goog-User-Project"] = token.project
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        attempt = 0
        while True:
            attempt += 1
            http.forget()
            try:
                answer = http(url, method, data, headers)
            except TransportError:
                pass
            else:
                if answer.status == 200:
                    return self._object(answer.data)
            failure = http.failure
            assert failure is not None
            pause = PAUSE * 2**attempt * random.uniform(0.5, 1.0)
            if not _passing(failure) or attempt == ATTEMPTS or pause > http.remaining:
                raise self._explain(failure)
            time.sleep(pause)

    def pem(self, answer: dict[str, Any], *names: str) -> str:
        """The certificates at this place of an answer."""
        found: Any = answer
        for name in names:
            found = found.get(name) if isinstance(found, dict) else None
        if not isinstance(found, str) or "-----BEGIN CERTIFICATE-----" not in found or not found.isascii():
            raise self._odd(f"no certificate in {'.'.join(names)}")
        return found

    def address(self, found: object, kind: str) -> str:
        """An IP address or DNS name from an answer."""
        if not found:
            raise ConfigError(
                f"The instance has no address of type {kind}.",
                hint="Set credentials.ip_type to one that it has: public, private or psc.",
            )
        text = str(found)
        try:
            return str(ipaddress.ip_address(text))
        except ValueError:
            if not _DNS.fullmatch(text):
                raise self._odd("an address that is none") from None
        return text

    def _object(self, data: bytes) -> dict[str, Any]:
        try:
            found = json.loads(data)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise self._odd("something that is not a JSON object")
        return found

    def _odd(self, what: str) -> Unreachable:
        return Unreachable(
            f"the answer of the {self._name} has {what}", hint="Look for a newer version of pgambassador."
        )

    def _explain(self, failure: Failure) -> AmbassadorError:
        code = f"{failure.status} {failure.code}".rstrip()
        if failure.status == 0:
            return Unreachable(
                f"the {self._name} at {failure.host} cannot be asked: {failure.code}",
                hint="Check the network, its DNS and the proxy (HTTPS_PROXY) on the way there.",
            )
        if failure.status == 429 or failure.code in _QUOTA:
            pause = min(failure.retry_after or COOLDOWN, LONGEST_COOLDOWN)
            self._not_before = time.monotonic() + pause
            return Unreachable(
                f"the {self._name} is asked too often ({code})",
                hint=f"Raise the quota of {self._service} in the project, or run fewer processes.",
            )
        if failure.status >= 500:
            return Unreachable(f"the {self._name} does not work now ({code})", hint="It will be asked again.")
        if failure.code in _DISABLED:
            return ConfigError(
                f"The {self._name} is not enabled in the project ({code}).",
                hint=f"Run gcloud services enable {self._service}.",
            )
        if failure.code in _SCOPES:
            return ConfigError(
                f"The credentials are not allowed to use the {self._name} ({code}).",
                hint="Give the machine the access scope cloud-platform.",
            )
        if failure.status == 403:
            return ConfigError(f"The {self._name} refuses us the instance ({code}).", hint=self._grant)
        if failure.status == 404:
            return ConfigError(f"The {self._name} knows no such instance ({code}).", hint=self._names)
        return ConfigError(f"The {self._name} refuses the question ({code}).", hint=self._names)


def _passing(failure: Failure) -> bool:
    """What may be different in a moment."""
    return failure.status >= 500 or failure.status == 0
