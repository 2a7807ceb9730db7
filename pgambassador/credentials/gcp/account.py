"""As whom we ask Google: the credentials of a file or of the machine, or a service account they may act as.

1. The credentials are read anew for each token, so that a file may be replaced at any time.
2. A token can do no more than its scope says, as far as Google lets us choose: it is shown to a database.
3. What google-auth's errors mean is told from what the server said, never from their text.
"""

from __future__ import annotations

import os
from datetime import UTC
from typing import Any, NamedTuple

import google.auth
from google.auth import exceptions, impersonated_credentials
from google.oauth2 import credentials as person

from pgambassador.config.gcp import GcpAlloyDb, GcpCloudSqlIam
from pgambassador.config.plain import content, reason
from pgambassador.credentials.gcp.http import Failure, Http
from pgambassador.errors import AmbassadorError, ConfigError, Unreachable

ANYTHING = "https://www.googleapis.com/auth/cloud-platform"
# Only what a person was asked to grant can be asked for alone; gcloud asks for this.
_GRANTED = frozenset(("https://www.googleapis.com/auth/sqlservice.login",))
_SUFFIX = ".gserviceaccount.com"


class Token(NamedTuple):
    """`email` is the service account's, None for a person; `project` is the one whose quota is used."""

    value: str
    not_after: float | None
    email: str | None
    project: str | None = None

    def __repr__(self) -> str:
        return f"<Token of {self.email or 'a person'} not_after={self.not_after}>"

    @property
    def user(self) -> str | None:
        """The database user of a service account."""
        return None if self.email is None else self.email.removesuffix(_SUFFIX)


def token(options: GcpCloudSqlIam | GcpAlloyDb, scope: str, http: Http) -> Token:
    """A fresh one; raises Unreachable or ConfigError."""
    target = options.impersonate_service_account
    http.forget()
    try:
        scoped = ANYTHING if target else scope
        # While it loads them google-auth also looks for a project, which may fail and does not matter, and
        # begins questions in the background.
        with Http(http.remaining) as loading:
            credentials = _narrowed(_source(options.credentials_file, scoped, loading), scoped)
        if target:
            credentials = impersonated_credentials.Credentials(  # type: ignore[no-untyped-call]
                source_credentials=credentials,
                target_principal=target,
                target_scopes=[scope],
                delegates=list(options.impersonate_delegates),
            )
        credentials.refresh(http)
    except AmbassadorError:
        raise
    except Exception as error:  # of a file with odd contents it raises all kinds
        raise _explain(error, options, http.failure) from None
    if not isinstance(credentials.token, str) or not credentials.token:
        raise Unreachable("Google has sent no token", hint="Look at credentials.credentials_file.")
    expiry = credentials.expiry
    return Token(
        credentials.token,
        None if expiry is None else expiry.replace(tzinfo=UTC).timestamp(),
        _email(credentials),
        getattr(credentials, "quota_project_id", None),
    )


def _source(path: str | None, scope: str, http: Http) -> Any:
    if path is None:
        return google.auth.default(scopes=[scope], request=http)[0]
    try:
        content(path)
        loaded = google.auth.load_credentials_from_file(  # type: ignore[no-untyped-call]
            path, scopes=[scope], request=http
        )
        return loaded[0]
    except OSError as error:
        raise ConfigError(
            f"The file of credentials.credentials_file {path} cannot be read ({reason(error)}).",
            hint="Check the path and who may read it.",
        ) from None


def _narrowed(credentials: Any, scope: str) -> Any:
    """A person's credentials, which know no scopes, with this one or with all that the person has granted."""
    if not isinstance(credentials, person.Credentials):
        return credentials
    return person.Credentials(  # type: ignore[no-untyped-call]
        None,
        refresh_token=credentials.refresh_token,
        token_uri=credentials.token_uri,
        client_id=credentials.client_id,
        client_secret=credentials.client_secret,
        scopes=[scope] if scope in _GRANTED else None,
        quota_project_id=credentials.quota_project_id,
    )


def _email(credentials: Any) -> str | None:
    email = getattr(credentials, "service_account_email", None)
    return email if isinstance(email, str) and email.endswith(_SUFFIX) else None


def _explain(
    error: Exception, options: GcpCloudSqlIam | GcpAlloyDb, failure: Failure | None
) -> AmbassadorError:
    if isinstance(error, exceptions.DefaultCredentialsError):
        return _no_credentials(options.credentials_file)
    if failure is None:
        return ConfigError(
            "Google's answer to the question for a token is not understood.",
            hint="Check which URLs the file with the credentials names.",
        )
    if failure.status == 0:
        return Unreachable(
            f"Google's {failure.host} cannot be asked for a token: {failure.code}",
            hint="Check the network, its DNS and the proxy (HTTPS_PROXY) on the way there.",
        )
    code = f"{failure.status} {failure.code}".rstrip()
    if failure.status == 429 or failure.status >= 500:
        return Unreachable(
            f"Google's {failure.host} gives no token now ({code})", hint="It will be asked again."
        )
    if failure.host.startswith("iamcredentials."):
        return ConfigError(
            f"Google does not let us act as {options.impersonate_service_account or 'that service account'}"
            f" ({code}).",
            hint="Grant the role roles/iam.serviceAccountTokenCreator on it to the account before it in the"
            " chain (impersonate_delegates), and check that its address is correct.",
        )
    if failure.machine:
        return ConfigError(
            f"The metadata server has no service account for this machine ({code}).",
            hint="Attach a service account, or name a file in credentials.credentials_file.",
        )
    return ConfigError(
        f"Google refuses the credentials ({code}).",
        hint="Check the clock of this machine, and that the key or the login has not been revoked;"
        " for a person: gcloud auth application-default login.",
    )


def _no_credentials(path: str | None) -> AmbassadorError:
    named = path or os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    if named:
        where = "credentials.credentials_file" if path else "GOOGLE_APPLICATION_CREDENTIALS"
        return ConfigError(
            f"The file of {where} {named} is not there, or holds no Google credentials.",
            hint="It is the JSON file of a service account's key, of workload identity federation or of"
            " gcloud auth application-default login.",
        )
    return Unreachable(
        "there are no Google credentials here, and no metadata server answers",
        hint="Run where a service account is attached, set GOOGLE_APPLICATION_CREDENTIALS or"
        " credentials.credentials_file, or run gcloud auth application-default login.",
    )
