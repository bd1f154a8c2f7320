"""A job whose only attempt a reclaim takes, and the new job that goes on from what was kept: with logs of both."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path

import httpx

from tests.documents.book import arguments, filled, told
from tests.e2e.conftest import User, until
from tests.patience import PATIENCE

LINKS, PAUSE_AT = 40, 20
CHAIN = f"""
import hashlib, os, secrets, sys, time
token, link = secrets.token_hex(16), b"begin"
print("token", token, file=sys.stderr, flush=True)
with open("/srv/chain.log", "a") as log:
    for number in range({LINKS}):
        while number == {PAUSE_AT} and not os.path.exists("/opt/go/flag"):
            time.sleep(0.1)
        link = hashlib.sha256(link + b"%d" % number).digest()
        print(number, link.hex(), flush=True)
        print(number, link.hex(), file=log, flush=True)
print("token", token, file=sys.stderr, flush=True)
"""
"""Each link needs the one before; half way it waits for a file on a shared mount. The token is in memory only."""


def bundle(user: User, path: str) -> dict[str, str]:
    """The members of a log bundle, as text."""
    answer = user.api.get(path)
    assert answer.status_code == 200, answer.text
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        return {name: archive.read(name).decode("utf-8", "replace") for name in archive.namelist()}


def resume(user: User, job_id: str, key: str) -> httpx.Response:
    return user.api.post(f"/api/v1/jobs/{job_id}/resume", headers={"Idempotency-Key": key}, timeout=PATIENCE)


def reference() -> str:
    """What the chain prints when nothing ever interrupts it."""
    link, lines = b"begin", []
    for number in range(LINKS):
        link = hashlib.sha256(link + b"%d" % number).digest()
        lines.append(f"{number} {link.hex()}\n")
    return "".join(lines)


def check_resume(user: User, tmp_path: Path, *options: str, moves: bool, stored: bool = False) -> str:
    """Submits the chain as a job with one attempt, has it reclaimed, resumes it, in another zone if it `moves`, and
    compares everything that it ever wrote. `stored`: jobs have no volume, their checkpoints are in a store. Returns the
    new job's id."""
    usual = ("--name", "last-chance", "--attempts", "1", "--interval", "0", "--mount", f"{tmp_path}:/opt/go")
    old = user.submit("/usr/bin/python3", "-c", CHAIN, options=usual + options)
    until(lambda: user.printed(old).count("\n") == PAUSE_AT, "the first half")
    assert resume(user, old, "early").json()["error"]["code"] == "not_resumable"
    live = bundle(user, f"/api/v1/jobs/{old}/logs")
    node = user.placed(old)["node"]
    output = [text for name, text in live.items() if name.startswith("live/") and name.endswith("output.log")]
    assert len(output) == 1, live.keys()
    assert reference().splitlines()[PAUSE_AT - 1] in output[0]
    assert old in live[f"live/{node}/agent.log"]

    here = user.placed(old)["zone"]
    there = "us-east-1b" if (here == "us-east-1a") is moves else "us-east-1a"
    user.reclaim("--job", old, "--notice", "30", "--to-zone", there)
    assert user.wait(old, status=1)["status"] == "FAILED"
    until(lambda: user.job(old)["state"] == "Failed", "the record of its end")
    by_hand = arguments(filled(told("docs/stores.md", "perdure resume JOB"), {"JOB": old}))
    answer = json.loads(user.run(*by_hand, "--key", "once", "--json").stdout)
    new = str(answer["job_id"])
    assert resume(user, old, "once").json()["job_id"] == new
    assert resume(user, old, "twice").json()["error"]["code"] == "not_resumable"
    assert any("Nextflow" in remark for remark in answer["remarks"])

    (tmp_path / "flag").touch()
    assert user.wait(new)["exit_code"] == 0
    out, err = user.logs(new)
    assert out == reference()
    said = err.splitlines()
    assert len(said) == 2
    assert said[0] == said[1], "the very same process"
    user.local("cp", f"{new}:/srv/chain.log", str(tmp_path / "chain.log"))
    assert (tmp_path / "chain.log").read_text() == reference()
    [attempt] = user.job(new)["attempts"]
    assert (attempt["restored_from"], attempt["zone"]) == (answer["checkpoint"], there)
    assert bool(user.job(new)["snapshots"]) is (moves and not stored)
    assert bool(user.job(new)["volumes"]) is not stored
    assert any(f"job {old}" in line for line in user.events(new))
    assert any(new in line for line in user.events(old))

    kept = until(
        lambda: [name for name in bundle(user, f"/api/v1/jobs/{old}/logs") if "hand-over" in name],
        "the logs that the lost node had sent",
    )
    assert any(name.endswith("container/dump.log") for name in kept), kept
    return new
