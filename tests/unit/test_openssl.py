"""What is borrowed from the ssl module shows in test_channel; here, when it can be."""

from __future__ import annotations

import sys
import sysconfig

from pgambassador.net import openssl


def test_it_is_there_where_it_was_looked_at() -> None:
    """An interpreter whose ssl module is linked statically has no library to look into."""
    dynamic = bool(sysconfig.get_config_var("Py_ENABLE_SHARED")) or "_ssl" not in sys.builtin_module_names
    if sys.implementation.name == "cpython" and sys.version_info[:2] <= openssl.NEWEST and dynamic:
        assert openssl.available
    if sys.version_info[:2] > openssl.NEWEST:
        assert not openssl.available
