"""From a cluster's configuration to its keyring: which provider, where it is, and how it is made.

1. A provider's module is imported when it is configured, not before.
2. What a provider of another package raises is not shown: it may quote an option that is a secret.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import MappingProxyType
from typing import Any

from pgambassador.auth.verifier import Borrowed
from pgambassador.config.providers import Credentials, InstalledCredentials, installed, name_of
from pgambassador.credentials.keyring import Keyring, Spawn
from pgambassador.credentials.provider import Provider
from pgambassador.credentials.static import Written
from pgambassador.errors import AmbassadorError, ConfigError

URL = "url"
"""The name of the provider where there are no `credentials`."""


def keyring_of(
    cluster: str,
    credentials: Credentials | None,
    password_of: Callable[[str], bytes | Borrowed | None],
    spawn: Spawn,
    refused: Callable[[str, bytes | Borrowed], None] | None = None,
    *,
    themselves: bool = False,
) -> Keyring:
    """`password_of` finds a user's password where there are no credentials, and `refused` is told of one that
    a server took for wrong. `themselves`: see Keyring. ConfigError, if the provider cannot be had or refuses
    its options."""
    if credentials is None:
        return Keyring(cluster, URL, Written(password_of, refused), spawn=spawn, timeout=1.0)
    return Keyring(
        cluster,
        name_of(credentials),
        provider_of(credentials),
        spawn=spawn,
        timeout=credentials.timeout,
        lazy=credentials.lazy,
        reconnect=credentials.reconnect,
        themselves=themselves,
    )


def provider_of(credentials: Credentials) -> Provider:
    """The provider, made."""
    if isinstance(credentials, InstalledCredentials):
        return _other(credentials)
    module, _, name = credentials.maker.partition(":")
    provider: Provider = getattr(import_module(module), name)(credentials)
    return provider


def _other(credentials: InstalledCredentials) -> Provider:
    name = credentials.name
    entry = installed().get(name)
    if entry is None:
        raise ConfigError(f"The credentials provider {name} is not installed.", hint="Install its package.")
    package = entry.dist.name if entry.dist is not None else entry.value
    try:
        maker: Callable[[Any], Provider] = entry.load()
    except AmbassadorError:
        raise
    except Exception as error:
        raise ConfigError(
            f"The credentials provider {name} of the package {package} cannot be loaded"
            f" ({type(error).__name__}).",
            hint="Install it again, with all that it needs.",
        ) from None
    try:
        return maker(MappingProxyType(credentials.options))
    except AmbassadorError:
        raise
    except Exception as error:
        raise ConfigError(
            f"The credentials provider {name} of the package {package} cannot use its options"
            f" ({type(error).__name__}).",
            hint="Correct them: its documentation names them.",
        ) from None
