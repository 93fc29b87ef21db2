"""The zipapp that a stage of a Dockerfile runs, made of the assembler's own modules.

All of its bytes depend on this package's source alone.
"""

from pathlib import Path

import imagekit
from imagekit.runtime.files import pack

_MODULES = (
    "errors.py",
    "files.py",
    "images/bases/instage.py",
    "images/bases/jks.py",
    "images/bases/normalise.py",
    "images/bases/repack.py",
    "images/bases/unpack.py",
    "images/progress.py",
    "images/streams.py",
    "images/tarread.py",
    "images/tarwrite.py",
    "spec/base_values.py",
)
_PACKAGES = ("", "images/", "images/bases/", "spec/")
_MAIN = """\
import sys

if sys.version_info < (3, 11):
    sys.exit("error: the builder image has Python %d.%d\\nhint: name one with Python 3.11 or later "
             "in base.distribution.builder or as build argument BUILDER, such as Debian 12"
             % sys.version_info[:2])

from imagekit.images.bases.instage import main

sys.exit(main())
"""


def stage_app() -> bytes:
    """Make ``stage.pyz``; see :mod:`imagekit.images.bases.instage` for what it does."""
    source = Path(imagekit.__file__).parent
    entries = {f"imagekit/{name}": (source / name).read_bytes() for name in _MODULES}
    entries |= {f"imagekit/{folder}__init__.py": b"" for folder in _PACKAGES}
    return pack(entries | {"__main__.py": _MAIN.encode()})
