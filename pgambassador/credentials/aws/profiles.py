"""AWS credentials by botocore: profiles, SSO, processes and assumed roles.

Only here is botocore imported, and only when such credentials are first asked for.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pgambassador.config.aws import Aws
from pgambassador.credentials.aws.sigv4 import Keys
from pgambassador.errors import AmbassadorError, ConfigError, Unreachable

# Keys of a profile that tell where credentials are; others (region, output …) do not concern us.
_TELLING = frozenset(
    (
        *("aws_access_key_id", "role_arn", "web_identity_token_file", "credential_process"),
        *("sso_session", "sso_start_url", "sso_account_id", "login_session"),
    )
)


def reason(options: Aws, environ: Mapping[str, str]) -> str | None:
    """What asks for botocore, or None. As in its chain keys in variables win, except over a named profile."""
    if options.profile is not None:
        return f"the AWS profile {options.profile!r}"
    if options.role_arn is not None:
        return f"the AWS role {options.role_arn}"
    if environ.get("AWS_ACCESS_KEY_ID"):
        return None
    if named := environ.get("AWS_PROFILE") or environ.get("AWS_DEFAULT_PROFILE"):
        return f"the AWS profile {named!r} (AWS_PROFILE)"
    for variable, usual in (
        ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
        ("AWS_CONFIG_FILE", "~/.aws/config"),
    ):
        path = os.path.expanduser(environ.get(variable) or usual)
        if os.path.isfile(path) and _tells(path):
            return f"the default profile in {path}"
    return None


def _tells(path: str) -> bool:
    """Whether the default profile of the file has to do with credentials. What cannot be read may."""
    import configparser

    parser = configparser.RawConfigParser(default_section="", strict=False, allow_no_value=True)
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, OSError, ValueError):
        return True
    return any(
        _TELLING & set(parser.options(section))
        for section in ("default", "profile default")
        if parser.has_section(section)
    )


def require(what: str) -> None:
    """ConfigError if botocore is not installed."""
    if importlib.util.find_spec("botocore") is None:
        raise ConfigError(
            f"{what[0].upper()}{what[1:]} needs botocore, which is not installed.",
            hint="Run: pip install 'pgambassador[aws]'",
        )


def fetch(options: Aws, region: str | None) -> Keys:
    """Ask botocore; blocks."""
    import botocore.config
    import botocore.session
    from botocore.exceptions import BotoCoreError, ClientError

    # At the level of debug it logs what it sends and receives, keys and tokens included.
    logging.getLogger("botocore").setLevel(logging.CRITICAL)
    try:
        session = botocore.session.Session(profile=options.profile)
        _ask_nobody(session)
        limits = botocore.config.Config(connect_timeout=3, read_timeout=4, retries={"total_max_attempts": 2})
        session.set_default_client_config(limits)
        if region is not None:
            session.set_config_variable("region", region)
        if options.role_arn is not None:
            return _assume(session, options)
        found = session.get_credentials()
        frozen = found and found.get_frozen_credentials()
        if not frozen or not frozen.access_key or not frozen.secret_key:
            raise ConfigError(
                "No AWS credentials were found.",
                hint="Log in (aws sso login), or correct the profile; aws sts get-caller-identity shows it.",
            )
        # Only credentials that renew themselves have it, and nothing public tells it.
        ends = getattr(found, "_expiry_time", None)
        return Keys(
            frozen.access_key,
            frozen.secret_key,
            frozen.token or None,
            ends.timestamp() if isinstance(ends, datetime) else None,
        )
    except (BotoCoreError, ClientError) as error:
        raise _explain(error, options) from None
    except (OSError, ValueError) as error:
        raise _of_profile(error) from None


def _ask_nobody(session: Any) -> None:
    """For a role with a second factor botocore would ask at the terminal, if there is one."""

    def refuse(prompt: str) -> str:
        raise ConfigError(
            "The AWS profile wants the code of a second factor (mfa_serial), and nobody is here to type it.",
            hint="Use a role that needs none, or a profile that is logged in already (aws sso login).",
        )

    for provider in session.get_component("credential_provider").providers:
        if hasattr(provider, "_prompter"):
            provider._prompter = refuse


def _assume(session: Any, options: Aws) -> Keys:
    wanted = {"RoleArn": options.role_arn, "RoleSessionName": options.session_name}
    if options.external_id is not None:
        wanted["ExternalId"] = options.external_id
    answer = session.create_client("sts").assume_role(**wanted)["Credentials"]
    return Keys(
        answer["AccessKeyId"],
        answer["SecretAccessKey"],
        answer["SessionToken"],
        answer["Expiration"].timestamp(),
    )


_ASK = "aws sts get-caller-identity, with the same profile and variables, shows more."
_FOREVER: Mapping[str, tuple[str, str]] = {
    "ProfileNotFound": ("There is no such AWS profile", "Correct credentials.profile, or ~/.aws/config."),
    "NoCredentialsError": ("There are no AWS credentials to assume the role with", _ASK),
    "PartialCredentialsError": ("The AWS credentials are not complete", _ASK),
    "ParamValidationError": ("AWS STS cannot be asked for the role", "Correct role_arn and external_id."),
    "NoRegionError": ("There is no AWS region to ask for the role in", "Set credentials.region."),
    "UnauthorizedSSOTokenError": ("The AWS SSO login has expired", "Run: aws sso login"),
    "SSOTokenLoadError": ("There is no AWS SSO login", "Run: aws sso login"),
    "TokenRetrievalError": ("The AWS SSO login has expired", "Run: aws sso login"),
    "InvalidConfigError": ("The AWS profile is not complete", "Correct ~/.aws/config."),
    "ConfigParseError": ("An AWS configuration file cannot be read", "Correct ~/.aws/config."),
}
_PASSING = frozenset(("Throttling", "ThrottlingException", "RequestLimitExceeded", "ServiceUnavailable"))


def _explain(error: Exception, options: Aws) -> AmbassadorError:
    """Never in botocore's words: they may hold what a credential process has printed."""
    kind = type(error).__name__
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):
        code = str(answer.get("Error", {}).get("Code", "no code"))[:64]
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        who = f"the role {options.role_arn}" if options.role_arn else "the AWS credentials"
        if status >= 500 or code in _PASSING:
            return Unreachable(f"AWS could not serve {who} ({code})", hint="Wait; it is asked again.")
        hints = {
            "AccessDenied": "Its trust policy must name this identity, whose own must allow sts:AssumeRole.",
            "SignatureDoesNotMatch": "Check the secret key, and the clock here.",
            "ExpiredToken": "Renew the credentials that the role is assumed with.",
        }
        return ConfigError(f"AWS refused {who} ({code}).", hint=hints.get(code, _ASK))
    for base in type(error).__mro__:
        if base.__name__ in _FOREVER:
            sentence, hint = _FOREVER[base.__name__]
            return ConfigError(f"{sentence}.", hint=hint)
    return Unreachable(f"no AWS credentials from botocore ({kind})", hint=_ASK)


def _of_profile(error: OSError | ValueError) -> AmbassadorError:
    """Whatever botocore does not expect of what a profile names; its own errors have classes of its own."""
    if isinstance(error, OSError):
        reason = (error.strerror or type(error).__name__).lower()
        return ConfigError(
            f"The AWS profile names a program or a file that cannot be used ({reason}).",
            hint="Correct credential_process or web_identity_token_file in ~/.aws/config.",
        )
    return ConfigError(
        f"What the AWS profile leads to is not understood ({type(error).__name__}).",
        hint="Look at what its credential_process prints: JSON with AccessKeyId and SecretAccessKey.",
    )
