"""The agent, whose lazy restores never come to their end."""

from __future__ import annotations

import sys

from worker_agent.__main__ import main
from worker_agent.engine.lazy import daemon

if __name__ == "__main__":
    daemon.PROGRAM = "tests.integration.lazy_held"
    sys.exit(main())
