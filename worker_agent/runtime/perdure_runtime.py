"""What perdure-runtime does once a call concerns a protected container: ask the agent, then create or restore.

    main([REAL, RUNC, [global flags], create|start|state|delete, [flags], ID])

The launcher beside this file imports it and calls WHOLE, its last word; REAL is the runtime that the container engine
means (runc, or nvidia-container-runtime), RUNC the one beneath. Standard library only, Python 3.9: it runs with the
machine's own Python, which no upgrade of ours can break. Every import beyond os and sys waits until it is needed, and
what costs much (socket, subprocess, contextlib) is not used at all: each container pays for it (bench/README.md). The
conversation with the agent is described in perdure/contracts/runtime.py (a test holds the two in step).

The rule that outranks all others is promise 7. Whatever of ours fails before a first attempt's create ends in the real
runtime's create: the job runs unprotected, and a note in <run dir>/unprotected tells the agent so. A later attempt has
work to lose, so it waits for the agent until the container start time-out nears; see `_without_agent`. And what the
real runtime has done stays done: nothing of ours that fails after it changes its answer.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

RUN_DIR = os.environ.get("PERDURE_RUN_DIR", "/run/perdure")
START_LIMIT = 180.0
"""Seconds that ECS gives a container to start, unless a setting says otherwise."""
MARGIN = 10.0
"""Seconds before that limit at which a hold ends. The agent ends its own holds earlier."""
SILENCE = 15.0
"""An agent that holds a request says WAIT every few seconds; after this long without a line it counts as away."""
FIRST_PATIENCE = 5.0
"""A first attempt waits this long for an agent that is restarting; so does a restored container at its start."""
TELL_LIMIT = 15.0
"""Seconds for telling the agent what was done; it finds out by itself when it does not hear it."""
CONTINUE_LIMIT = 30.0
"""Seconds in which the agent lets a restored container go on. It gives up by itself earlier, and does it plainly."""
KEEPER_LIMIT = 10.0
REMOVE_LIMIT = 20.0
CRIU_GONE = 3.0
"""Seconds after which `runc restore` whose CRIU has ended is given up: runc 1.1 waits for ever for one that was killed
(tried)."""
TICK = 0.25
CONFIG_LIMIT = 16 << 20
MESSAGE_LIMIT = 4000
PIPE_BYTES = 1 << 20
"""Size of the job's stdio pipes: what runc and CRIU may say before anybody reads, and room for bursts of the job."""
MOST_RUNGS = 64

GLOBAL_VALUES = {"log", "log-format", "root", "criu", "rootless"}
CREATE_VALUES = {"bundle", "b", "pid-file", "console-socket", "pidfd-socket", "preserve-fds"}


class AgentAway(Exception):
    """Nobody answers at the agent's socket."""


class NotUnderstood(AgentAway):
    """What answers there does not speak our language; asking again would not help."""


class Failed(Exception):
    """A rung did not hold; the text says why."""


class Call:
    """The command line: the two runtimes, the global flags, the command, its flags by name, the container's id."""

    def __init__(self, real: str, runc: str, arguments: list[str]) -> None:
        self.real = real
        self.runc = runc
        self.arguments = arguments
        self.globals: list[str] = []
        self.flags: dict[str, str] = {}
        self.command = ""
        self.id = ""
        self.restoring = False
        """A restore has begun: the files under the container are a checkpoint's, and a clean start on them is wrong."""
        self.status: int | None = None
        """What the real runtime answered to this very call, once it has; nothing of ours changes it."""
        words = iter(arguments)
        for word in words:
            if not word.startswith("-"):
                if self.command:
                    self.id = word
                else:
                    self.command = word
                continue
            name, separator, value = word.lstrip("-").partition("=")
            parts = [word]
            if not separator and name in (CREATE_VALUES if self.command else GLOBAL_VALUES):
                value = next(words, "")
                parts.append(value)
            if self.command:
                self.flags[name] = value
            else:
                self.globals += parts
                self.flags["global " + name] = value

    @property
    def bundle(self) -> str:
        """Folder of config.json, absolute."""
        return os.path.abspath(self.flags.get("bundle") or self.flags.get("b") or ".")

    @property
    def root(self) -> str:
        """runc's --root, or "" for its default."""
        return self.flags.get("global root", "")

    @property
    def marks(self) -> str:
        """The agent's folder for this container; it exists while the container is protected."""
        return os.path.join(RUN_DIR, "containers", self.id)

    def become_real(self) -> int:
        """Give way to the real runtime, with the arguments as they came. Returns only when it cannot be run."""
        try:
            _as_before()
            os.execv(self.real, [self.real, *self.arguments])
        except OSError as problem:
            sys.stderr.write(f"perdure-runtime: cannot run {self.real}: {problem}\n")
            return 127

    def run_real(self) -> int:
        """Let the real runtime do what was asked, and come back. Its exit status, which is ours from now on."""
        self.status = _wait(_spawn([self.real, *self.arguments]), None)
        assert self.status is not None
        return self.status

    def has_mark(self, name: str) -> bool:
        """Was this written by `mark`?"""
        return os.path.exists(os.path.join(self.marks, name))

    def mark(self, name: str, pid: int | None) -> None:
        """Note for later calls, and for an agent that restarts, how far this container has come."""
        _write_file(os.path.join(self.marks, name), _as_json({"pid": pid}))


