"""The node's ECS agent: carries out what the cloud asks, reports what became of it, and can be stopped."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable

from localcloud.node_link import NodeCommand, NodeEvent, Output, RunTask, SetEcsAgent, StopTask
from localcloud.nodes.inside.engine import Container, ContainerEngine

log = logging.getLogger(__name__)


class EcsAgent:
    """Runs and stops containers. While it is stopped it neither acts nor reports; afterwards it makes up for both."""

    def __init__(self, engine: ContainerEngine, send: Callable[[NodeEvent], None]) -> None:
        self._engine = engine
        self._send = send
        self._containers: dict[str, Container] = {}
        self._lock = threading.Lock()
        self._running = True
        self._held_events: deque[NodeEvent] = deque()
        self._held_commands: deque[RunTask | StopTask] = deque()

    def serve(self, commands: Iterable[NodeCommand]) -> None:
        """Carry out commands until there are none (the cloud is gone)."""
        for command in commands:
            if isinstance(command, SetEcsAgent):
                self._switch(command.running)
            elif self._running:
                self._carry_out(command)
            else:
                self._held_commands.append(command)

    def tell(self, event: NodeEvent) -> None:
        """Report to the cloud, or hold it back while stopped. Output is the engine's own and always goes through."""
        with self._lock:
            if not self._running and not isinstance(event, Output):
                self._held_events.append(event)
                return
        with contextlib.suppress(OSError):  # the cloud is gone: this node is about to end itself
            self._send(event)

    def switch_on_signals(self) -> None:
        """As `systemctl stop` and `start` of its unit: SIGUSR1 stops it, SIGUSR2 starts it. For the main thread."""
        for number, running in ((signal.SIGUSR1, False), (signal.SIGUSR2, True)):
            # In a thread of its own: the handler may have interrupted somebody who holds the lock.
            signal.signal(number, lambda *_, running=running: self._in_thread(self._switch, running))

    def end_all(self) -> None:
        """SIGKILL to every container."""
        for container in list(self._containers.values()):
            try:
                container.kill()
            except TimeoutError as problem:
                log.warning("%s", problem)

    def _switch(self, running: bool) -> None:
        log.info("ECS agent %s", "running" if running else "stopped")
        with self._lock:
            self._running = running
        while running and self._held_events:
            self.tell(self._held_events.popleft())
        while running and self._held_commands:
            self._carry_out(self._held_commands.popleft())

    def _carry_out(self, command: RunTask | StopTask) -> None:
        if isinstance(command, RunTask):
            container = self._engine.container(command.task, self.tell)
            self._containers[command.task.container_id] = container
            self._in_thread(self._run, container, command.task.container_id)
        elif found := self._containers.get(command.container_id):
            self._in_thread(found.stop, command.grace_seconds)

    def _run(self, container: Container, container_id: str) -> None:
        try:
            container.run()
        finally:
            del self._containers[container_id]

    @staticmethod
    def _in_thread(work: Callable[..., None], *arguments: object) -> None:
        threading.Thread(target=work, args=arguments, daemon=True).start()
