from ipaddress import ip_address

import pytest

from pgambassador.auth.peer import Peer


@pytest.mark.parametrize(
    ("address", "name", "local", "site"),
    [
        ("unix", "[local]", True, "[local]"),
        ("127.0.0.1:40000", "127.0.0.1", True, "127.0.0.1"),
        ("[::1]:40000", "::1", True, "::/64"),
        ("10.0.0.1:40000", "10.0.0.1", False, "10.0.0.1"),
        ("[::ffff:10.0.0.1]:40000", "10.0.0.1", False, "10.0.0.1"),
        ("[::ffff:127.0.0.1]:1", "127.0.0.1", True, "127.0.0.1"),
        ("[2001:db8:1:2:3:4:5:6]:1", "2001:db8:1:2:3:4:5:6", False, "2001:db8:1:2::/64"),
        ("[fe80::1%eth0]:1", "fe80::1", False, "fe80::/64"),
    ],
)
def test_an_address(address: str, name: str, local: bool, site: str) -> None:
    peer = Peer.at(address)
    assert (peer.name, peer.local, peer.site) == (name, local, site)
    assert peer.confidential is local


def test_users_of_a_unix_socket_are_told_apart() -> None:
    assert Peer.at("unix", 0).site != Peer.at("unix", 1000).site
    assert Peer.at("10.0.0.1:1", 7).uid is None


def test_with_tls_nobody_else_reads() -> None:
    assert Peer(ip_address("10.0.0.1"), tls=True).confidential


def test_no_repr_shows_the_binding() -> None:
    assert "hidden" not in repr(Peer(binding=b"hidden"))
