"""Google Cloud with its own libraries: tokens, impersonation, and the connectors' ways to PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import ipaddress
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import uvloop
from cryptography import x509

from pgambassador.cluster.upstream import parse_url
from pgambassador.config.gcp import GcpAlloyDb, GcpCloudSqlIam
from pgambassador.config.secret import Secret as Hidden
from pgambassador.credentials.gcp import api
from pgambassador.credentials.gcp.alloydb import AlloyDb
from pgambassador.credentials.gcp.cloudsql import CloudSql
from pgambassador.credentials.keyring import Issued
from pgambassador.credentials.provider import Login, Provider, Secret
from pgambassador.embedded import Postgres, Workspace
from pgambassador.errors import AmbassadorError, ConfigError, ServerRefused, Unreachable
from pgambassador.net import way
from pgambassador.net.connector import connect, send_cancel
from pgambassador.net.conversation import Conversation
from pgambassador.net.link import Link
from pgambassador.net.transport import Transport
from pgambassador.wire import build, parse
from pgambassador.wire.frames import Dialogue
from tests.harness import HBA, Ambassador, wait_until
from tests.harness.doorman import Doorman
from tests.harness.google import (
    ALLOYDB,
    ALLOYDB_LOGIN,
    EMAIL,
    IAM,
    INSTANCE,
    NAME,
    PROJECT,
    SQL_ADMIN,
    SQL_LOGIN,
    TARGET,
    USER,
    Authority,
    Google,
    refusal,
)
from tests.harness.internet import MACHINE, Internet, Told

LOGIN = Login("db.example", 5432, "app", "app")


@pytest.fixture(scope="module")
def server(workspace: Workspace) -> Postgres:
    """Behind the doormen: it lets IAM users in without asking, as a cloud's does after its doorman has."""
    made = workspace.primary(
        "cloud", hba=(f'host all "{USER}" all trust', "host all app all scram-sha-256", *HBA)
    )
    made.sql(
        f"""
        set client_min_messages = error;
        create role "{USER}" login;
        create role app login password 'app-secret';
        """
    )
    return made


@pytest.fixture
def google() -> Google:
    return Google()


@pytest.fixture
def internet(google: Google, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Internet]:
    monkeypatch.setattr(api, "PAUSE", 0.0)
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))
    with Internet(tmp_path, google.sites()) as made:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        yield made
        gc.collect()


@pytest.fixture
def key(google: Google, tmp_path: Path) -> str:
    return str(google.key_file(tmp_path / "key.json"))


