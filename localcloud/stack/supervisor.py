"""`python -m localcloud.stack.supervisor`: starts and stops everything of one local stack, in order.

    sweep what a dead stack left → disk → bridge → Temporal → cloud, control worker, API → first nodes

It lives as long as the stack, holds its lock, and writes stack.json at every change. SIGTERM stops the stack in order.
It must be started in a mount namespace of its own: the stack's disk is mounted there and nowhere else.
"""

from __future__ import annotations

from perdure import garbage

if __name__ == "__main__":
    garbage.none_while_loading()

import argparse
import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import get_args

import httpx

from localcloud.aws.cloud_config import CREDENTIALS, CloudConfig
from localcloud.cgroups import Cgroup
from localcloud.foreign import foreign_mounts, let_go, needed_paths
from localcloud.linux import mount_table
from localcloud.nodes.inside.configuration import EngineName
from localcloud.nodes.launcher import LauncherOptions, remove_folder
from localcloud.nodes.network import Subnet, make_bridge
from localcloud.stack.checks import check_machine, find_temporal
from localcloud.stack.pool import make_pool
from localcloud.stack.programs import Program
from localcloud.stack.relay import start_relay
from localcloud.stack.stack import SUPERVISOR_LOG, StackPhase, StackPlace, StackState, claimed, write_state
from localcloud.stack.sweep import forget_ended, sweep
from localcloud.stack.temporal import TEMPORAL_PORT, prepare_temporal, wait_for_worker
from localcloud.stack.waiting import POLL_SECONDS, first_of, free_port, until, until_answers
from perdure.domain.errors import StackError
from perdure.leaving import leave

log = logging.getLogger(__name__)

START_LIMIT_SECONDS = 180.0
STOP_GRACE_SECONDS = {"api": 5.0, "control": 5.0, "cloud": 30.0, "temporal": 1.0}
"""Temporal takes longer to stop than is worth waiting for: its database is deleted with the stack."""
AWS_PORT = 4566
"""On the stack's bridge, which has no other user."""
CODE = Path(__file__).resolve().parents[2]
RUNTIME = CODE / "worker_agent" / "runtime" / "perdure-runtime"


