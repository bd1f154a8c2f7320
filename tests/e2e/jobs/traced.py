"""A job that cannot be frozen: one of its processes is traced by another. It runs on until there
is a file (traced.py FILE), and then to its end."""

import ctypes
import itertools
import os
import sys
import time

PTRACE_TRACEME, PTRACE_CONT, SIGKILL = 0, 7, 9
libc = ctypes.CDLL(None, use_errno=True)
child = os.fork()
if child == 0:
    libc.ptrace(PTRACE_TRACEME, 0, None, None)
    os.kill(os.getpid(), 19)
    while True:
        time.sleep(1)
os.waitpid(child, 0)
libc.ptrace(PTRACE_CONT, child, None, None)
for number in itertools.count():
    if os.path.exists(sys.argv[1]):
        break
    print("number", number, flush=True)
    time.sleep(0.2)
os.kill(child, SIGKILL)
print("done", flush=True)
