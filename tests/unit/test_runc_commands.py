"""runc's commands, against a program that answers as runc does."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure.domain.errors import CommandFailed
from worker_agent.engine import Container, Tools, runc

_RUNC = """#!/bin/sh
echo x >>{calls}
[ $(wc -l <{calls}) -gt {failures} ] || {{ echo 'level=error msg="{words}"' >&2; exit 1; }}
"""


def container(folder: Path, failures: int, words: str) -> Container:
    """Its runc fails the first few times."""
    program = folder / "runc"
    program.write_text(_RUNC.format(calls=folder / "calls", failures=failures, words=words))
    program.chmod(0o755)
    tools = Tools(criu=folder / "criu", path_first=folder, runc=str(program))
    return Container(
        id="abc",
        bundle=folder,
        runc_root="",
        job_root=folder,
        work_dir=folder,
        keeper_socket=folder,
        rootfs=folder,
        lower_layers=(),
        tools=tools,
    )


def calls(folder: Path) -> int:
    return len((folder / "calls").read_text().splitlines())


async def test_a_cgroup_that_does_not_freeze_at_once_is_frozen_again(tmp_path: Path) -> None:
    await runc.pause(container(tmp_path, 2, "unable to freeze"))
    assert calls(tmp_path) == 3


async def test_it_is_not_tried_for_ever_and_nothing_else_is_tried_again(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="unable to freeze"):
        await runc.pause(container(tmp_path, 9, "unable to freeze"))
    assert calls(tmp_path) == 3
    (tmp_path / "calls").unlink()
    with pytest.raises(CommandFailed, match="not running"):
        await runc.pause(container(tmp_path, 9, "container not running"))
    assert calls(tmp_path) == 1
