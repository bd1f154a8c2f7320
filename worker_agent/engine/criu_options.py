"""The options file of one container, given to CRIU by the annotation `org.criu.config`: nothing global is written.

Dump and restore want different contents, so it is written before each operation.
"""

from __future__ import annotations

from pathlib import Path

_ALWAYS = (
    # Files that are open but deleted are kept in the image up to this size (bytes); by default 1 MiB.
    "ghost-limit 1073741824",
    # An open file that lost its name but has others is given a temporary name in the image's tree.
    "link-remap",
    # Works without an iptables binary, which the default needs as soon as a connection leaves the machine.
    "network-lock nftables",
)


def write_options(path: Path, *, restore: bool, cgroup_root: str = "") -> None:
    """Write the file for a dump or a restore.

    A restore leaves the processes stopped until the container is started. On cgroup version 2 `cgroup_root` brings
    them into the new container's cgroup; without it they land, unlimited, in the old one.
    """
    lines = list(_ALWAYS)
    if restore:
        lines.append("leave-stopped")
        if cgroup_root:
            lines.append(f"cgroup-root {cgroup_root}")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.write_text("\n".join(lines) + "\n")
