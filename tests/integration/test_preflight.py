"""Preflight and CRIU agree: a real job holds each thing open, preflight names it, a real dump refuses it for the reason
that the explainer gives, and the job runs on."""

from __future__ import annotations

import array
import asyncio
import json
import os
import pty
import re
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from perdure.domain.checkpoints import CheckpointKind
from perdure.domain.errors import CheckpointFailed, NotCheckpointable
from perdure.domain.retries import RetryRule, RetryStrategy
from tests.conftest import PERDURE
from tests.documents.book import arguments, block, filled, told
from tests.integration.engine_bed import Bed, Running, freezer_of
from tests.integration.engine_places import wait_for
from tests.integration.test_engine import checkpoint, die, fresh, identity, restored
from tests.patience import PATIENCE
from worker_agent.container.seccomp import refuse_io_uring
from worker_agent.engine import Taking, checkpoint_steps, criu_options
from worker_agent.engine.criu_log import KEPT
from worker_agent.engine.refusals import TABLE
from worker_agent.engine.refusals import refused as asked_of_the_table
from worker_agent.preflight import Report, Verdict, check_retries, examine

pytestmark = [pytest.mark.criu]

REFUSED = [
    # what the job opens, preflight's kind, a word of the explainer's cause
    ("io_uring", "io_uring", "io_uring"),
    ("userfaultfd", "userfaultfd", "userfaultfd"),
    ("perf_event", "perf_event", "performance counter"),
    ("bpf_program", "bpf", "eBPF"),
    ("multipath_tcp", "multipath TCP", "multipath TCP"),
    ("machine_socket", "socket", "socket open of a kind"),
    ("packet_pipe", "packet pipe", "keeps packets apart"),
    ("message_queue", "message queue", "message queue"),
    ("outside_unix_socket", "outside unix socket", "unix socket to a program outside"),
    ("/dev/kvm", "kvm", "KVM"),
    ("/dev/fuse", "fuse", "FUSE"),
    ("/dev/net/tun", "tun", "tunnel"),
    ("terminal", "terminal", "terminal"),
    ("file", "outside file", "outside its own mounts"),
    ("deleted_file", "deleted file", "deleted file"),
    ("sandbox", "nested namespace", "uts namespace"),
]
"""A thing with a slash, `terminal` and `file`: the test opens it outside and hands it over."""
NOT_TO_SAVE = {"secret_memory": "secret memory", "counting_eventfd": "eventfd"}
"""Named by preflight; refused before the dump, or saved otherwise than they were."""


@dataclass
class Outside:
    """A program outside the container, behind a unix socket that is mounted into it."""

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="perdure-test-", dir="/var/tmp")))
    descriptor: int = -1
    kept: list[socket.socket] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.folder / "socket"))
        self.listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:  # closed
                return
            if connection.recv(4) == b"give":
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [self.descriptor]))
                connection.sendmsg([b"x"], [rights])
                connection.close()
            else:
                self.kept.append(connection)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        for one in (self.listener, *self.kept):
            one.close()
        shutil.rmtree(self.folder)


@pytest.fixture
def outside() -> Iterator[Outside]:
    made = Outside()
    yield made
    made.close()


