"""io_uring is taken away from containers, and nothing else is."""

from __future__ import annotations

import copy
import errno
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.configuration import SystemConfiguration, effective_configuration
from worker_agent.container.seccomp import IO_URING, refuse_io_uring

OURS = {"names": list(IO_URING), "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS}


@pytest.mark.parametrize("config", [{}, {"linux": None}, {"linux": {"seccomp": None}}, {"linux": {"namespaces": []}}])
def test_a_container_without_a_filter_gets_one_that_allows_all_else(config: dict[str, Any]) -> None:
    assert refuse_io_uring(config, "x86_64")
    seccomp = config["linux"]["seccomp"]
    assert seccomp["defaultAction"] == "SCMP_ACT_ALLOW"
    assert seccomp["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    assert seccomp["syscalls"] == [OURS]


def test_docker_s_list_loses_io_uring_and_keeps_the_rest() -> None:
    docker: dict[str, Any] = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [
            {"names": ["accept", "io_uring_enter", "io_uring_setup", "write"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["io_uring_register"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
        ],
    }
    config = {"linux": {"seccomp": copy.deepcopy(docker)}}
    assert refuse_io_uring(config, "x86_64")
    changed = config["linux"]["seccomp"]
    assert changed["syscalls"] == [
        {"names": ["accept", "write"], "action": "SCMP_ACT_ALLOW"},
        docker["syscalls"][2],
        OURS,
    ]
    assert {**changed, "syscalls": []} == {**docker, "syscalls": []}


def test_a_filter_that_kills_stays_as_strict() -> None:
    rule = {"names": ["io_uring_setup", "bpf"], "action": "SCMP_ACT_KILL_PROCESS"}
    config: dict[str, Any] = {"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}}}
    assert refuse_io_uring(config, "aarch64")
    assert config["linux"]["seccomp"]["syscalls"] == [rule, {**OURS, "names": ["io_uring_enter", "io_uring_register"]}]


def test_an_unknown_machine_is_left_alone() -> None:
    config: dict[str, Any] = {"linux": {}}
    assert not refuse_io_uring(config, "s390x")
    assert config == {"linux": {}}


_NAMES = st.lists(st.sampled_from([*IO_URING, "read", "write", "clone3"]), max_size=4)
_RULES = st.lists(
    st.fixed_dictionaries({"names": _NAMES, "action": st.sampled_from(["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"])})
)


@given(_RULES)
def test_whatever_the_list_says_io_uring_has_one_rule_and_other_calls_keep_theirs(rules: list[dict[str, Any]]) -> None:
    config: dict[str, Any] = {"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules}}}

    def others(syscalls: list[dict[str, Any]]) -> list[tuple[str, str]]:
        return [(name, rule["action"]) for rule in syscalls for name in rule["names"] if name not in IO_URING]

    before = others(rules)
    for _ in range(2):
        assert refuse_io_uring(config, "x86_64")
        after = config["linux"]["seccomp"]["syscalls"]
        assert others(after) == before
        assert [rule for rule in after if set(rule["names"]) & set(IO_URING)] == [OURS]


def test_it_can_be_turned_off_for_one_job() -> None:
    effective, warnings = effective_configuration(SystemConfiguration(), {"PERDURE_REFUSE_IO_URING": "no"})
    assert not effective.checkpoint.refuse_io_uring
    assert warnings == []
    assert SystemConfiguration().checkpoint.refuse_io_uring
