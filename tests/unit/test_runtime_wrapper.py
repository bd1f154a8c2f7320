"""perdure-runtime as a container engine calls it: the real launcher and wrapper, a script in runc's place on PATH.

The agent is played by a few scripted answers on a real socket, spelled with the contract's own models.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from perdure.contracts.runtime import RuntimeAction, RuntimeOperation, RuntimeReply, RuntimeRequest
from tests.patience import PATIENCE
from worker_agent.start.preparing import GAVE_UP

RUNTIME = Path(__file__).parents[2] / "worker_agent" / "runtime"
ID = "c0ffee" + "0" * 58

FAKE_RUNC = r"""#!/usr/bin/python3 -IS
import json, os, subprocess, sys
here = os.path.dirname(os.path.abspath(__file__))
argv = sys.argv[1:]
with open(os.path.join(here, "calls"), "a") as calls:
    calls.write(json.dumps({"argv": argv, "path": os.environ["PATH"].split(":")[0]}) + "\n")
command = next(word for word in argv if word in ("create", "restore", "start", "state", "delete", "ps", "kill"))
def answer(name, default=""):
    try:
        return open(os.path.join(here, name)).read()
    except FileNotFoundError:
        return default
sys.stderr.write(answer(command + ".stderr"))
status = int(answer(command + ".status", "0"))
if command in ("create", "restore") and status == 0:
    pid_file = argv[argv.index("--pid-file") + 1]
    job = answer("job.pid") or "4242"
    open(pid_file, "w").write(job)
    if os.path.exists(os.path.join(here, "job.sh")):
        # The job: inherits our pipes, and waits for a file before it writes, as a created container waits for start.
        subprocess.Popen(["/bin/sh", os.path.join(here, "job.sh")], start_new_session=True)
sys.stdout.write(answer(command + ".stdout"))
sys.exit(status)
"""


class Bench:
    """One machine: a copy of the runtime's folder, a fake runc on PATH, a bundle, a run folder."""

    def __init__(self, folder: Path) -> None:
        self.prefix = folder / "prefix"
        shutil.copytree(RUNTIME, self.prefix, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.fake("runc", FAKE_RUNC)
        (self.bin / "runc").chmod(0o755)
        self.bundle = folder / "bundle"
        self.bundle.mkdir()
        self.launcher = self.prefix / "perdure-runtime"
        self.run_dir = folder / "run"
        (self.run_dir / "containers").mkdir(parents=True)
        self.environment = {"PATH": f"{self.bin}:/usr/bin:/bin", "PERDURE_RUN_DIR": str(self.run_dir)}
        self.configure({"AWS_BATCH_JOB_ID": "a-job", "AWS_BATCH_JOB_ATTEMPT": "1"})

    def fake(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)

    def configure(self, environment: dict[str, str]) -> None:
        env = [f"{name}={value}" for name, value in environment.items()]
        (self.bundle / "config.json").write_text(json.dumps({"process": {"env": ["PATH=/bin", *env]}}))

    @property
    def marks(self) -> Path:
        return self.run_dir / "containers" / ID

    @property
    def pid_file(self) -> Path:
        return self.bundle / "init.pid"

    def run(self, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.launcher), *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            stdin=subprocess.DEVNULL,
            check=False,
            **more,
        )

    def create(self) -> subprocess.CompletedProcess[str]:
        return self.run("--root", "/r", "create", "--bundle", str(self.bundle), "--pid-file", str(self.pid_file), ID)

    @property
    def plain_create(self) -> list[str]:
        return ["--root", "/r", "create", "--bundle", str(self.bundle), "--pid-file", str(self.pid_file), ID]

    def calls(self) -> list[list[str]]:
        """What runc was called with."""
        path = self.bin / "calls"
        return [json.loads(line)["argv"] for line in path.read_text().splitlines()] if path.exists() else []

    def notes(self) -> list[dict[str, Any]]:
        """What the wrapper left for the agent about containers that run unprotected."""
        return [json.loads(path.read_text()) for path in (self.run_dir / "unprotected").glob("*.json")]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


Answer = RuntimeReply | bytes | Callable[[RuntimeRequest], RuntimeReply]


class ScriptedAgent:
    """Answers each request with the next entry: replies of one request in a list, raw bytes for a broken agent."""

    def __init__(self, run_dir: Path, script: list[list[RuntimeReply | bytes]]) -> None:
        self.heard: list[RuntimeRequest] = []
        self._script = iter(script)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(run_dir / "agent.sock"))
        self._listener.listen(8)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                line = connection.makefile().readline()
                if not line:
                    return
                self.heard.append(RuntimeRequest.model_validate_json(line))
                for reply in next(self._script, []):
                    raw = reply if isinstance(reply, bytes) else reply.model_dump_json().encode() + b"\n"
                    with contextlib.suppress(BrokenPipeError):  # the wrapper's time may be over
                        connection.sendall(raw)

    def close(self) -> None:
        path = self._listener.getsockname()
        with socket.socket(socket.AF_UNIX) as stop:
            stop.connect(path)
        self._thread.join(PATIENCE)
        self._listener.close()
        os.unlink(path)

    @property
    def operations(self) -> list[str]:
        return [request.operation.value for request in self.heard]


