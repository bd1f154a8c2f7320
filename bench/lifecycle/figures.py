"""Where and with what something was measured, and percentiles."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sysconfig

import psutil
import temporalio

from bench.lifecycle.agents import instant


def percentile(values: list[float], share: float) -> float:
    """The nearest-rank percentile; NaN without values."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))] if ranked else float("nan")


def machine(in_memory: bool) -> str:
    """The machine, the versions and its load now."""
    program = shutil.which("temporal", path=sysconfig.get_path("scripts")) or "temporal"
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    storage = "in memory" if in_memory else "SQLite file, WAL, synchronous=NORMAL"
    return (
        f"{instant():%Y-%m-%d}, {os.cpu_count()} CPUs, {psutil.virtual_memory().total / 1e9:.0f} GB, "
        f"Linux {platform.release()}, Python {platform.python_version()}, temporalio {temporalio.__version__}, "
        f"{version}; Temporal's storage: {storage}; load when begun {os.getloadavg()[0]:.1f}"
    )
