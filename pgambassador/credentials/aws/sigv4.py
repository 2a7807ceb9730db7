"""AWS Signature Version 4: presigned URLs, which RDS and DSQL take as passwords, and signed requests.

1. Pure: the time is passed in, nothing is looked up.
2. What comes out is byte for byte what botocore makes of the same.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote

ALGORITHM = "AWS4-HMAC-SHA256"
LIFE = 900
"""Seconds that a database token holds; a longer time is refused by the servers."""

_HTTPS = 443
_EMPTY = hashlib.sha256(b"").hexdigest()


class Keys(NamedTuple):
    """AWS credentials. `not_after`: seconds since 1970, None if they do not end by themselves."""

    access_key: str
    secret_key: str
    token: str | None = None
    not_after: float | None = None

    def __repr__(self) -> str:
        return f"<Keys {self.access_key} not_after={self.not_after}>"


def presign(
    keys: Keys,
    *,
    service: str,
    region: str,
    host: str,
    port: int | None,
    query: Mapping[str, str],
    now: float,
    expires: int = LIFE,
) -> str:
    """The URL of a signed `GET https://host:port/?query`, without its scheme."""
    stamp = _stamp(now)
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    pairs = {
        **query,
        "X-Amz-Algorithm": ALGORITHM,
        "X-Amz-Credential": f"{keys.access_key}/{scope}",
        "X-Amz-Date": stamp,
        "X-Amz-Expires": str(expires),
        "X-Amz-SignedHeaders": "host",
    }
    if keys.token is not None:
        pairs["X-Amz-Security-Token"] = keys.token
    encoded = [(quote(name, safe=""), quote(value, safe="")) for name, value in pairs.items()]
    written, canonical = ("&".join(f"{k}={v}" for k, v in each) for each in (encoded, sorted(encoded)))
    # As in a Host header: small letters, and the port only if it is not that of the scheme.
    named = host.lower() if port in (None, _HTTPS) else f"{host.lower()}:{port}"
    request = f"GET\n/\n{canonical}\nhost:{named}\n\nhost\n{_EMPTY}"
    signature = _signature(keys, stamp, scope, request)
    place = host if port is None else f"{host}:{port}"
    return f"{place}/?{written}&X-Amz-Signature={signature}"


def signed(
    keys: Keys, *, service: str, region: str, host: str, headers: Mapping[str, str], body: bytes, now: float
) -> dict[str, str]:
    """All headers of a signed `POST / ` to this host (with its port, unless it is the scheme's own)."""
    stamp = _stamp(now)
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    all_headers = {**headers, "Host": host, "X-Amz-Date": stamp}
    if keys.token is not None:
        all_headers["X-Amz-Security-Token"] = keys.token
    canonical = sorted((name.lower(), " ".join(value.split())) for name, value in all_headers.items())
    names = ";".join(name for name, _ in canonical)
    lines = "".join(f"{name}:{value}\n" for name, value in canonical)
    request = f"POST\n/\n\n{lines}\n{names}\n{hashlib.sha256(body).hexdigest()}"
    signature = _signature(keys, stamp, scope, request)
    all_headers["Authorization"] = (
        f"{ALGORITHM} Credential={keys.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return all_headers


def _stamp(now: float) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))


def _signature(keys: Keys, stamp: str, scope: str, request: str) -> str:
    secret = f"AWS4{keys.secret_key}".encode()
    for part in scope.split("/"):
        secret = hmac.digest(secret, part.encode(), "sha256")
    text = f"{ALGORITHM}\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    return hmac.digest(secret, text.encode(), "sha256").hex()