class Job:
    """What the container's own environment says. Untrusted: the job chose it. `later`: not its first attempt."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.id = environment["AWS_BATCH_JOB_ID"]
        plain = len(self.id) <= 128 and all(one.isascii() and (one.isalnum() or one in ":_-") for one in self.id)
        attempt = environment.get("AWS_BATCH_JOB_ATTEMPT", "")
        self.later = plain and attempt.isascii() and attempt.isdigit() and len(attempt) < 4 and int(attempt) > 1

    @staticmethod
    def of(bundle: str) -> Job | None:
        """The Batch job of a bundle, or None when its environment names none."""
        with open(os.path.join(bundle, "config.json"), "rb") as file:
            config = _from_json(file.read(CONFIG_LIMIT).decode("utf-8", "replace"))
        pairs = (entry.partition("=") for entry in config["process"]["env"])
        environment = {name: value for name, _, value in pairs}
        return Job(environment) if environment.get("AWS_BATCH_JOB_ID") else None


# -------------------------------------------------------------------------------------------------------- the agent


class Agent:
    """The agent at the other end of its socket, for one call."""

    def __init__(self, call: Call, patience: float = 1.0, limit: float = TELL_LIMIT) -> None:
        import time

        self._call = call
        self._clock = time.monotonic
        self._sleep = time.sleep
        self._patience = patience
        self._deadline = time.monotonic() + limit

    def left(self) -> float:
        """Seconds until this call must end."""
        return self._deadline - self._clock()

    def ask(self, operation: str, pid: int | None = None, message: str = "") -> dict[str, object]:
        """The agent's answer, WAIT lines skipped. While it is away, ask again until patience or time is over: it
        knows a request that it has seen by the container's id. Raises AgentAway."""
        request: dict[str, object] = {
            "operation": operation,
            "container_id": self._call.id,
            "bundle": self._call.bundle if operation == "create" else "",
            "runc_root": self._call.root,
            "pid": pid,
            "message": message[-MESSAGE_LIMIT:],
        }
        line = (_as_json(request) + "\n").encode("ascii")
        away_since = None
        while True:
            try:
                return self._ask_once(line)
            except NotUnderstood:
                raise
            except (OSError, AgentAway) as problem:
                now = self._clock()
                away_since = away_since or now
                if now - away_since >= self._patience or self.left() <= 0:
                    raise AgentAway(f"the agent does not answer: {problem}") from problem
                self._sleep(TICK)

    def _ask_once(self, request: bytes) -> dict[str, object]:
        sockets = _module("_socket", "socket")
        connection = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
        try:
            connection.settimeout(max(0.1, min(SILENCE, self.left())))
            connection.connect(os.path.join(RUN_DIR, "agent.sock"))
            connection.sendall(request)
            heard = b""
            while True:
                if self.left() <= 0:
                    raise AgentAway("no decision in time")
                line, whole, rest = heard.partition(b"\n")
                if whole:
                    heard = rest
                    reply = _reply(line)
                    if reply["action"] != "wait":
                        return reply
                    continue
                data = connection.recv(1 << 16) if len(heard) < 1 << 20 else b""
                if not data:
                    raise AgentAway("the connection ended without an answer")
                heard += data
        finally:
            connection.close()

    def tell(self, operation: str, pid: int | None = None) -> None:
        """As `ask`, where the answer changes nothing: the agent also finds out by itself."""
        try:
            Agent(self._call).ask(operation, pid)
        except Exception as problem:
            _note(self._call, f"{operation}: {problem}")


