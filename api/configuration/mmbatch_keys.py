"""Every configuration key that MMBatch documents: which of our settings it is, or why it means nothing here.

Values come as its scripts write them: all text in `configKV` (lists with commas, maps as `k:v,k:v`), JSON elsewhere;
durations as Go writes them or as integers of nanoseconds. https://docs.memverge.com/MMBatch/latest/User%20Guide/api
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from pydantic import JsonValue

from perdure.domain.configuration import SystemConfiguration
from perdure.domain.job_settings import IMAGE_PATH_WHY
from perdure.domain.values import parse_duration

_TRUE, _FALSE = {"true", "1", "yes", "on"}, {"false", "0", "no", "off"}
_DROPPED = {"accessKey", "secretKey", "token"}


def _boolean(value: JsonValue) -> bool:
    word = str(value).strip().lower()
    if word not in _TRUE | _FALSE:
        raise ValueError("must be true or false")
    return word in _TRUE


def _mode(value: JsonValue) -> bool:
    word = str(value).strip().lower()
    if word not in _TRUE | _FALSE | {"iterative", "none"}:
        raise ValueError("must be iterative or none (true and false mean the same)")
    return word in _TRUE or word == "iterative"


def _duration(value: JsonValue) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError("must be a duration such as 15m or 1h30m, or a whole number of nanoseconds")
    return parse_duration(str(value))


def _number(value: JsonValue) -> int:
    if isinstance(value, str) and len(value) < 20 and value.strip().removeprefix("-").isdecimal():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("must be a whole number")
    return value


def _text(value: JsonValue) -> str:
    if not isinstance(value, str) or len(value) > 1000 or not value.isprintable():
        raise ValueError("must be printable text of at most 1000 characters")
    return value.strip()


def _texts(value: JsonValue) -> list[JsonValue]:
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    if not isinstance(value, list) or len(value) > 100:
        raise ValueError("must be a list of at most 100 texts, or one text with commas")
    return [_text(part) for part in value]


def _pairs(value: JsonValue) -> dict[str, JsonValue]:
    if isinstance(value, str):
        parts = [part.partition(":") for part in value.split(",") if part.strip()]
        if any(not colon for _, colon, _ in parts):
            raise ValueError("must be pairs such as owner:ada,team:science")
        value = {name: text for name, _, text in parts}
    if not isinstance(value, dict) or len(value) > 100:
        raise ValueError("must be a map of texts, or pairs such as owner:ada,team:science")
    return {_text(name): _text(text) for name, text in value.items()}


def _address(value: JsonValue) -> dict[str, JsonValue]:
    """`https://0.0.0.0:8081`: whether TLS is spoken depends on the certificate alone."""
    text = _text(value)
    try:
        url = urlsplit(text if "://" in text else f"//{text}")
        host, port = url.hostname, url.port
    except ValueError:
        host, port = None, None
    if not host or port is None:
        raise ValueError("must be an address with its port, such as https://0.0.0.0:8081")
    return {"server.address": host, "server.port": port}


@dataclass(frozen=True)
class Key:
    """One key. `read` makes our value of theirs (ValueError says what is allowed); `ours` is the setting, or empty and
    then `why` says why there is none and `usual` what is shown while nobody set it."""

    read: Callable[[JsonValue], JsonValue]
    ours: str = ""
    why: str = ""
    usual: JsonValue = None


_FILES_WHY = "a checkpoint always holds all of the job's own files: its root layer, its data and its scratch folders"
_SIGNAL_WHY = "on a notice the node itself takes the final checkpoint; a SIGTERM is left to the job"
_AGENT_WHY = "agents report changes at once, and a node that says nothing is looked up in EC2 every 20 seconds"

KEYS: dict[str, Key] = {
    "addr": Key(lambda value: _address(value), "server.address"),
    "id": Key(_text, why="the server needs no id: its database is what makes it this one", usual="perdure"),
    "staticFolder": Key(_text, why="the web pages are part of the program", usual=""),
    "security.certFile": Key(lambda value: _text(value) or None, "server.cert_file"),
    "security.keyFile": Key(lambda value: _text(value) or None, "server.key_file"),
    "security.cognito.enabled": Key(_boolean, "cognito.enabled"),
    "security.cognito.region": Key(_text, "cognito.region"),
    "security.cognito.userPoolID": Key(_text, "cognito.user_pool_id"),
    "security.cognito.identityPoolID": Key(_text, "cognito.identity_pool_id"),
    "security.cognito.clientID": Key(_text, "cognito.client_id"),
    "security.cognito.adminGroups": Key(lambda value: _texts(value), "cognito.admin_groups"),
    "ckpt.ckptMode": Key(_mode, "checkpoint.enabled"),
    "ckpt.ckptInterval": Key(_duration, "checkpoint.interval_seconds"),
    "ckpt.diagnosisMode": Key(_boolean, "checkpoint.diagnosis"),
    "ckpt.ckptImagePath": Key(_text, why=IMAGE_PATH_WHY, usual="/mmc-checkpoint"),
    "ckpt.ckptFiles": Key(lambda value: _texts(value), why=_FILES_WHY, usual=[]),
    "ckpt.IRMapScanPaths": Key(
        lambda value: _texts(value), why="the agent finds out by itself which files a job watches", usual=[]
    ),
    "ckpt.ckptOnSigTerm": Key(_boolean, why=_SIGNAL_WHY, usual=False),
    "ckpt.rootFSDiff": Key(_boolean, why=_FILES_WHY, usual=True),
    "ckpt.cloudWatchMode": Key(
        _boolean, why="logs are files and API answers; AWS's own agent can ship the files to CloudWatch", usual=False
    ),
    "ckpt.tcpClose": Key(
        _boolean,
        why="connections are always settled at a restore: loopback ones are kept, others are closed so that programs"
        " see it",
        usual=False,
    ),
    "node.heartbeat": Key(_duration, why=_AGENT_WHY, usual=30.0),
    "node.ttl": Key(_duration, why=_AGENT_WHY, usual=300.0),
    "node.maxPerLogSizeMB": Key(_number, "log.node_max_size_mb"),
    "node.maxNodeLogTotalMB": Key(_number, "log.node_total_mb"),
    "node.cleanLogInterval": Key(
        _duration, why="a log file is rotated, and the oldest removed, as soon as it is full", usual=43_200.0
    ),
    "job.ebsPerJob": Key(_boolean, "job_volume.enabled"),
    "job.ebsMountPath": Key(_text, "job_volume.mount_path"),
    "job.diskType": Key(_text, "job_volume.volume_type"),
    "job.diskSizeGB": Key(_number, "job_volume.size_gib"),
    "job.customTags": Key(lambda value: _pairs(value), "job_volume.tags"),
    "job.storCleanIntvl": Key(
        _duration,
        why="a job's volume is deleted as soon as the job is over, and orphans are looked for every hour",
        usual=86_400.0,
    ),
    "job.retentionPolicy": Key(
        _text, why="records are kept by time: see job.successTTL and job.failureTTL", usual="time"
    ),
    "job.retentionInterval": Key(_duration, why="the server cleans up in its own rhythm", usual=3600.0),
    "job.successTTL": Key(_duration, "server.keep_succeeded_seconds"),
    "job.failureTTL": Key(_duration, "server.keep_failed_seconds"),
    "log.level": Key(_text, "log.level"),
    "log.maxSizeMB": Key(_number, "log.max_size_mb"),
    "log.maxBackups": Key(_number, "log.max_backups"),
}
_THEIRS = {key.ours: name for name, key in KEYS.items() if key.ours} | {"server.port": "addr"}


@dataclass(frozen=True)
class Reading:
    """What a request with their keys means: our settings (`section.field` → value), keys kept without effect, and
    sentences for whoever asked. `problems`: their key → what is allowed."""

    ours: dict[str, JsonValue]
    kept: dict[str, JsonValue]
    notes: list[str]
    problems: dict[str, str]


def read_keys(values: Mapping[str, JsonValue]) -> Reading:
    """Understand keys and values as MMBatch's scripts send them. AWS keys are dropped, and the notes say so."""
    found = Reading({}, {}, [], {})
    for name, value in values.items():
        key = KEYS.get(name)
        if name.rpartition(".")[2] in _DROPPED:
            found.notes.append(f"{name[-60:]} was dropped: Perdure goes by its role and never keeps AWS keys.")
        elif key is None:
            near = difflib.get_close_matches(name[:100], KEYS, 1)
            found.problems[name[:100]] = f"there is no such key{f'; did you mean {near[0]}?' if near else ''}"
        else:
            _read_one(found, name, key, value)
    return found


