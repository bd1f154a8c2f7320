"""`python -m localcloud.node --config FILE --link-fd N`: the init (pid 1) of a node.

Standard input is the plug: one line on it says that the network is there. End of file on the link says that the cloud
is gone; the node then ends, and with its init the kernel ends everything in it.
"""

from __future__ import annotations

import argparse
import logging
import socket
import sys
import threading
from pathlib import Path

from localcloud.cgroups import Cgroup
from localcloud.node.agent import agent_program, keep_running, wait_until_it_listens
from localcloud.node.children import Children
from localcloud.node.configuration import NodeConfiguration
from localcloud.node.containers import Dockerd
from localcloud.node.ecs import EcsAgent
from localcloud.node.machine import LAYERS, OWN, furnish
from localcloud.node_link import Link, Ready

AGENT_LIMIT_SECONDS = 30.0


def main() -> None:
    """Boot, then serve the cloud until it is gone."""
    parser = argparse.ArgumentParser(prog="localcloud.node")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--link-fd", type=int, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(threadName)s: %(message)s")
    configuration = NodeConfiguration.model_validate_json(arguments.config.read_text())
    link = Link(socket.socket(fileno=arguments.link_fd))
    children = Children()
    threading.Thread(target=children.reap_forever, name="reaper", daemon=True).start()
    furnish(
        state_folder=configuration.folder / "state",
        docker_folder=configuration.folder / "docker",
        mask_folder=configuration.mask_folder,
        host_name=configuration.host_name,
        stacks=configuration.stacks_folder,
    )
    if not sys.stdin.readline():
        return  # unplugged before it was up
    dockerd = Dockerd(
        children=children,
        runtime=configuration.runtime,
        runtime_root=Path("/run/runc"),
        folder=OWN / "docker",
        layers=LAYERS,
        cgroup=Cgroup.at(configuration.cgroup).below("containers"),
        host_name=configuration.host_name,
        environment=configuration.environment,
    )
    ecs = EcsAgent(dockerd, link.send)
    if configuration.with_agent:
        keep_running(children, agent_program(), configuration.environment, configuration.agent_log)
        # As the agent's unit is ordered before ECS's; and as there, a broken agent does not keep ECS from starting.
        if not wait_until_it_listens(AGENT_LIMIT_SECONDS):
            logging.warning("the agent does not listen; jobs will run unprotected")
    ecs.tell(Ready())
    ecs.serve(link.commands())
    logging.info("the cloud is gone; this node ends")
    ecs.end_all()


if __name__ == "__main__":
    main()
