"""Rows about processes: trees, sessions, zombies, threads, signals, timers, limits."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import select
import signal
import struct
import threading
import time
from collections.abc import Callable

from row import Check, call, expect, libc, main, places, same  # type: ignore[import-not-found]

PR_SET_PDEATHSIG, PR_GET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 1, 2, 36, 37
PR_SET_TIMERSLACK, PR_GET_TIMERSLACK = 29, 30
PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS, PR_SET_DUMPABLE, PR_GET_DUMPABLE = 38, 39, 4, 3


class Child:
    """A process that answers questions over a pair of pipes, in the way `work` does."""

    def __init__(self, prepare: Callable[[], None], work: Callable[[bytes], bytes]) -> None:
        ask, answer = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(ask[1])
            os.close(answer[0])
            prepare()
            while question := os.read(ask[0], 100):
                os.write(answer[1], work(question))
            os._exit(0)
        os.close(ask[0])
        os.close(answer[1])
        self.to, self.back = ask[1], answer[0]

    def ask(self, question: bytes = b"?") -> bytes:
        os.write(self.to, question)
        return os.read(self.back, 4096)


def whoami(question: bytes = b"") -> bytes:
    """Who a process is: itself, its parent, its group, its session."""
    return b"%d %d %d %d" % (os.getpid(), os.getppid(), os.getpgid(0), os.getsid(0))


def tree() -> Check:
    """Children with groups and sessions of their own, a grandchild whose parent went, a group and a session without
    their leader, and a signal to a whole group."""
    counts = [0]

    def count(number: int, frame: object) -> None:
        counts[0] += 1

    signal.signal(signal.SIGUSR1, count)

    def answer(question: bytes) -> bytes:
        return b"%d" % counts[0] if question == b"n" else whoami()

    leader = Child(os.setpgrp, answer)
    leader.ask()
    member = Child(lambda: os.setpgid(0, leader.pid), answer)
    session = Child(os.setsid, answer)
    orphan_of_group = _left_behind(os.setpgrp, answer)
    orphan_of_session = _left_behind(os.setsid, answer)
    everyone = [leader, member, session, orphan_of_group, orphan_of_session]
    first = [child.ask() for child in everyone]
    signals = [0]

    def check() -> str:
        same([child.ask() for child in everyone], first, "pid, parent, group, session")
        os.killpg(leader.pid, signal.SIGUSR1)
        signals[0] += 1
        for child in (leader, member):
            _until(lambda child=child: int(child.ask(b"n")) == signals[0], "signals to the group")  # type: ignore[misc]
        same(orphan_of_group.ask(b"n"), b"0", "signals to another group")
        return f"{len(first)} processes"

    return check


def _left_behind(prepare: Callable[[], None], work: Callable[[bytes], bytes]) -> Child:
    """A process whose parent, the leader of its group or session, has ended and was waited for."""
    told = os.pipe()

    def ends() -> None:
        prepare()
        if os.fork():
            os._exit(0)
        while os.getppid() != 1:
            time.sleep(0.001)
        os.write(told[1], b"x")

    child = Child(ends, work)
    os.waitpid(child.pid, 0)
    os.read(told[0], 1)
    for end in told:
        os.close(end)
    return child


def _until(condition: Callable[[], bool], what: str, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        expect(time.monotonic() < end, what)
        time.sleep(0.001)


def zombies() -> Check:
    """Children that ended in every way and were not waited for; one leads a group that lives on."""
    ended = {"exit": _zombie(lambda: os._exit(5)), "signal": _zombie(lambda: os.kill(os.getpid(), signal.SIGKILL))}
    leader = os.fork()
    if leader == 0:
        os.setpgrp()
        if os.fork() == 0:
            while True:
                time.sleep(1)
        os._exit(6)
    os.waitid(os.P_PID, leader, os.WEXITED | os.WNOWAIT)
    ended["leader"] = leader

    def check() -> str:
        for name, pid in ended.items():
            with open(f"/proc/{pid}/stat") as stat:
                same(stat.read().rpartition(")")[2].split()[0], "Z", f"state of the zombie {name}")
            with contextlib.suppress(ChildProcessError):
                found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
                assert found is not None
                same((found.si_pid, found.si_status), (pid, {"exit": 5, "signal": 9, "leader": 6}[name]), name)
        os.killpg(leader, 0)
        return " ".join(ended)

    return check


def _zombie(end: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        end()
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    return child


def threads() -> Check:
    """Threads with state and names of their own that wait for each other (futexes), in a ring, and 100 that sleep."""
    local = threading.local()
    gates = [threading.Semaphore(0) for _ in range(9)]
    seen: list[tuple[int, int, int]] = [(0, 0, 0)] * 8
    closed = threading.Event()

    def work(number: int) -> None:
        local.state, local.steps = number * 7919, 0
        while True:
            gates[number].acquire()
            local.state = (local.state * 1103515245 + 12345) & 0x7FFFFFFF
            local.steps += 1
            seen[number] = (threading.get_native_id(), local.state, local.steps)
            gates[number + 1].release()

    for number in range(8):
        threading.Thread(target=work, args=(number,), daemon=True).start()
    sleeping = [threading.Thread(target=closed.wait, daemon=True) for _ in range(100)]
    for thread in sleeping:
        thread.start()
    states, ids, steps = [number * 7919 for number in range(8)], [0] * 8, [0]

    def check() -> str:
        gates[0].release()
        expect(gates[8].acquire(timeout=300), "the ring of threads stands still")
        steps[0] += 1
        for number, (thread, state, count) in enumerate(seen):
            states[number] = (states[number] * 1103515245 + 12345) & 0x7FFFFFFF
            same((state, count), (states[number], steps[0]), f"state of thread {number}")
            same(thread, ids[number] or thread, f"id of thread {number}")
            ids[number] = thread
        expect(all(thread.is_alive() for thread in sleeping), "a sleeping thread has ended")
        return f"{len(ids)} threads"

    return check


def signals() -> Check:
    """Blocked signals that wait: an ordinary one, and queued real-time ones with their values, in order."""
    real_time = signal.SIGRTMIN + 3
    waiting = {signal.SIGUSR2, signal.SIGTERM, real_time}
    signal.pthread_sigmask(signal.SIG_BLOCK, waiting)
    caught = [0]

    def catch(number: int, frame: object) -> None:
        caught[0] += 1

    signal.signal(signal.SIGUSR1, catch)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for value in range(5):
        call("sigqueue", os.getpid(), real_time, ctypes.c_void_p(1000 + value))
    os.kill(os.getpid(), signal.SIGUSR2)
    libc.tgkill(os.getpid(), threading.get_native_id(), signal.SIGTERM)
    told = [0]

    def check() -> str:
        same(signal.sigpending(), waiting, "signals that wait")
        same(signal.getsignal(signal.SIGINT), signal.SIG_IGN, "handler")
        for value in range(5):  # taken out in order, and queued again
            info = (ctypes.c_int * 32)()
            mask = (ctypes.c_ulong * 16)()
            libc.sigemptyset(mask)
            libc.sigaddset(mask, real_time)
            same(libc.sigwaitinfo(mask, info), real_time, "real-time signal")
            same(struct.unpack_from("Q", bytes(info), 24)[0], 1000 + value, "value of a real-time signal")
        for value in range(5):
            call("sigqueue", os.getpid(), real_time, ctypes.c_void_p(1000 + value))
        os.kill(os.getpid(), signal.SIGUSR1)
        told[0] += 1
        same(caught[0], told[0], "signals caught")
        return " ".join(sorted(str(int(number)) for number in signal.sigpending()))

    return check


def continued() -> Check:
    """A process and its child with handlers for SIGCONT, which nobody calls, and a SIGCONT that waits."""
    called = []

    def note(number: int, frame: object) -> None:
        called.append(number)

    signal.signal(signal.SIGCONT, note)
    child = Child(lambda: None, lambda question: repr(called).encode())
    waits = Child(_wait_with_sigcont, lambda question: repr(sorted(map(int, signal.sigpending()))).encode())

    def check() -> str:
        same(child.ask(), b"[]", "signals to the child")
        same(waits.ask(), b"[18]", "the SIGCONT that waits")
        same(called, [], "signals to the parent")
        for pid in (child.pid, waits.pid):
            same(os.waitpid(pid, os.WNOHANG | os.WUNTRACED | os.WCONTINUED), (0, 0), "what a wait says")
        return "nothing"

    return check


def _wait_with_sigcont() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCONT])
    os.kill(os.getpid(), signal.SIGCONT)


def timers() -> Check:
    """POSIX timers (repeating, one-shot), the interval timers of setitimer, and a clock that only goes forward."""
    ticks = {signal.SIGALRM: 0, signal.SIGVTALRM: 0, signal.SIGPROF: 0, signal.SIGRTMIN: 0}

    def tick(number: int, frame: object) -> None:
        ticks[signal.Signals(number)] += 1

    for number in ticks:
        signal.signal(number, tick)
    repeating, single = _timer(signal.SIGRTMIN), _timer(signal.SIGRTMIN + 1)
    _set_timer(repeating, 0.03, 0.03)
    _set_timer(single, 0.0, 3600.0)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.05, 0.05)
    signal.setitimer(signal.ITIMER_PROF, 0.05, 0.05)
    clock = [time.monotonic(), 3600.0]

    def check() -> None:
        before = dict(ticks)

        def all_ticked() -> bool:
            sum(range(20000))  # CPU time for those that count it
            return all(ticks[number] > before[number] for number in ticks)

        _until(all_ticked, f"a timer stands still: {before} {ticks}")
        interval, left = _timer_left(single)
        expect(interval == 0 and 0 < left <= clock[1], f"time left of the single timer: {left}")
        same(_timer_left(repeating)[0], 0.03, "interval")
        same(signal.getitimer(signal.ITIMER_REAL)[1], 0.05, "interval of setitimer")
        now = time.monotonic()
        expect(now >= clock[0], "the monotonic clock went backwards")
        clock[:] = [now, left]

    return check


def _timer(number: int) -> int:
    made = ctypes.c_void_p()
    event = ctypes.create_string_buffer(struct.pack("qii48x", 42, number, 0), 64)  # SIGEV_SIGNAL
    call("timer_create", time.CLOCK_MONOTONIC, event, ctypes.byref(made))
    return made.value or 0


def _set_timer(timer: int, interval: float, first: float) -> None:
    value = struct.pack("4q", *divmod(int(interval * 1e9), 10**9), *divmod(int(first * 1e9), 10**9))
    call("timer_settime", ctypes.c_void_p(timer), 0, value, None)


def _timer_left(timer: int) -> tuple[float, float]:
    value = ctypes.create_string_buffer(32)
    call("timer_gettime", ctypes.c_void_p(timer), value)
    seconds = struct.unpack("4q", value.raw)
    return seconds[0] + seconds[1] / 1e9, seconds[2] + seconds[3] / 1e9


def sleepers() -> Check:
    """Processes in the middle of a sleep, a poll, a select and a wait for a child: they go on waiting."""
    ends = os.pipe()
    children = []
    for wait in (
        lambda: time.sleep(3600),
        _poll,
        lambda: os.read(ends[0], 1),
        lambda: select.select([ends[0]], [], []),
    ):
        child = os.fork()
        if child == 0:
            wait()
            os._exit(9)  # it was woken by something else than its death
        children.append(child)
    parent = os.fork()
    if parent == 0:
        child = os.fork()
        if child == 0:
            time.sleep(3600)
        os.waitpid(child, 0)
        os._exit(9)
    children.append(parent)

    def check() -> None:
        for child in children:
            same(os.waitpid(child, os.WNOHANG), (0, 0), f"child {child} still waits")

    return check


def _poll() -> None:
    """A poll or nanosleep that was frozen answers EINTR, once; nearly all programs and libraries then repeat it."""
    while libc.poll(None, 0, -1) == -1 and ctypes.get_errno() == errno.EINTR:
        pass


def attributes() -> Check:
    """What belongs to a process: limits, niceness, CPUs, I/O priority, mask, working folder, name, capabilities, prctl
    settings."""
    os.umask(0o027)
    os.mkdir(f"{places()[1]}/here")
    os.chdir(f"{places()[1]}/here")
    os.nice(5)
    resource.setrlimit(resource.RLIMIT_NOFILE, (777, 888))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    call("prctl", 15, b"renamed", 0, 0, 0)
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    call("prctl", PR_SET_TIMERSLACK, 123_456, 0, 0, 0)
    io_set, io_get = {"x86_64": (251, 252), "aarch64": (30, 31)}[os.uname().machine]
    call("syscall", io_set, 1, 0, 2 << 13 | 6)
    with open("/proc/self/coredump_filter", "w") as setting:
        setting.write("0x7f")
    child = Child(_ask_for_death_signal, _death_signal)
    os.environ["PERDURE_ROW"] = "kept"

    def found() -> dict[str, object]:
        subreaper = ctypes.c_int()
        call("prctl", PR_GET_CHILD_SUBREAPER, ctypes.byref(subreaper), 0, 0, 0)
        mask = os.umask(0)
        os.umask(mask)
        status = open("/proc/self/status").read().splitlines()  # noqa: SIM115
        wanted = ("Name", "Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "Seccomp")
        return {
            "limits": [resource.getrlimit(number) for number in range(16)],
            "nice": os.getpriority(os.PRIO_PROCESS, 0),
            "mask": mask,
            "folder": os.getcwd(),
            "no_new_privs": libc.prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0),
            "subreaper": subreaper.value,
            "dumpable": libc.prctl(PR_GET_DUMPABLE, 0, 0, 0, 0),
            "signal at the parent's death": child.ask(),
            "environment": os.environ["PERDURE_ROW"],
            "CPUs": os.sched_getaffinity(0),
            "timer slack": libc.prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0),
            "I/O priority": libc.syscall(io_get, 1, 0),
            "core filter": open("/proc/self/coredump_filter").read(),
            "oom": open("/proc/self/oom_score_adj").read(),
            "host": os.uname().nodename,
            **{line.partition(":")[0]: line for line in status if line.partition(":")[0] in wanted},
        }

    first = found()

    def check() -> None:
        for name, value in found().items():
            same(value, first[name], name)

    return check


def _ask_for_death_signal() -> None:
    call("prctl", PR_SET_PDEATHSIG, signal.SIGUSR2, 0, 0, 0)


def _death_signal(question: bytes) -> bytes:
    number = ctypes.c_int()
    call("prctl", PR_GET_PDEATHSIG, ctypes.byref(number), 0, 0, 0)
    return b"%d" % number.value


if __name__ == "__main__":
    main(globals())
