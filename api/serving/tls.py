"""TLS: is a certificate fit to serve, and serving with whatever the files hold now, without a restart."""

from __future__ import annotations

import asyncio
import hashlib
import os
import ssl
import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, cast

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes

from perdure.certificates import CertificateFiles
from perdure.domain.errors import ConfigurationInvalid

log = structlog.get_logger(__name__)

LARGEST_FILE = 1 << 20
"""Bytes of a certificate with its chain, or of a key."""
SOON = timedelta(days=30)
LOOK_SECONDS = 3.0
"""Between two looks at the files."""


class CertificateInvalid(ConfigurationInvalid):
    """A certificate or its key cannot be served. `field`: `cert_file` or `key_file`, whichever is to blame."""

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(message)


@dataclass(frozen=True)
class CertificateFacts:
    """What people want to know of a certificate that can be served. `warning`: what will be wrong soon, or nothing."""

    subject: str
    names: list[str]
    not_before: datetime
    not_after: datetime
    sha256: str
    warning: str


@dataclass(frozen=True)
class _Pair:
    """A certificate with its chain and a key, as PEM, read once: the files may change under our hands."""

    certificate: bytes
    key: bytes

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.certificate + b"\0" + self.key).hexdigest()


def check_certificate(cert_file: Path, key_file: Path, now: datetime | None = None) -> CertificateFacts:
    """Can these two be served now? CertificateInvalid names the file, what is wrong and what to do."""
    facts, _ = _checked(CertificateFiles(cert_file, key_file), _read(cert_file, key_file), now or datetime.now(UTC))
    return facts


