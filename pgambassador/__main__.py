"""`python -m pgambassador` is the command `pgambassador`."""

import sys

from pgambassador.cli import main

if __name__ == "__main__":
    sys.exit(main())
