import os
import ssl
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from pgambassador.cluster.upstream import Endpoint, Upstream
from pgambassador.embedded import Authority, Certificate
from pgambassador.errors import ConfigError, Unreachable
from pgambassador.net import tls

HOST = Endpoint("db.example")


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def upstream(**settings: object) -> Upstream:
    return Upstream(endpoints=(HOST,), **settings)  # type: ignore[arg-type]


def server(certificate: Certificate, **options: object) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(certificate.chain, certificate.key)
    for name, value in options.items():
        setattr(made, name, value)
    return made


def handshake(
    client: ssl.SSLContext, other: ssl.SSLContext, name: str | None = "db.example"
) -> ssl.SSLObject:
    """Both sides in memory; the client's error, if it has one."""
    inward, outward = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(inward, outward, server_hostname=name)
    theirs = other.wrap_bio(outward, inward, server_side=True)
    pending = [ours, theirs]
    while pending:
        for side in list(pending):
            try:
                side.do_handshake()
                pending.remove(side)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                if side is ours:
                    raise
                pending.remove(side)
    return ours


def refusal(client: Upstream, other: ssl.SSLContext, *names: str) -> Unreachable:
    with pytest.raises(ssl.SSLError) as raised:
        handshake(tls.context(client), other, tls.server_name(client, HOST))
    return tls.explain(raised.value, client, HOST, names)


# --- contexts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "root", "verify", "name"),
    [
        ("require", False, ssl.CERT_NONE, False),
        ("require", True, ssl.CERT_REQUIRED, False),
        ("verify-ca", True, ssl.CERT_REQUIRED, False),
        ("verify-full", True, ssl.CERT_REQUIRED, True),
        ("verify-full", False, ssl.CERT_REQUIRED, True),
    ],
)
def test_what_a_context_verifies(
    ca: Authority, mode: str, root: bool, verify: ssl.VerifyMode, name: bool
) -> None:
    settings = {"sslrootcert": str(ca.root)} if root else {}
    made = tls.context(upstream(sslmode=mode, **settings))
    assert made.verify_mode is verify
    assert made.check_hostname is name
    assert made.minimum_version is ssl.TLSVersion.TLSv1_2
    assert tls.context(upstream(sslmode=mode, **settings), check_name=False).check_hostname is False


def test_the_minimum_version() -> None:
    assert tls.context(upstream(ssl_min_protocol_version="TLSv1.3")).minimum_version is ssl.TLSVersion.TLSv1_3


def test_a_context_is_shared_until_a_file_changes(ca: Authority, tmp_path: Path) -> None:
    root = tmp_path / "root.pem"
    root.write_bytes(ca.root.read_bytes())
    settings = upstream(sslrootcert=str(root))
    first = tls.context(settings)
    assert tls.context(settings) is first
    assert tls.context(upstream(sslrootcert=str(root), user="another")) is first
    (tmp_path / "new.pem").write_bytes(Authority(tmp_path, "other").root.read_bytes())
    (tmp_path / "new.pem").rename(root)
    second = tls.context(settings)
    assert second is not first
    assert second.get_ca_certs() != first.get_ca_certs()


