"""Images for the tests that need a container engine: made here, in `docker load`'s format, without a registry.

Debian's static busybox is the whole user space: 2 MB, loaded in a fraction of a second. It is fetched once from the
machine's own apt sources into the cache. The archives are the same byte for byte on every node, so that an image has
the same layer digests everywhere.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import http.server
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CACHE = Path("/var/cache/perdure/tests")
BUSYBOX = CACHE / "busybox"
IMAGE = "perdure-test:1"
_FOLDERS = {"tmp": 0o1777, "root": 0o700, "etc": 0o755, "var": 0o755, "home": 0o755, "usr/bin": 0o755}
_PASSWD = "root:x:0:0:root:/root:/bin/sh\nworker:x:1000:1000::/home:/bin/sh\n"
_GROUP = "root:x:0:\nworker:x:1000:\n"


@contextmanager
def cache_lock(name: str) -> Iterator[None]:
    """One at a time over all test runs of this machine; it ends with its holder."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / f"{name}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def busybox() -> Path:
    """The static program, fetched when it is not there yet."""
    with cache_lock("busybox"):
        if not BUSYBOX.exists():
            print("fetching Debian's busybox-static for the tests' images", flush=True)
            with tempfile.TemporaryDirectory(dir=CACHE) as folder:
                _run("chown", "_apt", folder)  # apt fetches as that user
                _run("apt-get", "-q", "download", "busybox-static", cwd=folder)
                package = next(Path(folder).glob("*.deb"))
                _run("dpkg-deb", "-x", str(package), f"{folder}/tree")
                found = next(path for path in Path(folder).glob("tree/**/bin/busybox") if not path.is_symlink())
                shutil.copy(found, BUSYBOX.with_suffix(".new"))
                BUSYBOX.with_suffix(".new").rename(BUSYBOX)
    return BUSYBOX


def _run(*argv: str, cwd: str | None = None) -> str:
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout


def image_archive(
    target: Path,
    tag: str = IMAGE,
    *,
    config: Mapping[str, Any] | None = None,
    files: Mapping[str, str] | None = None,
) -> Path:
    """Write an archive for `docker load`: a layer with busybox, one with `files` (path: content), and `config` as in
    an image's own configuration (`{"Volumes": {"/scratch": {}}}`)."""
    program = busybox()
    layers = [_base_layer(program), _layer({"etc/perdure-test": tag + "\n", **(files or {})})]
    settings = {"Env": ["PATH=/usr/bin:/bin"], "Cmd": ["sh"], **(config or {})}
    description = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2026-01-01T00:00:00Z",
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]},
        "history": [{"created": "2026-01-01T00:00:00Z", "created_by": f"layer {n}"} for n in range(len(layers))],
    }
    text = json.dumps(description, sort_keys=True).encode()
    name = hashlib.sha256(text).hexdigest()
    manifest = [{"Config": f"{name}.json", "RepoTags": [tag], "Layers": [f"{n}/layer.tar" for n in range(len(layers))]}]
    with tarfile.open(target, "w") as archive:
        _add(archive, f"{name}.json", text)
        for number, layer in enumerate(layers):
            _add(archive, f"{number}/layer.tar", layer)
        _add(archive, "manifest.json", json.dumps(manifest).encode())
    return target


def _base_layer(program: Path) -> bytes:
    applets = _run(str(program), "--list").split()
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, mode in sorted(_FOLDERS.items()):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, mode
            archive.addfile(folder)
        _add(archive, "bin/busybox", program.read_bytes(), 0o755)
        for applet in sorted(set(applets) - {"busybox"}):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
        _add(archive, "etc/passwd", _PASSWD.encode())
        _add(archive, "etc/group", _GROUP.encode())
    return data.getvalue()


def _layer(files: Mapping[str, str]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        folders = {str(parent) for name in files for parent in Path(name).parents} - {"."}
        for name in sorted(folders - _FOLDERS.keys()):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(folder)
        for name, text in sorted(files.items()):
            _add(archive, name, text.encode(), 0o755 if text.startswith("#!") else 0o644)
    return data.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))


# ------------------------------------------------------------------------------------------------ a registry of files


def registry_folder(folder: Path, archive: Path, name: str) -> Path:
    """What a registry has for the image of an archive: as NAME:1, and by its digest."""
    with tarfile.open(archive) as packed:
        members = {member.name: packed.extractfile(member) for member in packed}
        content = {member: file.read() for member, file in members.items() if file is not None}
    listed = json.loads(content["manifest.json"])[0]
    kinds = "application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.container.image.v1+json"
    parts = [_blob(folder, name, content[listed["Config"]], kinds[1])]
    for layer in listed["Layers"]:
        packed_layer = gzip.compress(content[layer], mtime=0)
        parts.append(_blob(folder, name, packed_layer, "application/vnd.docker.image.rootfs.diff.tar.gzip"))
    manifest = json.dumps({"schemaVersion": 2, "mediaType": kinds[0], "config": parts[0], "layers": parts[1:]}).encode()
    place = folder / "v2" / name / "manifests"
    place.mkdir(parents=True)
    for reference in ("1", f"sha256:{hashlib.sha256(manifest).hexdigest()}"):
        (place / reference).write_bytes(manifest)
    return folder


def _blob(folder: Path, name: str, content: bytes, kind: str) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    place = folder / "v2" / name / "blobs"
    place.mkdir(parents=True, exist_ok=True)
    (place / digest).write_bytes(content)
    return {"mediaType": kind, "size": len(content), "digest": digest}


class _Files(http.server.SimpleHTTPRequestHandler):
    def guess_type(self, path: Any) -> str:
        kind = "application/vnd.docker.distribution.manifest.v2+json"
        return kind if "/manifests/" in str(path) else "application/octet-stream"

    def end_headers(self) -> None:
        if "/manifests/" in getattr(self, "path", ""):  # Docker tries TLS first, which is no request
            content = Path(self.translate_path(self.path)).read_bytes()
            self.send_header("Docker-Content-Digest", f"sha256:{hashlib.sha256(content).hexdigest()}")
        super().end_headers()

    def log_message(self, *words: Any) -> None:
        pass


def serve_registry(folder: Path) -> None:
    """Until killed, on loopback, which Docker takes without TLS."""
    os.chdir(folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 5000), _Files) as server:
        Path("/run/registry.pid").write_text(str(os.getpid()))
        print("serving", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    serve_registry(Path(sys.argv[1]))
