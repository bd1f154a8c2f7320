"""Checkpoint and restore of one container, as visible ordered lists of steps over runc and CRIU.

Start with `checkpoint.py` and `restore.py`; the agent uses what is named here.
"""

from perdure.image.files import TREES
from worker_agent.engine.checkpoint import Taking, take_checkpoint
from worker_agent.engine.cold_blocks import fetch
from worker_agent.engine.container import Container, Identity, Tools
from worker_agent.engine.criu_log import keep as keep_log
from worker_agent.engine.criu_log import restore_failure
from worker_agent.engine.gpu import GpuTools
from worker_agent.engine.job_root import (
    check_lease,
    claim_lease,
    committed,
    ensure_layout,
    free_bytes,
    keep_reserve,
    locked,
    number_from,
    offered,
    read_checkpoint,
    read_head,
    sweep,
    used_rootfs_bytes,
    verify_pages,
)
from worker_agent.engine.leavings import clean, end_frozen, flush, release, thaw, thaw_and_clean
from worker_agent.engine.machine import check_criu, cpu_features
from worker_agent.engine.overlay import OverlayMount, find_overlay
from worker_agent.engine.page_sink import SparePageSinks
from worker_agent.engine.quiet_continue import continue_restored
from worker_agent.engine.restore import (
    Prepared,
    finish_restore,
    name_taken_port,
    prepare_fresh,
    prepare_restore,
    return_gpus,
)
from worker_agent.engine.writable_layer import give_back, is_in_place, leave_files, show_volumes
from worker_agent.freezer import Freezer

__all__ = [
    "TREES",
    "Container",
    "Freezer",
    "GpuTools",
    "Identity",
    "OverlayMount",
    "Prepared",
    "SparePageSinks",
    "Taking",
    "Tools",
    "check_criu",
    "check_lease",
    "claim_lease",
    "clean",
    "committed",
    "continue_restored",
    "cpu_features",
    "end_frozen",
    "ensure_layout",
    "fetch",
    "find_overlay",
    "finish_restore",
    "flush",
    "free_bytes",
    "give_back",
    "is_in_place",
    "keep_log",
    "keep_reserve",
    "leave_files",
    "locked",
    "name_taken_port",
    "number_from",
    "offered",
    "prepare_fresh",
    "prepare_restore",
    "read_checkpoint",
    "read_head",
    "release",
    "restore_failure",
    "return_gpus",
    "show_volumes",
    "sweep",
    "take_checkpoint",
    "thaw",
    "thaw_and_clean",
    "used_rootfs_bytes",
    "verify_pages",
]
