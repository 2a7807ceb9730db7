"""Google Cloud as far as the providers ask it, each question checked: tokens, impersonation, admin APIs."""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

from tests.harness.internet import MACHINE, Asked, Site, Told

PROJECT, REGION, NAME = "shop", "europe-west1", "main"
INSTANCE = f"{PROJECT}:{REGION}:{NAME}"
ALLOYDB = f"projects/{PROJECT}/locations/{REGION}/clusters/big/instances/first"
EMAIL = "db@shop.iam.gserviceaccount.com"
USER = "db@shop.iam"
PERSON = "ann@shop.example"
SUBJECT = "eyJhbGciOiJSUzI1NiJ9.subject-token.c2lnbmF0dXJl"
AUDIENCE = "//iam.googleapis.com/projects/7/locations/global/workloadIdentityPools/p/providers/x"
REFRESH = "1//refresh-token-of-ann"
TARGET = "target@shop.iam.gserviceaccount.com"
SQL_LOGIN = "https://www.googleapis.com/auth/sqlservice.login"
SQL_ADMIN = "https://www.googleapis.com/auth/sqlservice.admin"
ALLOYDB_LOGIN = "https://www.googleapis.com/auth/alloydb.login"
IAM = "https://www.googleapis.com/auth/iam"
ANYTHING = "https://www.googleapis.com/auth/cloud-platform"


