"""What the agent decides about networks: addresses of jobs, turns of restores that want one port, a job's own name."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.checkpoints import Surroundings
from perdure.domain.configuration import SystemConfiguration, effective_configuration
from perdure.domain.errors import RestoreFailed
from worker_agent.container.network import Ports, choose_address, keep_names
from worker_agent.engine.connections import Adapted, Binding, Connection


@given(st.text(max_size=40), st.lists(st.text(max_size=40), max_size=20))
def test_addresses_are_in_the_range_and_each_jobs_own(job_id: str, others: list[str]) -> None:
    taken: list[str] = []
    for one in [*others, job_id]:
        taken.append(choose_address(one, taken))
    assert len(set(taken)) == len(taken)
    assert all(ipaddress.ip_address(one) in ipaddress.ip_network("198.18.0.0/15") for one in taken)
    assert choose_address(job_id, []) == choose_address(job_id, [])


async def test_restores_that_want_one_port_go_one_after_the_other() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    need = [Binding(socket.AF_INET, socket.SOCK_STREAM, None, port)]
    other = [Binding(socket.AF_INET, socket.SOCK_DGRAM, None, port)]
    ports = Ports()
    await ports.claim("first", need)
    await ports.claim("first", need)
    await ports.claim("unlike", other)
    waiting = asyncio.create_task(ports.claim("second", need))
    done, _ = await asyncio.wait([waiting], timeout=0.2)
    assert not done
    with socket.create_server(("127.0.0.1", port)):  # the first is restored
        ports.release("first")
        with pytest.raises(RestoreFailed, match=rf"TCP port {port}.* process \d+"):
            await waiting
    await ports.claim("third", need)
    ports.release("third")
    ports.release("third")


@pytest.mark.parametrize(
    ("known", "wanted"),
    [
        (Surroundings(host_name="ip-10-0-0-5", address="198.18.3.4"), "127.0.0.1 localhost\n198.18.3.4\tip-10-0-0-5\n"),
        (Surroundings(host_name="here", address="198.18.3.4"), "127.0.0.1 localhost\n"),
        (Surroundings(host_name="a\n6.6.6.6 b", address="198.18.3.4"), "127.0.0.1 localhost\n"),
        (Surroundings(), "127.0.0.1 localhost\n"),
        (
            Surroundings(host_name="old", address="198.18.3.4", hosts=["127.0.0.1 localhost", "10.1.2.3 licence"]),
            "127.0.0.1 localhost\n10.1.2.3 licence\n198.18.3.4\told\n",
        ),
    ],
)
def test_the_names_that_a_job_has_lead_to_where_they_led(tmp_path: Path, known: Surroundings, wanted: str) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n")
    keep_names(hosts, Surroundings(host_name="here"), known)
    keep_names(None, Surroundings(host_name="here"), known)
    assert hosts.read_text() == wanted


def test_a_hosts_file_that_is_a_link_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    (tmp_path / "hosts").symlink_to(tmp_path / "precious")
    keep_names(tmp_path / "hosts", Surroundings(), Surroundings(host_name="old", address="198.18.3.4"))
    assert (tmp_path / "precious").read_text() == "x"


def test_people_are_told_what_ended() -> None:
    closed = tuple(Connection("tcp", f"52.1.2.{number}:443") for number in range(7))
    said = Adapted(closed, ("10.0.0.5",)).remark()
    assert said.startswith("7 connections to outside ended with the old node (52.1.2.0:443, ")
    assert "52.1.2.6" not in said and said.endswith("Sockets at 10.0.0.5 moved to this node's address.")
    assert Adapted().remark() == ""


def test_a_job_may_ask_for_a_network_of_its_own() -> None:
    effective, warnings = effective_configuration(SystemConfiguration(), {"PERDURE_CHECKPOINT_OWN_NETWORK": "yes"})
    assert effective.checkpoint.own_network and not warnings
    assert not SystemConfiguration().checkpoint.own_network