@pytest.fixture
def agent(bench: Bench) -> Iterator[Callable[..., ScriptedAgent]]:
    started: list[ScriptedAgent] = []

    def start(*script: list[RuntimeReply | bytes]) -> ScriptedAgent:
        started.append(ScriptedAgent(bench.run_dir, list(script)))
        return started[-1]

    yield start
    for one in started:
        one.close()


DONE = RuntimeReply(action=RuntimeAction.DONE)
WAIT = RuntimeReply(action=RuntimeAction.WAIT)
PASS = RuntimeReply(action=RuntimeAction.PASSTHROUGH)


def orders(bench: Bench, action: RuntimeAction, argv: list[str] | None = None) -> RuntimeReply:
    """CREATE or RESTORE, with the folders that the agent would have made."""
    bench.marks.mkdir(parents=True, exist_ok=True)
    (bench.run_dir / "log").mkdir(exist_ok=True)
    return RuntimeReply(
        action=action,
        argv=argv or [],
        criu="/opt/criu/bin/criu" if action is RuntimeAction.RESTORE else "",
        path_first="/opt/criu/libexec" if action is RuntimeAction.RESTORE else "",
        keeper=[str(bench.run_dir / "log"), str(bench.marks / "keeper.sock")],
    )


# ------------------------------------------------------------------------------------------------ contract and syntax


def test_the_wrapper_is_written_for_python_3_9() -> None:
    ast.parse((RUNTIME / "perdure_runtime.py").read_text(), feature_version=(3, 9))


def test_the_wrapper_uses_the_words_of_the_contract() -> None:
    text = (RUNTIME / "perdure_runtime.py").read_text()
    strings = {node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)}
    assert {operation.value for operation in RuntimeOperation} <= strings
    assert {action.value for action in RuntimeAction} <= strings
    assert set(RuntimeRequest.model_fields) <= strings
    assert set(RuntimeReply.model_fields) <= strings


# ----------------------------------------------------------------------------------------------------- straight to runc


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["--root", "create", "kill", ID, "KILL"],
        ["--log", "/x", "--log-format=json", "state", ID],
        ["-root=/r", "start", ID],
        ["delete", "--force", ID],
        ["state", "../../etc"],
        ["start", ".."],
        ["create", "--bundle", "/nowhere", ID],
        [],
    ],
)
def test_calls_that_are_none_of_our_business_reach_runc_as_they_are(bench: Bench, arguments: list[str]) -> None:
    bench.fake("runc", '#!/bin/sh\nprintf "%s\\n" "$@" > "$(dirname "$0")/plain"; exit 9\n')
    assert bench.run(*arguments).returncode == 9
    assert (bench.bin / "plain").read_text() == "".join(f"{word}\n" for word in arguments) or not arguments


def test_a_container_that_is_no_batch_job_is_not_asked_about(bench: Bench, agent: Callable[..., ScriptedAgent]) -> None:
    served = agent()
    bench.configure({"HOME": "/root"})
    assert bench.create().returncode == 0
    assert bench.calls() == [bench.plain_create]
    assert served.heard == []


def test_a_job_id_elsewhere_than_in_the_environment_is_no_batch_job(
    bench: Bench, agent: Callable[..., ScriptedAgent]
) -> None:
    served = agent()
    (bench.bundle / "config.json").write_text('{"process": {"env": []}, "annotations": {"x": "AWS_BATCH_JOB_ID=1"}}')
    assert bench.create().returncode == 0
    assert bench.calls() == [bench.plain_create]
    assert served.heard == []


def test_it_never_takes_itself_for_runc(bench: Bench) -> None:
    (bench.bin / "runc").unlink()
    (bench.bin / "runc").symlink_to(bench.prefix / "perdure-runtime")
    other = bench.bin.parent / "sbin"
    other.mkdir()
    (other / "runc").write_text("#!/bin/sh\nexit 5\n")
    (other / "runc").chmod(0o755)
    bench.environment["PATH"] = f"{bench.bin}:{other}:/usr/bin:/bin"
    done = subprocess.run([str(bench.bin / "runc"), "list"], env=bench.environment, timeout=PATIENCE, check=False)
    assert done.returncode == 5


def test_switched_off_it_is_runc(bench: Bench, agent: Callable[..., ScriptedAgent]) -> None:
    served = agent()
    bench.environment["PERDURE_CONFIG_DIR"] = str(bench.run_dir)
    (bench.run_dir / "off").touch()
    assert bench.create().returncode == 0
    assert bench.calls() == [bench.plain_create]
    assert served.heard == []


@pytest.mark.parametrize("path", [None, "", "/nowhere"])
def test_without_a_usable_path_it_finds_runc_and_what_it_needs_itself(bench: Bench, path: str | None) -> None:
    bench.environment = {"PERDURE_RUN_DIR": str(bench.run_dir / "gone")}
    if path is not None:
        bench.environment["PATH"] = path
    done = bench.create()
    assert done.returncode == 1
    assert "runc create failed" in done.stderr, "the machine's own runc, which wants more of a config.json"
    assert bench.notes() == []
    assert (bench.run_dir / "gone/unprotected" / f"{ID}.json").exists(), "a Batch job's container was recognised"