def test_new_files_of_no_use_keep_the_old(
    ca: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = ca.client(tmp_path, "one"), ca.client(tmp_path, "other")
    settings = upstream(sslrootcert=str(ca.root), sslcert=str(one.chain), sslkey=str(one.key))
    first = tls.context(settings)
    other.chain.rename(one.chain)
    assert tls.context(settings) is first
    assert tls.context(settings) is first
    (record,) = caplog.records
    assert "holds a key that does not belong to the certificate" in record.getMessage()
    assert "What was read before stays in use" in record.getMessage()
    other.key.rename(one.key)
    assert tls.context(settings) is not first


def test_when_certificates_end(ca: Authority, tmp_path: Path) -> None:
    one = ca.client(tmp_path, "one")
    found = dict(tls.ends(upstream(sslrootcert=str(ca.root), sslcert=str(one.chain), sslkey=str(one.key))))
    made = x509.load_pem_x509_certificate(one.chain.read_bytes())
    root = x509.load_pem_x509_certificate(ca.root.read_bytes())
    assert found == {
        "sslrootcert": root.not_valid_after_utc.timestamp(),
        "sslcert": made.not_valid_after_utc.timestamp(),
    }
    assert tls.ends(upstream()) == ()


def test_the_name_that_is_sent() -> None:
    assert tls.server_name(upstream(), HOST) == "db.example"
    assert tls.server_name(upstream(sslmode="require"), HOST) == "db.example"
    assert tls.server_name(upstream(sslmode="require", sslsni=False), HOST) is None
    with_address = Endpoint("db.example", 5432, "10.0.0.1")
    assert tls.server_name(upstream(), with_address) == "db.example"


# --- files --------------------------------------------------------------------------------------------------


def complaint(**settings: object) -> str:
    with pytest.raises(ConfigError) as raised:
        tls.context(upstream(**settings))
    assert raised.value.hint
    return raised.value.message


def test_ca_files_of_no_use(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    assert (
        complaint(sslrootcert=str(path))
        == f"The sslrootcert file {path} cannot be read: no such file or directory."
    )
    assert "is a directory" in complaint(sslrootcert=str(tmp_path))
    path.write_text("hello\n")
    assert (
        complaint(sslrootcert=str(path)) == f"The sslrootcert file {path} holds no certificate in PEM form."
    )
    path.write_text("")
    assert "holds no certificate" in complaint(sslrootcert=str(path))
    path.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert "holds no certificate" in complaint(sslrootcert=str(path))
    if os.geteuid() != 0:
        path.chmod(0)
        assert "permission denied" in complaint(sslrootcert=str(path))


# --- Amazon's CAs -------------------------------------------------------------------------------------------


def test_the_rds_bundle_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tls, "RDS_BUNDLE", tmp_path / "none")
    monkeypatch.delenv(tls.RDS_BUNDLE_VARIABLE, raising=False)
    with pytest.raises(ConfigError) as raised:
        tls.context(upstream(sslrootcert="rds"))
    assert raised.value.sentence() == (
        "sslrootcert=rds needs Amazon's bundle of CAs, which is not here. Fetch it with curl -fo FILE"
        " https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem,"
        " and set rds_bundle of the cluster, or the variable PGAMBASSADOR_RDS_BUNDLE, to FILE."
    )
    monkeypatch.setenv(tls.RDS_BUNDLE_VARIABLE, str(tmp_path / "none"))
    assert complaint(sslrootcert="rds").endswith("none cannot be read: no such file or directory.")


@pytest.mark.parametrize("by", ["variable", "package", "option"])
def test_the_rds_bundle_and_the_system_together(
    by: str, ca: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instances are signed by Amazon's own CAs, RDS Proxy by a public one."""
    public, stranger = Authority(tmp_path, "public"), Authority(tmp_path, "stranger")
    monkeypatch.setenv("SSL_CERT_FILE", str(public.root))
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(Authority(tmp_path, "older").root.read_bytes() + ca.root.read_bytes())
    monkeypatch.delenv(tls.RDS_BUNDLE_VARIABLE, raising=False)
    if by == "variable":
        monkeypatch.setenv(tls.RDS_BUNDLE_VARIABLE, str(bundle))
    elif by == "package":
        monkeypatch.setattr(tls, "RDS_BUNDLE", bundle)
    else:
        monkeypatch.setenv(tls.RDS_BUNDLE_VARIABLE, str(tmp_path / "none"))

    def upstream(**more: str) -> Upstream:
        named = str(bundle) if by == "option" else None
        return Upstream(endpoints=(HOST,), rds_bundle=named, **more)  # type: ignore[arg-type]

    made = tls.context(upstream(sslrootcert="rds"))
    assert made.verify_mode is ssl.CERT_REQUIRED
    assert made.check_hostname
    assert tls.context(upstream(sslrootcert="rds")) is made
    for authority in (ca, public):
        handshake(made, server(authority.server(tmp_path, hosts=("db.example",))))
    error = refusal(upstream(sslrootcert="rds"), server(stranger.server(tmp_path, hosts=("db.example",))))
    assert error.message.endswith("that is not in the RDS bundle, nor among the system's CAs")
    assert "fetch it anew" in (error.hint or "")
    assert (
        "not for db.example"
        in refusal(upstream(sslrootcert="rds"), server(ca.server(tmp_path, hosts=("a.example",)))).message
    )


# --- files of clients ---------------------------------------------------------------------------------------


def test_client_certificates(ca: Authority, tmp_path: Path) -> None:
    one = ca.client(tmp_path, "app")
    tls.context(upstream(sslcert=str(one.chain), sslkey=str(one.key)))
    both = tmp_path / "both.pem"
    both.write_bytes(one.chain.read_bytes() + one.key.read_bytes())
    tls.context(upstream(sslcert=str(both)))


def test_client_certificates_of_no_use(ca: Authority, tmp_path: Path) -> None:
    one, other = ca.client(tmp_path, "app"), ca.client(tmp_path, "other")
    missing = tmp_path / "missing"
    assert "sslcert file" in complaint(sslcert=str(missing))
    assert "sslkey file" in complaint(sslcert=str(one.chain), sslkey=str(missing))
    assert "does not hold both a certificate and its key" in complaint(sslcert=str(one.chain))
    mismatch = complaint(sslcert=str(one.chain), sslkey=str(other.key))
    assert f"holds a key that does not belong to the certificate in {one.chain}" in mismatch
    assert "are not a certificate and a key" in complaint(sslcert=str(one.chain), sslkey=str(ca.root))
    key = serialization.load_pem_private_key(one.key.read_bytes(), None)
    encrypted = tmp_path / "encrypted.key"
    encrypted.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"s3cret"),
        )
    )
    sentence = complaint(sslcert=str(one.chain), sslkey=str(encrypted))
    assert "holds an encrypted key" in sentence


