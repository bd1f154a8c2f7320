"""A restored job goes on without noticing: no SIGCONT, no SIGCHLD about the stop, and what waited still waits."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from tests.integration.engine_bed import Bed, Running
from tests.integration.test_engine import JOB_ID, checkpoint, die, fresh
from worker_agent.engine import continue_restored, finish_restore, prepare_restore, quiet_continue

pytestmark = [pytest.mark.criu]

SHELL = """
trap 'echo noticed CONT' CONT
sleep 3600 &
echo begun
while [ ! -e /data/go ]; do read -t .05 line <> /data/never; echo tick; done
echo end
kill -KILL $!
"""
"""The builtin `read` waits, so that no child of the shell's ends by itself."""
PYTHON = """
import ctypes, os, select, signal, struct, sys, threading, time

def say(*words):
    print(*words, flush=True)

def until_go():
    say('begun')
    while not os.path.exists('/data/go'):
        say('tick')
        try:
            select.select([], [], [], .02)
        except InterruptedError:
            pass

def children(count):
    made = []
    for _ in range(count):
        made.append(os.fork())
        if made[-1] == 0:
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            while True:
                time.sleep(3600)
    return made
"""
HANDLER = """
count = []
signal.signal(signal.SIGCONT, lambda *_: count.append('CONT'))
for _ in range(5):
    threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
children(3)
until_go()
say('noticed', count)
"""
BLOCKED = """
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCONT, signal.SIGCHLD])
for _ in range(3):
    threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
made = children(2)
until_go()
say('waiting', sorted(signal.sigpending()))
say('mask', [int(one) for one in sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))])
say('children', [os.waitpid(pid, os.WNOHANG | os.WCONTINUED) for pid in made])
os.kill(made[0], signal.SIGKILL)
found = signal.sigwaitinfo([signal.SIGCHLD])
say('then', found.si_code == os.CLD_KILLED, found.si_pid == made[0])
"""
ITS_OWN = """
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCONT, signal.SIGUSR1])
for number in (signal.SIGCONT, signal.SIGUSR1):
    os.kill(os.getpid(), number)
until_go()
say('waiting', [signal.Signals(one).name for one in sorted(signal.sigpending())])
"""
OF_A_CHILD = """
signal.signal(signal.SIGCHLD, lambda *_: None)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
made = children(1)
os.kill(made[0], signal.SIGSTOP)
os.waitpid(made[0], os.WUNTRACED)
until_go()
found = signal.sigwaitinfo([signal.SIGCHLD])
say('of the child', found.si_code == os.CLD_STOPPED, found.si_pid == made[0])
os.kill(made[0], signal.SIGCONT)
found = signal.sigwaitinfo([signal.SIGCHLD])
say('of the child', found.si_code == os.CLD_CONTINUED, found.si_pid == made[0])
"""
OF_THE_STOP = """
told = []
signal.signal(signal.SIGCHLD, lambda *_: told.append('CHLD'))
for _ in range(3):
    threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
made = children(6)
until_go()
say('told', told, signal.pthread_sigmask(signal.SIG_BLOCK, []))
os.kill(made[0], signal.SIGKILL)
while not told:
    time.sleep(.01)
say('then', os.waitpid(made[0], 0)[0] == made[0])
os.kill(made[1], signal.SIGSTOP)
os.waitpid(made[1], os.WUNTRACED)
say('and then', len(told) > 1)
for pid in made[1:]:
    os.kill(pid, signal.SIGKILL)
"""
OWN_STOP = """
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTSTP])
os.kill(os.getpid(), signal.SIGTSTP)
until_go()
say('waiting', [signal.Signals(one).name for one in sorted(signal.sigpending())])
"""


@pytest.fixture
async def bed() -> AsyncIterator[Bed]:
    made = Bed.make()
    try:
        made.new_node()
        yield made
    finally:
        await made.close()


async def through_a_death(bed: Bed, command: list[str], plainly: bool = False) -> list[str]:
    """What the job says at its end, after two restores."""
    bed.command = command
    running = await fresh(bed)
    running.first_line()
    for epoch in (1, 2):
        manifest = await checkpoint(running, epoch)
        await die(bed, running)
        container = bed.container()
        prepared = await prepare_restore(container, manifest.number, epoch=epoch + 1, job_id=JOB_ID, any_device=True)
        running = bed.launch(container, ["restore", *prepared.argv])
        await finish_restore(running.container, prepared.manifest)
        with capture_logs() as logs:
            await continue_restored(running.container, prepared.manifest)
        assert [one["event"] for one in logs if one["log_level"] == "warning"] == plainly * [
            "a restored job gets SIGCONT"
        ]
        running.more_lines(3)
    return said_at_the_end(bed, running)


def said_at_the_end(bed: Bed, running: Running) -> list[str]:
    (bed.volume.root / "seen/data/go").touch()
    assert running.exit_code() == 0, running.log("stderr").decode()
    return [line for line in running.log().decode().splitlines() if line not in ("begun", "tick")]


def python(code: str) -> list[str]:
    return ["/usr/bin/python3", "-c", PYTHON + code]


async def test_a_shells_traps_see_nothing(bed: Bed) -> None:
    assert await through_a_death(bed, ["/bin/bash", "-c", "mkfifo /data/never\n" + SHELL]) == ["end"]


async def test_handlers_of_a_process_with_threads_and_children_are_not_called(bed: Bed) -> None:
    assert await through_a_death(bed, python(HANDLER)) == ["noticed []"]


async def test_blocked_signals_do_not_wait_and_no_child_says_that_it_went_on(bed: Bed) -> None:
    said = await through_a_death(bed, python(BLOCKED))
    assert said == ["waiting []", "mask [17, 18]", "children [(0, 0), (0, 0)]", "then True True"]


async def test_what_waited_before_still_waits(bed: Bed) -> None:
    assert await through_a_death(bed, python(ITS_OWN)) == ["waiting ['SIGUSR1', 'SIGCONT']"]


async def test_what_a_parent_was_told_before_it_is_still_told(bed: Bed) -> None:
    assert await through_a_death(bed, python(OF_A_CHILD)) == 2 * ["of the child True True"]


async def test_a_parent_hears_nothing_of_the_stop_and_hears_of_its_children_afterwards(bed: Bed) -> None:
    assert await through_a_death(bed, python(OF_THE_STOP)) == ["told [] set()", "then True", "and then True"]


async def test_a_parent_that_cannot_be_held_hears_of_its_children_all_the_same(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quiet_continue, "LIMIT", -1.0)
    said = await through_a_death(bed, python(OF_THE_STOP), plainly=True)
    assert said[0].endswith("set()") and said[1:] == ["then True", "and then True"]


async def test_a_stop_signal_that_waited_still_waits(bed: Bed) -> None:
    assert await through_a_death(bed, python(OWN_STOP)) == ["waiting ['SIGTSTP']"]


async def test_a_job_that_cannot_be_held_goes_on_all_the_same(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet_continue, "LIMIT", -1.0)
    said = await through_a_death(bed, python(HANDLER), plainly=True)
    assert "CONT" in said[0]
