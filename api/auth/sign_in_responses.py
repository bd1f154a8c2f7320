"""The wire of signing in: what is sent, and what it answers."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.auth.principals import Role
from api.wire.responses import Wire

Keep = Annotated[
    Literal["tokens", "cookie"],
    Field(
        description="`tokens`: they are in the answer, for programs; send the ID token as `Authorization: Bearer`."
        " `cookie`: a session begins, for browsers, and no token leaves the server."
    ),
]
Username = Annotated[
    str, Field(min_length=1, max_length=128, description="As the user pool knows it.", examples=["ann"])
]
Secret = Annotated[str, Field(min_length=1, max_length=256)]


class _Wish(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class PasswordSignIn(_Wish):
    """A user name and its password."""

    username: Username
    password: Secret = Field(description="It goes to Cognito, and is kept nowhere.")
    keep: Keep = "tokens"


class TokenSignIn(_Wish):
    """An API token, for a browser."""

    token: str = Field(min_length=1, max_length=256, description="A browser's cookie holds it; scripts cannot read it.")


class ChallengeAnswer(_Wish):
    """What the user pool asked for. `challenge`, `challenge_session` and `username` come from the answer before."""

    challenge: Literal["NEW_PASSWORD_REQUIRED", "SMS_MFA", "SOFTWARE_TOKEN_MFA", "EMAIL_OTP"]
    challenge_session: str = Field(min_length=20, max_length=4096)
    username: Username
    answer: Secret = Field(description="The new password, or the code.")
    keep: Keep = "tokens"


class Refresh(_Wish):
    """A refresh token; leave it out to have a browser's session look its groups up again now."""

    refresh_token: str | None = Field(None, min_length=1, max_length=8192)


class SignOut(_Wish):
    """What to end. Without a body: this browser's session."""

    refresh_token: str | None = Field(None, min_length=1, max_length=8192, description="Of a program: it is revoked.")
    everywhere: bool = Field(False, description="Every session of this person, here and with Cognito.")


class Me(Wire):
    """Who is signed in."""

    name: str = Field(examples=["ann"])
    role: Role
    via: str = Field(description="`cognito`, `token`, or `loopback` while no sign-in is set up.")
    groups: list[str] | None = Field(
        None, description="Of a browser's session: groups in the pool when last looked up."
    )
    session_ends_at: datetime | None = Field(None, description="Of a browser's session: UTC, however busy it is.")
    idle_limit_seconds: int | None = Field(None, description="Of a browser's session: unused for so long, it ends.")


class SignInMethods(Wire):
    """How one can sign in here. Public: a sign-in page needs it."""

    enabled: bool = Field(description="Is there a sign-in at all? False: only API tokens, or loopback without either.")
    hosted: bool = Field(description="Is there a hosted page: GET /api/v1/auth/hosted?")
    region: str | None = Field(description="Of the user pool.", examples=["us-east-1"])
    user_pool_id: str | None = Field(examples=["us-east-1_aB3"])
    client_id: str | None = Field(description="Public: programs sign in with it, too.", examples=["4a"])
    domain: str | None = Field(description="Base URL of the hosted page.")
    me: Me | None = Field(None, description="Who asks; null: nobody is signed in.")


class ChallengeView(Wire):
    """What the user pool asks for before it lets anybody in. Good for a few minutes."""

    challenge: str = Field(examples=["NEW_PASSWORD_REQUIRED"])
    challenge_session: str
    username: str


class TokensView(Wire):
    """Tokens of the user pool. Keep them as you would a password."""

    id_token: str
    access_token: str
    refresh_token: str | None = Field(description="Null when it was used to get these: the one you have stays good.")
    expires_in: int = Field(description="Seconds.", examples=[3600])


class SignedIn(Wire):
    """Either `challenge` is set: answer it at POST /api/v1/auth/challenge. Or somebody is signed in."""

    challenge: ChallengeView | None = None
    me: Me | None = None
    tokens: TokensView | None = None
