"""`python -m disk`, the same as `disk`; torchrun starts it this way."""

import sys

from disk.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
