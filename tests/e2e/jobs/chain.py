"""A deterministic job: a hash chain that prints each link, appends it to a log on the root file system and keeps the
newest on the job volume. Arguments: links, seconds between two, MiB of live memory that each link depends on. It pauses
until SIGUSR1, and does not print the last link before: whoever looks at it has all the time that it takes.

Its first line on stderr is a random token held in memory, so that a clean start can be told from the same process.
"""

import hashlib
import os
import signal
import sys
import time
import uuid

links, pause, mebibytes = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])


def hurry(*_: object) -> None:
    global pause
    pause = 0


signal.signal(signal.SIGUSR1, hurry)
volume = os.environ.get("PERDURE_VOLUME_PATH", "/srv")
token = uuid.uuid4().hex
print("token", token, file=sys.stderr, flush=True)
memory = bytearray(mebibytes << 20)
block = hashlib.shake_256(b"memory").digest(1 << 20)
for mebibyte in range(mebibytes):
    memory[mebibyte << 20 : (mebibyte + 1) << 20] = block
link = b"seed"
with open("/srv/chain.log", "a") as log:
    for number in range(links):
        while number == links - 1 and pause:
            time.sleep(pause)
        page = number * 4096 % max(1, len(memory) - 4096)
        link = hashlib.sha256(link + memory[page : page + 4096]).digest()
        memory[page : page + len(link)] = link
        print(number, link.hex(), flush=True)
        print(number, link.hex(), file=log, flush=True)
        with open(f"{volume}/newest", "w") as newest:
            newest.write(link.hex())
        time.sleep(pause)
print("whole", hashlib.sha256(memory).hexdigest(), flush=True)
print("token", token, file=sys.stderr, flush=True)
