"""Images of a node's Docker: real ones to dockerd, whose layers are the folders that all nodes share.

An image is loaded from an archive whose layers hold one small file each, which says what the layer stands for; so its
digests are those of its content. Then each layer's folder below overlay2/ gets the shared folder bound over it,
read-only. So loading takes no longer for a big image than for a small one, and a new node has every image at once.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
import threading
from pathlib import Path
from typing import Any

from localcloud.linux import bind
from localcloud.nodes.inside.docker.api import DockerApi, DockerProblem
from localcloud.nodes.inside.roots import Layer, Root

_MARK = ".perdure-layer"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class NodeImages:
    """The images of one dockerd; `data` is its data-root, overlay2 its storage driver."""

    def __init__(self, api: DockerApi, data: Path) -> None:
        self._api = api
        self._data = data
        self._lock = threading.Lock()
        self._loaded: dict[str, Root] = {}

    def provide(self, root: Root) -> str:
        """Have the image in this dockerd, under its name and with these layers; its name.

        Raises DockerProblem, OSError.
        """
        with self._lock:
            if self._loaded.get(root.name) != root:
                archive, diff_ids = image_archive(root)
                self._api.load(archive)
                for layer, chain in zip(reversed(root.layers), chain_ids(diff_ids), strict=True):
                    self._bind(layer, chain)
                self._loaded[root.name] = root
        return root.name

    def _bind(self, layer: Layer, chain: str) -> None:
        kind, _, digest = chain.partition(":")
        entry = self._data / "image" / "overlay2" / "layerdb" / kind / digest / "cache-id"
        try:
            folder = self._data / "overlay2" / entry.read_text().strip() / "diff"
        except FileNotFoundError as problem:
            raise DockerProblem(0, f"dockerd has no folder for the layer {chain}; is it not overlay2?") from problem
        if not folder.is_mount():  # a layer may belong to several images
            bind(layer.folder, folder, read_only=True)


def image_archive(root: Root) -> tuple[bytes, list[str]]:
    """What `docker save` would write of such an image, and the digests of its layers from bottom to top.

    The same root gives the same bytes on every node.
    """
    layers = [_tar({_MARK: f"{layer.folder} {layer.digest}\n".encode()}) for layer in reversed(root.layers)]
    diff_ids = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    config: dict[str, Any] = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "perdure local"} for _ in layers],
    }
    text = json.dumps(config).encode()
    name = f"{hashlib.sha256(text).hexdigest()}.json"
    files = {f"{number}/layer.tar": layer for number, layer in enumerate(layers)}
    manifest = [{"Config": name, "RepoTags": [root.name], "Layers": list(files)}]
    return _tar({**files, name: text, "manifest.json": json.dumps(manifest).encode()}), diff_ids


def chain_ids(diff_ids: list[str]) -> list[str]:
    """What Docker files each layer under: a digest of it and all below. Source: OCI image specification, "ChainID"."""
    chains: list[str] = []
    for diff_id in diff_ids:
        words = f"{chains[-1]} {diff_id}".encode() if chains else b""
        chains.append(f"sha256:{hashlib.sha256(words).hexdigest()}" if chains else diff_id)
    return chains


def _tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()
