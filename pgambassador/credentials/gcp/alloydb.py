"""`gcp-alloydb`: the connector's way to an AlloyDB instance.

1. Two questions to the AlloyDB API give the instance's addresses, and a client certificate with the cluster's
   CA.
2. Inside TLS a token is shown before the start packet, with IAM login or without; certificate and token are
   good for as long as both are.
3. The server's certificate names the address that was dialled.
"""

from __future__ import annotations

from typing import Any

from pgambassador.config.gcp import GcpAlloyDb
from pgambassador.credentials import blocking
from pgambassador.credentials.gcp import exchange
from pgambassador.credentials.gcp.library import need_library
from pgambassador.credentials.provider import Login, Secret, Way
from pgambassador.errors import Unreachable

LOGIN = "https://www.googleapis.com/auth/alloydb.login"
ADMIN = "https://www.googleapis.com/auth/cloud-platform"
PORT = 5433
LIFE = 3600
_API = "https://alloydb.googleapis.com/v1beta"
_ADDRESSES = {"public": "publicIpAddress", "private": "ipAddress", "psc": "pscDnsName"}
_GRANT = "Grant the roles roles/alloydb.client and roles/serviceusage.serviceUsageConsumer to the account."
_NAMES = "Check credentials.instance, projects/PROJECT/locations/REGION/clusters/CLUSTER/instances/INSTANCE."


class AlloyDb:
    """`port`: another one is for tests."""

    per_host = False
    window = 0.0

    def __init__(self, options: GcpAlloyDb, *, port: int = PORT) -> None:
        options.check()
        need_library()
        from pgambassador.credentials.gcp.api import Api

        self._options = options
        self._port = port
        self._api = Api("AlloyDB API", "alloydb.googleapis.com", grant=_GRANT, names=_NAMES)

    def __repr__(self) -> str:
        return f"<AlloyDb {self._options.instance}>"

    async def fetch(self, login: Login) -> Secret:
        return await blocking.ask(self._way, seconds=self._options.timeout, whom="Google Cloud")

    def _way(self) -> Secret:
        from pgambassador.credentials.gcp.account import token
        from pgambassador.credentials.gcp.api import USER_AGENT
        from pgambassador.credentials.gcp.http import Http
        from pgambassador.credentials.gcp.keys import expiry, key_pair

        options = self._options
        cluster = options.instance.partition("/instances/")[0]
        private, public = key_pair()
        request = {"publicKey": public, "certDuration": f"{LIFE}s", "useMetadataExchange": True}
        with Http(options.timeout) as http:
            self._api.wait_over()
            login = token(options, LOGIN, http)
            bearer = token(options, ADMIN, http)
            info = self._api.call(http, bearer, "GET", f"{_API}/{options.instance}/connectionInfo")
            answer = self._api.call(
                http, bearer, "POST", f"{_API}/{cluster}:generateClientCertificate", request
            )
        certificate = _chain(answer)
        host = self._api.address(
            str(info.get(_ADDRESSES[options.ip_type]) or "").rstrip("."), options.ip_type
        )
        way = Way(
            host=host,
            port=self._port,
            roots=self._api.pem(answer, "caCert"),
            certificate=certificate,
            key=private,
            names=(host,),
            greeting=exchange.request(login.value, iam=options.password is None, user_agent=USER_AGENT),
            understand=exchange.understand,
        )
        user = options.user or (login.user if options.password is None else None)
        password = None if options.password is None else options.password.reveal().encode()
        ends = [expiry(certificate), *([login.not_after] if login.not_after is not None else [])]
        return Secret(user, password, min(ends), way)


def _chain(answer: dict[str, Any]) -> str:
    found = answer.get("pemCertificateChain")
    if isinstance(found, list) and found and all(isinstance(each, str) and each.isascii() for each in found):
        return "\n".join(found)
    raise Unreachable(
        "the answer of the AlloyDB API has no certificate in pemCertificateChain",
        hint="Look for a newer version of pgambassador.",
    )
