"""Rehearsals: a committed checkpoint is restored beside its running job, looked at, and thrown away.

Nothing but a restore proves that an image restores. `rehearsals.py` decides when, and `staging.py` cuts one short;
`remains.py` ends and removes what is left of one; `stage.py` runs in namespaces of its own, for one rehearsal;
`shielding.py` is why nobody outside can feel it; `looks.py` compares what came back with the image.
"""
