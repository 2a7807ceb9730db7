"""The configuration: every source, every mistake, and the files in config/ that must stay true."""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
import threading
from base64 import b64encode
from pathlib import Path

import msgspec.inspect as mi
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgambassador.config import (
    Config,
    ExecCredentials,
    Pool,
    Secret,
    StaticCredentials,
    load,
    redact,
    schema,
    warnings,
)
from pgambassador.config.address import Address, parse_listen
from pgambassador.config.build import paths
from pgambassador.config.file import read_text
from pgambassador.config.providers import OURS
from pgambassador.config.store import parse_store
from pgambassador.config.values import octets, seconds
from pgambassador.errors import ConfigError

CONFIG = Path(__file__).parents[2] / "config"
HIDDEN = "hunter2"
URL = f"postgresql://app:{HIDDEN}@db.example/shop"
MAIN = f"clusters: {{main: {{url: '{URL}'}}}}\n"


@pytest.fixture
def read(tmp_path):
    def read(text="", **sources) -> Config:
        file = tmp_path / "pgambassador.yaml"
        file.write_text(text, "utf-8")
        return load(path=str(file), **sources)

    return read


def complaint(read, text="", **sources) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text, **sources)
    said = caught.value.sentence()
    assert HIDDEN not in said
    assert caught.value.__cause__ is None  # or a traceback would show the value
    assert "\n" not in said
    return said


def test_a_url_alone_is_enough():
    config = load(url=URL)
    assert config.clusters["main"].url.reveal() == URL
    assert config.pool == Pool()
    assert config.addresses() == (Address("127.0.0.1", 5432),)
    assert config.http_address() == Address("127.0.0.1", 9187)


def test_nothing_at_all_says_what_to_give():
    with pytest.raises(ConfigError, match="There is no PostgreSQL to connect to"):
        load()


def test_empty_sections_are_defaults(read):
    assert read(MAIN + "pool:\nauth:\nquery_log:\n") == load(url=URL)


def test_flag_over_environment_over_file_over_default(read):
    text = MAIN + "pool: {size: 2, min_size: 1, statements: 7}"
    environ = {"PGAMBASSADOR_POOL__SIZE": "3", "PGAMBASSADOR_POOL__STATEMENTS": "8"}
    pool = read(text, environ=environ, flags={"pool.size": 4}).pool
    assert (pool.size, pool.statements, pool.min_size, pool.mode) == (4, 8, 1, "transaction")


