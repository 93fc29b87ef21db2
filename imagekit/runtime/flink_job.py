"""The job that the host asks for, and what a strict image demands before it runs one.

Main class, jars and arguments come as properties (native Kubernetes) or as options (the stock
image's ``standalone-job``); either way they have to be on the lists of ``launch.json``, unless they
are sealed. Without a main class Flink takes the one that the jar names: the jar is on its list.

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

import os
import re
from typing import Mapping, Sequence  # noqa: UP035 - Python 3.8

from .command import TEMPORARY
from .flink_args import SESSION, Asked
from .flink_conf import items_of
from .launch import LONGEST_VALUE, Launch
from .place import NATIVE, Place
from .stop import REFUSED, Stop

MAIN_CLASS = "$internal.application.main"
ARGUMENTS = "$internal.application.program-args"
JARS = ("pipeline.jars", "pipeline.classpaths")
PROPERTIES = (MAIN_CLASS, ARGUMENTS, *JARS)
"""Properties that are checked here."""

_SAVEPOINTS = ("execution.savepoint.path", "execution.state-recovery.path")
_PYTHON = ("-py", "--python", "-pym", "--pyModule")
_PYTHON_CLASS = "org.apache.flink.client.python.PythonDriver"
_INTERNAL_TLS = "security.ssl.internal.enabled"
_REST_TLS = ("security.ssl.rest.enabled", "security.ssl.rest.authentication-enabled")
_RELATIVE = re.compile(r"file:([^/%?#][^%?#]*)")
_FILE = re.compile(r"(?:(?:local|file)://(?=/)|(?:local|file):(?=/(?!/)))?(/[^%?#]*)")


def check_job(spec: Launch, asked: Asked, conf: Mapping[str, str], place: Place) -> None:
    """Check the job and, under strict, that the ports are protected.

    Args:
        spec: the launch specification.
        asked: what the container's words ask for.
        conf: all properties, the sealed ones too.
        place: where this runs.

    Raises:
        Stop: refused.
    """
    host = {name: conf[name] for name in PROPERTIES if name in conf and name not in spec.conf}
    jars = {name: _items(host, name) for name in JARS}
    if spec.profile == "strict":
        for name in (host.get(MAIN_CLASS), asked.job_class):
            if name is not None and name not in spec.classes:
                raise Stop(
                    REFUSED, "the job's main class is refused: launch.classes does not name it"
                )
        for what, items in {**jars, "--jars": asked.jars}.items():
            if not all(_path_of(item) in spec.jars for item in items):
                raise Stop(REFUSED, f"{what}: refused: launch.jars does not name it")
        _check_arguments(spec, (*_items(host, ARGUMENTS), *asked.arguments))
        _check_savepoint(spec, asked)
        _check_protection(asked, conf)
    if spec.profile == "strict" or place.kind != NATIVE:
        arguments = {*_items(conf, ARGUMENTS), *asked.arguments}
        if _PYTHON_CLASS in (conf.get(MAIN_CLASS), asked.job_class) or arguments & set(_PYTHON):
            raise Stop(
                REFUSED,
                "the job is refused: Flink starts a process for Python, which an enclave cannot "
                "have; take a job for the JVM",
            )


def _items(conf: Mapping[str, str], name: str) -> list[str]:
    try:
        return items_of(conf, name)
    except ValueError as error:
        raise Stop(REFUSED, f"refused: {error}") from None


def _path_of(item: str) -> str:
    """The path of ``local:///x``, ``file:///x``, ``file:/x`` or ``/x``; else nothing.

    ``file:x`` is how a JobManager names the jars of ``usrlib``: seen from the working folder.
    """
    found = _FILE.fullmatch(item)
    if found:
        return found[1]
    relative = _RELATIVE.fullmatch(item)
    if relative is None:
        return ""
    return os.path.normpath(f"{TEMPORARY}/{relative[1]}")


def _check_arguments(spec: Launch, arguments: Sequence[str]) -> None:
    if arguments and spec.arguments is None:
        raise Stop(REFUSED, "arguments of the job are refused: launch.arguments allows none")
    for argument in arguments:
        assert spec.arguments is not None
        long = len(argument.encode()) > LONGEST_VALUE
        if long or spec.arguments.fullmatch(argument) is None:
            raise Stop(
                REFUSED, "an argument of the job is refused: it does not match launch.arguments"
            )


def _check_savepoint(spec: Launch, asked: Asked) -> None:
    if asked.savepoint is None:
        return
    allowed = [spec.conf_allowed[name] for name in _SAVEPOINTS if name in spec.conf_allowed]
    if not any(pattern.fullmatch(asked.savepoint) for pattern in allowed):
        raise Stop(
            REFUSED,
            "--fromSavepoint is refused: state of an earlier run can bring code: name "
            f"{_SAVEPOINTS[0]} in launch.conf_allowed",
        )


def _check_protection(asked: Asked, conf: Mapping[str, str]) -> None:
    if conf.get(_INTERNAL_TLS, "").lower() != "true":
        raise Stop(
            REFUSED,
            "refused: whoever reaches Flink's RPC port has code run: seal "
            f"{_INTERNAL_TLS} true and a keystore in launch.conf",
        )
    if asked.kind == SESSION and any(conf.get(name, "").lower() != "true" for name in _REST_TLS):
        raise Stop(
            REFUSED,
            "a session cluster is refused: its REST port takes code: seal "
            f"{' and '.join(_REST_TLS)} true and a keystore in launch.conf, or run one job",
        )
