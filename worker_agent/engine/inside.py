"""Folders below a root that a job may write to, opened part by part: what the job made must lead us nowhere else."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def folder_of(top: str | Path, path: str) -> Iterator[int]:
    """The folder of a path below `top`. FileNotFoundError if it is gone."""
    with nearest(top, path) as (folder, missing):
        if missing:
            raise FileNotFoundError(f"{path}: its folder is gone")
        yield folder


@contextlib.contextmanager
def nearest(top: str | Path, path: str) -> Iterator[tuple[int, list[str]]]:
    """The folder of a path below `top`, or the nearest above it that is there, and what is missing."""
    folder = os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    parts = [part for part in os.path.dirname(path).split("/") if part]
    try:
        while parts:
            try:
                deeper = os.open(parts[0], os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            except FileNotFoundError:
                break
            os.close(folder)
            folder = deeper
            parts.pop(0)
        yield folder, parts
    finally:
        os.close(folder)
