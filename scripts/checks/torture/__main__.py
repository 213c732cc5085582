"""Entry of `python -m diffplan.scripts.checks.torture`."""

import sys

from diffplan.scripts.checks import main
from diffplan.scripts.checks.torture.command import Torture

if __name__ == "__main__":
    sys.exit(main(Torture, "diffplan.scripts.checks.torture", sys.argv[1:]))
