import os
import socket

from pgambassador.net.arrival import peer_of, uid_of


def test_the_user_at_the_other_end() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert uid_of(ours) == os.getuid()
        assert peer_of(ours, "unix").uid == os.getuid()
        assert peer_of(ours, "10.0.0.1:1").uid is None


def test_a_socket_that_tells_nothing() -> None:
    with socket.socket(socket.AF_UNIX) as unconnected:
        unconnected.close()
        assert uid_of(unconnected) is None
