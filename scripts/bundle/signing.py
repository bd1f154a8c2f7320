"""The signature of a release's manifest, as minisign writes it (jedisct1.github.io/minisign, its format).

Ed25519 by `cryptography`. The algorithm is `Ed`, over the file itself, so that openssl can verify it too.
"""

from __future__ import annotations

import base64
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

_ALGORITHM = b"Ed"


class Signer:
    """A signing key. Its number, by which minisign tells keys apart, is made of the public key."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self._public = key.public_key().public_bytes_raw()
        self._number = self._public[:8]

    @classmethod
    def from_pem(cls, path: Path) -> Signer:
        """A private key in PEM (`openssl genpkey -algorithm ed25519`). ValueError for another kind."""
        key = load_pem_private_key(path.read_bytes(), None)
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError(f"{path} is no Ed25519 key: make one with `openssl genpkey -algorithm ed25519`")
        return cls(key)

    @classmethod
    def for_this_build(cls) -> Signer:
        """A key that nobody keeps."""
        return cls(Ed25519PrivateKey.generate())

    def public_file(self) -> str:
        """For `minisign -p FILE`."""
        number = self._number[::-1].hex().upper()
        return f"untrusted comment: minisign public key {number}\n{_text(_ALGORITHM + self._number + self._public)}\n"

    def signature_file(self, content: bytes, comment: str) -> str:
        """For `minisign -x FILE`. `comment` is signed too."""
        signature = self._key.sign(content)
        overall = self._key.sign(signature + comment.encode())
        return (
            "untrusted comment: signature of a Perdure release\n"
            f"{_text(_ALGORITHM + self._number + signature)}\n"
            f"trusted comment: {comment}\n{_text(overall)}\n"
        )


def verify(content: bytes, signature_file: str, public_file: str) -> str:
    """The trusted comment. cryptography's InvalidSignature, or ValueError, when anything does not fit."""
    public = base64.b64decode(public_file.splitlines()[1])
    lines = signature_file.splitlines()
    signed = base64.b64decode(lines[1])
    comment = lines[2].removeprefix("trusted comment: ")
    if public[:2] != _ALGORITHM or signed[:10] != public[:10]:
        raise ValueError("the signature is another key's")
    key = Ed25519PublicKey.from_public_bytes(public[10:])
    key.verify(signed[10:], content)
    key.verify(base64.b64decode(lines[3]), signed[10:] + comment.encode())
    return comment


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
