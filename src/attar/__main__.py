"""`python -m attar` is `attar`."""

import sys

from attar.cli import main

sys.exit(main())
