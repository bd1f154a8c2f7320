"""Failures of CRIU in one line, as its logs have shown them."""

from __future__ import annotations

from pathlib import Path

from worker_agent.engine.criu_log import errors, node_fault, undumpable

LOG = """\
(00.000031) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted
(00.012345) Found parent tasks
(00.100000)      7: Error (compel/src/lib/infect.c:1): send_fds failed (-22)
(00.200000) Error (criu/cr-dump.c:1545): Dump files (pid: 5371) failed with -1
(00.300000) Error (criu/cr-dump.c:2110): Dumping FAILED.
"""


def test_the_cause_is_kept_and_noise_is_not(tmp_path: Path) -> None:
    (tmp_path / "dump.log").write_text(LOG)
    said = errors(tmp_path / "dump.log")
    assert said == (
        "compel/src/lib/infect.c:1: send_fds failed (-22); criu/cr-dump.c:1545: Dump files (pid: 5371) failed with -1"
    )
    assert "io_uring" in undumpable(said)
    assert errors(tmp_path / "absent.log") == ""


def test_a_node_s_fault_is_told_from_the_checkpoint_s() -> None:
    assert node_fault("soccr: Can't bind inet socket back: Address already in use")
    assert node_fault("No space left on device")
    assert not node_fault("criu/files-reg.c:2300: File usr/lib/libc.so.6 has bad size 1 (expect 2)")
