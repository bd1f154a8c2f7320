"""The program of a lazy restore, which answers the job and brings nothing else: it never comes to its end."""

from __future__ import annotations

import sys
import time

from worker_agent.lazy_pages.program import main
from worker_agent.lazy_pages.serving import Server


def bring_nothing(server: Server, most_pages: int) -> None:
    time.sleep(0.002)


if __name__ == "__main__":
    Server._bring_some = bring_nothing  # type: ignore[method-assign,assignment]
    sys.exit(main())
