"""The lists of what a release holds (SBOM), in CycloneDX's JSON (https://cyclonedx.org/docs/1.5/json/)."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from urllib.parse import quote

import perdure
from scripts.bundle.debian import fields
from scripts.bundle.tree import ROOT, Inputs

_PIN = re.compile(r"^([a-z0-9._-]+)==([^\s;]+)(?: ; (?!sys_platform == 'win32').*)? \\$", re.MULTILINE)
"""A line of requirements-server.txt that is for a Linux."""


def component_list(inputs: Inputs, release: str) -> str:
    """Every Debian package and wheel that was unpacked, with version and checksum; Perdure itself is the subject."""
    components = [
        *(_debian(deb, "bookworm") for deb in inputs.base),
        *(_debian(deb, "sid") for deb in inputs.criu),
        *(_wheel(wheel) for wheel in inputs.wheels),
    ]
    return _document("perdure-worker", release, components)


def server_list() -> str:
    """Of the server: each Python package that its image installs, and each npm package of the console. The base image's
    own are whoever's who chose it."""
    pins = _PIN.findall((ROOT / "requirements-server.txt").read_text())
    components = [_component(name, version, f"pkg:pypi/{name}@{version}", []) for name, version in pins]
    lock = json.loads((ROOT / "console/package-lock.json").read_text())
    for place, about in sorted(lock["packages"].items()):
        if place and not about.get("dev"):
            name, version = place.rpartition("node_modules/")[2], about["version"]
            purl = f"pkg:npm/{quote(name, safe='/')}@{version}"
            content = base64.b64decode(about["integrity"].removeprefix("sha512-")).hex()
            components.append(_component(name, version, purl, [{"alg": "SHA-512", "content": content}]))
    return _document("perdure-server", perdure.__version__, components)


def _document(name: str, version: str, components: list[dict[str, object]]) -> str:
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "name": name,
                "version": version,
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
    name, version, architecture = fields(deb, "Package", "Version", "Architecture")
    purl = f"pkg:deb/debian/{name}@{quote(version, safe='')}?arch={architecture}&distro={suite}"
    return _component(name, version, purl, _sha256(deb))


def _wheel(wheel: Path) -> dict[str, object]:
    name, version = wheel.name.split("-")[:2]
    name = name.replace("_", "-").lower()
    return _component(name, version, f"pkg:pypi/{name}@{version}", _sha256(wheel))


def _sha256(file: Path) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": checksum(file)}]


def _component(name: str, version: str, purl: str, hashes: list[dict[str, str]]) -> dict[str, object]:
    known: dict[str, object] = {"hashes": hashes} if hashes else {}
    return {"type": "library", "name": name, "version": version, "purl": purl, **known}
