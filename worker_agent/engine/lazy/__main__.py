"""`python -m worker_agent.engine.lazy`: see program.py."""

import sys

from perdure import garbage

if __name__ == "__main__":
    garbage.none_while_loading()
    from worker_agent.engine.lazy.program import main

    garbage.keep_what_is_loaded()
    sys.exit(main())
