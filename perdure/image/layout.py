"""The names of a checkpoint's folders. `files` has its own module (files.py), and so has `index` (pages/index.py)."""

IMAGES = "images"
"""Folder of a checkpoint that holds what CRIU and runc wrote in the freeze: plain images, complete by themselves."""
