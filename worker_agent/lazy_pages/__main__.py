"""`python -m worker_agent.lazy_pages`: see program.py."""

import sys

from perdure import garbage

if __name__ == "__main__":
    garbage.none_while_loading()
    from worker_agent.lazy_pages.program import main

    garbage.keep_what_is_loaded()
    sys.exit(main())