def test_the_url_of_the_command_line_replaces_that_of_the_file(read):
    text = "clusters: {shop: {url: postgresql://other/x, pool: {size: 3}}}"
    config = read(text, url=URL, environ={"UPSTREAM_HOST": "ignored"})
    assert config.clusters["shop"].url.reveal() == URL
    assert config.target("any").pool.size == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pool: {siez: 3}", "pool.siez is not an option. Did you mean pool.size?"),
        ("size: 3", "size is not an option. Did you mean pool.size?"),
        ("zzz: 3", "zzz is not an option. Known here: auth, breaker, clients,"),
        (
            "databases: {a: {clusster: main}}",
            "databases.a.clusster is not an option. Did you mean databases.a.cluster?",
        ),
        ("pool: {size: twenty}", "pool.size must be a whole number from 1 to 10000, not 'twenty'."),
        ("pool: {size: 0}", "pool.size must be a whole number from 1 to 10000, not 0."),
        ("pool: {size: '5'}", "pool.size must be a whole number from 1 to 10000, not '5'."),
        ("pool: {size: true}", "pool.size must be a whole number from 1 to 10000, not true."),
        ("pool: {statements: 0}", "pool.statements must be a whole number from 1 to 100000, not 0."),
        ("databases: {a: {pool: {statements: 0}}}", "statements must be a whole number from 1 to 100000"),
        ("pool: {mode: statement}", "pool.mode must be one of session, transaction, not 'statement'."),
        ("pool: {wait_timeout: 0}", "pool.wait_timeout must be a duration such as 250ms"),
        ("pool: {wait_timeout: 5 parsecs}", "above zero or off, not '5 parsecs'."),
        ("pool: [1]", "pool must be a mapping (name: value), not a list."),
        ("pool: {min_size: 21}", "pool.min_size is 21, more than pool.size, which is 20."),
        ("databases: {a: {pool: {min_size: 21}}}", "databases.a.pool.min_size is 21"),
        (
            "failover: {opening_rate: 0}",
            "failover.opening_rate must be a number above 0 and at most 100000, not 0.",
        ),
        ("breaker: {share: -0.5}", "breaker.share must be a number above 0 and at most 1, not -0.5."),
        ("query_log: {sample: 2}", "query_log.sample must be a number from 0 to 1, not 2."),
        ("query_log: {sample: .nan}", "query_log.sample must be a number from 0 to 1, not '.nan'."),
        ("query_log: {literals: maybe}", "query_log.literals must be true or false, not 'maybe'."),
        (
            "clients: {buffer: 5 apples}",
            "clients.buffer must be a size such as 64KiB or 1MiB, not '5 apples'.",
        ),
        ("tls: {mode: maybe}", "tls.mode must be one of allow, off, require, verify-ca, not 'maybe'."),
        ("tls: {mode: require}", "tls.mode is require, but there is no certificate."),
        ("tls: {key: k}", "tls.key is set, but there is no certificate."),
        ("tls: {mode: off, ca: k}", "tls.ca is set, but there is no certificate."),
        ("tls: {certificate: c, mode: verify-ca}", "tls.mode is verify-ca, but no CA is named"),
        ("tls: {certificate: c, min_version: TLSv1.1}", "must be one of TLSv1.2, TLSv1.3, not 'TLSv1.1'"),
        ("http: '9187'", "http must be HOST:PORT, not '9187'."),
        ("listen: []", "listen must not be empty."),
        ("listen: {a: b}", "listen must be a list, not a mapping."),
        ("listen: ['*:5432']", "For every interface write 0.0.0.0:5432"),
        ("listen: ['::1:5432']", "An IPv6 address goes into brackets"),
        ("listen: ['127.0.0.1:99999']", "listen must be HOST:PORT"),
        ("listen: ['unix:run']", "listen must be unix: and an absolute directory"),
        (f"listen: ['unix:/{'x' * 120}']", "too long for the operating system"),
        ("listen: ['[::1]:5', '[::1]:5']", "listen names [::1]:5 twice"),
        ("http: 127.0.0.1:5432", "http and listen both name 127.0.0.1:5432"),
        ("databases: {a: {cluster: mian}}", "names 'mian', which is not a cluster. Did you mean main?"),
        ("databases: {7: {}}", "databases has a name that is not text: 7."),
        ("auth: {users: {a: 12345}}", "auth.users.a must be text, not a number (put it into quotes)."),
        ("auth: {users: hunter2}", "auth.users must be a mapping (name: value), not text."),
        ("auth: {users: [hunter2]}", "auth.users must be a mapping (name: value), not a list."),
        ("auth: {method: md5}", "auth.method is md5, but there are no users."),
        ("auth: {users: {a: ''}}", "The secret of user 'a' is empty"),
        (f"auth: {{users: {{a: md5{'0' * 32}}}}}", "is an md5 hash, which scram-sha-256 cannot use"),
        ("auth: {method: md5, users: {a: SCRAM-SHA-256$x}}", "is a SCRAM verifier, which md5 cannot use"),
        ("auth: {users_file: /nonexistent}", "auth.users_file /nonexistent cannot be read: No such file"),
        ("listen: ['0.0.0.0:5432']", "0.0.0.0:5432 can be reached from other machines"),
        ("listen: ['[::]:5432']", "[::]:5432 can be reached from other machines"),
        (
            "listen: ['db:5432']\nauth: {method: trust, users: {a: b}}",
            "db:5432 can be reached from other machines",
        ),
        ("x: *hunter2", "is not valid YAML in line 2, column 4: found undefined alias."),
        ("x: !hunter2 y", "is not valid YAML in line 2, column 4"),
        ("pool: {size: 1, size: 2}", "line 2, column 17: a name stands here twice."),
        ("? [a]\n: b", "a name must be text"),
        ("pool: {size: 1", "is not valid YAML"),
        ("\x00", "is not valid YAML"),
        ("- a", "is not valid YAML"),
    ],
)
def test_mistakes_are_one_sentence_with_their_path(read, text, said):
    assert said in complaint(read, MAIN + text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"clusters: {{main: '{URL}'}}", "clusters.main must be a mapping (name: value), not text."),
        (f"clusters: {{main: {{url: ['{URL}']}}}}", "clusters.main.url must be text, not a list."),
        ("clusters: {main: {}}", "clusters.main.url is missing."),
        (f"clusters: {{main: {{url: 'http://a:{HIDDEN}@h'}}}}", "clusters.main.url: "),
        (f"clusters: {{main: {{url: 'postgresql://a:{HIDDEN}@h:port/'}}}}", "clusters.main.url: "),
        (
            "clusters: {main: {url: x, credentials: {provider: exce}}}",
            f"provider must be one of {', '.join(OURS)}, not 'exce'",
        ),
        (
            "clusters: {main: {url: x, credentials: {provider: exec}}}",
            "clusters.main.credentials.command is missing.",
        ),
        (
            "clusters: {main: {url: x, credentials: {provider: exec, command: []}}}",
            "command must not be empty",
        ),
        (
            "clusters: {main: {url: x, credentials: {passwrod: hunter2}}}",
            "Did you mean clusters.main.credentials.password?",
        ),
        (f"clusters: {{a: {{url: '{URL}'}}, b: {{url: '{URL}'}}}}", "There are 2 clusters but no databases"),
        (
            f"clusters: {{a: {{url: '{URL}'}}, b: {{url: '{URL}'}}}}\ndatabases: {{x: {{}}}}",
            "databases.x.cluster is missing",
        ),
        ("clusters: {main: {url: 'postgresql://u@localhost/x'}}", "where pgambassador itself listens"),
        (
            "listen: ['unix:/run']\nclusters: {main: {url: 'postgresql:///x?host=/run'}}",
            "where pgambassador itself listens",
        ),
        ("just text", "must hold names and values"),
    ],
)
def test_mistakes_about_clusters(read, text, said):
    assert said in complaint(read, text)


def test_a_missing_file_is_fatal():
    with pytest.raises(ConfigError, match=r"/nonexistent\.yaml cannot be read: No such file or directory"):
        load(path="/nonexistent.yaml")


def test_a_pipe_is_read_while_somebody_writes_into_it(tmp_path):
    """As of a shell's <(…)."""
    reading, writing = os.pipe()
    try:
        text = "# more than a pipe holds\n" * 10_000 + f"clusters: {{x: {{url: '{URL}'}}}}"
        writer = threading.Thread(target=_write, args=(writing, text))
        writer.start()
        assert list(load(path=f"/dev/fd/{reading}").clusters) == ["x"]
        writer.join()
        with pytest.raises(ConfigError, match=f"/dev/fd/{reading} is a pipe out of which nothing comes"):
            load(path=f"/dev/fd/{reading}")
    finally:
        os.close(reading)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="pipe out of which nothing comes"):
        load(path=str(tmp_path / "pipe"))


def _write(pipe, text):
    with open(pipe, "w") as file:
        file.write(text)


def test_what_is_no_configuration_at_all():
    assert load(path="/dev/null", url=URL) == load(url=URL)
    with pytest.raises(ConfigError, match="/dev/zero is larger than 4 MiB"):
        load(path="/dev/zero")
    with pytest.raises(ConfigError, match="/dev cannot be read: Is a directory"):
        load(path="/dev")


