"""Azure as far as azure-identity asks it, each question checked: the metadata service, and Entra ID."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.harness.internet import MACHINE, Asked, Site, Told

LOGIN = "login.microsoftonline.com"
TENANT = "11111111-2222-3333-4444-555555555555"
CLIENT = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
RESOURCE = "https://ossrdbms-aad.database.windows.net"
ASSERTION = "eyJhbGciOiJSUzI1NiJ9.projected-service-account-token.c2lnbmF0dXJl"


@dataclass
class Azure:
    """`trouble` is told instead of an answer, in turn; `identity` is the one that the machine has."""

    life: int = 3600
    resource: str = RESOURCE
    identity: str | None = None
    trouble: list[Told] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)

    def sites(self) -> Mapping[str, Site]:
        return {MACHINE: self.machine, LOGIN: self.entra}

    def machine(self, asked: Asked) -> Told:
        assert (asked.method, asked.path) == ("GET", "/metadata/identity/oauth2/token")
        assert asked.query["api-version"] == "2018-02-01"
        if "metadata" not in asked.headers:  # it only wants to know whether somebody is there
            return Told({"error": "invalid_request", "error_description": "Required metadata header"}, 400)
        assert asked.headers["metadata"].lower() == "true"
        assert asked.query["resource"] == self.resource
        assert asked.query.get("client_id") == self.identity
        if self.trouble:
            return self.trouble.pop(0)
        return Told(
            {
                "access_token": self._token(),
                "expires_in": str(self.life),
                "resource": self.resource,
                "token_type": "Bearer",
            }
        )

    def entra(self, asked: Asked) -> Told:
        if asked.path == f"/{TENANT}/v2.0/.well-known/openid-configuration":
            base = f"https://{LOGIN}/{TENANT}"
            return Told(
                {
                    "token_endpoint": f"{base}/oauth2/v2.0/token",
                    "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                    "issuer": f"{base}/v2.0",
                }
            )
        assert (asked.method, asked.path) == ("POST", f"/{TENANT}/oauth2/v2.0/token")
        form = asked.form
        assert form["client_id"] == CLIENT
        assert form["grant_type"] == "client_credentials"
        assert form["scope"] == f"{self.resource}/.default"
        assert form["client_assertion"] == ASSERTION
        assert form["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        if self.trouble:
            return self.trouble.pop(0)
        return Told({"access_token": self._token(), "expires_in": self.life, "token_type": "Bearer"})

    def _token(self) -> str:
        self.tokens.append(f"eyJ0eXAi.{secrets.token_urlsafe(900)}")
        return self.tokens[-1]


def refusal(number: int, status: int = 401) -> Told:
    """As Entra ID says no."""
    text = f"AADSTS{number}: a text of Microsoft's that repeats {ASSERTION}"
    return Told({"error": "invalid_client", "error_description": text, "error_codes": [number]}, status)
