"""`python -m jaxdp` is the `jaxdp` command."""

import sys

from jaxdp.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
