"""What a node says to its dockerd, and what it understands of the answers."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localcloud.node_link import ContainerOptions, Mount, Task, Tmpfs, Ulimit
from localcloud.nodes.inside.configuration import DockerPrograms
from localcloud.nodes.inside.docker.api import DockerProblem, demultiplexed
from localcloud.nodes.inside.docker.container import container_request
from localcloud.nodes.inside.docker.daemon import dockerd_command
from localcloud.nodes.inside.docker.images import chain_ids, image_archive
from localcloud.nodes.inside.roots import Layer, Root

frames = st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(max_size=40)), max_size=12)


@given(frames=frames, cuts=st.lists(st.integers(0, 600), max_size=20))
def test_each_stream_comes_out_byte_for_byte_however_it_is_cut(
    frames: list[tuple[str, bytes]], cuts: list[int]
) -> None:
    whole = b"".join(
        bytes([1 + (name == "stderr"), 0, 0, 0]) + len(data).to_bytes(4, "big") + data for name, data in frames
    )
    edges = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    said = list(demultiplexed(whole[begin:end] for begin, end in pairwise(edges)))
    for name in ("stdout", "stderr"):
        assert b"".join(data for stream, data in said if stream == name) == b"".join(d for n, d in frames if n == name)


def test_bytes_come_out_before_their_frame_is_whole() -> None:
    pieces = iter([b"\1\0\0\0\0\0\0\5ab"])
    assert list(demultiplexed(pieces)) == [("stdout", b"ab")]


@pytest.mark.parametrize("stream", [b"plain text of a terminal", b"\3\0\0\0\0\0\0\1x", b"\1\0\1\0\0\0\0\1x"])
def test_what_is_no_such_stream_is_refused(stream: bytes) -> None:
    with pytest.raises(DockerProblem):
        list(demultiplexed(iter([stream])))


def task(**more: object) -> Task:
    return Task.model_validate(
        {"container_id": "ab" * 32, "job_id": "j", "attempt": 1, "command": ["a b", "$c"], **more}
    )


def test_a_container_is_asked_for_as_ecs_does() -> None:
    wanted = task(
        environment={"A": "x=y"}, vcpus=0.5, memory_mib=64, user="1000:1000", privileged=True,
        mounts=[Mount(source="/s", destination="/d", read_only=True), Mount(source="/with:colon", destination="/e")],
    )  # fmt: skip
    asked = container_request(wanted, "bio:latest")
    assert (asked["Image"], asked["Cmd"], asked["User"]) == ("bio:latest", ["a b", "$c"], "1000:1000")
    assert asked["Env"] == ["PERDURE_SHARED_MOUNTS=/d:/e", "A=x=y"]
    host = asked["HostConfig"]
    assert (host["Memory"], host["CpuShares"], host["Privileged"], host["NetworkMode"]) == (64 << 20, 512, True, "host")
    assert host["Mounts"] == [
        {"Type": "bind", "Source": "/s", "Target": "/d", "ReadOnly": True},
        {"Type": "bind", "Source": "/with:colon", "Target": "/e", "ReadOnly": False},
    ]


def test_what_a_definition_asks_for_besides_reaches_docker() -> None:
    options = ContainerOptions(
        ulimits=[Ulimit(name="nofile", soft=1, hard=2)],
        tmpfs=[Tmpfs(destination="/t", size_mib=3, options=["mode=1777"])],
        shared_memory_mib=128,
        init=True,
        read_only_root=True,
    )
    host = container_request(task(options=options), "i")["HostConfig"]
    assert host["Ulimits"] == [{"Name": "nofile", "Soft": 1, "Hard": 2}]
    assert host["Tmpfs"] == {"/t": "size=3m,mode=1777"}
    assert (host["ShmSize"], host["Init"], host["ReadonlyRootfs"]) == (128 << 20, True, True)


def test_a_job_may_declare_its_shared_mounts_itself() -> None:
    own = task(environment={"PERDURE_SHARED_MOUNTS": "/e"}, mounts=[Mount(source="/s", destination="/d")])
    assert container_request(own, "i")["Env"] == ["PERDURE_SHARED_MOUNTS=/e"]


ROOT = Root("bio:latest", (Layer(Path("/top"), "sha256:1"), Layer(Path("/bottom"), "sha256:2")), Path("/etc/passwd"))


def test_an_image_is_the_same_on_every_node_and_another_for_other_content() -> None:
    archive, diff_ids = image_archive(ROOT)
    assert image_archive(ROOT) == (archive, diff_ids)
    other = Root(ROOT.name, (Layer(Path("/top"), "sha256:3"), ROOT.layers[1]), ROOT.users)
    assert image_archive(other)[1][0] == diff_ids[0] and image_archive(other)[1][1] != diff_ids[1]


def test_an_image_archive_is_one_that_docker_load_takes() -> None:
    archive, diff_ids = image_archive(ROOT)
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        content = {entry.name: files.extractfile(entry).read() for entry in files}  # type: ignore[union-attr]
    [manifest] = json.loads(content["manifest.json"])
    assert manifest["RepoTags"] == ["bio:latest"]
    assert [f"sha256:{hashlib.sha256(content[name]).hexdigest()}" for name in manifest["Layers"]] == diff_ids
    assert b"/bottom" in content[manifest["Layers"][0]]
    config = content[manifest["Config"]]
    assert manifest["Config"] == f"{hashlib.sha256(config).hexdigest()}.json"
    assert json.loads(config)["rootfs"] == {"type": "layers", "diff_ids": diff_ids}


def test_chain_ids_are_those_of_the_image_specification() -> None:
    first, second = "sha256:" + "a" * 64, "sha256:" + "b" * 64
    assert chain_ids([first]) == [first]
    assert chain_ids([first, second])[1] == f"sha256:{hashlib.sha256(f'{first} {second}'.encode()).hexdigest()}"


def test_dockerd_runs_containers_by_our_runtime_and_touches_nothing_of_the_machine() -> None:
    words = dockerd_command(DockerPrograms(dockerd="/x/dockerd"), "/p/perdure-runtime", "/perdure/s/i/containers")
    assert words[0] == "/x/dockerd"
    assert {"--add-runtime=perdure=/p/perdure-runtime", "--default-runtime=perdure", "--iptables=false"} <= set(words)
    assert "--cgroup-parent=/perdure/s/i/containers" in words
    places = [
        word.partition("=")[2] for word in words if word.startswith(("--data", "--exec-root", "--pid", "--config"))
    ]
    assert len(places) == 4 and all(place.startswith("/run/") for place in places)
    assert "--default-runtime=runc" in dockerd_command(DockerPrograms(), "runc", "/c")
