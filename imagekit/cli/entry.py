"""Entry points of the console scripts.

They keep the garbage collector off while the command line is loaded: nothing of that is garbage,
and looking for some takes a tenth of the start-up time.
"""

import gc
import resource
import signal
import sys


def _stop(number: int, frame: object) -> None:
    """End as on Ctrl-C: what is half-written is removed, programs that were started are stopped."""
    sys.exit(128 + number)


def _run(*before: str) -> None:
    signal.signal(signal.SIGTERM, _stop)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # what it holds in memory may be a key
    gc.disable()
    from imagekit.cli.main import app, run

    gc.freeze()
    gc.enable()
    sys.exit(run(app, [*before, *sys.argv[1:]], "imagekit"))


def main() -> None:
    """``imagekit``."""
    _run()


def gramine_manifest() -> None:
    """``imagekit-gramine-manifest``: the same as ``imagekit tool gramine-manifest``."""
    _run("tool", "gramine-manifest")


def gramine_sgx_sign() -> None:
    """``imagekit-gramine-sgx-sign``: the same as ``imagekit tool gramine-sgx-sign``."""
    _run("tool", "gramine-sgx-sign")


def sgx_sign() -> None:
    """``imagekit-sgx-sign``: the same as ``imagekit tool sgx-sign``."""
    _run("tool", "sgx-sign")
