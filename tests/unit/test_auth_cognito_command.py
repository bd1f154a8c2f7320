"""`perdure auth cognito`: for whoever sits at the server's machine, locked out or not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import Engine

from perdure.cli.main import run
from perdure.records.access.audit import list_audit
from perdure.records.schema.database import open_engine, reading
from perdure.records.settings.configuration import configuration_history
from tests.documents.book import arguments, block, filled

ENABLE = ["auth", "cognito", "enable", "--region", "eu-west-1", "--user-pool-id", "eu-west-1_Pool", "--client-id", "4a"]


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    url = f"sqlite:///{tmp_path}/perdure.db"
    monkeypatch.setenv("PERDURE_DATABASE_URL", url)
    return open_engine(url)


def test_on_shown_and_off_again(database: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    enable, show, disable = block("docs/sign-in.md", "perdure auth cognito enable")
    pool = {"$REGION": "eu-west-1", "$POOL": "eu-west-1_Pool", "$CLIENT": "4a", "$DOMAIN": "https://x.example"}
    assert run([*arguments(filled(enable, pool)), "--admin-group", "leads"]) == 0
    assert "admin, leads" in capsys.readouterr().out
    assert run([*arguments(show), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["enabled"], shown["user_pool_id"], shown["admin_groups"]) == (
        True,
        "eu-west-1_Pool",
        ["admin", "leads"],
    )
    assert run(arguments(disable)) == 0
    assert run(["auth", "cognito", "enable"]) == 0, "the pool was kept"
    capsys.readouterr()
    assert run(arguments(show)) == 0
    assert "eu-west-1_Pool" in capsys.readouterr().out
    with reading(database) as session:
        assert [version.configuration.cognito.enabled for version in configuration_history(session)] == [
            True,
            False,
            True,
        ]
        actions = [(line.action, line.via) for line in list_audit(session).items]
    assert actions == [(f"perdure auth cognito {verb}", "cli") for verb in ("enable", "disable", "enable")]
    database.dispose()


@pytest.mark.parametrize(
    ("more", "word"),
    [
        (["--client-id", ""], "client_id"),
        (["--region", "Mars"], "--region"),
        (["--user-pool-id", "../../x"], "--user-pool-id"),
        (["--domain", "javascript:alert(1)"], "--domain"),
        (["--admin-group", "two words"], "--admin-group"),
    ],
)
def test_what_cannot_be_is_named(
    database: Engine, capsys: pytest.CaptureFixture[str], more: list[str], word: str
) -> None:
    assert run([*ENABLE, *more]) == 2
    assert word in capsys.readouterr().err
    database.dispose()
