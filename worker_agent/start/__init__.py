"""A container's way to running: the runtime's requests, the workflow's plan, the ladder of restores."""