def test_yaml_is_read_by_its_newer_rules():
    text = (
        "{a: off, b: no, c: 0777, d: 12:30, e: 2020-01-01, f: 1e-2, g: true, h: ~, i: -5, j: 1.5, k: y, l: }"
    )
    words = {"a": "off", "b": "no", "c": "0777", "d": "12:30", "e": "2020-01-01", "k": "y"}
    assert read_text(text, "f") == words | {"f": 0.01, "g": True, "h": None, "i": -5, "j": 1.5, "l": None}


def test_off(read):
    config = read(MAIN + "http: off\npool: {wait_timeout: off, idle_timeout: false}\nquery_log: {slow: off}")
    assert config.http_address() is None
    assert (config.pool.wait_timeout, config.pool.idle_timeout, config.query_log.slow) == (None, None, None)
    assert read(MAIN + "query_log: {slow: 0}").query_log.slow == 0.0


def test_environment_reaches_every_kind_of_option(read):
    environ = {
        "PGAMBASSADOR_LISTEN": "127.0.0.1:7000, unix:/run/x",
        "PGAMBASSADOR_CLUSTERS__DB_1__CREDENTIALS__PROVIDER": "exec",
        "PGAMBASSADOR_CLUSTERS__DB_1__CREDENTIALS__COMMAND": "/bin/token --for 'a b'",
        "PGAMBASSADOR_CLUSTERS__DB_1__POOL__WAIT_NOTICE": "off",
        "PGAMBASSADOR_AUTH__USERS__ALICE": "12345",
        "PGAMBASSADOR_QUERY_LOG__SAMPLE": "1e-2",
        "PGAMBASSADOR_QUERY_LOG__ERRORS": "false",
        "PGAMBASSADOR_CLIENTS__BUFFER": "1MiB",
        "PGAMBASSADOR_HTTP": "off",
    }
    config = read(f"clusters: {{DB-1: {{url: '{URL}'}}}}", environ=environ)
    assert config.addresses() == (Address("127.0.0.1", 7000), Address("/run/x", 7000))
    assert config.clusters["DB-1"].credentials == ExecCredentials(command=("/bin/token", "--for", "a b"))
    assert config.target("any").pool.wait_notice is None
    assert config.auth.users == {"alice": Secret("12345")}
    assert (config.query_log.sample, config.query_log.errors) == (0.01, False)
    assert config.clients.buffer == 1 << 20


@pytest.mark.parametrize(
    ("text", "word", "mode"),
    [
        ("", "", "off"),
        ("tls: {certificate: c}", "", "allow"),
        ("tls: {certificate: c}", "true", "allow"),
        ("tls: {certificate: c, mode: off}", "on", "allow"),
        ("tls: {certificate: c, mode: require}", "TRUE", "require"),
        ("tls: {certificate: c, mode: require}", "false", "off"),
        ("tls: {certificate: c, mode: require}", "0", "off"),
        ("", "False", "off"),
    ],
)
def test_tls_enabled(read, text, word, mode):
    assert read(MAIN + text, environ={"TLS_ENABLED": word}).tls.effective_mode == mode
    with_url = read(text, url=URL, environ={"TLS_ENABLED": word})
    assert with_url.tls.effective_mode == mode


@pytest.mark.parametrize("text", ["", "tls: {mode: off}"])
def test_tls_enabled_needs_a_certificate(read, text):
    with pytest.raises(ConfigError, match="TLS_ENABLED is true, but there is no certificate"):
        read(MAIN + text, environ={"TLS_ENABLED": "true"})
    environ = {"TLS_ENABLED": "1", "PGAMBASSADOR_TLS__CERTIFICATE": "c", "PGAMBASSADOR_TLS__MODE": "require"}
    assert read(MAIN + text, environ=environ).tls.effective_mode == "require"


def test_tls_enabled_is_true_or_false(read):
    with pytest.raises(ConfigError, match="TLS_ENABLED must be true or false, not 'maybe'"):
        read(MAIN, environ={"TLS_ENABLED": "maybe"})


def test_static_is_the_provider_that_need_not_be_named():
    environ = {"UPSTREAM_HOST": "db", "PGAMBASSADOR_CLUSTERS__MAIN__CREDENTIALS__PASSWORD": "007"}
    assert load(environ=environ).clusters["main"].credentials == StaticCredentials(password=Secret("007"))


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        (
            "PGAMBASSADOR_POOL_SIZE",
            "5",
            "PGAMBASSADOR_POOL_SIZE is not an option. Did you mean PGAMBASSADOR_POOL__SIZE?",
        ),
        (
            "PGAMBASSADOR_POOL__SIZE",
            "many",
            "PGAMBASSADOR_POOL__SIZE must be a whole number from 1 to 10000, not 'many'.",
        ),
        (
            "PGAMBASSADOR_POOL__SIZE",
            "",
            "PGAMBASSADOR_POOL__SIZE must be a whole number from 1 to 10000, not empty.",
        ),
        (
            "PGAMBASSADOR_POOL__MODE",
            "x",
            "PGAMBASSADOR_POOL__MODE must be one of session, transaction, not 'x'.",
        ),
        ("PGAMBASSADOR_LISTEN", "127.0.0.1", "listen must be HOST:PORT"),
        ("PGAMBASSADOR_CLUSTERS____URL", HIDDEN, "PGAMBASSADOR_CLUSTERS____URL is not an option"),
        ("PGAMBASSADOR_CLUSTERS__MAIN__CREDENTIALS__COMMAND", "'", "has a quotation mark that is not closed"),
        ("UPSTREAM_PORT", HIDDEN[:3], "UPSTREAM_PORT must be a port number from 1 to 65535, not 'hun'."),
    ],
)
def test_mistakes_in_the_environment_name_the_variable(read, variable, value, said):
    environ = {variable: value, "PGAMBASSADOR_CLUSTERS__MAIN__CREDENTIALS__PROVIDER": "exec"}
    environ.setdefault("PGAMBASSADOR_CLUSTERS__MAIN__CREDENTIALS__COMMAND", "x")
    assert said in complaint(read, MAIN, environ=environ)


