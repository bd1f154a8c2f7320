"""The instances that are nodes: launched, ready, noticed, gone. EC2 knows them as Spot instances with all that belongs
to one; the launcher makes the real thing; each has its metadata service."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from localcloud.aws.account import IMAGE_ID, Account, Clients
from localcloud.aws.clock import Clock
from localcloud.aws.cloud_config import CloudConfig, InstanceShape
from localcloud.aws.credentials import TaskCredentials
from localcloud.aws.imds import ROLE, Identity, MetadataService
from localcloud.aws.moto_backend import SPOT_TERMINATION, MotoEc2
from localcloud.aws.volume_states import VolumeStates
from localcloud.errors import Refused
from localcloud.node_link import NodeCommand, NodeEvent, NodeHandle, NodeLauncher, NodeSpec, Ready

log = logging.getLogger(__name__)

LAUNCHING, READY, NOTICED, GONE = "launching", "ready", "noticed", "gone"


@dataclass
class Node:
    """One instance. Changed under the cloud's lock only."""

    instance_id: str
    zone: str
    shape: InstanceShape
    imds: MetadataService
    container_instance_arn: str
    state: str = LAUNCHING
    handle: NodeHandle | None = None
    ended: bool = False
    """Its EC2 instance is terminated and its volumes are released."""


class Listener(Protocol):
    """Who hears of nodes: Batch. Called without the lock."""

    def node_event(self, instance_id: str, event: NodeEvent) -> None:
        """A container's news, while the node lives."""
        ...

    def host_died(self, instance_id: str) -> None:
        """The host is gone; told late, as AWS does."""
        ...

    def nodes_changed(self) -> None:
        """A node came or went."""
        ...