def _reply(line: bytes) -> dict[str, object]:
    try:
        reply = _from_json(line.decode("utf-8", "replace"))
    except Exception:
        raise NotUnderstood("the agent's answer is no JSON") from None
    if not isinstance(reply, dict):
        raise NotUnderstood("the agent's answer is no object")
    action = reply.get("action")
    argv, keeper = reply.get("argv", []), reply.get("keeper", [])
    texts = isinstance(argv, list) and isinstance(keeper, list) and all(isinstance(one, str) for one in argv + keeper)
    whole = action in ("wait", "passthrough", "fail", "done") or (
        action in ("create", "restore") and texts and len(keeper) == 2
    )
    if not whole:
        raise NotUnderstood(f"the agent's answer {str(action)[:20]!r} is not understood")
    return reply


# ----------------------------------------------------------------------------------------------------------- create


def create(call: Call) -> int:
    """`create`: as the agent says, with the ladder of rungs when it is a restore. Returns the exit status."""
    job = Job.of(call.bundle)
    if job is None:
        return call.become_real()
    if call.flags.get("preserve-fds", "0") not in ("", "0"):
        # runc restore has no such flag: a container that is given descriptors cannot be brought back.
        return _unprotected(call, job, "the container is given open descriptors (--preserve-fds)")
    limit = _start_limit() - MARGIN
    # Without its folder the agent has never been here: a first attempt does not wait for one that restarts.
    patience = limit if job.later else FIRST_PATIENCE if os.path.isdir(RUN_DIR) else 0.0
    agent = Agent(call, patience, limit)
    try:
        reply = agent.ask("create")
        for _ in range(MOST_RUNGS):
            if reply["action"] not in ("create", "restore"):
                break
            problem = _rung(call, agent, reply)
            if not problem:
                return 0
            if agent.left() <= 0:
                raise AgentAway(f"no time is left after {problem}")
            reply = agent.ask("failed", message=problem)
    except AgentAway as away:
        return _without_agent(call, job, str(away))
    if reply["action"] == "fail":
        return _fail(call, str(reply.get("reason")) or "the agent refuses to start this container")
    return call.become_real()


def _without_agent(call: Call, job: Job, why: str) -> int:
    """The agent is away, and patience is over (5 s for a first attempt, nearly the whole start time-out for a later).

    Promise 7: a later attempt fails its start only where the job's retry rules would retry that and attempts remain.
    Only the agent and the workflow know the rules, so here that cannot be said, and failing might end for good a job
    that would have succeeded (the usual rules exit on everything but a lost host). It starts clean, in the container
    engine's own layer: the job volume is not touched and keeps its checkpoints; the note becomes an event.

    After a restore that did not hold there is no such way: the files under the container are those of a checkpoint
    without its memory, and a clean start on them could give a wrong result. That start fails. (The agent marks the
    container `restoring` before it touches those files: it may have died before it could answer.)
    """
    if call.restoring or call.has_mark("restoring"):
        return _fail(call, f"a restore failed and nobody says how to go on: {why}")
    return _unprotected(call, job, why)


def _unprotected(call: Call, job: Job, why: str) -> int:
    try:
        import time

        note = {"container_id": call.id, "job_id": job.id, "later": job.later, "reason": why, "at": time.time()}
        folder = os.path.join(RUN_DIR, "unprotected")
        os.makedirs(folder, mode=0o700, exist_ok=True)
        _write_file(os.path.join(folder, call.id + ".json"), _as_json(note))
    except Exception:
        pass  # The note is a courtesy; the container is not.
    return call.become_real()


