"""A token of IAM as the password: what `aws-rds-iam` and `aws-dsql` have in common.

1. A token is signed here, without a question to AWS. It is good for one endpoint, for fifteen minutes at the
   longest, and not longer than the AWS credentials that signed it.
"""

from __future__ import annotations

import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Generic, NamedTuple, TypeVar

from pgambassador.config.aws import Aws
from pgambassador.credentials.aws import sigv4
from pgambassador.credentials.aws.wallet import Wallet
from pgambassador.credentials.provider import Login, Secret
from pgambassador.errors import ConfigError

Options = TypeVar("Options", bound=Aws)


class Place(NamedTuple):
    """What a token is signed for. `port` None: a token that names none."""

    host: str
    port: int | None
    region: str


class Signer(ABC, Generic[Options]):
    """A provider of such tokens."""

    per_host = True
    window = 0.0
    service: str

    def __init__(self, options: Options, environ: Mapping[str, str] = os.environ) -> None:
        self._options = options
        self._environ = environ
        self._wallet = Wallet(options, environ)

    def forget(self) -> None:
        self._wallet.forget()

    @abstractmethod
    def place(self, login: Login) -> Place:
        """ConfigError for a name that no token could be good for."""

    @abstractmethod
    def query(self, login: Login) -> Mapping[str, str]:
        """The action that it allows."""

    async def fetch(self, login: Login) -> Secret:
        host, port, region = self.place(login)
        keys = await self._wallet.keys(region)
        now = time.time()
        token = sigv4.presign(
            keys,
            service=self.service,
            region=region,
            host=host,
            port=port,
            query=self.query(login),
            now=now,
        )
        end = min(now + sigv4.LIFE, math.inf if keys.not_after is None else keys.not_after)
        return Secret(None, token.encode(), end)


def no_region(host: str) -> ConfigError:
    return ConfigError(
        f"The name {host} does not tell its AWS region.",
        hint="Set credentials.region, or the variable AWS_REGION.",
    )
