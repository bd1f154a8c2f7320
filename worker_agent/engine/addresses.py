"""Borrowing a dead node's addresses for the moment of a restore.

A socket that is bound to the old node's address cannot be restored here ("Cannot assign requested address"), and
closing all connections instead would take the loopback ones too, which many jobs need. So the address is put on the
loopback device while CRIU works; then the connections on it are cut and it goes away again (facts by trial).
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
from collections.abc import Iterable

from perdure.domain.errors import CommandFailed, ImageInvalid
from worker_agent.engine.commands import run

_LIMIT = 15.0


async def borrow(addresses: Iterable[str]) -> None:
    """Put those that this node does not have on its loopback device. Idempotent."""
    own = await _own()
    for address in _checked(addresses):
        if address not in own:
            await run(["ip", "address", "replace", _with_length(address), "dev", "lo"], limit_seconds=_LIMIT)


async def give_back(addresses: Iterable[str]) -> None:
    """Cut the connections on borrowed addresses and take these off again. An address of the node's own stays."""
    borrowed = await _own(device="lo")
    for address in _checked(addresses):
        if address in borrowed:
            end = ["ss", "--kill", "--tcp", "--udp", "--all", "--no-header", "src", f"[{address}]"]
            await run(end, limit_seconds=_LIMIT)
            with contextlib.suppress(CommandFailed):  # another job's restore may have been quicker
                await run(["ip", "address", "delete", _with_length(address), "dev", "lo"], limit_seconds=_LIMIT)


async def _own(device: str = "") -> set[str]:
    where = ["dev", device] if device else []
    listed = json.loads(await run(["ip", "-json", "address", "show", *where], limit_seconds=_LIMIT))
    return {item["local"] for link in listed for item in link.get("addr_info", [])}


def _with_length(address: str) -> str:
    return f"{address}/{ipaddress.ip_address(address).max_prefixlen}"


def _checked(addresses: Iterable[str]) -> list[str]:
    try:
        return [str(ipaddress.ip_address(address)) for address in addresses]
    except ValueError as error:
        raise ImageInvalid(f"the manifest names an unusable address: {error}") from error
