"""`perdure local image …`: images of Debian packages, made, shown and removed."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console

from localcloud.cli.options import progress

app = typer.Typer(help="Container images of Debian packages, for jobs of all stacks.")


@app.command("build")
def build_image(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What jobs call it.")],
    packages: Annotated[list[str], typer.Argument(metavar="PACKAGE...", help="Debian packages of this suite.")],
) -> None:
    """Make an image of Debian packages and what they depend on; at once when it was made before. Prints its name."""
    from localcloud.nodes.images.build import build_image as build
    from localcloud.nodes.images.catalogue import canonical
    from localcloud.stack.checks import require_root

    require_root()
    with progress.status(f"making image {name}"):
        build(name, packages, lambda line: progress.print(f"{name}: {line}", markup=False))
    print(canonical(name))


@app.command("list")
def list_images(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """The images that were made on this machine."""
    from localcloud.nodes.images.catalogue import Catalogue

    catalogue = Catalogue()
    found = {name: image for name in catalogue.names() if (image := catalogue.find(name))}
    if as_json:
        print(json.dumps([{"name": name, **image.model_dump()} for name, image in found.items()]))
        return
    out = Console(highlight=False, markup=False, soft_wrap=True)
    for name, image in found.items():
        out.print(f"{name:<30}  {image.size_bytes >> 20:>5} MiB  {image.suite}  {' '.join(image.packages)}")


@app.command("rm")
def remove_images(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="As `image list` shows them.")],
) -> None:
    """Forget images by name; the files go with an image's last name. Not while a container uses it."""
    from localcloud.nodes.images.build import remove_image
    from localcloud.stack.checks import require_root

    require_root()
    for name in names:
        freed = remove_image(name)
        progress.print(f"{name} is gone" + (f", {freed >> 20} MiB are free again" if freed else ""), markup=False)
