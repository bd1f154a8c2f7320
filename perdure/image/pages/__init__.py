"""Shared-page checkpoints: CRIU's pages are taken as they are dumped, and a complete, plain image is put together out
of what earlier checkpoints hold (shared extents) and what is new (one staging write).

    CRIU ─► named pipes (pipes.py) ─► matching.py (pages.c) ─► staging.py ─► assembly.py ─► images/pages-N.img, index/
    running job ─► predump.py ──────────┘

`python -m perdure.image.pages` is the program that does it, one process for each checkpoint (sink.py); the agent talks
to it by lines of JSON. index.py is the file of fingerprints that a later checkpoint matches against and that a restore
verifies with.
"""
