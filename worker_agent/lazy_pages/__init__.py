"""The program beside a lazily restored job, which brings its memory in (engine/lazy/daemon.py starts it).

Start with `program.py`. `serving.py` answers CRIU, the kernel and the job, `source.py` reads and verifies pages,
`guard.py` ends the job should the program die. `missing.py` has the books, `userfault.py` the system calls.

Nothing in here loads the engine, pydantic or asyncio: that took ten times as long as all that the program needs, and a
job stands still meanwhile.
"""
