"""Questions to Google over HTTP, until a common deadline.

1. Certificates are verified by requests' CAs (REQUESTS_CA_BUNDLE), proxies are those of HTTPS_PROXY,
   redirects are not followed.
2. An answer is bounded. Of what went wrong only host, status and a code are kept, never a text.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

import requests
from google.auth import exceptions, transport

LIMIT = 1 << 20
_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class Answer:
    """As google-auth wants it."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Failure:
    """The last question that was not answered with success. `status` 0: with nothing, `code` says why;
    `machine`: it went to the metadata server; `retry_after`: seconds."""

    host: str
    status: int
    code: str
    machine: bool = False
    retry_after: float | None = None


class Http(transport.Request):
    """A transport for google-auth, and for us. `session` is where google-auth puts certificates of the
    metadata server, if there are any."""

    def __init__(self, seconds: float) -> None:
        self.session = requests.Session()
        self.failure: Failure | None = None
        self._end = time.monotonic() + seconds

    @property
    def remaining(self) -> float:
        return self._end - time.monotonic()

    def forget(self) -> None:
        """What failed before has nothing to do with what comes now."""
        self.failure = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **_: Any,
    ) -> Answer:
        host = urlsplit(url).hostname or "a URL without a host"
        machine = any(name.lower() == "metadata-flavor" for name in headers or ())
        remaining = self.remaining
        if remaining <= 0:
            raise self._unanswered(host, "no time left")
        patience = remaining if timeout is None else min(timeout, remaining)
        try:
            with self.session.request(
                method,
                url,
                data=body,
                headers=dict(headers or {}),
                timeout=patience,
                stream=True,
                allow_redirects=False,
            ) as response:
                data = b""
                for piece in response.iter_content(65536):
                    data += piece
                    if len(data) > LIMIT or self.remaining <= 0:
                        raise self._unanswered(host, "an endless answer")
                answer = Answer(response.status_code, response.headers, data)
        except requests.exceptions.SSLError:
            raise self._unanswered(host, "its certificate was not accepted") from None
        except requests.exceptions.ProxyError:
            raise self._unanswered(host, "the proxy did not let us through") from None
        except requests.exceptions.Timeout:
            raise self._unanswered(host, "no answer in time") from None
        except (requests.exceptions.RequestException, OSError, ValueError):
            raise self._unanswered(host, "no connection") from None
        if answer.status != 200:
            self.failure = Failure(
                host, answer.status, code_of(answer.data), machine, _retry_after(answer.headers)
            )
        return answer

    def _unanswered(self, host: str, why: str) -> exceptions.TransportError:
        self.failure = Failure(host, 0, why)
        return exceptions.TransportError(f"{host}: {why}")  # type: ignore[no-untyped-call]


def code_of(data: bytes) -> str:
    """The word by which an OAuth or a Google API error goes, or "". Texts for people may hold anything."""
    try:
        error = json.loads(data)["error"]
        if isinstance(error, str):
            found = error
        else:
            reasons = [each.get("reason") for each in (*error.get("details", ()), *error.get("errors", ()))]
            found = next((each for each in reasons if each), None) or error.get("status") or ""
    except (ValueError, TypeError, KeyError, AttributeError):
        return ""
    return str(found) if _CODE.fullmatch(str(found)) else ""


def _retry_after(headers: Mapping[str, str]) -> float | None:
    text = headers.get("Retry-After", "")
    return float(text) if re.fullmatch(r"[0-9]{1,5}", text) else None
