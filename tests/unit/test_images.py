"""Names of images, what stands behind them, and what is refused before anything is built."""

from __future__ import annotations

from pathlib import Path

import pytest

from localcloud.nodes.images.build import build_image, image_key
from localcloud.nodes.images.catalogue import MACHINE, BuiltImage, Catalogue, canonical, is_machine
from localcloud.nodes.inside.machine import LAYERS
from localcloud.nodes.inside.roots import find_root
from perdure.domain.errors import ConfigurationInvalid


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
