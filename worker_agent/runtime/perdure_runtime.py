"""What perdure-runtime does once a call concerns a protected container: ask the agent, then create or restore.

    python3 -I -S perdure_runtime.py RUNC [global flags] create|start|state|delete [flags] ID

Standard library only, Python 3.9: it runs with the machine's own Python, which no upgrade of ours can break. The
conversation with the agent is described in perdure/contracts/runtime.py (a test holds the two in step).

The rule that outranks all others is promise 7. Whatever of ours fails before a first attempt's create ends in the real
runc create: the job runs unprotected, and a note in <run dir>/unprotected tells the agent so. A later attempt has work
to lose, so it waits for the agent until the container start time-out nears; see `_without_agent`.
"""

from __future__ import annotations

import contextlib
import os
import sys

RUN_DIR = os.environ.get("PERDURE_RUN_DIR", "/run/perdure")
START_LIMIT = 180.0
"""Seconds that ECS gives a container to start, unless the environment says otherwise."""
MARGIN = 10.0
"""Seconds before that limit at which a hold ends. The agent ends its own holds earlier."""
SILENCE = 15.0
"""An agent that holds a request says WAIT every few seconds; after this long without a line it counts as away."""
FIRST_PATIENCE = 5.0
"""A first attempt waits this long for an agent that is restarting."""
TELL_LIMIT = 15.0
"""Seconds for telling the agent what was done; it finds out by itself when it does not hear it."""
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


class Call:
    """The command line: runc's path, its global flags, the command, its flags by name, the container's id."""

    def __init__(self, runc: str, arguments: list[str]) -> None:
        self.runc = runc
        self.arguments = arguments
        self.globals: list[str] = []
        self.flags: dict[str, str] = {}
        self.command = ""
        self.id = ""
        self.restoring = False
        """A restore has begun: the files under the container are a checkpoint's, and a clean start on them is wrong."""
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

    def become_runc(self) -> int:
        """Give way to the real runc, with the arguments as they came. Returns only when runc cannot be run."""
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            os.execv(self.runc, [self.runc, *self.arguments])
        except OSError as problem:
            sys.stderr.write(f"perdure-runtime: cannot run {self.runc}: {problem}\n")
            return 127

    def has_mark(self, name: str) -> bool:
        """Was this written by `mark`?"""
        return os.path.exists(os.path.join(self.marks, name))

    def mark(self, name: str, pid: int | None) -> None:
        """Note for later calls, and for an agent that restarts, how far this container has come."""
        import json

        _write_file(os.path.join(self.marks, name), json.dumps({"pid": pid}))


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
        import json

        with open(os.path.join(bundle, "config.json"), "rb") as file:
            config = json.loads(file.read(CONFIG_LIMIT))
        pairs = (entry.partition("=") for entry in config["process"]["env"])
        environment = {name: value for name, _, value in pairs}
        return Job(environment) if environment.get("AWS_BATCH_JOB_ID") else None


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
        away_since = None
        while True:
            try:
                return self._ask_once(request)
            except NotUnderstood:
                raise
            except (OSError, AgentAway) as problem:
                now = self._clock()
                away_since = away_since or now
                if now - away_since >= self._patience or self.left() <= 0:
                    raise AgentAway(f"the agent does not answer: {problem}") from problem
                self._sleep(0.25)

    def _ask_once(self, request: dict[str, object]) -> dict[str, object]:
        import json
        import socket

        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(max(0.1, min(SILENCE, self.left())))
            connection.connect(os.path.join(RUN_DIR, "agent.sock"))
            connection.sendall((json.dumps(request) + "\n").encode("ascii"))
            with connection.makefile("rb") as lines:
                while True:
                    if self.left() <= 0:
                        raise AgentAway("no decision in time")
                    line = lines.readline(1 << 20)
                    if not line.endswith(b"\n"):
                        raise AgentAway("the connection ended without an answer")
                    reply = _checked(_parsed(line))
                    if reply["action"] != "wait":
                        return reply

    def tell(self, operation: str, pid: int | None = None) -> None:
        """As `ask`, where the answer changes nothing: the agent also finds out by itself."""
        try:
            Agent(self._call).ask(operation, pid)
        except AgentAway as problem:
            _note(self._call, f"{operation}: {problem}")


