"""What can be said to every provider of server passwords."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from pgambassador.config.values import Duration


class Common(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="provider"):
    """What can be said to every provider."""

    maker: ClassVar[str]
    timeout: Annotated[Duration, Meta(description="Getting the secret is given up after this.")] = 10.0
    lazy: Annotated[
        bool,
        Meta(
            description="Renew the secret only when a connection needs it, for hosts that freeze between"
            " requests."
        ),
    ] = False
    reconnect: Annotated[
        bool,
        Meta(
            description="Replace a server connection when the secret that opened it expires, where the far"
            " side is itself a pooler."
        ),
    ] = False
