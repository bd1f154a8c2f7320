"""The list of what a bundle holds (SBOM), in CycloneDX's JSON (https://cyclonedx.org/docs/1.5/json/)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from urllib.parse import quote

import perdure
from scripts.bundle.debian import field
from scripts.bundle.tree import Inputs


def component_list(inputs: Inputs, release: str) -> str:
    """Every Debian package and wheel that was unpacked, with version and checksum; Perdure itself is the subject."""
    components = [
        *(_debian(deb, "bookworm") for deb in inputs.base),
        *(_debian(deb, "sid") for deb in inputs.criu),
        *(_wheel(wheel) for wheel in inputs.wheels),
    ]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "name": "perdure-worker",
                "version": release,
                "purl": f"pkg:pypi/perdure@{perdure.__version__}",
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            }
        },
        "components": components,
    }
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _debian(deb: Path, suite: str) -> dict[str, object]:
    name, version, architecture = (field(deb, word) for word in ("Package", "Version", "Architecture"))
    purl = f"pkg:deb/debian/{name}@{quote(version, safe='')}?arch={architecture}&distro={suite}"
    return _component(name, version, purl, deb)


def _wheel(wheel: Path) -> dict[str, object]:
    name, version = wheel.name.split("-")[:2]
    name = name.replace("_", "-").lower()
    return _component(name, version, f"pkg:pypi/{name}@{version}", wheel)


def _component(name: str, version: str, purl: str, file: Path) -> dict[str, object]:
    hashes = [{"alg": "SHA-256", "content": checksum(file)}]
    return {"type": "library", "name": name, "version": version, "purl": purl, "hashes": hashes}
