"""Verdicts from findings; and a look at real processes that are in no container of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from worker_agent.engine.looking import look
from worker_agent.preflight import Finding, Level, Process, Report, Verdict, examine
from worker_agent.preflight.descriptors import Surroundings, check_descriptors

WORKER = Process(4242, 7, "node")
RING = Finding(Level.CHANGE, "io_uring", "has a ring open", "Turn it off.", WORKER, "descriptor 21")
KVM = Finding(Level.BLOCK, "kvm", "has a virtual machine open", "", WORKER)
NOTE = Finding(Level.NOTE, "stopped", "is stopped", "", WORKER)


def test_the_gravest_finding_decides() -> None:
    assert Report().verdict is Verdict.PROTECTABLE
    assert Report.of([NOTE]).verdict is Verdict.PROTECTABLE
    assert Report.of([NOTE, RING]).verdict is Verdict.WITH_CHANGES
    assert Report.of([NOTE, RING, KVM]).verdict is Verdict.NOT
    assert Report.of([NOTE, RING, KVM]).findings == (KVM, RING, NOTE)


def test_the_summary_names_who_holds_what_and_what_helps() -> None:
    said = Report.of([NOTE, RING]).summary
    assert said == (
        "Preflight: protectable with changes. Process 7 (node) has a ring open (descriptor 21). Turn it off."
    )
    assert len(Report.of([Finding(Level.CHANGE, str(number), "x" * 99) for number in range(99)]).summary) <= 900


def test_a_thousand_of_one_kind_are_one_finding_and_other_processes_do_not_change_the_verdict() -> None:
    many = [Finding(Level.CHANGE, "socket", "has a socket", "", WORKER, f"descriptor {number}") for number in range(9)]
    assert len(Report.of(many).findings) == 1
    other = Finding(Level.CHANGE, "socket", "has a socket", "", Process(1, 1, "sh"))
    assert Report.of([other]).fingerprint == Report.of(many).fingerprint != Report().fingerprint


def test_for_programs_it_is_json() -> None:
    said = Report.of([RING]).as_json()
    assert said["verdict"] == "protectable with changes"
    assert said["findings"][0]["level"] == "change"
    assert said["findings"][0]["process"] == {"pid": 4242, "inner": 7, "command": "node"}
    assert said["findings"][0]["sentence"] == "Process 7 (node) has a ring open (descriptor 21)."


def test_a_process_that_ended_is_left_out() -> None:
    with subprocess.Popen(["true"]) as done:
        done.wait()
    assert examine([done.pid], done.pid) == Report()
    assert list(check_descriptors(Process(done.pid, 1, "true"), [], Surroundings(frozenset(), frozenset()))) == []


def test_a_file_of_a_foreign_mount_is_named_and_one_s_own_is_not() -> None:
    code = "import sys, time; file = open(sys.argv[1]); print(flush=True); time.sleep(3600)"
    with subprocess.Popen([sys.executable, "-c", code, __file__], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        process = Process(holder.pid, holder.pid, "python3")
        mounts = frozenset(int(line.split()[0]) for line in Path("/proc/self/mountinfo").read_text().splitlines())
        seen = list(look([holder.pid], holder.pid).of(holder.pid))
        found = list(check_descriptors(process, seen, Surroundings(frozenset(), frozenset())))
        assert any(finding.kind == "outside file" and os.path.basename(__file__) in finding.held for finding in found)
        found = list(check_descriptors(process, seen, Surroundings(mounts, frozenset())))
        assert not any(os.path.basename(__file__) in finding.held for finding in found)
        holder.kill()
