"""The program of a lazy restore, which answers the job and brings nothing else: it never comes to its end."""

from __future__ import annotations

import sys
import time

from worker_agent.engine.lazy import program, serving


class Held(serving.Server):
    def _bring_some(self, most_pages: int) -> None:
        time.sleep(0.002)


if __name__ == "__main__":
    program.Server = Held  # type: ignore[misc]
    sys.exit(program.main())
