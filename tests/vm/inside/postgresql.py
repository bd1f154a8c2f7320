"""A job that runs its own database server and writes a row each round, as far as the gate allows.

postgresql.py FOLDER ROUNDS GATE
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

BIN = "/usr/lib/postgresql/15/bin"


def main(folder: str, rounds: int, gate: Path) -> None:
    data = f"{folder}/pg"
    subprocess.run(
        [f"{BIN}/initdb", "-D", data, "-E", "UTF8", "--locale=C", "--no-sync", "-A", "trust"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    options = ["-k", folder, "-c", "listen_addresses=", "-c", "autovacuum_naptime=5s", "-c", "shared_buffers=16MB"]
    server = subprocess.Popen([f"{BIN}/postgres", "-D", data, *options])
    psql = [f"{BIN}/psql", "-h", folder, "-d", "postgres", "-qAt", "-F", " "]
    while subprocess.run([*psql, "-c", "select 1"], capture_output=True, check=False).returncode:
        time.sleep(0.2)
    client = subprocess.Popen(psql, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert client.stdin is not None and client.stdout is not None
    print("create table t (n int primary key, text text);", file=client.stdin, flush=True)
    print("ready", flush=True)
    for number in range(1, rounds + 1):
        while not gate.exists() or int(gate.read_text() or 0) < number:
            time.sleep(0.05)
        statement = f"insert into t values ({number}, repeat('x', 1000)); select {number}, count(*), sum(n) from t;"
        print(statement, file=client.stdin, flush=True)
        print(client.stdout.readline().strip(), flush=True)
    client.stdin.close()
    client.wait()
    check = "set enable_seqscan = off; select count(*), bool_or(length(text) <> 1000), sum(n) from t where n > 0"
    done = subprocess.run([*psql, "-c", check], capture_output=True, text=True, check=True)
    print("end", done.stdout.strip(), flush=True)
    server.terminate()
    sys.exit(server.wait())


main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
