"""One ambassador for each module, with a pool of one, a pool of three and a pool by session.

The same programmes run on the server itself: what they expect is what PostgreSQL does.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import psycopg
import pytest

from pgambassador.embedded import Postgres
from tests.drivers.places import Place
from tests.harness import USERS, Ambassador

APP, PLAIN = USERS["app"], USERS["app_plain"]
POOLS = {
    "one": {"mode": "transaction", "size": 1, "wait_timeout": "5s"},
    "three": {"mode": "transaction", "size": 3, "wait_timeout": "5s"},
    "session": {"mode": "session", "size": 10, "wait_timeout": "5s"},
}
HASTY = {"mode": "transaction", "size": 1, "wait_timeout": "1s"}
"""Where somebody waits in vain if a test finds a bug."""
ALL = {**POOLS, "hasty": HASTY}


@pytest.fixture(scope="module")
def proxy(primary: Postgres, ambassadors: Callable[..., Ambassador]) -> Ambassador:
    """Clients show their password; each pool has a database name of its own."""
    url = primary.url(APP.name, APP.password, "app")
    return ambassadors(
        {
            "clusters": {name: {"url": url, "pool": pool} for name, pool in ALL.items()},
            "databases": {name: {"cluster": name, "database": "app"} for name in ALL},
        },
        auth={"method": "scram-sha-256", "users": {APP.name: APP.password}},
    )


@pytest.fixture(scope="module")
def places(primary: Postgres, proxy: Ambassador) -> dict[str, Place]:
    server = f"postgresql://{PLAIN.name}:{PLAIN.password}@127.0.0.1:{primary.port}/app"
    found = {"direct": Place(primary.port, PLAIN.name, PLAIN.password, "app", 1, server)}
    for name in ALL:
        found[name] = Place(proxy.port, APP.name, APP.password, name, 3 if name == "three" else 1, server)
    return found


@pytest.fixture(scope="module", params=["direct", *POOLS])
def place(request: pytest.FixtureRequest, places: dict[str, Place]) -> Place:
    return places[request.param]


@pytest.fixture
def table(place: Place) -> Iterator[str]:
    """Empty; made and dropped past the ambassador, so that it needs nothing of a pool that is used up."""
    name = f"d_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(place.server, autocommit=True, options="-c lock_timeout=10s") as connection:
        connection.execute(f"create table {name} (id int primary key, name text)")
        connection.execute(f"grant all on {name} to public")
        yield name
        connection.execute(f"drop table {name}")
