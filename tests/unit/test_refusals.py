"""The table of what is refused before a dump, asked of real processes that are in no container; and the sessions that
CRIU can build again. (Each row with a real dump and restore: tests/integration/test_refusals.py.)"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.domain.errors import NotCheckpointable
from tests.programs import THEN_WAIT, running
from worker_agent.engine.closed_senders import sockets_of, who_reads_from_one
from worker_agent.engine.looking import look
from worker_agent.engine.lost_names import lend, opened, places
from worker_agent.engine.refusals import TABLE, refused
from worker_agent.engine.sessions import lost_session
from worker_agent.engine.waiting_clients import listening, who_waits_for
from worker_agent.preflight.findings import Finding, Level, Process

SEMAPHORES_SHOW = tuple(int(part) for part in os.uname().release.split(".")[:2]) >= (6, 5)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="looking into processes needs root")


@contextlib.contextmanager
def in_use_without_its_name() -> Iterator[int]:
    """A process with an open file that lost its name and has another, on a disk."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        code = f"import os; os.chdir({folder!r}); kept = open('a', 'w'); os.link('a', 'b'); os.unlink('a')"
        with running(code + THEN_WAIT) as pid:
            yield pid


def kinds(*pids: int) -> set[str]:
    return {one.row.kind for one in refused(look(pids, pids[0]))}


def test_every_row_says_what_helps() -> None:
    assert len({row.kind for row in TABLE}) == len(TABLE)
    for row in TABLE:
        assert row.fix.endswith(".") and not row.what.endswith(".")


@needs_root
def test_ordinary_things_are_nothing_to_speak_of() -> None:
    code = "import os, select; kept = os.eventfd(3), os.pipe(), open('/proc/self/task/%d/stat' % os.getpid()), "
    code += "select.epoll(), open('/proc/self/stat'); kept[3].register(kept[1][0])"
    with running(code + THEN_WAIT) as pid:
        assert kinds(pid) == set()


@needs_root
@pytest.mark.skipif(not SEMAPHORES_SHOW, reason="this kernel does not show it")
def test_an_eventfd_that_counts_one_by_one() -> None:
    with running("import os; kept = os.eventfd(3, os.EFD_SEMAPHORE)" + THEN_WAIT) as pid:
        assert kinds(pid) == {"eventfd"}


@needs_root
def test_a_pipe_in_packet_mode() -> None:
    with running("import os; kept = os.pipe2(os.O_DIRECT)" + THEN_WAIT) as pid:
        assert kinds(pid) == {"packet pipe"}


@needs_root
@pytest.mark.parametrize("flag", ["0x200", "0x400", "0x4000000"])  # CLONE_FS, CLONE_FILES, CLONE_NEWUTS
def test_a_thread_with_something_of_its_own(flag: str) -> None:
    code = "import ctypes, threading, time; up = threading.Event()\n"
    code += f"def work(): ctypes.CDLL(None).unshare({flag}); up.set(); time.sleep(3600)\n"
    code += "threading.Thread(target=work, daemon=True).start(); up.wait()"
    with running(code + THEN_WAIT) as pid:
        assert kinds(pid) == {"thread apart"}


@needs_root
def test_a_message_queue() -> None:
    name = f"/perdure-test-{os.getpid()}".encode()
    code = f"import ctypes, os; mq = ctypes.CDLL('librt.so.1'); mq.mq_open({name!r}, 66, 0o600, None); "
    with running(code + f"mq.mq_unlink({name!r})" + THEN_WAIT) as pid:
        assert kinds(pid) == {"message queue"}


@needs_root
@pytest.mark.parametrize(
    "held", ["os.open('/proc/self', 0)", "os.open('/proc/1', os.O_PATH)", "os.chdir('/proc/self')"]
)
def test_the_folder_of_a_process_in_proc(held: str) -> None:
    with running(f"import os; kept = {held}" + THEN_WAIT) as pid:
        assert kinds(pid) == {"folder of a process"}
    with running(
        "import os; kept = os.open('/proc/self/fd', 0), os.open('/proc', 0), os.chdir('/proc/1/fd')" + THEN_WAIT
    ) as pid:
        assert kinds(pid) == set()


