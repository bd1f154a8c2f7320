"""What `perdure-runtime` and the agent say to each other on the agent's unix socket: one JSON object a line.

The runtime is one stdlib file that cannot import this module; a test holds the two in step. A connection carries one
request and its replies. The runtime sends RuntimeRequest; the agent answers any number of WAIT lines (so that the
runtime knows it lives) and then exactly one other line.

    create   → CREATE | RESTORE | PASSTHROUGH | FAIL        the agent has edited config.json and mounted what it needs
    created  → DONE                                         `runc create` went well (`pid` of the container's init)
    verify   → DONE | FAIL                                  what `runc restore` read is sound, or that rung did not hold
    restored → DONE                                         the restored container stands, left stopped
    failed   → RESTORE | CREATE | PASSTHROUGH | FAIL        that rung did not hold: the next one
    continue → DONE | FAIL | PASSTHROUGH                    a restored container goes on, or needs SIGCONT
    started  → DONE                                         `start` went well: the job runs
    deleted  → DONE                                         `runc delete` is done: unmount, let go
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from perdure.domain.values import Frozen


class RuntimeOperation(StrEnum):
    """What the runtime tells the agent."""

    CREATE = "create"
    CREATED = "created"
    VERIFY = "verify"
    RESTORED = "restored"
    FAILED = "failed"
    CONTINUE = "continue"
    STARTED = "started"
    DELETED = "deleted"


class RuntimeAction(StrEnum):
    """What the agent answers."""

    WAIT = "wait"
    CREATE = "create"
    RESTORE = "restore"
    PASSTHROUGH = "passthrough"
    FAIL = "fail"
    DONE = "done"


class RuntimeRequest(Frozen):
    """One line from the runtime. `runc_root` is runc's --root as the caller gave it ("" = runc's default);
    `pid` is the container's init after create or restore; `message` the end of runc's and CRIU's words on failure."""

    operation: RuntimeOperation
    container_id: str
    bundle: str = ""
    runc_root: str = ""
    pid: int | None = None
    message: str = ""


class RuntimeReply(Frozen):
    """One line from the agent.

    CREATE and RESTORE: start a stdio keeper with `keeper` as arguments (log folder, control socket), give the
    container its pipes as stdin/stdout/stderr. RESTORE: run `runc GLOBALS restore ARGV… ID` with `argv` (flags, image
    and work path) in place of the create, `criu` as runc's --criu, and `path_first` first on PATH. With `verifying` the
    agent still reads the image meanwhile: VERIFY is asked before anything goes on with what was restored.
    """

    action: RuntimeAction
    reason: str = ""
    argv: list[str] = Field(default_factory=list)
    criu: str = ""
    path_first: str = ""
    keeper: list[str] = Field(default_factory=list)
    verifying: bool = False
