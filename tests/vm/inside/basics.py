"""What this kernel is."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.integration.engine_bed import TOOLS
from worker_agent.engine import Freezer


def facts() -> dict[str, object]:
    """Kernel, hierarchy, CRIU's view of soft-dirty."""
    done = subprocess.run(
        [TOOLS.criu, "check", "--feature", "mem_dirty_track"], capture_output=True, text=True, check=False
    )
    return {
        "kernel": os.uname().release,
        "unified": Freezer.of_process(os.getpid()).unified,
        "mounts": [line.split()[2] for line in Path("/proc/mounts").read_text().splitlines() if "cgroup" in line],
        "soft_dirty": done.returncode == 0,
    }
