"""`python -m localcloud.nodes.inside --config FILE --link-fd N`: the init (pid 1) of a node.

Standard input is the plug: one line on it says that the network is there. End of file on the link says that the cloud
is gone; the node then ends, and with its init the kernel ends everything in it.
"""

from __future__ import annotations

from perdure import garbage

if __name__ == "__main__":
    garbage.none_while_loading()

import argparse
import logging
import socket
import sys
import threading
from pathlib import Path

from localcloud.cgroups import Cgroup
from localcloud.node_link import Link, Ready
from localcloud.nodes.images.catalogue import Catalogue
from localcloud.nodes.inside.agent import agent_program, keep_running, wait_until_it_listens
from localcloud.nodes.inside.children import Children
from localcloud.nodes.inside.configuration import NodeConfiguration
from localcloud.nodes.inside.ecs import EcsAgent
from localcloud.nodes.inside.engine import ContainerEngine
from localcloud.nodes.inside.machine import OWN, furnish
from localcloud.nodes.inside.runc_engine import RuncEngine
from localcloud.nodes.inside.task_endpoint import lead_to

AGENT_LIMIT_SECONDS = 90.0
"""systemd's usual time-out of a unit's start (TimeoutStartSec): so long ECS's unit waits for the agent's."""


def main() -> None:
    """Boot, then serve the cloud until it is gone."""
    parser = argparse.ArgumentParser(prog="localcloud.nodes.inside")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--link-fd", type=int, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(threadName)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each request
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
    lead_to(configuration.environment["PERDURE_METADATA_URL"])
    containers = Cgroup.at(configuration.cgroup).below("containers")
    make_engine = _docker if configuration.engine == "docker" else _runc
    engine = make_engine(configuration, children, containers)
    ecs = EcsAgent(engine, link.send)
    ecs.switch_on_signals()
    if configuration.with_agent:
        failures = keep_running("agent", children, agent_program(), configuration.environment, configuration.agent_log)
        # As the agent's unit is ordered before ECS's; and as there, a broken agent does not keep ECS from starting.
        if not wait_until_it_listens(AGENT_LIMIT_SECONDS, failures):
            logging.warning("the agent does not listen; jobs will run unprotected")
    engine.wait_until_ready()
    ecs.tell(Ready())
    ecs.serve(link.commands())
    logging.info("the cloud is gone; this node ends")
    ecs.end_all()


def _runc(configuration: NodeConfiguration, children: Children, cgroup: Cgroup) -> ContainerEngine:
    return RuncEngine(
        children=children,
        runtime=configuration.runtime,
        runtime_root=Path("/run/runc"),
        folder=OWN / "docker",
        images=Catalogue(configuration.images_folder),
        cgroup=cgroup,
        host_name=configuration.host_name,
        environment=configuration.environment,
    )


def _docker(configuration: NodeConfiguration, children: Children, cgroup: Cgroup) -> ContainerEngine:
    """Start the node's dockerd, which takes a second to serve."""
    from localcloud.nodes.inside.docker.api import DockerApi
    from localcloud.nodes.inside.docker.container import DockerEngine
    from localcloud.nodes.inside.docker.daemon import DATA, SOCKET, dockerd_command, write_settings
    from localcloud.nodes.inside.docker.images import NodeImages

    write_settings()
    programs = configuration.docker
    environment = {**configuration.environment, **({"PATH": programs.path} if programs.path else {})}
    command = dockerd_command(programs, configuration.runtime, cgroup.path)
    keep_running("dockerd", children, command, environment, configuration.agent_log.with_name("dockerd.log"))
    api = DockerApi(SOCKET)
    catalogue = Catalogue(configuration.images_folder)
    return DockerEngine(api, NodeImages(api, DATA), catalogue, OWN / "docker", cgroup)


if __name__ == "__main__":
    garbage.keep_what_is_loaded()
    main()
