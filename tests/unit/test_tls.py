"""Certificates: what is refused and why, self-signed ones, and a live one that follows its files."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from structlog.testing import LogCapture
from structlog.typing import EventDict

from api.serving import tls
from api.serving.tls import CertificateInvalid, LiveCertificate, check_certificate
from perdure.certificates import CertificateFiles, make_self_signed
from perdure.cli.main import USAGE, run
from perdure.domain.errors import ConfigurationInvalid

NOW = datetime.now(UTC)


@pytest.fixture
def files(tmp_path: Path) -> CertificateFiles:
    return make_self_signed(["localhost", "127.0.0.1", "::1"], tmp_path / "pair", NOW)


@pytest.fixture(scope="module")
def rsa_pair(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    """Another kind of key, as a CA may give at the next renewal."""
    folder = tmp_path_factory.mktemp("rsa")
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "rsa")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(NOW - timedelta(1)).not_valid_after(NOW + timedelta(100))
    certificate = builder.sign(key, hashes.SHA256())
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    found = CertificateFiles(folder / "server.crt", folder / "server.key")
    found.cert_file.write_bytes(certificate.public_bytes(pem))
    found.key_file.touch(0o600)
    found.key_file.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, plain))
    return found


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> list[EventDict]:
    """What is logged, whichever way other tests have set up the logs."""
    capture = LogCapture()
    monkeypatch.setattr(tls, "log", structlog.wrap_logger(structlog.PrintLogger(), processors=[capture]))
    return capture.entries


def put(new: CertificateFiles, place: CertificateFiles) -> None:
    shutil.copyfile(new.cert_file, place.cert_file)
    shutil.copyfile(new.key_file, place.key_file)


# Checking


def test_a_good_pair_and_its_facts(files: CertificateFiles) -> None:
    facts = check_certificate(files.cert_file, files.key_file)
    assert facts.names == ["localhost", "127.0.0.1", "::1"] and facts.subject == "CN=localhost"
    assert timedelta(364) < facts.not_after - NOW < timedelta(366) and not facts.warning
    assert stat.S_IMODE(files.key_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(files.key_file.parent.stat().st_mode) == 0o700
    soon = check_certificate(files.cert_file, files.key_file, NOW + timedelta(340))
    assert "in 24 days; renew it" in soon.warning or "in 25 days; renew it" in soon.warning


def refused(files: CertificateFiles, field: str, words: str, now: datetime | None = None) -> None:
    with pytest.raises(CertificateInvalid, match=words) as refusal:
        check_certificate(files.cert_file, files.key_file, now)
    assert refusal.value.field == field


def test_what_is_refused_names_the_file_and_the_remedy(
    files: CertificateFiles, rsa_pair: CertificateFiles, tmp_path: Path
) -> None:
    refused(files, "cert_file", r"server\.crt expired on .*; renew it", NOW + timedelta(400))
    refused(files, "cert_file", "is not valid before", NOW - timedelta(1))
    refused(CertificateFiles(files.cert_file, rsa_pair.key_file), "key_file", "does not belong to the certificate")
    refused(
        CertificateFiles(tmp_path / "none", files.key_file), "cert_file", "none cannot be read by the server: No such"
    )
    refused(CertificateFiles(tmp_path, files.key_file), "cert_file", "not a plain file")
    refused(CertificateFiles(files.key_file, files.key_file), "cert_file", "is not a certificate in PEM")
    refused(CertificateFiles(files.cert_file, files.cert_file), "key_file", "chmod 600")
    files.key_file.chmod(0o644)
    refused(files, "key_file", f"can be read by everybody on the server: chmod 600 {files.key_file}")
    files.key_file.chmod(0o600)
    files.key_file.write_bytes(b"nonsense")
    refused(files, "key_file", "is not a usable, unencrypted key in PEM")


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_a_password(files: CertificateFiles) -> None:
    key = serialization.load_pem_private_key(files.key_file.read_bytes(), None)
    locked = serialization.BestAvailableEncryption(b"secret")
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    files.key_file.write_bytes(key.private_bytes(pem, pkcs8, locked))
    refused(files, "key_file", "encrypted")


def test_a_pipe_is_not_waited_for(files: CertificateFiles, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    refused(CertificateFiles(tmp_path / "pipe", files.key_file), "cert_file", "not a plain file")


@pytest.mark.parametrize("name", ["", "a b", "a/b", "-a", "a\nb", "x" * 64, "[::1]", "a..b"])
def test_a_name_that_is_none_gets_no_certificate(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationInvalid, match="neither a host name nor an IP address"):
        make_self_signed([name], tmp_path, NOW)
    assert not list(tmp_path.iterdir())


def test_the_command_replaces_nothing_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["auth", "certificate", "--name", "perdure.example", "--out", str(tmp_path / "new")]
    assert run(command) == USAGE and "--self-signed" in capsys.readouterr().err
    assert run([*command, "--self-signed"]) == 0
    first = check_certificate(tmp_path / "new/server.crt", tmp_path / "new/server.key")
    assert first.names == ["perdure.example"]
    assert str(tmp_path / "new/server.key") in capsys.readouterr().out
    assert run([*command, "--self-signed"]) == USAGE and "exists already" in capsys.readouterr().err
    assert run([*command, "--self-signed", "--force"]) == 0
    assert check_certificate(tmp_path / "new/server.crt", tmp_path / "new/server.key").sha256 != first.sha256


# Serving what the files hold now


@contextmanager
def handshakes(context: ssl.SSLContext) -> Iterator[int]:
    """A port that shakes hands and hangs up, until the end of the block."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                try:
                    context.wrap_socket(connection, server_side=True).close()
                except (ssl.SSLError, OSError):
                    connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def served_certificate(port: int, name: str | None = None) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname=name) as tls,
    ):
        certificate = tls.getpeercert(binary_form=True)
        assert certificate is not None
        return certificate