def _rung(call: Call, agent: Agent, reply: dict[str, object]) -> str:
    """One `create` or `runc restore` with a keeper on the job's pipes. Returns "" when the container stands, or why it
    does not; then nothing of it is left with runc."""
    restore = call.restoring = reply["action"] == "restore"
    pipes: list[int] = []
    keeper = None
    left = False
    try:
        pipes += [*os.pipe(), *os.pipe()]
        keeper = _Keeper(reply, (pipes[0], pipes[2]))
        if restore and call.real != call.runc:
            _edit_as_real(call, agent)
        command, environment = _runc_command(call, reply)
        process = _spawn(command, environment, stdout=pipes[1], stderr=pipes[3], own_group=restore)
        status = _wait(process, max(1.0, agent.left()), watch=restore)
        # The job has not run yet (created, or restored and left stopped): whatever the pipes hold now was said by runc
        # and CRIU. It goes to our own file and must not reach the job's output.
        words = _take_words(pipes[0]) + _take_words(pipes[2])
        if words:
            _note(call, words)
        left = status is None or status <= 0  # after a failure of its own runc has tidied up, or the id is another's
        if status is None:
            raise Failed(f"`runc {reply['action']}` did not come to an end and was killed: {words.strip()}")
        pid = _container_pid(call) if status == 0 else None
        if not pid:
            raise Failed(f"`runc {reply['action']}` ended with status {status}: {words.strip()}")
        if reply.get("verifying"):  # the container stands still; the agent has read the image beside runc
            answer = agent.ask("verify", pid)
            if answer["action"] != "done":
                raise Failed(str(answer.get("reason")))
        keeper.wait_ready()
        operation = "restored" if restore else "created"
        try:
            call.mark(operation, pid)
        except OSError:
            if restore:  # without the mark nobody would let it go on
                raise
        keeper.go()
    except Exception as problem:
        said = str(problem) if isinstance(problem, Failed) else f"{type(problem).__name__}: {problem}"
        _close(pipes)  # the keeper ends with them
        if keeper:
            keeper.end()
        if left:
            _remove(call)
        return said
    _close(pipes)
    agent.tell(operation, pid)
    return ""


def _remove(call: Call) -> None:
    """What a rung left with runc goes, so that the next one can use the same id. The agent ends what runc never knew:
    processes and mounts of a restore that was cut short."""
    try:
        _wait(_spawn([call.runc, *call.globals, "delete", "--force", call.id], quiet=True), REMOVE_LIMIT)
    except Exception as problem:
        _note(call, f"not removed: {problem}")


def _edit_as_real(call: Call, agent: Agent) -> None:
    """Have nvidia-container-runtime make its edits of config.json (hooks, devices) for a restore as for a create.

    It makes them only for `create`, then calls the first `runc` on PATH: here a stand-in that does nothing. Failed if
    the stand-in was not met (its configuration may name another runtime by path).
    """
    here = os.path.dirname(os.path.abspath(__file__))
    sign = os.path.join(call.marks, "edited")
    if os.path.exists(sign):
        os.unlink(sign)
    environment = dict(os.environ, PERDURE_EDITED=sign)
    environment["PATH"] = os.path.join(here, "edits") + ":" + environment.get("PATH", os.defpath)
    status = _wait(_spawn([call.real, *call.arguments], environment, quiet=True), max(1.0, agent.left()))
    if status != 0:
        raise Failed(f"{os.path.basename(call.real)} could not prepare the restore (status {status})")
    if not os.path.exists(sign):
        _remove(call)
        raise Failed(f"{os.path.basename(call.real)} does not take its runc from PATH, which a restore needs")


class _Keeper:
    """A started stdio_keeper.py, which waits for its `go`; see there. It gets ready while runc works."""

    def __init__(self, reply: dict[str, object], pipes: tuple[int, int]) -> None:
        import fcntl

        for pipe in pipes:
            try:  # noqa: SIM105  (contextlib costs 3 ms)
                fcntl.fcntl(pipe, getattr(fcntl, "F_SETPIPE_SZ", 1031), PIPE_BYTES)  # named since Python 3.10
            except OSError:
                pass  # the default of 64 KiB does, too
        self._line, theirs = _module("_socket", "socket").socketpair()
        here = os.path.dirname(os.path.abspath(__file__))
        inherited = [*pipes, theirs.fileno()]
        keeper = reply["keeper"]
        assert isinstance(keeper, list)
        begin = "import sys; sys.path.append(sys.argv[1]); import stdio_keeper as k; sys.exit(k.main(sys.argv[2:]))"
        python = [sys.executable or "/usr/bin/python3", "-I", "-S", "-c", begin]  # imported: compiled once
        command = [*python, here, *keeper, *map(str, inherited)]
        self._process = _spawn(command, keep=inherited, own_session=True)
        theirs.close()

    def wait_ready(self) -> None:
        """Until it has taken the pipes over. Failed, with its words, if it cannot."""
        self._line.settimeout(KEEPER_LIMIT)
        try:
            said = self._line.recv(300)
        except OSError as problem:
            said = str(problem).encode("utf-8", "replace")
        if said != b"ready\n":
            raise Failed("the stdio keeper does not start: " + said.decode("utf-8", "replace").strip())

    def go(self) -> None:
        """What comes through the pipes from now on is the job's. The keeper ends by itself when their last writer
        does; it is no longer ours to wait for."""
        self._line.sendall(b"go\n")
        self._line.close()

    def end(self) -> None:
        """The rung did not hold and the pipes are closed: the keeper must be off the job root before the next one."""
        self._line.close()
        _wait(self._process, 5.0)


