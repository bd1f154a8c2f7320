"""Perdure's shared kernel: what every process agrees on (words, messages, images, records, settings)."""

__version__ = "0.1.0"