# --------------------------------------------------------------------------------------------------------- `nvidia`


@pytest.fixture
def gpu(bench: Bench) -> Bench:
    """The runtime as ECS calls it for GPU tasks, over a stand-in for NVIDIA's."""
    bench.fake(
        "nvidia-container-runtime",
        """#!/usr/bin/python3 -IS
import json, os, sys
here = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(here, "nvidia.calls"), "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
if "create" in sys.argv:
    path = os.path.join(sys.argv[sys.argv.index("--bundle") + 1], "config.json")
    config = json.load(open(path))
    config["hooks"] = {"prestart": [{"path": "/usr/bin/nvidia-container-runtime-hook"}]}
    json.dump(config, open(path, "w"))
below = open(os.path.join(here, "below")).read() if os.path.exists(os.path.join(here, "below")) else "runc"
os.execvp(below, ["runc", *sys.argv[1:]])
""",
    )
    (bench.bin / "nvidia-container-runtime").chmod(0o755)
    assert (bench.prefix / "perdure-runtime-nvidia").resolve() == bench.prefix / "perdure-runtime"
    bench.launcher = bench.prefix / "perdure-runtime-nvidia"
    return bench


def nvidia_calls(bench: Bench) -> list[list[str]]:
    return [json.loads(line) for line in (bench.bin / "nvidia.calls").read_text().splitlines()]


def hooks(bench: Bench) -> object:
    return json.loads((bench.bundle / "config.json").read_text()).get("hooks")


def test_under_the_name_nvidia_every_call_goes_through_nvidias_runtime_to_runc(gpu: Bench) -> None:
    gpu.configure({"HOME": "/root"})
    assert gpu.create().returncode == 0
    assert gpu.run("state", ID).returncode == 0
    assert nvidia_calls(gpu) == gpu.calls() == [gpu.plain_create, ["state", ID]]
    assert hooks(gpu)


@pytest.mark.parametrize("damage", ["agent", "python", "wrapper"])
def test_under_the_name_nvidia_it_fails_open_to_nvidias_runtime(gpu: Bench, damage: str) -> None:
    if damage == "python":
        _no_python(gpu)
    elif damage == "wrapper":
        _wrapper_is_garbage(gpu)
    else:
        shutil.rmtree(gpu.run_dir)
    assert gpu.create().returncode == 0
    assert nvidia_calls(gpu) == gpu.calls() == [gpu.plain_create]


def test_a_fresh_protected_container_is_created_by_nvidias_runtime(
    gpu: Bench, agent: Callable[..., ScriptedAgent]
) -> None:
    served = agent([orders(gpu, RuntimeAction.CREATE)], [DONE], [DONE], [DONE])
    assert gpu.create().returncode == 0
    assert gpu.run("start", ID).returncode == 0
    assert gpu.run("delete", ID).returncode == 0
    assert nvidia_calls(gpu) == gpu.calls() == [gpu.plain_create, ["start", ID], ["delete", ID]]
    assert served.operations == ["create", "created", "started", "deleted"]


def test_a_restore_has_nvidias_edits_and_is_runcs(gpu: Bench, agent: Callable[..., ScriptedAgent]) -> None:
    served = agent([orders(gpu, RuntimeAction.RESTORE, ["--image-path", "/j/3"])], [DONE])
    assert gpu.create().returncode == 0
    assert nvidia_calls(gpu) == [gpu.plain_create]
    assert hooks(gpu), "edited before runc read it"
    (call,) = gpu.calls()
    assert "restore" in call and "create" not in call
    assert served.operations == ["create", "restored"]


def test_what_was_restored_goes_on_only_once_its_pages_are_sound(
    bench: Bench, agent: Callable[..., ScriptedAgent]
) -> None:
    verifying = orders(bench, RuntimeAction.RESTORE, ["--image-path", "/j/3"]).model_copy(update={"verifying": True})
    damaged = RuntimeReply(action=RuntimeAction.FAIL, reason="pages-1.img has a wrong checksum")
    older = verifying.model_copy(update={"argv": ["--image-path", "/j/2"]})
    served = agent([verifying], [WAIT, damaged], [older], [DONE], [DONE])
    assert bench.create().returncode == 0
    assert served.operations == ["create", "verify", "failed", "verify", "restored"]
    assert served.heard[2].message == "pages-1.img has a wrong checksum"
    restored, removed, again = bench.calls()
    assert "/j/3" in restored and "/j/2" in again
    assert removed == ["--root", "/r", "delete", "--force", ID], "nothing of it is left with runc"


def test_a_runtime_of_nvidia_that_names_its_runc_by_path_starts_nothing_on_a_checkpoints_files(
    gpu: Bench, agent: Callable[..., ScriptedAgent]
) -> None:
    gpu.fake("below", str(gpu.bin / "runc"))
    served = agent([orders(gpu, RuntimeAction.RESTORE)], [RuntimeReply(action=RuntimeAction.FAIL, reason="no")])
    assert gpu.create().returncode == 1
    assert gpu.calls() == [gpu.plain_create, ["--root", "/r", "delete", "--force", ID]]
    assert "does not take its runc from PATH" in served.heard[1].message