def _runc_command(call: Call, reply: dict[str, object]) -> tuple[list[str], dict[str, str]]:
    environment = dict(os.environ)
    if reply["action"] == "create":
        return [call.real, *call.arguments], environment
    criu = str(reply.get("criu") or "")
    command = [call.runc, *call.globals]
    first = [str(reply["path_first"])] if reply.get("path_first") else []
    if criu:
        # runc before 1.2 takes the flag, later ones ignore it and look on PATH.
        command += ["--criu", criu]
        first.append(os.path.dirname(criu))
    environment["PATH"] = os.pathsep.join([*first, environment.get("PATH", os.defpath)])
    argv = reply["argv"]
    assert isinstance(argv, list)
    command += ["restore", *argv]
    if "--detach" not in argv and "-d" not in argv:
        command.append("--detach")
    command += ["--bundle", call.bundle]
    for flag in ("pid-file", "console-socket"):
        if call.flags.get(flag):
            command += ["--" + flag, call.flags[flag]]
    if "no-pivot" in call.flags:
        command.append("--no-pivot")
    return [*command, call.id], environment


def _take_words(pipe: int) -> str:
    os.set_blocking(pipe, False)  # and left so: the keeper shares this end and must never wait in a read
    words = b""
    try:
        while True:
            data = os.read(pipe, PIPE_BYTES)
            if not data:
                break
            words += data
    except BlockingIOError:
        pass
    return words.decode("utf-8", "replace")


def _container_pid(call: Call) -> int | None:
    """Init's pid as runc wrote or tells it, as seen in our own pid namespace."""
    path = call.flags.get("pid-file")
    if path:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    return int(_from_json(_runc_output(call, ["state", call.id]))["pid"]) or None


# --------------------------------------------------------------------------------------------- start, state, delete


def start(call: Call) -> int:
    """`start`: a restored container is let go on, any other is started by runc; then the agent is told."""
    if call.has_mark("restored"):
        if call.has_mark("started"):
            return call.become_real()
        try:
            reply = Agent(call, FIRST_PATIENCE, CONTINUE_LIMIT).ask("continue")
        except AgentAway:
            reply = {"action": "passthrough"}
        if reply["action"] == "fail":
            return _fail(call, str(reply.get("reason")))
        if reply["action"] != "done":
            _send_sigcont(call)
        call.status = 0
    elif call.run_real():
        return call.status or 0
    try:
        call.mark("started", None)
    finally:
        Agent(call).tell("started")
    return 0


def _send_sigcont(call: Call) -> None:
    """Let a restored container go on without the agent, which would do it so that the job does not notice."""
    import json

    stay = _stopped_at_the_freeze(call)
    for pid in json.loads(_runc_output(call, ["ps", "-f", "json", call.id])) or []:
        if not stay or _inner_pid(int(pid)) not in stay:
            os.kill(int(pid), 18)  # SIGCONT, without the library that names it


def _stopped_at_the_freeze(call: Call) -> list[int]:
    """Processes, as the container numbers them, that somebody had stopped (SIGSTOP): they must not go on."""
    import json

    try:
        with open(os.path.join(call.marks, "stopped"), encoding="utf-8") as file:
            return [int(pid) for pid in json.load(file)]
    except FileNotFoundError:
        return []


def _inner_pid(pid: int) -> int:
    """The number of a process one pid namespace below ours: in the container."""
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace", newline="\n") as file:
        numbers = next(line for line in file if line.startswith("NSpid:")).split()[1:]
    return int(numbers[min(1, len(numbers) - 1)])


def state(call: Call) -> int:
    """`state`: as runc says, but a restored container that nobody has started yet is `created`, not `running`."""
    if not call.has_mark("restored") or call.has_mark("started"):
        return call.become_real()
    # In runc's answer these words are its own key: inside a value, an annotation's say, the quotes would be escaped.
    known = _runc_output(call, ["state", call.id])
    sys.stdout.write(known.replace('"status": "running"', '"status": "created"', 1))
    return 0


