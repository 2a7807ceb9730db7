"""What may be configured for Google's providers, and the URL that goes with an instance."""

from __future__ import annotations

from typing import Any

import msgspec.inspect as mi
import pytest

from pgambassador.cluster.upstream import parse_url
from pgambassador.config.azure import AzureEntra
from pgambassador.config.build import build
from pgambassador.config.gcp import GcpAlloyDb, GcpCloudSqlIam, cloud_sql_instance
from pgambassador.errors import ConfigError

ALLOYDB = "projects/shop/locations/europe-west1/clusters/big/instances/first"


def made(kind: type, **written: Any) -> Any:
    return build(mi.type_info(kind), written, "credentials")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("shop:europe-west1:main", ("shop", "europe-west1", "main")),
        ("example.com:shop:europe-west1:main", ("example.com:shop", "europe-west1", "main")),
    ],
)
def test_names_of_cloud_sql_instances(text: str, parts: tuple[str, ...]) -> None:
    assert cloud_sql_instance(text) == parts
    GcpCloudSqlIam(instance=text).check()


@pytest.mark.parametrize(
    "text",
    ["", "main", "shop:main", "shop:eu:", "a:b:c:d:e", "shop:eu:ma/in", "shop:eu:../x", "Shop:eu:main"],
)
def test_names_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        GcpCloudSqlIam(instance=text).check()
    assert "PROJECT:REGION:INSTANCE" in (raised.value.hint or "")


@pytest.mark.parametrize(
    "text", ["", "shop:eu:main", f"{ALLOYDB}/", f"/{ALLOYDB}", ALLOYDB.replace("p", "a/b")]
)
def test_names_of_alloydb_instances(text: str) -> None:
    GcpAlloyDb(instance=ALLOYDB).check()
    with pytest.raises(ConfigError) as raised:
        GcpAlloyDb(instance=text).check()
    assert "projects/PROJECT" in (raised.value.hint or "")


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"password": "x"}, "credentials.password needs credentials.instance."),
        ({"ip_type": "psc"}, "credentials.ip_type needs credentials.instance."),
        ({"impersonate_delegates": ["a@b.c"]}, "credentials.impersonate_delegates needs"),
        ({"impersonate_service_account": "a"}, "A service account to impersonate cannot be 'a'."),
        ({"impersonate_service_account": "a@b/../c"}, "A service account to impersonate cannot be"),
        (
            {"impersonate_service_account": "a@b.c", "impersonate_delegates": ["x"]},
            "A service account to impersonate cannot be 'x'.",
        ),
    ],
)
def test_options_that_do_not_go_together(written: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        made(GcpCloudSqlIam, **written).check()
    assert raised.value.message.startswith(message)
    assert raised.value.hint


def test_every_option() -> None:
    both = {
        "ip_type": "private",
        "user": "app",
        "password": "hidden",
        "credentials_file": "/key.json",
        "impersonate_service_account": "a@shop.iam.gserviceaccount.com",
        "impersonate_delegates": ["b@shop.iam.gserviceaccount.com"],
        "timeout": "10s",
    }
    for kind, instance in ((GcpCloudSqlIam, "shop:eu:main"), (GcpAlloyDb, ALLOYDB)):
        options = made(kind, provider="x", instance=instance, **both)
        options.check()
        assert options.timeout == 10
        assert "hidden" not in repr(options)
    assert made(AzureEntra, client_id="id", timeout="1min").timeout == 60
    with pytest.raises(ConfigError, match=r"credentials\.instance is missing"):
        made(GcpAlloyDb)


def test_a_url_without_a_host() -> None:
    upstream = parse_url("postgresql://app@/shop?application_name=x", instance="shop:eu:main")
    assert str(upstream.endpoints[0]) == "shop:eu:main"
    assert (upstream.user, upstream.database) == ("app", "shop")
    assert upstream.checks_certificate
    assert upstream.weakness is None
    assert parse_url("postgresql:///?sslmode=verify-full", instance=ALLOYDB).endpoints[0].host == ALLOYDB


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "postgresql://db.example/shop",
            "The URL has a host, and credentials.instance says where to connect.",
        ),
        ("postgresql://:5432/shop", "The URL has a port,"),
        ("postgresql:///shop?hostaddr=10.0.0.1", "The URL has a hostaddr,"),
        ("postgresql:///shop?sslmode=require", "The URL's sslmode has no meaning"),
        ("postgresql:///shop?sslrootcert=/ca.pem", "The URL's sslrootcert has no meaning"),
        ("postgresql:///shop?channel_binding=require", "The URL's channel_binding has no meaning"),
    ],
)
def test_urls_that_say_too_much(url: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_url(url, instance="shop:eu:main")
    assert raised.value.message.startswith(message)
    assert raised.value.hint
