"""`perdure local sign-in`: a user pool for the stack, somebody in it, and the stack's own server told to ask for them.

The pool is made through boto3 as a person would make it on AWS (docs/sign-in.md has the same as commands).
"""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from localcloud.aws.hosted_ui import PREFIX
from localcloud.stack.stack import StackPlace
from perdure.domain.errors import StackError
from perdure.private_files import write_private

if TYPE_CHECKING:
    from mypy_boto3_cognito_idp import CognitoIdentityProviderClient

    from localcloud.stack.client import StackClient

POOL = "perdure"
GROUPS = ("admin", "viewer")
CALLBACK = "/api/v1/auth/callback"


def set_up(stack: StackClient, place: StackPlace, username: str, password: str, groups: list[str]) -> str:
    """Have the stack's server ask for sign-in, and let this user in; where to sign in. Twice adds another user.

    `perdure local …` gets an API token of its own first, kept in the stack's folder, and goes on to work. StackError.
    """
    cognito, server = stack.cognito, str(stack.state.api_url)
    pool = open_pool(cognito, str(stack.state.aws_endpoint_url), [server, server.replace("127.0.0.1", "localhost")])
    add_user(cognito, pool.user_pool_id, username, password, groups)
    if not stack.asked("GET", "/api/v1/auth")["enabled"]:
        wish = {"name": "perdure local", "role": "admin", "expires_in_seconds": "8760h"}
        _keep_token(stack, place, str(stack.asked("POST", "/api/v1/tokens", json=wish)["token"]))
        form = {
            "region": pool.region,
            "userPoolID": pool.user_pool_id,
            "clientID": pool.client_id,
            "domain": pool.domain,
            "adminGroups": ["admin"],
        }
        stack.asked("PUT", "/api/v1/security/cognito", json=form)
    return f"{server}/sign-in"


def made_up_password() -> str:
    """One that every password policy takes."""
    return f"{secrets.token_urlsafe(12)}-aA1"


def _keep_token(stack: StackClient, place: StackPlace, token: str) -> None:
    """For later commands: readable by its owner alone."""
    try:
        write_private(place.token_file, token.encode())
    except OSError as problem:
        raise StackError(f"{place.token_file} cannot be written: {problem}") from problem
    stack.token = token


@dataclass(frozen=True)
class LocalPool:
    """What a server is told of a pool."""

    region: str
    user_pool_id: str
    client_id: str
    domain: str


def open_pool(cognito: CognitoIdentityProviderClient, endpoint_url: str, servers: list[str]) -> LocalPool:
    """The stack's pool, made if it is not there: groups, and one app client for the servers at these URLs."""
    region = cognito.meta.region_name
    pools = cognito.list_user_pools(MaxResults=60)["UserPools"]
    pool_id = next((pool["Id"] for pool in pools if pool["Name"] == POOL), None)
    if pool_id is None:
        pool_id = cognito.create_user_pool(PoolName=POOL)["UserPool"]["Id"]
        for group in GROUPS:
            cognito.create_group(UserPoolId=pool_id, GroupName=group)
    clients = cognito.list_user_pool_clients(UserPoolId=pool_id, MaxResults=60)["UserPoolClients"]
    client_id = clients[0]["ClientId"] if clients else add_client(cognito, pool_id, servers)
    return LocalPool(region, pool_id, client_id, f"{endpoint_url}{PREFIX}{pool_id}")


def add_client(
    cognito: CognitoIdentityProviderClient, pool_id: str, servers: list[str], *, secret: bool = False
) -> str:
    """An app client that may sign in by password and by code; its id."""
    made = cognito.create_user_pool_client(
        UserPoolId=pool_id,
        ClientName=f"perdure-{secrets.token_hex(4)}",
        GenerateSecret=secret,
        ExplicitAuthFlows=["ALLOW_USER_PASSWORD_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"],
        AllowedOAuthFlowsUserPoolClient=True,
        AllowedOAuthFlows=["code"],
        AllowedOAuthScopes=["openid"],
        SupportedIdentityProviders=["COGNITO"],
        CallbackURLs=[server + CALLBACK for server in servers],
        LogoutURLs=[f"{server}/sign-in" for server in servers],
        PreventUserExistenceErrors="ENABLED",
    )
    return made["UserPoolClient"]["ClientId"]


def add_user(
    cognito: CognitoIdentityProviderClient,
    pool_id: str,
    username: str,
    password: str,
    groups: list[str],
    *,
    temporary: bool = False,
) -> None:
    """Somebody with that password, in those groups. A user who is there already gets the password and the groups.

    `temporary`: it must be replaced at the first sign-in.
    """
    with contextlib.suppress(cognito.exceptions.UsernameExistsException):
        cognito.admin_create_user(UserPoolId=pool_id, Username=username, MessageAction="SUPPRESS")
    cognito.admin_set_user_password(UserPoolId=pool_id, Username=username, Password=password, Permanent=not temporary)
    for group in groups:
        cognito.admin_add_user_to_group(UserPoolId=pool_id, Username=username, GroupName=group)
