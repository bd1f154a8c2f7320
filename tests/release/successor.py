"""A second release with another name: the bytes of a first one, with its name replaced wherever it stands.

Every program of a release names its own folder by an absolute path (its loader, its libraries, its Python files). So
the two lie and run beside each other as two builds would; what they contain is the same.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from scripts.bundle.release import write_release
from scripts.bundle.signing import Signer


def successor(unpacked: Path, scratch: Path) -> Path:
    """The folder of a release whose version is one higher in the last place. `unpacked`: the first one's tree."""
    name = unpacked.name
    found = re.fullmatch(r"(\d+\.\d+\.)(\d)(-.*)", name)
    assert found is not None and found[2] != "9", f"{name} has no last digit to count up"
    other = f"{found[1]}{int(found[2]) + 1}{found[3]}"
    tree = scratch / other
    shutil.copytree(unpacked, tree, symlinks=True)
    old, new = name.encode(), other.encode()
    for path in tree.rglob("*"):
        if path.is_symlink():
            target = os.readlink(path)
            if name in target:
                path.unlink()
                path.symlink_to(target.replace(name, other))
        elif path.is_file() and old in (content := path.read_bytes()):
            path.write_bytes(content.replace(old, new))
    folder = scratch / "release"
    folder.mkdir()
    packed = folder / f"perdure-worker-{other}-{os.uname().machine}.tar.gz"
    argv = ["tar", "-C", str(scratch), "--owner=0", "--group=0", "-I", "gzip -1", "-cf", str(packed), other]
    subprocess.run(argv, check=True, timeout=300)
    write_release(folder, Signer.for_this_build())
    return folder
