"""`azure-entra`: a token of Microsoft Entra ID as the password.

1. Each question makes its credential anew: neither it nor a token is kept.
2. What azure-identity's errors mean is told by their kind and by Entra's own number (AADSTS…), never by their
   text.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from pgambassador.config.azure import AzureEntra
from pgambassador.credentials import blocking
from pgambassador.credentials.provider import Login, Secret
from pgambassador.errors import AmbassadorError, ConfigError, Unreachable

_NUMBER = re.compile(r"AADSTS([0-9]{4,8})")
_REMEDIES = {
    "70011": "Correct credentials.scope.",
    "500011": "Correct credentials.scope.",
    "700016": "Correct the client id; the application is not in this tenant.",
    "7000215": "Correct AZURE_CLIENT_SECRET.",
    "7000222": "Make a new client secret; this one has expired.",
    "70021": "Add a federated credential with the issuer and subject of this service account.",
    "700211": "Add a federated credential with this issuer.",
    "700212": "Add a federated credential with this audience.",
    "700213": "Add a federated credential with this subject.",
    "700024": "Check the clock of this machine, and that the federated token file is renewed.",
    "90002": "Correct AZURE_TENANT_ID.",
}
# Those that start programs of a developer's machine, or open its windows.
_DEVELOPERS = ("cli", "developer_cli", "powershell", "visual_studio_code", "shared_token_cache", "broker")


class Entra:
    per_host = False
    window = 0.0

    def __init__(self, options: AzureEntra) -> None:
        try:
            import azure.identity  # noqa: F401
        except ImportError:
            raise ConfigError(
                "The provider azure-entra needs the package azure-identity, which is not installed.",
                hint="Run pip install 'pgambassador[azure]'.",
            ) from None
        # What they have to say is said by us; their words may hold anything.
        for name in ("azure", "msal"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._options = options

    def __repr__(self) -> str:
        return f"<Entra {self._options.client_id or 'default'}>"

    async def fetch(self, login: Login) -> Secret:
        return await blocking.ask(self._token, seconds=self._options.timeout, whom="Azure")

    def _token(self) -> Secret:
        from azure.core.exceptions import AzureError

        try:
            made = self._credential()
        except ValueError:
            raise ConfigError(
                "The variables that name Azure's identity hold something that cannot be used.",
                hint="Correct AZURE_TENANT_ID, AZURE_AUTHORITY_HOST (https only) and the certificate of"
                " AZURE_CLIENT_CERTIFICATE_PATH.",
            ) from None
        except OSError as error:
            raise _no_file(error) from None
        try:
            with made as credential:
                token = credential.get_token(self._options.scope)
        except OSError as error:
            raise _no_file(error) from None
        except (AzureError, ValueError) as error:
            raise self._explain(error) from None
        return Secret(self._options.user, token.token.encode(), float(token.expires_on))

    def _credential(self) -> Any:
        from azure.identity import DefaultAzureCredential

        client = self._options.client_id
        if client is None:
            return DefaultAzureCredential()
        # A client id names an identity of this machine: nothing else may take its place.
        exclude: dict[str, Any] = {
            f"exclude_{name}_credential": True for name in (*_DEVELOPERS, "environment")
        }
        return DefaultAzureCredential(
            managed_identity_client_id=client, workload_identity_client_id=client, **exclude
        )

    def _explain(self, error: Exception) -> AmbassadorError:
        from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ServiceRequestError
        from azure.identity import CredentialUnavailableError

        if found := _NUMBER.search(str(error)):
            return ConfigError(
                f"Entra ID refuses the identity (AADSTS{found[1]}).",
                hint=_REMEDIES.get(
                    found[1], "Look the number up at https://login.microsoftonline.com/error."
                ),
            )
        if isinstance(error, CredentialUnavailableError) or type(error) is ClientAuthenticationError:
            whose = f"{self._options.client_id} " if self._options.client_id else ""
            return Unreachable(
                f"the identity {whose}is not to be had on this machine".replace("  ", " "),
                hint="Assign a managed identity, set up workload identity (AZURE_CLIENT_ID, AZURE_TENANT_ID,"
                " AZURE_FEDERATED_TOKEN_FILE) or a service principal, or run az login.",
            )
        if isinstance(error, ServiceRequestError):
            return Unreachable(
                "Entra ID cannot be reached",
                hint="Check the network, its DNS and the proxy (HTTPS_PROXY) on the way there.",
            )
        status = error.status_code if isinstance(error, HttpResponseError) else None
        return Unreachable(
            f"Azure gives no token now ({status})" if status else "Azure gives no token now",
            hint="It will be asked again.",
        )


def _no_file(error: OSError) -> ConfigError:
    return ConfigError(
        "A file that Azure's variables name cannot be read"
        f" ({(error.strerror or type(error).__name__).lower()}).",
        hint="Correct AZURE_CLIENT_CERTIFICATE_PATH or AZURE_FEDERATED_TOKEN_FILE, or its permissions.",
    )
