"""User pools of localcloud in this process, on a real socket: moto behind our guards, and the hosted pages."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit

import boto3
import httpx
from botocore import UNSIGNED
from botocore.config import Config
from werkzeug.serving import make_server

from localcloud.aws import moto_backend
from localcloud.aws.cloud import front_of
from localcloud.aws.ec2_wire import Application, Environ, StartResponse
from localcloud.aws.hosted_ui import HostedUi
from localcloud.aws.user_pools import UserPoolGuards
from localcloud.stack.sign_in import LocalPool, add_client, add_user, open_pool
from tests.patience import PATIENCE

if TYPE_CHECKING:
    from mypy_boto3_cognito_idp import CognitoIdentityProviderClient

REGION = "us-east-1"
SERVER = "http://127.0.0.1:1234"
CALLBACK = f"{SERVER}/api/v1/auth/callback"


def challenge_of(verifier: str) -> str:
    """PKCE's S256."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")


@dataclass
class PoolBed:
    """What a test has at hand: a pool with ann (admin), vic (viewer) and noe (no group), each with PASSWORD."""

    url: str
    admin: CognitoIdentityProviderClient
    unsigned: CognitoIdentityProviderClient
    pool: LocalPool
    http: httpx.Client
    clock: list[float]

    PASSWORD = "Long-Enough-1"

    def another_pool(self) -> LocalPool:
        """A second pool with ann of the same password in it."""
        pool_id = self.admin.create_user_pool(PoolName=f"other-{secrets.token_hex(4)}")["UserPool"]["Id"]
        self.admin.create_group(UserPoolId=pool_id, GroupName="admin")
        add_user(self.admin, pool_id, "ann", self.PASSWORD, ["admin"])
        return LocalPool(REGION, pool_id, add_client(self.admin, pool_id, [SERVER]), f"{self.url}/_hosted/{pool_id}")

    def tokens(self, username: str = "ann", pool: LocalPool | None = None, client_id: str = "") -> dict[str, Any]:
        """What a sign-in by password gives: IdToken, AccessToken, RefreshToken."""
        client_id = client_id or (pool or self.pool).client_id
        given = {"USERNAME": username, "PASSWORD": self.PASSWORD}
        answer = self.unsigned.initiate_auth(ClientId=client_id, AuthFlow="USER_PASSWORD_AUTH", AuthParameters=given)
        return dict(answer["AuthenticationResult"])

    def authorize(self, verifier: str, **changes: str) -> str:
        """The address of the hosted form."""
        asked = {
            "response_type": "code",
            "client_id": self.pool.client_id,
            "redirect_uri": CALLBACK,
            "scope": "openid",
            "state": "s",
            "nonce": "n",
            "code_challenge": challenge_of(verifier),
            "code_challenge_method": "S256",
        }
        return f"{self.pool.domain}/oauth2/authorize?{urlencode(asked | changes)}"

    def fill_in(self, address: str, username: str = "ann", password: str = PASSWORD) -> httpx.Response:
        """What a person does at the hosted form that stands at `address`."""
        shown = self.http.get(address)
        assert shown.status_code == 200, shown.text
        action = re.search(r'action="([^"]+)"', shown.text)
        assert action is not None
        where = address.split("?")[0] + action[1].replace("&amp;", "&")
        return self.http.post(where, data={"username": username, "password": password})

    def code(self, verifier: str, **changes: str) -> str:
        """A code for ann."""
        back = self.fill_in(self.authorize(verifier, **changes))
        assert back.status_code == 302, back.text
        return parse_qs(urlsplit(back.headers["location"]).query)["code"][0]

    def redeem(self, code: str, verifier: str, /, **changes: str) -> httpx.Response:
        """Ask the token endpoint."""
        form = {
            "grant_type": "authorization_code",
            "client_id": self.pool.client_id,
            "redirect_uri": CALLBACK,
            "code": code,
            "code_verifier": verifier,
        }
        return self.http.post(f"{self.pool.domain}/oauth2/token", data=form | changes)


@contextmanager
def pool_bed() -> Iterator[PoolBed]:
    """Serve until the end of the block."""
    clock = [1000.0]
    moto: Application = moto_backend.application()
    pools = moto_backend.MotoPools(REGION)
    fronts: dict[str, Application] = {
        "cognito-idp": UserPoolGuards(moto, pools),
        "_hosted": HostedUi(pools, lambda: clock[0]),
    }

    def app(environ: Environ, start: StartResponse) -> Iterable[bytes]:
        return fronts.get(front_of(environ), moto)(environ, start)

    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=moto_backend.RequestHandler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    admin = boto3.Session("x", "x", region_name=REGION).client("cognito-idp", endpoint_url=url)
    unsigned = boto3.client(
        "cognito-idp",
        region_name=REGION,
        endpoint_url=url,
        config=Config(signature_version=UNSIGNED, retries={"total_max_attempts": 1}),
    )
    try:
        pool = open_pool(admin, url, [SERVER])
        for username, groups in (("ann", ["admin"]), ("vic", ["viewer"]), ("noe", [])):
            add_user(admin, pool.user_pool_id, username, PoolBed.PASSWORD, groups)
        with httpx.Client(timeout=PATIENCE) as http:
            yield PoolBed(url, admin, unsigned, pool, http, clock)
    finally:
        admin.close()
        unsigned.close()
        server.shutdown()
        thread.join()
        server.server_close()