@pytest.mark.parametrize(
    ("routing", "said"),
    [
        (
            "{rules: [{fingerprint: [50FDE20626009aba, 50fde2], route: primary}]}",
            "clusters.main.routing.rules[0].fingerprint must be 16 hexadecimal digits, or all, not '50fde2'.",
        ),
        ("{cache: {rules: [{fingerprint: x, ttl: 1s}]}}", "routing.cache.rules[0].fingerprint must be"),
    ],
)
def test_what_would_never_match_a_statement(read, routing, said):
    assert said in complaint(read, f"clusters: {{main: {{url: '{URL}', routing: {routing}}}}}")


def test_fingerprints_of_rates(read):
    said = complaint(read, MAIN + "limits: {rates: [{fingerprint: select, rate: 1}]}")
    assert "limits.rates[0].fingerprint must be" in said


@pytest.mark.parametrize(
    ("routing", "warned"),
    [
        (
            "{weights: {a: 0}}",
            ["clusters.main.routing.weights.a is for no server: the URL has a:5432, b:5433"],
        ),
        ("{zones: {'a:5433': x}}", ["clusters.main.routing.zones.a:5433 is for no server"]),
        ("{weights: {'a:5432': 0}, zones: {'b:5433': x}}", []),
        ("{discovery: {by: dns}, weights: {'10.0.0.7:5432': 0.5}}", []),
    ],
)
def test_weights_of_no_server_are_warned_about(read, routing, warned):
    config = read(f"clusters: {{main: {{url: 'postgresql://app@a,b:5433/shop', routing: {routing}}}}}")
    found = warnings(config)
    assert len(found) == len(warned)
    assert all(said in line for said, line in zip(warned, found, strict=True))


def test_what_kubernetes_and_others_set_is_left_alone():
    environ = dict.fromkeys(
        [
            "PGAMBASSADOR_PORT",
            "PGAMBASSADOR_SERVICE_HOST",
            "PGAMBASSADOR_SERVICE_PORT_PG",
            "PGAMBASSADOR_DEBUG",
        ],
        "x",
    )
    environ |= {"PGAMBASSADOR_PORT_5432_TCP_ADDR": "10.0.0.1", "PGAMBASSADOR_PG_BIN": "/usr", "POOL": "x"}
    assert load(url=URL, environ=environ) == load(url=URL)


@pytest.mark.parametrize(
    ("url", "environ", "result"),
    [
        (None, {"UPSTREAM_HOST": "h"}, "postgresql://h/"),
        (None, {"UPSTREAM_HOST": "h:7,g"}, "postgresql://h:7,g/"),
        (None, {"UPSTREAM_HOST": "fe80::1", "UPSTREAM_PORT": "7"}, "postgresql://[fe80::1]:7/"),
        (None, {"UPSTREAM_HOST": "[::2]:8"}, "postgresql://[::2]:8/"),
        (None, {"UPSTREAM_HOST": "/run/pg"}, "postgresql://%2Frun%2Fpg/"),
        (
            "postgresql://a:p@h:1,g:2/d?host=x&sslmode=require",
            {"UPSTREAM_HOST": "n"},
            "postgresql://a:p@n/d?sslmode=require",
        ),
        ("postgresql://a:p@h:1,g:2/d", {"UPSTREAM_PORT": "9"}, "postgresql://a:p@h:9,g:9/d"),
        ("postgresql://h/d?port=3", {"UPSTREAM_HOST": "n"}, "postgresql://n/d"),
    ],
)
def test_short_names_give_the_address(read, url, environ, result):
    config = read(f"clusters: {{main: {{url: '{url}'}}}}" if url else "", environ=environ)
    assert config.clusters["main"].url.reveal() == result


def test_short_names_need_one_cluster(read):
    two = f"clusters: {{a: {{url: '{URL}'}}, b: {{url: '{URL}'}}}}\ndatabases: {{x: {{cluster: a}}}}"
    assert "cannot be told to one of 2 clusters" in complaint(read, two, environ={"UPSTREAM_HOST": "h"})
    assert "cannot be told to one of 2 clusters" in complaint(read, two, url=URL)
    assert "no host" in complaint(read, "", environ={"UPSTREAM_PORT": "5"})


@pytest.mark.parametrize(
    ("hosts", "routing", "splits"),
    [
        ("a", "{}", False),
        ("a,b", "{}", True),
        ("a,b", "{reads: primary}", False),
        ("a", "{discovery: {by: hosts}}", False),
        ("a", "{discovery: {by: dns}}", True),
        ("a", "{discovery: {by: patroni, urls: ['https://a:8008']}}", True),
        ("a", "{reads: primary, discovery: {by: dns}}", False),
    ],
)
def test_whose_reads_go_to_other_servers(read, hosts, routing, splits):
    text = f"clusters: {{main: {{url: 'postgresql://{hosts}/d', routing: {routing}}}}}"
    assert read(text).clusters["main"].splits is splits
    assert not read(text.replace("/d", "/d?target_session_attrs=any")).clusters["main"].splits


def test_where_a_database_name_leads(read):
    two = f"""
pool: {{size: 5, min_size: 1}}
clusters: {{a: {{url: '{URL}', pool: {{size: 6, wait_timeout: off}}}}, b: {{url: '{URL}'}}}}
databases: {{x: {{cluster: a, database: y, pool: {{min_size: 2}}}}, z: {{cluster: b}}}}"""
    config = read(two)
    target = config.target("x")
    assert (target.cluster, target.database) == ("a", "y")
    assert (target.pool.size, target.pool.min_size, target.pool.wait_timeout) == (6, 2, None)
    assert config.target("z").pool == config.pool
    assert config.target("other") is None
    target = load(url=URL).target("any")
    assert target is not None and target.database == "any"


