"""What a restore needs in config.json to find the network as a create would have made it (runtime/network_hook.py)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

_HOOK = Path(__file__).parents[1] / "runtime" / "network_hook.py"
_SECONDS = 60
"""A Python that starts, on a node where many containers are restored at once."""


def add_network_hook(config: dict[str, Any]) -> None:
    """Let a restore bring the loopback device up and apply the container's network sysctls. Nothing is changed for a
    container in the host's or another container's network, which stands already."""
    linux = config.get("linux") or {}
    own = [one for one in linux.get("namespaces") or [] if one.get("type") == "network"]
    if not own:
        return
    settings = [f"{name}={value}" for name, value in (linux.get("sysctl") or {}).items() if name.startswith("net.")]
    hook = {
        "path": sys.executable,
        "args": [sys.executable, "-I", "-S", str(_HOOK), *settings],
        "timeout": _SECONDS,
    }
    hooks = config.get("hooks") or {}
    config["hooks"] = {**hooks, "createRuntime": [*(hooks.get("createRuntime") or []), hook]}
