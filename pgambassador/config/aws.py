"""The credentials that AWS has: `provider: aws-rds-iam`, `aws-dsql` and `aws-secretsmanager`."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from pgambassador.config.common import Common
from pgambassador.config.values import DurationOrZero


class Aws(Common, frozen=True, kw_only=True):
    """How to find AWS credentials; without any of these as the SDKs do."""

    region: Annotated[
        str | None, Meta(description="The AWS region, if the name of the host (or the ARN) does not tell it.")
    ] = None
    profile: Annotated[
        str | None, Meta(description="A profile of ~/.aws/config; needs pip install 'pgambassador[aws]'.")
    ] = None
    role_arn: Annotated[
        str | None, Meta(description="A role to assume; needs pip install 'pgambassador[aws]'.")
    ] = None
    external_id: Annotated[str | None, Meta(description="What the trust policy of role_arn asks for.")] = None
    session_name: Annotated[str, Meta(description="The name of the role's session, for CloudTrail.")] = (
        "pgambassador"
    )


class AwsRdsIamCredentials(Aws, frozen=True, kw_only=True, tag="aws-rds-iam"):
    """IAM tokens for RDS and Aurora; the user is that of the login."""

    maker: ClassVar[str] = "pgambassador.credentials.aws.rds:RdsIam"
    host: Annotated[
        str | None, Meta(description="The endpoint's own name, where the URL has a CNAME, an IP or a tunnel.")
    ] = None
    port: Annotated[
        Annotated[int, Meta(ge=1, le=65_535)] | None,
        Meta(description="The endpoint's own port, where a tunnel has another."),
    ] = None


class AwsDsqlCredentials(Aws, frozen=True, kw_only=True, tag="aws-dsql"):
    """IAM tokens for Aurora DSQL; the user `admin` gets those of DbConnectAdmin."""

    maker: ClassVar[str] = "pgambassador.credentials.aws.dsql:Dsql"
    host: Annotated[
        str | None, Meta(description="The cluster's own name, where the URL has a CNAME, an IP or a tunnel.")
    ] = None


class AwsSecretsManagerCredentials(Aws, frozen=True, kw_only=True, tag="aws-secretsmanager"):
    """User and password from a secret, through its rotations."""

    maker: ClassVar[str] = "pgambassador.credentials.aws.secretsmanager:SecretsManager"
    secret: Annotated[str, Meta(description="Its name or ARN.")]
    user_key: Annotated[str, Meta(description="Where the JSON secret has the user.")] = "username"
    password_key: Annotated[str, Meta(description="Where the JSON secret has the password.")] = "password"
    window: Annotated[
        DurationOrZero,
        Meta(
            description="How long a refused password is asked for again, since a rotation may be under way."
        ),
    ] = 120.0
