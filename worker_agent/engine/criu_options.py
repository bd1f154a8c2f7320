"""The options file of one container, given to CRIU by the annotation `org.criu.config`: nothing global is written.

Dump and restore want different contents, so it is written before each operation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

GHOST_LIMIT = 1 << 30
"""Files that are open but deleted are kept in the image up to this size (bytes); CRIU's default is 1 MiB."""
_ALWAYS = (
    # Works without an iptables binary, which the default needs as soon as a connection leaves the machine.
    "network-lock nftables",
)


def write_options(
    path: Path,
    *,
    restore: bool,
    cgroup_root: str = "",
    cgroup_folders: Mapping[str, str] | None = None,
    watched: Iterable[str] = (),
) -> None:
    """Write the file for a dump or a restore.

    `watched`: paths inside the container under which a dump finds watched files again (plain characters only).

    A restore leaves the processes stopped until the container is started. On cgroup version 2 `cgroup_root` brings
    them into the new container's cgroup; without it they land, unlimited, in the old one. On version 1
    `cgroup_folders` are what the container sees of its cgroup (cgroup_view.py).
    """
    lines = [f"ghost-limit {GHOST_LIMIT}", *_ALWAYS, *(f"irmap-scan-path {watched_path}" for watched_path in watched)]
    if restore:
        lines.append("leave-stopped")
        if cgroup_root:
            lines.append(f"cgroup-root {cgroup_root}")
        lines += [f"external mnt[{place}]:{folder}" for place, folder in (cgroup_folders or {}).items()]
    else:
        # For files on a tmpfs that lost their names (lost_names.py). Elsewhere they have one again by then.
        lines.append("link-remap")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.write_text("\n".join(lines) + "\n")
