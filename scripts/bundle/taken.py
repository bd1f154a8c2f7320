"""What the last build on this machine took, so that a build for a test need not ask anybody."""

from __future__ import annotations

import json
from pathlib import Path


def keep(record: Path, asked: object, files: list[Path]) -> None:
    """Note that `asked` (anything of JSON) was answered by these files."""
    record.write_text(json.dumps({"asked": asked, "files": [str(file) for file in files]}))


def recall(record: Path, asked: object) -> list[Path]:
    """The files that were noted for it last. Empty when something else was asked, or when one of them is gone."""
    if not record.exists():
        return []
    noted = json.loads(record.read_text())
    files = [Path(name) for name in noted["files"]]
    return files if noted["asked"] == asked and all(file.exists() for file in files) else []
