"""What stands in an image beside the launcher, for :mod:`real_runs`."""

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from imagekit.release.launching import ARCH_LIBDIR, sealed_environment
from imagekit.render.templates import render_text, template_folder
from imagekit.runtime.paths import APP, LAUNCHER, LOG_FOLDER, NO_FORK_JAR
from imagekit.runtime.place import SIZE_VARIABLE
from imagekit.runtime.request import VARIABLE

MANIFEST = "/ppml/bash.manifest"
STAND_IN_FOLDER = "/opt/stand-in"
ENCLAVE_SIZE = "16G"
PASSWORD = "only-for-tests"
"""Of each keystore, and of what else has one."""

_STAND_IN = Path(__file__).parents[2] / "examples" / "quickstart" / "make_standin.py"


def sealed(base: SimpleNamespace) -> dict[str, str]:
    """Give the environment that a build seals."""
    launch = SimpleNamespace(env=(), passthrough=())
    project: Any = SimpleNamespace(libos="gramine", launch=launch)
    return sealed_environment(cast(Any, base), project)


def java_files() -> dict[str, bytes]:
    """Give what a build adds for JVMs: path → content."""
    folder = template_folder("java")
    logs = {
        f"{LOG_FOLDER}/{path.parent.name}/{path.name}": path.read_bytes()
        for path in folder.glob("log/*/*")
    }
    return {NO_FORK_JAR: (folder / "no-fork.jar").read_bytes(), **logs}


def manifest(base: SimpleNamespace, profile: str, trusted: Sequence[str]) -> str:
    """Give the manifest that a build makes of its template, before trusted files are listed.

    Args:
        base: with java_home, spark_home, flink_home.
        profile: ``strict`` or ``compat``.
        trusted: more files.
    """
    name = f"{'strict' if profile == 'strict' else 'bash'}.manifest.template"
    python = os.path.realpath("/usr/bin/python3")
    etc = "/etc/java-17-openjdk"
    prefix = Path(shutil.which("gramine-direct") or "/usr/bin/gramine-direct").parents[1]
    gramine = f"{prefix}/lib/{Path(ARCH_LIBDIR).name}/gramine"
    variables = {
        "gramine": SimpleNamespace(
            runtimedir=lambda: f"{gramine}/runtime/glibc", libos=f"{gramine}/libsysdb.so"
        ),
        "log_level": "error",
        "enclave_size": ENCLAVE_SIZE,
        "max_threads": 1024,
        "edmm": False,
        "debug": False,
        "attestation": "none",
        "isv_prod_id": 1,
        "isv_svn": 3,
        "arch_libdir": ARCH_LIBDIR,
        "execdir": "/usr/bin",
        "python": python,
        "python_lib": f"/usr/lib/{Path(python).name}",
        "java_home": base.java_home,
        "jdk_home": base.java_home,
        "java_etc": [etc] if Path(etc).is_dir() else [],
        "spark_home": base.spark_home,
        "flink_home": base.flink_home,
        "launcher": LAUNCHER,
        "app": APP,
        "argv": [],
        "env": {**sealed(base), SIZE_VARIABLE: ENCLAVE_SIZE} if profile == "strict" else {},
        "passthrough": [VARIABLE],
        "trusted": [f"file:{path}" for path in trusted],
        "encrypted": [],
    }
    return render_text((template_folder("gramine") / name).read_text(), variables, name)


@functools.cache
def stand_in() -> dict[str, bytes]:
    """Give the launchers of the quickstart's stand-in for Gramine: path → content."""
    spec = importlib.util.spec_from_file_location("make_standin", _STAND_IN)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {
        f"{STAND_IN_FOLDER}/{Path(path).name}": data
        for path, (_, data) in module.content().items()
        if path.startswith("usr/bin/")
    }


@functools.cache
def secrets(command: str, number: int = 0) -> dict[str, bytes]:
    """Give what ``imagekit secrets`` makes, name → content; its password is :data:`PASSWORD`.

    Args:
        command: ``ssl`` or ``flink``.
        number: another one has another key.
    """
    with tempfile.TemporaryDirectory() as folder:
        words = ["secrets", command, "--key-size", "2048", "--output", f"{folder}/made"]
        subprocess.run(
            [sys.executable, "-m", "imagekit", *words],
            env={**os.environ, "IMAGEKIT_PASSWORD": PASSWORD},
            check=True,
            capture_output=True,
        )
        return {path.name: path.read_bytes() for path in Path(folder, "made").iterdir()}
