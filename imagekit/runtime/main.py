"""Entry of the zipapp: which of its parts is meant.

Without arguments it is the launcher inside the enclave (the manifest fixes that); ``outside …`` is
what the doors ``/opt/entrypoint.sh`` and ``/opt/flink-entrypoint.sh`` call.

Python 3.8, standard library, nothing else of this package.
"""

# Loading pathlib costs start-up time in an enclave.
# ruff: noqa: PTH100, PTH118, PTH120
from __future__ import annotations

import os
import sys
from typing import Sequence  # noqa: UP035 - Python 3.8

from .stop import REFUSED, Stop


def main(argv: Sequence[str]) -> int:
    """Run a part of the zipapp; comes back only when that failed.

    Args:
        argv: as ``sys.argv``: path of the zipapp, then arguments. ``launch.json`` is looked for
            beside the zipapp.

    Returns:
        Exit code, one of :mod:`.stop`.
    """
    spec_path = os.path.join(os.path.dirname(os.path.abspath(argv[0])), "launch.json")
    try:
        if len(argv) == 1:
            from . import inside  # only here: outside does without, with Gramine

            inside.run(spec_path, os.environb)
        elif argv[1] == "outside":
            from . import outside, plan  # only here: the enclave need not load them

            outside.start(argv[2:], spec_path, plan.Places())
        else:
            raise Stop(REFUSED, "the launcher takes no arguments")
    except Stop as stop:
        print(f"imagekit: error: {stop.line}", file=sys.stderr)
        return stop.code