def test_unix_sockets_share_the_port_of_the_first_tcp_address():
    assert parse_listen(("unix:/run/a/", "[::1]:6000", "127.0.0.1:7000"))[0].path == "/run/a/.s.PGSQL.6000"
    assert parse_listen(("unix:/run",))[0].path == "/run/.s.PGSQL.5432"
    local = [
        address.is_local
        for address in parse_listen(("127.8.8.8:1", "localhost:1", "unix:/x", "[::1]:1", "10.0.0.1:1"))
    ]
    assert local == [True, True, True, True, False]


def test_users_of_the_file_and_of_the_configuration(read, tmp_path):
    file = tmp_path / "users.txt"
    file.write_text('; comment\n\n"alice" "one"\n"b""ob" "tw""o" ignored\n"carol" "SCRAM-SHA-256$x"\n')
    config = read(MAIN + f"listen: ['0.0.0.0:5432']\nauth: {{users_file: {file}, users: {{alice: two}}}}")
    from pgambassador.config import read_users

    assert {n: s.reveal() for n, s in read_users(config.auth).items()} == {
        "alice": "two",
        'b"ob': 'tw"o',
        "carol": "SCRAM-SHA-256$x",
    }
    assert config.auth.effective_method == "scram-sha-256"
    file.write_text(f'"alice" "one"\nbob {HIDDEN}\n')
    assert 'users.txt line 2 is not of the form "user" "secret"' in complaint(
        read, MAIN + f"auth: {{users_file: {file}}}"
    )


TLS = "tls: {certificate: /x/server.pem}\n"
RULES = "auth: {users: {a: b}, rules: [{address: local, method: trust}, "


@pytest.mark.parametrize(
    ("auth", "said"),
    [
        ("auth: {rules: {address: all}}", "auth.rules must be a list, not a mapping"),
        ("auth: {rules: []}", "auth.rules is empty, so that nobody could log in"),
        ("auth:\n  rules:\n  # - {method: reject}\n", "auth.rules is empty, so that nobody could log in"),
        ("auth: {rules: [trust]}", "auth.rules[0] must be a mapping (name: value), not text"),
        (RULES + "{address: all}]}", "auth.rules[1].method is missing"),
        (
            RULES + "{method: password}]}",
            "auth.rules[1].method must be one of cert, md5, peer, reject, ",
        ),
        (RULES + "{methud: trust}]}", "Did you mean auth.rules[1].method?"),
        (RULES + "{address: 10.0.0.1/8, method: md5}]}", "auth.rules[1].address[0] is '10.0.0.1/8'"),
        (RULES + "{address: [all, 7], method: md5}]}", "auth.rules[1].address[1] must be text, not 7"),
        (RULES + "{address: [], method: md5}]}", "auth.rules[1].address must not be empty"),
        (RULES + "{user: '', method: md5}]}", "auth.rules[1].user[0] must be text, not empty"),
        (RULES + "{tls: maybe, method: md5}]}", "auth.rules[1].tls must be true or false, not 'maybe'"),
        (RULES + "{method: peer}]}", "auth.rules[1].method is peer, which works on Unix sockets only"),
        (
            RULES + "{address: local, tls: true, method: trust}]}",
            "auth.rules[1] asks for TLS on Unix sockets",
        ),
        (RULES + "{method: cert}]}", "auth.rules[1].method is cert, and certificates come with TLS only"),
        (
            RULES + "{method: upstream}]}",
            "auth.rules[1].method is upstream: passwords would come over the net",
        ),
        (RULES + "{tls: true, method: md5}]}", "auth.rules[1].tls is true, but clients are not offered TLS"),
        (TLS + RULES + "{tls: true, method: cert}]}", "but no CA is named that clients' certificates could"),
        ("auth: {method: trust, rules: [{method: reject}]}", "auth.method and auth.rules are both set"),
        ("auth: {rules: [{method: md5}]}", "auth.rules[0].method is md5, but there are no users"),
        ("auth: {method: md5}", "auth.method is md5, but there are no users"),
        ("auth: {query: {cluster: min}}", "auth.query.cluster names 'min', which is not a cluster"),
        ("auth: {query: {statement: select 1}}", "auth.query.statement has no $1"),
        ("auth: {map: {a: [b]}}", "auth.map.a must be text, not a list"),
    ],
)
def test_mistakes_about_who_may_come(read, auth, said):
    assert said in complaint(read, MAIN + auth)


LONG = "ä" * 32
CUT = "ä" * 31


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("databases: {%s: {}}", f"databases.{LONG} has"),
        ("databases: {a: {database: %s}}", "databases.a.database has"),
        ("databases: {a: {user: %s}}", "databases.a.user has"),
        ("users: {%s: {max_clients: 1}}", f"users.{LONG} has"),
        ("auth: {users: {%s: secret}}", f"auth.users.{LONG} has"),
        ("auth: {map: {a: %s}}", "auth.map.a has"),
        ("auth: {rules: [{database: [a, %s], method: trust}]}", "auth.rules[0].database has"),
        ("auth: {rules: [{user: %s, method: trust}]}", "auth.rules[0].user has"),
        ("auth: {query: {user: %s}}", "auth.query.user has"),
        ("auth: {query: {database: %s}}", "auth.query.database has"),
    ],
)
def test_names_that_are_too_long_to_match(read, text, where):
    said = complaint(read, MAIN + text % LONG)
    assert f"{where} a name of 64 bytes, which would never match" in said
    assert said.endswith(f"Write what is left of it: {CUT!r}.")
    read(MAIN + text % CUT)