@pytest.fixture
def machine(internet: Internet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of Google's, with a metadata server."""
    monkeypatch.setenv("GCE_METADATA_HOST", internet.address)
    monkeypatch.setenv("GCE_METADATA_IP", internet.address)
    metadata = importlib.import_module("google.auth.compute_engine._metadata")
    monkeypatch.setattr(metadata, "_GCE_METADATA_HOST", internet.address)


def word(secret: Secret) -> str:
    """The token that is the password."""
    assert isinstance(secret.password, bytes)
    return secret.password.decode()


def fetch(provider: Provider, login: Login = LOGIN) -> Secret:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(provider.fetch(login))


def failure(provider: Provider) -> AmbassadorError:
    with pytest.raises(AmbassadorError) as raised:
        fetch(provider)
    assert raised.value.hint
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None
    return raised.value


# --- tokens -------------------------------------------------------------------------------------------------


def test_the_token_of_a_service_accounts_key(google: Google, internet: Internet, key: str) -> None:
    provider: Provider = CloudSql(GcpCloudSqlIam(credentials_file=key))
    secret = fetch(provider)
    assert secret.user == USER
    assert secret.way is None
    grant = google.tokens[word(secret)]
    assert grant.scope == SQL_LOGIN
    assert abs((secret.not_after or 0) - grant.not_after) < 10
    assert not provider.per_host
    assert provider.window == 0
    assert fetch(provider).password != secret.password  # asked anew
    assert internet.paths("oauth2.googleapis.com") == ["POST /token"] * 2


def test_the_users_name_may_be_given(internet: Internet, key: str) -> None:
    assert fetch(CloudSql(GcpCloudSqlIam(credentials_file=key, user="other"))).user == "other"


def test_the_credentials_that_the_environment_names(
    google: Google, internet: Internet, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", key)
    assert fetch(CloudSql(GcpCloudSqlIam())).user == USER


def test_workload_identity_federation(google: Google, internet: Internet, tmp_path: Path) -> None:
    secret = fetch(CloudSql(GcpCloudSqlIam(credentials_file=str(google.federation_file(tmp_path)))))
    assert secret.user == "target@shop.iam"
    grant = google.tokens[word(secret)]
    assert (grant.email, grant.scope) == (TARGET, SQL_LOGIN)


def test_a_person(
    google: Google, internet: Internet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose token for the database can do nothing else, and whose user is the one that was asked for."""
    path = str(google.person_file(tmp_path / "ann.json"))
    secret = fetch(CloudSql(GcpCloudSqlIam(credentials_file=path)))
    assert secret.user is None
    assert google.tokens[word(secret)].scope == SQL_LOGIN
    secret = fetch(CloudSql(GcpCloudSqlIam(credentials_file=path, instance=INSTANCE)))
    assert secret.user is None
    assert fetch(AlloyDb(GcpAlloyDb(credentials_file=path, instance=ALLOYDB))).user is None
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", path)
    secret = fetch(CloudSql(GcpCloudSqlIam()))
    assert google.tokens[word(secret)].scope == SQL_LOGIN


@pytest.mark.usefixtures("machine")
def test_the_service_account_of_the_machine(google: Google, internet: Internet) -> None:
    secret = fetch(CloudSql(GcpCloudSqlIam()))
    assert secret.user == USER
    assert google.tokens[word(secret)].scope == SQL_LOGIN
    assert "GET /computeMetadata/v1/instance/service-accounts/default/token" in internet.paths(MACHINE)


def test_impersonation_by_a_chain(google: Google, internet: Internet, key: str) -> None:
    google.delegates = ["a@shop.iam.gserviceaccount.com", "b@shop.iam.gserviceaccount.com"]
    options = GcpCloudSqlIam(
        credentials_file=key,
        impersonate_service_account=TARGET,
        impersonate_delegates=tuple(google.delegates),
    )
    secret = fetch(CloudSql(options))
    assert secret.user == "target@shop.iam"
    grant = google.tokens[word(secret)]
    assert (grant.email, grant.scope) == (TARGET, SQL_LOGIN)
    assert abs((secret.not_after or 0) - grant.not_after) < 10
    assert [grant.scope for grant in google.tokens.values() if grant.email == EMAIL] == [IAM]


def test_impersonation_refused(google: Google, internet: Internet, key: str) -> None:
    google.trouble["iamcredentials.googleapis.com"] = [refusal(403, "IAM_PERMISSION_DENIED")]
    provider = CloudSql(GcpCloudSqlIam(credentials_file=key, impersonate_service_account=TARGET))
    error = failure(provider)
    assert isinstance(error, ConfigError)
    assert error.message == f"Google does not let us act as {TARGET} (403 IAM_PERMISSION_DENIED)."
    assert "roles/iam.serviceAccountTokenCreator" in (error.hint or "")


def test_a_key_that_was_revoked(google: Google, internet: Internet, key: str) -> None:
    told = {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
    google.trouble["oauth2.googleapis.com"] = [Told(told, 400)]
    error = failure(CloudSql(GcpCloudSqlIam(credentials_file=key)))
    assert isinstance(error, ConfigError)
    assert error.message == "Google refuses the credentials (400 invalid_grant)."
    assert "clock" in (error.hint or "")


def test_a_token_endpoint_that_is_down(google: Google, internet: Internet, key: str) -> None:
    google.trouble["oauth2.googleapis.com"] = [Told({"error": "internal_failure"}, 503)] * 10
    error = failure(CloudSql(GcpCloudSqlIam(credentials_file=key, timeout=3)))
    assert isinstance(error, Unreachable)
    assert "oauth2.googleapis.com" in error.message or "did not answer within 3 s" in error.message


@pytest.mark.usefixtures("machine")
def test_a_machine_without_a_service_account(google: Google, internet: Internet) -> None:
    google.trouble[MACHINE] = []
    site = internet.sites[MACHINE]

    def answer(asked: Any) -> Told:
        return Told(b"not found", 404) if "service-accounts" in asked.path else site(asked)

    internet.sites[MACHINE] = answer
    error = failure(CloudSql(GcpCloudSqlIam()))
    assert error.message == "The metadata server has no service account for this machine (404)."
    assert "Attach a service account" in (error.hint or "")


def test_no_credentials_at_all(internet: Internet, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = importlib.import_module("google.auth.compute_engine._metadata")
    monkeypatch.setattr(metadata, "_NO_GCE_CHECK", True)
    error = failure(CloudSql(GcpCloudSqlIam()))
    assert error.message == "there are no Google credentials here, and no metadata server answers"
    assert "GOOGLE_APPLICATION_CREDENTIALS" in (error.hint or "")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere.json")
    assert "GOOGLE_APPLICATION_CREDENTIALS /nowhere.json" in failure(CloudSql(GcpCloudSqlIam())).message


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"type": "service_account"}', '{"type": 7}', "\0"])
def test_a_file_that_holds_no_credentials(internet: Internet, tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    error = failure(CloudSql(GcpCloudSqlIam(credentials_file=str(path))))
    assert isinstance(error, ConfigError)
    assert str(path) in error.message or "not understood" in error.message


def test_a_file_that_nobody_reads(internet: Internet) -> None:
    """google-auth would read it to its end."""
    error = failure(CloudSql(GcpCloudSqlIam(credentials_file="/dev/zero")))
    assert "credentials_file /dev/zero cannot be read (it is not a plain file)" in error.message


def test_a_key_that_is_no_key(internet: Internet, key: str, tmp_path: Path) -> None:
    broken = json.loads(Path(key).read_text())
    broken["private_key"] = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0a2V5\n-----END PRIVATE KEY-----\n"
    Path(key).write_text(json.dumps(broken))
    error = failure(CloudSql(GcpCloudSqlIam(credentials_file=key)))
    assert "c2VjcmV0a2V5" not in error.sentence()
    assert key in error.message


def test_a_network_that_does_not_reach_google(
    internet: Internet, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    error = failure(CloudSql(GcpCloudSqlIam(credentials_file=key, timeout=5)))
    assert isinstance(error, Unreachable)
    assert error.message == (
        "Google's oauth2.googleapis.com cannot be asked for a token: the proxy did not let us through"
    )


def test_a_site_with_another_certificate(
    internet: Internet, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    error = failure(CloudSql(GcpCloudSqlIam(credentials_file=key, timeout=5)))
    assert error.message.endswith("its certificate was not accepted")
    assert internet.asked == []
    assert wait_until(lambda: internet.mistakes, "the broken handshake")
    internet.mistakes.clear()


def test_an_answer_without_a_token(google: Google, internet: Internet, key: str) -> None:
    google.trouble["oauth2.googleapis.com"] = [Told({"id_token": "ey-secret"})]
    error = failure(CloudSql(GcpCloudSqlIam(credentials_file=key)))
    assert "ey-secret" not in error.sentence()


# --- the way to Cloud SQL -----------------------------------------------------------------------------------


class Held:
    """A keyring with one secret."""

    def __init__(self, secret: Secret) -> None:
        self._secret = secret

    async def issued(self, host: str, port: int) -> Issued:
        return Issued(self._secret, 1, fresh=True)

    async def refused(self, host: str, port: int) -> bool:
        return False


@contextlib.asynccontextmanager
async def linked(secret: Secret, instance: str, **more: Any) -> AsyncIterator[Link]:
    assert secret.way is not None
    upstream = parse_url("postgresql://app@/postgres", instance=instance)
    link = await connect(upstream, Held(secret), database="postgres", user="app", **more)
    try:
        yield link
    finally:
        link.close()


def ask(link: Link, sql: str) -> Any:
    transport = Transport(link.sock, link.peer)
    transport.tls, transport.incoming, transport.outgoing = link.tls, link.incoming, link.outgoing
    return Conversation(transport).hold(question(sql))


def question(sql: str) -> Dialogue[str]:
    value = ""
    kind, payload = yield build.query(sql)
    while kind != ord("Z"):
        if kind == ord("D"):
            value = payload[6:].decode()
        if kind == ord("E"):
            value = parse.fields(payload)["C"]
        kind, payload = yield b""
    return value


def answer(secret: Secret, sql: str, instance: str = INSTANCE) -> str:
    async def main() -> str:
        async with linked(secret, instance) as link:
            return str(await ask(link, sql))

    return run(main())


def run(work: Any) -> Any:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(work)
    gc.collect()
    return result


def refused(secret: Secret, instance: str = INSTANCE) -> AmbassadorError:
    with pytest.raises(AmbassadorError) as raised:
        answer(secret, "select 1", instance)
    assert raised.value.hint
    return raised.value


@pytest.fixture
def doorman(google: Google, server: Postgres, tmp_path: Path) -> Iterator[Callable[..., Doorman]]:
    with contextlib.ExitStack() as stack:

        def make(common_name: str = f"{PROJECT}:{NAME}", *sans: x509.GeneralName, **more: Any) -> Doorman:
            by = more.pop("by", google.authority)
            certificate = by.server(tmp_path, common_name, *sans)
            return stack.enter_context(Doorman(server.port, certificate, google.authority.root, **more))

        yield make


@pytest.mark.usefixtures("internet")
def test_a_query_by_the_way_of_the_connectors(
    google: Google, internet: Internet, key: str, doorman: Callable[..., Doorman]
) -> None:
    door = doorman()
    provider = CloudSql(GcpCloudSqlIam(instance=INSTANCE, credentials_file=key), port=door.port)
    secret = fetch(provider)
    assert secret.user == USER
    assert secret.password is None
    assert abs((secret.not_after or 0) - time.time() - 3600) < 30
    assert answer(secret, "select current_user") == USER
    assert door.guests == [EMAIL]  # the certificate was made with the token
    assert door.first[0][4:8] in (b"\0\3\0\2", b"\0\3\0\0")  # no SSLRequest, but the start packet at once
    assert door.names in ([], [None])
    assert sorted(internet.paths("sqladmin.googleapis.com")) == [
        f"GET /sql/v1beta4/projects/{PROJECT}/instances/{NAME}/connectSettings",
        f"POST /sql/v1beta4/projects/{PROJECT}/instances/{NAME}:generateEphemeralCert",
    ]
    assert {grant.scope for grant in google.tokens.values()} == {SQL_LOGIN, SQL_ADMIN}
    assert CloudSql(GcpCloudSqlIam(instance=INSTANCE, credentials_file=key))._port == 3307


@pytest.mark.usefixtures("internet")
def test_a_password_by_that_way(google: Google, key: str, doorman: Callable[..., Doorman]) -> None:
    door = doorman()
    options = GcpCloudSqlIam(instance=INSTANCE, credentials_file=key, password=Hidden("app-secret"))
    secret = fetch(CloudSql(options, port=door.port))
    assert secret.user is None
    assert answer(secret, "select current_user") == "app"
    assert door.guests == ["nobody"]  # no login token in the certificate
    assert {grant.scope for grant in google.tokens.values()} == {SQL_ADMIN}


@pytest.mark.usefixtures("internet")
def test_a_cancel_request_goes_the_same_way(key: str, doorman: Callable[..., Doorman]) -> None:
    door = doorman()
    secret = fetch(CloudSql(GcpCloudSqlIam(instance=INSTANCE, credentials_file=key), port=door.port))

    async def main() -> str:
        async with linked(secret, INSTANCE) as link, linked(secret, INSTANCE) as other:
            sleeping = asyncio.get_running_loop().create_task(ask(link, "select pg_sleep(60)"))
            sql = (
                "select count(*) from pg_stat_activity"
                " where query like 'select pg_sleep%' and state = 'active'"
            )
            while await ask(other, sql) != "1":
                assert not sleeping.done()
            upstream = parse_url("postgresql://app@/postgres", instance=INSTANCE)
            await send_cancel(upstream, link, road=secret.way)
            return str(await sleeping)

    assert run(main()) == "57014"
    assert len(door.guests) == 3


@pytest.mark.usefixtures("internet")
def test_a_dns_name_in_the_certificate(google: Google, key: str, doorman: Callable[..., Doorman]) -> None:
    google.settings["dnsNames"] = [{"name": "uid.region.sql.goog.", "dnsScope": "INSTANCE"}]
    door = doorman("something", x509.DNSName("uid.region.sql.goog"))
    secret = fetch(CloudSql(GcpCloudSqlIam(instance=INSTANCE, credentials_file=key), port=door.port))
    assert secret.way is not None
    assert secret.way.names == ("uid.region.sql.goog", f"{PROJECT}:{NAME}")
    assert answer(secret, "select 1") == "1"


@pytest.mark.usefixtures("internet")
def test_the_name_of_another_instance_is_refused(key: str, doorman: Callable[..., Doorman]) -> None:
    door = doorman(f"{PROJECT}:other", x509.DNSName("other.sql.goog"))
    secret = fetch(CloudSql(GcpCloudSqlIam(instance=INSTANCE, credentials_file=key), port=door.port))
    error = refused(secret)
    assert isinstance(error, Unreachable)
    assert error.message == (
        f"could not connect to 127.0.0.1:{door.port}: its certificate is not for {PROJECT}:{NAME}"
        " but for other.sql.goog"
    )
    assert door.first == []


@pytest.mark.usefixtures("internet")
def test_a_certificate_of_another_ca_is_refused(key: str, doorman: Callable[..., Doorman]) -> None:
    door = doorman(by=Authority("stranger"))
    secret = fetch(CloudSql(GcpCloudSqlIam(instance=INSTANCE, credentials_file=key), port=door.port))
    assert "its certificate was not accepted" in refused(secret).message
    assert door.first == []


@pytest.mark.usefixtures("internet")
def test_an_expired_certificate_is_recognised_and_replaced(
    google: Google, key: str, doorman: Callable[..., Doorman]
) -> None:
    """As after a night's sleep of the machine: the clock is beyond the end of what we have."""
    door = doorman()
    provider = CloudSql(GcpCloudSqlIam(instance=INSTANCE, credentials_file=key), port=door.port)
    google.certificate_life = -60
    old = fetch(provider)
    assert (old.not_after or 0) < time.time()  # what the keyring looks at before it hands it out
    assert "it refused our client certificate (certificate expired)" in refused(old).message
    google.certificate_life = 3600
    new = fetch(provider)
    assert (new.not_after or 0) > time.time()
    assert answer(new, "select 1") == "1"


@pytest.mark.usefixtures("internet")
def test_the_end_is_that_of_the_token_or_the_certificate(google: Google, key: str) -> None:
    provider = CloudSql(GcpCloudSqlIam(instance=INSTANCE, credentials_file=key))
    google.life = 600
    assert abs((fetch(provider).not_after or 0) - time.time() - 600) < 30
    google.life, google.certificate_life = 3600, 300
    assert abs((fetch(provider).not_after or 0) - time.time() - 300) < 30


@pytest.mark.usefixtures("internet")
def test_addresses_of_all_types(google: Google, key: str) -> None:
    def host(kind: Any) -> str:
        secret = fetch(CloudSql(GcpCloudSqlIam(instance=INSTANCE, credentials_file=key, ip_type=kind)))
        assert secret.way is not None
        return secret.way.host

    assert host("public") == "127.0.0.1"
    with pytest.raises(ConfigError) as raised:
        host("private")
    assert raised.value.message == "The instance has no address of type private."
    assert "credentials.ip_type" in (raised.value.hint or "")
    google.settings["ipAddresses"] = [{"type": "PRIVATE", "ipAddress": "10.0.0.7"}]
    assert host("private") == "10.0.0.7"
    with pytest.raises(ConfigError):
        host("psc")
    google.settings |= {"pscEnabled": True, "dnsName": "legacy.sql.goog."}
    assert host("psc") == "legacy.sql.goog"
    google.settings["dnsNames"] = [
        {"name": "a.sql-psa.goog.", "connectionType": "PRIVATE_SERVICES_ACCESS", "dnsScope": "INSTANCE"},
        {"name": "c.sql.goog.", "connectionType": "PRIVATE_SERVICE_CONNECT", "dnsScope": "CLUSTER"},
        {"name": "b.sql.goog.", "connectionType": "PRIVATE_SERVICE_CONNECT", "dnsScope": "INSTANCE"},
    ]
    assert host("psc") == "b.sql.goog"


@pytest.mark.parametrize(
    ("told", "message", "hint", "kind"),
    [
        (refusal(403, "notAuthorized"), "refuses us the instance", "roles/cloudsql.client", ConfigError),
        (refusal(403, "accessNotConfigured"), "is not enabled", "gcloud services enable", ConfigError),
        (refusal(403, "insufficientPermissions"), "not allowed to use", "access scope", ConfigError),
        (refusal(403, "rateLimitExceeded"), "too often", "quota", Unreachable),
        (refusal(404, "instanceDoesNotExist"), "no such instance", "PROJECT:REGION:INSTANCE", ConfigError),
        (refusal(400, "invalid"), "refuses the question", "credentials.instance", ConfigError),
        (refusal(429, "RATE_LIMIT_EXCEEDED"), "too often", "quota", Unreachable),
        (Told(b"<html>busy", 503), "does not work now (503)", "asked again", Unreachable),
        (Told(b"[]"), "not a JSON object", "newer version", Unreachable),
        (Told(b"\xff"), "not a JSON object", "newer version", Unreachable),
        (Told({"region": "elsewhere"}), "is in elsewhere", "credentials.instance", ConfigError),
    ],
)
@pytest.mark.usefixtures("internet")
def test_refusals_of_the_admin_api(
    google: Google, key: str, told: Told, message: str, hint: str, kind: type
) -> None:
    google.trouble["sqladmin.googleapis.com"] = [told] * 20
    error = failure(CloudSql(GcpCloudSqlIam(instance=INSTANCE, credentials_file=key)))
    assert isinstance(error, kind)
    assert message in error.message
    assert hint in (error.hint or "")
    assert "a text of Google's" not in error.sentence()


@pytest.mark.parametrize(
    "settings",
    [
        {"serverCaCert": None},
        {"serverCaCert": {"cert": 7}},
        {"ipAddresses": "x"},
        {"ipAddresses": [7]},
        {"ipAddresses": [{"type": "PRIMARY", "ipAddress": "a b"}]},
    ],
)
@pytest.mark.usefixtures("internet")
def test_odd_answers_of_the_admin_api(google: Google, key: str, settings: dict[str, Any]) -> None:
    google.settings = settings
    failure(CloudSql(GcpCloudSqlIam(instance=INSTANCE, credentials_file=key)))


def test_a_failure_that_passes_is_not_noticed(google: Google, internet: Internet, key: str) -> None:
    google.trouble["sqladmin.googleapis.com"] = [Told(b"", 500), Told(b"", 503)]
    fetch(CloudSql(GcpCloudSqlIam(instance=INSTANCE, credentials_file=key)))
    assert len(internet.paths("sqladmin.googleapis.com")) == 4
    assert google.trouble["sqladmin.googleapis.com"] == []


def test_silence_after_too_many_requests(google: Google, internet: Internet, key: str) -> None:
    google.trouble["sqladmin.googleapis.com"] = [refusal(429, "rateLimitExceeded", Retry_After="120")]
    provider = CloudSql(GcpCloudSqlIam(instance=INSTANCE, credentials_file=key))
    failure(provider)
    before = len(internet.asked)
    error = failure(provider)
    assert len(internet.asked) == before
    assert "asked too often, and wants 1" in error.message  # 120 s or a bit less


# --- AlloyDB ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("internet")
def test_a_query_by_the_way_to_alloydb(
    google: Google, internet: Internet, key: str, doorman: Callable[..., Doorman]
) -> None:
    door = doorman("uid.server.alloydb", x509.IPAddress(ipaddress.ip_address("127.0.0.1")), word=True)
    provider = AlloyDb(GcpAlloyDb(instance=ALLOYDB, credentials_file=key), port=door.port)
    secret = fetch(provider)
    assert (secret.user, secret.password) == (USER, None)
    assert answer(secret, "select current_user", ALLOYDB) == USER
    (word,) = door.words
    assert google.tokens[bytes(word[3]).decode()].scope == ALLOYDB_LOGIN
    assert word[2] == 2  # AUTO_IAM
    assert bytes(word[1]).startswith(b"pgambassador/")
    assert door.guests == ["alloydb client"]
    assert AlloyDb(GcpAlloyDb(instance=ALLOYDB, credentials_file=key))._port == 5433
    google.life = 60
    assert abs((fetch(provider).not_after or 0) - time.time() - 60) < 30


@pytest.mark.usefixtures("internet")
def test_a_password_for_alloydb(key: str, doorman: Callable[..., Doorman]) -> None:
    door = doorman("x", x509.IPAddress(ipaddress.ip_address("127.0.0.1")), word=True)
    options = GcpAlloyDb(instance=ALLOYDB, credentials_file=key, password=Hidden("app-secret"))
    secret = fetch(AlloyDb(options, port=door.port))
    assert answer(secret, "select current_user", ALLOYDB) == "app"
    assert door.words[0][2] == 1  # DB_NATIVE


@pytest.mark.usefixtures("internet")
def test_a_cancel_request_to_alloydb(key: str, doorman: Callable[..., Doorman]) -> None:
    door = doorman("x", x509.IPAddress(ipaddress.ip_address("127.0.0.1")), word=True)
    secret = fetch(AlloyDb(GcpAlloyDb(instance=ALLOYDB, credentials_file=key), port=door.port))

    async def main() -> None:
        async with linked(secret, ALLOYDB) as link:
            upstream = parse_url("postgresql://app@/postgres", instance=ALLOYDB)
            await send_cancel(upstream, link, road=secret.way)
            assert await ask(link, "select 1") in ("1", "57014")

    run(main())
    assert len(door.words) == 2
    assert door.first[1][4:8] == (80877102).to_bytes(4, "big")  # CancelRequest


@pytest.mark.usefixtures("internet")
def test_a_refused_word(google: Google, key: str, doorman: Callable[..., Doorman]) -> None:
    door = doorman(
        "x", x509.IPAddress(ipaddress.ip_address("127.0.0.1")), word=True, reply=b"\x08\x02\x12\x04none"
    )
    secret = fetch(AlloyDb(GcpAlloyDb(instance=ALLOYDB, credentials_file=key), port=door.port))
    error = refused(secret, ALLOYDB)
    assert isinstance(error, ServerRefused)
    assert error.sqlstate == "28000"
    assert error.message == "AlloyDB refuses the login: none"


@pytest.mark.usefixtures("internet")
def test_another_address_in_alloydbs_certificate(key: str, doorman: Callable[..., Doorman]) -> None:
    door = doorman("127.0.0.1", x509.IPAddress(ipaddress.ip_address("127.0.0.2")), word=True)
    secret = fetch(AlloyDb(GcpAlloyDb(instance=ALLOYDB, credentials_file=key), port=door.port))
    error = refused(secret, ALLOYDB)
    assert error.message.endswith("its certificate is not for 127.0.0.1 but for 127.0.0.2")
    assert door.words == []  # no token was shown


@pytest.mark.usefixtures("internet")
def test_no_answer_to_the_word(
    key: str, doorman: Callable[..., Doorman], monkeypatch: pytest.MonkeyPatch
) -> None:
    door = doorman("x", x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    secret = fetch(AlloyDb(GcpAlloyDb(instance=ALLOYDB, credentials_file=key), port=door.port))
    monkeypatch.setattr(way, "GREETING_TIMEOUT", 0.5)
    error = refused(secret, ALLOYDB)
    assert isinstance(error, Unreachable)


@pytest.mark.usefixtures("internet")
def test_addresses_of_alloydb(google: Google, key: str) -> None:
    google.settings = {"publicIpAddress": "192.0.2.9", "pscDnsName": "a.alloydb-psc.goog."}
    for kind, wanted in {"public": "192.0.2.9", "private": "127.0.0.1", "psc": "a.alloydb-psc.goog"}.items():
        options = GcpAlloyDb(instance=ALLOYDB, credentials_file=key, ip_type=kind)  # type: ignore[arg-type]
        found = fetch(AlloyDb(options)).way
        assert found is not None
        assert (found.host, found.names) == (wanted, (wanted,))
    google.settings = {"ipAddress": ""}
    error = failure(AlloyDb(GcpAlloyDb(instance=ALLOYDB, credentials_file=key)))
    assert error.message == "The instance has no address of type private."


@pytest.mark.parametrize(
    ("told", "message", "hint"),
    [
        (refusal(403, "IAM_PERMISSION_DENIED"), "refuses us the instance", "roles/alloydb.client"),
        (refusal(403, "SERVICE_DISABLED"), "is not enabled", "alloydb.googleapis.com"),
        (refusal(404, "notFound"), "no such instance", "projects/PROJECT"),
        (Told(b"", 500), "does not work now", "asked again"),
    ],
)
@pytest.mark.usefixtures("internet")
def test_refusals_of_the_alloydb_api(google: Google, key: str, told: Told, message: str, hint: str) -> None:
    google.trouble["alloydb.googleapis.com"] = [told] * 20
    error = failure(AlloyDb(GcpAlloyDb(instance=ALLOYDB, credentials_file=key)))
    assert message in error.message
    assert hint in (error.hint or "")


# --- what is told -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("internet")
def test_nothing_secret_is_told(
    google: Google, key: str, caplog: pytest.LogCaptureFixture, doorman: Callable[..., Doorman]
) -> None:
    """Not in a repr, not in the log at any level, whatever goes wrong."""
    caplog.set_level(logging.DEBUG)
    door = doorman("x", x509.IPAddress(ipaddress.ip_address("127.0.0.1")), word=True)
    told = []
    options = GcpCloudSqlIam(instance=INSTANCE, credentials_file=key, impersonate_service_account=TARGET)
    for provider in (
        CloudSql(GcpCloudSqlIam(credentials_file=key)),
        CloudSql(options),
        AlloyDb(GcpAlloyDb(instance=ALLOYDB, credentials_file=key), port=door.port),
    ):
        secret = fetch(provider)
        told += [repr(provider), repr(secret), str(secret), repr(secret.way)]
        if secret.way is not None:
            google.secrets += [secret.way.key.splitlines()[1]]
    answer(secret, "select 1", ALLOYDB)
    with pytest.raises(AmbassadorError) as raised:
        answer(secret._replace(user="nobody", password=b"x"), "select 1", ALLOYDB)
    told.append(raised.value.sentence())
    google.trouble["sqladmin.googleapis.com"] = [refusal(403, "notAuthorized", list(google.tokens)[-1])]
    told.append(failure(CloudSql(options)).sentence())
    google.trouble["iamcredentials.googleapis.com"] = [refusal(400, list(google.tokens)[-1])]
    told.append(failure(CloudSql(options)).sentence())
    google.secrets += [token[:60] for token in google.tokens]
    everything = "\n".join((*told, caplog.text))
    assert "google" in everything
    for hidden in google.secrets:
        assert hidden not in everything
    assert "PRIVATE KEY" not in everything


def test_a_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.auth.transport.requests", None)
    for make in (lambda: CloudSql(GcpCloudSqlIam()), lambda: AlloyDb(GcpAlloyDb(instance=ALLOYDB))):
        with pytest.raises(ConfigError) as raised:
            make()
        assert raised.value.hint == "Run pip install 'pgambassador[gcp]'."


@pytest.mark.parametrize("module", ["pgambassador.cli", "pgambassador.process.service"])
def test_starting_imports_no_clouds_library(module: str) -> None:
    code = (
        f"import sys, {module}, pgambassador.config.gcp, pgambassador.config.azure\n"
        "import pgambassador.credentials.gcp.cloudsql, pgambassador.credentials.gcp.alloydb\n"
        "import pgambassador.credentials.azure\n"
        "heavy = ('google', 'cryptography', 'requests', 'azure', 'msal')\n"
        "print([name for name in sys.modules if name.partition('.')[0] in heavy])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- all together -------------------------------------------------------------------------------------------

# All of 127/8 is loopback on Linux, and nobody else listens at these: the ports are the product's own.
ELSEWHERE = "127.33.7.1"


@pytest.fixture
def elsewhere(google: Google) -> str:
    if sys.platform != "linux":
        pytest.skip("only Linux has more than one loopback address")
    google.settings = {
        "ipAddresses": [{"type": "PRIMARY", "ipAddress": ELSEWHERE}],
        "ipAddress": ELSEWHERE,
    }
    return ELSEWHERE


@pytest.mark.parametrize("provider", ["gcp-cloudsql-iam", "gcp-alloydb"])
def test_clients_of_an_ambassador_come_by_the_way(
    google: Google,
    internet: Internet,
    key: str,
    elsewhere: str,
    doorman: Callable[..., Doorman],
    ambassador: Callable[..., Ambassador],
    provider: str,
) -> None:
    alloydb = provider == "gcp-alloydb"
    san = x509.IPAddress(ipaddress.ip_address(elsewhere))
    door = doorman(
        f"{PROJECT}:{NAME}",
        *((san,) if alloydb else ()),
        where=(elsewhere, 5433 if alloydb else 3307),
        word=alloydb,
    )
    credentials = {
        "provider": provider,
        "instance": ALLOYDB if alloydb else INSTANCE,
        "credentials_file": key,
        "ip_type": "private" if alloydb else "public",
    }
    google.certificate_life = 4.0
    proxy = ambassador(
        {"clusters": {"main": {"url": "postgresql:///postgres", "credentials": credentials}}},
        log={"level": "debug"},
    )
    with psycopg.connect(proxy.dsn("whoever", "postgres"), autocommit=True) as client:
        assert client.execute("select current_user").fetchone() == (USER,)
        with psycopg.connect(proxy.dsn("whoever", "postgres"), autocommit=True) as other:

            def cancel() -> None:
                sql = "select count(*) from pg_stat_activity where query = 'select pg_sleep(50)'"
                wait_until(lambda: other.execute(sql).fetchone() == (1,), "the query")
                client.cancel_safe(timeout=10)

            canceller = threading.Thread(target=cancel)
            canceller.start()
            with pytest.raises(psycopg.errors.QueryCanceled):
                client.execute("select pg_sleep(50)")
            canceller.join()
        # The certificate ends again and again, and is renewed ahead of that; connections go on.
        host = "alloydb.googleapis.com" if alloydb else "sqladmin.googleapis.com"
        wait_until(
            lambda: sum(path.startswith("POST") for path in internet.paths(host)) >= 3,
            "renewals",
            deadline=30,
        )
        assert client.execute("select 1").fetchone() == (1,)
        with contextlib.ExitStack() as stack:
            for _ in range(3):
                each = stack.enter_context(psycopg.connect(proxy.dsn("whoever", "postgres")))
                assert each.execute("select 2").fetchone() == (2,)
    assert proxy.stop() == 0
    assert door.refused == []
    checked = subprocess.run(
        [sys.executable, "-m", "pgambassador", "check", "--config", str(proxy.config_file)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f", {credentials['instance']}: logged in as" in checked.stdout
    google.secrets += [token[:60] for token in google.tokens]
    everything = proxy.output()
    for hidden in google.secrets:
        assert hidden not in everything
    assert "PRIVATE KEY" not in everything