def delete(call: Call) -> int:
    """`delete`: runc first, then the agent lets go of the container's mounts."""
    if call.run_real() == 0:
        Agent(call).tell("deleted")
    return call.status or 0


# --------------------------------------------------------------------------------------------------------- processes


def _as_before() -> None:
    """Undo what Python does to signals: programs that we become or start find them as we did."""
    signals = _module("_signal", "signal")
    for name in ("SIGPIPE", "SIGXFSZ"):
        signals.signal(getattr(signals, name), signals.SIG_DFL)


def _spawn(
    command: list[str],
    environment: dict[str, str] | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    keep: list[int] | None = None,
    own_group: bool = False,
    own_session: bool = False,
    quiet: bool = False,
) -> int:
    """Start a program; its pid. Status 127 if it cannot be run. `keep`: descriptors that it inherits. A session of its
    own also means: no input, and `/` as its folder. `quiet`: what it says is dropped."""
    child = os.fork()
    if child:
        return child
    try:
        _as_before()
        if own_session:
            os.setsid()
            os.chdir("/")
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        elif own_group:
            os.setpgid(0, 0)
        if quiet:
            stdout = stderr = os.open(os.devnull, os.O_WRONLY)
        for target, descriptor in ((1, stdout), (2, stderr)):
            if descriptor is not None:
                os.dup2(descriptor, target)
        for descriptor in keep or []:
            os.set_inheritable(descriptor, True)
        os.execve(command[0], command, dict(os.environ) if environment is None else environment)
    finally:
        os._exit(127)


