"""The runtime's own files as they stand in an image: zipapp, doors, small system files.

Runs on the building side. All bytes depend on this package's own source alone.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

from imagekit.runtime.paths import APP, ENTRYPOINT, FLINK_ENTRYPOINT, LAUNCHER

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


def runtime_files(python: str = "python3") -> dict[str, tuple[bytes, int]]:
    """Give all files of the runtime but ``launch.json``: path in the image → (content, mode).

    Args:
        python: as in :func:`doors`.
    """
    files = {
        LAUNCHER: (build_zipapp(), 0o644),
        f"{APP}/etc/passwd": (_USERS.encode(), 0o644),
        f"{APP}/etc/hosts": (_HOSTS.encode(), 0o644),
        f"{APP}/etc/nsswitch.conf": (_NSSWITCH.encode(), 0o644),
        # Keeps the folder that the strict manifest takes as root.
        f"{APP}/root/.keep": (b"", 0o644),
    }
    files |= {path: (text.encode(), 0o755) for path, text in doors(python).items()}
    return dict(sorted(files.items()))


def secured_argvs() -> bytes:
    """Give BigDL's ``/ppml/secured_argvs``, which its manifest for Gramine 1.3 reads.

    The format is gramine-argv-serializer's: each argument followed by a NUL byte.
    """
    return b"".join(word.encode() + b"\0" for word in _SECURED_ARGV)