def test_a_runc_below_nvidias_that_is_a_link_to_us_is_not_asked_again(
    gpu: Bench, agent: Callable[..., ScriptedAgent]
) -> None:
    """Some installations put us in runc's place as well."""
    real = gpu.bin.parent / "sbin"
    real.mkdir()
    shutil.move(gpu.bin / "runc", real / "runc")
    (gpu.bin / "runc").symlink_to(gpu.prefix / "perdure-runtime")
    gpu.environment["PATH"] = f"{gpu.bin}:{real}:/usr/bin:/bin"
    served = agent([orders(gpu, RuntimeAction.CREATE)], [DONE])
    # The real runtime beneath is found beyond the link, and asked once.
    assert gpu.create().returncode == 0
    assert served.operations == ["create", "created"]
    calls = [json.loads(line)["argv"] for line in (real / "calls").read_text().splitlines()]
    assert calls == [gpu.plain_create]


def test_without_nvidias_runtime_the_name_nvidia_is_refused_by_name(gpu: Bench) -> None:
    """As it would be without us; a GPU job on the CPU alone would be worse."""
    (gpu.bin / "nvidia-container-runtime").unlink()
    done = gpu.create()
    assert done.returncode == 127
    assert "there is no nvidia-container-runtime on PATH" in done.stderr
    assert gpu.calls() == []


# ------------------------------------------------------------------------------ broken in every part (promise 7)


def test_a_launcher_cut_short_after_its_second_line_is_still_runc(bench: Bench) -> None:
    """`config.json` names no Batch job; nothing may be created twice, and never not at all."""
    bench.configure({"HOME": "/root"})
    whole = (bench.prefix / "perdure-runtime").read_text().splitlines(keepends=True)
    bench.fake("runc", '#!/bin/sh\necho "$@"\n')
    for shell in ("dash", "bash"):
        if shutil.which(shell):
            for count in range(2, len(whole), 3):
                (bench.prefix / "cut").write_text("".join(whole[:count]))
                argv = [shell, str(bench.prefix / "cut"), *bench.plain_create]
                done = subprocess.run(argv, env=bench.environment, capture_output=True, text=True, timeout=PATIENCE)
                assert done.stdout == " ".join(bench.plain_create) + "\n", (shell, count, done.stderr)


def _no_python(bench: Bench) -> None:
    bench.environment["PERDURE_RUNTIME_PYTHON"] = "/nowhere/python3"


def _python_is_no_program(bench: Bench) -> None:
    (bench.bin / "python3").write_bytes(os.urandom(2000))
    (bench.bin / "python3").chmod(0o755)
    bench.environment["PERDURE_RUNTIME_PYTHON"] = str(bench.bin / "python3")


def _python_without_library(bench: Bench) -> None:
    (bench.bin / "python3").write_text(
        "#!/bin/sh\necho \"ModuleNotFoundError: No module named 'encodings'\" >&2; exit 1\n"
    )
    (bench.bin / "python3").chmod(0o755)
    bench.environment["PERDURE_RUNTIME_PYTHON"] = str(bench.bin / "python3")


def _library_lacks(*names: str) -> Callable[[Bench], None]:
    """A real Python with a library in which these modules are damaged."""

    def damage(bench: Bench) -> None:
        program = Path(os.path.realpath("/usr/bin/python3"))
        here = bench.bin.parent / "python"
        copy = here / "lib" / program.name
        copy.mkdir(parents=True)
        (here / "bin").mkdir()
        shutil.copy(program, here / "bin" / "python3")
        for part in (Path("/usr/lib") / program.name).iterdir():
            if part.stem not in names:
                (copy / part.name).symlink_to(part)
        for name in names:
            (copy / f"{name}.py").write_text("this is damaged")
        bench.environment["PERDURE_RUNTIME_PYTHON"] = str(here / "bin" / "python3")

    return damage


def _wrapper_lies_about_its_end(bench: Bench) -> None:
    """It ends well, but the last statement is gone."""
    path = bench.prefix / "perdure_runtime.py"
    text = path.read_text()
    path.write_text(text[: text.index("WHOLE = main")])


def _wrapper_has_a_wrong_byte(bench: Bench) -> None:
    path = bench.prefix / "perdure_runtime.py"
    text = path.read_text()
    path.write_text(text.replace("def create(call: Call) -> int:", "def create(call: Call) -> int;"))


def _config_is_huge(bench: Bench) -> None:
    """Larger than is read: the JSON is cut short."""
    env = ["AWS_BATCH_JOB_ID=a", "X=" + "x" * (17 << 20)]
    (bench.bundle / "config.json").write_text(json.dumps({"process": {"env": env}}))


def _config_is_binary(bench: Bench) -> None:
    (bench.bundle / "config.json").write_bytes(b"\x00\xff" * 500 + b"AWS_BATCH_JOB_ID" + b"\x80" * 500)


def _config_environment_is_a_number(bench: Bench) -> None:
    (bench.bundle / "config.json").write_text('{"process": {"env": [1, {"AWS_BATCH_JOB_ID": null}]}}')


def _config_is_a_folder(bench: Bench) -> None:
    (bench.bundle / "config.json").unlink()
    (bench.bundle / "config.json").mkdir()


