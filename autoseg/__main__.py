"""python -m autoseg NAME ..."""

import sys

from autoseg.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
