"""A provider's way: which names are the server's, and what errors mean."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Any

import pytest

from pgambassador.credentials.provider import Way
from pgambassador.embedded import Authority
from pgambassador.errors import Unreachable
from pgambassador.net import way


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def certificate(common_name: str | None = None, *names: str, kind: str = "DNS") -> dict[str, Any]:
    found: dict[str, Any] = {"subjectAltName": tuple((kind, name) for name in names)}
    if common_name is not None:
        found["subject"] = ((("organizationName", "Google"),), (("commonName", common_name),))
    return found


def road(*names: str, **more: Any) -> Way:
    return Way(host="192.0.2.1", port=3307, roots="", certificate="", key="", names=names, **more)


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (("shop:main",), certificate("shop:main")),
        (("a.sql.goog", "shop:main"), certificate("shop:main")),
        (("a.sql.goog", "shop:main"), certificate("shop:main", "other.sql.goog")),
        (("a.sql.goog", "shop:main"), certificate(None, "A.sql.goog")),
        (("192.0.2.1",), certificate("x", "192.0.2.1", kind="IP Address")),
        (("2001:db8::1",), certificate("x", "2001:DB8:0:0:0:0:0:1\n", kind="IP Address")),
        (("example.com:shop:main",), certificate("example.com:shop:main")),
    ],
)
def test_the_server(names: tuple[str, ...], shown: dict[str, Any]) -> None:
    way.check_names(road(*names), shown)


@pytest.mark.parametrize(
    ("names", "shown", "who"),
    [
        (("shop:main",), certificate("shop:other"), "shop:other"),
        (("a.sql.goog",), certificate("a.sql.goog"), "a.sql.goog"),  # a common name is no host name
        (("a.sql.goog",), certificate(None, "*.sql.goog"), "*.sql.goog"),
        (("192.0.2.1",), certificate("192.0.2.1"), "192.0.2.1"),
        (("2001:db8::1",), certificate("2001:db8::1"), "2001:db8::1"),
        (("shop:main",), certificate("SHOP:main"), "SHOP:main"),
        (
            ("shop:main",),
            {"subject": ((("commonName", "shop:main"),), (("commonName", "x"),))},
            "shop:main, x",
        ),
        (("shop:main",), {}, "nobody"),
    ],
)
def test_somebody_else(names: tuple[str, ...], shown: dict[str, Any], who: str) -> None:
    with pytest.raises(Unreachable) as raised:
        way.check_names(road(*names), shown)
    assert raised.value.message == f"its certificate is not for {names[0]} but for {who}"
    assert raised.value.hint


def test_the_context_trusts_nobody_else(ca: Authority, tmp_path: Path) -> None:
    own = ca.client(tmp_path, "us")
    before = len(os.listdir("/dev/fd"))
    made = way.context(Way("h", 1, ca.root.read_text(), own.chain.read_text(), own.key.read_text(), ("x",)))
    assert len(made.get_ca_certs()) == 1
    assert made.minimum_version == ssl.TLSVersion.TLSv1_3
    assert made.verify_mode == ssl.CERT_REQUIRED
    assert len(os.listdir("/dev/fd")) == before


@pytest.mark.parametrize("field", ["roots", "certificate", "key"])
def test_certificates_of_no_use(ca: Authority, tmp_path: Path, field: str) -> None:
    own = ca.client(tmp_path, "us")
    good = {"roots": ca.root.read_text(), "certificate": own.chain.read_text(), "key": own.key.read_text()}
    for bad in ("", "nonsense", "x" * 100_000, "é"):
        mixed = {**good, field: bad}
        with pytest.raises(Unreachable) as raised:
            way.context(Way("h", 1, mixed["roots"], mixed["certificate"], mixed["key"], ("x",)))
        assert "of no use" in raised.value.message
        assert raised.value.__cause__ is None
    stranger = Authority(tmp_path, "stranger").client(tmp_path, "them")
    with pytest.raises(Unreachable):
        way.context(Way("h", 1, good["roots"], good["certificate"], stranger.key.read_text(), ("x",)))


def test_nothing_secret_in_its_repr() -> None:
    shown = repr(road("x", greeting=b"token"))
    assert "token" not in shown
    assert "key" not in shown


def test_errors_in_words() -> None:
    def error(reason: str) -> ssl.SSLError:
        made = ssl.SSLError(1, f"[SSL: {reason}] text")
        made.reason = reason
        return made

    expired = way.explain(error("SSLV3_ALERT_CERTIFICATE_EXPIRED"))
    assert expired.message == "it refused our client certificate (certificate expired)"
    unknown = way.explain(error("TLSV1_ALERT_UNKNOWN_CA"))
    assert unknown.message == "it refused our client certificate (unknown ca)"
    assert "wrong version number" in way.explain(error("WRONG_VERSION_NUMBER")).message
    assert "no reason given" in way.explain(error("")).message