def _run_folder_is_a_file(bench: Bench) -> None:
    shutil.rmtree(bench.run_dir)
    bench.run_dir.touch()


def _socket_is_a_file(bench: Bench) -> None:
    (bench.run_dir / "agent.sock").touch()


def _socket_is_a_folder(bench: Bench) -> None:
    (bench.run_dir / "agent.sock").mkdir()


def _no_wrapper(bench: Bench) -> None:
    (bench.prefix / "perdure_runtime.py").unlink()


def _wrapper_cut_short(bench: Bench) -> None:
    path = bench.prefix / "perdure_runtime.py"
    text = path.read_text()
    path.write_text(text[: text.index("def main(")])


def _wrapper_is_garbage(bench: Bench) -> None:
    (bench.prefix / "perdure_runtime.py").write_bytes(os.urandom(4000))


def _wrapper_is_a_folder(bench: Bench) -> None:
    _no_wrapper(bench)
    (bench.prefix / "perdure_runtime.py").mkdir()


def _config_is_not_json(bench: Bench) -> None:
    (bench.bundle / "config.json").write_text("AWS_BATCH_JOB_ID {{{")


def _config_has_no_process(bench: Bench) -> None:
    (bench.bundle / "config.json").write_text('{"AWS_BATCH_JOB_ID": 1}')


def _no_run_folder(bench: Bench) -> None:
    shutil.rmtree(bench.run_dir)


def _dead_socket(bench: Bench) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(bench.run_dir / "agent.sock"))


DAMAGES: dict[str, Callable[[Bench], None]] = {
    "no python": _no_python,
    "python is no program": _python_is_no_program,
    "python without library": _python_without_library,
    "no wrapper": _no_wrapper,
    "wrapper cut short": _wrapper_cut_short,
    "wrapper is garbage": _wrapper_is_garbage,
    "wrapper is a folder": _wrapper_is_a_folder,
    "config is not json": _config_is_not_json,
    "config has no process": _config_has_no_process,
    "no run folder": _no_run_folder,
    "dead socket": _dead_socket,
    "library lacks encodings": _library_lacks("encodings"),
    "library lacks os": _library_lacks("os"),
    "library lacks json, re": _library_lacks("json", "re"),
    "wrapper lies about its end": _wrapper_lies_about_its_end,
    "wrapper has a wrong byte": _wrapper_has_a_wrong_byte,
    "config is huge": _config_is_huge,
    "config is binary": _config_is_binary,
    "config environment is a number": _config_environment_is_a_number,
    "config is a folder": _config_is_a_folder,
    "run folder is a file": _run_folder_is_a_file,
    "socket is a file": _socket_is_a_file,
    "socket is a folder": _socket_is_a_folder,
}
"""What a part of ours may suffer before a create; tests/integration/test_fail_open.py does it with the real runc."""


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_whatever_is_damaged_a_first_attempt_is_created_by_runc(bench: Bench, damage: Callable[[Bench], None]) -> None:
    damage(bench)
    bench.environment["PERDURE_CONTAINER_START_TIMEOUT"] = "11"  # nobody is waited for longer than a second
    done = bench.create()
    assert done.returncode == 0
    assert bench.calls() == [bench.plain_create]
    assert done.stderr == ""


@pytest.mark.parametrize(
    "reply",
    [b"", b"not json\n", b"[]\n", b'{"action": "dance"}\n', b'{"action": "create", "keeper": []}\n', b'{"action"'],
)
def test_an_agent_that_talks_nonsense_is_no_agent(
    bench: Bench, agent: Callable[..., ScriptedAgent], reply: bytes
) -> None:
    agent(*[[reply]] * 40)
    bench.environment["PERDURE_CONTAINER_START_TIMEOUT"] = "11"
    assert bench.create().returncode == 0
    assert bench.calls() == [bench.plain_create]
    (note,) = bench.notes()
    assert note["container_id"] == ID
    assert note["later"] is False


def test_a_damaged_compiled_copy_is_no_damage(bench: Bench, agent: Callable[..., ScriptedAgent]) -> None:
    served = agent([PASS], [PASS], [PASS], [PASS])
    bench.create()
    (compiled,) = (bench.prefix / "__pycache__").glob("perdure_runtime.*.pyc")
    for content in (compiled.read_bytes()[:2000], b"", os.urandom(3000)):
        compiled.write_bytes(content)
        bench.create()
    assert served.operations == ["create"] * 4


@pytest.mark.parametrize("damage", ["missing", "garbage"])
def test_a_damaged_keeper_ends_in_an_unprotected_container(
    bench: Bench, agent: Callable[..., ScriptedAgent], damage: str
) -> None:
    keeper = bench.prefix / "stdio_keeper.py"
    keeper.unlink()
    if damage == "garbage":
        keeper.write_bytes(os.urandom(500))
    served = agent([orders(bench, RuntimeAction.CREATE)], [PASS])
    assert bench.create().returncode == 0
    assert served.operations == ["create", "failed"]
    assert "keeper" in served.heard[1].message
    removed = ["--root", "/r", "delete", "--force", ID]
    assert bench.calls() == [bench.plain_create, removed, bench.plain_create]


