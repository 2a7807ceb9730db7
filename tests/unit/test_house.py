"""All pools and clients of one process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from msgspec.structs import replace

from pgambassador.auth.credential import Credential, Plain
from pgambassador.auth.peer import Peer
from pgambassador.auth.rules import LOGICAL
from pgambassador.cluster.upstream import Endpoint
from pgambassador.config import (
    Clients,
    Cluster,
    Config,
    Credentials,
    Database,
    InstalledCredentials,
    Pool,
    PoolOverrides,
    QueryLog,
    Secret,
    StaticCredentials,
    User,
)
from pgambassador.config.timeouts import TimeoutOverrides
from pgambassador.credentials.static import Static
from pgambassador.errors import Refused, Unreachable
from pgambassador.net.greeting import BASE
from pgambassador.net.house import House
from tests.loop import Loop
from tests.messages import (
    BIND_COMPLETE,
    IDLE,
    NO_DATA,
    PARSE_COMPLETE,
    SYNC,
    bind,
    complete,
    error,
    execute,
    extended,
    parse,
    query,
)
from tests.playbook import Client, Playbook, Server

HIDDEN = "hunter2"
CLUSTERS = {
    "main": Cluster(url=Secret("postgresql://app:secret@db.example/shop")),
    "open": Cluster(url=Secret("postgresql://open.example")),
}


class Records(list[tuple[Any, ...]]):
    """Stands in for the query log."""

    add = list.append


class Homes:
    def __init__(self) -> None:
        self.loop = Loop()
        self.made: list[House] = []

    def build(
        self,
        *,
        users: Mapping[str, Credential | None] | None = None,
        records: Records | None = None,
        users_limits: Mapping[str, User] | None = None,
        **config: Any,
    ) -> House:
        settings = Config(
            **{"clusters": {"main": CLUSTERS["main"]}, "users": dict(users_limits or {}), **config}
        )
        log: Any = records
        self.made.append(self.loop.within(lambda: House(settings, users or {}, log)))
        return self.made[-1]


@pytest.fixture
def homes() -> Iterator[Homes]:
    subject = Homes()
    yield subject
    for each in subject.made:
        if hasattr(each.sockets, "close"):
            each.sockets.close()


def test_one_pool_for_each_cluster_database_and_user(homes: Homes) -> None:
    house = homes.build(
        clusters=CLUSTERS,
        databases={
            "shop": Database(cluster="main"),
            "store": Database(cluster="main", database="shop"),
            "stock": Database(cluster="main"),
            "any": Database(cluster="open"),
        },
    )
    shop = house.keeper("shop", "a")
    # The URL says as whom: all clients share the pool.
    assert house.keeper("shop", "b") is shop
    assert house.keeper("store", "a") is shop
    assert house.keeper("stock", "a") is not shop
    # It does not: each client logs in as itself.
    assert house.keeper("any", "a") is not house.keeper("any", "b")
    assert set(house.keepers) == {
        ("main", "shop", "app", ()),
        ("main", "stock", "app", ()),
        ("open", "any", "a", ()),
        ("open", "any", "b", ()),
    }
    # Whom the configuration does not know is no label.
    assert {(each.cluster, each.database, each.user): each.size for each in house.pools()} == {
        ("main", "shop", "app"): 20,
        ("main", "stock", "app"): 20,
        ("open", "any", "*"): 40,
    }


WILD = {"listed": Database(user="reader"), "*": Database(max_connections=3, pool=PoolOverrides(size=2))}


def test_what_is_not_listed(homes: Homes) -> None:
    house = homes.build(clusters={"open": CLUSTERS["open"]}, databases=WILD)
    keeper = house.keeper("tenant", "a")
    assert (keeper.database, keeper.user, keeper.lane.limit) == ("tenant", "a", 2)
    assert house.keeper("tenant2", "a") is not keeper
    assert house.keeper("listed", "a") is house.keeper("listed", "b")
    assert house.keeper("listed", "a").user == "reader"
    assert house.ways.replication("listed", "a", {}, LOGICAL).user == "reader"


def test_the_databases_user_wins_over_that_of_the_url(homes: Homes) -> None:
    users = {"reader": Plain(b"theirs"), "verifier": None}
    house = homes.build(databases={"shop": Database(user="reader"), "*": Database()}, users=users)
    assert (house.keeper("shop", "a").user, house.keeper("any", "a").user) == ("reader", "app")
    # And the URL's password is nobody else's.
    keyring = house.ways.keyrings["main"]
    assert read(homes, keyring.attempt("reader", "shop")) == b"theirs"
    assert read(homes, keyring.attempt("verifier", "shop")) is None
    house.porter.wallet.put("main", "other", b"brought")
    assert read(homes, keyring.attempt("other", "shop")) is None


def test_a_databases_user_gets_no_secret_of_another(homes: Homes) -> None:
    house = homes.build(databases={"shop": Database(user="reader"), "*": Database()})
    only = {name: house.keeper(name, "a").upstream for name in ("shop", "any")}
    assert [getattr(each, "only", None) for each in only.values()] == [True, False]


def test_pools_that_share_limits(homes: Homes) -> None:
    house = homes.build(
        clusters={"open": replace(CLUSTERS["open"], max_connections=9)},
        databases={**WILD, "alias": Database(database="listed")},
        users_limits={"reader": User(max_connections=5), "*": User(max_connections=4)},
    )

    def caps(database: str, user: str) -> list[tuple[str, int]]:
        lease = house.keeper(database, user).lease
        assert lease is not None
        return [(cap.option, cap.most) for cap in lease.caps]

    every = ("clusters.open.max_connections", 9)
    wild = ('databases."*".max_connections', 3)
    assert caps("t1", "a") == [every, wild, ('users."*".max_connections', 4)]
    assert caps("listed", "a") == [every, ("users.reader.max_connections", 5)]
    one, two, three, four = (
        house.keeper(*each).lease for each in (("t1", "a"), ("t1", "b"), ("t2", "a"), ("t2", "b"))
    )
    assert one and two and three and four
    assert one.caps[1] is two.caps[1] is not three.caps[1]
    assert one.caps[2] is three.caps[2] is not two.caps[2]
    assert len({id(each.caps[0]) for each in (one, two, three, four)}) == 1


def test_pools_that_clients_make_by_start_parameters_share_the_size_of_one(homes: Homes) -> None:
    house = homes.build(clusters={"open": CLUSTERS["open"]}, databases=WILD)
    assert house.keeper("listed", "a").lease is None, "no limit for everybody else"
    found = [house.keeper("t1", "a", (("post_auth_delay", each),)).lease for each in "012"]
    other = house.keeper("t1", "b", (("post_auth_delay", "0"),)).lease
    assert all(found)
    assert {id(lease.caps[-1]) for lease in found if lease} == {
        id(house.limits._caps["given", "open", "t1", "a"])
    }
    assert found[0] and other
    assert found[0].caps[-1] is not other.caps[-1]
    assert (found[0].caps[-1].option, found[0].caps[-1].most) == ("pool.size", 2)


def test_names_that_come_from_clients_leave_nothing_behind(homes: Homes) -> None:
    house = homes.build(
        clusters={"open": replace(CLUSTERS["open"], max_connections=9)},
        databases=WILD,
        users_limits={"*": User(max_connections=4)},
    )
    for number in range(1000):
        keeper = house.keeper(f"tenant{number}", f"user{number}")
        keeper.connects += 1
    assert len(house.keepers) == 1000
    assert [(each.database, each.user, each.connects, each.size) for each in house.pools()] == [
        ("*", "*", 1000, 2000)
    ]
    house.prune()
    assert house.keepers == {}
    assert [(each.connects, each.size) for each in house.pools()] == [(1000, 0)], "no counter goes back"
    assert len(house.limits._caps) == 0
    assert "0 pools" in repr(house.limits.commons["open"])


def test_where_a_client_lodges_follows_what_there_is(homes: Homes) -> None:
    house = homes.build(clusters={"open": CLUSTERS["open"]}, databases=WILD)
    keeper, allowance = house.lodging("t1", "alice", "app", ())
    assert keeper is house.keeper("t1", "app") is not house.lodging("t1", "alice", "alice", ())[0]
    assert house.lodging("t1", "alice", "app", ()) == (keeper, allowance)
    house.prune()
    assert house.lodging("t1", "alice", "app", ())[0] is house.keeper("t1", "app") is not keeper
    changed = replace(house.config, users={"alice": User(timeouts=TimeoutOverrides(statement=7.0))})
    homes.loop.within(lambda: house.reload(changed, {}, house.gate))
    assert house.lodging("t1", "alice", "app", ())[1].timeouts.statement == 7.0
    with pytest.raises(Refused):
        homes.build(databases={"shop": Database()}).lodging("t1", "alice", "app", ())


def test_what_pools_on_standbys_have_counted_stays(homes: Homes) -> None:
    limited = replace(CLUSTERS["open"], max_connections=9)
    house = homes.build(clusters={"open": limited}, databases=WILD)
    keeper = house.keeper("t1", "a")
    for place in "bc":
        branch: Any = house.keeper("t1", place)  # any pool will do
        del house.keepers["open", "t1", place, ()]
        branch.connects = 3
        keeper.branches[Endpoint(place)] = branch
    assert [each.connects for each in house.pools()] == [6]
    house._forgotten(keeper, keeper.branches.pop(Endpoint("c")))
    assert [each.connects for each in house.pools()] == [6]
    house.prune()
    assert [(each.connects, each.size) for each in house.pools()] == [(6, 0)]
    assert "0 pools" in repr(house.limits.commons["open"])


def test_clients_of_a_kind_are_limited(homes: Homes) -> None:
    house = homes.build(
        databases={"shop": Database(max_clients=1), "*": Database(max_clients=2)},
        users_limits={"*": User(max_clients=2)},
        clients=Clients(max_per_address=2),
    )
    remote, here = Peer.at("10.0.0.1:1"), Peer.at("127.0.0.1:1")
    first = house.admit(remote)
    house.admit(remote)
    with pytest.raises(Refused, match=r"too many connections from 10\.0\.0\.1") as refused:
        house.admit(remote)
    assert (refused.value.sqlstate, refused.value.hint) == (
        "53300",
        "At most 2 are allowed (clients.max_per_address).",
    )
    stays = [house.admit(here) for _ in range(5)]
    house.lodge(stays[0], "shop", "a")
    with pytest.raises(Refused, match='too many connections for database "shop"'):
        house.lodge(stays[1], "shop", "b")
    house.lodge(stays[2], "other", "a")
    with pytest.raises(Refused, match='too many connections for role "a"'):
        house.lodge(stays[3], "third", "a")
    assert house.clients == 7
    for stay in (first, *stays):
        house.dismiss(stay)
    assert house.limits.census.counts == {("address", "10.0.0.1"): 1}
    assert house.rejected == {"too many from an address": 1, "too many of a database or user": 2}


@pytest.mark.parametrize("address", ["10.0.0.1:1", "127.0.0.1:1", "unix"])
@pytest.mark.parametrize("database", ["shop", "free", "other"])
@pytest.mark.parametrize("user", ["a", "b"])
@pytest.mark.parametrize("most", [None, 1])
@pytest.mark.parametrize("others", [{}, {"*": Database(max_clients=1)}, {"*": Database()}], ids=str)
def test_whom_a_limit_is_about(
    homes: Homes, address: str, database: str, user: str, most: int | None, others: dict[str, Database]
) -> None:
    house = homes.build(
        databases={"shop": Database(max_clients=1), "free": Database(), **others},
        users_limits={"a": User(max_clients=1)},
        clients=Clients(max_per_address=most),
    )
    peer = Peer.at(address)
    stays = []
    try:
        for _ in range(2):
            stays.append(house.admit(peer))
            house.lodge(stays[-1], database, user)
        refused = False
    except Refused:
        refused = True
    assert house.limits.about(peer, database, user) == refused
    for stay in stays:
        house.dismiss(stay)


def test_clusters_fail_apart(homes: Homes) -> None:
    house = homes.build(
        clusters=CLUSTERS, databases={"shop": Database(cluster="main"), "any": Database(cluster="open")}
    )
    house.keeper("shop", "a").last_error = Unreachable("it is down")
    house.keeper("any", "a")
    assert house.trouble() == {"main": "cluster main: it is down"}


def test_no_certificates_no_endings(homes: Homes) -> None:
    assert homes.build(clusters=CLUSTERS, databases={"any": Database(cluster="open")}).endings() == []


def test_a_pool_has_the_configuration_of_its_database(homes: Homes) -> None:
    house = homes.build(pool=Pool(size=7, mode="session"), clients=Clients(buffer=4096))
    keeper = house.keeper("shop", "a")
    assert (keeper.lane.limit, keeper.lane.sticky, keeper.lane.high_water) == (7, True, 4096)


def test_a_database_that_is_not_served(homes: Homes) -> None:
    house = homes.build(databases={"shop": Database()})
    with pytest.raises(Refused) as refused:
        house.keeper("x" * 1000, "a")
    assert refused.value.sqlstate == "3D000"
    assert len(refused.value.message) < 120


@pytest.mark.parametrize(
    ("credential", "password"), [(Plain(b"theirs"), b"theirs"), (None, None)], ids=["plain", "none"]
)
def test_a_client_may_bring_the_password(
    homes: Homes, credential: Credential | None, password: bytes | None
) -> None:
    house = homes.build(
        clusters={"open": CLUSTERS["open"]}, users={} if credential is None else {"a": credential}
    )
    upstream: Any = house.keeper("shop", "a").upstream
    attempt = upstream.keyring.attempt("a", "shop")
    assert read(homes, attempt) == password


def read(homes: Homes, attempt: Any) -> bytes | None:
    password: bytes | None = homes.loop.complete(attempt.issued("open.example", 5432)).secret.password
    return password


def test_the_password_of_the_url_wins(homes: Homes) -> None:
    house = homes.build(users={"a": Plain(b"theirs")})
    assert read(homes, house.ways.keyrings["main"].attempt("app", "shop")) == b"secret"


def test_who_has_the_name_of_the_url_gives_no_password(homes: Homes) -> None:
    clusters = {"main": Cluster(url=Secret("postgresql://app@db.example/shop"))}
    house = homes.build(clusters=clusters, users={"app": Plain(b"theirs")})
    assert read(homes, house.ways.keyrings["main"].attempt("app", "shop")) is None


@pytest.mark.parametrize(
    "credentials",
    [
        None,
        StaticCredentials(password=Secret(HIDDEN)),
        InstalledCredentials(name="vault", options={"token": HIDDEN}),
    ],
)
def test_no_repr_shows_a_secret(
    homes: Homes, credentials: Credentials | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgambassador.credentials.registry._other", lambda _: Static(_static()))
    cluster = Cluster(url=Secret(f"postgresql://app:{HIDDEN}@db.example/shop"), credentials=credentials)
    users = {"a": Plain(HIDDEN.encode())}
    house = homes.build(clusters={"main": cluster}, users=users)
    keeper: Any = house.keeper("shop", "a")
    origin = keeper.upstream
    attempt = origin.keyring.attempt("app", "shop")
    issued = homes.loop.complete(attempt.issued("db.example", 5432))
    assert issued.secret.password == HIDDEN.encode()
    told = [house, house.config, cluster, cluster.credentials, cluster.upstream(), keeper, origin, attempt]
    told += [origin.keyring, origin.keyring.__dict__, issued, issued.secret, origin.__dict__]
    for each in told:
        assert HIDDEN not in f"{each!r} {each!s}"


def _static() -> StaticCredentials:
    return StaticCredentials(password=Secret(HIDDEN))


def test_one_keyring_for_each_cluster(homes: Homes) -> None:
    house = homes.build(
        clusters=CLUSTERS,
        databases={"shop": Database(cluster="main"), "any": Database(cluster="open")},
    )
    pools: list[Any] = [house.keeper("shop", "a").upstream, house.keeper("any", "a").upstream]
    pools += [house.keeper("any", "b").upstream, house.ways.replication("shop", "a", {}, LOGICAL)]
    assert [pool.keyring.cluster for pool in pools] == ["main", "open", "open", "main"]
    assert pools[1].keyring is pools[2].keyring
    assert pools[0].keyring is pools[3].keyring
    assert house.credentials() == [house.ways.keyrings["main"], house.ways.keyrings["open"]]


class Guest:
    left = False

    def make_room(self) -> None:
        self.left = True


def test_who_stands_at_the_door_is_counted(homes: Homes) -> None:
    house = homes.build(clients=Clients(max=3000))

    def come(address: str, number: int) -> list[Any]:
        guests: list[Any] = [Guest() for _ in range(number)]
        for guest in guests:
            house.arrive(guest, Peer.at(address))
        return guests

    remote = come("10.0.0.1:1", 301)
    assert [guest.left for guest in remote] == [True] + [False] * 300
    (other,) = come("10.0.0.2:1", 1)
    assert house.rejected == {"too many logins": 1}
    here = come("127.0.0.1:1", 2699)
    assert len(house.doorway) == 3000 == house.doorway.most
    assert not any(guest.left for guest in here)
    come("10.0.0.3:1", 1)
    assert here[0].left and not here[1].left and not other.left  # of the place that has most
    house.doorway.leave(other)
    come("10.0.0.3:1", 1)
    assert not here[1].left


def test_what_a_client_brought_opens_a_server(homes: Homes) -> None:
    house = homes.build(clusters={"open": CLUSTERS["open"]}, users={"listed": Plain(b"theirs")})
    keyring = house.ways.keyrings["open"]
    assert read(homes, keyring.attempt("a", "shop")) is None
    house.porter.wallet.put("open", "a", b"brought")
    assert read(homes, keyring.attempt("a", "shop")) == b"brought"
    house.porter.wallet.put("open", "listed", b"of yesterday")
    assert read(homes, keyring.attempt("listed", "shop")) == b"theirs"


def test_clients_are_counted_and_limited(homes: Homes) -> None:
    house = homes.build(clients=Clients(max=2))
    first = house.admit()
    house.admit()
    with pytest.raises(Refused) as refused:
        house.admit()
    assert (refused.value.sqlstate, house.clients) == ("53300", 2)
    assert "2" in (refused.value.hint or "")
    house.dismiss(first)
    house.admit()
    assert house.rejected == {"too many clients": 1}


def test_nobody_comes_in_while_it_drains(homes: Homes) -> None:
    house = homes.build()
    emptied: list[bool] = []
    house.on_empty = lambda: emptied.append(True)
    stay = house.admit()
    house.draining = True
    with pytest.raises(Refused) as refused:
        house.admit()
    assert refused.value.sqlstate == "57P03"
    assert emptied == []
    house.dismiss(stay)
    assert emptied == [True]


# The query log.


def joined(homes: Homes, house: House) -> tuple[Client, Server]:
    keeper = house.keeper("shop", "a")
    play = Playbook(policy=keeper, lane=keeper.lane, loop=homes.loop)
    house.admit()
    return play.client(BASE), play.server(BASE)


def test_what_is_recorded_of_a_statement(homes: Homes) -> None:
    records = Records()
    house = homes.build(records=records, query_log=QueryLog(slow=0.0))
    client, server = joined(homes, house)
    client.sends(query("select 1"))
    server.answers(query("select 1"), complete("SELECT 1"), IDLE)
    client.gets(complete("SELECT 1"), IDLE)
    client.sends(extended(b"select 2"), SYNC)
    server.answers(
        (extended(b"select 2"), SYNC), PARSE_COMPLETE, BIND_COMPLETE, NO_DATA, error("42703"), IDLE
    )
    client.read_all()
    client.sends(parse(b"s", b"select 3"), bind(b"s"), execute(), SYNC)
    server.read_all()
    server.sends(PARSE_COMPLETE, BIND_COMPLETE, complete("SELECT 3"), IDLE)
    client.read_all()
    assert [each[5] for each in records] == [b"select 1", b"select 2", b"select 3"]
    at, address, database, user, application, _, seconds, waited, rows, *more = records[0]
    link, sqlstate, route, why, batched = more[2:]
    assert at > 1.7e9
    assert (address, database, user, application) == ("client", "shop", "app", "")
    assert (waited, rows, sqlstate) == (0, 1, "")
    assert (route, why, batched) == ("", "", False)
    assert 0 <= seconds < 10
    assert link == server.backend.link.address
    assert records[1][12] == "42703"
    client.leaves()
    assert (house.clients, len(house.keys)) == (0, 0)
    server.backend.close("")
    for each in (client, server):
        each.clean_up()


def test_failures_are_left_out_when_they_are_not_wanted(homes: Homes) -> None:
    records = Records()
    house = homes.build(records=records, query_log=QueryLog(slow=None, errors=False))
    client, server = joined(homes, house)
    client.sends(query("selekt"))
    server.answers(query("selekt"), error(), IDLE)
    client.gets(error(), IDLE)
    assert records == []
    client.leaves()
    server.backend.close("")
    for each in (client, server):
        each.clean_up()
