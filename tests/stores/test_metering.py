"""What a job asks of a store, counted by us, against what the S3 server saw; and what lies there, against its list."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from werkzeug.serving import make_server

from localcloud.aws import moto_backend
from perdure.domain.errors import ObjectExists, ObjectMissing, StoreUnavailable
from perdure.domain.store_costs import StoreUse
from perdure.stores.directory import DirectoryObjects
from perdure.stores.layout import Place
from perdure.stores.meter import Meter
from perdure.stores.patience import Patient
from perdure.stores.s3 import S3Objects
from perdure.stores.stored_checkpoints import StoredCheckpoints
from tests.stores.checkpoint_bed import JOB, JobRoot, new_root
from tests.stores.store_bed import BUCKET, make_bucket

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
LISTING, DELETION = "list-type=2", "delete"


class Watched:
    """S3 of the local cloud behind a door that notes each request, and may answer in its stead."""

    def __init__(self) -> None:
        self._cloud: Any = moto_backend.application()
        self._lock = threading.Lock()
        self.seen: list[tuple[str, str, str]] = []
        """Method, query, and the answer's status."""
        self.refuse = 0
        """So many requests get a 503."""

    def __call__(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        def noted(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            with self._lock:
                self.seen.append((environ["REQUEST_METHOD"], environ.get("QUERY_STRING", ""), status.split()[0]))
            return start(status, headers, *rest)

        with self._lock:
            refused, self.refuse = self.refuse > 0, max(0, self.refuse - 1)
        if refused:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            noted("503 Slow Down", [("Content-Type", "application/xml")])
            return [b"<Error><Code>SlowDown</Code></Error>"]
        answer: Iterable[bytes] = self._cloud(environ, noted)
        return answer

    def billed(self) -> tuple[int, int]:
        """(Writes and listings, reads) since the last call, as S3 bills them."""
        with self._lock:
            seen, self.seen = [one for one in self.seen if one[2] < "500"], []
        free = [one for one in seen if one[0] == "DELETE" or (one[0] == "POST" and DELETION in one[1])]
        writes = [one for one in seen if one[0] == "PUT" or LISTING in one[1]]
        reads = [one for one in seen if one[0] == "GET" and LISTING not in one[1]]
        assert len(free) + len(writes) + len(reads) == len(seen), "every request is of one kind"
        return len(writes), len(reads)


@pytest.fixture(scope="module")
def watched() -> Iterator[tuple[Watched, str]]:
    door = Watched()
    server = make_server("127.0.0.1", 0, door, threaded=True, request_handler=moto_backend.RequestHandler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    make_bucket(url)
    yield door, url
    server.shutdown()
    thread.join()
    server.server_close()


def lies_there(url: str, place: Place) -> int:
    """Bytes in the job's folder, as the server says."""
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
    found = client.list_objects_v2(Bucket=BUCKET, Prefix=f"metered/{place.job}").get("Contents", [])
    return sum(one["Size"] for one in found)


def test_each_request_of_a_jobs_life_is_counted_and_its_bytes_are_known(
    watched: tuple[Watched, str], tmp_path: Path
) -> None:
    door, url = watched
    store = Patient(S3Objects(BUCKET, "metered/", region="us-east-1", endpoint=url), 5.0)
    stored, place = StoredCheckpoints(store, JOB), Place.of(JOB)
    other = StoredCheckpoints(store, "a job of which nothing may be counted here")
    job = JobRoot(tmp_path / "job", memory_pages=3000)
    steps: list[StoreUse] = []

    def told(what: str) -> StoreUse:
        use = stored.use(what, NOW)
        writes, reads = door.billed()
        assert (use.writes, use.reads) == (writes, reads), what
        if use.held_bytes is not None:
            assert use.held_bytes == lies_there(url, place), what
        door.billed()  # our own look
        steps.append(use)
        return use

    door.billed()
    stored.within(5.0).claim(1)
    stored.empty()
    assert told("a clean start").held_bytes is None, "nobody has looked how much lies there"
    for number in (1, 2, 3):
        job.memory[: 4096 * number] = bytes(number) * (4096 * number // number)
        manifest = job.take()
        stored.put(job.root, job.folder(number), manifest)
        stored.prune(2)
        assert told(f"checkpoint {number}").held_bytes
        stored.verify_new(number)
        told(f"reading back {number}")
    root = new_root(tmp_path / "elsewhere")
    stored.fetch(3, root, root / "checkpoints" / "3", limit_bytes=1 << 30)
    assert told("a restore").reads > 1
    with pytest.raises(ObjectMissing):
        stored._store.get(f"{place.job}nothing")
    with pytest.raises(ObjectExists):
        stored._store.put_new(place.manifest(3), b"")
    assert (told("S3's refusals are billed").writes, steps[-1].reads) == (1, 1)
    door.refuse = 2
    stored.numbers()
    assert told("its own failures are not").writes == 1
    other.claim(1)
    door.billed()
    assert told("another job's").writes == 0
    stored.forget()
    assert told("the end").held_bytes == 0
    assert {(use.store, use.region, use.key_requests) for use in steps} == {("s3", "us-east-1", 0)}
    store.close()


@pytest.mark.parametrize("bucket_key", [False, True])
def test_kms_is_counted_where_the_answers_say_that_it_was_asked(
    watched: tuple[Watched, str], tmp_path: Path, bucket_key: bool
) -> None:
    """moto names the encryption of an object in its answers, as S3 does. A bucket with a key of its own says so."""
    door, url = watched
    kms = boto3.client("kms", endpoint_url=url, region_name="us-east-1")
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    door.seen = []
    meter = Meter()
    store = S3Objects(BUCKET, "kms/", region="us-east-1", endpoint=url, kms_key=key).counted_by(meter)
    if bucket_key:
        store._encryption = lambda: {  # type: ignore[method-assign]
            "x-amz-server-side-encryption": "aws:kms",
            "x-amz-server-side-encryption-aws-kms-key-id": key,
            "x-amz-server-side-encryption-bucket-key-enabled": "true",
        }
    store.put("one", b"content")
    assert store.get("one") == b"content"
    [*store.list("")]
    store.delete(["one"])
    with pytest.raises(ObjectMissing):
        store.get("one")
    use = meter.take("use", NOW, None)
    assert (use.writes, use.reads, use.key_requests) == (2, 2, 0 if bucket_key else 2)
    assert door.billed() == (2, 2)
    store.close()


def test_nobody_bills_the_requests_of_a_directory_but_its_bytes_are_known(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    stored = StoredCheckpoints(Patient(DirectoryObjects(tmp_path / "store"), 1.0), JOB)
    job = JobRoot(tmp_path / "job", memory_pages=300)
    stored.put(job.root, job.folder(1), job.take())
    use = stored.use("one", NOW)
    there = sum(path.stat().st_size for path in (tmp_path / "store").rglob("*") if path.is_file())
    assert (use.store, use.writes, use.reads, use.held_bytes) == ("directory", 0, 0, there)


def test_a_store_that_does_not_answer_is_not_billed(tmp_path: Path) -> None:
    meter = Meter()
    store = S3Objects(BUCKET, "", region="us-east-1", endpoint="http://127.0.0.1:9").counted_by(meter)
    with pytest.raises(StoreUnavailable):
        store.put("one", b"content")
    with pytest.raises(StoreUnavailable):
        [*store.list("")]
    assert meter.take("use", NOW, None).writes == 0
    store.close()