def der(files: CertificateFiles) -> bytes:
    certificate = x509.load_pem_x509_certificate(files.cert_file.read_bytes())
    return certificate.public_bytes(serialization.Encoding.DER)


def test_a_new_pair_is_served_whatever_its_kind_of_key(files: CertificateFiles, rsa_pair: CertificateFiles) -> None:
    first = der(files)
    live = LiveCertificate(lambda: files)
    with handshakes(live.context) as port:
        assert served_certificate(port) == served_certificate(port, "localhost") == first
        assert not live.look()
        put(rsa_pair, files)
        assert live.look()
        assert served_certificate(port) == served_certificate(port, "localhost") == der(rsa_pair) != first
        assert live.facts.subject == "CN=rsa"
        assert not live.look()


def test_a_bad_pair_keeps_the_old_one_and_is_told_once(
    files: CertificateFiles, rsa_pair: CertificateFiles, logs: list[EventDict]
) -> None:
    first = der(files)
    live = LiveCertificate(lambda: files)
    with handshakes(live.context) as port:
        shutil.copyfile(rsa_pair.cert_file, files.cert_file)  # half of a renewal
        assert not live.look() and not live.look()
        assert served_certificate(port) == first
        files.cert_file.unlink()
        assert not live.look() and not live.look()
        assert served_certificate(port) == first
        put(rsa_pair, files)
        assert live.look()
        assert served_certificate(port) == der(rsa_pair)
    assert [line["log_level"] for line in logs] == ["error", "error", "info"]
    assert "does not belong" in logs[0]["problem"] and "cannot be read" in logs[1]["problem"]


def test_old_protocols_are_not_spoken(files: CertificateFiles) -> None:
    context = LiveCertificate(lambda: files).context
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_server_does_not_start_with_a_bad_pair(files: CertificateFiles) -> None:
    files.cert_file.write_text("nonsense")
    with pytest.raises(CertificateInvalid, match="not a certificate in PEM"):
        LiveCertificate(lambda: files)


def test_one_that_ends_soon_is_told_of(tmp_path: Path, logs: list[EventDict]) -> None:
    files = make_self_signed(["localhost"], tmp_path, NOW, life=timedelta(days=10))
    LiveCertificate(lambda: files)
    assert "renew it" in logs[0]["warning"]
