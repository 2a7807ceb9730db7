"""What is borrowed from the ssl module shows in test_channel; here, when it can be."""

from __future__ import annotations

import ssl
import sys
import sysconfig
from typing import Any, cast

from pgambassador.net import openssl
from tests.tls import Plainly, ends


def test_it_is_there_where_it_was_looked_at() -> None:
    """An interpreter whose ssl module is linked statically has no library to look into."""
    dynamic = bool(sysconfig.get_config_var("Py_ENABLE_SHARED")) or "_ssl" not in sys.builtin_module_names
    if sys.implementation.name == "cpython" and sys.version_info[:2] <= openssl.NEWEST and dynamic:
        assert openssl.available
    if sys.version_info[:2] > openssl.NEWEST:
        assert not openssl.available


def test_what_does_not_prove_itself_is_left_alone() -> None:
    """That the cache is off otherwise shows in test_gate."""
    client, _ = ends()
    assert openssl.forget_sessions(client.tls) is openssl.available
    assert openssl.forget_sessions(cast(Any, Plainly(client.tls))) is False
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    assert openssl.forget_sessions(cast(Any, context)) is False
