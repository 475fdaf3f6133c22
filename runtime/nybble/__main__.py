"""`python -m nybble`: the command line, where no script is on the PATH."""

import sys

from nybble.cli import main

if __name__ == "__main__":
    sys.exit(main())
