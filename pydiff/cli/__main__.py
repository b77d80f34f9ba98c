"""`python -m pydiff.cli` is the command `pydiff`."""

import sys

from pydiff.cli import main

sys.exit(main())
