"""Control-plane activities: volumes, Batch, instances, records; `python -m activities` is the control worker."""
