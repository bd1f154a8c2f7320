"""169.254.170.2 on a node: where containers find ECS's task metadata and credentials.

As ECS's own init does on an instance (there with iptables, to the ECS agent's port; amazon-ecs-init): requests of the
host's network and of bridged containers are led to the process that answers, here the node's metadata service.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from localcloud.linux import run

ADDRESS = "169.254.170.2"
_RULES = """
add table ip ecs
delete table ip ecs
table ip ecs {
    chain output { type nat hook output priority -100; ip daddr ADDRESS tcp dport 80 dnat to SERVICE; }
    chain prerouting { type nat hook prerouting priority -100; ip daddr ADDRESS tcp dport 80 dnat to SERVICE; }
}
"""


def lead_to(metadata_url: str) -> None:
    """Lead the address to the metadata service, in the calling process's network. Idempotent. Raises CommandFailed."""
    service = urlsplit(metadata_url).netloc
    run(["nft", "-f", "-"], stdin=_RULES.replace("ADDRESS", ADDRESS).replace("SERVICE", service))