@needs_root
@pytest.mark.parametrize(("name", "refused"), [("fd", True), ("stat", False)])
def test_what_belonged_to_an_ended_process_in_proc(name: str, refused: bool) -> None:
    code = "import os, subprocess; child = subprocess.Popen(['sleep', '3600'])\n"
    code += f"kept = os.open(f'/proc/{{child.pid}}/{name}', 0); child.kill(); child.wait()"
    with running(code + THEN_WAIT) as pid:
        assert kinds(pid) == ({"folder of an ended process"} if refused else set())


@needs_root
@pytest.mark.parametrize(
    ("bound", "moved", "refused"),
    [("s", "", False), ("d/s", "", False), ("./s", "", True), ("d/../s", "", True), ("s", "t", True)],
)
def test_a_unix_socket_whose_path_does_not_end_with_its_name(bound: str, moved: str, refused: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        code = f"import os, socket; os.chdir({folder!r}); os.mkdir('d'); kept = socket.socket(socket.AF_UNIX)\n"
        code += f"kept.bind({bound!r}); {moved!r} and os.rename('s', {moved!r})"
        with running(code + THEN_WAIT) as pid:
            assert kinds(pid) == ({"unix socket's name"} if refused else set())


@needs_root
def test_a_neighbour_s_name_says_nothing_of_a_job_s_socket() -> None:
    """Who shares the job's network has its sockets in the same table of the kernel's, which escapes nothing."""
    with tempfile.TemporaryDirectory() as folder:
        code = f"import os, socket; kept = socket.socket(socket.AF_UNIX); kept.bind({folder + '/s'!r})"
        with running(code + THEN_WAIT) as pid, socket.socket(socket.AF_UNIX) as neighbour:
            (inode,) = look([pid], pid).sockets
            neighbour.bind(f"\0x\n0: 0 0 0 0 0 {inode} ./y")
            assert f" {inode} ./y" in Path("/proc/net/unix").read_text()
            assert kinds(pid) == set()


@needs_root
@pytest.mark.parametrize("lost", [True, False])
def test_a_file_system_that_a_job_mounted_itself(lost: bool) -> None:
    """An overlay would be lost; a tmpfs, and what is bound from elsewhere, would not."""
    overlay = "mount -t overlay -o lowerdir=/mnt/a:/mnt/b none /mnt/c"
    steps = f"mount -t tmpfs none /mnt && mkdir /mnt/a /mnt/b /mnt/c && {overlay if lost else 'mount -B /usr /mnt/c'}"
    wait = f"import subprocess; subprocess.run({steps!r}, shell=True, check=True)" + THEN_WAIT
    with running(f"import os, sys; os.execvp('unshare', ['unshare', '-m', sys.executable, '-c', {wait!r}])") as pid:
        assert kinds(pid) == ({"own mount"} if lost else set())


@needs_root
def test_a_traced_process_is_named_with_its_tracer() -> None:
    with running("import ctypes; ctypes.CDLL(None).ptrace(0, 0, 0, 0)" + THEN_WAIT) as pid:
        (found,) = refused(look([pid], pid))
        assert found.row.kind == "traced" and f"by process {os.getpid()}" in found.sentence


@needs_root
def test_what_a_child_inherited_is_looked_at_once_and_what_has_no_name_in_each() -> None:
    code = "import os; kept = os.pipe2(os.O_DIRECT), os.eventfd(3); os.write(1, b'%d\\n' % os.fork())"
    with subprocess.Popen(
        [sys.executable, "-c", f"{code}; input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as it:
        assert it.stdout is not None and it.stdin is not None
        child = max(int(it.stdout.readline()), int(it.stdout.readline()))
        seen = look([it.pid, child], it.pid)
        links = [one.link.partition(":")[0] for one in seen.descriptors]
        assert links.count("pipe") == 4 and links.count("anon_inode") == 2
        it.stdin.write(b"\n\n")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_client_that_waits_until_it_is_accepted(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        waiting = listening(look([os.getpid()], os.getpid()))
        assert who_waits_for(waiting) is None
        with socket.create_connection(listener.getsockname()[:2]):
            assert who_waits_for(waiting) == os.getpid()
            listener.accept()[0].close()
            assert who_waits_for(waiting) is None


@needs_root
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_sender_that_has_closed_before_its_slow_reader_has_everything(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        sender = socket.create_connection(listener.getsockname()[:2])
        reader, _ = listener.accept()
        sender.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sender.send(bytes(1 << 16))
        sockets = sockets_of(look([os.getpid()], os.getpid()))
        assert who_reads_from_one(sockets) is None
        sender.close()
        assert who_reads_from_one(sockets) == os.getpid()
        assert who_reads_from_one({os.getpid(): frozenset({1})}) is None, "somebody else's"
        with reader:
            while reader.recv(1 << 20):
                pass
        assert who_reads_from_one(sockets) is None


@pytest.mark.parametrize(
    ("tree", "lost"),
    [
        ({1: (0, 1), 2: (1, 1), 3: (2, 2 + 1)}, None),
        ({1: (0, 1), 5: (1, 4)}, None),  # the leader of session 4 is gone: a helper takes its place
        ({1: (0, 1), 5: (1, 4), 6: (1, 4), 7: (5, 4)}, None),
        ({1: (0, 1), 2: (1, 2), 3: (2, 1)}, None),  # born before its parent began a session
        ({1: (0, 1), 2: (1, 2), 3: (2, 9)}, 3),  # a subreaper took it in
        ({1: (0, 1), 2: (1, 1), 9: (1, 9), 3: (2, 9)}, 3),  # the leader lives, but is no ancestor
        ({1: (0, 1), 2: (1, 2), 3: (2, 1), 4: (2, 5), 5: (1, 5)}, 4),
        ({1: (0, 1), 8: (0, 7)}, None),  # from outside: not in the tree
    ],
)
def test_sessions_that_cannot_be_built_again(tree: dict[int, tuple[int, int]], lost: int | None) -> None:
    assert lost_session(tree, 1) == lost


@needs_root
def test_a_file_without_its_name_is_lent_one_but_on_a_shared_mount() -> None:
    with in_use_without_its_name() as pid:
        assert kinds(pid) == set()
        (file,) = (one for one in opened(look([pid], pid).descriptors) if one.path.endswith("/a (deleted)"))
        around = places(pid, [pid])
        mount = next(point for point in points(file.path) if point in {one.point for _, one in around.mounts.values()})
        (found,) = refused(look([pid], pid, shared=[mount]))
        assert found.row.kind == "lost name" and "on a shared mount" in found.held
        assert "descriptor" in found.held and file.path in found.held


def points(path: str) -> list[str]:
    """The folders above it, the nearest first."""
    return [str(folder) for folder in Path(path).parents]


@needs_root
@pytest.mark.parametrize(
    "flag", ["0x10000000", "0x04000000", "0x08000000"]
)  # CLONE_NEWUSER, CLONE_NEWUTS, CLONE_NEWIPC
def test_a_sandbox_inside_the_job_but_no_process_from_outside(flag: str) -> None:
    code = f"import ctypes, os, time; child = os.fork() or ctypes.CDLL(None).unshare({flag}) or print(flush=True)\n"
    with running(f"{code}while not child: time.sleep(1)\nimport sys; sys.stdin.read()") as pid:
        (child,) = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        found = refused(look([pid, child], pid))
        assert [(one.row.kind, one.process.pid) for one in found] == [("nested namespace", child)]
        assert refused(look([pid, child], child)) == [], "it was not started by the container's first process"
        os.kill(child, 9)


@needs_root
def test_a_name_that_is_no_text_comes_as_text_into_the_sentence() -> None:
    """It goes into JSON, which has no place for surrogates."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        code = f"import os; os.chdir({folder!r}); name = b'\\xff\\x1b'; kept = open(name, 'w'); os.link(name, 'b')\n"
        code += "os.unlink(name); open(name + b' (deleted)', 'w').close()"
        with running(code + THEN_WAIT) as pid:
            seen = look([pid], pid)
            (found,) = refused(seen)
            assert found.row.kind == "lost name" and f"{folder}/?? (deleted)" in found.sentence
            with pytest.raises(NotCheckpointable) as said:
                lend(pid, [pid], opened(seen.descriptors), Path(folder))
            assert str(said.value).encode()
            assert Finding(Level.CHANGE, "x", "has", process=Process(pid, 1, "sh"), held=found.held).sentence.encode()


@needs_root
def test_secret_memory() -> None:
    code = "import ctypes, mmap, os; kept = ctypes.CDLL(None).syscall(447, 0)\n"
    code += (
        "kept >= 0 and (os.truncate(kept, 4096), os.__dict__.setdefault('m', mmap.mmap(kept, 4096)), os.close(kept))\n"
    )
    with running(code + "print(kept, flush=True)" + THEN_WAIT) as pid:
        shown = "/secretmem" in Path(f"/proc/{pid}/maps").read_text()
        assert kinds(pid) == ({"secret memory"} if shown else set())
