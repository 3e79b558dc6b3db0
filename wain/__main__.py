"""``python -m wain``."""

import sys

from wain.cli import main

sys.exit(main())
