"""The gate before Temporal as it is deployed: certificates by our script, HAProxy with our configuration."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from localcloud.stack.waiting import free_port
from perdure.waiting import until
from tests.integration.debian_programs import libraries, unpacked
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Gate:
    """`port` on loopback; `certificates` as temporal-certificates.sh made them; `configuration` is Temporal's, for
    instances, with this gate's port."""

    port: int
    certificates: Path

    @property
    def configuration(self) -> Path:
        return self.certificates / "temporal.toml"


def certificates(folder: Path) -> Path:
    """A folder of certificates for a gate on loopback."""
    script = ROOT / "deploy/docker/temporal-certificates.sh"
    subprocess.run(["sh", script, folder, "127.0.0.1"], check=True, capture_output=True, timeout=PATIENCE)
    return folder


@contextmanager
def gate(folder: Path, temporal: str) -> Iterator[Gate]:
    """Before the Temporal server at `temporal` (HOST:PORT), until the end of the block."""
    tree = unpacked("haproxy", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1")
    port = free_port()
    found = Gate(port, certificates(folder))
    found.configuration.write_text(found.configuration.read_text().replace(":7234", f":{port}"))
    settings = {"CERTIFICATES": str(folder), "TEMPORAL": temporal, "GATE": f"127.0.0.1:{port}"}
    argv = [str(tree / "usr/sbin/haproxy"), "-db", "-f", str(ROOT / "deploy/docker/temporal-gate.cfg")]
    log = folder / "haproxy.log"
    with log.open("wb") as out:
        serving = subprocess.Popen(argv, env=libraries(tree) | settings, stdout=out, stderr=out)
    try:
        until(lambda: _listens(port), PATIENCE, 0.05, f"the gate serves: {log.read_text()}")
        yield found
    finally:
        serving.kill()
        serving.wait(PATIENCE)


def _listens(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0
