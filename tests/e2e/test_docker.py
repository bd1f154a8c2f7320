"""Nodes with a Docker each: jobs in an image of Debian packages, through reclaims; and the demo there, shortened."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from localcloud.demo.jobs import IMAGE, IMAGE_PACKAGES
from localcloud.nodes.launcher import remove_folder
from localcloud.stack.stack import StackPlace
from tests.documents.book import arguments, chosen, filled, told, typed
from tests.e2e.conftest import PERDURE, User, chain_reference, until
from tests.e2e.resuming import check_resume
from tests.integration.test_stack import traces
from tests.patience import PATIENCE

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1500)]

BUILD_SECONDS, DEMO_SECONDS = 600, 840


def perdure(*arguments: str, limit: float = PATIENCE) -> str:
    done = subprocess.run([str(PERDURE), *arguments], capture_output=True, text=True, timeout=limit)
    assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def image() -> str:
    """The README's image; a minute when this machine has never made it."""
    return typed(told("README.md", "$perdure local image build bio python3 bowtie2"), BUILD_SECONDS).strip()


@pytest.fixture(scope="module")
def docker_user(request: pytest.FixtureRequest, image: str) -> Iterator[User]:
    """A user of a stack whose nodes run Docker."""
    place = StackPlace(f"test-docker-{os.getpid()}")
    try:
        typed(told("README.md", "$perdure local up --detach --engine docker"), PATIENCE, PERDURE_STACK=place.name)
        user = User(place.name)
        yield user
        user.close()
    finally:
        perdure("local", "down", "--stack", place.name)
    # Its supervisor lets go of the stack's lock a moment before it ends.
    until(lambda: traces(place) == [], "nothing of the stack is left")
    if not request.session.testsfailed:
        remove_folder(place.folder)
        place.lock_file.unlink()


def test_a_job_in_an_image_goes_through_reclaims_byte_for_byte(docker_user: User, image: str) -> None:
    user, links = docker_user, 250
    assert user.status["engine"] == "docker"
    # The machine has `runc`; the image, which shows whose files these are, has not.
    script = 'test ! -e /usr/sbin/runc && exec /usr/bin/python3 /opt/jobs/chain.py "$@"'
    options = ("--image", image, "--interval", "5s")
    job = user.submit("/bin/sh", "-c", script, "sh", str(links), "0.1", "8", options=options)
    until(lambda: user.printed(job).count("\n") >= 3, "the job prints")
    here = user.placed(job)["zone"]
    there = next(node["zone"] for node in user.status["nodes"] if node["zone"] != here)
    user.reclaim("--job", job, "--to-zone", there)
    before = user.committed(job)
    until(lambda: user.committed(job) > before, "a checkpoint on the second node")
    user.reclaim("--job", job, "--no-notice")
    until(lambda: user.job(job)["protections"] == 2, "the second restore")
    ended = user.finish(job)
    assert (ended["status"], ended["exit_code"], ended["protections"]) == ("SUCCEEDED", 0, 2)
    assert ended["zones"][:2] == [here, there]
    stdout, stderr = user.logs(job)
    assert stdout == chain_reference(links)
    assert len(set(re.findall(r"^token ([0-9a-f]{32})$", stderr, re.MULTILINE))) == 1  # the same process all along


def test_the_readmes_job_in_its_image(docker_user: User) -> None:
    line = told("README.md", "$perdure local submit --image bio -- bowtie2 --version")
    job = typed(line, PATIENCE, PERDURE_STACK=docker_user.stack).strip()
    assert docker_user.wait(job)["exit_code"] == 0
    assert "bowtie2-align-s version" in docker_user.logs(job)[0]


def resumed_from(store: str) -> pytest.MarkDecorator:
    row = f"a new job resumes what a reclaim ended for good, in another zone, out of {store}"
    return pytest.mark.row("Files", row, column="Docker of Debian 12, overlay2")


