"""Rehearsals of Docker's containers: every kind of mount and network that a Batch job may have, and the neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.contracts.protection import ReportKind
from perdure.domain.checkpoints import Rehearsal, RehearsalVerdict
from tests.integration.docker_bed import Bed, docker_bed
from tests.integration.docker_images import IMAGE
from tests.integration.test_docker_core import COUNT, FILES, SERVE, VOLUME_IMAGE

pytestmark = [pytest.mark.criu, pytest.mark.docker("any")]

SETTINGS = {"PERDURE_TEST_REHEARSALS": "1", "PERDURE_REHEARSAL_BETWEEN": "0"}


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    with docker_bed(agent_environment=SETTINGS) as made:
        host = made.folder / "host"
        for name in ("read-only", "shared", "scratch/job"):
            (host / name).mkdir(parents=True)
        (host / "one-file").write_text("one file\n")
        made.new_node()
        made.image(VOLUME_IMAGE, config={"Volumes": {"/db": {}}}, files={"db/of-the-image": "of the image\n"})
        yield made


def options(bed: Bed) -> dict[str, tuple[str, list[str], str]]:
    host = bed.folder / "host"
    mounts = [
        *("--env", "PLACES=/db /anonymous /scratch /shared /memory /mnt/perdure"),
        *("--volume", "/anonymous", "--volume", f"{host}/read-only:/read-only:ro"),
        *("--volume", f"{host}/one-file:/one-file:ro", "--volume", f"{host}/scratch/job:/scratch"),
        *("--mount", f"type=bind,source={host}/shared,target=/shared", "--tmpfs", "/memory"),
        *("--env", "PERDURE_SHARED_MOUNTS=/shared:/named", "--volume", "named-volume:/named"),
    ]
    return {
        "plain": (COUNT, [], IMAGE),
        "host network": (SERVE, ["--network", "host"], IMAGE),
        "published": (SERVE, ["--publish", "18081:8080"], IMAGE),
        "mounts": (FILES + COUNT, mounts, VOLUME_IMAGE),
        "init": (COUNT, ["--init"], IMAGE),
        "read-only root": (COUNT.replace("/root/count", "/tmp/count"), ["--read-only", "--tmpfs", "/tmp"], IMAGE),
        "limits": (COUNT, ["--memory", "96m", "--cpus", "0.5", "--pids-limit", "60", "--shm-size", "8m"], IMAGE),
    }


def rehearsed(bed: Bed, job: str) -> Rehearsal:
    def told() -> Rehearsal | None:
        reports = bed.reports(job, ReportKind.REHEARSED)
        return reports[-1].rehearsal if reports else None

    found: Rehearsal = bed.until(told, "the verdict", seconds=500)
    return found


@pytest.mark.parametrize("kind", ["plain", "host network", "published", "mounts", "init", "read-only root", "limits"])
def test_a_job_under_docker_passes_and_goes_on(bed: Bed, kind: str) -> None:
    script, words, image = options(bed)[kind]
    job = bed.new_job()
    container = bed.run(job, "sh", "-c", script, options=words, image=image)
    bed.until(lambda: "5" in bed.logs(container).split(), "it counts")
    shared = {path: path.read_bytes() for path in (bed.folder / "host").rglob("*") if path.is_file()}
    number = bed.checkpoint(job)
    verdict = rehearsed(bed, job)
    assert (verdict.reason, verdict.verdict, verdict.number) == ("", RehearsalVerdict.PASSED, number)
    now = {path: path.read_bytes() for path in (bed.folder / "host").rglob("*") if path.is_file()}
    assert now == shared or kind == "mounts"
    counted = len(bed.logs(container).splitlines())
    bed.until(lambda: len(bed.logs(container).splitlines()) > counted + 2, "it goes on")
    bed.docker("rm", "--force", container)
    mounted = str(bed.node.job_root(job))
    bed.until(lambda: mounted not in bed.node.mounts(), "its volume let go of")
    assert not list(Path("/sys/fs/cgroup").glob(f"*/perdure-rehearsal/{container}*"))
