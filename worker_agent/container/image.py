"""The image that a container was made from, pinned by its layers' digests: an old writable layer over a tag that has
moved is corruption. See docs/architecture.md, "Where bytes live".

Read from the files of the container engine, never by asking dockerd, which holds its lock on the container while it
waits for this very create. Docker keeps images in one of two ways:

    overlay2      <data root>/image/overlay2/{imagedb,layerdb,repositories.json}; layers in <data root>/overlay2
    image store   blobs of containerd's content store; layers are containerd's snapshots
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import structlog

from perdure.domain.checkpoints import ContainerImage
from perdure.domain.errors import CommandFailed, RestoreFailed
from worker_agent.engine import OverlayMount
from worker_agent.engine.commands import run

log = structlog.get_logger()

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LARGEST = 16 << 20
_PULL_SECONDS = 60.0
"""The start of a container waits for it."""
_CONTENT = "io.containerd.content.v1.content/blobs/sha256"
_SNAPSHOTS = "/io.containerd.snapshotter."


def read_image(container_id: str, overlay: OverlayMount) -> ContainerImage | None:
    """The image of a container that Docker made; None where its files are not Docker's, or are not understood. Blocks.

    `overlay`: the root file system as the engine mounted it.
    """
    for folder in Path(overlay.point).parents:
        path = folder / "containers" / container_id / "config.v2.json"
        if path.is_file():
            try:
                return _image(folder, _json(path), overlay)
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
                log.warning("the image of a container cannot be read", container=container_id[:12], reason=str(problem))
                return None
    return None


def _json(path: Path) -> Any:
    with open(path, "rb") as file:
        return json.loads(file.read(_LARGEST))


def _image(data_root: Path, container: dict[str, Any], overlay: OverlayMount) -> ContainerImage:
    image_id, name = _digest(container["Image"]), str(container["Config"]["Image"])
    if _SNAPSHOTS in overlay.lower[0]:
        root = Path(overlay.lower[0].partition(_SNAPSHOTS)[0])
        layers = _layers_in_store(root / _CONTENT, image_id, str((container.get("ImageManifest") or {}).get("digest")))
        digests = [f"{name.partition('@')[0].rpartition(':')[0] or name}@{image_id}"]
    else:
        place = data_root / "image" / str(container["Driver"])
        layers = _json(place / "imagedb/content/sha256" / image_id.removeprefix("sha256:"))["rootfs"]["diff_ids"]
        known = _json(place / "repositories.json")["Repositories"].values()
        digests = [one for names in known for one, own in names.items() if own == image_id and "@sha256:" in one]
    return ContainerImage(name=name, id=image_id, layers=[_digest(layer) for layer in layers], digests=sorted(digests))


def _layers_in_store(blobs: Path, image_id: str, manifest: str) -> list[str]:
    """By way of the index, where the image has one, the manifest and the image's configuration."""
    document = _json(blobs / image_id.removeprefix("sha256:"))
    if "manifests" in document:
        listed = [one["digest"] for one in document["manifests"]]
        chosen = manifest if manifest in listed else _of_this_machine(document["manifests"])
        document = _json(blobs / _digest(chosen).removeprefix("sha256:"))
    configuration = _json(blobs / _digest(document["config"]["digest"]).removeprefix("sha256:"))
    layers: list[str] = configuration["rootfs"]["diff_ids"]
    return layers


def _of_this_machine(manifests: list[dict[str, Any]]) -> str:
    wanted = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, "")
    fitting = [one for one in manifests if (one.get("platform") or {}).get("architecture") == wanted]
    return str((fitting or manifests)[0]["digest"])


def _digest(text: Any) -> str:
    if not isinstance(text, str) or not _DIGEST.fullmatch(text):
        raise ValueError(f"{str(text)[:80]!r} is no digest")
    return text


async def layers_for(wanted: ContainerImage | None, here: ContainerImage | None, overlay: OverlayMount) -> list[str]:
    """The lower layers on which a checkpoint of the image `wanted` can be restored, in a container whose own image is
    `here`: its own if they are the same, else the old ones, from this node or pulled by their digest.

    RestoreFailed, a fault of the node, names the image where neither is to be had.
    """
    if wanted is None or (here is not None and here.layers == wanted.layers):
        return list(overlay.lower)
    found = None
    if here is not None:
        found = await asyncio.to_thread(_on_this_node, wanted, here, overlay)
        for digest in [] if found else wanted.digests:
            try:
                await run(["docker", "pull", "--quiet", digest], limit_seconds=_PULL_SECONDS)
            except CommandFailed as problem:
                log.warning("an older image was not pulled", image=digest, reason=problem.stderr[-300:])
                continue
            found = await asyncio.to_thread(_on_this_node, wanted, here, overlay)
            if found:
                break
    if not found:
        said = (
            f"the job began on the image {wanted.name} with id {wanted.id}, this container was made from "
            f"{here.id if here else 'an unknown image'}, and the old layers are neither on this node nor could they be "
            "pulled; run the job by the image's digest, or keep the old image"
        )
        raise RestoreFailed(said, "image", node_fault=True)
    return found


def _on_this_node(wanted: ContainerImage, here: ContainerImage, overlay: OverlayMount) -> list[str] | None:
    """The engine's own topmost layers of the new container, then the old image's, from top to bottom; None if one is
    not there. (Snapshots of the image store have numbers that only containerd's data base can tell.)"""
    graph = Path(overlay.point).parents[1]
    place = graph.parent / "image" / graph.name / "layerdb" / "sha256"
    if not place.is_dir():
        return None
    layers: list[str] = []
    chain = ""
    for layer in wanted.layers:
        chain = f"sha256:{hashlib.sha256(f'{chain} {layer}'.encode()).hexdigest()}" if chain else layer
        try:
            folder = graph / (place / chain.removeprefix("sha256:") / "cache-id").read_text().strip() / "diff"
        except OSError:
            return None
        if not folder.is_dir():
            return None
        layers.insert(0, str(folder))
    own = overlay.lower[: max(0, len(overlay.lower) - len(here.layers))]
    return [*own, *layers]