@pytest.fixture(
    params=[
        "",
        pytest.param("s3", marks=resumed_from("S3")),
        pytest.param("directory", marks=resumed_from("a directory")),
    ]
)
def store(request: pytest.FixtureRequest, docker_user: User, tmp_path: Path) -> Iterator[str]:
    """Where checkpoints of jobs that begin now go: on a volume of the job's (""), or jobs have none."""
    kind = str(request.param)
    if not kind:
        yield kind
        return
    turn_on = to_a_bucket(docker_user) if kind == "s3" else to_a_directory(tmp_path)
    docker_user.run(*arguments(turn_on), "store.scratch_gib=2")
    yield kind
    docker_user.run("config", "set", "job_volume.enabled=true", "store.kind=none")


def to_a_directory(tmp_path: Path) -> str:
    folder = tmp_path / "store"
    folder.mkdir(mode=0o700)
    line = told(
        "docs/stores.md",
        "perdure config set job_volume.enabled=false store.kind=directory store.directory=/mmc-checkpoint",
    )
    return filled(line, {"/mmc-checkpoint": str(folder)})


def to_a_bucket(user: User) -> str:
    user.aws("s3").create_bucket(Bucket="my-checkpoints")
    return told(
        "docs/stores.md", "perdure config set job_volume.enabled=false store.kind=s3 store.bucket=my-checkpoints"
    )


@pytest.mark.matrix
def test_a_new_job_finishes_what_a_reclaim_ended_for_good(
    docker_user: User, image: str, store: str, tmp_path: Path
) -> None:
    """From a volume in the same zone (test_resume.py has another one), or out of a store in another zone. There, in
    diagnosis mode, the instance keeps what the job wrote, for the comparison."""
    if not store:
        check_resume(docker_user, tmp_path, "--image", image, moves=False)
        return
    diagnosis = ("--env", "PERDURE_CHECKPOINT_DIAGNOSIS=true")
    new = check_resume(docker_user, tmp_path, "--image", image, *diagnosis, moves=True, stored=True)
    until(lambda: any("kept in the store" in line for line in docker_user.events(new)), "the workflow's last word")


def test_its_end_is_told_as_ecs_tells_it(docker_user: User, image: str) -> None:
    user = docker_user
    eat = "print('eating', flush=True)\nx = []\nwhile True: x.append(bytearray(1 << 20))"
    greedy = user.submit("/usr/bin/python3", "-c", eat, options=("--image", image, "--memory", "64", "--interval", "0"))
    failing = user.submit("/bin/sh", "-c", "echo out; echo err >&2; exit 7", options=("--interval", "0"))
    lost = user.submit("/bin/true", options=("--image", "nobody/built-this:1"))
    assert user.wait(failing, status=1)["exit_code"] == 7
    assert user.logs(failing) == ("out\n", "err\n")
    assert user.wait(greedy, status=1)["exit_code"] == 137
    assert user.logs(greedy)[0] == "eating\n"
    assert reason(user, greedy) == "OutOfMemoryError: Container killed due to memory usage"
    user.wait(lost, status=1)
    assert reason(user, lost).startswith("CannotPullContainerError: ")


def reason(user: User, job_id: str) -> str:
    """What Batch says of the newest attempt's container."""
    return str(user.placed(job_id)["attempts"][-1]["reason"])


@pytest.mark.demo
@pytest.mark.matrix
def test_the_demo_holds_its_promises_under_docker() -> None:
    perdure("local", "image", "build", IMAGE, *IMAGE_PACKAGES, limit=BUILD_SECONDS)
    stack = f"demo-docker-{os.getpid()}"
    try:
        demo = arguments(chosen("README.md", "perdure demo", "--engine docker --reclaims 2 --json"))
        done = subprocess.run(
            [str(PERDURE), *demo, "--stack", stack], capture_output=True, text=True, timeout=DEMO_SECONDS
        )
    finally:
        subprocess.run(
            [str(PERDURE), "local", "down", "--stack", stack], capture_output=True, timeout=PATIENCE, check=True
        )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["ok"] is True
    for job in answer["jobs"]:
        assert (job["attempts"], job["protections"], job["output_identical"]) == (3, 2, True)