# --- handshakes that fail -----------------------------------------------------------------------------------


def test_a_good_server(ca: Authority, tmp_path: Path) -> None:
    other = server(ca.server(tmp_path, hosts=("db.example", "*.more.example", "10.0.0.1")))
    session = handshake(tls.context(upstream(sslrootcert=str(ca.root))), other)
    assert session.version() == "TLSv1.3"
    assert tls.names(session.getpeercert() or {}) == ["db.example", "*.more.example", "10.0.0.1"]


def test_an_expired_certificate(ca: Authority, tmp_path: Path) -> None:
    other = server(ca.server(tmp_path, hosts=("db.example",), expired=True))
    error = refusal(upstream(sslrootcert=str(ca.root)), other)
    assert error.message == "a certificate it showed has expired"
    assert error.hint
    assert error.sqlstate == "08001"


def test_a_wrong_name(ca: Authority, tmp_path: Path) -> None:
    other = server(ca.server(tmp_path, hosts=("a.example", "b.example")))
    settings = upstream(sslrootcert=str(ca.root))
    assert refusal(settings, other).message == "its certificate is not for db.example"
    error = refusal(settings, other, "a.example", "b.example")
    assert error.message == "its certificate is not for db.example but for a.example, b.example"
    assert error.hint
    many = refusal(settings, other, *(["x" * 1000] * 1000))
    assert len(many.message) < 1200
    handshake(tls.context(upstream(sslmode="verify-ca", sslrootcert=str(ca.root))), other)


def test_a_wrong_address(ca: Authority, tmp_path: Path) -> None:
    other = server(ca.server(tmp_path, hosts=("10.0.0.1",)))
    settings = upstream(sslrootcert=str(ca.root))
    handshake(tls.context(settings), other, "10.0.0.1")
    with pytest.raises(ssl.SSLError) as raised:
        handshake(tls.context(settings), other, "10.0.0.2")
    assert tls.is_about_name(raised.value)


