"""The OCI bundle of a container, as Docker would make it for a simple ECS task on the host's network.

The root file system is an overlay over the layers of its image (localcloud/nodes/inside/roots.py). Those of the
machine's own root are the mask (opaque empty folders where a job must not see the machine's), then `/` bound read-only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from localcloud.linux import mount
from localcloud.node_link import Task
from localcloud.nodes.inside.roots import Root
from perdure.domain.errors import ConfigurationInvalid

MASKED_FOLDERS = {
    "home": 0o755,
    "root": 0o700,
    "run": 0o755,
    "tmp": 0o1777,
    "var/tmp": 0o1777,
    "var/lib/perdure": 0o700,
    "var/lib/perdure-local": 0o700,
}
"""Folders of the machine that a container sees empty, with their modes."""

INIT = "/sbin/docker-init"
"""Where Docker binds the init of a container that wants one."""
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Docker's default set (moby, oci/caps/defaults.go).
_CAPABILITIES = [
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
    "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
]  # fmt: skip
# `privileged` adds these; not CAP_SYS_RESOURCE and younger ones, which a machine may not have to give.
_PRIVILEGED = [
    "CAP_DAC_READ_SEARCH", "CAP_LINUX_IMMUTABLE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_IPC_LOCK", "CAP_IPC_OWNER",
    "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT",
    "CAP_SYS_NICE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_LEASE", "CAP_AUDIT_CONTROL", "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN", "CAP_SYSLOG",
]  # fmt: skip
# moby, oci/defaults.go
_MASKED_PATHS = [
    "/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
]  # fmt: skip
_READONLY_PATHS = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
_DEVICES: list[dict[str, Any]] = [
    {"allow": False, "access": "rwm"},
    *(
        {"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"}
        for major, minor in ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2))
    ),
    {"allow": True, "type": "c", "major": 136, "access": "rwm"},
]
_FRESH_MOUNTS: list[dict[str, Any]] = [
    {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
    {
        "destination": "/dev",
        "type": "tmpfs",
        "source": "tmpfs",
        "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
    },
    {
        "destination": "/dev/pts",
        "type": "devpts",
        "source": "devpts",
        "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    },
    {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
    {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
]


def make_mask_layer(folder: Path, also: tuple[str, ...] = ()) -> None:
    """Fill `folder` (not on the file system of `/`: overlayfs refuses a lower layer inside another) with the masks.

    `also`: more absolute folders to hide. Needs a file system with trusted extended attributes. Idempotent.
    """
    masks = {Path(name): mode for name, mode in MASKED_FOLDERS.items()}
    for path in (Path(path.lstrip("/")) for path in also):
        if not any(path.is_relative_to(mask) for mask in masks):
            masks[path] = 0o700
    for path, mode in masks.items():
        mask = folder / path
        mask.mkdir(parents=True, exist_ok=True)
        mask.chmod(mode)
        os.setxattr(mask, "trusted.overlay.opaque", b"y")


def make_bundle(folder: Path, task: Task, *, root: Root, cgroup: str, host_name: str) -> None:
    """Make the bundle in `folder`: config.json and the mounted rootfs, upper layer beside it.

    Raises ConfigurationInvalid for a task that cannot be a container, OSError when the mount fails.
    """
    config = container_config(task, users=root.users, cgroup=cgroup, host_name=host_name)
    for name in ("rootfs", "upper", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    make_sources(task)
    lower = ":".join(str(layer.folder) for layer in root.layers)
    mount("overlay", folder / "rootfs", "overlay", 0, f"lowerdir={lower},upperdir={folder}/upper,workdir={folder}/work")
    (folder / "config.json").write_text(json.dumps(config, indent=1))


def make_sources(task: Task) -> None:
    """Docker makes a missing source folder of a mount; so does ECS with a host volume. Raises OSError."""
    for wanted in task.mounts:
        if not Path(wanted.source).exists():
            Path(wanted.source).mkdir(parents=True)


def container_config(task: Task, *, cgroup: str, host_name: str, users: Path = Path("/etc/passwd")) -> dict[str, Any]:
    """config.json for the task. Its command and environment go in as they are: they are data here, never shell words.

    Raises ConfigurationInvalid for a NUL byte, an empty command or an unknown user.
    """
    refuse_unusable(task)
    capabilities = _CAPABILITIES + (_PRIVILEGED if task.privileged else [])
    uid, gid = _user(task.user, users)
    held = capabilities if uid == 0 else []
    return {
        "ociVersion": "1.0.2",
        "process": {
            **({"rlimits": _limits(task)} if task.options.ulimits else {}),
            "terminal": False,
            "user": {"uid": uid, "gid": gid},
            "args": [*([INIT, "--"] if task.options.init else []), *task.command],
            "env": _environment(task.environment, host_name),
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": held, "permitted": held},
            "noNewPrivileges": False,
        },
        "root": {"path": "rootfs", "readonly": task.options.read_only_root},
        "hostname": host_name,
        "mounts": [*_FRESH_MOUNTS, *_in_memory(task), *_init(task), *_binds(task)],
        "annotations": {"perdure.shared-mounts": json.dumps([wanted.destination for wanted in task.mounts])},
        "linux": {
            "cgroupsPath": cgroup,
            # No network namespace: a simple ECS job on EC2 shares its host's.
            "namespaces": [{"type": kind} for kind in ("mount", "uts", "ipc", "pid")],
            "resources": {
                "devices": [{"allow": True, "access": "rwm"}] if task.privileged else _DEVICES,
                "memory": {"limit": task.memory_mib << 20},
                "cpu": {"shares": max(2, round(task.vcpus * 1024))},
            },
            "maskedPaths": [] if task.privileged else _MASKED_PATHS,
            "readonlyPaths": [] if task.privileged else _READONLY_PATHS,
        },
    }


def _in_memory(task: Task) -> list[dict[str, Any]]:
    """/dev/shm (Docker's 64 MiB if not said otherwise), and what the task asks for."""
    wanted = [("/dev/shm", task.options.shared_memory_mib, ["mode=1777"])]
    wanted += [(one.destination, one.size_mib, one.options) for one in task.options.tmpfs]
    return [
        {
            "destination": destination,
            "type": "tmpfs",
            "source": "shm" if destination == "/dev/shm" else "tmpfs",
            "options": ["nosuid", "noexec", "nodev", *more, f"size={size << 20}"],
        }
        for destination, size, more in wanted
    ]


def _init(task: Task) -> list[dict[str, Any]]:
    if not task.options.init:
        return []
    return [{"destination": INIT, "type": "bind", "source": "/usr/bin/tini-static", "options": ["bind", "ro"]}]


def _limits(task: Task) -> list[dict[str, Any]]:
    return [{"type": f"RLIMIT_{one.name.upper()}", "soft": one.soft, "hard": one.hard} for one in task.options.ulimits]


def _binds(task: Task) -> list[dict[str, Any]]:
    return [
        {
            "destination": wanted.destination,
            "type": "bind",
            "source": wanted.source,
            "options": ["rbind", "rprivate", "ro" if wanted.read_only else "rw"],
        }
        for wanted in task.mounts
    ]


def _environment(given: Mapping[str, str], host_name: str) -> list[str]:
    merged = {"PATH": DEFAULT_PATH, "HOSTNAME": host_name, **given}
    return [f"{name}={value}" for name, value in merged.items()]


def refuse_unusable(task: Task) -> None:
    """Raises ConfigurationInvalid for what no container can be made of."""
    words = [*task.command, *task.environment, *task.environment.values()]
    words += [path for wanted in task.mounts for path in (wanted.source, wanted.destination)]
    if any("\0" in word for word in words):
        raise ConfigurationInvalid("a command, variable or mount holds a NUL byte; remove it")
    if not task.command:
        raise ConfigurationInvalid("the command is empty; say what to run")
    if any("=" in name or not name for name in task.environment):
        raise ConfigurationInvalid("a variable's name is empty or holds '='; rename it")
    if not all(Path(path).is_absolute() for wanted in task.mounts for path in (wanted.source, wanted.destination)):
        raise ConfigurationInvalid("a mount's source and destination must be absolute paths")


def _user(text: str | None, users: Path) -> tuple[int, int]:
    """`name`, `uid`, either with `:gid`; names are those of the image's passwd file `users`."""
    name, _, group = (text or "0").partition(":")
    known = [line.split(":") for line in users.read_text(errors="replace").splitlines()] if users.exists() else []
    found = next((entry for entry in known if len(entry) > 3 and name in (entry[0], entry[2])), None)
    if found is not None:
        uid, gid = int(found[2]), int(found[3])
    elif name.isdigit():
        uid, gid = int(name), 0
    else:
        raise ConfigurationInvalid(f"there is no user {name!r} in this image")
    if group and not group.isdigit():
        raise ConfigurationInvalid(f"group {group!r} is not a number")
    return uid, int(group) if group else gid
