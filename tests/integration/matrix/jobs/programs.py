"""Rows about Python's own: multiprocessing with all its parts, SQLite in both modes, subprocesses."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import sqlite3
import subprocess
import threading
from concurrent.futures import ProcessPoolExecutor

from row import Check, expect, last, main, places, same  # type: ignore[import-not-found]


def chain(seed: int) -> str:
    """A small computation with one right answer."""
    state = b"%d" % seed
    for _ in range(2000):
        state = hashlib.sha256(state).digest()
    return state.hex()


def pool() -> Check:
    """A pool, an executor, a manager, a queue, a lock and shared values, used by several processes."""
    workers, executor = multiprocessing.Pool(3), ProcessPoolExecutor(2)
    manager = multiprocessing.Manager()
    shared = manager.dict()
    asked: multiprocessing.Queue[bool] = multiprocessing.Queue()
    queue: multiprocessing.Queue[int] = multiprocessing.Queue()
    value, lock = multiprocessing.Value("q", 0), multiprocessing.Lock()
    wanted = [chain(seed) for seed in range(6)]
    done = [0]

    def count() -> None:
        while asked.get():
            with lock:
                value.value += 1
            queue.put(value.value)

    process = multiprocessing.Process(target=count)
    process.start()

    def check() -> str:
        same(workers.map(chain, range(6)), wanted, "answers of the pool")
        same(list(executor.map(chain, range(6))), wanted, "answers of the executor")
        asked.put(True)
        done[0] += 1
        same(queue.get(timeout=300), done[0], "shared value")
        shared["count"] = shared.get("count", 0) + 1
        same(shared["count"], done[0], "value at the manager")
        if last():
            asked.put(False)
            process.join(300)
            workers.terminate()
            executor.shutdown()
            manager.shutdown()
        return wanted[0][:16]

    return check


def sqlite() -> Check:
    """SQLite: a write-ahead log on the data folder, a rollback journal on the root layer, a transaction that is open,
    a second process that reads."""
    data, root = places()
    stores = []
    for path, mode in ((f"{data}/wal.db", "wal"), (f"{root}/journal.db", "delete")):
        store = sqlite3.connect(path, isolation_level=None, timeout=300)
        store.execute(f"pragma journal_mode={mode}")
        store.execute("create table chain (round integer primary key, digest text unique)")
        stores.append((path, store))
    reader = subprocess.Popen(
        ["python3", "-c", _READER, stores[0][0]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    assert reader.stdin is not None and reader.stdout is not None
    to, back = reader.stdin, reader.stdout
    for _, store in stores:
        store.execute("begin immediate")
    rounds = [0]

    def check() -> str:
        number = rounds[0]
        for _, store in stores:  # each transaction lives from one check to the next
            store.execute("insert into chain values (?, ?)", (number, hashlib.sha256(b"%d" % number).hexdigest()))
            store.execute("commit")
            store.execute("begin immediate")
        rounds[0] += 1
        to.write(b"?\n")
        same(int(back.readline()), rounds[0], "rows that another process reads")
        if last():
            for path, store in stores:
                store.execute("commit")
                rows = store.execute("select round, digest from chain order by round").fetchall()
                wanted = [(one, hashlib.sha256(b"%d" % one).hexdigest()) for one in range(rounds[0])]
                expect(rows == wanted, f"rows of {path}")
                same(store.execute("pragma integrity_check").fetchone()[0], "ok", path)
            to.close()
            same(reader.wait(300), 0, "reader")
        return "sqlite"

    return check


_READER = """
import sqlite3, sys
store = sqlite3.connect(sys.argv[1], timeout=300)
for line in sys.stdin:
    print(store.execute("select count(*) from chain").fetchone()[0], flush=True)
"""


def children() -> Check:
    """subprocess: a program behind pipes, a group of them in a shell, a thread that waits for one."""
    cat = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    shell = subprocess.Popen("cat | sed -u s/a/b/ | cat", shell=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    ended: list[int] = []
    sleeper = subprocess.Popen(["sleep", "1000"])
    threading.Thread(target=lambda: ended.append(sleeper.wait())).start()
    assert cat.stdin and cat.stdout and shell.stdin and shell.stdout
    to_cat, from_cat, to_shell, from_shell = cat.stdin, cat.stdout, shell.stdin, shell.stdout

    def check() -> str:
        to_cat.write(b"question\n")
        same(from_cat.readline(), b"question\n", "cat")
        to_shell.write(b"a\n")
        to_shell.flush()
        same(from_shell.readline(), b"b\n", "shell")
        same(ended, [], "a child that sleeps has ended")
        same(subprocess.run(["true"], check=False).returncode, 0, "a new child")
        if last():
            sleeper.terminate()
            to_cat.close()
            to_shell.close()
            same((cat.wait(300), shell.wait(300)), (0, 0), "exit codes")
            os.sched_yield()
        return "children"

    return check


if __name__ == "__main__":
    main(globals())
