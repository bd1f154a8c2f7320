"""MMBatch's configuration keys: every one is understood, in every spelling that its scripts use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from api.configuration.mmbatch_keys import KEYS, as_theirs, go_duration, read_keys
from perdure.domain.configuration import (
    CheckpointConfiguration,
    JobVolumeConfiguration,
    LogConfiguration,
    ServerConfiguration,
    SystemConfiguration,
)
from perdure.domain.values import parse_duration

DOCUMENTED = """
addr id staticFolder security.certFile security.keyFile security.cognito.enabled security.cognito.userPoolID
security.cognito.identityPoolID security.cognito.clientID security.cognito.adminGroups ckpt.ckptMode ckpt.ckptImagePath
ckpt.ckptInterval ckpt.ckptFiles ckpt.IRMapScanPaths ckpt.ckptOnSigTerm ckpt.diagnosisMode ckpt.rootFSDiff
ckpt.cloudWatchMode ckpt.tcpClose node.heartbeat node.ttl node.maxPerLogSizeMB node.maxNodeLogTotalMB
node.cleanLogInterval job.ebsPerJob job.customTags job.ebsMountPath job.diskType job.diskSizeGB job.storCleanIntvl
job.retentionPolicy job.retentionInterval job.successTTL job.failureTTL log.level log.maxSizeMB log.maxBackups
"""
"""Every key of its sample output, https://docs.memverge.com/MMBatch/latest/User%20Guide/api."""


def test_every_documented_key_is_known_and_explained() -> None:
    assert set(KEYS) == {*DOCUMENTED.split(), "security.cognito.region"}
    for name, key in KEYS.items():
        assert bool(key.ours) != bool(key.why), name
    page = (Path(__file__).parents[2] / "docs/configuration.md").read_text()
    for name, key in KEYS.items():
        assert f"`{name}`" in page and (key.ours or key.why) in page, f"docs/configuration.md lacks {name}"


def test_ours_are_settings_that_exist() -> None:
    sections = {name: dict(value) for name, value in SystemConfiguration()}
    for key in KEYS.values():
        if key.ours:
            section, field = key.ours.split(".")
            assert field in sections[section]


CONFIGURED = SystemConfiguration(
    checkpoint=CheckpointConfiguration(enabled=False, interval_seconds=5400, diagnosis=True),
    job_volume=JobVolumeConfiguration(
        enabled=False, volume_type="gp2", size_gib=7, mount_path="/mnt/x", tags={"a": "b", "team": "science"}
    ),
    log=LogConfiguration(level="error", max_size_mb=3, max_backups=2, node_max_size_mb=5, node_total_mb=50),
    server=ServerConfiguration(
        address="::1",
        port=8081,
        cert_file="/x.crt",
        key_file="/x.key",
        keep_succeeded_seconds=60,
        keep_failed_seconds=0,
    ),
    without_effect={"ckpt.tcpClose": True, "node.ttl": 90.0, "ckpt.ckptFiles": ["/a", "/b"]},
)


@pytest.mark.parametrize("configured", [CONFIGURED, SystemConfiguration()])
@pytest.mark.parametrize("as_text", [True, False])
def test_what_it_is_shown_can_be_sent_back(configured: SystemConfiguration, as_text: bool) -> None:
    values = flat(as_theirs(configured))
    found = read_keys({name: text_of(value) if as_text else value for name, value in values.items()})
    assert found.problems == {}
    back = SystemConfiguration.model_validate(
        {
            section: dict(getattr(configured, section))
            | {name.split(".")[1]: value for name, value in found.ours.items() if name.startswith(f"{section}.")}
            for section in ("checkpoint", "job_volume", "log", "server", "cognito")
        }
        | {"without_effect": configured.without_effect}
    )
    assert back == configured
    assert configured.without_effect.items() <= found.kept.items()


@given(st.integers(0, 366 * 86400))
def test_durations_as_go_prints_them_are_read_back(seconds: int) -> None:
    assert parse_duration(go_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (30, "30s"), (300, "5m0s"), (3600, "1h0m0s"), (5400, "1h30m0s"), (1.5, "1.5s")]
)
def test_durations_look_like_gos(seconds: float, text: str) -> None:
    assert go_duration(seconds) == text


@pytest.mark.parametrize(
    ("key", "sent", "meant"),
    [
        ("ckpt.ckptInterval", 120_000_000_000, 120.0),
        ("ckpt.ckptInterval", "120000000000", 120.0),
        ("ckpt.ckptInterval", "0", 0.0),
        ("ckpt.ckptMode", "iterative", True),
        ("ckpt.ckptMode", "TRUE", True),
        ("ckpt.ckptMode", False, False),
        ("ckpt.ckptMode", "none", False),
        ("security.cognito.adminGroups", "admin, ops,", ["admin", "ops"]),
        ("job.customTags", "owner:ada,url:https://x/y,", {"owner": "ada", "url": "https://x/y"}),
        ("security.certFile", "", None),
    ],
)
def test_spellings(key: str, sent: JsonValue, meant: JsonValue) -> None:
    found = read_keys({key: sent})
    assert list(found.ours.values()) == [meant] and not found.problems


@given(st.dictionaries(st.sampled_from([*KEYS, "other", "security.cognito.secretKey"]), st.text() | st.integers()))
def test_nothing_breaks_it_and_nothing_is_lost(values: dict[str, JsonValue]) -> None:
    found = read_keys(values)
    secrets = {"security.cognito.secretKey"} & set(values)
    understood = {name for name in values if name in KEYS and name not in found.problems}
    assert set(found.problems) | understood | secrets == set(values)
    assert found.kept.keys() == {name for name in understood if not KEYS[name].ours}


def flat(shape: Mapping[str, JsonValue], before: str = "") -> dict[str, JsonValue]:
    """Nested objects as full paths of keys."""
    found: dict[str, JsonValue] = {}
    for name, value in shape.items():
        if isinstance(value, dict) and f"{before}{name}" not in KEYS:
            found |= flat(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = value
    return found


def text_of(value: JsonValue) -> str:
    """As `configKV` wants it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, dict):
        return ",".join(f"{name}:{text}" for name, text in value.items())
    return str(value)
