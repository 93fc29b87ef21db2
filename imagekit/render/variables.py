"""What a Gramine manifest template may use besides its own ``-D`` variables.

The same names as gramine-manifest 1.9 gives: ``gramine``, ``python``, ``env``, ``ldd``. Only the
drop-in tool offers the last three: they describe the machine it runs on, which for an image is the
wrong machine.
"""

import os
import platform
import posixpath
import re
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from typing import Any

from imagekit.errors import InputError

DEFAULT_PKGLIBDIR = "/usr/lib/x86_64-linux-gnu/gramine"
"""Where Debian's and Ubuntu's packages of Gramine put its files."""


class _RuntimeDir:
    """``gramine.runtimedir()`` and, as in older templates, ``gramine.runtimedir``."""

    def __init__(self, pkglibdir: str) -> None:
        self._folder = posixpath.join(pkglibdir, "runtime")

    def __call__(self, libc: str = "glibc") -> str:
        return posixpath.join(self._folder, libc)

    def __str__(self) -> str:
        return self()

    def __truediv__(self, name: str) -> str:
        return posixpath.join(self(), name)


class GramineVariables:
    """The ``gramine`` object of a template.

    Args:
        pkglibdir: folder of the installation, with ``libsysdb.so``, ``sgx/libpal.so``,
            ``runtime/``.

    Attributes:
        pkglibdir: the same.
        libos: path of ``libsysdb.so``.
        runtimedir: callable, and usable as a string: path of Gramine's patched C library.
    """

    def __init__(self, pkglibdir: str = DEFAULT_PKGLIBDIR) -> None:
        self.pkglibdir = pkglibdir
        self.libos = posixpath.join(pkglibdir, "libsysdb.so")
        self.runtimedir = _RuntimeDir(pkglibdir)

    @property
    def libpal(self) -> str:
        """Path of the SGX build's ``libpal.so``."""
        return posixpath.join(self.pkglibdir, "sgx", "libpal.so")


class _PythonVariables:
    """The ``python`` object of a template: where this machine's Python keeps its files."""

    def __init__(self) -> None:
        paths = sysconfig.get_paths()
        self.stdlib = paths["stdlib"]
        self.platstdlib = paths["platstdlib"]
        self.purelib = paths["purelib"]
        self.distlib = "/usr/lib/python3/dist-packages"
        self.get_config_var = sysconfig.get_config_var
        self.ext_suffix = sysconfig.get_config_var("EXT_SUFFIX")
        self.get_path = sysconfig.get_path
        self.get_paths = sysconfig.get_paths
        self.implementation = platform.python_implementation()

    @staticmethod
    def get_sys_path(interpreter: str = sys.executable) -> list[str]:
        """Give ``sys.path`` of an interpreter, without what does not exist."""
        code = "import sys; print('\\n'.join(sys.path))"
        listed = _run([interpreter, "-c", code]).splitlines()
        return [path for path in listed if path and os.path.exists(path)]  # noqa: PTH110


def _run(argv: Sequence[str]) -> str:
    try:
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", "") or str(error)
        raise InputError(
            f"{' '.join(argv[:1])}: {reason.strip().splitlines()[-1]}",
            "check the template's argument",
        ) from None


def ldd(*binaries: str) -> list[str]:
    """Give the absolute paths of all libraries that the binaries load here, sorted."""
    found = set()
    for line in _run(["ldd", *map(str, binaries)]).splitlines():
        # "libx.so => /path (0x…)" or "/lib64/ld… (0x…)"; the vdso and "file:" lines have no path
        match = re.match(r"\s+(?:\S+\s+=>\s+)?(/\S+)\s+\(0x", line)
        if match:
            found.add(match[1])
    return sorted(found)


def machine_variables() -> dict[str, Any]:
    """Give the variables that describe this machine."""
    return {"python": _PythonVariables(), "env": dict(os.environ), "ldd": ldd}
