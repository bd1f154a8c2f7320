"""Lazy restores: a job goes on while its memory is still being brought in.

Start with `daemon.py`, which says what is promised. `images.py` decides whether a checkpoint is fit for it.
`program.py` runs beside the job: `serving.py` answers CRIU, the kernel and the job, `source.py` reads and verifies
pages, `guard.py` ends the job should the program die. `missing.py` has the books, `userfault.py` the system calls.
"""
