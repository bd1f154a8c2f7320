"""`perdure config`: the server's configuration, read, set, edited in an editor, and its history."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import click
import typer

from perdure.cli.server import ApiServer, Server, find_server, token_of_environment
from perdure.cli.tables import AsJson, show_json, show_table, when
from perdure.domain.errors import ConfigurationInvalid

PATH = "/api/v1/configuration"
SECTIONS = ("checkpoint", "job_volume", "store", "log", "server", "cognito")

app = typer.Typer(help="The server's configuration.", no_args_is_help=True)
Key = Annotated[str, typer.Argument(metavar="[KEY]", help="Such as checkpoint.interval_seconds, or a section.")]


@app.command("get")
def get(key: Key = "", server: Server = "", as_json: AsJson = False) -> None:
    """Show the configuration, a section of it, or one value."""
    asked = find_server(server, token_of_environment())
    found = asked.get(PATH)
    settings = _settings(found)
    overridden = {one["field"]: one for one in found["overridden"]}
    wanted = {name: value for name, value in settings.items() if key in {"", name, name.partition(".")[0]}}
    if not wanted:
        raise ConfigurationInvalid(f"there is no setting {key[:80]!r}; `perdure config get` lists them")
    if as_json:
        nested: dict[str, Any] = {}
        for name, value in wanted.items():
            section, _, field = name.partition(".")
            nested.setdefault(section, {})[field] = value
        return show_json(nested)
    if key in settings:
        value = overridden[key]["value"] if key in overridden else wanted[key]
        return print(value if isinstance(value, str) else json.dumps(value))
    rows = []
    for name, value in wanted.items():
        other = overridden.get(name)
        shown = value if isinstance(value, str) else json.dumps(value)
        rows.append((name, shown, f"{other['value']}, by the server's {other['variable']}" if other else ""))
    show_table(["setting", "value", "in force instead"], rows, "")
    if any(name.startswith("job_volume.") for name in wanted):
        print()
        _show_volume_prices(asked)


@app.command("set")
def set_(
    changes: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="checkpoint.interval_seconds=15m")],
    server: Server = "",
) -> None:
    """Change settings, all or none. `KEY=` without a value: its default. Lists and maps are JSON."""
    body: dict[str, dict[str, Any]] = {}
    for change in changes:
        name, equals, text = change.partition("=")
        section, dot, field = name.partition(".")
        if not equals or not dot or section not in SECTIONS:
            raise ConfigurationInvalid(f"{change[:80]!r} is not SECTION.FIELD=VALUE; sections: {', '.join(SECTIONS)}")
        body.setdefault(section, {})[field] = _value(text)
    asked = find_server(server, token_of_environment())
    _tell(asked.ask("PATCH", PATH, body=body).json())
    if "job_volume" in body:
        _show_volume_prices(asked)


@app.command("edit")
def edit(
    section: Annotated[str, typer.Argument(help="One section only.")] = "",
    server: Server = "",
) -> None:
    """Open the configuration in $EDITOR. What somebody else changed meanwhile is not overwritten."""
    if section and section not in SECTIONS:
        raise ConfigurationInvalid(f"there is no section {section[:80]!r}; sections: {', '.join(SECTIONS)}")
    asked = find_server(server, token_of_environment())
    answer = asked.ask("GET", PATH)
    found = answer.json()
    before = {name: found[name] for name in ([section] if section else SECTIONS)}
    text = (
        click.edit(json.dumps(before, indent=2) + "\n", extension=".json") if sys.stdin.isatty() else sys.stdin.read()
    )
    if text is None:
        return print("nothing was changed", file=sys.stderr)
    try:
        after = json.loads(text)
    except json.JSONDecodeError as problem:
        raise ConfigurationInvalid(f"what you wrote is no JSON ({problem}); nothing was changed") from problem
    if after == before:
        return print("nothing was changed", file=sys.stderr)
    return _tell(asked.ask("PATCH", PATH, body=after, headers={"If-Match": answer.headers["ETag"]}).json())


@app.command("history")
def history(
    server: Server = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=200, help="As many at most.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show who changed what, newest first."""
    found = find_server(server, token_of_environment()).get(f"{PATH}/history", {"limit": limit})["items"]
    if as_json:
        return show_json(found)
    rows = [
        (
            version["number"],
            when(version["at"]),
            version["by"],
            one["field"],
            json.dumps(one["old"]),
            json.dumps(one["new"]),
        )
        for version in found
        for one in version["changes"]
    ]
    return show_table([">version", "time (UTC)", "who", "setting", "before", "after"], rows, "Never changed.")


def _show_volume_prices(asked: ApiServer) -> None:
    """What jobs of some sizes get, and what AWS charges for it."""
    found = asked.get(f"{PATH}/job_volume/prices")
    rows = [
        (
            f"{one['memory_mib'] / 1024:g} GiB",
            f"{one['size_gib']} GiB",
            f"{one['throughput_mib_per_second']} MiB/s" if one["throughput_mib_per_second"] else "its type's",
            "not known" if one["usd_per_hour"] is None else f"${one['usd_per_hour']:.4f}",
            "estimated" if one["estimated"] else "",
        )
        for one in found
    ]
    show_table([">a job that asks for", ">volume", ">throughput", ">an hour", ""], rows, "")


def _settings(found: dict[str, Any]) -> dict[str, Any]:
    return {f"{section}.{field}": value for section in SECTIONS for field, value in found[section].items()}


def _value(text: str) -> Any:
    """JSON where it is JSON, else text; nothing is the default (null)."""
    if not text:
        return None
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _tell(changed: dict[str, Any]) -> None:
    """Of a change: what is different, and what people should know."""
    for one in changed["changes"]:
        print(f"{one['field']}: {json.dumps(one['old'])} -> {json.dumps(one['new'])}")
    print(f"version {changed['number']} holds" + ("" if changed["changes"] else ": it was so already"))
    for words in [*changed["notes"], *changed["warnings"]]:
        print(words, file=sys.stderr)
