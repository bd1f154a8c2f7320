"""`python -m localcloud.aws.cloud --config FILE`: AWS for one stack, in one process. START HERE.

A request to the endpoint goes to the first that answers it:

    /_local/*             endpoints.Endpoints      what no AWS offers
    signed for batch      batch.api.BatchApi       jobs            ─┐
    signed for ec2        guards.Ec2Guards         volumes, states  ├─ else moto
    signed for pricing    prices.PricingApi        list prices      │
    meant for Cognito     user_pools               signing in       │
    /_hosted/*            hosted_ui.HostedUi       its web pages    │
    anything else                                                  ─┘

Behind them: fleet.Fleet has the nodes (made by the launcher that the configuration names), batch.engine.Engine places
jobs on them and retries, volume_states.VolumeStates moves real bytes with ebs.Disks (as slowly, and
with the faults, that ebs_conditions.EbsConditions says), reclaim.Reclaims takes nodes away.
Threads and the one lock: clock.py. Nothing is kept over a restart.
"""

from __future__ import annotations

from perdure import garbage

if __name__ == "__main__":
    garbage.none_while_loading()

import argparse
import importlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from pydantic import ValidationError
from werkzeug.serving import make_server

from localcloud.aws import moto_backend
from localcloud.aws.account import Clients, set_up
from localcloud.aws.batch.api import BatchApi
from localcloud.aws.batch.engine import Engine
from localcloud.aws.clock import Clock
from localcloud.aws.cloud_config import CloudConfig
from localcloud.aws.credentials import TaskCredentials, refuse
from localcloud.aws.ebs import Disks
from localcloud.aws.ebs_conditions import EbsConditions
from localcloud.aws.ebs_endpoints import EbsEndpoints
from localcloud.aws.ec2_wire import Application, Environ, StartResponse, service_of
from localcloud.aws.endpoints import PREFIX, Endpoints
from localcloud.aws.fleet import Fleet
from localcloud.aws.guards import Ec2Guards
from localcloud.aws.hosted_ui import PREFIX as HOSTED
from localcloud.aws.hosted_ui import HostedUi
from localcloud.aws.logs_sink import LogSink
from localcloud.aws.prices import PricingApi
from localcloud.aws.quotas import QuotasApi
from localcloud.aws.reclaim import Reclaims
from localcloud.aws.user_pools import TARGET, UserPoolGuards
from localcloud.aws.volume_states import VolumeStates
from localcloud.node_link import NodeLauncher

log = logging.getLogger(__name__)

USER_TERMINATED = ("Client.UserInitiatedShutdown: User initiated shutdown", "Client.UserInitiatedShutdown")


