"""`python -m disk`, the same as `disk`; what torchrun starts."""

import sys

from disk.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