def test_a_file_with_such_a_name(read, tmp_path):
    path = tmp_path / "users"
    path.write_text(f'"fine" "x"\n"{LONG}" "hidden"\n')
    said = complaint(read, MAIN + f"auth: {{users_file: {path}}}")
    assert f"auth.users_file {path} line 2 has a name of 64 bytes" in said
    assert "hidden" not in said


def test_what_a_certificate_says_may_be_longer(read):
    read(MAIN + f"auth: {{map: {{{LONG}: app}}}}")


def test_rules_are_read(read):
    config = read(MAIN + TLS + RULES + "{user: Bob O'Neil, database: [x, y], tls: true, method: md5}]}")
    one, two = config.auth.table()
    assert (one.method, one.places.unix, one.places.networks, one.users) == ("trust", True, (), None)
    assert (two.users, two.databases, two.tls) == ({"Bob O'Neil"}, {"x", "y"}, True)
    assert warnings(config) == []
    first, here = read(MAIN).auth.table()
    assert (first.method, first.places.unix, first.users, first.physical) == ("trust", True, None, False)
    assert (here.method, here.places.remote, here.physical) == ("trust", False, True)
    config = read(MAIN + "auth: {rules: [{database: [shop, replication], method: trust}]}")
    (one,) = config.auth.table()
    assert (one.databases, one.physical) == ({"shop"}, True)


def test_the_file_of_amazons_cas(read):
    url = "postgresql://app@shop.cx1.eu-west-1.rds.amazonaws.com/shop"
    text = f"clusters: {{main: {{url: '{url}?sslrootcert=rds', rds_bundle: /rds.pem}}}}"
    assert read(text).clusters["main"].upstream().rds_bundle == "/rds.pem"
    assert warnings(read(text)) == []
    (said,) = warnings(read(text.replace("?sslrootcert=rds", "")))
    assert said.startswith("clusters.main.rds_bundle is not used: write sslrootcert=rds")


def test_a_verifier_that_was_cut_off_is_warned_about(read):
    salt, key = b64encode(bytes(16)).decode(), b64encode(b"k" * 32).decode()
    whole = f"SCRAM-SHA-256$4096:{salt}${key}:{key}"
    said = [
        warnings(read(MAIN + f"auth: {{users: {{alice: '{secret}'}}}}"))
        for secret in (whole, whole[:-1], "x")
    ]
    assert [len(each) for each in said] == [0, 1, 0]
    assert "the secret of user 'alice' begins as a SCRAM verifier and is none" in said[1][0]
    assert whole[20:40] not in said[1][0]


def test_a_query_names_who_asks(read):
    text = "clusters: {main: {url: 'postgresql://db.example/'}}\nauth: {query: {}}"
    assert "auth.query.user is missing; the URL of cluster main names no user" in complaint(read, text)
    assert read(MAIN + "auth: {query: {}}").auth.effective_method == "scram-sha-256"


def test_rules_may_open_an_address_to_all_and_are_warned_about(read):
    text = TLS + "listen: ['0.0.0.0:5432']\nauth: {rules: [{address: 10.0.0.0/8, method: trust}, "
    config = read(MAIN + text + "{address: 10.1.0.0/16, tls: true, method: reject}]}")
    assert warnings(config) == [
        "auth.rules[1] never matches: auth.rules[0] before it matches all that it would",
        "auth.rules[0] trusts clients of other machines: they are whoever they say they are",
    ]


ELSEWHERE = MAIN + "listen: ['10.0.0.1:5432']\n"
USERS = "users: {alice: secret}"


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        (ELSEWHERE + "auth: {method: md5, " + USERS + "}", "auth.method"),
        (ELSEWHERE + "auth: {rules: [{method: md5}], " + USERS + "}", "auth.rules[0].method"),
        (TLS + ELSEWHERE + "auth: {rules: [{method: md5}], " + USERS + "}", "auth.rules[0].method"),
        (TLS + ELSEWHERE + "auth: {rules: [{tls: true, method: md5}], " + USERS + "}", None),
        (ELSEWHERE + "auth: {rules: [{address: loopback, method: md5}], " + USERS + "}", None),
        (ELSEWHERE + "auth: {method: scram-sha-256, " + USERS + "}", None),
        (MAIN + "auth: {method: md5, " + USERS + "}", None),
        (TLS.replace("{", "{mode: require, ", 1) + ELSEWHERE + "auth: {method: md5, " + USERS + "}", None),
    ],
)
def test_md5_on_a_network_in_clear_text_is_warned_about(read, text, warned):
    found = [each for each in warnings(read(text)) if "is md5" in each]
    assert [each.partition(" is md5")[0] for each in found] == ([] if warned is None else [warned])


@pytest.mark.parametrize(
    ("url", "credentials", "warned"),
    [
        ("postgresql://db.example/", "{provider: azure-entra, user: app}", True),
        ("postgresql://db.example/", "{provider: azure-entra}", False),
        ("postgresql://db.example/", "{provider: aws-secretsmanager, secret: app}", True),
        ("postgresql://app@db.example/", "{provider: aws-secretsmanager, secret: app}", False),
        ("postgresql://db.example/", "{password: x}", False),
    ],
)
def test_credentials_of_one_user_for_all_are_warned_about(read, url, credentials, warned):
    config = read(f"clusters: {{main: {{url: '{url}', credentials: {credentials}}}}}")
    found = [each for each in warnings(config) if "names no user" in each]
    assert len(found) == warned
    name = credentials.partition(",")[0].removeprefix("{provider: ")
    assert all(each.startswith("clusters.main: ") and f"the user of {name} cred" in each for each in found)


def test_secrets_are_never_shown(read):
    text = f"""
clusters:
  main: {{url: '{URL}', credentials: {{password: {HIDDEN}}}}}
auth: {{users: {{alice: {HIDDEN}}}}}"""
    config = read(text)
    for shown in (repr(config), str(config), f"{config.clusters} {config.auth.users['alice']!s:>20}"):
        assert HIDDEN not in shown
    with pytest.raises(TypeError):
        json.dumps(config.clusters["main"].url)
    with pytest.raises(TypeError):
        pickle.dumps(config)
    assert config == read(text)
    assert config != read(text.replace(f"alice: {HIDDEN}", "alice: other"))
    assert copy.copy(config) == config


