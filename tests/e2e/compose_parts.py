"""What the server's machine is given: the release's sources, wheels in place of an index, names of images."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from tests.integration.docker_images import CACHE, cache_lock
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[2]
BUILDERS = {"hatchling", "packaging", "pathspec", "pluggy", "tomlkit", "trove-classifiers"}
"""What the wheel of this repository is built with."""


def pulled() -> list[str]:
    """The images that the project pulls, by the names that hold unless somebody sets others."""
    found = set()
    for file in ("docker-compose.yml", "deploy/docker/temporal-gate.yml"):
        for service in yaml.safe_load((ROOT / file).read_text())["services"].values():
            built = service.get("build", {}).get("args", {})
            names = [built[name] for name in ("BASE_IMAGE", "NODE_IMAGE")] if built else [service["image"]]
            found |= {re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", name) for name in names}
    return sorted(found - {"perdure-server"})


def sources(folder: Path) -> Path:
    """The release's sources, made as a release makes them (scripts/bundle/release.py)."""
    argv = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(folder)]
    subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, timeout=PATIENCE)
    [made] = folder.glob("perdure-*.tar.gz")
    return made


def wheels(folder: Path) -> None:
    """What the server needs and what its wheel is built with, by the pins, in `folder`; fetched once for a machine."""
    builders = [line for line in _pins(ROOT / "requirements-dev.txt") if line.split("==")[0] in BUILDERS]
    wanted = (ROOT / "requirements-server.txt").read_bytes() + "\n".join(builders).encode()
    place = CACHE / f"wheels-{hashlib.sha256(wanted).hexdigest()[:12]}"
    with cache_lock("wheels"):
        if not place.exists():
            with tempfile.TemporaryDirectory(dir=CACHE) as name:
                pip = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", f"{name}/wheels", "--no-deps"]
                for words in (["--require-hashes", "--requirement", str(ROOT / "requirements-server.txt")], builders):
                    subprocess.run([*pip, *words], check=True, timeout=600)
                for old in CACHE.glob("wheels-*/"):
                    shutil.rmtree(old)
                Path(name, "wheels").rename(place)
        shutil.copytree(place, folder)


def _pins(file: Path) -> list[str]:
    return [line.split()[0] for line in file.read_text().splitlines() if line[:1].isalpha()]
