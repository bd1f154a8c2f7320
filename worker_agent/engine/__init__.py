"""Checkpoint and restore as visible, ordered lists of steps over runc and CRIU."""