def test_a_later_attempt_waits_for_the_agent_and_only_then_starts_clean(bench: Bench) -> None:
    bench.configure({"AWS_BATCH_JOB_ID": "a-job", "AWS_BATCH_JOB_ATTEMPT": "2"})
    bench.environment["PERDURE_CONTAINER_START_TIMEOUT"] = "17"  # a hold of 7 s: longer than a first attempt's 5 s
    assert bench.create().returncode == 0
    assert bench.calls() == [bench.plain_create]
    (note,) = bench.notes()
    assert note["later"] is True


def test_how_long_a_start_may_take_is_in_the_agents_file(bench: Bench) -> None:
    """The container engine's environment, which is ours, says nothing of it on an instance."""
    bench.configure({"AWS_BATCH_JOB_ID": "a-job", "AWS_BATCH_JOB_ATTEMPT": "2"})
    bench.environment["PERDURE_CONFIG_DIR"] = str(bench.prefix)
    settings = "TEMPORAL_ADDRESS=temporal.example:7233\nPERDURE_CONTAINER_START_TIMEOUT=11\n"
    (bench.prefix / "agent.env").write_text(settings)
    assert bench.create().returncode == 0  # for ECS's default it would be held longer than a call may take here
    (note,) = bench.notes()
    assert note["later"] is True


def test_a_later_attempt_is_served_by_an_agent_that_comes_back(
    bench: Bench, agent: Callable[..., ScriptedAgent]
) -> None:
    bench.configure({"AWS_BATCH_JOB_ID": "a-job", "AWS_BATCH_JOB_ATTEMPT": "2"})
    back = threading.Timer(1.0, lambda: agent([WAIT, orders(bench, RuntimeAction.RESTORE)], [DONE]))
    back.start()
    assert bench.create().returncode == 0
    back.join()
    assert [call for call in bench.calls() if "restore" in call]
    assert bench.notes() == []


@pytest.mark.parametrize("attempt", ["2 ", "../2", "-2", "9999999", "²", "2\n3", ""])
def test_an_attempt_number_that_is_none_counts_as_the_first(bench: Bench, attempt: str) -> None:
    bench.configure({"AWS_BATCH_JOB_ID": "a-job", "AWS_BATCH_JOB_ATTEMPT": attempt})
    shutil.rmtree(bench.run_dir)  # a first attempt does not wait at all then; a later one would wait 170 s
    assert bench.create().returncode == 0
    assert bench.calls() == [bench.plain_create]


@pytest.mark.parametrize("job_id", ["a/../b", "x;rm -rf /", "line\nbreak", "n" * 10_000])
def test_a_strange_job_id_is_no_reason_to_hold(bench: Bench, job_id: str) -> None:
    bench.configure({"AWS_BATCH_JOB_ID": job_id, "AWS_BATCH_JOB_ATTEMPT": "2"})
    shutil.rmtree(bench.run_dir)
    assert bench.create().returncode == 0
    assert bench.calls() == [bench.plain_create]


# ------------------------------------------------------------------------------------------------- create and restore


def test_a_fresh_container_is_created_with_the_keeper_on_its_pipes(
    bench: Bench, agent: Callable[..., ScriptedAgent]
) -> None:
    served = agent([WAIT, WAIT, orders(bench, RuntimeAction.CREATE)], [DONE])
    bench.fake("create.stderr", "level=warning msg=words of runc\n")
    bench.fake("job.sh", f"until [ -e {bench.bin}/go ]; do sleep 0.02; done; echo from the job; echo problem >&2\n")
    (bench.bin / "go").touch()
    done = bench.create()
    assert done.returncode == 0
    assert served.operations == ["create", "created"]
    assert served.heard[0] == RuntimeRequest(
        operation=RuntimeOperation.CREATE, container_id=ID, bundle=str(bench.bundle), runc_root="/r"
    )
    assert served.heard[1].pid == 4242
    assert bench.calls() == [bench.plain_create]
    assert json.loads((bench.marks / "created").read_text()) == {"pid": 4242}
    assert "words of runc" in (bench.marks / "runtime.log").read_text()