def _read_one(found: Reading, name: str, key: Key, value: JsonValue) -> None:
    try:
        understood = key.read(value)
    except ValueError as problem:
        found.problems[name] = str(problem)
        return
    if not key.ours:
        found.kept[name] = understood
        found.notes.append(f"{name} was accepted, without effect: {key.why}.")
    elif name == "addr" and isinstance(understood, dict):
        found.ours.update(understood)
    else:
        found.ours[key.ours] = understood


def theirs(setting: str) -> str:
    """Their key for a setting of ours (`section.field`); ours again where they have none."""
    return _THEIRS.get(setting, setting)


def why_without_effect(name: str) -> str:
    """Why a key that is kept means nothing here."""
    return KEYS[name].why if name in KEYS else "it means nothing here"


def as_theirs(stored: SystemConfiguration) -> dict[str, JsonValue]:
    """The configuration in MMBatch's shape: nested objects, Go durations."""
    shape: dict[str, JsonValue] = {}
    for name, key in KEYS.items():
        *path, last = name.split(".")
        at = shape
        for part in path:
            below = at.setdefault(part, {})
            assert isinstance(below, dict)
            at = below
        at[last] = _shown(name, key, stored)
    return shape


def _shown(name: str, key: Key, stored: SystemConfiguration) -> JsonValue:
    if name == "addr":
        host = stored.server.address
        scheme = "https" if stored.server.cert_file else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{stored.server.port}"
    if key.ours:
        section, field = key.ours.split(".")
        value = getattr(getattr(stored, section), field)
    else:
        value = stored.without_effect.get(name, key.usual)
    if key.read is _mode:
        return "iterative" if value else "none"
    if key.read is _duration:
        return go_duration(value)
    return "" if value is None else value


def go_duration(seconds: float) -> str:
    """As Go prints one: 5400 is `1h30m0s`, 30 is `30s`, 0 is `0s`."""
    hours, rest = divmod(seconds, 3600)
    minutes, left = divmod(rest, 60)
    shown = f"{left:g}s"
    if hours or minutes:
        shown = f"{minutes:.0f}m{shown}"
    return f"{hours:.0f}h{shown}" if hours else shown
