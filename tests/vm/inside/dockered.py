"""Docker and the whole agent on a kernel that has cgroup version 2 alone, as Amazon Linux 2023 has."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.integration.docker_bed import Bed, until
from tests.integration.docker_bed import docker_bed as make_bed
from tests.vm.inside.bed import KNOBS, note

_JOB = """
i=0
until [ -e /tmp/eat ]; do i=$((i+1)); echo line $i; sleep 0.2; done
exec dd if=/dev/zero of=/dev/null bs=200M count=1
"""


def moved() -> dict[str, object]:
    """A container of an ordinary user: saved, its node lost, run again as a new container, and out of memory there."""
    with make_bed(agent_environment={"PYTHONPATH": ":".join(sys.path)}) as bed:
        _new_node(bed)
        job = bed.new_job()
        options = ["-m", "100m", "--memory-swap", "100m", "--cpus", "0.75", "--pids-limit", "99", "--user", "1000:1000"]
        options += ["--cgroupns", "private"]
        first = bed.run(job, "sh", "-c", _JOB, options=options)
        _more_lines(bed, first, 3)
        limits = _limits(bed, first)
        number = bed.checkpoint(job)
        note({"checkpoint": number, "docker": bed.version()})
        _more_lines(bed, first, 2)
        bed.power_loss()
        _new_node(bed)
        second = bed.run(job, "sh", "-c", _JOB, options=options)
        _more_lines(bed, second, 3)
        found: dict[str, object] = {
            "restored from": bed.restored(job),
            "taken": number,
            "limits": [limits, _limits(bed, second)],
            "other container": first != second,
            "lines": [int(line.split()[1]) for line in bed.logs(second).splitlines()],
            "user": bed.docker("exec", second, "id", "-u").stdout.strip(),
        }
        bed.docker("exec", second, "touch", "/tmp/eat")
        found["exit code"] = bed.wait(second)
        found["oom"] = bed.inspect(second, ".State.OOMKilled")
        return found


def _new_node(bed: Bed) -> None:
    """dockerd gives its containerd 15 seconds, which is not always enough here."""
    for _ in range(3):
        try:
            bed.new_node()
            return
        except AssertionError as error:
            note(f"dockerd did not start: {str(error)[-200:]}")
            bed.end_node()
    bed.new_node()


def _more_lines(bed: Bed, container: str, count: int) -> None:
    wanted = bed.logs(container).count("\n") + count
    until(lambda: bed.logs(container).count("\n") >= wanted, f"{count} more lines")


def _limits(bed: Bed, container: str) -> dict[str, str]:
    """Of the cgroup that Docker made for this container, which must be the one its first process is in; and what it
    sees of them itself."""
    pid = bed.node.docker("inspect", "--format", "{{.State.Pid}}", container).stdout.strip()
    path = bed.node.tool("cat", f"/proc/{pid}/cgroup").removeprefix("0::")
    assert path == f"{bed.node.cgroup}/{container}", path
    limits = {name: Path(f"/sys/fs/cgroup{path}", name).read_text().strip() for name in KNOBS}
    return limits | {"its own": bed.docker("exec", container, "cat", "/sys/fs/cgroup/memory.max").stdout.strip()}
