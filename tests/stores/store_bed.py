"""Stores to test against: a directory, localcloud's S3, a real S3 server, and any of them with faults."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import boto3
import pytest
from werkzeug.serving import make_server

from localcloud.aws import moto_backend
from localcloud.stack.waiting import free_port
from perdure.certificates import CertificateFiles
from perdure.domain.errors import StoreUnavailable
from perdure.stores.meter import Meter
from perdure.stores.objects import Content, Listed, Objects
from perdure.stores.s3 import S3Objects
from perdure.waiting import until
from tests.patience import PATIENCE

BUCKET = "perdure-tests"
ACCESS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-tests", "AWS_REGION": "us-east-1"}
ALL_STORES = ("directory", "localcloud", "seaweedfs")


class Crash(BaseException):
    """The process dies here: nothing catches it."""


class Faulty(Objects):
    """A store in which `before` and `after` happen around each call; each is told the call's name and key, and may
    raise. What is raised after a call: it took effect, and its caller does not know."""

    def __init__(
        self,
        store: Objects,
        before: Callable[[str, str], None] = lambda name, key: None,
        after: Callable[[str, str], None] = lambda name, key: None,
    ) -> None:
        self.store, self.before, self.after = store, before, after
        self.calls: list[tuple[str, str]] = []
        self._lock = threading.Lock()

    @property
    def place(self) -> str:
        return self.store.place

    def counted_by(self, meter: Meter) -> Faulty:
        self.store = self.store.counted_by(meter)
        return self

    @contextlib.contextmanager
    def _around(self, name: str, key: str) -> Iterator[None]:
        with self._lock:
            self.calls.append((name, key))
            self.before(name, key)
        yield
        with self._lock:
            self.after(name, key)

    def put(self, key: str, content: Content) -> None:
        with self._around("put", key):
            self.store.put(key, content)

    def put_new(self, key: str, content: Content) -> None:
        with self._around("put_new", key):
            self.store.put_new(key, content)

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        with self._around("get", key):
            return self.store.get(key, offset, length)

    def list(self, prefix: str) -> Iterator[Listed]:
        with self._around("list", prefix):
            yield from [*self.store.list(prefix)]

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:  # one by one, so that a crash may come between two
            with self._around("delete", key):
                self.store.delete([key])

    def check(self) -> None:
        with self._around("check", ""):
            self.store.check()


def in_turn(*whats: BaseException | None) -> Callable[[str, str], None]:
    """Raises the n-th at the n-th call, and nothing any more after the last."""
    left = [*whats]

    def step(name: str, key: str) -> None:
        if left and (what := left.pop(0)) is not None:
            raise what

    return step


def at_call(number: int, what: BaseException) -> Callable[[str, str], None]:
    """Raises at the `number`-th call, counted from 0."""
    count = iter(range(1 << 30))

    def step(name: str, key: str) -> None:
        if next(count) == number:
            raise what

    return step


UNAVAILABLE = StoreUnavailable("S3 answered SlowDown")


@contextlib.contextmanager
def localcloud_s3() -> Iterator[str]:
    """localcloud's S3 in this process; its URL."""
    server = make_server(
        "127.0.0.1", 0, moto_backend.application(), threaded=True, request_handler=moto_backend.RequestHandler
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def seaweedfs(folder: Path, certificate: CertificateFiles | None = None) -> Iterator[str]:
    """SeaweedFS's S3 gateway with all that it needs, on loopback; its URL. It is gone afterwards. With a `certificate`
    it speaks TLS."""
    names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
    ports = dict(zip((*names, "s3.port", "s3.port.grpc"), (free_port() for _ in range(8)), strict=True))
    identity = {
        "name": "tester",
        "credentials": [{"accessKey": ACCESS["AWS_ACCESS_KEY_ID"], "secretKey": ACCESS["AWS_SECRET_ACCESS_KEY"]}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    argv = [str(Path(sys.executable).with_name("weed")), "-logtostderr", "server", f"-dir={folder}", "-s3"]
    argv += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={folder / 's3.json'}", "-volume.max=20"]
    # Its other services have fixed ports, which a second server could not have.
    argv += ["-s3.port.iceberg=0", "-s3.port.lance=0", f"-filer.localSocket={folder}/f", f"-s3.localSocket={folder}/s"]
    argv += ["-master.telemetry=false", *(f"-{name}={port}" for name, port in ports.items())]
    if certificate:
        argv += [f"-s3.cert.file={certificate.cert_file}", f"-s3.key.file={certificate.key_file}"]
    log = folder / "weed.log"
    with log.open("wb") as out:
        server = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    try:
        until(lambda: server.poll() is not None or _listens(ports["s3.port"]), PATIENCE)
        assert server.poll() is None, log.read_text()[-2000:]
        yield f"http{'s' if certificate else ''}://127.0.0.1:{ports['s3.port']}"
    finally:
        server.kill()
        server.wait()


def _listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def make_bucket(url: str) -> None:
    """The tests' bucket, as soon as the server makes buckets."""
    client = boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=ACCESS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=ACCESS["AWS_SECRET_ACCESS_KEY"],
    )

    def made() -> bool:
        try:
            client.create_bucket(Bucket=BUCKET)
        except Exception as problem:
            return "BucketAlready" in str(problem)
        return True

    until(made, PATIENCE, 0.2)


@pytest.fixture(scope="module", autouse=True)
def aws_access() -> Iterator[None]:
    """Credentials, as an instance's role would give them, for one file's tests: the worker's next file has its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ACCESS.items():
            patch.setenv(name, value)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name in [name for name in os.environ if name.startswith("AWS_ENDPOINT")]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def s3_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The URL of each S3 server that a test asked for, started once."""
    with contextlib.ExitStack() as running:
        urls: dict[str, str] = _Started(running, tmp_path_factory)
        yield urls


class _Started(dict[str, str]):
    def __init__(self, running: contextlib.ExitStack, folders: pytest.TempPathFactory) -> None:
        self._running, self._folders = running, folders

    def __missing__(self, kind: str) -> str:
        server = localcloud_s3() if kind == "localcloud" else seaweedfs(self._folders.mktemp("weed"))
        url = self[kind] = self._running.enter_context(server)
        make_bucket(url)
        return url


@pytest.fixture(params=ALL_STORES)
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Objects]:
    """A store of each kind, empty."""
    if request.param == "directory":
        from perdure.stores.directory import DirectoryObjects

        (tmp_path / "store").mkdir()
        yield DirectoryObjects(tmp_path / "store")
        return
    url = request.getfixturevalue("s3_url")[request.param]
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
    store = S3Objects(BUCKET, f"{name}-{os.urandom(4).hex()}/", region="us-east-1", endpoint=url)
    yield store
    store.close()
