"""The installer fetches the release from S3 by curl alone, with the instance's role, and signs as botocore would."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.release.machine import machine

REGION, ROLE, BUCKET = "eu-central-1", "instances", "releases"
KEY = Credentials("AKIAEXAMPLE", "secret/with+signs=", "a-session-token")
pytestmark = [pytest.mark.timeout(1200)]


class Cloud:
    """The metadata service and S3 at one address. `refused` says what was wrong with a request."""

    def __init__(self, release: Path) -> None:
        self.refused: list[str] = []
        cloud = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                self._say(b"metadata-token")

            def do_GET(self) -> None:
                if self.path.startswith(f"/{BUCKET}/"):
                    cloud._check(self)
                    self._say((release / Path(self.path).name).read_bytes())
                elif self.headers.get("X-aws-ec2-metadata-token") == "metadata-token":
                    self._say(cloud._metadata(self.path.removeprefix("/latest/meta-data/")).encode())
                else:
                    self.send_error(401)

            def _say(self, content: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def _metadata(self, path: str) -> str:
        keys = {"AccessKeyId": KEY.access_key, "SecretAccessKey": KEY.secret_key, "Token": KEY.token}
        answers = {
            "iam/security-credentials/": ROLE,
            f"iam/security-credentials/{ROLE}": json.dumps({"Code": "Success", "Type": "AWS-HMAC", **keys}, indent=2),
            "placement/region": REGION,
        }
        return answers[path]

    def _check(self, asked: BaseHTTPRequestHandler) -> None:
        """Its signature against botocore's over the same headers."""
        said = asked.headers["Authorization"]
        fields = dict(part.strip().split("=", 1) for part in said.partition(" ")[2].split(","))
        signed = {name: asked.headers[name] for name in fields["SignedHeaders"].split(";") if name != "host"}
        request = AWSRequest("GET", f"{self.url}{urlsplit(asked.path).path}", headers=signed)
        request.context["timestamp"] = asked.headers["X-Amz-Date"]
        auth = S3SigV4Auth(KEY, "s3", REGION)
        expected = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
        if fields["Signature"] != expected:
            self.refused.append(f"the signature of {said} over {signed}")
        wanted = {"x-amz-content-sha256", "x-amz-security-token"}
        if missing := wanted - set(fields["SignedHeaders"].split(";")):
            self.refused.append(f"not signed: {missing}")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def cloud(small: Path) -> Iterator[Cloud]:
    made = Cloud(small)
    yield made
    made.close()


def test_from_s3_with_the_instances_role(base: Path, place: Path, small: Path, cloud: Cloud) -> None:
    with machine(base, place / "machine", small, own_network=False) as debian:
        argv = ["sh", "/release/perdure-install", "--from", f"s3://{BUCKET}/perdure", "--temporal", "t:7233"]
        done = debian.run(*argv, AWS_EC2_METADATA_SERVICE_ENDPOINT=cloud.url, AWS_ENDPOINT_URL_S3=cloud.url)
        assert done.status == 0, done.said
        assert debian.at("/opt/perdure/current").is_symlink()
        assert KEY.secret_key not in done.said
    assert cloud.refused == []
