"""The ``diffplan`` command, one file per subcommand: installed as diffplan.scripts."""

import os
import sys

if not sys.stderr.isatty():
    # a log keeps every state of a bar: one in half a minute is enough. Here, as tqdm reads it when
    # it is imported, which PyTorch does
    os.environ.setdefault("TQDM_MININTERVAL", "30")
    os.environ.setdefault("TQDM_MAXINTERVAL", "60")