def test_an_unknown_ca(ca: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger")
    other = server(stranger.server(tmp_path, hosts=("db.example",)))
    error = refusal(upstream(sslrootcert=str(ca.root)), other)
    assert error.message == f"its certificate comes from a CA that is not in {ca.root}"
    error = refusal(upstream(), other)
    assert error.message == "its certificate comes from a CA that is not among the system's CAs"
    assert error.hint == "Name the file with the CA of your database with sslrootcert=FILE."
    handshake(tls.context(upstream(sslmode="require")), other)


def test_a_self_signed_certificate(ca: Authority, tmp_path: Path) -> None:
    authority = trustme.CA()
    path = tmp_path / "self.pem"
    authority.private_key_pem.write_to_path(str(path), append=False)
    authority.cert_pem.write_to_path(str(path), append=True)
    error = refusal(upstream(sslrootcert=str(ca.root)), server(Certificate(path, path)))
    assert error.message.startswith("its certificate is self-signed")
    assert "sslrootcert" in (error.hint or "")


def test_an_old_protocol(ca: Authority, tmp_path: Path) -> None:
    other = server(ca.server(tmp_path, hosts=("db.example",)), maximum_version=ssl.TLSVersion.TLSv1_2)
    error = refusal(upstream(sslrootcert=str(ca.root), ssl_min_protocol_version="TLSv1.3"), other)
    assert error.message == "it does not accept TLSv1.3 or newer"


def test_an_alpn_that_is_not_postgresql(ca: Authority, tmp_path: Path) -> None:
    other = server(ca.server(tmp_path, hosts=("db.example",)))
    other.set_alpn_protocols(["h2"])
    session = handshake(tls.context(upstream(sslrootcert=str(ca.root))), other)
    assert session.selected_alpn_protocol() is None
    other.set_alpn_protocols(["h2", "postgresql"])
    session = handshake(tls.context(upstream(sslrootcert=str(ca.root))), other)
    assert session.selected_alpn_protocol() == "postgresql"


def test_what_is_not_tls() -> None:
    inward = ssl.MemoryBIO()
    client = tls.context(upstream()).wrap_bio(inward, ssl.MemoryBIO(), server_hostname="db.example")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    inward.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(ssl.SSLError) as raised:
        client.do_handshake()
    assert "not TLS" in tls.explain(raised.value, upstream(), HOST).message


def test_an_end_in_the_middle() -> None:
    inward = ssl.MemoryBIO()
    client = tls.context(upstream()).wrap_bio(inward, ssl.MemoryBIO(), server_hostname="db.example")
    inward.write_eof()
    with pytest.raises(ssl.SSLError) as raised:
        client.do_handshake()
    error = tls.explain(raised.value, upstream(), HOST)
    assert error.message == "it closed the connection during the TLS handshake"
    direct = tls.explain(raised.value, upstream(sslnegotiation="direct"), HOST)
    assert "PostgreSQL 17" in (direct.hint or "")


def test_a_server_that_wants_a_client_certificate(ca: Authority, tmp_path: Path) -> None:
    other = server(ca.server(tmp_path, hosts=("db.example",)), maximum_version=ssl.TLSVersion.TLSv1_2)
    other.verify_mode = ssl.CERT_REQUIRED
    other.load_verify_locations(ca.root)
    error = refusal(upstream(sslrootcert=str(ca.root)), other)
    assert "it refused" in error.message or "handshake failed" in error.message
    stranger = Authority(tmp_path, "stranger").client(tmp_path, "app")
    settings = upstream(sslrootcert=str(ca.root), sslcert=str(stranger.chain), sslkey=str(stranger.key))
    error = refusal(settings, other)
    assert error.message == "it refused the client certificate (unknown ca)"
    good = ca.client(tmp_path, "good")
    settings = upstream(sslrootcert=str(ca.root), sslcert=str(good.chain), sslkey=str(good.key))
    handshake(tls.context(settings), other)


def test_the_names_of_a_certificate_without_alternatives() -> None:
    assert tls.names({"subject": ((("commonName", "db"),),)}) == ["db"]
    assert tls.names({"subject": ((("commonName", "db"),),), "subjectAltName": (("DNS", "a"),)}) == ["a"]
    assert tls.names({}) == []
