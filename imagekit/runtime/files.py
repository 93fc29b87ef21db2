"""The runtime's own files as they stand in an image: zipapp, doors, small system files.

Runs on the building side. All bytes depend on this package's own source alone.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

from imagekit.runtime.launch import GRAMINE, OCCLUM
from imagekit.runtime.paths import APP, ENTRYPOINT, FLINK_ENTRYPOINT, LAUNCHER, OCCLUM_START

_PACKAGE = "imagekit_runtime"
_BUILDING_SIDE = ("__init__.py", "files.py")
# What is loaded lives until the program takes the process over: there is nothing to collect.
_MAIN = f"""\
import gc
import sys

gc.disable()

from {_PACKAGE}.main import main

sys.exit(main(sys.argv))
"""
_FIRST_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip file can hold

# One user, as Gramine shows it by default; a JVM without this line has no name and no home.
_USERS = "root:x:0:0:root:/tmp:/bin/false\n"
_HOSTS = "127.0.0.1 localhost\n"
_NSSWITCH = "passwd: files\ngroup: files\nhosts: files dns\n"

# Occlum takes the whole first line for the interpreter's path, so that options such as -I and -S
# cannot be given: what they keep out, a sealed environment has to (place.OCCLUM_ENVIRONMENT).
_START = f"""\
#!{{python}}
import gc
import sys

gc.disable()
sys.dont_write_bytecode = True
if len(sys.argv) != 1:
    print("imagekit: error: the start in the enclave takes no arguments", file=sys.stderr)
    sys.exit(2)
folder = "{OCCLUM_START}".rpartition("/")[0]
sys.path[:] = ["{LAUNCHER}", *(path for path in sys.path if path != folder)]

from {_PACKAGE}.main import main

sys.exit(main(["{LAUNCHER}"]))
"""
_LONGEST_LINE = 126  # bytes of a first line that Occlum reads, without its end

_SECURED_ARGV = (
    "bash",
    "-c",
    "export TF_MKL_ALLOC_MAX_BYTES=10737418240 && "
    "export _SPARK_AUTH_SECRET=$_SPARK_AUTH_SECRET && $sgx_command",
)


def build_zipapp() -> bytes:
    """Make ``launcher.pyz`` from this package's source: the same bytes on every machine.

    Entries are sorted, stored without compression (which depends on the zlib build), and have a
    fixed date, mode and origin.
    """
    source = Path(__file__).parent
    modules = [path for path in source.glob("*.py") if path.name not in _BUILDING_SIDE]
    entries = {f"{_PACKAGE}/{path.name}": path.read_bytes() for path in modules}
    entries[f"{_PACKAGE}/__init__.py"] = b""
    entries["__main__.py"] = _MAIN.encode()
    return pack(entries)


def pack(entries: Mapping[str, bytes]) -> bytes:
    """Make a zip file of these entries: the same bytes on every machine."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(entries):
            info = zipfile.ZipInfo(name, _FIRST_DATE)
            info.create_system = 3  # Unix
            info.external_attr = 0o100644 << 16
            archive.writestr(info, entries[name])
    return out.getvalue()


def doors(python: str = "python3") -> dict[str, str]:
    """Give the container's entry points: path → text of a two-line shell script.

    Args:
        python: the interpreter that runs the zipapp outside the enclave.
    """
    text = f'#!/bin/sh\nexec {python} -I -S {LAUNCHER} outside "$@"\n'
    return {ENTRYPOINT: text, FLINK_ENTRYPOINT: text}


def occlum_start(python: str) -> str:
    """Give the program that is started in an enclave of Occlum: the launcher, without arguments.

    Occlum reads a script's first line itself (0.26 to 0.31): all of it is the interpreter's path,
    which has to be a program rather than a script.

    Args:
        python: absolute path of the interpreter inside the enclave.

    Raises:
        ValueError: it cannot stand in such a line.
    """
    words = python.split()
    if words != [python] or words[0][0] != "/" or len(f"#!{python}".encode()) > _LONGEST_LINE:
        raise ValueError(
            f"python: Occlum needs an absolute path without spaces of at most {_LONGEST_LINE - 2} "
            "bytes"
        )
    return _START.format(python=python)


def runtime_files(python: str = "python3", libos: str = GRAMINE) -> dict[str, tuple[bytes, int]]:
    """Give all files of the runtime but ``launch.json``: path in the image → (content, mode).

    Args:
        python: as in :func:`doors`; with Occlum as in :func:`occlum_start`, too.
        libos: ``gramine`` or ``occlum``.

    Raises:
        ValueError: see :func:`occlum_start`.
    """
    files = {
        LAUNCHER: (build_zipapp(), 0o644),
        f"{APP}/etc/passwd": (_USERS.encode(), 0o644),
        f"{APP}/etc/hosts": (_HOSTS.encode(), 0o644),
        f"{APP}/etc/nsswitch.conf": (_NSSWITCH.encode(), 0o644),
    }
    if libos == OCCLUM:
        files[OCCLUM_START] = (occlum_start(python).encode(), 0o755)
    else:  # keeps the folder that the strict manifest takes as root
        files[f"{APP}/root/.keep"] = (b"", 0o644)
    files |= {path: (text.encode(), 0o755) for path, text in doors(python).items()}
    return dict(sorted(files.items()))


def secured_argvs() -> bytes:
    """Give BigDL's ``/ppml/secured_argvs``, which its manifest for Gramine 1.3 reads.

    The format is gramine-argv-serializer's: each argument followed by a NUL byte.
    """
    return b"".join(word.encode() + b"\0" for word in _SECURED_ARGV)
