"""``python -m warpstore.cli``: the same as the script ``warpstore``."""

import sys

from warpstore.cli.entry import main

if __name__ == "__main__":
    sys.exit(main())
