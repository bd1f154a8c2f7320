"""Hooks of the site's build: generated pages come in, and links to files of the source become their paths.

Pages link to files outside docs/ as a reader of the source does. In the site such a link is text; one that leads to no
file fails the strict build like any other dead link.
"""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from scripts.docs.reference import pages  # noqa: E402 - the path comes first

log = logging.getLogger("mkdocs.hooks.perdure")
_OUTSIDE = re.compile(r"(?<!!)\[([^\]]+)\]\((\.\./[^)#\s]+)(?:#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages."""
    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Turns links to the source into paths."""
    folder = (ROOT / "docs" / page.file.src_uri).parent

    def path(found: re.Match[str]) -> str:
        words, link = found[1], found[2]
        target = (folder / link).resolve()
        if target.is_relative_to(ROOT / "docs"):
            return found[0]
        if not target.exists():
            log.warning("%s links to %s, which is not there", page.file.src_uri, link)
        place = target.relative_to(ROOT)
        plain = words.strip("`")
        return f"`{place}`" if plain in {str(place), link, target.name} else f"{words} (`{place}`)"

    return _OUTSIDE.sub(path, markdown)
