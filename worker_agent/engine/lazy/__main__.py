"""`python -m worker_agent.engine.lazy`: see program.py."""

import sys

from perdure import loading

if __name__ == "__main__":
    loading.begin()
    from worker_agent.engine.lazy.program import main

    loading.end()
    sys.exit(main())
