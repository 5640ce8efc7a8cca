"""`python -m cnnjax.cli` is the command `cnnjax`."""

import sys

from cnnjax.cli import main

if __name__ == "__main__":
    sys.exit(main())
