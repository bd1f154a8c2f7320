"""`perdure checkpoints` on a store, as a person calls it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from perdure.cli.main import run
from perdure.stores.directory import DirectoryObjects
from perdure.stores.layout import Place
from perdure.stores.patience import Patient
from perdure.stores.stored_checkpoints import StoredCheckpoints
from tests.documents.book import filled, told, typed
from tests.patience import PATIENCE
from tests.stores.checkpoint_bed import JOB, JobRoot, look, text_pages


@pytest.fixture
def job(tmp_path: Path) -> JobRoot:
    """A job with two checkpoints in the store `<tmp_path>/store`."""
    (tmp_path / "store").mkdir()
    job = JobRoot(tmp_path / "root")
    stored = StoredCheckpoints(Patient(DirectoryObjects(tmp_path / "store")), JOB)
    for seed in (1, 2):
        job.memory[: 4096 * 20] = text_pages(seed, 20)
        manifest = job.take()
        stored.put(job.root, job.folder(manifest.number), manifest)
    return job


def ask(tmp_path: Path, *words: str) -> int:
    return run(["checkpoints", *words, "--store", str(tmp_path / "store")])


def test_what_lies_there_is_listed_with_its_sizes(
    job: JobRoot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(tmp_path, "list", JOB, "--json") == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["number"], second["number"]) == (1, 2)
    assert first["shares"] == 0 < second["shares"] and second["wrote"] < first["wrote"] < first["holds"]
    assert ask(tmp_path, "show", JOB, "2") == 0
    said = capsys.readouterr().out
    assert "periodic" in said and "MiB" in said and "i-1" in said


def test_damage_is_found_and_named(job: JobRoot, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(tmp_path, "verify", JOB) == 0
    assert capsys.readouterr().out.count("sound") == 2
    pack = max((tmp_path / "store" / Place.of(JOB).packs).iterdir(), key=lambda path: path.stat().st_size)
    with pack.open("r+b") as file:
        file.seek(1000)
        file.write(b"\0damage\0")
    assert ask(tmp_path, "verify", JOB, "1") == 1
    said = capsys.readouterr().err
    assert pack.name in said and "byte" in said and "1 of the job's checkpoints" in said


def test_one_is_taken_out_as_plain_files(job: JobRoot, tmp_path: Path) -> None:
    assert ask(tmp_path, "export", JOB, "1", str(tmp_path / "out")) == 0
    assert look(tmp_path / "out" / "1" / "images") == look(job.folder(1) / "images")
    assert look(tmp_path / "out" / "1" / "files") == look(job.folder(1) / "files")
    assert (tmp_path / "out" / "log" / "stdout").stat().st_size
    assert ask(tmp_path, "export", JOB, "1", str(tmp_path / "out")) == 2, "never into what is there"


def test_one_is_deleted_for_ever(job: JobRoot, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(tmp_path, "delete", JOB, "1", "--yes") == 0
    assert ask(tmp_path, "verify", JOB) == 0
    assert "checkpoint 1" not in capsys.readouterr().out.replace("checkpoint 1 is deleted", "")
    assert ask(tmp_path, "delete", JOB, "7", "--yes") == 2
    assert "no checkpoint 7" in capsys.readouterr().err


def test_with_a_key_file_only_sealed_ones_count(
    job: JobRoot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make = told(
        "docs/stores.md",
        "head -c 48 /dev/urandom | base64 >/etc/perdure/store.key; chmod 600 /etc/perdure/store.key",
    )
    typed(filled(make, {"/etc/perdure": str(tmp_path)}), PATIENCE)
    key = tmp_path / "store.key"
    os.chmod(key, 0o644)
    assert ask(tmp_path, "verify", JOB, "--key-file", str(key)) == 2
    assert "chmod 600" in capsys.readouterr().err
    os.chmod(key, 0o600)
    assert ask(tmp_path, "verify", JOB, "--key-file", str(key)) == 1
    assert "not sealed with our key" in capsys.readouterr().err
    key.write_bytes(b"short")
    assert ask(tmp_path, "verify", JOB, "--key-file", str(key)) == 2
    assert "needs 32" in capsys.readouterr().err
