"""TLS towards clients, both sides in memory: what is asked for, and what failed handshakes are called."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path
from typing import Any

import pytest

from pgambassador.config import Tls
from pgambassador.config.structs import TlsMode
from pgambassador.embedded import Authority, Certificate
from pgambassador.errors import ConfigError, Refused
from pgambassador.net import openssl
from pgambassador.net.gate import Gate, explain


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gate")


@pytest.fixture(scope="module")
def ca(folder: Path) -> Authority:
    return Authority(folder)


@pytest.fixture(scope="module")
def ours(ca: Authority, folder: Path) -> Certificate:
    return ca.server(folder, "ours", hosts=("gate.example",))


def written(ours: Certificate, **more: Any) -> Tls:
    return Tls(certificate=str(ours.chain), key=str(ours.key), **more)


def client(ca: Authority, certificate: Certificate | None = None, **options: Any) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(ca.root))
    if certificate is not None:
        made.load_cert_chain(certificate.chain, certificate.key)
    for name, value in options.items():
        setattr(made, name, value)
    return made


def handshake(gate: Gate, context: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """The client's side and ours; our error, if we have one."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = context.wrap_bio(down, up, server_hostname="gate.example")
    mine = gate.armour().context.wrap_bio(up, down, server_side=True)
    pending = [theirs, mine]
    while pending:
        for side in list(pending):
            try:
                side.do_handshake()
                pending.remove(side)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                if side is mine:
                    raise
                pending.remove(side)
    return theirs, mine


def failure(gate: Gate, context: ssl.SSLContext, config: Tls) -> str:
    with pytest.raises(ssl.SSLError) as raised:
        handshake(gate, context)
    return explain(raised.value, config)


def test_modes() -> None:
    assert [(gate.offers, gate.demands) for gate in map(Gate, (Tls(), Tls(mode="off", certificate="x")))] == [
        (False, False)
    ] * 2
    modes: list[tuple[TlsMode, bool]] = [("allow", False), ("require", True), ("verify-ca", True)]
    for mode, demands in modes:
        gate = Gate(Tls(mode=mode, certificate="x", ca="y"))
        assert (gate.offers, gate.demands, repr(gate)) == (True, demands, f"<Gate {mode}>")
        if demands:
            with pytest.raises(Refused, match="without TLS are not accepted") as refused:
                gate.check_plain()
            assert (refused.value.sqlstate, "sslmode" in (refused.value.hint or "")) == ("28000", True)
        else:
            gate.check_plain()
    assert Gate(Tls(certificate="x")).mode == "allow"
    assert Gate(Tls()).ends() == ()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_handshake_leaves_nothing_to_resume(
    ca: Authority, ours: Certificate, version: ssl.TLSVersion
) -> None:
    gate = Gate(written(ours))
    for number in range(1, 4):
        context = client(ca, maximum_version=version)
        theirs, mine = handshake(gate, context)
        assert mine.version() == version.name.replace("_", ".")
        # In TLS 1.3 tickets would come with the first records.
        mine.write(b"hello")
        assert theirs.read() == b"hello"
        session = theirs.session
        assert session is None or not session.has_ticket
        assert mine.compression() is None
        if openssl.available:
            assert mine.context.session_stats()["number"] == 0
            up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
            again = context.wrap_bio(down, up, server_hostname="gate.example", session=session)
            answering = mine.context.wrap_bio(up, down, server_side=True)
            for _ in range(3):
                for side in (again, answering):
                    try:
                        side.do_handshake()
                    except ssl.SSLWantReadError:
                        pass
            assert again.session_reused is False, number


def test_what_we_are_bound_to(ca: Authority, ours: Certificate) -> None:
    armour = Gate(written(ours)).armour()
    (pem, *_) = ours.chain.read_text().split("-----END CERTIFICATE-----")
    der = ssl.PEM_cert_to_DER_cert(pem + "-----END CERTIFICATE-----")
    assert armour.binding == hashlib.sha256(der).digest()
    assert armour.ours is not None and armour.ours.dns == ("gate.example",)
    assert [option for option, _ in armour.ends] == ["tls.certificate"]


def test_alpn(ca: Authority, ours: Certificate) -> None:
    gate = Gate(written(ours))
    for offered, chosen in ((["postgresql"], "postgresql"), (["http/1.1", "postgresql"], "postgresql")):
        context = client(ca)
        context.set_alpn_protocols(offered)
        assert handshake(gate, context)[1].selected_alpn_protocol() == chosen
    context = client(ca)
    context.set_alpn_protocols(["http/1.1"])
    assert handshake(gate, context)[1].selected_alpn_protocol() is None