class Cloud:
    """Everything, wired. Serves from construction on; `start` launches the first nodes, `close` ends it all."""

    def __init__(self, config: CloudConfig, launcher: NodeLauncher) -> None:
        self._config = config
        self._lock = threading.RLock()
        self._clock = Clock()
        self._moto: Application = moto_backend.application()
        self._fronts: dict[str, Application] = {}
        self._credentials = TaskCredentials(config.timing.credential_life)
        self._server = make_server(
            config.host, config.port, self, threaded=True, request_handler=moto_backend.RequestHandler
        )
        self.endpoint_url = f"http://{config.host}:{self._server.server_port}"
        self._serving = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="endpoint")
        self._serving.start()
        try:
            self._build(launcher)
        except BaseException:
            self._stop_serving()
            raise

    def __call__(self, environ: Environ, start: StartResponse) -> Iterable[bytes]:
        """The endpoint."""
        if refusal := self._credentials.refusal(environ):
            return refuse(environ, start, *refusal)
        return self._fronts.get(front_of(environ), self._moto)(environ, start)

    def start(self) -> None:
        """Launch the first nodes and begin to place jobs."""
        for _ in range(self._config.nodes_per_zone):
            for zone in self._config.zones:
                self.fleet.launch(zone, self._config.shape)
        self.engine.start()

    def close(self) -> None:
        """Power loss everywhere, devices let go, threads ended."""
        log.info("going down")
        self._reclaims.close()
        self.engine.close()
        self.fleet.close()
        self._clock.close()
        self._logs.shut()
        self.disks.detach_all()
        self._clients.close()
        self._stop_serving()
        log.info("gone")

    def _build(self, launcher: NodeLauncher) -> None:
        config, lock, clock = self._config, self._lock, self._clock
        self._clients = clients = Clients(self.endpoint_url, config.region)
        account = set_up(clients, config)
        ec2, pools = moto_backend.MotoEc2(config.region), moto_backend.MotoPools(config.region)
        self.disks = Disks(config.pool)
        conditions = self.conditions = EbsConditions(config.timing)
        states = VolumeStates(
            lock,
            clock,
            config.timing.device_poll,
            conditions,
            ec2,
            self.disks,
            lambda instance_id: self.fleet.init_pid(instance_id),
        )
        self.fleet = Fleet(lock, clock, config, clients, account, ec2, states, launcher, self._credentials)
        self._logs = LogSink(clients.logs)
        self.engine = Engine(lock, clock, config, self.endpoint_url, account.cluster_arn, self.fleet, self._logs)
        self.fleet.listen(self.engine)
        self._reclaims = Reclaims(lock, config, self.fleet, self.engine, states)
        self.quotas = QuotasApi(self._moto)
        self._fronts = {
            "_local": Endpoints(
                lock,
                config,
                self.endpoint_url,
                self.engine,
                self.fleet,
                self._reclaims,
                ec2,
                states,
                self.disks,
                self._credentials,
                EbsEndpoints(lock, conditions, states),
            ),
            "batch": BatchApi(self._moto, self.engine, clients.batch, config.region, config.timing.shortest_attempt),
            "ec2": Ec2Guards(self._moto, lock, ec2, states, conditions, config.zones, self._terminate),
            "pricing": PricingApi(),
            "servicequotas": self.quotas,
            "cognito-idp": UserPoolGuards(self._moto, pools),
            "_hosted": HostedUi(pools),
        }

    def _terminate(self, instance_ids: list[str]) -> list[str]:
        nodes = [instance_id for instance_id in instance_ids if self.fleet.node(instance_id)]
        for instance_id in nodes:
            self._clock.run(partial(self.fleet.end, instance_id, USER_TERMINATED))
        return nodes

    def _stop_serving(self) -> None:
        self._server.shutdown()
        self._serving.join()
        self._server.server_close()


def front_of(environ: Environ) -> str:
    """Who answers a request: a key of the cloud's fronts; anything else is moto's."""
    path = environ.get("PATH_INFO", "")
    if path.startswith(PREFIX):
        return "_local"
    if path.startswith(HOSTED):
        return "_hosted"
    # A sign-in is not signed: whoever signs in has no credentials yet.
    return "cognito-idp" if environ.get("HTTP_X_AMZ_TARGET", "").startswith(TARGET) else service_of(environ)


def load_launcher(config: CloudConfig) -> NodeLauncher:
    """The launcher that the configuration names as `module:attribute`. ImportError, AttributeError, ValueError."""
    module, _, attribute = config.launcher.partition(":")
    launcher: NodeLauncher = getattr(importlib.import_module(module), attribute)(config.launcher_options)
    return launcher


def main() -> int:
    """The process. Ends with 0 after SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="localcloud.aws.cloud", description="AWS for one local stack.")
    parser.add_argument("--config", type=Path, required=True)
    path: Path = parser.parse_args().config
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for chatty in ("botocore", "werkzeug"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        config = CloudConfig.model_validate_json(path.read_bytes())
        cloud = Cloud(config, load_launcher(config))
    except (OSError, ValueError, ValidationError, ImportError, AttributeError) as error:
        print(f"The local cloud cannot start with {path}: {error}", file=sys.stderr)
        return 2
    try:
        cloud.start()
        if config.ready_file is not None:
            _announce(config.ready_file, config, cloud.endpoint_url)
        log.info("serving %s", cloud.endpoint_url)
        stop.wait()
    finally:
        cloud.close()
    return 0


def _announce(path: Path, config: CloudConfig, endpoint_url: str) -> None:
    ready = {
        "pid": os.getpid(),
        "aws_endpoint_url": endpoint_url,
        "region": config.region,
        "queues": config.queues,
        "zones": config.zones,
    }
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(ready))
    partial.replace(path)


if __name__ == "__main__":
    garbage.keep_what_is_loaded()
    sys.exit(main())
