"""The failure explainer, on lines of real logs: ours where a test of the engine makes the failure, else CRIU's issues
and source."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from perdure.domain.errors import CheckpointFailed, NotCheckpointable
from worker_agent.engine import Container, Tools
from worker_agent.engine.criu_log import KEPT, dump_failure, errors, keep, restore_failure
from worker_agent.engine.explanations import explain, telling
from worker_agent.engine.known_failures import TABLE, Blame

LOG = """\
(00.158255) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted
(00.160000) Found parent tasks
(00.161000) pie: 1: Error (criu/pie/parasite.c:588): send_fds failed (-22)
(00.167035) Error (criu/parasite-syscall.c:280): Can't retrieve FDs from socket
(00.167039) Error (compel/src/lib/infect-rpc.c:44): Message reply from daemon is trimmed (12/0)
(00.167048) Error (criu/cr-dump.c:1545): Dump files (pid: 4194301) failed with -1
(00.195799) Error (criu/cr-dump.c:1975): Dumping FAILED.
"""
SAMPLES = [
    ("compel/src/lib/infect.c:323: Can't dump the 1094 thread with a pending SIGTRAP.", "SIGTRAP", False, False),
    ("criu/pidfd.c:88: pidfd: PIDFD_THREAD flag is currently not supported", "descriptor of a thread", False, False),
    ("criu/sk-unix.c:506: unix: Non-empty write queue on an in-flight socket 0x9f48f4", "not accepted", False, True),
    ("criu/sk-unix.c:525: unix: Found a closed in-flight socket to 0x9f3ff9", "not accepted", False, True),
    (
        "criu/net.c:3009: net: Unable to dump more than one netns if the --emptyns is set",
        "network namespace of its own",
        False,
        False,
    ),
    # what was said, a word of the cause, node's fault, may be tried again
    ("Can't retrieve FDs from socket", "io_uring", False, False),
    ("Can't dump file 4 of that type [600] (anon anon_inode:[io_uring])", "io_uring", False, False),
    ("Can't dump file 4 of that type [600] (anon anon_inode:[userfaultfd])", "userfaultfd", False, False),
    ("Can't dump file 4 of that type [600] (anon anon_inode:bpf-prog)", "eBPF", False, False),
    ("Can't dump file 5 of that type [20600] (chr 10:232)", "KVM", False, False),
    ("Can't dump file 5 of that type [20600] (chr 10:229)", "FUSE", False, False),
    ("Can't dump file 9 of that type [20666] (chr 195:0)", "GPU", False, False),
    ("Can't dump file 7 of that type [20600] (chr 231:0)", "231:0 open (descriptor 7)", False, False),
    ("tun: Net namespace is required to dump tun link", "tunnel", False, False),
    ("inet: Unsupported proto 262 for socket 179e4c", "multipath TCP", False, False),
    ("inet: Unsupported proto 132 for socket 179e4c", "socket", False, False),
    ("The packetized mode for pipes is not supported yet", "pipe", False, False),
    ("Can't lookup mount=561 for fd=4 path=/queue", "message queue", False, False),
    ("mqueue isn't empty", "message queue", False, False),
    ("unix: Can't dump half of stream unix connection. name: (null); peer name: /run/x", "unix socket", False, False),
    ("Can't dump nested uts namespace for 29316", "uts namespace", False, False),
    ("Can't dump ghost file /var/lib/a b of 3145728 size, increase limit", "/var/lib/a b, 3145728", False, False),
    ("Can't lookup mount=29 for fd=5 path=/dev/pts/0", "terminal", False, False),
    ("Can't lookup mount=27 for fd=1 path=/srv/out.log", "outside its own mounts", False, False),
    ("fsnotify: \tCan't dump that handle", "inotify", False, False),
    ("Timeout reached. Try to interrupt: 1", "traced", False, True),
    ("inet: In-flight connection (l) for 8a3f", "connection", False, True),
    ("sockets: Can't get 1:16 opt: Operation not supported", "CRIU does not fit", True, False),
    ("cpu: CPU instruction capabilities do not match run time", "CPU", True, False),
    (
        "cpu: FPU feature required by image is not supported on host (fpu:0 fxsr:0 osxsave:0 xsaves:1)",
        "CPU",
        True,
        False,
    ),
    ("cpu: CPU xsave size mismatch (11008/2696)", "CPU", True, False),
    ("Unable to connect a transport socket: Permission denied", "SELinux", True, False),
    ("Can't get rlimit 0: Operation not permitted", "CAP_SYS_RESOURCE", True, False),
    ("inet: Can't bind inet socket (id 4): Address already in use", "port", True, False),
    ("soccr: Can't connect inet socket back: Network is unreachable", "network", True, False),
    ("Can't fork for 812: File exists", "process number 812", False, False),
    ("mnt-v2: Can't remount /tmp/x/mnt-0000000159 with MS_PRIVATE: No such file or directory", "init", True, False),
    ("mnt-v2: Can't stat mountpoint /dev/pts", "temporary file system", False, False),
    ("container with given ID already exists", "earlier try", True, False),
    ("Unable to spice data: No space left on device", "no space", True, False),
    ("Can't mmap: Cannot allocate memory", "memory", False, False),
    ("File usr/lib/libc.so.6 has bad size 1 (expect 2)", "usr/lib/libc.so.6 is not the one", False, False),
    ("File usr/bin/x has bad build-ID", "usr/bin/x is not the one", False, False),
    ("mnt: FS mnt ./data/sq dev 0x700001 root / unsupported id 812", "mounted inside the container", False, False),
    ("Can't create memfd in victim: Too many open files", "descriptors", False, False),
    ("Unknown shit 100600 (/secretmem (deleted))", "secret memory", False, False),
    ("unix: Unable too cut ./s from /data/s", "relative name", False, False),
    ("skqueue: Control messages in queue, not supported", "credentials", False, True),
    ("Unseizable non-zombie 510 found, state R, err -1/3", "could not be held still", False, True),
]


@pytest.fixture
def container(tmp_path: Path) -> Container:
    (tmp_path / "work").mkdir()
    (tmp_path / "root").mkdir()
    return Container(
        id="c" * 64,
        bundle=tmp_path,
        runc_root="",
        job_root=tmp_path / "root",
        work_dir=tmp_path / "work",
        keeper_socket=tmp_path / "keeper",
        rootfs=tmp_path,
        lower_layers=(),
        tools=Tools(criu=Path("/criu"), path_first=Path("/first")),
        failure_logs=tmp_path / "node",
    )


@pytest.mark.parametrize(("message", "cause", "fault", "later"), SAMPLES)
def test_each_known_failure_has_a_cause_and_a_fix(message: str, cause: str, fault: bool, later: bool) -> None:
    known = explain(message)
    assert known is not None
    assert cause in known.cause
    assert known.fix == "" or known.fix.endswith(".")
    assert (known.node_fault, known.blame is Blame.MOMENT) == (fault, later)


def test_the_unknown_is_not_explained_away() -> None:
    assert explain("Error (criu/new.c:1): something that nobody has met") is None


def test_the_node_is_not_blamed_where_something_unknown_came_first() -> None:
    port = "Error (criu/sk-inet.c:1): inet: Can't bind inet socket (id 4): Address already in use"
    assert explain([port]) == explain(port)
    known = explain(["criu/new.c:1: something that nobody has met", port])
    assert known is not None and "port" in known.cause and known.blame is Blame.UNCLEAR


def test_no_row_promises_what_others_decide() -> None:
    for _, cause, fix, _ in TABLE:
        assert not re.search(r"tried|another node|The one before|next one", f"{cause} {fix}", re.IGNORECASE)


def test_the_cause_is_kept_and_noise_is_not(tmp_path: Path) -> None:
    (tmp_path / "dump.log").write_text(LOG)
    said = telling(errors(tmp_path / "dump.log"))
    assert (said[0], said[-1]) == (
        "criu/pie/parasite.c:588: send_fds failed (-22)",
        "criu/cr-dump.c:1545: Dump files (pid: 4194301) failed with -1",
    )
    assert errors(tmp_path / "absent.log") == []


@pytest.mark.parametrize("order", ["(00.85) pie: 1: ", "(00.203456)      1: ", "(00.158255) ", "pie: 12: ", ""])
def test_each_way_in_which_criu_begins_a_line(tmp_path: Path, order: str) -> None:
    (tmp_path / "log").write_text(f"(00.1) something\n{order}Error (criu/pie/restorer.c:9): the words\n")
    assert errors(tmp_path / "log") == ["criu/pie/restorer.c:9: the words"]


def test_the_cause_is_found_however_much_follows_it(tmp_path: Path) -> None:
    with open(tmp_path / "log", "w", encoding="utf-8") as file:
        file.write("(00.1)      1: Error (criu/files-reg.c:2353): Can't open file proc/1/task/6/stat on restore: No\n")
        file.writelines(f"(00.2) {'x' * 200}\n" for _ in range(20_000))
        file.writelines(f"(00.3) Error (criu/any.c:{line}): follows\n" for line in range(2000))
    assert "proc/1/task/6/stat" in errors(tmp_path / "log")[0]


def test_a_failed_dump_is_told_in_plain_words_and_its_log_kept_in_two_places(container: Container) -> None:
    (container.work_dir / "dump.log").write_text(LOG)
    problem = dump_failure(container, "criu failed: type NOTIFY errno 0")
    assert isinstance(problem, NotCheckpointable)
    said = str(problem)
    assert "process 4194301 (?): it has an io_uring ring open, which cannot be saved. Leave io_uring refused" in said
    for folder in (container.job_root / KEPT, container.failure_logs):
        assert folder is not None
        (kept,) = folder.iterdir()
        assert f"{kept}" in said
        assert kept.stat().st_mode & 0o777 == 0o600
        assert "runc: criu failed: type NOTIFY errno 0" in kept.read_text()
        assert LOG in kept.read_text()


def test_what_may_pass_is_no_reason_to_call_a_job_unprotectable(container: Container) -> None:
    (container.work_dir / "dump.log").write_text("(00.1) Error (criu/cr-dump.c:1808): Timeout reached. Try again: 1\n")
    problem = dump_failure(container, "")
    assert type(problem) is CheckpointFailed
    assert "did not come to a stand" in str(problem)


def test_a_failed_restore_names_the_node_s_fault(container: Container) -> None:
    problem = restore_failure(container, "inet: Can't bind inet socket (id 4): Address already in use")
    assert (problem.node_fault, problem.image_fault) == (True, False)
    assert str(problem).startswith("a port that the job listens on is taken")
    own = restore_failure(
        replace(container, own_network=True), "inet: Can't bind inet socket (id 4): Address already in use"
    )
    assert not own.node_fault, "in its own network a port is nobody else's"
    assert not restore_failure(container, "File usr/lib/libc.so.6 has bad size 1 (expect 2)").node_fault


RESTORE_LOG = """\
(00.085315) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted
{cause}
(00.239070) Error (criu/cr-restore.c:2331): Restoring FAILED.
(00.247415) Error (criu/cgroup.c:2055): cg: cgroupd: recv req error: No such file or directory
"""
RESTORES = [
    ("(00.2)      1: Error (criu/files-reg.c:2353): Can't open file proc/1/task/6/stat on restore: No such", "/proc"),
    ("(00.85) pie: 1: Error (criu/pie/restorer.c:1241): Can't create posix timer - 0: -22", "POSIX timer"),
    ("(00.2)      1: Error (criu/files-reg.c:1): No entry for reg-file-ID 0x1", "memfd"),
    ("(00.2) Error (criu/pstree.c:1): Can't find a session leader for 43", "session"),
    ("(00.2) Error (criu/protobuf.c:101): Failed unpacking object 0x55 from pstree.img", "damaged"),
]


@pytest.mark.parametrize(("cause", "word"), RESTORES)
def test_the_last_consequence_of_a_failed_restore_is_never_its_cause(
    container: Container, cause: str, word: str
) -> None:
    (container.work_dir / "restore.log").write_text(RESTORE_LOG.format(cause=cause))
    problem = restore_failure(container, "criu failed: type NOTIFY errno 0\nlog file: /x/restore.log")
    assert word in str(problem).partition("(CRIU: ")[0]
    assert (problem.node_fault, problem.image_fault) == (False, True)
    assert "cgroupd" not in str(problem) and "RLIMIT" not in str(problem)
    assert "whole log" not in str(problem), "it stays on a node that may be gone"


def test_a_failure_that_nobody_knows_is_nobodys_fault_yet(container: Container) -> None:
    (container.work_dir / "restore.log").write_text(RESTORE_LOG.format(cause="(00.2) Error (criu/x.c:1): never met"))
    problem = restore_failure(container, "criu failed: type NOTIFY errno 0")
    assert (problem.node_fault, problem.image_fault) == (False, False)
    assert "criu/x.c:1: never met" in str(problem)


def test_want_of_memory_is_the_nodes_fault_where_the_node_has_not_enough(container: Container) -> None:
    said = "Error (criu/mem.c:1): Can't mmap: Cannot allocate memory"
    assert not restore_failure(container, said, needed_bytes=1 << 20).node_fault
    assert restore_failure(container, said, needed_bytes=1 << 60).node_fault


def test_kept_logs_are_few(container: Container) -> None:
    (container.work_dir / "dump.log").write_text("x" * 600_000)
    for _ in range(14):
        assert "whole log: " in keep(container, "dump", "words")
    kept = list((container.job_root / KEPT).iterdir())
    assert len(kept) == 10
    assert all(file.stat().st_size < 300_000 for file in kept)


def test_a_log_that_cannot_be_kept_costs_nothing(container: Container) -> None:
    (container.job_root / KEPT).write_text("in the way")
    assert container.failure_logs is not None
    container.failure_logs.write_text("in the way")
    assert keep(container, "dump", "words") == ""
