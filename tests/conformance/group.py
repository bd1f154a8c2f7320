"""Runs as a job's process 1: starts a group of CRIU's tests, waits to be told, then lets each say how it came back.

    python3 group.py EXCHANGE PROGRAMS

EXCHANGE is a folder shared with the tester: `tests.json` in; `starts`, `ready.json` and `results.json` out; `verify`
tells it to go on. PROGRAMS is where the tests' programs are. Standard library only; nothing in here knows of Perdure.

A second start means that the job was not restored: exit code 9, at once.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

AGAIN = 9
START_LIMIT, VERIFY_LIMIT, PAUSE = 120.0, 120.0, 0.05
HOME = Path("/zdtm")
OUTAGE = {"ZDTM_DELTA": "600"}
"""Seconds that may pass from a test's start to its end (`poll` alone asks): a reclaim takes more than the five that are
enough for CRIU where it stands."""
NUMBERS = {"ZDTM_UID": "18943", "ZDTM_GID": "58467", "ZDTM_GROUPS": "27495 48244"}
"""Those of CRIU's own runner, for tests that give up root."""

ended: dict[int, int] = {}
starters: list[subprocess.Popen[bytes]] = []
"""Kept, because an object that is thrown away takes the process's exit code with it."""


def reap() -> None:
    """Process 1 waits for everybody's orphans."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        ended[pid] = os.waitstatus_to_exitcode(status)


def start(test: dict[str, Any], programs: Path) -> int:
    """The process id of the test's starter, in a folder of the test's own on the root layer."""
    folder = HOME / test["name"]
    folder.mkdir()
    folder.chmod(0o777)
    program = folder / test["name"]
    shutil.copyfile(programs / test["name"], program)
    program.chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "TMPDIR": "/tmp", **OUTAGE, **({} if test["root"] else NUMBERS)}
    with (folder / "said").open("wb") as said:
        argv = [str(program), *test["arguments"]]
        starter = subprocess.Popen(
            argv, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )
    starters.append(starter)
    return starter.pid


def wait(pids: set[int], limit: float) -> None:
    """Until all of them have ended, or the limit."""
    end = time.monotonic() + limit
    while any(alive(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(PAUSE)


def alive(pid: int) -> bool:
    reap()
    if pid in ended:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def words(name: str) -> str:
    """The last lines of what the test has said."""
    for file in (f"{name}.out", f"{name}.out.inprogress", "said"):
        path = HOME / name / file
        if path.exists() and (text := path.read_text(errors="replace").strip()):
            return "\n".join(text.splitlines()[-4:])[-600:]
    return "it said nothing"


def write(path: Path, what: object) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps(what))
    new.rename(path)


def main(exchange: Path, programs: Path) -> int:
    """The exit code: 0, whatever the tests say; the results are in the exchange."""
    with (exchange / "starts").open("a") as starts:
        starts.write("start\n")
    if (exchange / "starts").read_text().count("start") > 1:
        print("started again instead of being restored", flush=True)
        return AGAIN
    tests = json.loads((exchange / "tests.json").read_text())
    HOME.mkdir()
    HOME.chmod(0o777)
    starting = {test["name"]: start(test, programs) for test in tests}
    wait(set(starting.values()), START_LIMIT)
    pids, results = {}, {}
    for name, starter in starting.items():
        pidfile = HOME / name / f"{name}.pid"
        if ended.get(starter) == 0 and pidfile.exists():
            pids[name] = int(pidfile.read_text())
        else:
            results[name] = ("not started", f"exit code {ended.get(starter)}: {words(name)}")
    write(exchange / "ready.json", results)
    print("ready", len(pids), flush=True)
    while not (exchange / "verify").exists():
        reap()
        time.sleep(PAUSE)
    results |= verify(pids)
    write(exchange / "results.json", results)
    print("end", flush=True)
    return 0


def verify(pids: dict[str, int]) -> dict[str, tuple[str, str]]:
    """SIGTERM to each; what each says then."""
    gone = {name for name, pid in pids.items() if not alive(pid)}
    for name in pids.keys() - gone:
        os.kill(pids[name], 15)
    wait(set(pids.values()), VERIFY_LIMIT)
    results = {}
    for name, pid in pids.items():
        said = words(name)
        if "PASS" in said.split():
            results[name] = ("pass", "")
        elif name in gone:
            results[name] = ("fail", f"it ended before it was asked: {said}")
        elif alive(pid):
            results[name] = ("fail", f"it hangs: {said}")
        else:
            results[name] = ("fail", said)
    return results


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
