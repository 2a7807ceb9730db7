"""`aws-secretsmanager`: user and password from a secret, also while it is being rotated.

1. A rotation changes the server first and the label AWSCURRENT last (or, with other tools, the other way
   round). So who asks again soon after an answer has been refused with it: it gets the version labelled
   AWSPENDING, then AWSPREVIOUS, then AWSCURRENT again; a new AWSCURRENT goes before all of them.
2. The user comes with the secret: where two users alternate it is another after each rotation.
3. An answer has a bounded size, and nothing of it is in an error.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple
from urllib.parse import urlsplit

from pgambassador.config.aws import AwsSecretsManagerCredentials
from pgambassador.credentials import blocking
from pgambassador.credentials.aws import sigv4
from pgambassador.credentials.aws.exchange import Answer, NoAnswer, ask
from pgambassador.credentials.aws.partitions import arn_region, region_of, service_url
from pgambassador.credentials.aws.wallet import Wallet
from pgambassador.credentials.provider import Login, Secret
from pgambassador.errors import AmbassadorError, ConfigError, Unreachable

SECONDS = 4.0
LIFE = 4 * 3600.0
"""Seconds after which it is asked for again in any case: no end is known, and a refusal asks anew at once."""
CURRENT, PENDING, PREVIOUS = "AWSCURRENT", "AWSPENDING", "AWSPREVIOUS"
REMEDY = (
    "Check that the secret is for this server and user, and that its last rotation has succeeded"
    " (aws secretsmanager describe-secret)."
)

_MOST_USERS = 1000
_PASSING = frozenset(("ThrottlingException", "InternalServiceError", "InternalFailure", "ServiceUnavailable"))
_NOT_THERE = frozenset(("ResourceNotFoundException", "AccessDeniedException"))
_HINTS = {
    "AccessDeniedException": "Allow secretsmanager:GetSecretValue for it, and kms:Decrypt for its key.",
    "ResourceNotFoundException": "Correct credentials.secret (a name or an ARN), and credentials.region.",
    "DecryptionFailure": "Allow kms:Decrypt for the secret's key, and check that the key is enabled.",
    "InvalidRequestException": "It may be scheduled for deletion: aws secretsmanager restore-secret.",
    "InvalidSignatureException": "Check the secret key of the AWS credentials, and the clock here.",
    "UnrecognizedClientException": "The AWS credentials are not valid; check where they come from.",
    "InvalidClientTokenId": "The AWS credentials are not valid; check where they come from.",
    "ExpiredTokenException": "Renew the AWS credentials where they come from, and check the clock here.",
}


class Version(NamedTuple):
    """One version of the secret."""

    id: str
    user: str | None
    password: bytes

    def __repr__(self) -> str:
        return f"<Version {self.id} user={self.user!r}>"


@dataclass(slots=True)
class Tried:
    """Which versions were given out, one after the other, while AWSCURRENT stayed the same."""

    current: str
    at: float
    versions: set[str] = field(default_factory=set)

    def is_refused(self, current: str, now: float, window: float) -> bool:
        """Whether who asks now has been refused with what it got: nobody else asks again so soon."""
        return self.current == current and now - self.at < window


class SecretsManager:
    """The provider."""

    per_host = False
    remedy = REMEDY

    def __init__(
        self, options: AwsSecretsManagerCredentials, environ: Mapping[str, str] = os.environ
    ) -> None:
        region = region_of(options.region, arn_region(options.secret), environ)
        if region is None:
            raise ConfigError(
                f"The name {options.secret} does not tell in which AWS region the secret is.",
                hint="Give its ARN, set credentials.region, or the variable AWS_REGION.",
            )
        self.window = options.window
        self._options = options
        self._environ = environ
        self._region = region
        self._url = service_url("secretsmanager", region, environ)
        self._wallet = Wallet(options, environ)
        self._tried: dict[str, Tried] = {}

    async def fetch(self, login: Login) -> Secret:
        keys = await self._wallet.keys(self._region)
        current = await self._version(keys, CURRENT)
        assert current is not None
        now = time.monotonic()
        tried = self._tried.get(login.user)
        if tried is None or not tried.is_refused(current.id, now, self.window):
            if len(self._tried) >= _MOST_USERS:
                self._tried.clear()
            tried = self._tried[login.user] = Tried(current.id, now)
        tried.at = now
        found = await self._untried(keys, current, tried)
        if found is None:
            tried.versions.clear()
            found = current
        tried.versions.add(found.id)
        return Secret(found.user, found.password, time.time() + LIFE)

    async def _untried(self, keys: sigv4.Keys, current: Version, tried: Tried) -> Version | None:
        if current.id not in tried.versions:
            return current
        for stage in (PENDING, PREVIOUS):
            version = await self._version(keys, stage)
            if version is not None and version.id not in tried.versions:
                return version
        return None

    async def _version(self, keys: sigv4.Keys, stage: str) -> Version | None:
        """None if no version has this label, or it is not for us; without AWSCURRENT nothing goes."""
        body = json.dumps({"SecretId": self._options.secret, "VersionStage": stage}).encode()
        headers = sigv4.signed(
            keys,
            service="secretsmanager",
            region=self._region,
            host=urlsplit(self._url).netloc,
            headers={
                "Content-Type": "application/x-amz-json-1.1",
                "X-Amz-Target": "secretsmanager.GetSecretValue",
            },
            body=body,
            now=time.time(),
        )
        roots = self._environ.get("AWS_CA_BUNDLE") or None
        try:
            async with asyncio.timeout(SECONDS + 1):  # name servers have no limit of ours
                question = partial(ask, "POST", self._url, headers, body, seconds=SECONDS, roots=roots)
                answer = await blocking.run(question, "AWS Secrets Manager")
        except NoAnswer as failure:
            reason = str(failure)
        except TimeoutError:
            reason = f"it did not answer within {SECONDS + 1:g} s"
        else:
            if answer.status == 200:
                return read(answer.body, self._options)
            if stage != CURRENT and _code(answer) in _NOT_THERE:
                return None
            raise _refusal(answer, self._options.secret)
        raise Unreachable(
            f"AWS Secrets Manager ({self._url}) cannot be asked: {reason}",
            hint="Check the network on the way there; a private subnet needs a VPC endpoint for it.",
        )


def read(body: bytes, options: AwsSecretsManagerCredentials) -> Version:
    """The version in an answer: JSON with user and password, or the password alone."""
    name = options.secret
    try:
        answer = json.loads(body)
        text, version = answer.get("SecretString"), answer["VersionId"]
        if not isinstance(version, str):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Unreachable(
            "AWS Secrets Manager gave an answer that is not understood", hint="Look what is at its address."
        ) from None
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(
            f"The secret {name} holds no text.", hint="Store a JSON object with username and password in it."
        )
    try:
        fields = json.loads(text)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        if text.lstrip().startswith("{"):
            raise ConfigError(
                f"The secret {name} looks like JSON, but is not.",
                hint="Correct it, or store the bare password.",
            )
        return Version(version, None, text.strip().encode())
    password, user = fields.get(options.password_key), fields.get(options.user_key)
    if not isinstance(password, str) or not password:
        raise ConfigError(
            f"The secret {name} has no text under the key {options.password_key!r}.",
            hint="Set credentials.password_key to the key of the password.",
        )
    if user is not None and (not isinstance(user, str) or not user):
        raise ConfigError(
            f"The secret {name} has under the key {options.user_key!r} something that is not a user's name.",
            hint="Set credentials.user_key to the key of the user.",
        )
    return Version(version, user, password.encode())


def _code(answer: Answer) -> str:
    """The name of an error, as in "com.amazonaws…#AccessDeniedException:http://…"."""
    try:
        kind = json.loads(answer.body)["__type"]
        found = re.search(r"(?:^|#)([A-Za-z]{1,64})(?::|$)", kind)
    except (ValueError, KeyError, TypeError):
        found = None
    return found[1] if found else f"status {answer.status}"


def _refusal(answer: Answer, name: str) -> AmbassadorError:
    code = _code(answer)
    if answer.status == 429 or answer.status >= 500 or code in _PASSING:
        return Unreachable(f"AWS Secrets Manager could not give the secret {name} ({code})", hint="Wait.")
    return ConfigError(
        f"AWS Secrets Manager refused the secret {name} ({code}).",
        hint=_HINTS.get(code, "Check the secret, and the policy of the AWS credentials."),
    )
