"""Container images of Debian packages, made without a registry and kept for all stacks of this machine."""
