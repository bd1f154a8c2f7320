"""A store in an S3 bucket. Only this module knows boto3.

Every object is one PUT (packs have at most 16 MiB), so no multipart upload is ever begun, and none can be left behind.
Bodies go past boto3: signed by botocore, sent by urllib3 as they lie in memory. boto3's own transfer copies and hashes
them several times (docs/performance.md, "Stores").
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Literal, cast
from urllib.parse import quote

import urllib3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.httpsession import get_cert_path
from botocore.session import get_session
from botocore.utils import get_environ_proxies

from perdure.domain.errors import ObjectExists, ObjectMissing, StoreFailed, StoreRefused, StoreUnavailable
from perdure.domain.store_costs import S3
from perdure.stores.meter import Meter
from perdure.stores.objects import Content, Listed, Objects, check_key, check_prefix

_CONNECT, _READ = 5.0, 20.0
"""Seconds."""
_AT_ONCE = 32
"""Connections kept; who transfers decides how many are used."""
_MOST_DELETED = 1000
"""Keys in one DeleteObjects (S3 API reference)."""
_CODE = re.compile(rb"<Code>([A-Za-z0-9]{1,64})</Code>")
_PASSES = {"InternalError", "SlowDown", "ServiceUnavailable", "RequestTimeout", "ConditionalRequestConflict"}
_PASSES |= {"OperationAborted", "Throttling", "ThrottlingException", "RequestTimeTooSkewed", "ExpiredToken"}
"""S3's words for what may succeed later (S3 API reference, "Error responses"); credentials are fetched anew."""
_PROBE = "perdure-probe"
_ENCRYPTION = "x-amz-server-side-encryption"