def _parsed(line: bytes) -> object:
    import json

    try:
        return json.loads(line.decode("utf-8", "replace"))
    except ValueError:
        return None


def _checked(reply: object) -> dict[str, object]:
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
        return call.become_runc()
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
            reply = agent.ask("failed", message=problem)
    except AgentAway as away:
        return _without_agent(call, job, str(away))
    if reply["action"] == "fail":
        return _fail(call, str(reply.get("reason")) or "the agent refuses to start this container")
    return call.become_runc()


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
    import json
    import time

    text = json.dumps({"container_id": call.id, "job_id": job.id, "later": job.later, "reason": why, "at": time.time()})
    try:
        folder = os.path.join(RUN_DIR, "unprotected")
        os.makedirs(folder, mode=0o700, exist_ok=True)
        _write_file(os.path.join(folder, call.id + ".json"), text)
    except OSError:
        pass  # The note is a courtesy; the container is not.
    return call.become_runc()


def _rung(call: Call, agent: Agent, reply: dict[str, object]) -> str:
    """One `runc create` or `runc restore` with a keeper on the job's pipes. Returns "" when the container stands, or
    why it does not."""
    import subprocess

    call.restoring = reply["action"] == "restore"
    pipes = [*os.pipe(), *os.pipe()]
    keeper = None
    words = ""
    try:
        keeper = _Keeper(reply, (pipes[0], pipes[2]))
        command, environment = _runc_command(call, reply)
        process = subprocess.Popen(command, stdout=pipes[1], stderr=pipes[3], env=environment)
        try:
            status = process.wait(timeout=max(1.0, agent.left()))
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        # The job has not run yet (created, or restored and left stopped): whatever the pipes hold now was said by runc
        # and CRIU. It goes to our own file and must not reach the job's output.
        words = _take_words(pipes[0]) + _take_words(pipes[2])
        pid = _container_pid(call) if status == 0 else None
        if not pid:
            return f"`runc {reply['action']}` ended with status {status}: {words.strip()}"
        operation = "restored" if call.restoring else "created"
        call.mark(operation, pid)
        keeper.go()
        keeper = None
        agent.tell(operation, pid)
        return ""
    except (OSError, ValueError, subprocess.SubprocessError) as problem:
        return f"{type(problem).__name__}: {problem}"
    finally:
        if words:
            _note(call, words)
        for descriptor in pipes:
            os.close(descriptor)
        if keeper:
            keeper.end()


class _Keeper:
    """A started stdio_keeper.py that waits for its `go`; see there."""

    def __init__(self, reply: dict[str, object], pipes: tuple[int, int]) -> None:
        import fcntl
        import socket
        import subprocess

        for pipe in pipes:
            with contextlib.suppress(OSError):  # the default of 64 KiB does, too
                fcntl.fcntl(pipe, getattr(fcntl, "F_SETPIPE_SZ", 1031), PIPE_BYTES)  # named since Python 3.10
        ours, theirs = socket.socketpair()
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "stdio_keeper.py")
        inherited = [*pipes, theirs.fileno()]
        keeper = reply["keeper"]
        assert isinstance(keeper, list)
        command = [sys.executable or "/usr/bin/python3", "-I", "-S", script, *keeper, *map(str, inherited)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, pass_fds=inherited, start_new_session=True, cwd="/"
        )
        theirs.close()
        self._line = ours
        ours.settimeout(10.0)
        said = ours.recv(300)
        if said != b"ready\n":
            ours.close()
            self._process.kill()
            self._process.wait()
            raise OSError("the stdio keeper does not start: " + said.decode("utf-8", "replace").strip())

    def go(self) -> None:
        """What comes through the pipes from now on is the job's. The keeper ends by itself when their last writer does;
        it is no longer ours to wait for (without a status Popen would warn that it still runs)."""
        self._line.sendall(b"go\n")
        self._line.close()
        self._process.returncode = 0

    def end(self) -> None:
        """The rung did not hold and the pipes are closed: the keeper must be off the job root before the next one."""
        self._line.close()
        try:
            self._process.wait(timeout=5.0)
        except Exception:
            self._process.kill()
            self._process.wait()


def _runc_command(call: Call, reply: dict[str, object]) -> tuple[list[str], dict[str, str]]:
    environment = dict(os.environ)
    if reply["action"] == "create":
        return [call.runc, *call.arguments], environment
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
    os.set_blocking(pipe, False)
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
    import json

    pid = json.loads(_runc_output(call, ["state", call.id]))["pid"]
    return int(pid) or None


