"""The commands that the documents tell people to type.

Every block of code is commands, unless its fence names another language (```text, ```yaml). Inline code is a command
when it begins with one of PROGRAMS. A test that types commands takes them from here, so that it types what people read:
`block`, `told` and `chosen` fail when the page says something else. tests/unit/test_documents_typed.py finds those that
nobody takes.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token
from typer.main import get_command

from perdure.cli.main import build

ROOT = Path(__file__).parents[2]
SHELL = {"", "sh", "bash"}
"""What the fence of a block of commands may name."""
PROGRAMS = ("perdure", "aws", "curl", "make", "pip", "python", "ssh", "terraform")
"""Inline code that begins with another word (`docker kill`, `criu dump`) names what other programs do."""
_OPTION = re.compile(r"--?[A-Za-z][A-Za-z0-9-]*")
_VARIABLE = re.compile(r"[A-Z_]+(?==)")
_COMMENT = re.compile(r"(?:^|\s+)# .*$")
_PERDURE = re.compile(r"(?:^|(?<=\s)|(?<=\())(?:\$perdure|\.venv/bin/perdure|/opt/perdure/current/bin/perdure)(?=\s)")


@dataclass(frozen=True, slots=True)
class Command:
    """One command of one page: without its comment, with `perdure` for every way to call it."""

    page: str
    text: str
    inline: bool

    @property
    def synopsis(self) -> bool:
        """Whether it is no line to type but says what may be typed."""
        return "[" in self.text and self.inline

    @property
    def words(self) -> tuple[str, ...]:
        """Which command it is, without arguments: ("perdure", "checkpoints", "list"), ("make", "bundle")."""
        words = [word for word in _words(self.text) if not _OPTION.match(word) and not _VARIABLE.match(word)]
        if words[:1] == ["perdure"]:
            return _path_of_ours(words)
        return tuple(words[: 3 if words[:1] == ["aws"] else 2])

    @property
    def options(self) -> frozenset[str]:
        """The names of its options, and of variables that it gives to make."""
        kind = _VARIABLE if self.text.startswith("make ") else _OPTION
        return frozenset(found.group() for word in _words(self.text) if (found := kind.match(word)))


def pages() -> list[str]:
    """The documents, as paths below the repository's root. (What docs/*.d/ holds is part of a written page.)"""
    found = [path for pattern in ("*.md", "deploy/**/*.md", "docs/**/*.md") for path in ROOT.glob(pattern)]
    told = [path for path in found if path.parent.suffix != ".d" and path.name != "CHANGELOG.md"]
    return sorted(str(path.relative_to(ROOT)) for path in told)


def block(page: str, beginning: str) -> list[str]:
    """The lines of the one block of commands of this page that begins so. ValueError: there is none, or several."""
    found = [token.content for token in _blocks(page) if token.content.lstrip().startswith(beginning)]
    if len(found) != 1:
        raise ValueError(f"{page}: {len(found)} blocks of commands begin with {beginning!r}")
    return found[0].splitlines()


def told(page: str, text: str) -> str:
    """The text, which stands in this page word for word: as inline code, or as a line of a block of commands, where a
    comment may follow it. ValueError: it does not."""
    inline = [token.content for token in _tokens(page) if token.type == "code_inline"]
    lines = [_COMMENT.sub("", line).strip() for token in _blocks(page) for line in logical(token.content)]
    if text not in inline and text not in lines:
        raise ValueError(f"{page} does not say {text!r}")
    return text


def chosen(page: str, beginning: str, choice: str) -> str:
    """One way to type the one command of this page that begins so and has brackets for what may be left out: its words
    up to the first option, then the choice. ValueError: there is none, or it has no such option."""
    found = {one.text for one in commands(page) if one.synopsis and one.text.startswith(beginning)}
    if len(found) != 1:
        raise ValueError(f"{page}: {len(found)} commands with brackets begin with {beginning!r}")
    (synopsis,) = found
    if unknown := Command(page, choice, inline=True).options - Command(page, synopsis, inline=True).options:
        raise ValueError(f"{page}: {synopsis} has no {min(unknown)}")
    head = re.split(r" (?=--|\[)", synopsis)[0]
    return f"{head} {choice}"


def filled(text: str, values: Mapping[str, str]) -> str:
    """The text with these values for what stands for them (ID, $SERVER). ValueError: one of the names is not there."""
    for name, value in values.items():
        text, times = re.subn(rf"(?<![\w$]){re.escape(name)}(?![\w])", value.replace("\\", r"\\"), text)
        if not times:
            raise ValueError(f"there is no {name} in {text!r}")
    return text


def arguments(text: str) -> list[str]:
    """The words that follow `perdure` in this command, as a shell makes them: for `perdure.cli.main.run`, which needs
    no process of its own."""
    program, *words = shlex.split(plain(text))
    if program != "perdure":
        raise ValueError(f"{text!r} calls {program}")
    return words


def typed(lines: list[str] | str, seconds: float, folder: Path = ROOT, **environment: str) -> str:
    """What a shell prints when somebody types these lines, with this clone's `perdure` and `$perdure`. AssertionError:
    one of them fails."""
    binaries = Path(sys.executable).parent
    shell = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # make runs the tests
    environment = {
        **shell,
        "COLUMNS": "160",
        "perdure": str(binaries / "perdure"),
        "PATH": f"{binaries}:{os.environ['PATH']}",
        **environment,
    }
    script = lines if isinstance(lines, str) else "\n".join(lines)
    argv = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(
        argv, cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds, check=False
    )
    assert done.returncode == 0, f"{script}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


def commands(page: str) -> Iterator[Command]:
    """All commands of a page."""
    for token in _blocks(page):
        for line in logical(token.content):
            if text := plain(line):
                yield Command(page, text, inline=False)
    for token in _tokens(page):
        if token.type == "code_inline" and (text := plain(token.content)).split(" ")[0] in PROGRAMS and " " in text:
            yield Command(page, text, inline=True)


def plain(line: str) -> str:
    """A line as it is compared: without comment and margin, with `perdure` however it is called."""
    return " ".join(_PERDURE.sub("perdure", _COMMENT.sub("", line)).split())


def _words(text: str) -> list[str]:
    """What the shell makes of a command, up to `--`; of one that no shell would take, what stands between blanks."""
    text = re.sub(r"^(?:\S+=\$\()?(?:[A-Z_]+=\S+ )*", "", text).replace("python -m", "python")
    text = re.sub(r"[][|…]|\.\.\.", " ", text).partition(" -- ")[0]
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def _path_of_ours(words: list[str]) -> tuple[str, ...]:
    found: Any = _perdure()
    path = ["perdure"]
    for word in words[1:]:
        if word not in getattr(found, "commands", {}):
            break
        found = found.commands[word]
        path.append(word)
    return tuple(path)


@cache
def _perdure() -> Any:
    return get_command(build())


def logical(content: str) -> list[str]:
    """Lines as the shell reads them: one that ends with a backslash goes on."""
    return re.sub(r"\\\n\s*", "", content).splitlines()


def _blocks(page: str) -> list[Token]:
    return [
        token
        for token in _tokens(page)
        if token.type == "code_block" or (token.type == "fence" and token.info.strip() in SHELL)
    ]


@cache
def _tokens(page: str) -> list[Token]:
    found = MarkdownIt().enable("table").parse((ROOT / page).read_text())
    return [one for token in found for one in [token, *(token.children or ())]]
