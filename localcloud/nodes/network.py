"""A stack's network: one bridge with the subnet 10.77.<n>.0/24, one veth pair for each node.

The bridge has the address 10.77.<n>.1: there host and nodes reach Temporal, the AWS endpoint and the metadata services.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from localcloud.linux import run
from perdure.domain.errors import CommandFailed, StackError

FIRST_NODE, LAST_NODE = 10, 250


@dataclass(frozen=True)
class Subnet:
    """10.77.<number>.0/24 and the names made from it (an interface name has at most 15 characters)."""

    number: int

    @property
    def bridge(self) -> str:
        """Name of the bridge."""
        return f"perdure{self.number}"

    @property
    def gateway(self) -> str:
        """The bridge's address."""
        return self.address(1)

    def address(self, host: int) -> str:
        """Address of a node."""
        return f"10.77.{self.number}.{host}"

    def port_name(self, host: int) -> str:
        """The host's end of a node's veth pair."""
        return f"pd{self.number}-{host}"


def make_bridge(mark: str) -> Subnet:
    """A bridge on the first free subnet, with `mark` as its alias. Raises StackError when none is free."""
    routes = {
        route.get("dst", "") for route in json.loads(run(["ip", "-json", "route", "show", "table", "all"]) or "[]")
    }
    for number in range(1, 255):
        subnet = Subnet(number)
        if f"10.77.{number}.0/24" in routes:
            continue
        try:
            # Making the link is the claim: of two stacks that start at once, one is told that it exists.
            run(["ip", "link", "add", subnet.bridge, "address", _own_address(number), "type", "bridge"])
        except CommandFailed as problem:
            if "exists" in problem.stderr:
                continue
            raise StackError(f"no network bridge can be made here: {problem.stderr.strip()}") from None
        run(["ip", "link", "set", subnet.bridge, "alias", mark])
        run(["ip", "address", "add", f"{subnet.gateway}/24", "dev", subnet.bridge])
        run(["ip", "link", "set", subnet.bridge, "up"])
        return subnet
    raise StackError(
        "all subnets 10.77.1.0 to 10.77.254.0 are taken; stop a stack with `perdure local down --stack NAME`"
    )


def _own_address(number: int) -> str:
    """Of the bridge's link. One that is given stays; else a bridge takes the lowest of its ports', and each node that
    comes or goes may change it. The other nodes then go on with the one they know, and reach nobody for up to 36 s
    (tried; Linux 6.18)."""
    return f"02:00:0a:4d:{number:02x}:01"  # bit 1 of the first byte: locally administered (IEEE 802)


def bridges_of(mark: str) -> list[str]:
    """Names of the bridges that carry the mark."""
    links = json.loads(run(["ip", "-json", "link", "show", "type", "bridge"]) or "[]")
    return [link["ifname"] for link in links if link.get("ifalias") == mark]


def remove_bridge(bridge: str) -> None:
    """Remove a bridge and the host's ends of the veth pairs plugged into it. Idempotent."""
    for link in json.loads(run(["ip", "-json", "link", "show", "type", "veth"]) or "[]"):
        if link.get("master") == bridge:
            remove_link(link["ifname"])
    remove_link(bridge)


def plug_in(subnet: Subnet, host: int, init_pid: int) -> None:
    """Give the network namespace of `init_pid` lo and eth0 with the node's address; default route over the bridge."""
    run(["ip", "link", "add", subnet.port_name(host), "type", "veth", "peer", "name", "eth0", "netns", str(init_pid)])
    run(["ip", "link", "set", subnet.port_name(host), "master", subnet.bridge, "up"])
    commands = (
        "link set lo up\n"
        f"address add {subnet.address(host)}/24 dev eth0\n"
        "link set eth0 up\n"
        f"route add default via {subnet.gateway}\n"
    )
    run(["nsenter", f"--net=/proc/{init_pid}/ns/net", "ip", "-batch", "-"], stdin=commands)


def remove_link(name: str) -> None:
    """Remove a network link; its peer goes with it. Idempotent."""
    try:
        run(["ip", "link", "delete", name])
    except CommandFailed as problem:
        if "Cannot find device" not in problem.stderr:
            raise
