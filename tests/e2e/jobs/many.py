"""Holds that many descriptors, in processes of 9,000 each, and counts: many.py COUNT FINISH. Once there is a file
FINISH it says whether it holds them still, and ends."""

import itertools
import os
import resource
import sys
import time

count, finish = int(sys.argv[1]), sys.argv[2]
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
each = min(hard - 50, 9000, count)
own = len(os.listdir("/proc/self/fd"))
reader, writer = os.pipe()
null = os.open("/dev/null", os.O_RDONLY)
for _ in range(each - 1):
    os.dup(null)
for _ in range(count // each - 1 if each else 0):
    if os.fork() == 0:
        os.close(writer)
        os.read(reader, 1)  # the parent's end
        os._exit(0)
for number in itertools.count():
    if os.path.exists(finish):
        break
    print(number, flush=True)
    time.sleep(0.1)
print("whole" if len(os.listdir("/proc/self/fd")) == own + each + (2 if each else 3) else "LOST SOME", flush=True)
