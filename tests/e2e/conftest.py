"""The stack as its user sees it: through the command line, the API and the AWS endpoint."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest

from localcloud.stack.client import StackClient
from localcloud.stack.job_files import copy_output
from localcloud.stack.stack import StackPlace
from perdure import waiting
from perdure.cli import main as command_line
from tests.patience import PATIENCE

JOBS = Path(__file__).parent / "jobs"
PERDURE = Path(sys.executable).parent / "perdure"
MOUNTED_JOBS = "/opt/jobs"
"""Where jobs see the scripts of tests/e2e/jobs (a declared shared mount)."""


class User:
    """Someone at the command line of one stack."""

    def __init__(self, stack: str) -> None:
        self.stack = stack
        self.status = json.loads(self.run("local", "status", "--json").stdout)
        self.api = httpx.Client(base_url=self.status["api_url"], timeout=PATIENCE)
        self.cloud = httpx.Client(base_url=self.status["aws_endpoint_url"], timeout=PATIENCE)
        self._place = StackPlace(stack)
        self._client = StackClient.of(self._place)
        self._aws: list[Any] = []

    def close(self) -> None:
        for each in (self.api, self.cloud, self._client, *self._aws):
            each.close()

    def run(
        self, *arguments: str, status: int | None = 0, limit: float = 300, given: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `perdure ARGUMENTS`; `status` is the exit code it must have (None: any), `given` its input."""
        done = subprocess.run(
            [str(PERDURE), *arguments],
            env={**os.environ, "PERDURE_STACK": self.stack},
            input=given,
            capture_output=True,
            text=True,
            timeout=limit,
        )
        assert "Traceback" not in done.stderr, done.stderr
        if status is not None:
            assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def local(self, command: str, *arguments: str, status: int = 0) -> tuple[str, str]:
        """Run `perdure local COMMAND ARGUMENTS` in this process, which saves the half second of CPU time that a new one
        takes; its stdout and stderr. Not beside another one: these streams are the process's."""
        out, err = (io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = command_line.run(["local", command, "--stack", self.stack, *arguments])
        said, told = (stream.detach().getvalue().decode() for stream in (out, err))
        assert code == status, f"{command} {arguments}: {code}\n{said}\n{told}"
        return said, told

    def submit(self, *command: str, options: tuple[str, ...] = ()) -> str:
        """Submit a job that sees tests/e2e/jobs; its id."""
        mount = f"{JOBS}:{MOUNTED_JOBS}"
        return self.local("submit", "--mount", mount, *options, "--", *command)[0].strip()

    def chain(self, links: int, pause: float = 0.1, mebibytes: int = 8, options: tuple[str, ...] = ()) -> str:
        """Submit the hash chain; its id."""
        script = f"{MOUNTED_JOBS}/chain.py"
        return self.submit("/usr/bin/python3", script, str(links), str(pause), str(mebibytes), options=options)

    def aws(self, service: str) -> Any:
        """A boto3 client of the stack's own AWS; it lasts as long as the user."""
        client: Any = boto3.client(
            service,  # type: ignore[call-overload]
            "us-east-1",
            endpoint_url=self.status["aws_endpoint_url"],
            aws_access_key_id="a",
            aws_secret_access_key="b",
        )
        self._aws.append(client)
        return client

    def hurry(self, job_id: str) -> bool:
        """Let the chain, which runs, go on to its end without pauses. False: it was not found."""
        told = False
        for pid, line in descendants(self.node_init(job_id)):
            if f"{MOUNTED_JOBS}/chain.py" in line and "python3" in line.split()[0]:
                os.kill(pid, signal.SIGUSR1)
                told = True
        return told

    def finish(self, job_id: str) -> dict[str, Any]:
        """The chain's end, which is not long in coming; what `perdure local wait --json` says of it."""
        until(lambda: self.hurry(job_id), "the chain is told to hurry")
        return self.wait(job_id)

    def reclaim(self, *options: str) -> None:
        """`perdure local reclaim`, which returns when the node is gone."""
        self.local("reclaim", *options)

    def checkpoint(self, job_id: str) -> int:
        """`perdure local checkpoint`: the number of one that is taken now."""
        return int(self.local("checkpoint", "--job", job_id)[0])

    def wait(self, job_id: str, status: int = 0, limit: float = PATIENCE) -> dict[str, Any]:
        """Wait for the job's end; what `perdure local wait --json` says of it."""
        said, _ = self.local("wait", job_id, "--timeout", str(limit), "--json", status=status)
        answer: dict[str, Any] = json.loads(said)
        return answer

    def logs(self, job_id: str) -> tuple[str, str]:
        """The job's stdout and stderr."""
        return self.local("logs", job_id)

    def printed(self, job_id: str) -> str:
        """The job's stdout so far: what `logs` says, for waiting, without a new process for every look."""
        out = io.BytesIO()
        copy_output(self._client, self._place, job_id, out, io.BytesIO())
        return out.getvalue().decode()

    def job(self, job_id: str) -> dict[str, Any]:
        """The API's page of the job."""
        page = self.page(job_id)
        assert page is not None, f"nobody knows {job_id}"
        return page

    def page(self, job_id: str) -> dict[str, Any] | None:
        """The same; None while nobody knows the job, which may be so until its first container starts."""
        answer = self.api.get(f"/api/v1/jobs/{job_id}")
        assert answer.status_code in (200, 404), answer.text
        page: dict[str, Any] | None = answer.json() if answer.status_code == 200 else None
        return page

    def placed(self, job_id: str) -> dict[str, Any]:
        """Where the job is: node, container and volume ids."""
        answer: dict[str, Any] = self.cloud.get(f"/_local/jobs/{job_id}").json()
        return answer

    def node_init(self, job_id: str) -> int:
        """Process id of the init of the job's node."""
        node = self.cloud.get(f"/_local/nodes/{self.placed(job_id)['node']}").json()
        return int(node["init_pid"])

    def events(self, job_id: str) -> list[str]:
        """Sentences of the job's timeline, oldest first."""
        return [event["message"] for event in self.job(job_id)["events"]]

    def committed(self, job_id: str) -> int:
        """How many checkpoints of the job were committed so far; 0 while nobody knows the job."""
        page = self.page(job_id)
        return int(page["checkpoints_committed"]) if page else 0


def until(condition: Callable[[], Any], what: str, limit: float = PATIENCE, pause: float = 0.4) -> Any:
    """The first true value of `condition`, looked at every `pause` seconds; fails naming `what` after `limit`."""
    return waiting.until(condition, limit, pause, what)


def descendants(pid: int) -> list[tuple[int, str]]:
    """Process ids and command lines of all processes below `pid`, as the host sees them."""
    found: list[tuple[int, str]] = []
    try:  # a child is listed with the thread that forked it
        threads = [thread.read_text() for thread in Path(f"/proc/{pid}/task").glob("*/children")]
    except (FileNotFoundError, ProcessLookupError):
        return found
    for child in (int(word) for words in threads for word in words.split()):
        try:
            line = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except (FileNotFoundError, ProcessLookupError):
            continue
        found += [(child, line), *descendants(child)]
    return found


def chain_reference(links: int, mebibytes: int = 8) -> str:
    """What the chain prints when nothing ever interrupts it."""
    alone = ["/usr/bin/unshare", "--mount", "/bin/sh", "-c", 'mount -t tmpfs none /srv && exec "$@"', "sh"]
    done = subprocess.run(
        [*alone, "/usr/bin/python3", str(JOBS / "chain.py"), str(links), "0", str(mebibytes)],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    return done.stdout


@pytest.fixture(scope="session")
def user(stack: str) -> Iterator[User]:
    """A user of the session's stack."""
    user = User(stack)
    yield user
    user.close()
