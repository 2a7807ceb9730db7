"""The libraries of Google that the providers need, which are not installed with pgambassador itself."""

from __future__ import annotations

import warnings

from pgambassador.errors import ConfigError


def need_library() -> None:
    """Import them, or a ConfigError that says how to install them."""
    try:
        import cryptography
        import google.auth.transport.requests  # noqa: F401  it imports requests, which is an extra of its own
    except ImportError:
        raise ConfigError(
            "The providers of Google Cloud need the package google-auth, which is not installed.",
            hint="Run pip install 'pgambassador[gcp]'.",
        ) from None
    del cryptography
    # It recommends to developers what users of ours cannot do anything about.
    warnings.filterwarnings("ignore", module=r"google\.auth\._default")
