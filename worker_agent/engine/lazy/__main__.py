"""`python -m worker_agent.engine.lazy`: see program.py."""

import sys

from worker_agent.engine.lazy.program import main

if __name__ == "__main__":
    sys.exit(main())
