"""What the provider of Azure is told: whose identity to use, and for which cloud."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from pgambassador.config.common import Common
from pgambassador.config.values import Duration

SCOPE = "https://ossrdbms-aad.database.windows.net/.default"


class AzureEntra(Common, frozen=True, kw_only=True, tag="azure-entra"):
    """A token of Microsoft Entra ID as the password."""

    maker: ClassVar[str] = "pgambassador.credentials.azure:Entra"

    client_id: Annotated[
        str | None,
        Meta(
            description="Of a managed or workload identity; left out: the one that the machine has, or the"
            " AZURE_ variables name.",
        ),
    ] = None
    user: Annotated[
        str | None,
        Meta(description="The database user, spelled as the server has it; left out: the URL's."),
    ] = None
    scope: Annotated[str, Meta(description="Differs in sovereign clouds.")] = SCOPE
    timeout: Annotated[Duration, Meta(description="All questions to Azure together take this at most.")] = (
        30.0
    )
