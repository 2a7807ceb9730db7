"""What tokens cost in memory where no library of AWS is needed: measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.endpoint import Endpoint, Reply

ROOT = Path(__file__).resolve().parents[2]
MOST = 10 << 20
FOREIGN = {"boto3", "botocore", "s3transfer", "urllib3", "requests", "dateutil", "jmespath"}

# Everything that an ambassador without the provider has loaded, then a token, then ten thousand more.
SCRIPT = """
import asyncio, json, os, sys
import pgambassador.process.service
from pgambassador.config import load
load(url="postgresql://app@localhost:1/app")

def rss():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE")

async def main():
    await asyncio.to_thread(len, "")  # a running one has threads
    before, known = rss(), set(sys.modules)
    from pgambassador.config.aws import AwsRdsIamCredentials
    from pgambassador.credentials.aws.rds import RdsIam
    from pgambassador.credentials.provider import Login
    provider = RdsIam(AwsRdsIamCredentials())
    login = Login("shop.cx1.eu-west-1.rds.amazonaws.com", 5432, "app", "shop")
    first = await provider.fetch(login)
    assert first.password.startswith(b"shop.cx1.eu-west-1.rds.amazonaws.com:5432/?Action=connect&")
    one = rss()
    for _ in range(2000):
        await provider.fetch(login)
    print(json.dumps({"one": one - before, "many": rss() - before, "new": sorted(set(sys.modules) - known),
                      "all": sorted(sys.modules)}))

asyncio.run(main())
"""


@pytest.mark.parametrize("source", ["environment", "container"])
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="there is no /proc to measure with")
def test_a_token_takes_little_memory(source: str) -> None:
    with Endpoint(lambda request: Reply(body=KEYS)) as there:
        variables = {
            "environment": {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "hunter2"},
            "container": {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{there.url}/v1/credentials"},
        }[source]
        files = {"AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent"}
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            cwd=ROOT,
            env=variables | files,
            capture_output=True,
            text=True,
            timeout=50,
        )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert len(there.requests) == (source == "container")
    loaded = {name.partition(".")[0] for name in found["all"]}
    assert not FOREIGN & loaded
    assert "pgambassador.credentials.aws.rds" in found["new"]
    assert "pgambassador.credentials.aws.profiles" in found["new"]
    print(f"{source}: {found['one'] / 1e6:.1f} MB for one token, {found['many'] / 1e6:.1f} MB for 2001")
    assert found["one"] <= MOST
    assert found["many"] <= MOST


KEYS = json.dumps(
    {
        "AccessKeyId": "ASIAEXAMPLE",
        "SecretAccessKey": "hunter2",
        "Token": "hunter3",
        "Expiration": "2999-01-01T00:00:00Z",
    }
).encode()


def test_without_the_provider_nothing_of_it_is_loaded() -> None:
    script = (
        "import sys, pgambassador.cli, pgambassador.process.service as _;"
        "print([name for name in sys.modules if 'credentials.aws' in name or 'boto' in name])"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert run.stdout == "[]\n", run.stderr
