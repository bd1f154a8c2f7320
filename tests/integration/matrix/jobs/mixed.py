"""Many of the rows' things in one job, one after the other in every round."""

from __future__ import annotations

import files  # type: ignore[import-not-found]
import memory  # type: ignore[import-not-found]
import network  # type: ignore[import-not-found]
import processes  # type: ignore[import-not-found]
import programs  # type: ignore[import-not-found]
from row import Check, main  # type: ignore[import-not-found]


def everything() -> Check:
    """Of each kind one that does not mind the others' signals and children."""
    checks = [
        *(processes.tree(), processes.threads()),
        *(files.pipes(), files.fifos(), files.descriptors(), files.events(), files.epolls(), files.watches()),
        *(memory.shm(), memory.mapped_files(), memory.memfd(), memory.system_v(), memory.tmpfs()),
        *(network.unix_sockets(), network.tcp(), network.passed()),
        *(programs.pool(), programs.sqlite()),
    ]

    def check() -> str:
        return " ".join(str(one()) for one in checks)

    return check


if __name__ == "__main__":
    main(globals())
