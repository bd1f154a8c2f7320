"""Asking a user pool in somebody's name: passwords, challenges, refresh, sign-out. No AWS credentials are needed.

Everything here blocks, with the client's time limits (cognito.py). Source: Amazon Cognito user pools API reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from api.auth.cognito import Pool
from perdure.domain.errors import CloudUnavailable, ConfigurationInvalid, NotSignedIn, PoolMisconfigured, TooManyTries

if TYPE_CHECKING:
    from mypy_boto3_cognito_idp.literals import ChallengeNameTypeType

CODE_CHALLENGES = {
    "SMS_MFA": "SMS_MFA_CODE",
    "SOFTWARE_TOKEN_MFA": "SOFTWARE_TOKEN_MFA_CODE",
    "EMAIL_OTP": "EMAIL_OTP_CODE",
}
"""Challenges that a code answers, and the name of the code in the answer."""
NEW_PASSWORD = "NEW_PASSWORD_REQUIRED"
KNOWN_CHALLENGES = {NEW_PASSWORD, *CODE_CHALLENGES}
WRONG = "The user name or the password is wrong, or this user may not sign in."
"""Said to all of them alike, so that nobody learns which names exist."""
_OVER = "That took too long, or was answered already; sign in again."


@dataclass(frozen=True)
class Tokens:
    """What a pool gives to somebody who signed in; `expires_in` in seconds. No refresh token comes from a refresh."""

    id_token: str
    access_token: str
    refresh_token: str | None
    expires_in: int


@dataclass(frozen=True)
class Challenge:
    """What the pool asks before it gives tokens; `session` and `username` go back with the answer."""

    name: str
    session: str
    username: str


def sign_in(pool: Pool, username: str, password: str) -> Tokens | Challenge:
    """By user name and password. NotSignedIn, PoolMisconfigured, TooManyTries, CloudUnavailable."""
    with _errors(WRONG):
        answer = pool.client().initiate_auth(
            ClientId=pool.configuration.client_id,
            AuthFlow="USER_PASSWORD_AUTH",
            AuthParameters={"USERNAME": username, "PASSWORD": password},
        )
    return _result(answer, username)


def answer_challenge(pool: Pool, challenge: Challenge, given: str) -> Tokens | Challenge:
    """`given`: the new password, or the code. NotSignedIn, ConfigurationInvalid for a password that the pool does not
    take, and what sign_in raises."""
    name: ChallengeNameTypeType = challenge.name  # type: ignore[assignment]
    field = "NEW_PASSWORD" if challenge.name == NEW_PASSWORD else CODE_CHALLENGES[challenge.name]
    with _errors(_OVER):
        answer = pool.client().respond_to_auth_challenge(
            ClientId=pool.configuration.client_id,
            ChallengeName=name,
            Session=challenge.session,
            ChallengeResponses={"USERNAME": challenge.username, field: given},
        )
    return _result(answer, challenge.username)


def refresh(pool: Pool, refresh_token: str) -> Tokens:
    """New ID and access tokens, with the groups as they are now. NotSignedIn when it is revoked or too old."""
    with _errors("The refresh token is not good any more; sign in again."):
        answer = pool.client().initiate_auth(
            ClientId=pool.configuration.client_id,
            AuthFlow="REFRESH_TOKEN_AUTH",
            AuthParameters={"REFRESH_TOKEN": refresh_token},
        )
    result = _result(answer, "")
    if isinstance(result, Challenge):
        raise NotSignedIn("The user pool asks for more than the refresh token; sign in again.")
    return result


def end(pool: Pool, refresh_token: str, *, everywhere: bool = False) -> None:
    """The refresh token is good for nothing from now on; `everywhere`: nor is any other of that person's.

    NotSignedIn when it was not good, or is not this client's; CloudUnavailable, …
    """
    if everywhere:
        tokens = refresh(pool, refresh_token)
        try:
            with _errors("The access token may not."):
                pool.client().global_sign_out(AccessToken=tokens.access_token)
            return
        except NotSignedIn:
            pass  # tokens of the hosted page lack the scope for it, aws.cognito.signin.user.admin: end these at least
    with _errors("The refresh token is not this application's."):
        pool.client().revoke_token(Token=refresh_token, ClientId=pool.configuration.client_id)


def _result(answer: Any, username: str) -> Tokens | Challenge:
    given = answer.get("AuthenticationResult")
    if given and given.get("IdToken") and given.get("AccessToken"):
        return Tokens(given["IdToken"], given["AccessToken"], given.get("RefreshToken"), int(given.get("ExpiresIn", 0)))
    name, session = answer.get("ChallengeName", ""), answer.get("Session", "")
    if name not in KNOWN_CHALLENGES:
        raise PoolMisconfigured(
            f"The user pool asks for {name or 'nothing that is known'}, which this sign-in cannot answer; "
            "use the hosted page, or set it up there first."
        )
    # Who signed in by an alias (an e-mail address) is to answer by the name that the pool has for them.
    return Challenge(name, session, answer.get("ChallengeParameters", {}).get("USER_ID_FOR_SRP") or username)


@contextmanager
def _errors(refused: str) -> Iterator[None]:
    """Cognito's errors as ours; `refused` is said whenever who asks is to blame."""
    try:
        yield
    except ParamValidationError:
        raise NotSignedIn(refused) from None
    except ClientError as problem:
        raise _translated(problem, refused) from None
    except BotoCoreError as problem:
        raise CloudUnavailable(
            f"Cognito does not answer: {type(problem).__name__}; try again in a moment."
        ) from problem


def _translated(problem: ClientError, refused: str) -> Exception:
    code, message = problem.response["Error"]["Code"], problem.response["Error"].get("Message", "")
    if code == "ResourceNotFoundException":
        return PoolMisconfigured("Cognito does not know this server's app client; its administrator must set it anew.")
    if "SECRET_HASH" in message:
        return PoolMisconfigured("The app client has a secret; Perdure needs one that was made without.")
    if code == "InvalidParameterException" and "not enabled" in message:
        return PoolMisconfigured(
            "The app client does not allow this way of signing in: it needs ALLOW_USER_PASSWORD_AUTH and "
            "ALLOW_REFRESH_TOKEN_AUTH. The hosted page may work all the same."
        )
    if code in {"TooManyRequestsException", "LimitExceededException", "TooManyFailedAttemptsException"}:
        return TooManyTries("Cognito takes no more tries at the moment; wait a minute.", 60)
    if code == "InvalidPasswordException":
        return ConfigurationInvalid(f"The new password is not taken: {message[:300]}")
    if code in {"CodeMismatchException", "ExpiredCodeException"}:
        return NotSignedIn("The code is wrong or too old.")
    if problem.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400) >= 500:
        return CloudUnavailable(f"Cognito fails: {code}; try again in a moment.")
    return NotSignedIn(refused)