def test_client_certificates(ca: Authority, ours: Certificate, folder: Path) -> None:
    alice = ca.client(folder, "alice")
    # Nobody asks for one without a CA.
    assert handshake(Gate(written(ours)), client(ca, alice))[1].getpeercert(True) is None
    asking = Gate(written(ours, ca=str(ca.root)))
    assert handshake(asking, client(ca))[1].getpeercert(True) is None
    assert handshake(asking, client(ca, alice))[1].getpeercert(True)
    demanding = Gate(written(ours, ca=str(ca.root), mode="verify-ca"))
    assert handshake(demanding, client(ca, alice))[1].getpeercert(True)
    assert [option for option, _ in asking.ends()] == ["tls.certificate", "tls.ca"]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_what_is_said_of_bad_client_certificates(
    ca: Authority, ours: Certificate, folder: Path, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    config = written(ours, ca=str(ca.root), mode="verify-ca")
    gate = Gate(config)
    assert "it showed no certificate" in failure(gate, client(ca, maximum_version=version), config)
    late = ca.client(folder, "late", expired=True)
    said = failure(gate, client(ca, late, maximum_version=version), config)
    assert said == "a certificate it showed has expired"
    stranger = Authority(tmp_path, "other").client(tmp_path, "alice")
    said = failure(gate, client(ca, stranger, maximum_version=version), config)
    assert said == f"its certificate comes from a CA that is not in {ca.root}"
    # A certificate for a server is not one for a client, unless it says so.
    lenient = written(ours, ca=str(ca.root))
    assert "has expired" in failure(Gate(lenient), client(ca, late, maximum_version=version), lenient)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "it speaks HTTP"),
        (b"\x16\3\1\2\0" + b"x" * 600, "it sent something that is not TLS"),
        (b"\0" * 100, "it sent something that is not TLS"),
    ],
)
def test_what_is_said_of_rubbish(ours: Certificate, data: bytes, said: str) -> None:
    config = written(ours)
    incoming = ssl.MemoryBIO()
    incoming.write(data)
    mine = Gate(config).armour().context.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True)
    with pytest.raises(ssl.SSLError) as raised:
        mine.do_handshake()
    assert explain(raised.value, config) == said


def test_what_is_said_of_old_versions_and_of_those_that_break_off(
    ca: Authority, ours: Certificate, tmp_path: Path
) -> None:
    config = written(ours, min_version="TLSv1.3")
    old = client(ca, maximum_version=ssl.TLSVersion.TLSv1_2)
    assert "does not speak TLSv1.3 or newer" in failure(Gate(config), old, config)
    stranger = client(Authority(tmp_path, "other"))
    assert failure(Gate(written(ours)), stranger, config) == "it broke off (unknown ca)"
    incoming = ssl.MemoryBIO()
    incoming.write(b"\x16\3\1")
    incoming.write_eof()
    mine = Gate(config).armour().context.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True)
    with pytest.raises(ssl.SSLError) as raised:
        mine.do_handshake()
    assert explain(raised.value, config) == "it closed the connection in the middle of it"


def test_files_of_no_use(ca: Authority, ours: Certificate, tmp_path: Path) -> None:
    def complaint(**options: Any) -> str:
        with pytest.raises(ConfigError) as raised:
            Gate(Tls(**options)).armour()
        assert raised.value.hint
        return raised.value.message

    other = ca.server(tmp_path, "other")
    good, key = str(ours.chain), str(ours.key)
    assert "The tls.certificate file /no cannot be read: no such file" in complaint(
        certificate="/no", key=key
    )
    assert "The tls.key file /no cannot be read: no such file" in complaint(certificate=good, key="/no")
    assert "does not hold both a certificate and its key" in complaint(certificate=good)
    assert "does not belong to the certificate" in complaint(certificate=good, key=str(other.key))
    assert "The tls.ca file /no cannot be read" in complaint(certificate=good, key=key, ca="/no")
    assert "holds no certificate in PEM form" in complaint(certificate=good, key=key, ca=key)


def test_a_new_certificate_is_shown(ca: Authority, folder: Path, tmp_path: Path) -> None:
    now = ca.server(tmp_path, "now", hosts=("gate.example",))
    gate = Gate(written(now))
    first = gate.armour()
    assert gate.armour() is first
    later = ca.server(tmp_path, "later", hosts=("gate.example",))
    later.chain.rename(now.chain)
    # The key has not come yet.
    assert gate.armour() is first
    later.key.rename(now.key)
    second = gate.armour()
    assert second is not first and second.binding != first.binding
    theirs, _ = handshake(gate, client(ca))
    assert second.ours is not None and theirs.getpeercert(True) == second.ours.der