@pytest.fixture
async def bed(outside: Outside) -> AsyncIterator[Bed]:
    made = Bed.make()
    try:
        made.new_node()
        names = "CHOWN DAC_OVERRIDE FOWNER KILL SETGID SETUID MKNOD SYS_ADMIN BPF PERFMON".split()  # noqa: SIM905
        made.process = {
            "capabilities": {key: [f"CAP_{name}" for name in names] for key in ("bounding", "effective", "permitted")}
        }
        made.mounts = [
            {"destination": "/outside", "type": "bind", "source": str(outside.folder), "options": ["rbind", "ro"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid"]},
        ]
        made.command = ["/usr/bin/python3", "/jobs/holds.py"]
        yield made
    finally:
        await made.close()


def ask(running: Running, word: str) -> str:
    """The job's answer to a request."""
    lines = running.lines()
    with open(running.container.job_root / "seen/data/requests", "w") as requests:
        requests.write(word + "\n")
    wait_for(lambda: running.lines() > lines, f"an answer to {word}")
    return running.log().decode().splitlines()[-1]


def look(running: Running) -> Report:
    mounts = ["/data", "/jobs", "/outside"]
    return examine(freezer_of(running).pids(), running.container.init_pid, mounts=mounts)


def opened(running: Running, outside: Outside, thing: str) -> bool:
    """Have the job open it. False if this machine has no such thing."""
    if thing not in ("terminal", "file") and not thing.startswith("/"):
        said = ask(running, thing)
        return said == f"done {thing}"
    if thing == "terminal":
        master, outside.descriptor = pty.openpty()
        os.close(master)
    else:
        path = __file__ if thing == "file" else thing
        if not os.path.exists(path):
            return False
        outside.descriptor = os.open(path, os.O_RDONLY if thing == "file" else os.O_RDWR)
    assert ask(running, "from_outside") == "done from_outside"
    os.close(outside.descriptor)
    return True


@pytest.mark.row("Processes", "what cannot be saved is named by process and descriptor, and the job runs on")
async def test_preflight_names_what_criu_refuses_and_the_explainer_says_why(
    bed: Bed, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await fresh(bed)
    running.first_line()
    monkeypatch.setattr(criu_options, "GHOST_LIMIT", 1 << 20)
    monkeypatch.setattr("worker_agent.preflight.descriptors.GHOST_LIMIT", 1 << 20)
    monkeypatch.setattr(checkpoint_steps, "refused", lambda seen: [])  # as if it had been opened at the last moment
    missing = []
    for thing, kind, cause in REFUSED:
        assert look(running).verdict is Verdict.PROTECTABLE, f"before {thing}: {look(running)}"
        if not opened(running, outside, thing):
            missing.append(thing)
            continue
        report = look(running)
        assert [finding.kind for finding in report.problems] == [kind], f"{thing}: {report}"
        holder = report.problems[0].process
        assert holder is None or holder.command == "python3"
        assert report.verdict is (Verdict.NOT if kind == "kvm" else Verdict.WITH_CHANGES)
        with pytest.raises(CheckpointFailed) as refused:
            await checkpoint(running)
        assert cause in str(refused.value), f"{thing}: {refused.value}"
        assert f"whole log: {running.container.job_root}/{KEPT}/" in str(refused.value)
        assert ask(running, "close") == "done close"
    assert set(missing) <= {"/dev/kvm", "/dev/fuse", "/dev/net/tun", "multipath_tcp", "machine_socket", "bpf_program"}
    for thing, kind in NOT_TO_SAVE.items():
        if opened(running, outside, thing):
            assert [finding.kind for finding in look(running).problems] == [kind], f"{thing}: {look(running)}"
            ask(running, "close")
    monkeypatch.setattr(checkpoint_steps, "refused", asked_of_the_table)
    thing_kinds = {"sandbox": "nested namespace", **NOT_TO_SAVE}
    for thing in ("sandbox", "secret_memory"):
        if opened(running, outside, thing):
            row = next(row for row in TABLE if row.kind == thing_kinds[thing])
            with pytest.raises(NotCheckpointable, match=re.escape(row.what)) as refusal:
                await checkpoint(running)
            assert refusal.value.step == "look", "nothing was frozen"
            assert ask(running, "close") == "done close"
    assert (await checkpoint(running)).number > 0


async def test_what_came_up_since_the_look_is_seen_before_the_freeze(
    bed: Bed, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A predump may take minutes. CRIU itself would save this pipe, and bring back another one."""
    monkeypatch.setattr(checkpoint_steps, "_FRESH", -PATIENCE)  # whatever time has gone by
    running = await fresh(bed)
    running.first_line()
    steps = []

    def at(step: str) -> None:
        steps.append(step)
        if step == "predump":
            assert opened(running, outside, "packet_pipe")

    taking = Taking(PATIENCE, on_step=at)
    with pytest.raises(NotCheckpointable, match="keeps packets apart"):
        await taking.take(running.container, identity(1), kind=CheckpointKind.PERIODIC, keep=2, reserve_bytes=0)
    assert "pause" not in steps


async def test_unusual_things_that_are_saved_are_no_findings(bed: Bed, outside: Outside) -> None:
    running = await fresh(bed)
    running.first_line()
    for thing in ("harmless", "own_terminal"):
        assert opened(running, outside, thing)
    assert look(running) == Report()
    manifest = await checkpoint(running)
    await die(bed, running)
    running = await restored(bed, 2, manifest.number)
    assert look(running) == Report()
    assert ask(running, "close") == "done close"


@pytest.mark.row("Processes", "a system call filter (seccomp) is there again after a restore")
async def test_io_uring_is_refused_before_and_after_a_restore(bed: Bed, outside: Outside) -> None:
    container_of = bed._config

    def filtered(container: object) -> dict[str, object]:
        config = container_of(container)  # type: ignore[arg-type]
        assert refuse_io_uring(config, os.uname().machine)
        return config

    bed._config = filtered  # type: ignore[method-assign]
    running = await fresh(bed)
    running.first_line()
    assert "Function not implemented" in ask(running, "io_uring")
    manifest = await checkpoint(running)
    await die(bed, running)
    running = await restored(bed, 2, manifest.number)
    assert "Function not implemented" in ask(running, "io_uring")
    assert ask(running, "harmless") == "done harmless"


@pytest.mark.parametrize(
    ("strategy", "problem"),
    [
        (RetryStrategy(attempts=1), "one attempt only"),
        (RetryStrategy(attempts=3), ""),
        (RetryStrategy(attempts=3, rules=[RetryRule(action="RETRY", on_status_reason="Host EC2*")]), ""),
        (RetryStrategy(attempts=3, rules=[RetryRule(action="EXIT", on_reason="*")]), "does not retry reclaims"),
        (
            RetryStrategy(
                attempts=3,
                rules=[
                    RetryRule(action="RETRY", on_status_reason="Host EC2*"),
                    RetryRule(action="EXIT", on_reason="*"),
                ],
            ),
            "",
        ),
    ],
)
def test_a_missing_retry_rule_is_said(strategy: RetryStrategy, problem: str) -> None:
    report = Report.of(check_retries(strategy))
    assert (problem in report.summary) if problem else report == Report()


def preflight(*words: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    argv = [str(PERDURE), "preflight", *words]
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False)


async def test_a_command_is_looked_at_and_tried_for_real(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import time\ntime.sleep(.3)\nprint('trained', flush=True)\n")
    (tmp_path / "simulate").write_text("#!/bin/sh\nn=0\nwhile :; do echo $n; n=$((n + 1)); sleep .1; done\n")
    (tmp_path / "simulate").chmod(0o755)
    to_its_end, for_a_while, tried = block("docs/preflight.md", "perdure preflight -- python3 train.py")
    done = await asyncio.to_thread(preflight, *arguments(to_its_end)[1:], folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "protectable\n", "trained\n"), done
    done = await asyncio.to_thread(preflight, *arguments(filled(for_a_while, {"30": "1"}))[1:], folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "protectable\n") and done.stderr.startswith("0\n1\n"), done
    words = arguments(filled(tried, {"30": "1"}))[1:]
    done = await asyncio.to_thread(preflight, "--json", *words, folder=tmp_path)
    assert done.returncode == 0, done
    said = json.loads(done.stdout)
    assert said["verdict"] == "protectable"
    assert [finding["kind"] for finding in said["findings"]] == ["tried"]
    assert done.stderr.startswith("0\n1\n")
    assert not list(Path("/var/tmp").glob("perdure-preflight-*/job/lease.json"))


async def test_a_command_with_a_ring_is_told_what_helps() -> None:
    code = "import ctypes, time\nctypes.CDLL(None).syscall(425, 4, ctypes.create_string_buffer(120))\ntime.sleep(60)"
    done = await asyncio.to_thread(preflight, "--io-uring", "--seconds", "1", "--", "/usr/bin/python3", "-c", code)
    assert done.returncode == 1, done
    assert "io_uring" in done.stdout and "protectable with changes" in done.stdout


async def test_a_running_container_is_looked_at(bed: Bed, outside: Outside) -> None:
    running = await fresh(bed)
    running.first_line()
    assert opened(running, outside, "userfaultfd")
    _, *named = arguments(
        filled(told("docs/preflight.md", "perdure preflight --container ID"), {"ID": running.container.id[:12]})
    )
    for words in (
        (*named, "--root", str(bed.runc_root)),
        ("--pid", str(running.container.init_pid)),
    ):
        done = await asyncio.to_thread(preflight, *words, "--json")
        assert done.returncode == 1, done
        kinds = [finding["kind"] for finding in json.loads(done.stdout)["findings"]]
        assert "userfaultfd" in kinds
        if words[0] == "--container":  # its bundle tells the mounts: the bed binds the job's data itself
            assert "mount /data" in kinds


@pytest.mark.parametrize(
    ("words", "code"),
    [((), 2), (("--pid", "1", "--", "true"), 2), (("--try", "--pid", "1"), 2), (("--container", "0" * 64), 3)],
)
def test_what_it_cannot_look_at_is_said(words: tuple[str, ...], code: int) -> None:
    done = preflight(*words)
    assert done.returncode == code
    assert done.stderr.startswith("perdure: ")
    assert done.stdout == ""