class Fleet:
    """All nodes of the stack, dead ones included. Methods are called without the lock unless they say otherwise."""

    def __init__(
        self,
        lock: threading.RLock,
        clock: Clock,
        config: CloudConfig,
        clients: Clients,
        account: Account,
        ec2: MotoEc2,
        states: VolumeStates,
        launcher: NodeLauncher,
        credentials: TaskCredentials,
    ) -> None:
        self._credentials = credentials
        self._lock, self._clock, self._config = lock, clock, config
        self._clients, self._account, self._ec2 = clients, account, ec2
        self._states, self._launcher = states, launcher
        self._nodes: dict[str, Node] = {}
        self._listener: Listener | None = None
        self._launch_not_before = 0.0
        self._closing = False

    def listen(self, listener: Listener) -> None:
        """Once, before the first launch."""
        self._listener = listener

    def nodes(self) -> list[Node]:
        """All, oldest first."""
        with self._lock:
            return list(self._nodes.values())

    def node(self, instance_id: str) -> Node | None:
        """One, dead or alive."""
        with self._lock:
            return self._nodes.get(instance_id)

    def init_pid(self, instance_id: str) -> int | None:
        """The host's pid of a living node's init."""
        with self._lock:
            node = self._nodes.get(instance_id)
            return node.handle.init_pid if node and node.handle and node.state in {READY, NOTICED} else None

    def may_launch(self) -> bool:
        """False for a while after a launch failed, and at the end."""
        return not self._closing and time.monotonic() >= self._launch_not_before

    def launch(self, zone: str, shape: InstanceShape) -> Node:
        """Run an instance; its node boots meanwhile and becomes `ready`. Refused while the stack goes down."""
        if self._closing:
            raise Refused(409, "The stack is going down: no node is launched any more.")
        instance = self._clients.ec2.run_instances(
            ImageId=IMAGE_ID,
            MinCount=1,
            MaxCount=1,
            InstanceType=shape.name,  # type: ignore[arg-type]
            SubnetId=self._account.subnets[zone],
            InstanceMarketOptions={"MarketType": "spot"},
            IamInstanceProfile={"Name": ROLE},
            TagSpecifications=[
                {"ResourceType": "instance", "Tags": [{"Key": "perdure-stack", "Value": self._config.stack}]}
            ],
        )["Instances"][0]
        instance_id = instance["InstanceId"]
        identity = Identity(instance_id, shape.name, zone, self._config.region, instance["PrivateIpAddress"], IMAGE_ID)
        registered = self._clients.ecs.register_container_instance(
            cluster=self._account.cluster_arn, instanceIdentityDocument=json.dumps({"instanceId": instance_id})
        )["containerInstance"]
        node = Node(
            instance_id,
            zone,
            shape,
            MetadataService(self._config.host, identity, self._credentials),
            registered["containerInstanceArn"],
        )
        with self._lock:
            self._nodes[instance_id] = node
            self._ec2.set_instance_state(instance_id, "pending")
        self._clock.run(lambda: self._boot(node))
        return node

    def send(self, instance_id: str, command: NodeCommand) -> None:
        """Tell a node. One that is gone hears nothing, and Batch learns of its end in its own time."""
        with self._lock:
            node = self._nodes.get(instance_id)
            handle = node.handle if node and node.state != GONE else None
        if handle is None:
            return
        try:
            handle.link.send(command)
        except OSError as error:
            log.warning("%s did not hear %s: %s", instance_id, command.do, error)

    def notice(self, instance_id: str) -> None:
        """The node has a notice: Batch places nothing more on it."""
        with self._lock:
            node = self._nodes[instance_id]
            if node.state == READY:
                node.state = NOTICED

    def end(self, instance_id: str, reason: tuple[str, str] = SPOT_TERMINATION) -> bool:
        """Power loss, now. Returns when every process of the node is dead and its devices are free; what follows
        (terminated, volumes released, Batch told) takes AWS's time. False when it was ending already."""
        with self._lock:
            node = self._nodes[instance_id]
            if node.state == GONE:
                return False
            node.state = GONE
            handle = node.handle
            self._ec2.set_instance_state(instance_id, "shutting-down", reason)
        log.info("power loss of %s (%s)", instance_id, reason[1])
        if handle is not None:
            try:
                self._kill(handle)
            except Exception:
                # AWS would take the instance away all the same: Batch must hear of it, or its jobs wait for ever.
                log.exception("%s did not end cleanly", instance_id)
        node.imds.close()
        if self._closing:
            return True
        timing = self._config.timing
        self._clock.after(timing.terminate, lambda: self._terminated(node, reason))
        self._clock.after(timing.late_host_notice, lambda: self._tell(lambda listener: listener.host_died(instance_id)))
        return True

    def close(self) -> None:
        """The stack goes down: every node loses its power."""
        self._closing = True
        threads = [threading.Thread(target=self.end, args=(node.instance_id,)) for node in self.nodes()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _boot(self, node: Node) -> None:
        spec = NodeSpec(
            instance_id=node.instance_id,
            zone=node.zone,
            region=self._config.region,
            instance_type=node.shape.name,
            vcpus=node.shape.vcpus,
            memory_mib=node.shape.memory_mib,
            imds_url=node.imds.url,
            aws_endpoint_url=self._clients.endpoint_url,
        )
        try:
            handle = self._launcher.launch(spec)
        except Exception:
            # Whatever the launcher's fault: the instance must not stay `launching`, with a job counting on it.
            log.exception("%s could not be launched", node.instance_id)
            self._launch_not_before = time.monotonic() + self._config.timing.launch_retry
            self.end(node.instance_id, ("Server.InternalError: Internal error on launch", "Server.InternalError"))
            self._clock.after(
                self._config.timing.launch_retry, lambda: self._tell(lambda listener: listener.nodes_changed())
            )
            return
        with self._lock:
            too_late = node.state == GONE
            if not too_late:
                node.handle = handle
        if too_late:
            self._kill(handle)
            return
        threading.Thread(target=self._listen_to, args=(node, handle), name=f"link-{node.instance_id}").start()

    def _listen_to(self, node: Node, handle: NodeHandle) -> None:
        try:
            for event in handle.link.events():
                self._hear(node, event)
        except Exception:
            log.exception("the link of %s is broken", node.instance_id)
        if self.end(node.instance_id, ("Server.InternalError: Internal error", "Server.InternalError")):
            log.error("the link of %s ended by itself: the host counts as dead", node.instance_id)

    def _hear(self, node: Node, event: NodeEvent) -> None:
        with self._lock:
            if node.state == GONE:
                return  # what it says while it dies was never said
            if isinstance(event, Ready) and node.state == LAUNCHING:
                node.state = READY
                self._ec2.set_instance_state(node.instance_id, "running")
        if isinstance(event, Ready):
            log.info("%s is ready in %s", node.instance_id, node.zone)
            self._tell(lambda listener: listener.nodes_changed())
        else:
            self._tell(lambda listener: listener.node_event(node.instance_id, event))

    def _kill(self, handle: NodeHandle) -> None:
        instance_id = handle.instance_id
        self._launcher.power_loss(handle, lambda: self._states.cut_power(instance_id))
        handle.link.close()
        self._states.free_devices(instance_id)
        self._launcher.sweep(handle)

    def _terminated(self, node: Node, reason: tuple[str, str]) -> None:
        with self._lock:
            self._ec2.terminate(node.instance_id, reason)
        self._clients.ecs.deregister_container_instance(
            cluster=self._account.cluster_arn, containerInstance=node.container_instance_arn, force=True
        )
        self._states.instance_died(node.instance_id, lambda: self._ended(node))
        self._tell(lambda listener: listener.nodes_changed())

    def _ended(self, node: Node) -> None:
        with self._lock:
            node.ended = True

    def _tell(self, message: Callable[[Listener], None]) -> None:
        if self._listener is not None and not self._closing:
            message(self._listener)
