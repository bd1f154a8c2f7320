"""The signature of a release's manifest: what was signed is accepted, and nothing else; in minisign's format."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature

from scripts.bundle.release import write_release
from scripts.bundle.signing import Signer, verify
from tests.documents.book import block, typed
from tests.patience import PATIENCE

MANIFEST = b"0123  perdure-install\n4567  perdure-worker.tar.gz\n"


def test_only_what_was_signed_by_that_key_is_accepted() -> None:
    signer = Signer.for_this_build()
    signature = signer.signature_file(MANIFEST, "Perdure 1.2.3")
    assert verify(MANIFEST, signature, signer.public_file()) == "Perdure 1.2.3"
    with pytest.raises(InvalidSignature):
        verify(MANIFEST + b" ", signature, signer.public_file())
    with pytest.raises(InvalidSignature):
        verify(MANIFEST, signature.replace("1.2.3", "1.2.4"), signer.public_file())
    with pytest.raises(ValueError, match="another key"):
        verify(MANIFEST, signature, Signer.for_this_build().public_file())


def test_a_kept_key(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(key)], check=True, timeout=PATIENCE)
    assert Signer.from_pem(key).public_file() == Signer.from_pem(key).public_file()
    subprocess.run(["openssl", "genpkey", "-algorithm", "x25519", "-out", str(key)], check=True, timeout=PATIENCE)
    with pytest.raises(ValueError, match="no Ed25519 key"):
        Signer.from_pem(key)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A folder with everything that a release's reader verifies."""
    (tmp_path / "perdure-worker-0.0.1-x86_64.tar.gz").write_bytes(b"an archive")
    write_release(tmp_path, Signer.for_this_build())
    return tmp_path


def test_minisign_accepts_it_by_the_lines_of_the_document(release: Path) -> None:
    lines = block("docs/install.md", "minisign -V")
    said = typed(lines, PATIENCE, release)
    assert "Signature and comment signature verified" in said and "perdure-install: OK" in said
    manifest = (release / "MANIFEST").read_bytes()
    (release / "MANIFEST").write_bytes(manifest + b" ")
    with pytest.raises(AssertionError, match="Signature verification failed"):
        typed(lines, PATIENCE, release)
    (release / "MANIFEST").write_bytes(manifest)
    (release / "perdure-worker-0.0.1-x86_64.tar.gz").write_bytes(b"another")
    with pytest.raises(AssertionError, match=r"x86_64\.tar\.gz: FAILED"):
        typed(lines, PATIENCE, release)


def test_openssl_accepts_it_by_the_lines_of_the_document(release: Path) -> None:
    lines = block("docs/install.md", "tail -c +11")
    assert "Verified Successfully" in typed(lines, PATIENCE, release)
    (release / "MANIFEST").write_bytes(MANIFEST)
    with pytest.raises(AssertionError, match="Signature Verification Failure"):
        typed(lines, PATIENCE, release)
