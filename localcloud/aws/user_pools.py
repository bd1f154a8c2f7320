"""Cognito user pools in front of moto: refuses what AWS refuses and moto lets through, and adds RevokeToken.

Codes and messages are AWS's (Amazon Cognito user pools API reference). moto accepts any password by SRP, flows that the
app client does not allow, another client's refresh token, a new password for another user than the challenged one,
and any SMS code: none of it may make a test of a sign-in pass.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Any

from localcloud.aws.ec2_wire import Application, Environ, StartResponse, read_body, respond
from localcloud.aws.moto_backend import AppClient, MotoPools
from localcloud.errors import AwsError

TARGET = "AWSCognitoIdentityProviderService."
"""What the header X-Amz-Target of a request starts with, signed or not."""
_FLOWS = {
    "USER_PASSWORD_AUTH": "ALLOW_USER_PASSWORD_AUTH",
    "REFRESH_TOKEN_AUTH": "ALLOW_REFRESH_TOKEN_AUTH",
    "REFRESH_TOKEN": "ALLOW_REFRESH_TOKEN_AUTH",
}
_CHALLENGES = {"NEW_PASSWORD_REQUIRED", "SOFTWARE_TOKEN_MFA"}
Params = dict[str, Any]


class UserPoolGuards:
    """A WSGI application."""

    def __init__(self, app: Application, pools: MotoPools) -> None:
        self._app, self._pools = app, pools
        self._guards = {
            "InitiateAuth": self._initiate_auth,
            "RespondToAuthChallenge": self._respond_to_auth_challenge,
            "RevokeToken": self._revoke_token,
            "GlobalSignOut": self._global_sign_out,
        }

    def __call__(self, environ: Environ, start: StartResponse) -> Iterable[bytes]:
        """Answer one request to Cognito."""
        guard = self._guards.get(environ["HTTP_X_AMZ_TARGET"].removeprefix(TARGET))
        if guard is None:
            return self._app(environ, start)
        try:
            answered = guard(_params(read_body(environ)))
        except AwsError as refusal:
            body = {"__type": refusal.code, "message": str(refusal)}
            return respond(start, json.dumps(body).encode(), refusal.status, "application/x-amz-json-1.1")
        if answered:
            return respond(start, b"{}", 200, "application/x-amz-json-1.1")
        return self._app(environ, start)

    def _client(self, params: Params) -> AppClient:
        client_id = str(params.get("ClientId", ""))
        client = self._pools.client(client_id)
        if client is None:
            raise AwsError("ResourceNotFoundException", f"User pool client {client_id} does not exist.")
        return client

    def _initiate_auth(self, params: Params) -> bool:
        client, flow = self._client(params), str(params.get("AuthFlow", ""))
        given = params.get("AuthParameters") or {}
        if flow not in _FLOWS or _FLOWS[flow] not in client.auth_flows:
            raise AwsError("InvalidParameterException", f"{flow} flow not enabled for this client")
        if client.has_secret and not given.get("SECRET_HASH"):
            message = f"Client {client.client_id} is configured with secret but SECRET_HASH was not received"
            raise AwsError("NotAuthorizedException", message)
        if flow != "USER_PASSWORD_AUTH":
            owner = self._pools.refresh_token_client(client.pool_id, str(given.get("REFRESH_TOKEN", "")))
            if owner != client.client_id:
                raise AwsError("NotAuthorizedException", "Invalid Refresh Token")
        return False

    def _respond_to_auth_challenge(self, params: Params) -> bool:
        self._client(params)
        challenge, given = params.get("ChallengeName"), params.get("ChallengeResponses") or {}
        if challenge not in _CHALLENGES:
            raise AwsError("InvalidParameterException", f"localcloud does not answer the challenge {challenge}")
        challenged = self._pools.challenged_user(str(params.get("Session", "")))
        if challenged is None or challenged != given.get("USERNAME"):
            raise AwsError("NotAuthorizedException", "Invalid session for the user.")
        return False

    def _revoke_token(self, params: Params) -> bool:
        client, token = self._client(params), str(params.get("Token", ""))
        # A token that is unknown or was revoked is no error; only another client's is.
        owner = self._pools.refresh_token_client(client.pool_id, token)
        if owner is not None and owner != client.client_id:
            raise AwsError("UnauthorizedException", "The token was not issued to this client.")
        if owner is not None:
            self._pools.revoke(client.pool_id, token)
        return True

    def _global_sign_out(self, params: Params) -> bool:
        try:
            _, claims, _ = str(params.get("AccessToken", "")).split(".")
            origin = str(json.loads(base64.urlsafe_b64decode(claims + "=="))["origin_jti"])
        except (ValueError, KeyError, TypeError):
            raise AwsError("NotAuthorizedException", "Invalid Access Token") from None
        if self._pools.is_of_hosted_page(origin):
            raise AwsError("NotAuthorizedException", "Access Token does not have required scopes")
        return False


def _params(body: bytes) -> Params:
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise AwsError("SerializationException", "The request is not a JSON object.")
    return found
