"""`perdure doctor` of the release finds each fault that is planted on a machine, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.waiting import until
from tests.documents.book import told
from tests.patience import PATIENCE
from tests.release.machine import Machine, machine

pytestmark = [pytest.mark.timeout(1200)]


@pytest.fixture
def debian(base: Path, place: Path, release: Path) -> Iterator[Machine]:
    """The release is installed; nothing runs yet, and neither Temporal nor the metadata service is there."""
    with machine(base, place / "machine", release) as made:
        made.at("/etc/ecs").mkdir()
        made.at("/etc/docker").mkdir(exist_ok=True)
        made.at("/etc/docker/daemon.json").write_text('{"bridge": "none", "iptables": false}')
        argv = ["sh", "/release/perdure-install", "--from", "/release", "--temporal", "127.0.0.1:9"]
        made.must(*argv, "--set", "PERDURE_METADATA_URL=http://127.0.0.1:9")
        yield made


def _troubles(debian: Machine) -> dict[str, list[str]]:
    """Check → the severities of what it found."""
    done = debian.run("/opt/perdure/current/bin/perdure", "doctor", "--json")
    found: dict[str, list[dict[str, str]]] = json.loads(done.said.splitlines()[-1])
    errors = [one for several in found.values() for one in several if one["severity"] == "error"]
    assert done.status == (1 if errors else 0)
    assert all(one["mend"] and one["what"] for several in found.values() for one in several)
    return {name: [one["severity"] for one in several] for name, several in found.items() if several}


def test_it_finds_what_is_wrong_and_tells_it(debian: Machine) -> None:
    done = debian.run(*told("docs/install.md", "/opt/perdure/current/bin/perdure doctor").split())
    assert done.status == 1
    assert "ok       criu" in done.said and "error    temporal: Temporal at 127.0.0.1:9 does not answer" in done.said
    assert "mend: systemctl restart perdure-agent" in done.said
    away = {"metadata": ["error"], "temporal": ["error"]}
    assert _troubles(debian) == {"docker": ["error"], "agent": ["error"], **away}
    debian.start("agent", "sh", "-c", "set -a; . /etc/perdure/agent.env; exec /opt/perdure/current/bin/perdure-agent")
    debian.start_dockerd()
    until(debian.at("/run/perdure/agent.sock").exists, PATIENCE, 0.1, "the agent listens")
    assert _troubles(debian) == away
    text = "ECS_CONTAINER_START_TIMEOUT=3m\nECS_ENABLE_SPOT_INSTANCE_DRAINING=true\n"
    debian.at("/etc/ecs/ecs.config").write_text(text)
    debian.at("/etc/perdure/off").touch()
    assert _troubles(debian) == {"ecs": ["warning", "warning", "warning"], "docker": ["warning"], **away}
    debian.at("/opt/perdure/current/bin/perdure-runtime").unlink()
    assert _troubles(debian)["docker"] == ["error"]
