"""Instances: namespaces and what runs inside them, and the images of their jobs."""