# --------------------------------------------------------------------------------------------- start, state, delete


def start(call: Call) -> int:
    """`start`: a restored container is let go on, any other is started by runc; then the agent is told."""
    import signal
    import subprocess

    if call.has_mark("restored"):
        import json

        if call.has_mark("started"):
            return call.become_runc()
        stay = _stopped_at_the_freeze(call)
        for pid in json.loads(_runc_output(call, ["ps", "-f", "json", call.id])) or []:
            if not stay or _inner_pid(int(pid)) not in stay:
                os.kill(int(pid), signal.SIGCONT)
    else:
        status = subprocess.call([call.runc, *call.arguments])
        if status:
            return status
    call.mark("started", None)
    Agent(call).tell("started")
    return 0


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
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        numbers = next(line for line in file if line.startswith("NSpid:")).split()[1:]
    return int(numbers[min(1, len(numbers) - 1)])


def state(call: Call) -> int:
    """`state`: as runc says, but a restored container that nobody has started yet is `created`, not `running`."""
    import json

    if not call.has_mark("restored") or call.has_mark("started"):
        return call.become_runc()
    known = json.loads(_runc_output(call, ["state", call.id]))
    if known.get("status") == "running":
        known["status"] = "created"
    sys.stdout.write(json.dumps(known, indent=2) + "\n")
    return 0


def delete(call: Call) -> int:
    """`delete`: runc first, then the agent lets go of the container's mounts."""
    import subprocess

    status = subprocess.call([call.runc, *call.arguments])
    if status == 0:
        Agent(call).tell("deleted")
    return status


# ---------------------------------------------------------------------------------------------------------- the rest


def _runc_output(call: Call, arguments: list[str]) -> str:
    import subprocess

    done = subprocess.run([call.runc, *call.globals, *arguments], capture_output=True, timeout=30, check=False)
    if done.returncode:
        words = done.stderr.decode("utf-8", "replace").strip()
        raise ValueError(f"runc {arguments[0]} ended with status {done.returncode}: {words}")
    return done.stdout.decode("utf-8")


def _start_limit() -> float:
    """Seconds that the container has to start: our setting, else the ECS agent's (`180`, `3m`), else its default."""
    for name in ("PERDURE_CONTAINER_START_TIMEOUT", "ECS_CONTAINER_START_TIMEOUT"):
        text = os.environ.get(name, "")
        unit = {"s": 1.0, "m": 60.0}.get(text[-1:], 0.0)
        try:
            return max(MARGIN + 1, float(text[:-1]) * unit if unit else float(text))
        except ValueError:
            continue
    return START_LIMIT


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
    import json
    import time

    sys.stderr.write(f"perdure-runtime: {reason}\n")
    log = call.flags.get("global log")
    if log:
        line = {"level": "error", "msg": reason, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        try:
            with open(log, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError:
            pass  # stderr has it
    return 1


def main(arguments: list[str]) -> int:
    """Do what was asked; anything of ours that breaks ends in the real runc, unless a restore is under way."""
    call = Call(arguments[0], arguments[1:])
    commands = {"create": create, "start": start, "state": state, "delete": delete}
    try:
        return commands[call.command](call)
    except Exception as problem:
        if call.restoring or (call.command != "delete" and (call.has_mark("restoring") or call.has_mark("restored"))):
            # A clean start on a checkpoint's files would be wrong, and runc knows nothing of a restored container that
            # waits for its start.
            return _fail(call, f"{call.command} of a restored container failed: {type(problem).__name__}: {problem}")
        _note(call, f"{call.command}: {type(problem).__name__}: {problem}")
        return call.become_runc()


def self_check() -> None:
    """Fails when the library that the real work needs is not whole."""
    import fcntl
    import json
    import signal
    import socket
    import subprocess
    import time

    assert all((fcntl.fcntl, json.loads, signal.SIGCONT, socket.AF_UNIX, subprocess.Popen, time.monotonic))


if __name__ == "__main__":
    if sys.argv[1:] == ["--self-check"]:
        self_check()
        sys.stdout.write("sound\n")
    else:
        sys.exit(main(sys.argv[1:]))
