"""`python -m scripts.bundle [--architecture x86_64|aarch64] [--output FOLDER] [--known]`: the release for instances.

Leaves in FOLDER (default build/release):

    perdure-install                     the installer; knows the archives' checksums
    perdure-worker-<release>-<arch>.tar.gz
    perdure-<version>-py3-none-any.whl  command line and server, with the console inside
    perdure-<version>.tar.gz            the sources that the wheel is made of
    user-data.txt                       for a launch template; pins the installer's checksum
    contents-<arch>.cdx.json            what is inside (CycloneDX)
    contents-server.cdx.json            what the server's image installs
    MANIFEST, MANIFEST.minisig, perdure.pub

PERDURE_SIGNING_KEY names an Ed25519 private key (PEM). Without it the key is made for this build and thrown away.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scripts.bundle import taken
from scripts.bundle.contents import checksum, component_list, server_list
from scripts.bundle.debian import BuildFailed, Suite, run
from scripts.bundle.release import archive, python_packages, release_name, write_release
from scripts.bundle.signing import Signer
from scripts.bundle.tree import PLATFORMS, PYTHON_PACKAGES, ROOT, TOOLS, Inputs, build

CACHE = Path(os.environ.get("PERDURE_CACHE", "/var/cache/perdure")) / "bundle"


def fetch(architecture: str, known: bool) -> Inputs:
    """Debian packages and wheels, fetched unless they are in the cache; beside each other, for each mostly waits.

    `known`: what the last build took will do, if it is still here; nobody is asked for newer.
    """
    debian, platforms = PLATFORMS[architecture]
    with ThreadPoolExecutor() as pool:
        base = pool.submit(Suite("bookworm", debian, CACHE).fetch, [*PYTHON_PACKAGES, *TOOLS], known)
        criu = pool.submit(Suite("sid", debian, CACHE).fetch, ["criu"], known)
        wheels = pool.submit(_wheels, CACHE / f"wheels-{architecture}", platforms, known)
    return Inputs(architecture, base.result(), criu.result(), wheels.result())


def _wheels(folder: Path, platforms: list[str], known: bool) -> list[Path]:
    """Those of the agent's requirements, in `folder`, and no others."""
    pins, record = ROOT / "requirements-agent.txt", folder.with_suffix(".json")
    asked = [checksum(pins), *platforms]
    if known and (found := taken.recall(record, asked)):
        return found
    folder.mkdir(parents=True, exist_ok=True)
    where = [word for name in platforms for word in ("--platform", name)]
    # An empty folder each time, so that no wheel of an older pin stays; pip has a cache of its own.
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        argv = [sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes", "--only-binary", ":all:"]
        argv += ["--python-version", "3.11", "--implementation", "cp", *where, "--find-links", str(folder)]
        run([*argv, "--dest", name, "-r", str(pins)])
        fresh = {path.name for path in Path(name).iterdir()}
        for path in Path(name).iterdir():
            path.replace(folder / path.name)
    for path in folder.iterdir():
        if path.name not in fresh:
            path.unlink()
    found = sorted(folder.iterdir())
    taken.keep(record, asked, found)
    return found


def main() -> int:
    """Build; exit code 1 with one sentence when something is missing."""
    parser = argparse.ArgumentParser(prog="scripts.bundle")
    parser.add_argument("--architecture", choices=sorted(PLATFORMS), action="append")
    parser.add_argument("--output", type=Path, default=ROOT / "build/release")
    parser.add_argument("--known", action="store_true", help="take what the last build took, without asking for newer")
    arguments = parser.parse_args()
    key = os.environ.get("PERDURE_SIGNING_KEY")
    begun = time.monotonic()
    try:
        signer = Signer.from_pem(Path(key)) if key else Signer.for_this_build()
        for architecture in arguments.architecture or [platform.machine()]:
            _one(architecture, arguments.output, arguments.known)
        python_packages(arguments.output)
        (arguments.output / "contents-server.cdx.json").write_text(server_list())
        write_release(arguments.output, signer)
    except (BuildFailed, OSError, ValueError, subprocess.SubprocessError) as problem:
        print(f"the bundle was not built: {problem}", file=sys.stderr)
        return 1
    if not key:
        print("signed with a key made for this build: set PERDURE_SIGNING_KEY for a release")
    print(f"{arguments.output}, {time.monotonic() - begun:.0f} s")
    return 0


def _one(architecture: str, output: Path, known: bool) -> None:
    inputs = fetch(architecture, known)
    release = release_name(inputs)
    output.mkdir(parents=True, exist_ok=True)
    target = output / f"perdure-worker-{release}-{architecture}.tar.gz"
    if target.exists():
        print(f"{target.name} is there already")
        return
    with tempfile.TemporaryDirectory(prefix="perdure-bundle-", dir="/var/tmp") as name:
        tree = Path(name) / release
        tree.mkdir(mode=0o755)
        build(inputs, release, tree, Path(name))
        contents = component_list(inputs, release)
        (tree / "share/contents.cdx.json").write_text(contents)
        (output / f"contents-{architecture}.cdx.json").write_text(contents)
        unpacked = archive(tree, target)
    for old in output.glob(f"perdure-worker-*-{architecture}.tar.gz"):
        if old != target:
            old.unlink()
    print(f"{target.name}: {target.stat().st_size / 1e6:.1f} MB, unpacked {unpacked / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(main())
