"""Our signatures are byte for byte those of boto3."""

from __future__ import annotations

import string
from base64 import b64encode
from datetime import UTC, datetime
from typing import Any
from unittest import mock

import boto3
import botocore.auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from pgambassador.credentials.aws.sigv4 import LIFE, Keys, presign, signed

CLIENTS: dict[str, Any] = {
    name: boto3.client(name, region_name="eu-west-1", aws_access_key_id="none", aws_secret_access_key="none")
    for name in ("rds", "dsql")
}

label = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9-]{0,20}[A-Za-z0-9])?", fullmatch=True)
hosts = st.lists(label, min_size=1, max_size=6).map(".".join)
ports = st.integers(1, 65_535) | st.sampled_from((443, 80, 5432))
regions = st.from_regex(r"[a-z]{2}(-gov|-iso[a-z]?)?-[a-z]{4,9}-[0-9]", fullmatch=True)
users = st.text(min_size=1, max_size=80)
times = st.integers(0, 4_102_444_799).map(float)
tokens = st.binary(min_size=1, max_size=900).map(lambda token: b64encode(token).decode())
keys = st.builds(
    Keys,
    st.text(string.ascii_uppercase + string.digits, min_size=16, max_size=24),
    st.text(string.ascii_letters + string.digits + "+/", min_size=1, max_size=64),
    st.none() | tokens,
)


def boto(client: Any, known: Keys, now: float, method: str, **arguments: object) -> str:
    client._request_signer._credentials = Credentials(known.access_key, known.secret_key, known.token)
    with mock.patch("botocore.auth.get_current_datetime", lambda: datetime.fromtimestamp(now, UTC)):
        return str(getattr(client, method)(**arguments))


@settings(max_examples=1500)
@given(keys, regions, hosts, ports, users, times)
def test_rds(known: Keys, region: str, host: str, port: int, user: str, now: float) -> None:
    theirs = boto(
        CLIENTS["rds"],
        known,
        now,
        "generate_db_auth_token",
        DBHostname=host,
        Port=port,
        DBUsername=user,
        Region=region,
    )
    ours = presign(
        known,
        service="rds-db",
        region=region,
        host=host,
        port=port,
        query={"Action": "connect", "DBUser": user},
        now=now,
    )
    assert ours == theirs


@settings(max_examples=700)
@given(keys, regions, hosts, st.booleans(), st.sampled_from((LIFE, 1, 604_800)), times)
def test_dsql(known: Keys, region: str, host: str, admin: bool, expires: int, now: float) -> None:
    theirs = boto(
        CLIENTS["dsql"],
        known,
        now,
        "generate_db_connect_admin_auth_token" if admin else "generate_db_connect_auth_token",
        Hostname=host,
        Region=region,
        ExpiresIn=expires,
    )
    ours = presign(
        known,
        service="dsql",
        region=region,
        host=host,
        port=None,
        query={"Action": "DbConnectAdmin" if admin else "DbConnect"},
        now=now,
        expires=expires,
    )
    assert ours == theirs


@settings(max_examples=300)
@given(
    keys,
    regions,
    st.tuples(hosts, st.none() | st.integers(1024, 65_535)),
    st.text("abc  xyz/.;-_", max_size=30).map(str.strip),
    st.binary(max_size=300),
    times,
)
def test_a_signed_request(
    known: Keys, region: str, place: tuple[str, int | None], target: str, body: bytes, now: float
) -> None:
    host = place[0].lower() + (f":{place[1]}" if place[1] else "")
    headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": target}
    request = AWSRequest("POST", f"https://{host}/", headers=dict(headers), data=body)
    signer = botocore.auth.SigV4Auth(
        Credentials(known.access_key, known.secret_key, known.token), "secretsmanager", region
    )
    with mock.patch("botocore.auth.get_current_datetime", lambda: datetime.fromtimestamp(now, UTC)):
        signer.add_auth(request)
    ours = signed(
        known, service="secretsmanager", region=region, host=host, headers=headers, body=body, now=now
    )
    assert ours.pop("Host") == host
    assert ours == dict(request.headers.items())


def test_a_repr_without_what_is_secret() -> None:
    shown = repr(Keys("AKIA", "hunter2", "hunter3", 5.0))
    assert shown == "<Keys AKIA not_after=5.0>"