@given(st.text(alphabet="ab:/@?&=%'*!#{}[] \n-", max_size=40))
def test_no_mistake_shows_the_value_of_a_secret(noise):
    """Whatever stands around a secret, wrongly quoted or cut, it does not get into the error."""
    for text in (f"a: {noise}{HIDDEN}{noise}", f"clusters: {{main: {{url: {noise}{HIDDEN}}}}}"):
        try:
            tree = read_text(text, "f.yaml")
        except ConfigError as error:
            assert HIDDEN not in error.sentence()
        else:
            assert isinstance(tree, dict)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"bad postgresql://a:{HIDDEN}@h/x?y", "bad postgresql://a:***@h/x?y"),
        (f"postgresql://a:{HIDDEN}/{HIDDEN}@h:5/x", "postgresql://a:***@h:5/x"),
        (f"postgresql://h/x?password={HIDDEN}&sslmode=a", "postgresql://h/x?password=***&sslmode=a"),
        (f"host=a PASSWORD = {HIDDEN} user=b", "host=a PASSWORD = *** user=b"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_redact(text, shown):
    assert redact(text) == shown


def test_a_remedy_is_not_taken_for_a_secret(read):
    text = "clusters: {main: {url: 'postgresql://app@db.example:hunter2/shop'}}"
    said = complaint(read, text)
    assert "write / as %2F and : as %3A there" in said
    assert redact(said) == said


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("250ms", 0.25),
        ("5s", 5),
        ("10min", 600),
        ("1.5 h", 5400),
        ("1d", 86400),
        (3, 3),
        (0.5, 0.5),
        ("7", 7),
        ("3us", 3e-6),
    ],
)
def test_durations(text, value):
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "value"), [("64KiB", 65536), ("1.5MiB", 1572864), (17, 17), ("2 gb", 2 << 30), ("9", 9)]
)
def test_sizes(text, value):
    assert octets(text) == value


@pytest.mark.parametrize(
    "text", ["", "-1", -1, "s", "1e9", "٣s", None, True, [], "1 fortnight", float("nan"), "9" * 400, "1.s"]
)
def test_what_is_neither(text):
    assert seconds(text) is None
    assert octets(text) is None


def test_the_schema_is_current():
    assert in_any_order(json.loads((CONFIG / "schema.json").read_text("utf-8"))) == in_any_order(
        json.loads(schema.text())
    ), "run: python -m pgambassador.config.schema > config/schema.json"


def in_any_order(node: object) -> object:
    """In which order keys and alternatives are named is a matter of msgspec's version."""
    if isinstance(node, dict):
        return {name: in_any_order(each) for name, each in node.items()}
    return (
        sorted((in_any_order(each) for each in node), key=lambda each: json.dumps(each, sort_keys=True))
        if isinstance(node, list)
        else node
    )


def test_the_minimal_file_loads():
    config = load(path=str(CONFIG / "minimal.yaml"))
    assert load(url="postgresql://x/").pool == config.pool


def test_names_that_are_not_listed(read):
    config = read(
        """
        clusters: {a: {url: "postgresql://a.example"}, b: {url: "postgresql://app@b.example/x"}}
        databases:
          shop: {cluster: b, user: reader}
          "*": {cluster: a, pool: {size: 3}}
        """
    )
    target = config.target("anything")
    assert (target.cluster, target.database, target.pool.size, target.user) == ("a", "anything", 3, None)
    assert config.target("shop").cluster == "b"
    assert config.server_user(config.target("shop"), "me") == "reader"
    assert config.server_user(config.target("anything"), "me") == "me"
    assert config.forces("b", "reader")
    assert not config.forces("a", "reader")
    assert not config.forces("b", "app")


def test_names_for_the_same_database_share_one_limit(read):
    text = """
        clusters: {a: {url: "postgresql://a.example"}}
        databases: {shop: {max_connections: 3}, store: {database: shop, max_connections: %s}, "*": {}}
        """
    assert read(text % 3).databases["store"].max_connections == 3
    with pytest.raises(ConfigError, match=r"shop and databases\.store lead to the same database of"):
        read(text % 4)


@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5"])
def test_limits_are_whole_numbers(read, value):
    with pytest.raises(ConfigError, match=r"users\.\*\.max_clients must be a whole number from 1"):
        read(f'clusters: {{a: {{url: "postgresql://a.example"}}}}\nusers: {{"*": {{max_clients: {value}}}}}')


def test_short_names_of_options(read):
    text = MAIN + "\nfailover: {attempts: 2, hold: 3s}\nbreaker: {failures: 2}"
    short = {"RETRY_MAX": "7", "CIRCUIT_BREAKER_THRESHOLD": "9"}
    config = read(text, environ=short)
    assert (config.failover.attempts, config.failover.hold, config.breaker.failures) == (7, 3.0, 9)
    long = {"PGAMBASSADOR_FAILOVER__ATTEMPTS": "1", "PGAMBASSADOR_BREAKER__FAILURES": "3"}
    config = read(text, environ={**short, **long})
    assert (config.failover.attempts, config.breaker.failures) == (1, 3)
    assert read(text, environ=dict.fromkeys(short, "")).breaker.failures == 2
    for name in short:
        assert complaint(read, MAIN, environ={name: "many"}).startswith(
            f"{name} must be a whole number from 1"
        )


