"""What is left of a rehearsal, for tests: looked for in another way than the agent does it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from tests.cgroups import cgroups_below
from worker_agent.rehearse.spec import CGROUPS, FOLDER


def left_of(job_root: Path, *container_ids: str) -> list[str]:
    """In words, whatever is there of a rehearsal of this job: on the disk, in cgroups, and as a process."""
    folder = job_root / FOLDER
    found = [str(path) for path in sorted(folder.rglob("*"))[:20]] + [str(folder)] if folder.exists() else []
    for container_id in container_ids:
        found += map(str, cgroups_below(f"/{CGROUPS}/{container_id}"))
    return found + [_words(process) for process in Path("/proc").glob("[0-9]*") if _is_its(process, str(folder))]


def _is_its(process: Path, folder: str) -> bool:
    for table in ("mountinfo", "cmdline"):
        with contextlib.suppress(OSError):
            if f"{folder}/" in (process / table).read_text("utf-8", "replace"):
                return True
    return False


def _words(process: Path) -> str:
    """Which it is, and for what it waits: its state, its priority, where in the kernel it stands."""
    known = {}
    for name in ("comm", "stat", "wchan", "cmdline"):
        with contextlib.suppress(OSError):
            known[name] = (process / name).read_text("utf-8", "replace").replace("\0", " ").strip()
    return f"process {process.name}: {known}"
