"""Ten jobs of different kinds on one node, under load: a notice, another zone, a power loss; what they print is what
they print when nothing happens. `make under-load` runs it, three times in a row (not part of `make test`)."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from localcloud.stack.client import StackClient
from localcloud.stack.job_request import JobRequest, container_properties, definition_name, retry_strategy
from localcloud.stack.stack import StackPlace
from tests.e2e.conftest import JOBS, MOUNTED_JOBS, User, until
from tests.patience import PATIENCE

pytestmark = [pytest.mark.stack, pytest.mark.matrix, pytest.mark.timeout(1200)]

KINDS = ["chain", "database", "threads", "pool", "pipeline", "tcp", "packets", "shared", "files", "signals"]
STEPS, PAUSE = 600, 0.1
INTERVAL = "20s"
VCPUS, MEMORY_MIB = "0.4", "800"
"""Ten of them fill a node of the stack's usual type."""
ZONES = ("us-east-1a", "us-east-1b")
EXCHANGE = "/exchange"
BUSY = ["nice", "-n", "-5", sys.executable, "-c", "while True: pass"]


@contextlib.contextmanager
def load() -> Iterator[None]:
    """Something of a higher priority keeps every processor busy."""
    busy = [subprocess.Popen(BUSY) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def references() -> dict[str, str]:
    """What each kind prints when nothing happens to it."""
    alone = ["/usr/bin/unshare", "--mount", "/bin/sh", "-c"]
    places = 'mount -t tmpfs none /srv && mount -t tmpfs none /dev/shm && exec "$@"'
    program = ["sh", "/usr/bin/python3", str(JOBS / "kinds.py")]

    def printed(kind: str) -> str:
        argv = [*alone, places, *program, kind, str(STEPS), "0"]
        return subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout

    return {kind: printed(kind) for kind in KINDS}


@pytest.fixture
def client(stack: str) -> Iterator[StackClient]:
    with contextlib.closing(StackClient.of(StackPlace(stack))) as client:
        yield client
        capacity(client, *ZONES)


def capacity(client: StackClient, *zones: str) -> None:
    client.cloud("POST", "/_local/capacity", json={"zones": list(zones)})


def submit(client: StackClient, kind: str, exchange: Path) -> str:
    """Less than one processor each, which the command line does not offer."""
    command = ["/usr/bin/python3", f"{MOUNTED_JOBS}/kinds.py", kind, str(STEPS), str(PAUSE), f"{EXCHANGE}/finish"]
    mounts = [(str(JOBS), MOUNTED_JOBS), (str(exchange), EXCHANGE)]
    environment = {"PERDURE_CHECKPOINT_INTERVAL": INTERVAL}
    request = JobRequest(command=command, name=kind, environment=environment, mounts=mounts)
    properties = container_properties(request)
    size = {"VCPU": VCPUS, "MEMORY": MEMORY_MIB}
    properties["resourceRequirements"] = [{"type": name, "value": value} for name, value in size.items()]  # type: ignore[typeddict-item]
    definition = client.batch.register_job_definition(
        jobDefinitionName=definition_name(kind),
        type="container",
        containerProperties=properties,
        retryStrategy=retry_strategy(request.attempts),
    )["jobDefinitionArn"]
    queue = client.state.queues[0]
    return client.batch.submit_job(jobName=kind, jobQueue=queue, jobDefinition=definition)["jobId"]


@pytest.mark.parametrize("turn", [1, 2, 3])
@pytest.mark.row("Programs", "ten kinds of job on one node under load: notice, other zone, power loss")
def test_ten_jobs_of_different_kinds_on_one_node(
    user: User, client: StackClient, references: dict[str, str], tmp_path: Path, turn: int
) -> None:
    def each(done: Callable[[str], object], what: str) -> None:
        until(lambda: all(done(job_id) for job_id in jobs.values()), what, PATIENCE, pause=1.0)

    def nodes() -> set[str]:
        return {str(user.placed(job_id)["node"]) for job_id in jobs.values()}

    with load():
        capacity(client, ZONES[0])
        jobs = {kind: submit(client, kind, tmp_path) for kind in KINDS}
        each(lambda job_id: user.printed(job_id).count("\n") >= 2, "ten jobs print")
        (node,) = nodes()
        user.reclaim("--node", node, "--to-zone", ZONES[1])
        each(lambda job_id: user.job(job_id)["protections"] == 1, "ten restores after the notice")
        seen = {job_id: user.committed(job_id) for job_id in jobs.values()}
        each(lambda job_id: user.committed(job_id) > seen[job_id], "a checkpoint of each in the other zone")
        (node,) = nodes()
        user.reclaim("--node", node, "--no-notice", "--to-zone", ZONES[turn % 2])
        each(lambda job_id: user.job(job_id)["protections"] == 2, "ten restores after the power loss")
        (tmp_path / "finish").touch()
        with ThreadPoolExecutor(3) as pool:
            ends = dict(
                zip(jobs, pool.map(lambda job_id: user.wait(job_id, limit=PATIENCE), jobs.values()), strict=True)
            )
    assert {kind: (end["status"], end["exit_code"]) for kind, end in ends.items()} == dict.fromkeys(
        jobs, ("SUCCEEDED", 0)
    )
    for kind, job_id in jobs.items():
        assert user.logs(job_id)[0] == references[kind], kind
