"""The installer's editor of daemon.json and ecs.config: it merges, and takes back what it did, to the byte."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.worker import edit_files as editor
from tests.patience import PATIENCE

EDITOR = Path(__file__).parents[2] / "deploy/worker/edit_files.py"
RUNTIME = "/opt/perdure/current/bin/perdure-runtime"
names = st.text(st.characters(categories=["L", "N"], include_characters="-_."), min_size=1, max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=2)
)
runtimes = st.dictionaries(names, st.fixed_dictionaries({"path": names}), max_size=2)
settings = st.dictionaries(names.filter(lambda name: name not in {"runtimes", "default-runtime"}), values, max_size=4)
configurations = st.builds(
    lambda base, known, default: (
        base | ({"runtimes": known} if known else {}) | ({"default-runtime": default} if default else {})
    ),
    settings,
    runtimes,
    st.sampled_from(["", "runc", "perdure", "nvidia"]),
)
texts = st.builds(
    lambda found, indent: json.dumps(found, indent=indent), configurations, st.sampled_from([None, 1, 2, 4, "\t"])
)


def edited(before: str, replace: bool = False) -> str:
    return editor.edit_daemon_json(before, "daemon.json", RUNTIME, replace)


@given(texts)
def test_what_is_there_stays_and_ours_is_added(before: str) -> None:
    old, new = json.loads(before), json.loads(edited(before))
    assert new["runtimes"]["perdure"] == {"path": RUNTIME}
    assert new["default-runtime"] == ("nvidia" if old.get("default-runtime") == "nvidia" else "perdure")
    ours = {"runtimes", "default-runtime"}
    assert {name: new[name] for name in new.keys() - ours} == {name: old[name] for name in old.keys() - ours}
    others = {name: value for name, value in old.get("runtimes", {}).items() if name not in {"perdure", "nvidia"}}
    assert others.items() <= new["runtimes"].items()
    assert edited(edited(before)) == edited(before), "a second time changes nothing"


@given(texts, settings)
def test_undo_leaves_what_others_changed_since(before: str, theirs: dict[str, object]) -> None:
    after = edited(before)
    current = json.dumps(json.loads(after) | theirs)
    undone = editor.undo_daemon_json(current, before, after)
    assert json.loads(undone or "{}") == json.loads(before) | theirs


def test_a_default_runtime_of_somebodys() -> None:
    with pytest.raises(editor.Refused, match="--replace-runtime"):
        edited('{"default-runtime": "crun"}')
    assert json.loads(edited('{"default-runtime": "crun"}', replace=True))["default-runtime"] == "perdure"


def test_nvidias_runtime_keeps_its_arguments_and_runs_below_ours() -> None:
    before = '{"runtimes": {"nvidia": {"path": "nvidia-container-runtime", "runtimeArgs": ["--x"]}}}'
    assert json.loads(edited(before))["runtimes"]["nvidia"] == {"path": f"{RUNTIME}-nvidia", "runtimeArgs": ["--x"]}


@pytest.mark.parametrize("text", ["{,}", "[]", '{"runtimes": []}', '{"a": 1, "a": 2}', '"x"', '{"a": 1} x'])
def test_what_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(editor.Refused, match=r"daemon\.json"):
        edited(text)


lines = st.lists(
    st.sampled_from(
        [
            *("# a comment", "", "ECS_CLUSTER=genomics", "ECS_CONTAINER_START_TIMEOUT=4m", " ECS_LOGLEVEL = debug"),
            *("ECS_CONTAINER_START_TIMEOUT=1h", "ECS_CONTAINER_CREATE_TIMEOUT=16m", "#ECS_CONTAINER_CREATE_TIMEOUT=1m"),
            *("ECS_ENABLE_SPOT_INSTANCE_DRAINING=true", 'ECS_INSTANCE_ATTRIBUTES={"a": "b=c"}', "é", "not a setting"),
        ]
    ),
    max_size=6,
    unique_by=lambda line: line.partition("=")[0],
)


@given(lines, st.booleans())
def test_ecs_settings_are_raised_and_put_back(found: list[str], whole: bool) -> None:
    before = "\n".join(found) + ("\n" if whole and found else "")
    after = editor.edit_ecs_config(before)
    there = dict(editor._ecs_lines(after))
    assert editor.seconds(there["ECS_CONTAINER_START_TIMEOUT"]) >= 960 and there[editor.ECS_DRAINING] == "false"
    assert editor.seconds(there["ECS_CONTAINER_CREATE_TIMEOUT"]) >= 900
    names_of = [name for name, _ in editor._ecs_lines(after)]
    assert len(names_of) == len(set(names_of)), "each setting once: which of two counts is not written anywhere"
    assert editor.edit_ecs_config(after) == after
    theirs = after + "ECS_NUM_IMAGES_DELETE_PER_CYCLE=5\n"
    old = dict(editor._ecs_lines(before)) | {"ECS_NUM_IMAGES_DELETE_PER_CYCLE": "5"}
    assert dict(editor._ecs_lines(editor.undo_ecs_config(theirs, before, after))) == old


@pytest.mark.parametrize(
    ("text", "expected"), [("16m", 960), ("1h30m", 5400), ("90s", 90), ("1.5h", 5400), ("", 0), ("ten", 0), ("5", 0)]
)
def test_durations_as_go_writes_them(text: str, expected: float) -> None:
    assert editor.seconds(text) == expected


def run(*argv: str) -> str:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(EDITOR), *argv], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("content", [None, b"", b'{"labels": ["\xc3\xa9"]}', b'{\r\n "debug":true }'])
def test_files_come_back_byte_for_byte(content: bytes | None, tmp_path: Path) -> None:
    path, record = tmp_path / "docker/daemon.json", tmp_path / "edits.json"
    if content is not None:
        path.parent.mkdir()
        path.write_bytes(content)
        path.chmod(0o640)
        os.utime(path, ns=(10**18, 10**18))
    options = ["--daemon-json", str(path), "--runtime", RUNTIME]
    assert '"perdure"' in run("diff", str(record), *options)
    assert not record.exists()
    run("edit", str(record), *options)
    assert json.loads(path.read_text())["default-runtime"] == "perdure"
    run("edit", str(record), *options)
    run("undo", str(record))
    if content is None:
        assert not path.parent.exists()
    else:
        about = path.stat()
        assert (path.read_bytes(), about.st_mode & 0o7777, about.st_mtime_ns) == (content, 0o640, 10**18)
    assert not record.exists()
    run("undo", str(record))


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("{}")
    (tmp_path / "daemon.json").symlink_to("real.json")
    run("edit", str(tmp_path / "edits.json"), "--daemon-json", str(tmp_path / "daemon.json"), "--runtime", RUNTIME)
    assert (tmp_path / "daemon.json").is_symlink() and "perdure" in (tmp_path / "real.json").read_text()
    run("undo", str(tmp_path / "edits.json"))
    assert (tmp_path / "real.json").read_text() == "{}"
