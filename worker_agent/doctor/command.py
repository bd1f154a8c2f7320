"""The part of `perdure doctor` that looks at this instance."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import asdict
from pathlib import Path

import typer

from perdure.domain.errors import ConfigurationInvalid
from perdure.settings import AgentSettings
from worker_agent.doctor.checks import Severity, examine

_ENVIRONMENT = Path("/etc/perdure/agent.env")
_NOT_PROTECTED = 1


def on_this_instance(as_json: bool) -> None:
    """Print what keeps jobs here from being protected, and what mends it. Changes nothing. Raises ConfigurationInvalid
    without root, typer.Exit(1) when jobs are not protected."""
    if os.geteuid() != 0:
        raise ConfigurationInvalid("doctor asks Docker and the agent, which answer to root: run it as root")
    _take_on(_ENVIRONMENT)
    found = asyncio.run(examine(AgentSettings()))
    troubles = [one for several in found.values() for one in several]
    if as_json:
        print(json.dumps({name: [asdict(one) for one in several] for name, several in found.items()}))
    else:
        for name, several in found.items():
            if not several:
                print(f"ok       {name}")
            for one in several:
                print(f"{one.severity:8} {name}: {one.what}\n         mend: {one.mend}")
    if any(one.severity is Severity.ERROR for one in troubles):
        raise typer.Exit(_NOT_PROTECTED)


def _take_on(file: Path) -> None:
    """The settings that the agent's service has, unless they are set here."""
    for line in file.read_text().splitlines() if file.exists() else []:
        name, equals, value = line.partition("=")
        if equals and not name.startswith("#"):
            os.environ.setdefault(name, value)