class LiveCertificate:
    """An SSLContext for a server, whose new connections get whatever pair was last found good.

    `files` says where to look, each time. A new pair gets a context of its own, which each handshake is switched to: in
    one and the same, a certificate with another kind of key would not replace the old one but stand beside it.
    """

    def __init__(self, files: Callable[[], CertificateFiles]) -> None:
        """CertificateInvalid: what is there now cannot be served."""
        self._files = files
        self._seen: object = None
        self._complaint = ""
        self._told_of_end = ""
        where = files()
        pair = _read(where.cert_file, where.key_file)
        self.facts, self.context = _checked(where, pair, datetime.now(UTC))
        self._current, self._digest = self.context, pair.digest
        self.context.sni_callback = self._switch  # called for each handshake, whether it names a server or not
        self._tell_of_end()

    def look(self) -> bool:
        """Have a look at the files now; was there a new, good pair? A bad one is told to the log once, and the one
        before stays. Reads files: not for the event loop."""
        where = self._files()
        try:
            seen = (where, *(_signature(path) for path in (where.cert_file, where.key_file)))
            if seen == self._seen:
                return False
            pair = _read(where.cert_file, where.key_file)
            new = pair.digest != self._digest
            if new:
                facts, context = _checked(where, pair, datetime.now(UTC))
                # Two plain assignments: a handshake at this moment gets the old or the new one, both whole.
                self._current, self.facts = context, facts
                self._digest = pair.digest
                log.info("a new certificate is served", file=str(where.cert_file), until=facts.not_after.isoformat())
            self._seen, self._complaint = seen, ""
        except ConfigurationInvalid as problem:
            if str(problem) != self._complaint:
                self._complaint = str(problem)
                log.error("the new certificate is not usable; the one before is still served", problem=str(problem))
            return False
        self._tell_of_end()
        return new

    async def watch(self, every_seconds: float = LOOK_SECONDS) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(every_seconds)
            try:
                await asyncio.to_thread(self.look)
            except Exception:  # such as a database that is away: the next look may go better
                log.exception("the certificate could not be looked at")

    def _switch(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        if self._current is not context:
            connection.context = self._current

    def _tell_of_end(self) -> None:
        warning = _warning(self.facts.not_after, datetime.now(UTC))
        if warning and warning != self._told_of_end:
            log.warning("the server's certificate ends soon", warning=warning)
        self._told_of_end = warning


def _checked(where: CertificateFiles, pair: _Pair, now: datetime) -> tuple[CertificateFacts, ssl.SSLContext]:
    certificate = _certificate(where.cert_file, pair.certificate)
    key = _key(where.key_file, pair.key)
    if _public(certificate.public_key()) != _public(key.public_key()):
        message = f"the key in {where.key_file} does not belong to the certificate in {where.cert_file}"
        raise CertificateInvalid("key_file", f"{message}; give the pair that was made together")
    if certificate.not_valid_after_utc <= now:
        ended = f"{certificate.not_valid_after_utc:%Y-%m-%d}"
        raise CertificateInvalid("cert_file", f"the certificate in {where.cert_file} expired on {ended}; renew it")
    if certificate.not_valid_before_utc > now:
        begins = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        raise CertificateInvalid("cert_file", f"the certificate in {where.cert_file} is not valid before {begins}")
    return _facts(certificate, now), _context(where, pair)


def _context(where: CertificateFiles, pair: _Pair) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    # OpenSSL reads files only. These two are in memory, so that what was checked is what is loaded.
    with _in_memory(pair.certificate) as certificate, _in_memory(pair.key) as key:
        paths = [f"/proc/self/fd/{file.fileno()}" for file in (certificate, key)]
        try:
            context.load_cert_chain(paths[0], paths[1], password="")
        except ssl.SSLError as problem:
            message = f"OpenSSL refuses {where.cert_file} with {where.key_file}: {problem.reason or problem}"
            raise CertificateInvalid("cert_file", f"{message}; make a new pair") from problem
    return context


def _in_memory(content: bytes) -> BinaryIO:
    file = cast(BinaryIO, os.fdopen(os.memfd_create("certificate"), "w+b"))
    file.write(content)
    file.flush()
    return file


def _read(cert_file: Path, key_file: Path) -> _Pair:
    return _Pair(_content("cert_file", cert_file), _content("key_file", key_file))


def _content(field: str, path: Path) -> bytes:
    """Of a plain file: a device or a pipe would never come to an end."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST_FILE:
                raise CertificateInvalid(field, f"{path} is not a plain file of at most {LARGEST_FILE} bytes")
            if field == "key_file" and found.st_mode & stat.S_IRWXO:
                raise CertificateInvalid(field, f"{path} can be read by everybody on the server: chmod 600 {path}")
            return os.read(descriptor, LARGEST_FILE)
        finally:
            os.close(descriptor)
    except OSError as problem:
        raise CertificateInvalid(field, f"{path} cannot be read by the server: {problem.strerror}") from problem


def _certificate(path: Path, pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificates(pem)[0]
    except ValueError:
        message = f"{path} is not a certificate in PEM (it begins with -----BEGIN CERTIFICATE-----)"
        raise CertificateInvalid("cert_file", message) from None


def _key(path: Path, pem: bytes) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(pem, None)
    except TypeError:
        message = f"the key in {path} is encrypted, and nobody is there to type its password: store it decrypted, 0600"
        raise CertificateInvalid("key_file", message) from None
    except Exception:  # ValueError, and cryptography's own for kinds that it does not know
        message = f"{path} is not a usable, unencrypted key in PEM (it begins with -----BEGIN PRIVATE KEY-----)"
        raise CertificateInvalid("key_file", message) from None


def _public(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _facts(certificate: x509.Certificate, now: datetime) -> CertificateFacts:
    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = [*alternative.get_values_for_type(x509.DNSName)]
        names += [str(address) for address in alternative.get_values_for_type(x509.IPAddress)]
    except x509.ExtensionNotFound:
        names = []
    return CertificateFacts(
        subject=certificate.subject.rfc4514_string(),
        names=names,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        sha256=hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest(),
        warning=_warning(certificate.not_valid_after_utc, now),
    )


def _warning(not_after: datetime, now: datetime) -> str:
    days = (not_after - now).days
    return f"it expires on {not_after:%Y-%m-%d}, in {days} days; renew it" if not_after - now < SOON else ""


def _signature(path: Path) -> tuple[int, int, int, int] | None:
    """What changes when a file does; None: it cannot be looked at, and reading it will say why."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
