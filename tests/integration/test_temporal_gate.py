"""Who shows no certificate of ours gets nothing of Temporal, and certainly no signal into a workflow."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.client import Client, TLSConfig

from perdure.settings import connect_temporal
from tests.integration.temporal_gate import Gate, certificates, gate
from tests.temporal_server import dev_server

JOB = "batch-job/hostile"


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[tuple[Client, Gate]]:
    """The server's own client, and the gate. A workflow is open; nobody works on it."""
    async with await dev_server() as environment:
        await environment.client.start_workflow("JobProtection", id=JOB, task_queue="nobody")
        with gate(tmp_path / "certificates", environment.client.service_client.config.target_host) as found:
            yield environment.client, found


async def signals(client: Client) -> list[str]:
    history = await client.get_workflow_handle(JOB).fetch_history()
    return [
        event.workflow_execution_signaled_event_attributes.signal_name
        for event in history.events
        if event.HasField("workflow_execution_signaled_event_attributes")
    ]


async def test_an_instance_is_let_in_and_nobody_else(
    opened: tuple[Client, Gate], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, found = opened
    address = f"127.0.0.1:{found.port}"
    authority = (found.certificates / "authority.crt").read_bytes()
    theirs = certificates(tmp_path / "theirs")
    stranger = TLSConfig(
        server_root_ca_cert=authority,
        client_cert=(theirs / "instances.crt").read_bytes(),
        client_private_key=(theirs / "instances.key").read_bytes(),
    )
    for tls in (False, True, TLSConfig(server_root_ca_cert=authority), stranger):
        with pytest.raises(RuntimeError):
            client = await Client.connect(address, tls=tls)
            await client.get_workflow_handle(JOB).signal("node_report", "forged")
    assert await signals(inside) == []

    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", str(found.configuration))
    for name in [name for name in os.environ if name.startswith("TEMPORAL_") and name != "TEMPORAL_CONFIG_FILE"]:
        monkeypatch.delenv(name)
    node = await connect_temporal(lazy=False)
    await node.get_workflow_handle(JOB).signal("node_report", "true")
    assert await signals(inside) == ["node_report"], "this way works: the gate refused the others"


def test_the_keys_are_for_their_owner_alone_and_are_not_made_twice(tmp_path: Path) -> None:
    folder = certificates(tmp_path / "certificates")
    assert folder.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    certificates(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
