"""`python -m perdure.image.pages`: see sink.py."""

import sys

from perdure.image.pages.sink import main

sys.exit(main())
