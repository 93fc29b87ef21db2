"""What the host says to Flink: variables, file, ``-D``, each over the one before.

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

import re
from typing import Mapping  # noqa: UP035 - Python 3.8

from . import flink_conf, kubernetes
from .flink_args import TASK_MANAGER, Asked
from .launch import Launch
from .paths import FLINK_POD_TEMPLATE
from .place import NATIVE, Place
from .request import Request
from .stop import REFUSED, Stop
from .words import shown

_ADDRESS = r"[0-9A-Za-z.:-]{1,253}"

VARIABLES = {
    "FLINK_CONF_DIR": r"/[\x20-\x7e]{0,1000}",  # its file has come in as properties
    "FLINK_PROPERTIES": r"[\t\n\r\x20-\x7e]*",  # so have these
    kubernetes.FLINK_TEMPLATE: kubernetes.TEMPLATE_FORM,
    "FLINK_TM_JVM_MEM_OPTS": r"[A-Za-z0-9:=+ -]{0,1000}",
    "JOB_MANAGER_RPC_ADDRESS": _ADDRESS,
    "LOCAL_IP": _ADDRESS,
    "TASK_MANAGER_NUMBER_OF_TASK_SLOTS": r"[0-9]{1,5}",
    "_POD_IP_ADDRESS": _ADDRESS,
    "_POD_NODE_ID": r"[\x21-\x7e]{1,253}",
    **kubernetes.VARIABLES,
}
"""Variables of a request that count: name → pattern of its value in the strict profile."""

_WITHOUT_EFFECT = re.compile(
    r"FLINK_(VERSION|SCALA_VERSION|TGZ_URL|ASC_URL|LOG_DIR|PID_DIR|IDENT_STRING)|NETTY_THREAD"
    r"|FLINK_(BIN|LIB|OPT|PLUGINS)_DIR"
)
"""What images set and this launcher has no use for."""
_JVM_VARIABLES = ("JVM_ARGS", "FLINK_ENV_JAVA_OPTS")

_LOOPBACK = (
    *("jobmanager.bind-host", "taskmanager.bind-host", "taskmanager.host", "rest.bind-address"),
)


def check_variables(spec: Launch, env: Mapping[str, str], asked: Asked) -> None:
    """Strict: refuse variables that nobody answers for, and values without their form."""
    folder = env.get("FLINK_CONF_DIR")
    if asked.conf_dir is not None and folder is not None and asked.conf_dir != folder:
        raise Stop(REFUSED, "--configDir is refused: it is not what FLINK_CONF_DIR names")
    if spec.profile != "strict":
        return
    for name, value in sorted(env.items()):
        if name.startswith(_JVM_VARIABLES):
            if value.strip():
                raise Stop(REFUSED, f"{name}: refused: options of the JVM are sealed")
        elif name in VARIABLES:
            if re.fullmatch(VARIABLES[name], value, re.ASCII) is None:
                raise Stop(REFUSED, f"{name}: refused, its value does not have the form of one")
        elif not _WITHOUT_EFFECT.fullmatch(name):
            raise Stop(REFUSED, f"{shown(name)}: refused: Flink has no such variable")


def pod_template(spec: Launch, request: Request, asked: Asked, place: Place) -> dict[str, bytes]:
    """Give the file with the pod template of TaskManagers, for a JobManager that starts them.

    Natively and under compat Flink sees the mounted file itself.

    Raises:
        Stop: it is not base64.
    """
    if not asked.kubernetes or asked.kind == TASK_MANAGER:
        return {}
    if spec.profile != "strict" or place.kind == NATIVE:
        return {}
    template = kubernetes.pod_template(request.env, kubernetes.FLINK_TEMPLATE)
    return {} if template is None else {FLINK_POD_TEMPLATE: template}


def host_conf(request: Request, asked: Asked) -> dict[str, str]:
    """The host's properties: file, variables of the stock image, ``-D``, each over the one before.

    Where ``JOB_MANAGER_RPC_ADDRESS`` is set, this does as the stock image does: the ports that its
    services expect, and nothing bound to ``localhost``, as the file that comes with Flink has it.
    """
    conf = dict(request.conf)
    address = request.env.get("JOB_MANAGER_RPC_ADDRESS")
    given = _flink_properties(request.env)
    if address and not asked.kubernetes:
        for name in _LOOPBACK:
            if conf.get(name) == "localhost" and name not in given:
                del conf[name]
        conf["jobmanager.rpc.address"] = given.get("jobmanager.rpc.address", address)
        conf.setdefault("blob.server.port", "6124")
    slots = request.env.get("TASK_MANAGER_NUMBER_OF_TASK_SLOTS")
    if slots and not asked.kubernetes:
        conf["taskmanager.numberOfTaskSlots"] = given.get("taskmanager.numberOfTaskSlots", slots)
    return {**conf, **asked.properties}


def _flink_properties(env: Mapping[str, str]) -> dict[str, str]:
    try:
        return flink_conf.parse_conf(env.get("FLINK_PROPERTIES", ""))
    except ValueError as error:
        raise Stop(REFUSED, f"FLINK_PROPERTIES: refused: {error}") from None
