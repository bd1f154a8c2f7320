"""What the kernel thinks of each process when memory runs out (oom_score_adj), which a restore must bring back.

CRIU sets it only where it was not 0. Any other process would keep that of the programs that restore it: they are
children of containerd, which protects itself from the kernel (-999). A restored job would be the last that is ended on
a node without memory (tried with CRIU 4.2.1).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from worker_agent import proc
from worker_agent.engine import criu_image
from worker_agent.engine.signal_queues import CORE_MAGIC

_TASK, _SCORE = 3, 14
"""images/core.proto: core_entry.tc.oom_score_adj."""


def set_again(pids: Iterable[int], images: Path) -> None:
    """For these processes, restored from `images` and not running yet. ImageInvalid, OSError. Blocks."""
    for pid in pids:
        numbers = proc.status(pid).numbers
        if not numbers:
            continue
        data = (images / f"core-{numbers[-1]}.img").read_bytes()
        core = criu_image.parse(next(criu_image.entries(data, CORE_MAGIC), b""))
        if criu_image.number(criu_image.part(core, _TASK) or [], _SCORE) == 0:
            Path(f"/proc/{pid}/oom_score_adj").write_text("0")
