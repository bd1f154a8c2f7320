"""A job that cannot be frozen: one of its processes is traced by another. It must still run to its end."""

import ctypes
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
for second in range(int(sys.argv[1])):
    print("second", second, flush=True)
    time.sleep(1)
os.kill(child, SIGKILL)
print("done", flush=True)