class Supervisor:
    """One stack, from nothing to ready and back."""

    def __init__(
        self, place: StackPlace, external_temporal: str | None, namespace: str, engine: EngineName = "runc"
    ) -> None:
        self._place = place
        self._engine = engine
        self._external_temporal = external_temporal
        self._state = StackState(
            stack=place.name, engine=engine, temporal_namespace=namespace, processes={"supervisor": os.getpid()}
        )
        self._programs: list[Program] = []
        self._cgroup = Cgroup.at(place.cgroup).below("programs")
        self._lost = asyncio.Event()
        self._relay: asyncio.Server | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Start, serve until `stop` is set, stop. Raises StackError when a part does not serve or the cloud is lost."""
        self._save()
        try:
            await first_of(self._start(), stop, self._lost)
            if not stop.is_set() and not self._lost.is_set():
                self._state.phase = StackPhase.READY
                self._tell("ready")
                await first_of(asyncio.Event().wait(), stop, self._lost)
            if self._lost.is_set():
                raise StackError(f"the cloud ended, and all instances with it; {self._place.logs}/cloud.log says why")
        finally:
            self._state.phase = StackPhase.STOPPING
            self._save()
            await self._stop()

    async def _start(self) -> None:
        folder = self._place.folder
        await asyncio.to_thread(check_machine, self._place.base, self._engine)
        self._tell("this machine can freeze processes")
        await asyncio.to_thread(sweep, self._place)
        await asyncio.to_thread(_clear_logs, self._place.logs)
        for name in await asyncio.to_thread(forget_ended, self._place.base, time.time()):
            log.info("stack %s ended more than a day ago; what was left of it is gone", name)
        await asyncio.to_thread(make_pool, folder)
        subnet = await asyncio.to_thread(make_bridge, self._place.mark)
        self._cgroup.make()
        self._tell(f"disk and network {subnet.address(0)}/24 made")
        await self._start_temporal(subnet)
        # All three at once: they find each other by addresses that are known by now.
        cloud_ready = await self._start_cloud(subnet)
        await self._start_control()
        api_url = await self._start_api()
        await self._within("the cloud", "cloud.log", until(cloud_ready.exists))
        self._tell(f"AWS serves at {self._state.aws_endpoint_url}")
        address, namespace = str(self._state.temporal_address), self._state.temporal_namespace
        await self._within("the control worker", "control.log", wait_for_worker(address, namespace))
        self._tell("control worker serves")
        await self._within("the API", "api.log", until_answers(f"{api_url}/api/v1/health"))
        self._state.api_url = api_url
        self._tell(f"API serves at {api_url}")
        await self._wait_for_nodes()

    async def _start_temporal(self, subnet: Subnet) -> None:
        """Our dev server or the one that was named; nodes reach either through a relay on the bridge.

        The dev server could listen on the bridge itself, but then its parts look for each other on 127.0.0.1 in vain
        (Temporal CLI 1.9.1, tried).
        """
        address = self._external_temporal
        if address is None:
            port, ui_port = free_port(), free_port()
            address = f"127.0.0.1:{port}"
            self._state.temporal_ui_url = f"http://127.0.0.1:{ui_port}"
            argv = [
                *(str(find_temporal()), "server", "start-dev", "--ip", "127.0.0.1", "--port", str(port)),
                *("--ui-ip", "127.0.0.1", "--ui-port", str(ui_port), "--log-level", "warn"),
                *("--db-filename", str(self._place.folder / "temporal.db")),
                *("--sqlite-pragma", "journal_mode=WAL", "--sqlite-pragma", "synchronous=NORMAL"),
            ]
            await self._start_program("temporal", argv, {})
        host, _, text = address.rpartition(":")
        if not host or not text.isdigit():
            raise StackError(f"TEMPORAL_ADDRESS must be host:port, not {address!r}")
        self._relay = await start_relay(subnet.gateway, TEMPORAL_PORT, host, int(text))
        self._state.temporal_address = address
        await self._within("Temporal", "temporal.log", prepare_temporal(address, self._state.temporal_namespace))
        self._tell(f"Temporal serves; its web page is {self._state.temporal_ui_url or 'at your own server'}")

    async def _start_cloud(self, subnet: Subnet) -> Path:
        """Returns the file that appears once it serves."""
        ready = self._place.folder / "cloud.json"
        config = CloudConfig(
            stack=self._place.name, folder=self._place.folder, host=subnet.gateway, port=AWS_PORT, ready_file=ready
        )
        options = LauncherOptions(
            cgroup=self._place.cgroup,
            stacks_folder=self._place.base,
            pool=config.pool,
            logs=self._place.logs,
            subnet=subnet.number,
            temporal_address=f"{subnet.gateway}:{TEMPORAL_PORT}",
            temporal_namespace=self._state.temporal_namespace,
            container_start_timeout=config.timing.container_start_timeout,
            runtime=str(RUNTIME) if RUNTIME.exists() else "runc",
            engine=self._engine,
            environment=_our_variables(),
        )
        config = config.model_copy(update={"launcher_options": options.model_dump(mode="json")})
        config_file = self._place.folder / "cloud-config.json"
        config_file.write_text(config.model_dump_json(indent=1))
        argv = [sys.executable, "-m", "localcloud.aws.cloud", "--config", str(config_file)]
        await self._start_program("cloud", argv, {}, essential=True)
        self._state.aws_endpoint_url = f"http://{config.host}:{config.port}"
        self._state.region, self._state.queues = config.region, config.queues
        return ready

    async def _start_control(self) -> None:
        await self._start_program("control", [sys.executable, "-m", "activities"], self._product_environment())

    async def _start_api(self) -> str:
        """Returns its address."""
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        environment = self._product_environment() | {"PERDURE_API_HOST": "127.0.0.1", "PERDURE_API_PORT": str(port)}
        if self._state.temporal_ui_url:
            environment["PERDURE_TEMPORAL_UI_URL"] = self._state.temporal_ui_url
        await self._start_program("api", [sys.executable, "-m", "api"], environment)
        return url

    async def _wait_for_nodes(self) -> None:
        async def up() -> None:
            async with httpx.AsyncClient(base_url=str(self._state.aws_endpoint_url), timeout=60) as cloud:
                while True:
                    status = (await cloud.get("/_local/status")).json()
                    ready = {node["zone"] for node in status["nodes"] if node["state"] == "ready"}
                    if ready >= set(status["zones"]):
                        self._tell(f"nodes ready in {', '.join(sorted(ready))}")
                        return
                    await asyncio.sleep(POLL_SECONDS)

        await self._within("a node in each zone", "cloud.log", up())

    async def _start_program(
        self, name: str, argv: list[str], environment: dict[str, str], *, essential: bool = False
    ) -> None:
        program = Program(
            name=name,
            argv=argv,
            environment={**_base_environment(), **environment},
            log_file=self._place.logs / f"{name}.log",
            hold_file=self._place.folder / f"hold-{name}",
            cgroup=self._cgroup,
            on_change=self._note_process,
            essential=essential,
        )
        if essential:
            program.lost = self._lost
        self._programs.append(program)
        await program.start()

    async def _within(self, what: str, log_name: str, work: Awaitable[None]) -> None:
        """Wait for a part to serve; StackError that names its log when it does not."""
        try:
            await asyncio.wait_for(work, START_LIMIT_SECONDS)
        except TimeoutError:
            where = self._place.logs / log_name
            raise StackError(f"{what} did not serve within {START_LIMIT_SECONDS:g} s; {where} says why") from None

    async def _stop(self) -> None:
        for program in reversed(self._programs):
            # The cloud goes before Temporal and after its clients, and takes the nodes down with it.
            await program.stop(STOP_GRACE_SECONDS[program.name])
        if self._relay is not None:
            self._relay.close()
        await asyncio.to_thread(sweep, self._place)

    def _product_environment(self) -> dict[str, str]:
        return {
            **_our_variables(),
            **CREDENTIALS,
            "TEMPORAL_ADDRESS": str(self._state.temporal_address),
            "TEMPORAL_NAMESPACE": self._state.temporal_namespace,
            "AWS_ENDPOINT_URL": str(self._state.aws_endpoint_url),
            "AWS_REGION": self._state.region,
            "AWS_DEFAULT_REGION": self._state.region,
            "PERDURE_DATABASE_URL": f"sqlite:///{self._place.folder}/server/perdure.db",
        }

    def _note_process(self, name: str, pid: int) -> None:
        self._state.processes[name] = pid
        self._save()

    def _tell(self, line: str) -> None:
        log.info(line)
        self._state.progress.append(line)
        self._save()

    def _save(self) -> None:
        self._place.folder.mkdir(parents=True, exist_ok=True)
        write_state(self._place, self._state)


def _clear_logs(folder: Path) -> None:
    """Yesterday's logs go, today's supervisor.log stays: we are writing it."""
    folder.mkdir(parents=True, exist_ok=True)
    for entry in folder.iterdir():
        if entry.is_dir():
            remove_folder(entry)
        elif entry.name != SUPERVISOR_LOG:
            entry.unlink()


def _base_environment() -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": os.environ.get("HOME", "/root"),
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        # Nothing here may find the way to a real account.
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def _our_variables() -> dict[str, str]:
    """PERDURE_* of whoever started the stack: how one tunes the agents and servers of a local stack."""
    return {name: value for name, value in os.environ.items() if name.startswith("PERDURE_")}


async def _serve(place: StackPlace, external_temporal: str | None, namespace: str, engine: EngineName) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await Supervisor(place, external_temporal, namespace, engine).run(stop)


def main() -> None:
    """Run one stack. What went wrong stands in stack.json, for the command line, and in our log."""
    parser = argparse.ArgumentParser(prog="localcloud.stack.supervisor")
    parser.add_argument("--stack", required=True)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--temporal-address")
    parser.add_argument("--temporal-namespace", default="default")
    parser.add_argument("--engine", choices=get_args(EngineName), default="runc")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    place = StackPlace(arguments.stack, arguments.base)
    with claimed(place):
        let_go(foreign_mounts(mount_table(), place.base, needed_paths()))
        try:
            asyncio.run(_serve(place, arguments.temporal_address, arguments.temporal_namespace, arguments.engine))
        except Exception as problem:
            log.exception("stack %s gave up", place.name)
            state = StackState(stack=place.name, phase=StackPhase.FAILED, error=str(problem))
            write_state(place, state.model_copy(update={"processes": {"supervisor": os.getpid()}}))
            sys.exit(1)


if __name__ == "__main__":
    garbage.keep_what_is_loaded()
    main()
    leave(0)
