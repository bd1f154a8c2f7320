"""Keeping what a container has done: checkpoints and their rhythm, notices and hand-overs, ends and upkeep."""
