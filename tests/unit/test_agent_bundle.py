"""What the agent reads from a container's bundle, and what it writes into it."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.configuration import JobVolumeConfiguration
from perdure.domain.errors import NotCheckpointable, RestoreFailed
from perdure.image.mounts import Mount
from worker_agent.container.bundle import JOB_ID, Bundle, edit_config, read_bundle, restore_config
from worker_agent.container.mounts import BundleMount, check_same, find_rules, make_volumes, shared_destinations
from worker_agent.container.restored_network import add_network_hook
from worker_agent.engine.overlay import seen

BIND = ["rbind", "rw"]
NAMESPACES = [{"type": kind} for kind in ("pid", "ipc", "mount", "uts")]


def config(env: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    variables = {"PATH": "/bin", "AWS_BATCH_JOB_ID": "a-job:3", "AWS_BATCH_JOB_ATTEMPT": "2", **(env or {})}
    return {
        "ociVersion": "1.0.2",
        "process": {"args": ["true"], "env": [f"{name}={value}" for name, value in variables.items()]},
        "root": {"path": "rootfs"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"cgroupsPath": "/a/b", "namespaces": NAMESPACES},
        **more,
    }


def bundle(folder: Path, content: dict[str, Any]) -> Bundle:
    (folder / "config.json").write_text(json.dumps(content))
    read = read_bundle(folder)
    assert read is not None
    return read


def mount(destination: str, *options: str, source: str = "/srv/x", kind: str = "bind") -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def test_a_batch_container_is_read(tmp_path: Path) -> None:
    read = bundle(tmp_path, config({"PERDURE_CHECKPOINT_INTERVAL": "5m", "SECRET": "x"}))
    assert (read.job_id, read.attempt, read.cgroups_path) == ("a-job:3", 2, "/a/b")
    assert read.rootfs == tmp_path / "rootfs"
    assert read.environment == {"PERDURE_CHECKPOINT_INTERVAL": "5m"}


def test_a_bind_of_a_link_becomes_one_of_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "init").write_text("")
    (tmp_path / "link").symlink_to("init")
    binds = [
        mount("/sbin/docker-init", "bind", "ro", source=str(tmp_path / "link")),
        mount("/x", "bind", source="/etc"),
    ]
    read = bundle(tmp_path, config(mounts=binds))
    kept = tmp_path / "kept"
    kept.mkdir()
    edit_config(read, job_root=tmp_path, mount_path="/data", rules=[], criu_config=tmp_path / "c", keep_in=kept)
    edited = json.loads((tmp_path / "config.json").read_text())["mounts"]
    assert [one["source"] for one in edited][:2] == [str(tmp_path / "init"), "/etc"]


@pytest.mark.parametrize("job_id", ["", "../../etc", "a b", "x;rm -rf /", "a\nb", "ä", "n" * 129, "\udcff"])
def test_a_job_id_that_is_none_makes_no_batch_job(tmp_path: Path, job_id: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config({"AWS_BATCH_JOB_ID": job_id})))
    assert read_bundle(tmp_path) is None


@pytest.mark.parametrize("attempt", ["", "0", "-1", "two", "2;", "99999", "1\n", "²"])
def test_an_attempt_number_that_is_none_counts_as_the_first(tmp_path: Path, attempt: str) -> None:
    assert bundle(tmp_path, config({"AWS_BATCH_JOB_ATTEMPT": attempt})).attempt == 1


def test_a_huge_or_broken_value_is_cut_and_safe_to_send(tmp_path: Path) -> None:
    read = bundle(tmp_path, config({"PERDURE_CHECKPOINT_INTERVAL": "\udcff" + "9" * 10_000}))
    value = read.environment["PERDURE_CHECKPOINT_INTERVAL"]
    assert len(value) < 300
    value.encode("utf-8")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"process": 1}', '{"process": {"env": [1]}}'])
def test_a_config_that_cannot_be_understood_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(NotCheckpointable):
        read_bundle(tmp_path)


def test_every_mount_has_a_rule(tmp_path: Path) -> None:
    content = config(
        mounts=[
            mount("/proc", kind="proc", source="proc"),
            mount("/dev/shm", kind="tmpfs", source="shm"),
            mount("/reference", "rbind", "ro"),
            mount("/efs", *BIND),
            mount("/etc/hosts", *BIND),
            mount("/dev/fuse", *BIND, source="/dev/fuse"),
        ],
        annotations={"perdure.shared-mounts": '["/efs"]'},
    )
    rules = {rule.destination: rule.rule for rule in bundle(tmp_path, content).rules(JobVolumeConfiguration())}
    assert rules == {
        "/proc": "fresh",
        "/dev/shm": "fresh",
        "/reference": "readonly",
        "/efs": "shared",
        "/etc/hosts": "fresh",
        "/dev/fuse": "fresh",
        "/mnt/perdure": "captured",
    }


def _edit(read: Bundle, kept: Path) -> None:
    rules = read.rules(JobVolumeConfiguration())
    edit_config(
        read,
        job_root=Path("/job"),
        mount_path="/mnt/perdure",
        rules=rules,
        criu_config=Path("/c.conf"),
        keep_in=kept,
    )


def test_a_volume_of_the_image_and_scratch_come_from_the_job_root(tmp_path: Path) -> None:
    volume, scratch = tmp_path / "volumes" / ("a" * 64) / "_data", tmp_path / "scratch"
    volume.mkdir(parents=True)
    scratch.mkdir()
    (volume / "of-the-image").write_text("x")
    (scratch / "of-another-job").write_text("x")
    volume.chmod(0o1777)
    places = {"/var/db": volume, "/scratch": scratch / "7"}
    (scratch / "7").mkdir()
    read = bundle(tmp_path, config(mounts=[mount(to, *BIND, source=str(at)) for to, at in places.items()]))
    settings = JobVolumeConfiguration(scratch=[str(scratch)])
    read.check()
    with pytest.raises(NotCheckpointable, match="/scratch"):
        read.rules(JobVolumeConfiguration())
    rules = read.rules(settings)
    assert [rule.rule for rule in rules] == ["captured"] * 3
    root, kept = tmp_path / "root", tmp_path / "kept"
    seen(root, "volumes").mkdir(parents=True)
    kept.mkdir()
    for _ in range(2):
        make_volumes(rules, root, fresh=True)
    edit_config(read, job_root=root, mount_path="/mnt/perdure", rules=rules, criu_config=Path("/c"), keep_in=kept)
    edited = json.loads((tmp_path / "config.json").read_text())
    sources = {one["destination"]: Path(one["source"]) for one in edited["mounts"]}
    assert os.listdir(sources["/var/db"]) == ["of-the-image"]
    assert stat.S_IMODE(sources["/var/db"].stat().st_mode) == 0o1777
    assert os.listdir(sources["/scratch"]) == [], "scratch starts empty: what lies there is another's"
    again = read.rules(settings)
    assert [rule.source for rule in again] == [rule.source for rule in rules], "the same place in every attempt"


def test_a_network_file_system_is_shared_by_nature() -> None:
    table = [Mount("/", "ext4", "/dev/nvme0n1p1", ""), Mount("/srv", "nfs4", "fs-1:/", "")]
    wanted = [BundleMount.model_validate(mount("/efs", *BIND, source="/srv/data"))]
    rules = find_rules(wanted, [], JobVolumeConfiguration(), table)
    assert (rules[0].rule, rules[0].kind, rules[0].device) == ("shared", "nfs4", "fs-1:/")
    assert shared_destinations(rules) == ["/efs"]
    check_same(rules, rules)
    for other in ([], [rules[0].model_copy(update={"device": "fs-2:/"})], [rules[0].model_copy(update={"kind": ""})]):
        with pytest.raises(RestoreFailed, match="/efs") as problem:
            check_same(rules[:1], other)
        assert problem.value.node_fault


@pytest.mark.parametrize(
    ("namespaces", "hooked"), [([{"type": "network"}], True), ([{"type": "network", "path": "/x"}], True), ([], False)]
)
def test_a_restore_gets_its_network_as_a_create_does(namespaces: list[dict[str, str]], hooked: bool) -> None:
    theirs = {"path": "/bin/true"}
    sysctl = {"net.ipv4.ping_group_range": "0 2147483647", "kernel.msgmax": "1"}
    content: dict[str, Any] = {
        "linux": {"namespaces": [*NAMESPACES, *namespaces], "sysctl": sysctl},
        "hooks": {"createRuntime": [theirs], "prestart": [theirs]},
    }
    add_network_hook(content)
    made = content["hooks"]["createRuntime"]
    assert made[0] == theirs and content["hooks"]["prestart"] == [theirs]
    assert [hook["args"][-1] for hook in made[1:]] == (["net.ipv4.ping_group_range=0 2147483647"] if hooked else [])


@pytest.mark.parametrize("source", ["/dev/shm", "/run/docker.sock", "/nowhere/volumes/x/_data"])
def test_what_no_configuration_can_help_is_refused_before_anything_is_asked(tmp_path: Path, source: str) -> None:
    with pytest.raises(NotCheckpointable, match="/there"):
        bundle(tmp_path, config(mounts=[mount("/there", *BIND, source=source)])).check()


@pytest.mark.parametrize("kind", ["pid", "ipc"])
def test_namespaces_of_others_cannot_be_brought_back(tmp_path: Path, kind: str) -> None:
    content = config()
    content["linux"]["namespaces"] = [one for one in NAMESPACES if one["type"] != kind]
    with pytest.raises(NotCheckpointable, match="shares"):
        bundle(tmp_path, content).check()


def test_a_writable_mount_that_nobody_declared_is_named(tmp_path: Path) -> None:
    read = bundle(tmp_path, config(mounts=[mount("/scratch", *BIND)]))
    with pytest.raises(NotCheckpointable, match="/scratch"):
        read.rules(JobVolumeConfiguration())


@pytest.mark.parametrize("annotation", ["", "x", "{}", "[1]", "null"])
def test_a_broken_declaration_declares_nothing(tmp_path: Path, annotation: str) -> None:
    assert bundle(tmp_path, config(annotations={"perdure.shared-mounts": annotation})).shared == ()


def test_a_terminal_cannot_be_brought_back(tmp_path: Path) -> None:
    content = config()
    content["process"]["terminal"] = True
    with pytest.raises(NotCheckpointable, match="terminal"):
        bundle(tmp_path, content).check()


def test_the_edit_binds_the_data_and_can_be_done_again_and_undone(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    original = config(mounts=[mount("/efs", *BIND)], annotations={"perdure.shared-mounts": '["/efs"]'})
    read = bundle(tmp_path, original)
    for _ in range(2):
        _edit(read, kept)
        edited = json.loads((tmp_path / "config.json").read_text())
        assert [one["destination"] for one in edited["mounts"]] == ["/efs", "/mnt/perdure"]
        assert edited["process"]["env"].count("PERDURE_VOLUME_PATH=/mnt/perdure") == 1
        assert edited["annotations"]["org.criu.config"] == "/c.conf"
    again = read_bundle(tmp_path, kept)
    assert again is not None
    assert again.rules(JobVolumeConfiguration()) == read.rules(JobVolumeConfiguration()), (
        "read as it was before our own bind"
    )
    restore_config(tmp_path, kept)
    assert json.loads((tmp_path / "config.json").read_text()) == original


def test_a_mount_of_the_jobs_own_at_that_path_stays(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    read = bundle(tmp_path, config(mounts=[mount("/mnt/perdure", "rbind", "ro")]))
    _edit(read, kept)
    edited = json.loads((tmp_path / "config.json").read_text())
    assert [one["source"] for one in edited["mounts"]] == ["/srv/x"]


@given(st.text(max_size=200))
def test_what_counts_as_a_job_id_is_never_a_path(text: str) -> None:
    if JOB_ID.fullmatch(text):
        assert "/" not in text and "\x00" not in text and "\n" not in text and 1 <= len(text) <= 128
