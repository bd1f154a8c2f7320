"""Names of images, what stands behind them, and what is refused before anything is built."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from localcloud.nodes.images.build import build_image, image_key, remove_image, with_dependencies
from localcloud.nodes.images.catalogue import MACHINE, BuiltImage, Catalogue, canonical, is_machine
from localcloud.nodes.inside.machine import LAYERS
from localcloud.nodes.inside.roots import find_root
from perdure.domain.errors import ConfigurationInvalid, StackError


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    """One image, whole, and one that was never finished."""
    catalogue = Catalogue(tmp_path)
    image = BuiltImage(key="k", suite="s", architecture="a", packages=["p"], digest="sha256:d", size_bytes=1)
    catalogue.rootfs(image).mkdir(parents=True)
    (tmp_path / "roots" / "k" / "image.json").write_text(image.model_dump_json())
    (tmp_path / "roots" / "torn").mkdir()
    catalogue.give_name("bio/tools", "k")
    catalogue.give_name("half", "torn")
    return catalogue


def test_a_name_with_and_without_its_tag_is_the_same_image(catalogue: Catalogue) -> None:
    found = catalogue.find("bio/tools")
    assert found is not None and found == catalogue.find("bio/tools:latest")
    assert catalogue.names() == ["bio/tools:latest", "half:latest"]


@pytest.mark.parametrize("name", ["bio/tools:2", "bio", "half", "../roots/k", "", "UPPER", "a" * 300])
def test_anything_else_is_no_image(catalogue: Catalogue, name: str) -> None:
    assert catalogue.find(name) is None


@pytest.mark.parametrize("name", ["", "-x", "a b", "a:", "a//:b", "../a", "A", "a:" + "x" * 129, "é"])
def test_a_name_that_docker_would_refuse_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationInvalid):
        canonical(name)


def test_a_name_may_be_given_to_another_image(catalogue: Catalogue) -> None:
    catalogue.give_name("half", "k")
    assert catalogue.find("half") == catalogue.find("bio/tools")


def test_the_reserved_name_is_the_machine_and_so_is_none(catalogue: Catalogue) -> None:
    for name in (None, "", MACHINE, f"{MACHINE}:latest"):
        assert is_machine(name)
        root = find_root(name, catalogue)
        assert root is not None and [layer.folder for layer in root.layers] == LAYERS
    assert not is_machine("machine")
    assert find_root("machine", catalogue) is None


def test_a_built_image_is_one_layer_with_its_own_users(catalogue: Catalogue) -> None:
    root = find_root("bio/tools", catalogue)
    assert root is not None and root.name == "bio/tools:latest"
    [layer] = root.layers
    assert (layer.digest, root.users) == ("sha256:d", layer.folder / "etc" / "passwd")


def test_the_same_packages_are_the_same_image() -> None:
    assert image_key("s", "a", ["b", "a", "b"]) == image_key("s", "a", ["a", "b"]) != image_key("t", "a", ["a", "b"])


@pytest.mark.parametrize(
    ("name", "packages"), [(MACHINE, ["python3"]), ("x", ["--unpack-tarball=/x"]), ("x", ["a,b"]), ("x", ["../x"])]
)
def test_what_cannot_be_built_is_refused_at_once(tmp_path: Path, name: str, packages: list[str]) -> None:
    with pytest.raises(ConfigurationInvalid):
        build_image(name, packages, lambda line: None, Catalogue(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_an_image_goes_with_its_last_name(catalogue: Catalogue) -> None:
    catalogue.give_name("again", "k")
    image = catalogue.find("again")
    assert image is not None
    assert remove_image("again", catalogue) == 0
    assert catalogue.rootfs(image).is_dir() and catalogue.find("bio/tools") == image
    assert remove_image("bio/tools:latest", catalogue) == image.size_bytes
    assert not (catalogue.folder / "roots" / "k").exists() and catalogue.names() == ["half:latest"]
    assert remove_image("half", catalogue) == 0 and catalogue.names() == []
    for name in ("bio/tools", "../roots", MACHINE):
        with pytest.raises(ConfigurationInvalid):
            remove_image(name, catalogue)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts, in a namespace of its own")
def test_an_image_that_a_container_uses_stays(catalogue: Catalogue) -> None:
    image = catalogue.find("bio/tools")
    assert image is not None
    rootfs = catalogue.rootfs(image)
    holding = f"mount --bind {rootfs} /mnt && echo ready && exec sleep 600"
    argv = ["unshare", "--mount", "sh", "-c", holding]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as container:
        try:
            assert container.stdout is not None and container.stdout.readline() == "ready\n"
            with pytest.raises(StackError, match="in use by process"):
                remove_image("bio/tools", catalogue)
            assert catalogue.find("bio/tools") == image and rootfs.is_dir()
        finally:
            container.kill()


def test_virtual_packages_are_resolved_by_apt() -> None:
    """python3-cryptography needs python3-cffi-backend-api-min: no package is called that."""
    found = with_dependencies(["python3-cryptography"])
    assert {"python3-cryptography", "python3-cffi-backend", "libc6", "dpkg"} <= set(found)
    assert not any("cffi-backend-api" in name for name in found)
    with pytest.raises(ConfigurationInvalid, match="nosuch-package"):
        with_dependencies(["nosuch-package"])
