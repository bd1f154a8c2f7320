"""Lazy restores: a job goes on while its memory is still being brought in.

Start with `daemon.py`, which says what is promised. `images.py` decides whether a checkpoint is fit for it. The program
that brings the memory in is worker_agent/lazy_pages.
"""