class S3Objects(Objects):
    """Objects below `prefix` (empty, or ending with `/`) of a bucket. Credentials, region and endpoint as boto3 finds
    them; an empty `region` or `endpoint` leaves them to it. `kms_key` (an id, ARN or alias): objects are encrypted with
    that key. `owner` (an account id): S3 refuses if the bucket belongs to another account."""

    def __init__(
        self, bucket: str, prefix: str = "", *, region: str = "", endpoint: str = "", kms_key: str = "", owner: str = ""
    ) -> None:
        self._bucket, self._prefix = bucket, check_prefix(prefix)
        self._kms_key, self._owner = kms_key, owner
        self._meter = Meter()
        self._session: Any = get_session()
        config = Config(
            connect_timeout=_CONNECT,
            read_timeout=_READ,
            retries={"total_max_attempts": 1},  # perdure.stores.patience tries again, with our own limits
            s3={"payload_signing_enabled": False},
        )
        try:
            client: Any = self._session.create_client(
                "s3", region_name=region or None, endpoint_url=endpoint or None, config=config
            )
            self._client, self._base = (
                client,
                client.generate_presigned_url(
                    "get_object", Params={"Bucket": bucket, "Key": _PROBE}, ExpiresIn=60
                ).partition(f"/{_PROBE}?")[0],
            )
        except BotoCoreError as error:
            raise StoreRefused(f"{self.place} cannot be reached: {error}") from error
        self._region: str = self._client.meta.region_name
        verify = self._session.get_config_variable("ca_bundle") or get_cert_path(True)
        proxy = get_environ_proxies(self._base).get(self._base.partition(":")[0])  # HTTPS_PROXY, NO_PROXY, as boto3
        made_by = partial(urllib3.ProxyManager, proxy) if proxy else urllib3.PoolManager
        self._http = made_by(
            maxsize=_AT_ONCE,
            timeout=urllib3.Timeout(connect=_CONNECT, read=_READ),
            retries=False,
            cert_reqs="CERT_REQUIRED",
            ca_certs=verify,
        )

    @property
    def place(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}"

    def counted_by(self, meter: Meter) -> S3Objects:
        meter.store, meter.region = S3, self._region
        counted = copy.copy(self)
        counted._meter = meter
        return counted

    def put(self, key: str, content: Content) -> None:
        self._send("PUT", key, self._encryption(), content)

    def put_new(self, key: str, content: Content) -> None:
        self._send("PUT", key, {**self._encryption(), "If-None-Match": "*"}, content)

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        last = "" if length is None else str(offset + length - 1)
        ranged = {"Range": f"bytes={offset}-{last}"} if offset or length is not None else {}
        status, content = self._send("GET", key, ranged)
        if status == 416:  # it ends before
            return b""
        return content if status == 206 else content[offset : None if length is None else offset + length]

    def list(self, prefix: str) -> Iterator[Listed]:
        where = self._prefix + check_prefix(prefix)
        token: dict[str, str] = {}
        while True:
            page = self._ask("list_objects_v2", Prefix=where, **token)
            for one in page.get("Contents", ()):
                yield Listed(one["Key"].removeprefix(self._prefix), one["Size"])
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, keys: Iterable[str]) -> None:
        for some in batched_keys(keys):
            objects = [{"Key": self._prefix + check_key(key)} for key in some]
            answer = self._ask("delete_objects", Delete={"Objects": objects, "Quiet": True})
            for error in answer.get("Errors", ()):
                raise self._error(error.get("Key", ""), error.get("Code", ""), 0)

    def check(self) -> None:
        self._ask("list_objects_v2", Prefix=self._prefix, MaxKeys=1)

    def close(self) -> None:
        self._http.clear()
        self._client.close()

    def _encryption(self) -> dict[str, str]:
        if not self._kms_key:
            return {}  # the bucket's own default holds
        return {_ENCRYPTION: "aws:kms", f"{_ENCRYPTION}-aws-kms-key-id": self._kms_key}

    def _send(
        self, method: Literal["PUT", "GET"], key: str, headers: dict[str, str], body: Content | None = None
    ) -> tuple[int, bytes]:
        if self._owner:
            headers = {**headers, "x-amz-expected-bucket-owner": self._owner}
        url = f"{self._base}/{quote(self._prefix + check_key(key))}"
        try:
            signed, sent = self._signed(method, url, headers), cast(bytes, body)  # any buffer will do
            answer = self._http.request(method, url, headers=signed, body=sent, redirect=False)
            status, content = answer.status, answer.data
            self._count(method, status, answer.headers)
        except urllib3.exceptions.HTTPError as error:
            raise StoreUnavailable(f"{self.place}{key}: {error}") from error
        except BotoCoreError as error:
            raise StoreUnavailable(f"{self.place}{key}: no credentials: {error}") from error
        if status in (200, 204, 206) or (status == 416 and method == "GET"):
            return status, content
        found = _CODE.search(content[:4096])
        raise self._error(key, found[1].decode() if found else "", status)

    def _count(self, method: str, status: int, headers: Mapping[str, str]) -> None:
        """S3 bills what it answered but for its own errors, 4xx too (S3 user guide, "Billing for Amazon S3 error
        responses"). It says in each answer whether KMS was asked: not each time if the bucket has a key of its own."""
        if status < 500:
            by_kms = headers.get(_ENCRYPTION, "").startswith("aws:kms")
            by_bucket = headers.get(f"{_ENCRYPTION}-bucket-key-enabled", "").lower() == "true"
            reads, keys = int(method == "GET"), int(by_kms and not by_bucket)
            self._meter.asked(writes=1 - reads, reads=reads, key_requests=keys)

    def _signed(self, method: str, url: str, headers: dict[str, str]) -> dict[str, str]:
        credentials = self._session.get_credentials()
        if credentials is None:
            raise StoreRefused(f"{self.place}: there are no AWS credentials; give the instance a role that may use it")
        request = AWSRequest(method=method, url=url, headers=headers)
        request.context["client_config"] = self._client.meta.config
        S3SigV4Auth(credentials.get_frozen_credentials(), "s3", self._region).add_auth(request)
        return dict(request.headers.items())

    def _ask(self, operation: str, **parameters: Any) -> dict[str, Any]:
        if self._owner:
            parameters["ExpectedBucketOwner"] = self._owner
        try:
            answer: dict[str, Any] = getattr(self._client, operation)(Bucket=self._bucket, **parameters)
            self._count_asked(operation, 200)
            return answer
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            self._count_asked(operation, status)
            raise self._error("", code, status) from error
        except BotoCoreError as error:
            raise StoreUnavailable(f"{self.place}: {error}") from error

    def _count_asked(self, operation: str, status: int) -> None:
        """A listing is billed as a write, a deletion is not billed (S3's pricing page)."""
        if status < 500 and operation != "delete_objects":
            self._meter.asked(writes=1)

    def _error(self, key: str, code: str, status: int) -> StoreFailed:
        where = f"{self.place}{key.removeprefix(self._prefix)}"
        if code in _PASSES or (status in {408, 409, 429} or status >= 500):
            return StoreUnavailable(f"{where}: S3 answered {code or status}")
        if status == 412 or code == "PreconditionFailed":
            return ObjectExists(f"{where} exists already")
        if code == "NoSuchBucket":
            return StoreRefused(f"{where}: there is no bucket {self._bucket}")
        if status == 404:
            return ObjectMissing(f"{where} does not exist")
        if status == 403 or code == "AccessDenied":
            owner = f", and that account {self._owner} owns the bucket" if self._owner else ""
            said = f"{where}: S3 answered {code or status}. Look whether the instance's role may use this place{owner}"
            return StoreRefused(said)
        return StoreRefused(f"{where}: S3 answered {code or status}")


def batched_keys(keys: Iterable[str]) -> Iterator[list[str]]:
    """As many keys as one DeleteObjects takes."""
    some: list[str] = []
    for key in keys:
        some.append(key)
        if len(some) == _MOST_DELETED:
            yield some
            some = []
    if some:
        yield some
