"""The release's files around the archives: names, wheel and sources, the installer that knows the archives'
checksums, the signed manifest."""

from __future__ import annotations

import gzip
import hashlib
import sys
import tarfile
import tempfile
from pathlib import Path

import perdure
from scripts.bundle.contents import checksum
from scripts.bundle.debian import BuildFailed, run
from scripts.bundle.signing import Signer
from scripts.bundle.tree import PLATFORMS, ROOT, Inputs

_SOURCES = ("perdure", "worker_agent", "deploy/worker", "scripts/bundle", "LICENSE")
_EPOCH = 1_700_000_000
"""The time of every file in an archive: two builds of the same inputs are the same bytes."""
ARCHIVE = "perdure-worker-{release}-{architecture}.tar.gz"
_PACKAGES = ("perdure-[0-9]*.whl", "perdure-[0-9]*.tar.gz")
"""Wheel and sources."""
_BLANK = "# (filled in by `make bundle`)\n"


def release_name(inputs: Inputs) -> str:
    """Version and a digest of everything that goes in, e.g. 0.1.0-3f9a01c2b7de: other content is another folder on an
    instance, where a version that a job may be using is never touched again."""
    digest = hashlib.sha256(inputs.architecture.encode())
    for path in [*inputs.base, *inputs.criu, *inputs.wheels]:
        digest.update(f"{path.name} {checksum(path)}\n".encode())
    for path in _sources():
        digest.update(f"{path.relative_to(ROOT)} {checksum(path)}\n".encode())
    return f"{perdure.__version__}-{digest.hexdigest()[:12]}"


def _sources() -> list[Path]:
    found = []
    for name in _SOURCES:
        place = ROOT / name
        found += [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
    return sorted(path for path in found if "__pycache__" not in path.parts)


def archive(tree: Path, target: Path, level: int = 6) -> int:
    """Pack the folder; the sum of its files' sizes in bytes. The target appears when it is whole.

    `level`: gzip's. 9 takes four times as long for 1 % less.
    """
    total = 0

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        nonlocal total
        total += entry.size
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        entry.mtime = _EPOCH
        entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
        return entry

    half = target.with_suffix(".part")
    with (
        half.open("wb") as file,
        gzip.GzipFile("", "wb", level, file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        for path in [tree, *sorted(tree.rglob("*"))]:
            tar.add(path, path.relative_to(tree.parent), recursive=False, filter=plain)
    half.replace(target)
    return total


def python_packages(folder: Path) -> None:
    """Put the wheel and the source archive into the folder, in place of older ones. Raises BuildFailed."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", name], cwd=ROOT)
        for old in [path for pattern in _PACKAGES for path in folder.glob(pattern)]:
            old.unlink()
        for made in Path(name).iterdir():
            made.replace(folder / made.name)


def write_release(folder: Path, signer: Signer) -> None:
    """Installer, user data and manifest for the archives in the folder."""
    facts = []
    archives = sorted(folder.glob("perdure-worker-*.tar.gz"))
    for architecture in PLATFORMS:
        found = [path for path in archives if path.name.endswith(f"-{architecture}.tar.gz")]
        name = found[0].name if found else ""
        facts += [f"archive_{architecture}={name}", f"sha256_{architecture}={checksum(found[0]) if found else ''}"]
    source = (ROOT / "deploy/worker/perdure-install").read_text()
    if source.count(_BLANK) != 1:
        raise BuildFailed("deploy/worker/perdure-install has no place for the archives' checksums")
    installer = folder / "perdure-install"
    installer.write_text(source.replace(_BLANK, "\n".join(facts) + "\n"))
    installer.chmod(0o755)
    template = (ROOT / "deploy/launch-template/user-data.txt").read_text()
    (folder / "user-data.txt").write_text(template.replace("@SHA256@", checksum(installer)))
    names = [installer.name, "user-data.txt", *(path.name for path in archives)]
    names += sorted(path.name for pattern in ("contents-*.cdx.json", *_PACKAGES) for path in folder.glob(pattern))
    manifest = "".join(f"{checksum(folder / name)}  {name}\n" for name in names)
    (folder / "MANIFEST").write_text(manifest)
    comment = f"Perdure {perdure.__version__}, release for instances"
    (folder / "MANIFEST.minisig").write_text(signer.signature_file(manifest.encode(), comment))
    (folder / "perdure.pub").write_text(signer.public_file())
