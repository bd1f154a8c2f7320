"""The engine on a kernel that has cgroup version 2 alone."""

from __future__ import annotations

import asyncio

from tests.integration.engine_bed import freezer_of
from tests.vm.inside.bed import KNOBS, Scene, limits, members, pages, status, uninterrupted, written


def moved(user: dict[str, object] | None = None) -> dict[str, object]:
    """A checkpoint, some more work, death, a restore under another cgroup path, the end."""
    return asyncio.run(_moved(user))


async def _moved(user: dict[str, object] | None) -> dict[str, object]:
    scene = Scene(pages(8, 30), user=user)
    first = await scene.fresh()
    scene.go_on(first, 10)
    before = limits(first), status(first.container.init_pid, "Uid", "Gid", "Groups")
    manifest = await scene.checkpoint(first)
    assert not freezer_of(first).frozen()
    scene.go_on(first, 15)
    scene.die(first)
    second = await scene.restored(manifest.number)
    old, new = freezer_of(first).path, freezer_of(second).path
    pid = second.container.init_pid
    assert new.name == second.container.id, new
    assert old != new and members(old) == [] and pid in members(new), (members(old), members(new))
    after = limits(second), status(pid, "Uid", "Gid", "Groups")
    scene.go_on(second, 20)
    again = await scene.checkpoint(second)
    assert again.number > manifest.number and again.parent is None
    scene.go_on(second, 30)
    assert second.exit_code(120) == 0
    return {
        "limits": [dict(zip(KNOBS, one[0].values(), strict=True)) for one in (before, after)],
        "users": [before[1], after[1]],
        "same": written(second) == uninterrupted(pages(8, 30)),
        "first line": second.log().splitlines()[0].decode(),
    }
