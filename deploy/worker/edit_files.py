"""Edits Docker's daemon.json and the ECS agent's ecs.config for perdure-install, and takes the edits back.

    edit_files.py diff|edit|undo|undo-docker RECORD [--daemon-json FILE] [--ecs-config FILE] [--runtime FILE]
                  [--replace-runtime] [--dockerd PID]

The record (one JSON file, written before anything else) holds each file as it was, byte for byte, and as we left it.
Undo puts the old bytes back. Where somebody changed a file after us, undo takes back our settings alone.

Standard library only: run by the bundle's Python. Exit code 1 with one sentence on stderr when a file cannot be edited;
then none was.
"""

from __future__ import annotations

import argparse
import base64
import difflib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ECS_SETTINGS = {"ECS_CONTAINER_CREATE_TIMEOUT": "15m", "ECS_CONTAINER_START_TIMEOUT": "16m"}
"""A restore happens while ECS starts the container, which has 3 minutes by default. A longer one stays."""
ECS_DRAINING = "ECS_ENABLE_SPOT_INSTANCE_DRAINING"
"""Off: nobody shall stop containers while they are saved. The agent acts on the notice itself."""
_RUNTIME, _NVIDIA = "perdure", "nvidia"
_ABSENT = object()
_PATIENCE = 30.0
"""Seconds for dockerd to load its file."""


class Refused(Exception):
    """A file is not as we can edit it; the message says which, why, and what to do."""


# ---- daemon.json --------------------------------------------------------------------------------------------------


def _parse(text: str, path: str) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise Refused(f"{path} names a setting twice: repair it, then run this again")
        return found

    if not text.strip():
        return {}
    try:
        settings = json.loads(text, object_pairs_hook=once)
    except ValueError as problem:
        raise Refused(f"{path} is not JSON ({problem}): repair it, then run this again") from None
    if not isinstance(settings, dict) or not isinstance(settings.get("runtimes", {}), dict):
        raise Refused(f"{path} is not Docker's configuration (an object expected): repair it, then run this again")
    return settings


def _wanted(before: dict[str, Any], runtime: str, replace: bool, path: str) -> list[tuple[tuple[str, ...], Any]]:
    """The settings that we set, as (keys, value)."""
    default = before.get("default-runtime", "runc")
    changes: list[tuple[tuple[str, ...], Any]] = [(("runtimes", _RUNTIME), {"path": runtime})]
    if _NVIDIA in before.get("runtimes", {}):
        kept = {name: value for name, value in before["runtimes"][_NVIDIA].items() if name != "path"}
        changes.append((("runtimes", _NVIDIA), {"path": f"{runtime}-nvidia", **kept}))
    if default in ("runc", _RUNTIME) or replace:
        changes.append((("default-runtime",), _RUNTIME))
    elif default != _NVIDIA:
        raise Refused(
            f"{path} has the default runtime {default!r}, and Perdure works over runc: take it out, or run this with "
            "--replace-runtime"
        )
    return changes


