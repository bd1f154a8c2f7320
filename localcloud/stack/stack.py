"""A local stack as a place and a state: its names and paths, whether it runs, and stack.json: where it serves.

Several stacks live side by side; everything of one is found by its name: folder, cgroup, bridge.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from localcloud.nodes.inside.configuration import EngineName
from perdure.domain.errors import ConfigurationInvalid, StackError, StackMissing

DEFAULT_BASE = Path("/var/lib/perdure-local")
DEFAULT_STACK = "default"
SUPERVISOR_LOG = "supervisor.log"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


@dataclass(frozen=True)
class StackPlace:
    """Where a stack of that name is, or would be. Raises ConfigurationInvalid for a name that is not a plain word."""

    name: str = DEFAULT_STACK
    base: Path = DEFAULT_BASE

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigurationInvalid(
                f"stack name {self.name[:50]!r} is not usable; use up to 40 lower-case letters, digits and '-'"
            )
        if not self.base.is_absolute():
            raise ConfigurationInvalid(f"the folder for stacks must be an absolute path, not {self.base}")

    @property
    def folder(self) -> Path:
        """Everything of the stack."""
        return self.base / self.name

    @property
    def state_file(self) -> Path:
        """stack.json"""
        return self.folder / "stack.json"

    @property
    def token_file(self) -> Path:
        """The API token of `perdure local …`, once the stack's server asks for sign-in."""
        return self.folder / "api-token"

    @property
    def lock_file(self) -> Path:
        """Held by the supervisor as long as it lives. Beside the folder, which is deleted while it is held."""
        return self.base / f".{self.name}.lock"

    @property
    def logs(self) -> Path:
        """Logs of the programs, and a folder for each node. They stay after `down` for a day (sweep.py), or until the
        next `up`."""
        return self.folder / "logs"

    @property
    def cgroup(self) -> str:
        """Path of the group that holds all processes of the stack but the supervisor, and no other process."""
        if self.base == DEFAULT_BASE:
            return f"/perdure/{self.name}"
        return f"/perdure/{self.name}.{hashlib.sha256(bytes(self.base)).hexdigest()[:8]}"

    @property
    def mark(self) -> str:
        """What the stack's bridge carries as its alias."""
        return f"perdure stack {self.name} in {self.base}"


class StackPhase(StrEnum):
    """Where a stack is in its life."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    FAILED = "failed"


class StackState(BaseModel):
    """stack.json. Addresses are absent until that part serves; `temporal_ui_url` for a server that is not ours, too."""

    model_config = ConfigDict(extra="ignore")

    stack: str
    phase: StackPhase = StackPhase.STARTING
    error: str = ""
    progress: list[str] = Field(default_factory=list)
    """What was done so far, a line each, for people."""
    engine: EngineName = "runc"
    """What runs the containers on the nodes."""
    region: str = ""
    queues: list[str] = Field(default_factory=list)
    api_url: str | None = None
    temporal_ui_url: str | None = None
    temporal_address: str | None = None
    temporal_namespace: str = "default"
    aws_endpoint_url: str | None = None
    processes: dict[str, int] = Field(default_factory=dict)
    """Pids: supervisor, temporal (when ours), cloud, control, api."""


def write_state(place: StackPlace, state: StackState) -> None:
    """Replace stack.json in one step."""
    draft = place.state_file.with_suffix(".new")
    draft.write_text(state.model_dump_json(indent=1))
    draft.replace(place.state_file)


def read_state(place: StackPlace) -> StackState | None:
    """stack.json as it was last written, by a living supervisor or not; None when there is none."""
    try:
        return StackState.model_validate_json(place.state_file.read_text())
    except FileNotFoundError:
        return None
    except (ValidationError, PermissionError) as problem:
        raise StackError(f"{place.state_file} cannot be read: {problem}") from problem


@contextlib.contextmanager
def claimed(place: StackPlace) -> Iterator[None]:
    """Hold the stack's lock. Raises StackError when another process does: the stack runs, or is being changed."""
    place.base.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        while True:
            lock = held.enter_context(place.lock_file.open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StackError(f"stack {place.name!r} is running or being changed by another command") from None
            # Who forgets an ended stack (sweep.py) deletes the file: then this lock is one that nobody else can find.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock.fileno()), place.lock_file.stat()):
                    break
        yield


def is_claimed(place: StackPlace) -> bool:
    """Whether some process holds the stack's lock, so whether its supervisor lives."""
    try:
        descriptor = os.open(place.lock_file, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def known_places(base: Path = DEFAULT_BASE) -> list[StackPlace]:
    """The stacks in that folder that run, or have run and are not forgotten (sweep.py)."""
    names = (file.name.removeprefix(".").removesuffix(".lock") for file in base.glob(".*.lock"))
    return [StackPlace(name, base) for name in sorted(names) if _NAME.fullmatch(name)]


def running_stacks(base: Path = DEFAULT_BASE) -> list[str]:
    """Names of the stacks in that folder that are running or starting."""
    found = []
    for state_file in sorted(base.glob("*/stack.json")):
        if not _NAME.fullmatch(state_file.parent.name):
            continue
        place = StackPlace(state_file.parent.name, base)
        state = read_state(place) if is_claimed(place) else None
        if state is not None and state.phase in {StackPhase.STARTING, StackPhase.READY}:
            found.append(place.name)
    return found


def meant_place(name: str, base: Path = DEFAULT_BASE) -> StackPlace:
    """The stack of that name; without a name the only running one, or the default one if none runs.

    Raises StackMissing, with the names, when several run and none is named.
    """
    if name:
        return StackPlace(name, base)
    running = running_stacks(base)
    if len(running) > 1:
        raise StackMissing(
            f"several stacks run here: {', '.join(running)}; say which one is meant,"
            f" with `perdure local … --stack {running[0]}`, or PERDURE_STACK={running[0]} for every command"
        )
    return StackPlace(running[0] if running else DEFAULT_STACK, base)


def ready_state(place: StackPlace) -> StackState:
    """The state of a stack that serves. Raises StackMissing, saying how to start one."""
    state = read_state(place) if is_claimed(place) else None
    if state is not None and state.phase is StackPhase.STARTING:
        raise StackMissing(f"stack {place.name!r} is starting and does not serve yet; try again in some seconds")
    if state is None or state.phase is not StackPhase.READY:
        flag = "" if place.name == DEFAULT_STACK else f" --stack {place.name}"
        others = [name for name in running_stacks(place.base) if name != place.name]
        hint = f" ({', '.join(others)} {'runs' if len(others) == 1 else 'run'})" if others else ""
        raise StackMissing(f"no stack {place.name!r} is running{hint}; start it with `perdure local up --detach{flag}`")
    return state


def api_url() -> str | None:
    """The API server of the stack named by PERDURE_STACK, or of the only running one; None when none is named and none
    runs. Raises StackMissing when the named one does not run, or when several run and none is named."""
    base = Path(os.environ.get("PERDURE_LOCAL_DIR", DEFAULT_BASE))
    name = os.environ.get("PERDURE_STACK", "")
    if not name and not running_stacks(base):
        return None
    return ready_state(meant_place(name, base)).api_url