@pytest.mark.parametrize(
    ("store", "told"),
    [
        (f"http://u:{HIDDEN}@h/", "must begin with redis://"),
        (f"redis://u:{HIDDEN}@h:0x1/", "is not a URL"),
        (f"redis://u:{HIDDEN}@/0", "names no host"),
        (f"redis://u:{HIDDEN}@h/shop", "names no host, or no database"),
        (f"rediss://u:{HIDDEN}@h/?ssl_cert_reqs=none", "option that is not known: ssl_cert_reqs"),
        (f"redis://u:{HIDDEN}@h/?ssl_ca_certs=x", "option that is not known: ssl_ca_certs"),
        (f"redis://u:{HIDDEN}@h/#x", "names no host"),
    ],
)
def test_what_is_no_store(store, told, read):
    text = MAIN + f"\nbreaker: {{store: '{store}'}}"
    assert told in (found := complaint(read, text)) and HIDDEN not in found


@pytest.mark.parametrize(
    ("store", "shown", "database"),
    [
        ("redis://h", "redis://h:6379", 0),
        (f"rediss://u:{HIDDEN}@h:7/3?ssl_ca_certs=ca.pem", "rediss://h:7", 3),
        (f"redis://:{HIDDEN}@[::1]/", "redis://[::1]:6379", 0),
        (f"unix://u:{HIDDEN}@/run/redis.sock?db=2", "unix:///run/redis.sock", 2),
    ],
)
def test_stores(store, shown, database, read):
    config = read(MAIN + f"\nbreaker: {{store: '{store}'}}")
    assert HIDDEN not in repr(config)
    found = parse_store(config.breaker.store)
    assert (found.shown, found.database) == (shown, database)
    assert (HIDDEN in store) == (found.password == Secret(HIDDEN))


def test_offline_logins_need_a_directory(read):
    text = "failover: {offline_logins: true}\nclusters: {main: {url: postgresql://h/d}}\n"
    said = complaint(read, text)
    assert said.startswith("failover.offline_logins is set, but there is no directory") and "state" in said
    assert read(text + "state: /var/lib/x\n").failover.offline_logins
    assert not read("clusters: {main: {url: postgresql://h/d}}\nstate: /var/lib/x\n").failover.offline_logins


WITHOUT_DEFAULT = {
    *("auth.method", "auth.rules", "auth.users_file", "tls.mode", "tls.certificate", "tls.key", "tls.ca"),
    *("clients.max_per_address", "state", "failover.attempts", "breaker.store"),
    *("pool.connect_timeout", "pool.max_waiting", "limits.rates", "limits.priorities"),
    *(f"auth.query.{each}" for each in ("cluster", "database", "user", "statement")),
}


def test_the_reference_holds_every_default():
    config = load(path=str(CONFIG / "reference.yaml"))
    default = load(url=config.clusters["main"].url.reveal())
    assert config == default
    written = read_text((CONFIG / "reference.yaml").read_text("utf-8"), "reference.yaml")
    shown = _leaves(written)
    for path in paths(mi.type_info(Config)):
        plain = "*" not in path and path not in WITHOUT_DEFAULT
        assert not plain or path in shown, f"{path} is missing from config/reference.yaml"


def test_every_option_is_documented():
    text = (CONFIG.parent / "docs" / "configuration.md").read_text("utf-8")
    for path in paths(mi.type_info(Config)):
        shown = re.sub(r"(\*\.(?:pool|timeouts))\..*", r"\1.…", path).replace("*", "NAME")
        assert f"| `{shown}` |" in text, f"{shown} is missing from docs/configuration.md"


def test_the_examples_in_the_reference_are_valid(read):
    text = (CONFIG / "reference.yaml").read_text("utf-8")
    text = re.sub(
        r"pool: \{\}|databases: \{\}|(?m:^users: \{\})", lambda found: found[0].removesuffix(" {}"), text
    )
    seen, shown = [], set()
    for number in range(len(_alternatives(text))):
        each = re.sub(r"(?m)^(\s*)#: ", r"\1", _only(text, number))
        if "instance:" in each:
            each = re.sub(r"(?m)url: .*$", "url: postgresql:///shop", each)
        shown |= _leaves(read_text(each, "f"))
        config = read(_usable(each))
        seen.append(type(config.clusters["main"].credentials))
        assert config.target("shop").database == "shop_production"
    assert seen == list(OURS.values())
    for path in paths(mi.type_info(Config)):
        wanted = path.replace("clusters.*", "clusters.main").replace("databases.*", "databases.shop")
        wanted = re.sub(r"^users\.\*", "users.app", wanted)
        named = path.endswith(".*") and any(each.startswith(wanted[:-1]) for each in shown)
        assert named or wanted in shown or path in ("auth.users.*", "auth.map.*"), (
            f"{path} is missing from config/reference.yaml"
        )


def _usable(text: str) -> str:
    """Rules exclude a method, and the file of the users is not there."""
    text = re.sub(r"(?m)^  (users_file|method):.*$", "", text)
    return text.replace("users: {}", "users: {a: b}").replace("map: {}", "map: {a: b}")


def _alternatives(text: str) -> list[re.Match[str]]:
    """The blocks of the reference that show a provider each."""
    return list(
        re.finditer(r"    #: credentials:\n(?:    #:   .*\n)+?(?=    #: credentials|    # Reads)", text)
    )


def _sources(text: str) -> list[re.Match[str]]:
    """And those that show a way to find servers."""
    return list(re.finditer(r"      #: discovery:\n(?:      #:   .*\n)+", text))


def _only(text: str, number: int) -> str:
    """The reference with one of them."""
    for blocks in (_sources(text), _alternatives(text)):
        for index, block in reversed(list(enumerate(blocks))):
            if index != number % len(blocks):
                text = text[: block.start()] + text[block.end() :]
    return text


def _leaves(tree: object, path: str = "") -> set[str]:
    if not isinstance(tree, dict) or not tree:
        return {path}
    return {leaf for name, value in tree.items() for leaf in _leaves(value, f"{path}.{name}".lstrip("."))}