@cache
def key_of(whose: str) -> rsa.RSAPrivateKey:
    """One for all tests: they take long to make."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@dataclass(frozen=True)
class Grant:
    """What a token is good for."""

    email: str
    scope: str
    not_after: float


class Authority:
    """The CA of one instance, and the certificates that it signs."""

    def __init__(self, name: str = "instance CA") -> None:
        self._private = key_of(name)
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.root = self._sign(self._name, self._private.public_key(), timedelta(days=1), ca=True)

    def client(self, public: str, common_name: str, life: float) -> str:
        key = serialization.load_pem_public_key(public.encode())
        assert isinstance(key, rsa.RSAPublicKey)
        assert key.key_size >= 2048
        return self._sign(_name(common_name), key, timedelta(seconds=life))

    def server(self, folder: Path, common_name: str, *sans: x509.GeneralName) -> Path:
        """Certificate and key in one file."""
        key = key_of("server")
        path = folder / f"{secrets.token_hex(4)}.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        certificate = self._sign(_name(common_name), key.public_key(), timedelta(days=1), sans=sans)
        path.write_bytes(private + certificate.encode())
        return path

    def _sign(
        self,
        subject: x509.Name,
        key: rsa.RSAPublicKey,
        life: timedelta,
        *,
        ca: bool = False,
        sans: tuple[x509.GeneralName, ...] = (),
    ) -> str:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + life)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if sans:
            builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=False)
        signed = builder.sign(self._private, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM).decode()


@dataclass
class Google:
    """`trouble` is told instead of an answer, by host and in turn; `settings` change the instance's."""

    life: float = 3600.0
    """Of tokens."""
    certificate_life: float = 3600.0
    trouble: dict[str, list[Told]] = field(default_factory=dict)
    delegates: list[str] = field(default_factory=list)
    tokens: dict[str, Grant] = field(default_factory=dict)
    secrets: list[str] = field(default_factory=list)
    """What must not be seen anywhere: tokens, assertions."""
    authority: Authority = field(default_factory=Authority)
    settings: dict[str, Any] = field(default_factory=dict)
    key: rsa.RSAPrivateKey = field(default_factory=lambda: key_of("service account"), repr=False)

    def sites(self) -> Mapping[str, Site]:
        return {
            "oauth2.googleapis.com": self._or_trouble(self.oauth),
            "sts.googleapis.com": self._or_trouble(self.sts),
            "cloudresourcemanager.googleapis.com": self._or_trouble(self.projects),
            "iamcredentials.googleapis.com": self._or_trouble(self.iam),
            "sqladmin.googleapis.com": self._or_trouble(self.sql_admin),
            "alloydb.googleapis.com": self._or_trouble(self.alloydb),
            MACHINE: self._or_trouble(self.machine),
        }

    def key_file(self, path: Path) -> Path:
        """The JSON file of the service account's key."""
        private = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        self.secrets.append(private.splitlines()[1])
        path.write_text(
            json.dumps(
                {
                    "type": "service_account",
                    "project_id": PROJECT,
                    "private_key_id": "1",
                    "private_key": private,
                    "client_email": EMAIL,
                    "client_id": "1",
                    "token_uri": "https://oauth2.googleapis.com/token",
                }
            )
        )
        return path

    def person_file(self, path: Path) -> Path:
        """What `gcloud auth application-default login` writes."""
        self.secrets += [REFRESH, "client-secret"]
        told = {"type": "authorized_user", "client_id": "gcloud", "client_secret": "client-secret"}
        path.write_text(json.dumps({**told, "refresh_token": REFRESH, "quota_project_id": "quota"}))
        return path

    def oauth(self, asked: Asked) -> Told:
        """RFC 7523: an assertion signed by the account's key; RFC 6749: a person's refresh token."""
        assert (asked.method, asked.path) == ("POST", "/token")
        if asked.form["grant_type"] == "refresh_token":
            assert asked.form["refresh_token"] == REFRESH
            assert asked.form["client_secret"] == "client-secret"
            granted = asked.form.get("scope", f"openid {ANYTHING} {SQL_LOGIN}")
            assert granted in (SQL_LOGIN, f"openid {ANYTHING} {SQL_LOGIN}")
            token = self._token(PERSON, granted)
            told = {"access_token": token, "expires_in": int(self.life), "scope": granted}
            return Told({**told, "token_type": "Bearer"})
        assert asked.form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
        head, claims, signature = asked.form["assertion"].split(".")
        self.secrets += [asked.form["assertion"], signature]
        self.key.public_key().verify(
            _decode(signature), f"{head}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256()
        )
        assert json.loads(_decode(head))["alg"] == "RS256"
        said = json.loads(_decode(claims))
        assert said["iss"] == EMAIL
        assert said["aud"] == "https://oauth2.googleapis.com/token"
        assert said["exp"] > time.time()
        token = self._token(EMAIL, said["scope"])
        return Told({"access_token": token, "expires_in": int(self.life), "token_type": "Bearer"})

    def federation_file(self, folder: Path) -> Path:
        """Of somebody whom another party than Google has identified, and who may act as TARGET."""
        self.secrets.append(SUBJECT)
        (folder / "subject").write_text(SUBJECT)
        path = folder / "federation.json"
        url = f"https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{TARGET}:generateAccessToken"
        path.write_text(
            json.dumps(
                {
                    "type": "external_account",
                    "audience": AUDIENCE,
                    "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
                    "token_url": "https://sts.googleapis.com/v1/token",
                    "credential_source": {"file": str(folder / "subject")},
                    "service_account_impersonation_url": url,
                }
            )
        )
        return path

    def sts(self, asked: Asked) -> Told:
        """RFC 8693: another party's token for one of Google's."""
        assert (asked.method, asked.path) == ("POST", "/v1/token")
        assert asked.form["audience"] == AUDIENCE
        assert asked.form["subject_token"] == SUBJECT
        token = self._token("principal://somebody", IAM)
        told = {"access_token": token, "expires_in": 3600, "token_type": "Bearer"}
        return Told({**told, "issued_token_type": "urn:ietf:params:oauth:token-type:access_token"})

    def projects(self, asked: Asked) -> Told:
        """It would like to know the project, which nobody needs."""
        return refusal(403, "IAM_PERMISSION_DENIED")

    def iam(self, asked: Asked) -> Told:
        if asked.path.endswith("/allowedLocations"):  # likewise
            return refusal(403, "IAM_PERMISSION_DENIED")
        assert asked.method == "POST"
        assert asked.path == f"/v1/projects/-/serviceAccounts/{TARGET}:generateAccessToken"
        assert self._bearer(asked).scope == IAM
        assert (asked.json["delegates"] or []) == self.delegates
        assert asked.json["lifetime"] == "3600s"
        (scope,) = asked.json["scope"]
        token = self._token(TARGET, scope)
        until = datetime.fromtimestamp(time.time() + self.life, UTC)
        return Told({"accessToken": token, "expireTime": until.strftime("%Y-%m-%dT%H:%M:%SZ")})

    def machine(self, asked: Asked) -> Told:
        flavor = {"Metadata-Flavor": "Google"}
        assert asked.method == "GET"
        assert asked.headers["metadata-flavor"] == "Google"
        match asked.path:
            case "" | "/":
                return Told(b"", headers=flavor)
            case "/computeMetadata/v1/project/project-id":
                return Told(PROJECT.encode(), headers=flavor)
            case (
                "/computeMetadata/v1/universe/universe-domain"
                | "/computeMetadata/v1/universe/universe_domain"
            ):
                return Told(b"googleapis.com", headers=flavor)
            case "/computeMetadata/v1/instance/service-accounts/default/":
                assert asked.query == {"recursive": "true"}
                return Told({"email": EMAIL, "scopes": [ANYTHING], "aliases": ["default"]}, headers=flavor)
            case "/computeMetadata/v1/instance/service-accounts/default/token":
                token = self._token(EMAIL, asked.query["scopes"])
                told = {"access_token": token, "expires_in": int(self.life), "token_type": "Bearer"}
                return Told(told, headers=flavor)
        raise AssertionError(asked.path)

    def sql_admin(self, asked: Asked) -> Told:
        self._administrates(asked, SQL_ADMIN)
        assert asked.headers["user-agent"].startswith("pgambassador/")
        instance = f"/sql/v1beta4/projects/{PROJECT}/instances/{NAME}"
        if asked.path == f"{instance}/connectSettings":
            assert asked.method == "GET"
            return Told(
                {
                    "kind": "sql#connectSettings",
                    "serverCaCert": {"cert": self.authority.root},
                    "ipAddresses": [
                        {"type": "PRIMARY", "ipAddress": "127.0.0.1"},
                        {"type": "OUTGOING", "ipAddress": "192.0.2.2"},
                    ],
                    "region": REGION,
                    "databaseVersion": "POSTGRES_17",
                    "backendType": "SECOND_GEN",
                    **self.settings,
                }
            )
        assert (asked.method, asked.path) == ("POST", f"{instance}:generateEphemeralCert")
        asking = asked.json
        name = "nobody"
        if "access_token" in asking:
            login = self.tokens[asking["access_token"]]
            assert login.scope == SQL_LOGIN
            name = login.email
        assert asking.keys() <= {"public_key", "access_token"}
        pem = self.authority.client(asking["public_key"], name, self.certificate_life)
        return Told({"ephemeralCert": {"cert": pem}})

    def alloydb(self, asked: Asked) -> Told:
        self._administrates(asked, ANYTHING)
        cluster = ALLOYDB.partition("/instances/")[0]
        if asked.path == f"/v1beta/{ALLOYDB}/connectionInfo":
            assert asked.method == "GET"
            return Told({"name": ALLOYDB, "ipAddress": "127.0.0.1", "instanceUid": "uid", **self.settings})
        assert (asked.method, asked.path) == ("POST", f"/v1beta/{cluster}:generateClientCertificate")
        assert asked.json["certDuration"] == "3600s"
        assert asked.json["useMetadataExchange"] is True
        pem = self.authority.client(asked.json["publicKey"], "alloydb client", self.certificate_life)
        return Told({"pemCertificateChain": [pem, self.authority.root], "caCert": self.authority.root})

    def _or_trouble(self, site: Site) -> Site:
        def answer(asked: Asked) -> Told:
            waiting = self.trouble.get(asked.host)
            return waiting.pop(0) if waiting else site(asked)

        return answer

    def _token(self, email: str, scope: str) -> str:
        token = f"ya29.{secrets.token_urlsafe(300)}"
        self.tokens[token] = Grant(email, scope, time.time() + self.life)
        self.secrets.append(token)
        return token

    def _administrates(self, asked: Asked, scope: str) -> None:
        grant = self._bearer(asked)
        assert scope == grant.scope or ANYTHING in grant.scope.split()
        project = "quota" if grant.email == PERSON else None
        assert asked.headers.get("x-goog-user-project") == project

    def _bearer(self, asked: Asked) -> Grant:
        kind, token = asked.headers["authorization"].split(" ")
        assert kind == "Bearer"
        return self.tokens[token]


def refusal(status: int, reason: str, message: str = "a text of Google's", **headers: str) -> Told:
    """An error as Google's APIs write it."""
    return Told(
        {"error": {"code": status, "message": message, "errors": [{"reason": reason, "message": message}]}},
        status,
        {name.replace("_", "-"): value for name, value in headers.items()},
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
