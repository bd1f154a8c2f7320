"""Self-signed certificates, for trials and for a server's first start. Nobody else vouches for them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from perdure.domain.errors import ConfigurationInvalid
from perdure.private_files import write_private

LIFE = timedelta(days=365)
_NAME = re.compile(
    r"(\*\.)?([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
)
_CLOCKS_DIFFER = timedelta(hours=1)


@dataclass(frozen=True)
class CertificateFiles:
    """Where a certificate and its key are."""

    cert_file: Path
    key_file: Path


def make_self_signed(
    names: Sequence[str], folder: Path, now: datetime, *, life: timedelta = LIFE, replace: bool = False
) -> CertificateFiles:
    """A new key (P-256) and a certificate for `names` (host names and IP addresses), as server.crt and server.key
    (0600) in `folder`, which is made (0700). ConfigurationInvalid: a name is none, or the files exist and may not be
    replaced.
    """
    alternatives = [_alternative(name) for name in dict.fromkeys(names)]
    if not alternatives:
        raise ConfigurationInvalid("a certificate needs at least one name")
    files = CertificateFiles(folder / "server.crt", folder / "server.key")
    if not replace and (files.cert_file.exists() or files.key_file.exists()):
        raise ConfigurationInvalid(
            f"{files.cert_file} or {files.key_file} exists already; remove it, or write elsewhere"
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _signed(key, alternatives, names[0], now, life)
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    write_private(files.key_file, key.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    write_private(files.cert_file, certificate.public_bytes(pem), mode=0o644)
    return files


def _signed(
    key: ec.EllipticCurvePrivateKey, names: list[x509.GeneralName], common: str, now: datetime, life: timedelta
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        if len(name) <= 253 and _NAME.fullmatch(name):
            return x509.DNSName(name)
    raise ConfigurationInvalid(f"{name[:60]!r} is neither a host name nor an IP address")
