"""The AWS providers without AWS: whose host, which region, which source, what a secret may look like."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import botocore.session
import msgspec.inspect as mi
import pytest

from pgambassador.config.aws import (
    Aws,
    AwsDsqlCredentials,
    AwsRdsIamCredentials,
    AwsSecretsManagerCredentials,
)
from pgambassador.config.build import build
from pgambassador.credentials.aws import dsql, profiles, rds, secretsmanager, sources
from pgambassador.credentials.aws.exchange import Answer, NoAnswer
from pgambassador.credentials.aws.partitions import arn_region, dsql_region, rds_region, service_url
from pgambassador.credentials.aws.secretsmanager import SecretsManager, Tried
from pgambassador.credentials.aws.sigv4 import Keys
from pgambassador.credentials.aws.wallet import Wallet
from pgambassador.credentials.provider import Login, Provider, Secret
from pgambassador.errors import AmbassadorError, ConfigError, Unreachable

NOW = 1_700_000_000.0
HOST = "shop.cluster-cx1.eu-west-1.rds.amazonaws.com"
KEYS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "hunter2"}
NO_FILES = {"AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent"}
ENVIRON = KEYS | NO_FILES
SECRET = AwsSecretsManagerCredentials(secret="shop", region="eu-west-1")


def login(host: str = HOST, port: int = 5432, user: str = "app") -> Login:
    return Login(host, port, user, "shop")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [NOW]
    monkeypatch.setattr(time, "time", lambda: now[0])
    return now


def sentence(error: AmbassadorError) -> str:
    """What a user reads: one sentence with its remedy, and nothing secret."""
    text = error.sentence()
    assert error.hint
    assert "hunter" not in text
    assert "hunter" not in repr(error)
    assert error.__cause__ is None
    return text


# --- where things are ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("shop.cx1.eu-west-1.rds.amazonaws.com", "eu-west-1"),
        ("shop.cluster-cx1.us-east-1.rds.amazonaws.com", "us-east-1"),
        ("shop.cluster-ro-cx1.us-east-1.rds.amazonaws.com", "us-east-1"),
        ("mine.cluster-custom-cx1.us-east-1.rds.amazonaws.com", "us-east-1"),
        ("shop.proxy-cx1.ap-southeast-4.rds.amazonaws.com", "ap-southeast-4"),
        ("readers.endpoint.proxy-cx1.ap-southeast-4.rds.amazonaws.com", "ap-southeast-4"),
        ("SHOP.cx1.EU-West-1.rds.AMAZONAWS.com.", "eu-west-1"),
        ("shop.cx1.us-gov-west-1.rds.amazonaws.com", "us-gov-west-1"),
        ("shop.cx1.rds.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        ("shop.cx1.rds.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("shop.cluster-ro-cx1.rds.cn-northwest-1.amazonaws.com.cn", "cn-northwest-1"),
        ("shop.cx1.cn-north-1.rds.amazonaws.com.cn", "cn-north-1"),
        ("shop.cx1.rds.us-iso-east-1.c2s.ic.gov", "us-iso-east-1"),
        ("shop.cx1.rds.us-isob-east-1.sc2s.sgov.gov", "us-isob-east-1"),
        ("shop.cx1.eusc-de-east-1.rds.amazonaws.eu", "eusc-de-east-1"),
        ("shop.global-cx1.global.rds.amazonaws.com", None),
        ("rds.eu-west-1.amazonaws.com", None),
        ("db.example", None),
        ("10.0.0.1", None),
        ("shop.cx1.eu-west-1.rds.amazonaws.com.evil.example", None),
        ("shop.cx1.eu-west-1.rds.amazonaws.example", None),
        ("", None),
    ],
)
def test_the_region_of_an_rds_endpoint(host: str, region: str | None) -> None:
    assert rds_region(host) == region


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("iabc.dsql.us-east-1.on.aws", "us-east-1"),
        ("iabc.dsql-gamma.eu-west-2.on.aws", "eu-west-2"),
        ("IABC.dsql.us-east-1.on.aws.", "us-east-1"),
        ("dsql.us-east-1.on.aws", None),
        (HOST, None),
    ],
)
def test_the_region_of_a_dsql_cluster(host: str, region: str | None) -> None:
    assert dsql_region(host) == region


def test_the_addresses_of_services_are_those_of_botocore() -> None:
    """In each of the partitions that it knows; and each of its regions is one in the name of an endpoint."""
    session = botocore.session.get_session()
    session.set_credentials("none", "none")
    for partition in session.get_available_partitions():
        regions = session.get_available_regions("secretsmanager", partition)
        suffix = ""
        for service in ("sts", "secretsmanager"):
            url = session.create_client(service, region_name=regions[0]).meta.endpoint_url
            assert service_url(service, regions[0], {}) == url
            suffix = url.partition(f"{regions[0]}.")[2]
        for region in regions:
            assert rds_region(f"shop.cx1.{region}.rds.{suffix}") == region
            assert rds_region(f"shop.cx1.rds.{region}.{suffix}") == region
    assert service_url("sts", None, {}) == "https://sts.amazonaws.com"


def test_variables_may_name_other_addresses_of_services() -> None:
    environ = {"AWS_ENDPOINT_URL_SECRETS_MANAGER": "https://vpce.example", "AWS_ENDPOINT_URL": "http://all"}
    assert service_url("secretsmanager", "eu-west-1", environ) == "https://vpce.example"
    assert service_url("sts", "eu-west-1", environ) == "http://all"


def test_the_region_of_an_arn() -> None:
    assert arn_region("arn:aws:secretsmanager:eu-west-1:123456789012:secret:shop-AbCdEf") == "eu-west-1"
    assert arn_region("arn:aws-us-gov:secretsmanager:us-gov-west-1:1:secret:x") == "us-gov-west-1"
    for text in ("shop", "a:b:c:eu-west-1:e:f", "arn:aws:secretsmanager::1:secret:x", "arn:"):
        assert arn_region(text) is None


# --- tokens -------------------------------------------------------------------------------------------------


def test_what_a_token_is_signed_for() -> None:
    def place(to: str = HOST, environ: dict[str, str] | None = None, **options: Any) -> object:
        return rds.place(AwsRdsIamCredentials(**options), login(to, 6432), environ or {})

    elsewhere = {"AWS_REGION": "us-east-2", "AWS_DEFAULT_REGION": "us-east-1"}
    assert place() == (HOST, 6432, "eu-west-1")
    assert place(HOST.upper() + ".") == (HOST, 6432, "eu-west-1")
    assert place(environ=elsewhere) == (HOST, 6432, "eu-west-1")
    assert place(environ=elsewhere, region="eu-west-3") == (HOST, 6432, "eu-west-3")
    assert place("127.0.0.1", host=HOST, port=5432) == (HOST, 5432, "eu-west-1")
    assert place("127.0.0.1", host="db.example", region="eu-west-1") == ("db.example", 6432, "eu-west-1")
    assert place("127.0.0.1", elsewhere, host="db.example") == ("db.example", 6432, "us-east-2")
    glob = "shop.global-cx1.global.rds.amazonaws.com"
    assert place(glob, elsewhere) == (glob, 6432, "us-east-2")


@pytest.mark.parametrize("host", ["10.0.0.1", "db.example", "localhost", "iabc.dsql.us-east-1.on.aws"])
def test_a_token_for_the_wrong_host_is_not_made(host: str) -> None:
    with pytest.raises(ConfigError) as raised:
        rds.place(AwsRdsIamCredentials(region="eu-west-1"), login(host), {"AWS_REGION": "eu-west-1"})
    assert f"{host} is not the name of an RDS endpoint" in sentence(raised.value)
    assert "credentials.host" in sentence(raised.value)
    assert "hostaddr=" in sentence(raised.value)


def test_a_missing_region() -> None:
    for host in ("db.example", "shop.global-cx1.global.rds.amazonaws.com"):
        with pytest.raises(ConfigError) as raised:
            rds.place(AwsRdsIamCredentials(host=host), login(), {})
        assert "does not tell its AWS region" in sentence(raised.value)
        assert "AWS_REGION" in sentence(raised.value)
    with pytest.raises(ConfigError, match="does not tell its AWS region"):
        dsql.place(AwsDsqlCredentials(host="db.example"), login(), {})
    with pytest.raises(ConfigError, match="not the name of an Aurora DSQL cluster"):
        dsql.place(AwsDsqlCredentials(region="us-east-1"), login(), {})
    with pytest.raises(ConfigError, match="does not tell in which AWS region the secret is") as raised:
        SecretsManager(AwsSecretsManagerCredentials(secret="shop"), ENVIRON)
    assert "AWS_REGION" in sentence(raised.value)


@pytest.mark.parametrize("text", ["eu-west-1a", "Ireland", "eu_west_1", "eu-west-1 "])
@pytest.mark.parametrize("where", ["credentials.region", "AWS_REGION", "AWS_DEFAULT_REGION"])
def test_what_is_no_region(where: str, text: str) -> None:
    """A token for it would be refused, and nobody would be told why."""
    written, environ = (text, {}) if "." in where else (None, {where: text})

    def complaint(act: Callable[..., object], *more: Any) -> str:
        with pytest.raises(ConfigError) as raised:
            act(*more, environ)
        return sentence(raised.value)

    for said in (
        complaint(rds.place, AwsRdsIamCredentials(host="db.example", region=written), login()),
        complaint(dsql.place, AwsDsqlCredentials(host="db.example", region=written), login()),
        complaint(SecretsManager, AwsSecretsManagerCredentials(secret="shop", region=written)),
    ):
        assert f"{where} is {text!r}, which is not the name of an AWS region" in said
        assert "eu-west-1a would be a zone" in said


def fetch(provider: Provider, who: Login) -> Secret:
    return asyncio.run(provider.fetch(who))


def test_an_rds_token(clock: list[float]) -> None:
    provider = rds.RdsIam(AwsRdsIamCredentials(), ENVIRON)
    assert provider.per_host is True
    assert provider.window == 0
    secret = fetch(provider, login(user="Müller & Söhne"))
    assert secret.user is None
    assert secret.not_after == NOW + 900
    assert isinstance(secret.password, bytes)
    parts = urlsplit("https://" + secret.password.decode())
    query = parse_qs(parts.query, strict_parsing=True)
    assert parts.netloc == f"{HOST}:5432"
    assert query["DBUser"] == ["Müller & Söhne"]
    assert query["X-Amz-Credential"] == ["AKIDEXAMPLE/20231114/eu-west-1/rds-db/aws4_request"]
    assert query["X-Amz-Expires"] == ["900"]
    clock[0] += 1
    assert fetch(provider, login()).password != secret.password
    assert "X-Amz" not in repr(secret)
    assert "hunter2" not in repr(provider)


@pytest.mark.parametrize(("user", "action"), [("admin", "DbConnectAdmin"), ("app", "DbConnect")])
def test_a_dsql_token(user: str, action: str, clock: list[float]) -> None:
    provider = dsql.Dsql(AwsDsqlCredentials(), ENVIRON)
    secret = fetch(provider, login("iabc.dsql.us-east-1.on.aws", user=user))
    assert isinstance(secret.password, bytes)
    assert secret.password.startswith(f"iabc.dsql.us-east-1.on.aws/?Action={action}&".encode())
    assert secret.not_after == NOW + 900
    assert provider.per_host is True


def test_a_token_ends_with_the_credentials_that_signed_it(clock: list[float]) -> None:
    environ = {**ENVIRON, "AWS_SESSION_TOKEN": "hunter3", "AWS_CREDENTIAL_EXPIRATION": "2023-11-14T22:20:00Z"}
    secret = fetch(rds.RdsIam(AwsRdsIamCredentials(), environ), login())
    assert secret.not_after == NOW + 400
    assert isinstance(secret.password, bytes)
    assert b"&X-Amz-Security-Token=hunter3&" in secret.password
    clock[0] += 400
    with pytest.raises(Unreachable, match="the AWS credentials have expired") as raised:
        fetch(rds.RdsIam(AwsRdsIamCredentials(), environ), login())
    assert "clock" in sentence(raised.value)


# --- where credentials come from ----------------------------------------------------------------------------


def test_keys_in_variables() -> None:
    assert sources.environment({}) is None
    assert sources.environment({"AWS_SECRET_ACCESS_KEY": "hunter2"}) is None
    assert sources.environment(KEYS) == Keys("AKIDEXAMPLE", "hunter2", None, None)
    assert sources.environment(KEYS | {"AWS_SESSION_TOKEN": "t"}) == Keys("AKIDEXAMPLE", "hunter2", "t", None)
    ends = KEYS | {"AWS_CREDENTIAL_EXPIRATION": "2023-11-14T22:13:20"}
    assert sources.environment(ends) == Keys("AKIDEXAMPLE", "hunter2", None, NOW)
    for broken, wanted in (
        ({"AWS_ACCESS_KEY_ID": "hunter2"}, "AWS_SECRET_ACCESS_KEY is not"),
        (KEYS | {"AWS_CREDENTIAL_EXPIRATION": "hunter2"}, "AWS_CREDENTIAL_EXPIRATION is not a time"),
    ):
        with pytest.raises(ConfigError) as raised:
            sources.environment(broken)
        assert wanted in sentence(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://evil.example/",
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.1/",
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "http://",
        "http://[::1",
        "http://localhost.evil.example/",
        "http://127.0.0.1@evil.example/",
        "//127.0.0.1/",
    ],
)
def test_a_container_url_that_leads_elsewhere(url: str) -> None:
    environ = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": url, "AWS_CONTAINER_AUTHORIZATION_TOKEN": "hunter2"}
    with pytest.raises(ConfigError, match="leads to a host that is not allowed") as raised:
        sources.container(environ)
    assert "AWS_CONTAINER_CREDENTIALS_FULL_URI" in sentence(raised.value)


def test_the_container_urls_that_botocore_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def ask(method: str, url: str, *_: object, **__: object) -> Answer:
        asked.append(url)
        raise NoAnswer("nobody")

    monkeypatch.setattr(sources, "ask", ask)
    allowed = [
        "http://169.254.170.2/a",
        "http://169.254.170.23/v1/credentials",
        "http://[fd00:ec2::23]/v1/credentials",
        "http://localhost:8080/",
        "http://127.8.9.1/",
        "http://[::1]:80/",
        "https://credentials.example/",
    ]
    for url in allowed:
        with pytest.raises(Unreachable, match="nobody"):
            sources.container({"AWS_CONTAINER_CREDENTIALS_FULL_URI": url})
    assert asked == allowed
    with pytest.raises(Unreachable):
        sources.container({"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/credentials/x"})
    assert asked[-1] == "http://169.254.170.2/v2/credentials/x"


def test_files_that_tokens_stand_in(tmp_path: Path) -> None:
    file = tmp_path / "token"
    environ = {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:1/",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(file),
    }
    for content, wanted in (
        (None, "no such file"),
        (b"", "does not hold a token"),
        (b"\xff", "does not hold a token"),
        (b"hunter2" * 10_000, "is longer than 64 KiB"),
        (b"hunter2\nx: y", "more than one line"),
    ):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(ConfigError) as raised:
            sources.container(environ)
        assert wanted in sentence(raised.value)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ConfigError, match="not a plain file"):
        sources.container(environ)


def test_when_botocore_is_asked(tmp_path: Path) -> None:
    config, shared = tmp_path / "config", tmp_path / "credentials"
    files = {"AWS_CONFIG_FILE": str(config), "AWS_SHARED_CREDENTIALS_FILE": str(shared)}

    def why(environ: dict[str, str] | None = None, **options: Any) -> str | None:
        return profiles.reason(Aws(**options), files | (environ or {}))

    assert why() is None
    assert why(profile="shop") == "the AWS profile 'shop'"
    assert why(KEYS, profile="shop") == "the AWS profile 'shop'"
    assert why(KEYS, role_arn="arn:x") == "the AWS role arn:x"
    assert why({"AWS_PROFILE": "shop"}) == "the AWS profile 'shop' (AWS_PROFILE)"
    assert why({"AWS_PROFILE": "shop"} | KEYS) is None
    config.write_text("[default]\nregion = eu-west-1\noutput = json\n[profile x]\nrole_arn = y\n")
    assert why() is None
    shared.write_text("[other]\naws_access_key_id = x\n")
    assert why() is None
    shared.write_text("[default]\naws_access_key_id = x\n")
    assert why() == f"the default profile in {shared}"
    assert why(KEYS) is None
    shared.unlink()
    for line in ("role_arn=x", "sso_session=x", "credential_process=x", "web_identity_token_file=x"):
        config.write_text(f"[profile default]\n{line}\n")
        assert why() == f"the default profile in {config}"
    config.write_text("aws_access_key_id without a section")
    assert why() == f"the default profile in {config}"


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"profile": "shop"}, "The AWS profile 'shop'"),
        ({"role_arn": "arn:aws:iam::1:role/x"}, "The AWS role arn:aws:iam::1:role/x"),
    ],
)
def test_a_missing_extra(options: dict[str, Any], what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore", None)
    with pytest.raises(ConfigError) as raised:
        rds.RdsIam(AwsRdsIamCredentials(**options), ENVIRON)
    text = f"{what} needs botocore, which is not installed. Run: pip install 'pgambassador[aws]'."
    assert sentence(raised.value) == text
    rds.RdsIam(AwsRdsIamCredentials(), ENVIRON)


def test_no_credentials_at_all() -> None:
    provider = rds.RdsIam(AwsRdsIamCredentials(), NO_FILES | {"AWS_EC2_METADATA_DISABLED": "true"})
    with pytest.raises(ConfigError, match="No AWS credentials were found") as raised:
        fetch(provider, login())
    assert "AWS_ACCESS_KEY_ID" in sentence(raised.value)


class Rented(Wallet):
    """Finds these, one after the other."""

    def __init__(self, *found: Keys | AmbassadorError) -> None:
        super().__init__(Aws(), NO_FILES)
        self.found = list(found)

    def _search(self, region: str | None) -> Keys:
        each = self.found.pop(0)
        if isinstance(each, AmbassadorError):
            raise each
        return each


def test_credentials_are_kept_for_five_minutes_or_half_of_their_life(clock: list[float]) -> None:
    long, short, forever = Keys("a", "b", "c", NOW + 3600), Keys("d", "e", "f", NOW + 500), Keys("g", "h")
    wallet = Rented(long, short, forever)

    def ask() -> Keys:
        return asyncio.run(wallet.keys("eu-west-1"))

    assert ask() is long
    clock[0] = NOW + 299
    assert ask() is long
    clock[0] = NOW + 300
    assert ask() is short
    clock[0] = NOW + 399
    assert ask() is short
    clock[0] = NOW + 400
    assert ask() is forever
    clock[0] = NOW + 699
    assert ask() is forever
    assert not wallet.found


def test_credentials_in_hand_outlive_a_source_that_fails(clock: list[float]) -> None:
    failure = Unreachable("out of order", hint="Wait.")
    wallet = Rented(Keys("a", "b", "c", NOW + 1000), failure, failure, failure, Keys("d", "e", "f", NOW - 1))

    def ask() -> Keys:
        return asyncio.run(wallet.keys(None))

    first = ask()
    for clock[0] in (NOW + 400, NOW + 960):
        assert ask() is first
    clock[0] = NOW + 975
    with pytest.raises(Unreachable, match="out of order"):
        ask()
    with pytest.raises(Unreachable, match="have expired"):
        ask()
    assert repr(wallet) == f"<Wallet <Keys a not_after={NOW + 1000}>>"


class Busy(Wallet):
    """Finds nothing before it may; what it finds then is the same for all who wait."""

    def __init__(self, found: Keys | AmbassadorError) -> None:
        super().__init__(Aws(), NO_FILES)
        self.found = found
        self.searches = 0
        self.may = threading.Event()

    def _search(self, region: str | None) -> Keys:
        self.searches += 1
        assert self.may.wait(20)
        if isinstance(self.found, AmbassadorError):
            raise self.found
        return self.found


@pytest.mark.parametrize("found", [Keys("a", "b"), Unreachable("out of order", hint="Wait.")])
def test_many_who_ask_at_once_share_one_search(found: Keys | AmbassadorError) -> None:
    wallet = Busy(found)

    async def main() -> list[object]:
        asked = asyncio.gather(*(wallet.keys(None) for _ in range(30)), return_exceptions=True)
        await asyncio.sleep(0)  # now all of them have asked
        wallet.may.set()
        return list(await asked)

    assert asyncio.run(main()) == [found] * 30
    assert wallet.searches == 1


# --- configuration ------------------------------------------------------------------------------------------


def test_what_the_configuration_says() -> None:
    def built(kind: type, **written: object) -> object:
        return build(mi.type_info(kind), {"provider": "x", **written}, "credentials")

    full = built(
        AwsRdsIamCredentials, host=HOST, port=5432, region="eu-west-1", role_arn="x", external_id="y"
    )
    assert full == AwsRdsIamCredentials(
        host=HOST, port=5432, region="eu-west-1", role_arn="x", external_id="y", session_name="pgambassador"
    )
    assert built(AwsDsqlCredentials) == AwsDsqlCredentials()
    made = built(AwsSecretsManagerCredentials, secret="shop", window="90s")
    assert made == AwsSecretsManagerCredentials(secret="shop", window=90.0)
    for kind, written, wanted in (
        (
            AwsRdsIamCredentials,
            {"port": 0},
            "credentials.port must be a whole number from 1 to 65535, not 0.",
        ),
        (AwsRdsIamCredentials, {"hots": "x"}, "credentials.hots is not an option."),
        (AwsSecretsManagerCredentials, {}, "credentials.secret is missing."),
        (AwsSecretsManagerCredentials, {"secret": ""}, "credentials.secret must be text, not empty."),
    ):
        with pytest.raises(ConfigError) as raised:
            built(kind, **written)
        assert raised.value.message == wanted


def test_where_the_providers_are() -> None:
    for kind, provider in (
        (AwsRdsIamCredentials, rds.RdsIam),
        (AwsDsqlCredentials, dsql.Dsql),
        (AwsSecretsManagerCredentials, SecretsManager),
    ):
        assert kind.maker == f"{provider.__module__}:{provider.__name__}"
        assert str(kind.__struct_config__.tag).startswith("aws-")


# --- secrets ------------------------------------------------------------------------------------------------


def answer(text: object, **more: object) -> bytes:
    return json.dumps({"SecretString": text, "VersionId": "v1", **more}).encode()


@pytest.mark.parametrize(
    ("text", "user", "password"),
    [
        ('{"username": "app", "password": "x y", "host": "db", "port": 5432}', "app", b"x y"),
        ('{"password": "é"}', None, "é".encode()),
        ('{"username": null, "password": "x"}', None, b"x"),
        ("bare", None, b"bare"),
        (" bare with spaces \n", None, b"bare with spaces"),
        ("12345", None, b"12345"),
        ('"quoted"', None, b'"quoted"'),
        ("[1]", None, b"[1]"),
    ],
)
def test_what_a_secret_may_be(text: str, user: str | None, password: bytes) -> None:
    found = secretsmanager.read(answer(text), SECRET)
    assert found == ("v1", user, password)
    assert repr(found) == f"<Version v1 user={user!r}>"


def test_other_keys_of_a_secret() -> None:
    options = AwsSecretsManagerCredentials(secret="shop", user_key="login", password_key="pw")
    text = '{"login": "a", "pw": "b", "username": "c", "password": "d"}'
    assert secretsmanager.read(answer(text), options) == ("v1", "a", b"b")


@pytest.mark.parametrize(
    ("body", "kind", "wanted"),
    [
        (b"hunter2", Unreachable, "not understood"),
        (b"[]", Unreachable, "not understood"),
        (b"\xff", Unreachable, "not understood"),
        (b'{"SecretString": "hunter2"}', Unreachable, "not understood"),
        (answer(None, SecretBinary="aHVudGVyMg=="), ConfigError, "holds no text"),
        (answer(""), ConfigError, "holds no text"),
        (answer('{"password": "hunter2"'), ConfigError, "looks like JSON"),
        (answer('{"username": "hunter2"}'), ConfigError, "no text under the key 'password'"),
        (answer('{"password": 7, "x": "hunter2"}'), ConfigError, "no text under the key 'password'"),
        (answer('{"password": ""}'), ConfigError, "no text under the key 'password'"),
        (answer('{"password": "hunter2", "username": 5}'), ConfigError, "not a user's name"),
        (answer('{"password": "hunter2", "username": ""}'), ConfigError, "not a user's name"),
    ],
)
def test_what_a_secret_may_not_be(body: bytes, kind: type[AmbassadorError], wanted: str) -> None:
    with pytest.raises(kind) as raised:
        secretsmanager.read(body, SECRET)
    assert wanted in sentence(raised.value)


def test_who_asks_again_soon_has_been_refused() -> None:
    tried = Tried("v1", 100.0)
    assert tried.is_refused("v1", 219.0, 120.0)
    assert not tried.is_refused("v1", 220.0, 120.0)
    assert not tried.is_refused("v2", 101.0, 120.0)
    assert not tried.is_refused("v1", 100.0, 0.0)
