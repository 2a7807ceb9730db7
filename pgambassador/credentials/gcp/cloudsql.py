"""`gcp-cloudsql-iam`: an IAM token as the password, or the connector's way to an instance.

1. Without `instance` the token is the password, for the hosts of the URL.
2. With `instance` two questions to the Admin API give the instance's address and CA, and a client
   certificate; with IAM login the token is in the certificate, which then is good for as long as both are.
3. A server's certificate is the instance's if its CA is the one that the API named, and it has the instance's
   DNS name, or else the common name PROJECT:INSTANCE.
"""

from __future__ import annotations

from typing import Any

from pgambassador.config.gcp import GcpCloudSqlIam, cloud_sql_instance
from pgambassador.credentials import blocking
from pgambassador.credentials.gcp.library import need_library
from pgambassador.credentials.provider import Login, Secret, Way
from pgambassador.errors import ConfigError

LOGIN = "https://www.googleapis.com/auth/sqlservice.login"
ADMIN = "https://www.googleapis.com/auth/sqlservice.admin"
PORT = 3307
_API = "https://sqladmin.googleapis.com/sql/v1beta4"
_GRANT = (
    "Grant the roles roles/cloudsql.client and, for IAM login, roles/cloudsql.instanceUser to the account;"
    " an instance that does not exist looks the same."
)
_NAMES = "Check credentials.instance, PROJECT:REGION:INSTANCE."


class CloudSql:
    """`port`: another one is for tests."""

    per_host = False
    window = 0.0

    def __init__(self, options: GcpCloudSqlIam, *, port: int = PORT) -> None:
        options.check()
        need_library()
        self._options = options
        self._port = port
        if options.instance is not None:
            from pgambassador.credentials.gcp.api import Api

            self._project, self._region, self._name = cloud_sql_instance(options.instance)
            self._api = Api("Cloud SQL Admin API", "sqladmin.googleapis.com", grant=_GRANT, names=_NAMES)

    def __repr__(self) -> str:
        return f"<CloudSql {self._options.instance or 'token'}>"

    async def fetch(self, login: Login) -> Secret:
        question = self._token if self._options.instance is None else self._way
        return await blocking.ask(question, seconds=self._options.timeout, whom="Google Cloud")

    def _token(self) -> Secret:
        from pgambassador.credentials.gcp.account import token
        from pgambassador.credentials.gcp.http import Http

        with Http(self._options.timeout) as http:
            found = token(self._options, LOGIN, http)
        return Secret(self._options.user or found.user, found.value.encode(), found.not_after)

    def _way(self) -> Secret:
        from pgambassador.credentials.gcp.account import token
        from pgambassador.credentials.gcp.http import Http
        from pgambassador.credentials.gcp.keys import expiry, key_pair

        options, instance = self._options, f"{_API}/projects/{self._project}/instances/{self._name}"
        private, public = key_pair()
        request = {"public_key": public}
        user, password, ends = options.user, options.password, []
        with Http(options.timeout) as http:
            self._api.wait_over()
            if password is None:
                login = token(options, LOGIN, http)
                request["access_token"] = login.value
                user = user or login.user
                ends = [login.not_after] if login.not_after is not None else []
            bearer = token(options, ADMIN, http)
            settings = self._api.call(http, bearer, "GET", f"{instance}/connectSettings")
            if settings.get("region") != self._region:
                raise ConfigError(
                    f"The instance {self._name} is in {str(settings.get('region'))[:64]},"
                    f" not in {self._region}.",
                    hint="Correct credentials.instance.",
                )
            answer = self._api.call(http, bearer, "POST", f"{instance}:generateEphemeralCert", request)
        certificate = self._api.pem(answer, "ephemeralCert", "cert")
        way = Way(
            host=self._address(settings),
            port=self._port,
            roots=self._api.pem(settings, "serverCaCert", "cert"),
            certificate=certificate,
            key=private,
            names=(*_dns_names(settings), f"{self._project}:{self._name}"),
        )
        secret = None if password is None else password.reveal().encode()
        return Secret(user, secret, min((*ends, expiry(certificate))), way)

    def _address(self, settings: dict[str, Any]) -> str:
        kind = self._options.ip_type
        if kind == "psc":
            found = (_dns_names(settings, private=True) or _legacy(settings)) if _psc(settings) else ()
        else:
            wanted = {"public": "PRIMARY", "private": "PRIVATE"}[kind]
            found = tuple(
                str(each.get("ipAddress", ""))
                for each in _list(settings, "ipAddresses")
                if each.get("type") == wanted
            )
        return self._api.address(next(iter(found), None), kind)


def _psc(settings: dict[str, Any]) -> bool:
    return settings.get("pscEnabled") is True


def _legacy(settings: dict[str, Any]) -> tuple[str, ...]:
    name = settings.get("dnsName")
    return (name.rstrip("."),) if isinstance(name, str) and name else ()


def _dns_names(settings: dict[str, Any], *, private: bool = False) -> tuple[str, ...]:
    """The instance's own; `private`: only those of Private Service Connect."""
    found = [
        str(each.get("name", "")).rstrip(".")
        for each in _list(settings, "dnsNames")
        if each.get("dnsScope") == "INSTANCE"
        and (not private or each.get("connectionType") == "PRIVATE_SERVICE_CONNECT")
    ]
    more = () if private else _legacy(settings)
    return tuple(dict.fromkeys(name for name in (*found, *more) if name))


def _list(settings: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = settings.get(name)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