def _at(settings: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        if not isinstance(settings, dict) or key not in settings:
            return _ABSENT
        settings = settings[key]
    return settings


def _set(settings: dict[str, Any], keys: tuple[str, ...], value: Any) -> None:
    for key in keys[:-1]:
        settings = settings.setdefault(key, {})
    if value is _ABSENT:
        settings.pop(keys[-1], None)
    else:
        settings[keys[-1]] = value


def _text(settings: dict[str, Any], like: str) -> str:
    """As the file was indented before."""
    found = re.search(r"^([ \t]+)\S", like, re.MULTILINE)
    indent: str | int = found[1] if found else 4
    return json.dumps(settings, indent=indent, ensure_ascii=False) + "\n"


def edit_daemon_json(before: str, path: str, runtime: str, replace: bool) -> str:
    """The file with our runtime as Docker's default; everything else stays. Refused when that cannot be."""
    settings = _parse(before, path)
    changed = json.loads(json.dumps(settings))
    for keys, value in _wanted(settings, runtime, replace, path):
        _set(changed, keys, value)
    return before if changed == settings else _text(changed, before)


def undo_daemon_json(current: str, before: str, after: str) -> str:
    """`current` without what we set between `before` and `after`; what others changed since stays."""
    now, old, ours = (_parse(text, "daemon.json") for text in (current, before, after))
    for keys in (("runtimes", _RUNTIME), ("runtimes", _NVIDIA), ("default-runtime",)):
        if _at(ours, keys) != _at(old, keys) and _at(now, keys) == _at(ours, keys):
            _set(now, keys, _at(old, keys))
    if now.get("runtimes") == {} and "runtimes" not in old:
        del now["runtimes"]
    return _text(now, current) if now else ""


def with_default(undone: str, like: str) -> str:
    """`undone` with the default runtime by name. A dockerd that loads a file without one keeps the one that it has."""
    settings = _parse(undone, "daemon.json")
    return _text({"default-runtime": "runc", **settings}, like)


def _until_docker_says(pid: int, runtime: str) -> None:
    """dockerd loads the file; OSError when it does not have that default runtime in time."""
    os.kill(pid, signal.SIGHUP)
    end = time.monotonic() + _PATIENCE
    argv = ["docker", "info", "--format", "{{.DefaultRuntime}}"]
    while True:
        said = subprocess.run(argv, capture_output=True, text=True, timeout=_PATIENCE, check=False).stdout.strip()
        if said == runtime:
            return
        if time.monotonic() > end:
            raise OSError(f"dockerd still has the default runtime {said!r}: restart it, then run this again")
        time.sleep(0.1)


# ---- ecs.config ---------------------------------------------------------------------------------------------------


def seconds(duration: str) -> float:
    """Of a Go duration such as 16m or 1h30m; 0 when it is none."""
    parts = re.findall(r"([0-9.]+)(ms|h|m|s)", duration.strip())
    if not parts or "".join(map("".join, parts)) != duration.strip():
        return 0.0
    return sum(float(count) * {"h": 3600, "m": 60, "s": 1, "ms": 0.001}[unit] for count, unit in parts)


def _ecs_wanted(before: str) -> dict[str, str]:
    there = dict(_ecs_lines(before))
    longer = {name: value for name, value in ECS_SETTINGS.items() if seconds(value) > seconds(there.get(name, ""))}
    return {**longer, ECS_DRAINING: "false"}


def _ecs_lines(text: str) -> list[tuple[str, str]]:
    lines = [line.strip().partition("=") for line in text.splitlines() if not line.lstrip().startswith("#")]
    return [(name.strip(), value.strip().strip("\"'")) for name, equals, value in lines if equals]


def edit_ecs_config(before: str) -> str:
    """The file with our time-outs: each setting in its own place if it is there, else at the end."""
    wanted = {name: value for name, value in _ecs_wanted(before).items() if dict(_ecs_lines(before)).get(name) != value}
    if not wanted:
        return before
    lines, done = [], set()
    for line in before.splitlines(keepends=True):
        name = line.partition("=")[0].strip()
        if name in wanted and not line.lstrip().startswith("#"):
            if name not in done:
                lines.append(f"{name}={wanted[name]}\n")
            done.add(name)
        else:
            lines.append(line)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    return "".join(lines) + "".join(f"{name}={value}\n" for name, value in wanted.items() if name not in done)


def undo_ecs_config(current: str, before: str, after: str) -> str:
    """`current` with the settings that are still as we left them put back to what they were."""
    old, ours = dict(_ecs_lines(before)), dict(_ecs_lines(after))
    lines = []
    for line in current.splitlines(keepends=True):
        for name, value in _ecs_lines(line):
            if ours.get(name) == value and old.get(name) != value:
                line = f"{name}={old[name]}\n" if name in old else ""
        lines.append(line)
    return "".join(lines)


# ---- files and the record -----------------------------------------------------------------------------------------


@dataclass
class Edit:
    """One file, before and after. Absent before: `before` is None, and undo removes it."""

    path: str
    kind: str
    before: str | None
    after: str
    mode: int
    times_ns: list[int]
    made_folder: bool = False

    def passing(self) -> str | None:
        """What the file is for a moment during undo, while dockerd runs."""
        return with_default(self.before or "", self.after) if self.kind == "docker" else None

    def undone(self, current: str) -> str | None:
        """What the file is to be after undo; None: gone."""
        if current in (self.after, self.passing()):
            return self.before
        undo = undo_daemon_json if self.kind == "docker" else undo_ecs_config
        text = undo(current, self.before or "", self.after)
        return None if not text and self.before is None else text


def read_record(path: Path) -> list[Edit]:
    """Empty when there is none."""
    if not path.exists():
        return []
    edits = [Edit(**one) for one in json.loads(path.read_text())["files"]]
    for edit in edits:
        edit.before = None if edit.before is None else _unpacked(edit.before)
        edit.after = _unpacked(edit.after)
    return edits


def write_record(path: Path, edits: list[Edit]) -> None:
    packed = [{**asdict(edit), "before": _packed(edit.before), "after": _packed(edit.after)} for edit in edits]
    replace(path, json.dumps({"files": packed}, indent=1).encode(), 0o600)


def _packed(text: str | None) -> str | None:
    return None if text is None else base64.b64encode(text.encode("utf-8", "surrogateescape")).decode()


def _unpacked(text: str) -> str:
    return base64.b64decode(text).decode("utf-8", "surrogateescape")


def read(path: Path) -> str | None:
    """Any bytes, as text that turns into the same bytes again."""
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return None


def replace(path: Path, content: bytes, mode: int, like: Path | None = None) -> None:
    """The whole new file or the old one, whatever happens in between; owner and attributes as those of `like`."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if like is not None and like.exists():
                shutil.copystat(like, name)
                about = like.stat()
                os.chown(name, about.st_uid, about.st_gid)
                os.utime(name)
            else:
                os.chmod(name, mode)
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def plan(arguments: argparse.Namespace) -> list[Edit]:
    """What is to be edited, from what the files are now and what we did to them before."""
    known = {edit.path: edit for edit in read_record(arguments.record)}
    wanted: list[tuple[Path, str, Callable[[str], str]]] = []
    if arguments.daemon_json:
        path = Path(os.path.realpath(arguments.daemon_json))
        runtime, replacing = arguments.runtime, arguments.replace_runtime
        wanted.append((path, "docker", lambda text: edit_daemon_json(text, str(path), runtime, replacing)))
    if arguments.ecs_config:
        wanted.append((Path(os.path.realpath(arguments.ecs_config)), "ecs", edit_ecs_config))
    return [_planned(path, kind, edit, known.get(str(path))) for path, kind, edit in wanted]


def _planned(path: Path, kind: str, edit: Callable[[str], str], known: Edit | None) -> Edit:
    current = read(path)
    before, mode, times, made = current, 0o644, [0, 0], not path.parent.exists()
    if current is not None:
        about = path.stat()
        mode, times = about.st_mode & 0o7777, [about.st_atime_ns, about.st_mtime_ns]
    if known is not None and current is not None:
        before = known.undone(current)
        if before == known.before:
            mode, times, made = known.mode, known.times_ns, known.made_folder
    after = edit(before or "")
    return Edit(str(path), kind, before, after, mode, times, made)


def show(edits: list[Edit]) -> None:
    """The changes to come, as `diff -u` shows them."""
    for edit in edits:
        current = read(Path(edit.path)) or ""
        lines = difflib.unified_diff(
            current.splitlines(keepends=True), edit.after.splitlines(keepends=True), edit.path, f"{edit.path} (new)"
        )
        text = "".join(line if line.endswith("\n") else f"{line}\n\\ no end of line\n" for line in lines)
        print(text or f"{edit.path}: nothing to change", end="" if text else "\n")


def apply(record: Path, edits: list[Edit]) -> None:
    """The record first: from then on undo knows the way back, whatever happens."""
    write_record(record, edits)
    for edit in edits:
        path = Path(edit.path)
        if (read(path) or "") == edit.after:
            continue
        if not path.parent.exists():
            path.parent.mkdir(parents=True)
            sync_folder(path.parent.parent)
        replace(path, edit.after.encode("utf-8", "surrogateescape"), edit.mode, like=path)
        print(f"edited {path}")


def undo(record: Path, kinds: tuple[str, ...], dockerd: int | None) -> None:
    """Each file as it was; a dockerd that runs goes by it. The record goes last."""
    edits = read_record(record)
    for edit in edits:
        if edit.kind in kinds:
            _undo(edit, dockerd if edit.kind == "docker" else None)
    if left := [edit for edit in edits if edit.kind not in kinds]:
        write_record(record, left)
    else:
        record.unlink(missing_ok=True)


def _undo(edit: Edit, dockerd: int | None) -> None:
    path = Path(edit.path)
    current = read(path)
    if current is None or current == edit.before:
        return  # gone, or undone before; nothing of ours is in it
    text = edit.undone(current)
    if dockerd is not None:
        passing = with_default(text or "", edit.after)
        replace(path, passing.encode("utf-8", "surrogateescape"), edit.mode, like=path)
        _until_docker_says(dockerd, json.loads(passing)["default-runtime"])
    if text is None:
        path.unlink()
        if edit.made_folder and not any(path.parent.iterdir()):
            path.parent.rmdir()
        print(f"removed {path}")
        return
    replace(path, text.encode("utf-8", "surrogateescape"), edit.mode, like=path)
    if text == edit.before:
        os.utime(path, ns=(edit.times_ns[0], edit.times_ns[1]))
        print(f"put back {path}")
    else:
        print(f"took our settings out of {path}, which was changed after us")


def main() -> int:
    parser = argparse.ArgumentParser(prog="edit_files.py")
    parser.add_argument("action", choices=["diff", "edit", "undo", "undo-docker", "start-timeout"])
    parser.add_argument("record", type=Path)
    parser.add_argument("--daemon-json", default="")
    parser.add_argument("--ecs-config", default="")
    parser.add_argument("--runtime", default="")
    parser.add_argument("--replace-runtime", action="store_true")
    parser.add_argument("--dockerd", default="", help="process id of a dockerd that runs by --daemon-json")
    arguments = parser.parse_args()
    try:
        if arguments.action == "diff":
            show(plan(arguments))
        elif arguments.action == "edit":
            apply(arguments.record, plan(arguments))
        elif arguments.action == "start-timeout":
            there = dict(_ecs_lines(edit_ecs_config(read(Path(arguments.ecs_config)) or "")))
            print(f"{seconds(there['ECS_CONTAINER_START_TIMEOUT']):g}")
        else:
            kinds = ("docker",) if arguments.action == "undo-docker" else ("docker", "ecs")
            undo(arguments.record, kinds, int(arguments.dockerd) if arguments.dockerd else None)
    except (Refused, OSError, UnicodeError, subprocess.SubprocessError) as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
