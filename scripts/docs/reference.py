"""The reference pages, written from the code itself: commands, settings, configuration, API."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import typer.main
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from api.app import create_app
from perdure.cli.main import build
from perdure.domain.configuration import SystemConfiguration
from perdure.settings import AgentSettings, ApiSettings, CommandLineSettings, ControlSettings

_PROGRAMS: dict[str, tuple[type[BaseSettings], str]] = {
    "Agent": (AgentSettings, "On an instance, in /etc/perdure/agent.env (`perdure-install --set NAME=VALUE`)."),
    "Control worker": (ControlSettings, "`python -m activities`."),
    "API": (ApiSettings, "`python -m api`."),
    "Command line": (CommandLineSettings, "`perdure`."),
}
_GENERATED = "This page is generated from the code.\n"


def pages() -> dict[str, str]:
    """Path below docs/ → Markdown."""
    return {
        "reference/commands.md": "\n".join(_commands()),
        "reference/settings.md": "\n".join(_settings()),
        "reference/configuration.md": "\n".join(_configuration()),
        "reference/api.md": "\n".join(_api()),
    }


@cache
def command() -> Any:
    """The whole `perdure` command; one of click's commands, of whichever click Typer brings."""
    return typer.main.get_command(build())


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")


def _default(value: object) -> str:
    if value is PydanticUndefined or value is None or value == "":
        return ""
    return f"`{_cell(value)}`"


def _commands() -> Iterator[str]:
    yield f"# Commands\n\n{_GENERATED}"
    yield "Exit codes: 0 ok, 1 it failed, 2 usage, 3 unknown id, 4 time-out, 5 no stack.\n"
    yield from _command(command(), "perdure", 2)


def _command(found: Any, path: str, level: int) -> Iterator[str]:
    groups = getattr(found, "commands", None)
    if groups is None or path != "perdure":
        yield f"{'#' * level} {path}\n\n{_cell_text(found.help)}\n"
    rows = [
        (
            ", ".join([*one.opts, *one.secondary_opts]) if one.param_type_name == "option" else str(one.name).upper(),
            getattr(one, "help", "") or "",
            "" if isinstance(one.default, bool) or callable(one.default) else one.default,
        )
        for one in found.params
        if one.name not in {"help", "version"}
    ]
    if rows:
        yield "| argument | what it is | default |\n| --- | --- | --- |"
        yield (
            "\n".join(f"| `{_cell(name)}` | {_cell(words)} | {_default(value)} |" for name, words, value in rows) + "\n"
        )
    for name, below in sorted((groups or {}).items()):
        yield from _command(below, f"{path} {name}", min(level + (path != "perdure"), 4))


def _cell_text(words: str | None) -> str:
    return (words or "").replace("\b", "").replace("<", "&lt;").strip()


def _settings() -> Iterator[str]:
    yield f"# Settings\n\n{_GENERATED}"
    yield "What each program reads from its environment. Temporal's own variables (`TEMPORAL_ADDRESS`, …) and AWS's are"
    yield "read by their client libraries.\n"
    for title, (settings, words) in _PROGRAMS.items():
        yield f"## {title}\n\n{words}\n\n| variable | what it is | default |\n| --- | --- | --- |"
        for name, field in settings.model_fields.items():
            alias = field.validation_alias
            variable = f"PERDURE_{name.upper()}" if alias is None else " or ".join(getattr(alias, "choices", [alias]))
            described = field.description or _docstring(settings, name)
            yield f"| `{variable}` | {_cell(described)} | {_default(field.default)} |"
        yield ""


def _docstring(settings: type[BaseModel], name: str) -> str:
    """The text that stands below a field in the source, as this repository describes fields."""
    import ast
    import inspect
    import textwrap

    for one in settings.__mro__:
        if one.__module__.startswith("perdure"):
            body = ast.parse(textwrap.dedent(inspect.getsource(one))).body[0]
            assert isinstance(body, ast.ClassDef)
            for field, text in zip(body.body, body.body[1:], strict=False):
                named = (
                    isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and field.target.id == name
                )
                if named and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                    return str(text.value.value)
    return ""


def _configuration() -> Iterator[str]:
    yield f"# Configuration\n\n{_GENERATED}"
    yield "The sections that the server's database keeps. [How they are read and changed](../configuration.md).\n"
    for section, field in SystemConfiguration.model_fields.items():
        model = field.annotation
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            continue
        words = (model.__doc__ or "").strip().split("\n\n")[0]
        yield f"## {section}\n\n{_cell_text(words)}\n\n| field | what it is | default |\n| --- | --- | --- |"
        for name, one in model.model_fields.items():
            described = one.description or _docstring(model, name)
            value = one.default if one.default_factory is None else ""
            yield f"| `{section}.{name}` | {_cell(described)} | {_default(getattr(value, 'value', value))} |"
        yield ""


def _api() -> Iterator[str]:
    found: dict[str, Any] = create_app(ApiSettings(database_url="sqlite://", api_host="127.0.0.1")).openapi()
    yield f"# API\n\n{_GENERATED}"
    yield f"{found['info']['description']}\n"
    yield "The server has every field of every answer at `/docs`, and as OpenAPI at `/api/v1/openapi.json`.\n"
    by_tag: dict[str, list[tuple[str, str, dict[str, Any]]]] = {}
    for path, methods in found["paths"].items():
        for method, one in methods.items():
            by_tag.setdefault((one.get("tags") or ["other"])[0], []).append((method.upper(), path, one))
    for tag, several in by_tag.items():
        yield f"## {tag}\n\n| | path | what it does |\n| --- | --- | --- |"
        for method, path, one in several:
            yield f"| {method} | `{path}` | {_cell(one.get('summary', ''))} |"
        yield ""
