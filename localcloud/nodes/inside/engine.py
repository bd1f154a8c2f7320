"""What the node's ECS agent asks of a container engine. Two stand behind it: runc alone and Docker.

The engine tells what becomes of a container by the events of the node's link; an image's name is the engine's to
understand (localcloud/nodes/images/catalogue.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from localcloud.node_link import NodeEvent, Task

OUT_OF_MEMORY = "OutOfMemoryError: Container killed due to memory usage"


class Container(Protocol):
    """One task's container. `run` is called once, in a thread of its own; the others by any thread, at any time."""

    def run(self) -> None:
        """The container's whole life; tells Started or StartFailed, then Exited, each once, all Output before it."""
        ...

    def stop(self, grace_seconds: float) -> None:
        """SIGTERM, SIGKILL after the grace; returns when the container ended or was killed."""
        ...

    def kill(self) -> None:
        """SIGKILL to everything in it, frozen or not. Raises TimeoutError when something does not die."""
        ...


class ContainerEngine(Protocol):
    """The container engine of one node."""

    def wait_until_ready(self) -> None:
        """Return once it can make containers. Raises an exception that ends the node when it never will."""
        ...

    def container(self, task: Task, tell: Callable[[NodeEvent], None]) -> Container:
        """A container for the task, not made yet."""
        ...


class StartProblem(Exception):
    """Why a container never ran, in ECS's words."""


def timed_out(limit_seconds: float) -> StartProblem:
    """A start that took longer than ECS gives it (ECS agent, DockerTimeoutError)."""
    minutes, seconds = divmod(round(limit_seconds), 60)
    return StartProblem(
        f"DockerTimeoutError: Could not transition to started; timed out after waiting {minutes}m{seconds}s"
    )


def unknown_image(name: str) -> StartProblem:
    """An image that nobody built. ECS would fail to pull it; here there is no registry to pull from."""
    return StartProblem(
        f"CannotPullContainerError: Error response from daemon: no image {name!r} here, and no registry to pull it "
        f"from; make it with `perdure local image build {name} PACKAGE...`"
    )