def _wait(process: int, limit: float | None, watch: bool = False) -> int | None:
    """The exit status of a child (negative: the signal that ended it). None when it had to be killed, with its whole
    process group: after `limit` seconds, or, with `watch`, because it waits for a child of its own that is dead."""
    import select
    import time

    poll = select.poll()
    try:
        descriptor = os.pidfd_open(process)
        poll.register(descriptor, select.POLLIN)
    except (OSError, AttributeError):  # an old kernel: then we look now and then
        descriptor = -1
    end = time.monotonic() + (limit if limit is not None else 1e9)
    stuck_since = 0.0
    try:
        while True:
            poll.poll(TICK * 1000 if descriptor >= 0 else 5)
            done, status = os.waitpid(process, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            now = time.monotonic()
            stuck_since = (stuck_since or now) if watch and _waits_for_the_dead(process) else 0.0
            if now >= end or (stuck_since and now - stuck_since >= CRIU_GONE):
                _kill(process)
                os.waitpid(process, 0)
                return None
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _kill(process: int) -> None:
    for kill, target in ((os.killpg, process), (os.kill, process)):  # the group, where it has one of its own
        try:  # noqa: SIM105
            kill(target, 9)
        except OSError:
            pass


def _waits_for_the_dead(process: int) -> bool:
    """Are all children of this process dead, and has it not noticed? Not known on a kernel without lists of children
    (but CRIU needs them, too)."""
    children = []
    try:
        for task in os.listdir(f"/proc/{process}/task"):
            with open(f"/proc/{process}/task/{task}/children", encoding="ascii") as file:
                children += file.read().split()
        for child in children:
            with open(f"/proc/{child}/stat", encoding="utf-8", errors="replace") as file:
                if file.read().rpartition(")")[2].split()[0] != "Z":
                    return False
    except OSError:
        return False
    return bool(children)


def _close(descriptors: list[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())


def _runc_output(call: Call, arguments: list[str]) -> str:
    output, error = os.memfd_create("stdout"), os.memfd_create("stderr")
    try:
        status = _wait(_spawn([call.runc, *call.globals, *arguments], stdout=output, stderr=error), 30.0)
        if status:
            words = os.pread(error, MESSAGE_LIMIT, 0).decode("utf-8", "replace").strip()
            raise ValueError(f"runc {arguments[0]} ended with status {status}: {words}")
        return os.pread(output, os.fstat(output).st_size, 0).decode("utf-8")
    finally:
        _close([output, error])


# ---------------------------------------------------------------------------------------------------------- the rest


def _from_json(text: str) -> Any:
    """As json.loads, ValueError included.

    The package takes longer to import than Python to start (it brings `re`). Its C part does the work anyway and is
    asked first. That part is private to Python: whatever it does but answer, the package has the last word.
    """
    try:
        return _scan(text)
    except Exception:
        import json

        return json.loads(text)


def _scan(text: str) -> Any:
    from _json import make_scanner

    class Context:
        strict = True
        object_hook = object_pairs_hook = None
        parse_float, parse_int, parse_constant = float, int, float

    scan: Any = make_scanner  # it takes whatever has these six
    value, end = scan(Context)(text, len(text) - len(text.lstrip()))
    if text[end:].strip():
        raise ValueError("something follows the JSON")
    return value


def _module(private: str, public: str) -> Any:
    """A module's C part, which is quicker to import, or the module itself where its C part cannot be had."""
    try:
        return __import__(private)
    except Exception:
        return __import__(public)


def _as_json(fields: dict[str, object]) -> str:
    """An object of texts and numbers; see `_from_json`."""
    words = {"None": "null", "True": "true", "False": "false"}
    pairs = (
        f'"{name}": {_quoted(value) if isinstance(value, str) else words.get(repr(value), repr(value))}'
        for name, value in fields.items()
    )
    return "{" + ", ".join(pairs) + "}"


def _quoted(text: str) -> str:
    try:
        from _json import encode_basestring_ascii

        quoted = encode_basestring_ascii(text)
        if quoted[0] == quoted[-1] == '"':
            return quoted
    except Exception:
        pass  # private to Python, see `_from_json`
    import json

    return json.dumps(text)


def _start_limit() -> float:
    """Seconds that the container has to start: our setting, else the ECS agent's (`180`, `3m`), else its default.

    Our setting is in the agent's file. A container engine's environment names neither, and that of one that runs
    cannot be changed.
    """
    known = {**_agents_settings(), **os.environ}
    for name in ("PERDURE_CONTAINER_START_TIMEOUT", "ECS_CONTAINER_START_TIMEOUT"):
        text = known.get(name, "")
        unit = {"s": 1.0, "m": 60.0}.get(text[-1:], 0.0)
        try:
            return max(MARGIN + 1, float(text[:-1]) * unit if unit else float(text))
        except ValueError:
            continue
    return START_LIMIT


def _agents_settings() -> dict[str, str]:
    """What perdure-install has set for the agent; empty where it has set nothing."""
    path = os.path.join(os.environ.get("PERDURE_CONFIG_DIR", "/etc/perdure"), "agent.env")
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            pairs = [line.strip().partition("=") for line in file]
    except OSError:
        return {}
    return {name: value for name, _, value in pairs}


def _write_file(path: str, text: str) -> None:
    """Whole or not at all."""
    temporary = f"{path}.{os.getpid()}"
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, path)


def _note(call: Call, words: str) -> None:
    """Keep what runc, CRIU and we said about this container in its folder, for the agent's log."""
    import time

    try:
        with open(os.path.join(call.marks, "runtime.log"), "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {words.rstrip()}\n")
    except OSError:
        pass  # the folder goes with the container


def _fail(call: Call, reason: str) -> int:
    """Refuse the start: on stderr, and in runc's --log as runc itself would (the container engine shows that one)."""
    import time

    sys.stderr.write(f"perdure-runtime: {reason}\n")
    log = call.flags.get("global log")
    if log:
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        try:
            with open(log, "a", encoding="utf-8") as file:
                file.write(_as_json({"level": "error", "msg": reason, "time": at}) + "\n")
        except OSError:
            pass  # stderr has it
    return 1


def main(arguments: list[str]) -> int:
    """Do what was asked; anything of ours that breaks ends in the real runtime, unless a restore is under way or it has
    already answered."""
    call = Call(arguments[0], arguments[1], arguments[2:])
    commands = {"create": create, "start": start, "state": state, "delete": delete}
    try:
        return commands[call.command](call)
    except Exception as problem:
        if call.status is not None:
            _note(call, f"after {call.command}: {type(problem).__name__}: {problem}")
            return call.status
        if call.restoring or (call.command != "delete" and (call.has_mark("restoring") or call.has_mark("restored"))):
            # A clean start on a checkpoint's files would be wrong, and runc knows nothing of a restored container that
            # waits for its start.
            return _fail(call, f"{call.command} of a restored container failed: {type(problem).__name__}: {problem}")
        _note(call, f"{call.command}: {type(problem).__name__}: {problem}")
        return call.become_real()


WHOLE = main
"""The last name of this file. The launcher calls `WHOLE` and not `main`: a file that was cut short has no `WHOLE`, and
the launcher then calls the real runtime."""
