"""Programs of users other than root, which only a machine with all capabilities can restore."""

from __future__ import annotations

import asyncio

from tests.patience import PATIENCE
from tests.vm.inside.bed import Scene


def postgresql() -> dict[str, object]:
    """A database server and its client, killed and restored elsewhere while they work."""
    return asyncio.run(_postgresql())


async def _postgresql() -> dict[str, object]:
    command = ["/usr/bin/python3", "/jobs/postgresql.py", "/data", "30", "/data/gate"]
    scene = Scene(command, user={"uid": 105, "gid": 105})
    first = await scene.fresh()
    scene.go_on(first, 10)
    await scene.checkpoint(first)
    scene.go_on(first, 15)
    manifest = await scene.checkpoint(first)
    assert manifest.after_full == 1 and any(name.endswith("postgres") for name in manifest.processes)
    scene.go_on(first, 20)
    scene.die(first)
    second = await scene.restored(manifest.number)
    scene.go_on(second, 30)
    return {"exit code": second.exit_code(PATIENCE), "lines": second.log().decode().splitlines()}
