"""What a job left, where its attempts were protected or not: nothing of a later one is lost behind an earlier one's."""

from __future__ import annotations

import contextlib
import http.server
import io
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from localcloud.stack.client import StackClient
from localcloud.stack.job_files import copy_file, copy_output
from localcloud.stack.stack import StackPlace, StackState
from perdure.domain.jobs import folder_name

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts, in a namespace of its own")
NODE = """
set -e
mount -t tmpfs none /var/lib
mkdir -p /var/lib/perdure/jobs/{job}
mount -t tmpfs none /var/lib/perdure/jobs/{job}
cd /var/lib/perdure/jobs/{job}
mkdir -p log layer/upper data
printf 'protected\\n' > log/stdout
printf protected > layer/upper/result
mkdir -p /var/lib/stack/here/pool/nodes/i-2/docker/c2/upper
printf unprotected > /var/lib/stack/here/pool/nodes/i-2/docker/c2/upper/result
echo ready
exec sleep 600
"""


class Answers(http.server.BaseHTTPRequestHandler):
    """The cloud, the API and CloudWatch of a stack with one job."""

    documents: dict[str, Any]

    def do_GET(self) -> None:
        self._answer(self.documents[self.path])

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = "" if asked.get("nextToken") else f"of {asked['logStreamName']}"
        events = [{"timestamp": 1, "message": text, "ingestionTime": 1}] if text else []
        self._answer({"events": events, "nextForwardToken": "end", "nextBackwardToken": "begin"})

    def _answer(self, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def node() -> Iterator[int]:
    """A process in whose mount namespace the job root is mounted, as on a node."""
    argv = ["unshare", "--mount", "sh", "-c", NODE.format(job=folder_name("j"))]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            yield process.pid
        finally:
            process.kill()


@pytest.fixture
def documents(node: int) -> dict[str, Any]:
    """Attempt 1 was protected, on i-1; attempt 2, on i-2, was not."""
    placed = [
        {"number": 1, "node": "i-1", "container_id": "c1", "log_stream": "one", "stopped_at": 1},
        {"number": 2, "node": "i-2", "container_id": "c2", "log_stream": "two", "stopped_at": 2},
    ]
    pages = [
        {"instance_id": "i-1", "attempt": 1, "started_at": "2026-03-01T12:00:00Z"},
        {"instance_id": "i-2", "attempt": 2, "started_at": None},
    ]
    return {
        "/_local/jobs/j": {"id": "j", "node": "i-2", "volumes": [], "attempts": placed},
        "/_local/nodes/i-2": {"init_pid": node},
        "/api/v1/jobs/j": {"attempts": pages, "unprotected": ""},
    }


@pytest.fixture
def client(documents: dict[str, Any], node: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[StackClient]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Answers,), {"documents": documents}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    state = StackState(stack="here", api_url=url, aws_endpoint_url=url, region="us-east-1", processes={"cloud": node})
    try:
        with contextlib.closing(StackClient(state)) as client:
            yield client
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


PLACE = StackPlace("here", Path("/var/lib/stack"))


def output(client: StackClient) -> str:
    out = io.BytesIO()
    copy_output(client, PLACE, "j", out, io.BytesIO())
    return out.getvalue().decode()


def test_the_output_of_a_later_unprotected_attempt_is_not_lost(client: StackClient) -> None:
    assert output(client) == "protected\nof two\n"


def test_the_output_of_protected_attempts_comes_from_the_job_root_alone(
    client: StackClient, documents: dict[str, Any]
) -> None:
    page, second = documents["/api/v1/jobs/j"], documents["/_local/jobs/j"]["attempts"][1]
    second["stopped_at"] = None
    assert output(client) == "protected\n", "its start is not recorded yet"
    page["unprotected"] = "the checkpoint could not be restored"
    assert output(client) == "protected\nof two\n"
    page["attempts"][1]["started_at"] = "2026-03-01T12:01:00Z"
    assert output(client) == "protected\n"


def test_files_are_the_last_attempts_own(client: StackClient, documents: dict[str, Any], tmp_path: Path) -> None:
    assert copy_file(client, PLACE, "j", "/result", tmp_path / "result") == []
    assert (tmp_path / "result").read_text() == "unprotected"
    documents["/_local/jobs/j"]["attempts"][1]["container_id"] = "gone"
    (remark,) = copy_file(client, PLACE, "j", "/result", tmp_path / "result")
    assert (tmp_path / "result").read_text() == "protected" and "ran unprotected" in remark
