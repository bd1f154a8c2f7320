"""Sees to it that a wheel holds the built console and the compiled loop of shared-page checkpoints. Part of the build,
never of the product."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Console(BuildHookInterface):  # type: ignore[type-arg]
    """Builds api/static where it is missing. An editable install takes it as it is: `make setup` builds it later."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        if (
            version != "editable"
            and subprocess.run(["bash", "scripts/native.sh"], cwd=root, check=False).returncode != 0
        ):
            self.app.display_warning("pages.c was not compiled (gcc and xxhash.h are needed): checkpoints are slower.")
        if version == "editable" or (root / "api/static/index.html").exists():
            return
        if not (root / "console/package.json").exists():
            self.app.display_warning("The console is not part of this build: there is neither api/static nor console/.")
            return
        done = subprocess.run(["bash", "scripts/console.sh"], cwd=root, check=False)
        if done.returncode != 0:
            raise SystemExit("The console could not be built: run `make console` in the repository, then build again.")
