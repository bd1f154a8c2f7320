"""The signature of a release's manifest: what was signed is accepted, and nothing else; in minisign's format."""

from __future__ import annotations

import base64
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature

from scripts.bundle.signing import Signer, verify
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


def test_openssl_accepts_it(tmp_path: Path) -> None:
    """As docs/install.md says it."""
    signer = Signer.for_this_build()
    (tmp_path / "MANIFEST").write_bytes(MANIFEST)
    signature = base64.b64decode(signer.signature_file(MANIFEST, "x").splitlines()[1])[10:]
    public = base64.b64decode(signer.public_file().splitlines()[1])[10:]
    (tmp_path / "signature").write_bytes(signature)
    (tmp_path / "key.der").write_bytes(bytes.fromhex("302a300506032b6570032100") + public)
    argv = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "key.der", "-keyform", "DER", "-rawin"]
    argv += ["-in", "MANIFEST", "-sigfile", "signature"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert "Verified Successfully" in done.stdout, done.stderr


def test_minisign_accepts_it(tmp_path: Path) -> None:
    program = shutil.which("minisign")
    if program is None:
        pytest.skip("minisign is not installed")
    signer = Signer.for_this_build()
    (tmp_path / "MANIFEST").write_bytes(MANIFEST)
    (tmp_path / "MANIFEST.minisig").write_text(signer.signature_file(MANIFEST, "Perdure 1.2.3"))
    (tmp_path / "perdure.pub").write_text(signer.public_file())
    argv = [program, "-V", "-m", "MANIFEST", "-p", "perdure.pub"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0 and "Perdure 1.2.3" in done.stdout, done.stdout + done.stderr
    (tmp_path / "MANIFEST").write_bytes(MANIFEST + b" ")
    assert subprocess.run(argv, cwd=tmp_path, capture_output=True, timeout=PATIENCE, check=False).returncode != 0