def test_words_of_runc_and_criu_never_reach_the_jobs_output(bench: Bench, agent: Callable[..., ScriptedAgent]) -> None:
    agent([orders(bench, RuntimeAction.RESTORE)], [DONE])
    bench.fake("restore.stderr", "criu failed, or not\n" * 3000)
    bench.fake("restore.stdout", "chatter\n")
    bench.fake("job.sh", f"until [ -e {bench.bin}/go ]; do sleep 0.02; done; echo from the job; echo problem >&2\n")
    process = subprocess.Popen(
        [bench.prefix / "perdure-runtime", *bench.plain_create],
        env=bench.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.wait(PATIENCE) == 0
    (bench.bin / "go").touch()
    stdout, stderr = process.communicate(timeout=PATIENCE)  # ends when the keeper has forwarded everything
    assert (stdout, stderr) == ("from the job\n", "problem\n")
    assert (bench.run_dir / "log" / "stdout").read_text() == "from the job\n"
    assert (bench.run_dir / "log" / "stderr").read_text() == "problem\n"


def test_a_restore_replaces_the_create_with_the_agents_arguments(
    bench: Bench, agent: Callable[..., ScriptedAgent]
) -> None:
    argv = ["--detach", "--no-subreaper", "--image-path", "/j/checkpoints/3/images", "--tcp-established"]
    served = agent([orders(bench, RuntimeAction.RESTORE, argv)], [DONE])
    bundle = str(bench.bundle)
    done = bench.run(
        *["--root", "/r", "--log", f"{bundle}/log.json", "--log-format", "json", "--systemd-cgroup"],
        *["create", "-b", bundle, f"--pid-file={bench.pid_file}", "--no-pivot", ID],
    )
    assert done.returncode == 0
    (call,) = bench.calls()
    assert call == [
        *["--root", "/r", "--log", f"{bundle}/log.json", "--log-format", "json", "--systemd-cgroup"],
        *["--criu", "/opt/criu/bin/criu", "restore", *argv, "--bundle", bundle],
        *["--pid-file", str(bench.pid_file), "--no-pivot", ID],
    ]
    assert json.loads((bench.bin / "calls").read_text())["path"] == "/opt/criu/libexec"
    assert served.operations == ["create", "restored"]
    assert (bench.marks / "restored").exists()


def test_each_rung_that_fails_is_told_and_the_next_one_tried(bench: Bench, agent: Callable[..., ScriptedAgent]) -> None:
    served = agent(
        [orders(bench, RuntimeAction.RESTORE, ["--image-path", "/j/2"])],
        [orders(bench, RuntimeAction.RESTORE, ["--image-path", "/j/1"])],
        [orders(bench, RuntimeAction.CREATE)],
        [DONE],
    )
    bench.fake("restore.status", "1")
    bench.fake("restore.stderr", "criu failed: type NOTIFY errno 0")
    done = bench.create()
    assert done.returncode == 0
    assert done.stderr == ""
    assert served.operations == ["create", "failed", "failed", "created"]
    assert "criu failed: type NOTIFY" in served.heard[1].message
    assert re.match(GAVE_UP, served.heard[1].message), "the agent tells whose fault it was by these words"
    kinds = [next(word for word in call if word in ("create", "restore")) for call in bench.calls()]
    assert kinds == ["restore", "restore", "create"]


def test_a_refused_start_says_why_on_stderr_and_in_runcs_log(bench: Bench, agent: Callable[..., ScriptedAgent]) -> None:
    agent([RuntimeReply(action=RuntimeAction.FAIL, reason="no volume yet; Batch tries again")])
    log = bench.bundle / "log.json"
    done = bench.run("--log", str(log), "create", "--bundle", str(bench.bundle), ID)
    assert done.returncode == 1
    assert "no volume yet" in done.stderr
    assert json.loads(log.read_text())["msg"] == "no volume yet; Batch tries again"
    assert bench.calls() == []


def test_when_the_agent_dies_after_a_restore_that_failed_nothing_starts_on_its_files(
    bench: Bench, agent: Callable[..., ScriptedAgent]
) -> None:
    bench.configure({"AWS_BATCH_JOB_ID": "a-job", "AWS_BATCH_JOB_ATTEMPT": "2"})
    bench.environment["PERDURE_CONTAINER_START_TIMEOUT"] = "13"
    agent([orders(bench, RuntimeAction.RESTORE)], *[[b""]] * 40)
    bench.fake("restore.status", "1")
    done = bench.create()
    assert done.returncode == 1
    assert "a restore failed" in done.stderr
    assert not [call for call in bench.calls() if "create" in call]


def test_when_the_agent_dies_while_it_rolls_back_nothing_starts_on_its_files(
    bench: Bench, agent: Callable[..., ScriptedAgent]
) -> None:
    bench.configure({"AWS_BATCH_JOB_ID": "a-job", "AWS_BATCH_JOB_ATTEMPT": "2"})
    bench.environment["PERDURE_CONTAINER_START_TIMEOUT"] = "12"
    bench.marks.mkdir()
    (bench.marks / "restoring").touch()
    done = bench.create()
    assert done.returncode == 1
    assert bench.calls() == []


# ----------------------------------------------------------------------------------------------- start, state, delete


def test_a_created_container_is_started_by_runc_and_the_agent_is_told(
    bench: Bench, agent: Callable[..., ScriptedAgent]
) -> None:
    served = agent([DONE])
    bench.marks.mkdir()
    (bench.marks / "created").write_text('{"pid": 1}')
    assert bench.run("--root", "/r", "start", ID).returncode == 0
    assert bench.calls() == [["--root", "/r", "start", ID]]
    assert served.operations == ["started"]
    assert (bench.marks / "started").exists()


def test_a_start_that_fails_is_not_told(bench: Bench, agent: Callable[..., ScriptedAgent]) -> None:
    served = agent()
    bench.marks.mkdir()
    bench.fake("start.status", "3")
    assert bench.run("start", ID).returncode == 3
    assert served.heard == []


@pytest.mark.parametrize("answer", [[PASS], [b""], [b"{}\n"]])
def test_a_restored_container_is_created_until_start_lets_it_go_on(
    bench: Bench, agent: Callable[..., ScriptedAgent], answer: list[RuntimeReply | bytes]
) -> None:
    """By SIGCONT, if the agent cannot do it, or is not there any more, or is older and does not know the question."""
    agent(answer, *[[b""]] * 40)
    bench.marks.mkdir()
    (bench.marks / "restored").write_text('{"pid": 1}')
    bench.fake("state.stdout", json.dumps({"id": ID, "status": "running", "pid": 7}))
    assert json.loads(bench.run("--root", "/r", "state", ID).stdout) == {"id": ID, "status": "created", "pid": 7}
    with subprocess.Popen(["sleep", "60"]) as stopped:
        stopped.send_signal(signal.SIGSTOP)
        os.waitpid(stopped.pid, os.WUNTRACED)
        bench.fake("ps.stdout", json.dumps([stopped.pid]))
        assert bench.run("--root", "/r", "start", ID).returncode == 0
        _, status = os.waitpid(stopped.pid, os.WCONTINUED | os.WNOHANG)
        assert os.WIFCONTINUED(status)
        stopped.kill()
    assert json.loads(bench.run("--root", "/r", "state", ID).stdout)["status"] == "running"
    assert ["--root", "/r", "ps", "-f", "json", ID] in bench.calls()
    assert not [call for call in bench.calls() if "start" in call]


def test_the_agent_lets_a_restored_container_go_on(bench: Bench, agent: Callable[..., ScriptedAgent]) -> None:
    served = agent([WAIT, DONE], [DONE])
    bench.marks.mkdir()
    (bench.marks / "restored").write_text('{"pid": 1}')
    assert bench.run("start", ID).returncode == 0
    assert served.operations == ["continue", "started"]
    assert bench.calls() == [], "nobody is sent anything"


def test_a_restored_container_that_does_not_go_on_is_not_started(
    bench: Bench, agent: Callable[..., ScriptedAgent]
) -> None:
    served = agent([RuntimeReply(action=RuntimeAction.FAIL, reason="process 7 ended")])
    bench.marks.mkdir()
    (bench.marks / "restored").write_text('{"pid": 1}')
    done = bench.run("start", ID)
    assert (done.returncode, done.stderr) == (1, "perdure-runtime: process 7 ended\n")
    assert served.operations == ["continue"]
    assert not (bench.marks / "started").exists()


def test_delete_is_runcs_and_then_the_agent_lets_go(bench: Bench, agent: Callable[..., ScriptedAgent]) -> None:
    served = agent([WAIT, DONE])
    bench.marks.mkdir()
    assert bench.run("--root", "/r", "delete", "--force", ID).returncode == 0
    assert bench.calls() == [["--root", "/r", "delete", "--force", ID]]
    assert served.operations == ["deleted"]


def test_what_runc_has_done_stays_done_when_we_fail_after_it(bench: Bench) -> None:
    """The marks cannot be written: nothing is started or deleted twice, and the answer is runc's."""
    bench.marks.mkdir()
    (bench.marks / "started").mkdir()  # in the way of the mark
    assert bench.run("start", ID).returncode == 0
    bench.fake("delete.status", "4")
    assert bench.run("delete", ID).returncode == 4
    assert bench.calls() == [["start", ID], ["delete", ID]]


def test_a_restored_container_that_cannot_be_marked_is_removed_and_the_rung_failed(
    bench: Bench, agent: Callable[..., ScriptedAgent]
) -> None:
    served = agent([orders(bench, RuntimeAction.RESTORE)], [RuntimeReply(action=RuntimeAction.FAIL, reason="no")])
    (bench.marks / "restored").mkdir()
    (bench.marks / "restored" / "in the way").touch()
    assert bench.create().returncode == 1
    assert served.operations == ["create", "failed"]
    assert bench.calls()[-1] == ["--root", "/r", "delete", "--force", ID]


def test_a_restore_whose_criu_is_dead_is_not_waited_for(bench: Bench, agent: Callable[..., ScriptedAgent]) -> None:
    """runc 1.1 waits for ever then. Its process group goes, and the agent hears of it in time for another rung."""
    served = agent([orders(bench, RuntimeAction.RESTORE)], [RuntimeReply(action=RuntimeAction.FAIL, reason="no")])
    bench.fake(
        "runc",
        """#!/usr/bin/python3 -IS
import os, sys, time
if "restore" not in sys.argv:
    sys.exit(0)
open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "group"), "w").write(str(os.getpgid(0)))
if os.fork() == 0:
    os._exit(1)
time.sleep(1000)
""",
    )
    assert bench.create().returncode == 1
    assert served.operations == ["create", "failed"]
    message = served.heard[1].message
    assert "did not come to an end" in message
    assert not re.match(GAVE_UP, message), "killed: this says nothing against the checkpoint"
    with pytest.raises(ProcessLookupError):
        os.kill(int((bench.bin / "group").read_text()), 0)


def test_without_an_agent_start_and_delete_go_on(bench: Bench) -> None:
    bench.marks.mkdir()
    assert bench.run("start", ID).returncode == 0
    assert bench.run("delete", ID).returncode == 0
    assert bench.calls() == [["start", ID], ["delete", ID]]


def test_the_marks_are_for_root_alone(bench: Bench) -> None:
    bench.marks.mkdir()
    bench.run("start", ID)
    assert stat.S_IMODE((bench.marks / "started").stat().st_mode) == 0o600
