"""The keeper as a process of its own, with real pipes, files and sockets."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import select
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from perdure import waiting
from perdure.domain.errors import JobRootBusy
from tests.patience import PATIENCE
from worker_agent.engine import stdio

KEEPER = Path(__file__).parents[2] / "worker_agent" / "runtime" / "stdio_keeper.py"


async def test_a_keeper_that_does_not_answer_holds_nobody_up_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The volume stays busy then, and that is tried again."""
    monkeypatch.setattr(stdio, "_CLOSED", 0.1)
    with socket.socket(socket.AF_UNIX) as stuck:
        stuck.bind(str(tmp_path / "keeper.sock"))
        stuck.listen()
        with pytest.raises(JobRootBusy, match="does not answer"):
            await stdio.release(tmp_path / "keeper.sock")
    await stdio.release(tmp_path / "keeper.sock")  # it is gone: what it had open is closed


class Kept:
    """A keeper over two pipes whose writing ends we hold, as a job would, and whose old readers we are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.control = folder / "keeper.sock"
        out_read, self.stdout = os.pipe()
        err_read, self.stderr = os.pipe()
        self.out_reader, out_forward = os.pipe()
        self.err_reader, err_forward = os.pipe()
        ours, theirs = socket.socketpair()
        self.sync = ours
        command = ["/usr/bin/python3", "-I", "-S", str(KEEPER), str(folder), str(self.control)]
        self.process = subprocess.Popen(
            [*command, str(out_read), str(err_read), str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=out_forward,
            stderr=err_forward,
            pass_fds=(out_read, err_read, theirs.fileno()),
        )
        for descriptor in (out_read, err_read, out_forward, err_forward):
            os.close(descriptor)
        theirs.close()
        ours.settimeout(PATIENCE)
        self.ready = ours.recv(200)

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait()
        self.sync.close()
        for descriptor in (self.stdout, self.stderr, self.out_reader, self.err_reader):
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def go(self) -> None:
        self.sync.sendall(b"go\n")

    def ask(self, command: str) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(str(self.control))
            client.sendall(command.encode() + b"\n")
            answer: dict[str, Any] = json.loads(client.makefile().readline())
            return answer

    def end_job(self) -> None:
        os.close(self.stdout)
        os.close(self.stderr)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    with Kept(tmp_path) as keeper:
        assert keeper.ready == b"ready\n"
        yield keeper


def read_all(descriptor: int) -> bytes:
    with open(descriptor, "rb", closefd=False) as file:
        return file.read()


def test_it_is_written_for_python_3_9() -> None:
    ast.parse(KEEPER.read_text(), feature_version=(3, 9))


def test_both_streams_reach_the_files_and_the_old_readers(kept: Kept, tmp_path: Path) -> None:
    kept.go()
    os.write(kept.stdout, b"one\n")
    os.write(kept.stderr, b"two\n")
    kept.end_job()
    assert read_all(kept.out_reader) == b"one\n"
    assert read_all(kept.err_reader) == b"two\n"
    assert kept.process.wait(PATIENCE) == 0
    assert not kept.control.exists(), "a missing socket says that the files are complete"
    assert (tmp_path / "stdout").read_bytes() == b"one\n"
    assert (tmp_path / "stderr").read_bytes() == b"two\n"


def test_drain_answers_once_every_byte_in_the_pipes_is_in_the_files(kept: Kept, tmp_path: Path) -> None:
    kept.go()
    data = os.urandom(60_000)
    for round_number in range(1, 6):
        os.write(kept.stdout, data)
        os.write(kept.stderr, b"unterminated")
        answer = kept.ask("drain")
        assert answer == {"stdout": 60_000 * round_number, "stderr": 12 * round_number}
        assert (tmp_path / "stdout").stat().st_size == answer["stdout"]
        # Nobody reads the forwarded bytes meanwhile: a slow reader delays neither the job nor a checkpoint.
    assert (tmp_path / "stdout").read_bytes() == data * 5


def test_nothing_is_read_before_go(kept: Kept, tmp_path: Path) -> None:
    os.write(kept.stdout, b"words of runc")
    assert not select.select([kept.out_reader], [], [], 0.2)[0]
    assert (tmp_path / "stdout").read_bytes() == b""


def test_a_starter_that_dies_counts_as_go(kept: Kept) -> None:
    kept.sync.close()
    os.write(kept.stdout, b"on")
    kept.end_job()
    assert read_all(kept.out_reader) == b"on"


def test_after_a_restore_only_new_bytes_are_forwarded(tmp_path: Path) -> None:
    (tmp_path / "stdout").write_bytes(b"before the freeze\n")
    with Kept(tmp_path) as kept:
        kept.go()
        os.write(kept.stdout, b"after it\n")
        assert kept.ask("drain")["stdout"] == len(b"before the freeze\nafter it\n")
        kept.end_job()
        assert read_all(kept.out_reader) == b"after it\n"
    assert (tmp_path / "stdout").read_bytes() == b"before the freeze\nafter it\n"


def test_a_reader_that_is_gone_does_not_stop_the_file(kept: Kept, tmp_path: Path) -> None:
    os.close(kept.out_reader)
    kept.go()
    for _ in range(5):
        os.write(kept.stdout, b"x" * 50_000)
        kept.ask("drain")
    kept.end_job()
    assert kept.process.wait(PATIENCE) == 0
    assert (tmp_path / "stdout").stat().st_size == 250_000


def test_release_lets_go_of_the_log_folder_and_still_forwards(kept: Kept, tmp_path: Path) -> None:
    kept.go()
    data = os.urandom(400_000)
    writer = threading.Thread(target=lambda: os.write(kept.stdout, data))
    writer.start()
    writer.join(PATIENCE)
    assert kept.ask("drain")["stdout"] == len(data)
    kept.end_job()
    assert kept.ask("release") == {"stdout": len(data), "stderr": 0}
    open_files = {file.path for file in psutil.Process(kept.process.pid).open_files()}
    assert not open_files & {str(tmp_path / "stdout"), str(tmp_path / "stderr")}
    assert read_all(kept.out_reader) == data
    assert kept.process.wait(PATIENCE) == 0


def test_bytes_written_after_release_belong_to_nobody(kept: Kept, tmp_path: Path) -> None:
    kept.go()
    kept.ask("release")
    os.write(kept.stdout, b"late")
    kept.end_job()
    assert read_all(kept.out_reader) == b""
    assert (tmp_path / "stdout").read_bytes() == b""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small tmpfs")
def test_a_full_volume_stops_the_job_and_not_the_keeper(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(volume)], check=True, timeout=PATIENCE)
    try:
        _fill_and_free(volume)
    finally:
        subprocess.run(["umount", str(volume)], check=True, timeout=PATIENCE)


def _fill_and_free(volume: Path) -> None:
    filler = volume / "filler"
    filler.write_bytes(b"x" * 150_000)
    data = os.urandom(400_000)
    with Kept(volume) as kept:
        kept.go()
        forwarded: list[bytes] = []
        reader = threading.Thread(target=lambda: forwarded.append(read_all(kept.out_reader)))

        def job() -> None:
            os.write(kept.stdout, data)
            kept.end_job()

        writer = threading.Thread(target=job)
        reader.start()
        writer.start()
        refused = _until(lambda: kept.ask("status").get("error"))
        assert "No space left" in refused
        assert writer.is_alive(), "the job waits, as on a full pipe"
        assert "error" in kept.ask("drain"), "no checkpoint may rely on these offsets"
        subprocess.run(["mount", "-o", "remount,size=4m", str(volume)], check=True, timeout=PATIENCE)
        writer.join(PATIENCE)
        reader.join(PATIENCE)
        assert kept.process.wait(PATIENCE) == 0
        assert forwarded == [data]
        assert (volume / "stdout").read_bytes() == data


def _until(condition: Any, limit: float = PATIENCE) -> Any:
    return waiting.until(condition, limit, 0.02)


def test_a_log_folder_that_is_not_there_is_said_and_not_waited_for(tmp_path: Path) -> None:
    with Kept(tmp_path / "nowhere") as kept:
        assert kept.ready.startswith(b"error")
        assert kept.process.wait(PATIENCE) == 1


def test_termination_signals_do_not_end_it(kept: Kept) -> None:
    kept.go()
    kept.process.terminate()
    os.write(kept.stdout, b"still here")
    assert kept.ask("drain")["stdout"] == 10
