"""A job whose image's tag has moved meanwhile is restored on the layers that it began with, or by name not at all."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.docker_bed import Bed, docker_bed
from tests.integration.docker_images import image_archive, registry_folder
from tests.integration.docker_versions import TRIXIE_IMAGE_STORE, programs_or_skip

pytestmark = [pytest.mark.criu, pytest.mark.docker("any")]

TAG = "moving:1"
JOB = ("sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done")


def _started(bed: Bed, image: str) -> str:
    """A job with a checkpoint."""
    job = bed.new_job()
    bed.plan(job, retry={"attempts": 3})
    container = bed.run(job, *JOB, image=image)
    bed.until(lambda: "3" in bed.logs(container).split(), "it counts")
    bed.checkpoint(job)
    return job


def _goes_on(bed: Bed, job: str, image: str) -> None:
    container = bed.run(job, *JOB, image=image, attempt=2)
    assert bed.restored(job) == 1, bed.remarks(job)
    assert bed.docker("exec", container, "cat", "/etc/version").stdout == "one\n"
    bed.until(lambda: len(bed.logs(container).split()) > 3, "it counts on")
    assert int(bed.logs(container).split()[0]) > 3


@contextlib.contextmanager
def _registry(bed: Bed, folder: Path) -> Iterator[None]:
    """A registry on the node's loopback: files, with the types that clients want to see."""
    argv = [*bed.node.inside, sys.executable, "-m", "tests.integration.docker_images", str(folder)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None and server.stdout.readline() == "serving\n"
        try:
            yield
        finally:
            bed.node.attempt("sh", "-c", "kill $(cat /run/registry.pid)")


@pytest.mark.row("Mounts", "an image whose tag has moved: restored on the old layers, else refused by name")
def test_a_moved_tag_never_mixes_layers() -> None:
    with docker_bed() as bed:
        one = image_archive(bed.folder / "one.tar", TAG, files={"etc/version": "one\n"})
        two = image_archive(bed.folder / "two.tar", TAG, files={"etc/version": "two\n"})
        bed.new_node()
        bed.docker("load", "--input", one)
        job = _started(bed, TAG)
        registry = registry_folder(bed.folder / "registry", one, "pulled")
        with _registry(bed, registry):
            bed.docker("pull", "127.0.0.1:5000/pulled:1")
        pulled = _started(bed, "127.0.0.1:5000/pulled:1")
        bed.power_loss()

        bed.new_node()
        bed.docker("load", "--input", two)
        refused = bed.docker("run", *bed.environment(job, 2), TAG, *JOB, check=False)
        assert refused.returncode == 125 and TAG in refused.stderr and "began" in refused.stderr, refused.stderr

        bed.docker("load", "--input", one)
        bed.docker("load", "--input", two)
        assert bed.docker("run", "--rm", TAG, "cat", "/etc/version").stdout == "two\n"
        _goes_on(bed, job, TAG)
        assert any(TAG in said for said in bed.remarks(job)), bed.remarks(job)
        bed.power_loss()

        bed.new_node()
        bed.docker("load", "--input", two)
        bed.docker("tag", TAG, "127.0.0.1:5000/pulled:1")
        with _registry(bed, registry):
            _goes_on(bed, pulled, "127.0.0.1:5000/pulled:1")


@pytest.mark.matrix
@pytest.mark.row(
    "Mounts",
    "an image whose tag has moved: restored on the old layers, else refused by name",
    column=TRIXIE_IMAGE_STORE.column,
)
def test_with_the_image_store_a_moved_tag_is_refused() -> None:
    release = TRIXIE_IMAGE_STORE
    with docker_bed(programs=programs_or_skip(release), storage=release.storage) as bed:
        one = image_archive(bed.folder / "one.tar", TAG, files={"etc/version": "one\n"})
        two = image_archive(bed.folder / "two.tar", TAG, files={"etc/version": "two\n"})
        bed.new_node()
        bed.docker("load", "--input", one)
        job = _started(bed, TAG)
        bed.power_loss()

        bed.new_node()
        bed.docker("load", "--input", two)
        refused = bed.docker("run", *bed.environment(job, 2), TAG, *JOB, check=False)
        assert refused.returncode != 0 and TAG in refused.stderr and "began" in refused.stderr
        bed.docker("load", "--input", one)
        _goes_on(bed, job, TAG)
