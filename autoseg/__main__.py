"""python -m autoseg NAME ..."""

import sys

if __name__ == "__main__":
    try:
        from autoseg.cli.main import main

        code = main()
    except KeyboardInterrupt:  # before a command is ready to answer it
        code = 130
    sys.exit(code)
