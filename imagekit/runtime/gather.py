"""Make the launch request: gather what a container was started with.

Runs outside the enclave. What it leaves out never gets in; what it takes along is checked inside.

Python 3.8, standard library, nothing else of this package.
"""

# ruff: noqa: PTH113, PTH118
from __future__ import annotations

import os
import re
from typing import Mapping, Sequence  # noqa: UP035 - Python 3.8

from .launch import FLINK_ROLES, OCCLUM, SPARK_ROLES, Launch
from .paths import ACCOUNT_FOLDER, FLINK_POD_TEMPLATE
from .request import INJECTIONS, Request, is_service
from .start import read_file
from .stop import REFUSED, UNUSABLE, Stop

LONGEST_FILE = 1 << 20
"""Bytes of a properties file."""
KEY_FILES = ("LOCAL_DATA_KEY", "EHSM_PRIMARY_KEY", "EHSM_DATA_KEY")
"""Variables with the path of a small file, whose content goes in as ``…_DATA`` in base64."""
SECRET_FILES = ("API_KEY", "_SPARK_AUTH_SECRET")
"""Variables whose value may stand in the file that ``…_FILE`` names, so that it is not part of the
container's description."""
_OWN_ADDRESS = ("_POD_IP_ADDRESS", "LOCAL_IP")
"""Variables with the container's own address, for Flink."""

_ASKS_KUBERNETES = ("driver", "submit", "jobmanager", "standalone-job")
"""Roles that start pods."""

_ALWAYS = ("MALLOC_ARENA_MAX", "TF_MKL_ALLOC_MAX_BYTES", *INJECTIONS)
_ROLE_PREFIXES = {
    **dict.fromkeys(SPARK_ROLES, ("SPARK_", "SGX_", "_SPARK_")),
    **dict.fromkeys(
        FLINK_ROLES, ("FLINK_", "SGX_", "_FLINK_", "_POD_", "JOB_MANAGER_", "TASK_MANAGER_")
    ),
}
_ROLE_NAMES = ("NETTY_THREAD", "LOCAL_IP", "JVM_ARGS")
_THRIFT_NAMES = ("HIVE_SERVER2_THRIFT_PORT", "HIVE_SERVER2_THRIFT_BIND_HOST")
_HOMES = ("SPARK_HOME", "FLINK_HOME", "JAVA_HOME")
"""What the image itself says, and launch.json says better."""

# What Kubernetes adds for each service of the namespace; a service may well be called spark-…
_SERVICE_LINK = re.compile(r".+_(SERVICE_(HOST|PORT(_.+)?)|PORT(_[0-9]+_(TCP|UDP|SCTP)(_.+)?)?)")

_CONF_OPTION = "--properties-file"


def role_of(arguments: Sequence[str]) -> tuple[str, tuple[str, ...]] | None:
    """Give role and arguments that a container was started with.

    Args:
        arguments: of the container.

    Returns:
        None if the first word is no role, so that the words are a command.

    Raises:
        Stop: a role that cannot run in an enclave.
    """
    if not arguments:
        return ("", ())
    word = arguments[0]
    if word in ("driver-py", "driver-r"):
        raise Stop(
            REFUSED,
            f"the role {word} is refused: Spark starts worker processes for it, which an enclave "
            "cannot have; take a job for the JVM, or SQL from a client of the role thrift",
        )
    if word in SPARK_ROLES:
        return (word, tuple(arguments[1:]))
    from .flink_args import container_role

    return container_role(arguments)


def gather(
    role: str,
    args: Sequence[str],
    env: Mapping[str, str],
    spec: Launch,
    account_folder: str = ACCOUNT_FOLDER,
    flink_template: str = FLINK_POD_TEMPLATE,
) -> Request:
    """Make the request of a role; the role "" is the sealed command.

    Args:
        role: the role.
        args: the words after it.
        env: of the container.
        spec: the image's launch specification.
        account_folder: where Kubernetes puts a pod's service account.
        flink_template: where Flink mounts the pod template of TaskManagers.

    Raises:
        Stop: a file that is named cannot be read.
    """
    wanted = {name: value for name, value in env.items() if _goes_in(name, role)}
    if spec.libos == OCCLUM:
        from .occlum_settings import stays_outside

        wanted = {name: value for name, value in wanted.items() if not stays_outside(name)}
    for name in KEY_FILES:
        if env.get(name):
            wanted[f"{name}_DATA"] = _encoded(env[name], name)
    for name in SECRET_FILES:
        if env.get(f"{name}_FILE"):
            text = _read(env[f"{name}_FILE"], f"{name}_FILE").decode("utf-8", "replace")
            wanted[name] = text.strip()
            wanted.pop(f"{name}_FILE", None)
    if role in _ASKS_KUBERNETES:
        from .kubernetes import read_account

        wanted.update(read_account(env, account_folder))
    conf = _conf(role, args, env, spec)
    if role == "taskmanager" and not any(map(env.get, _OWN_ADDRESS)):
        manager = env.get("JOB_MANAGER_RPC_ADDRESS") or conf.get("jobmanager.rpc.address", "")
        wanted.update(_own_address(manager))
    if role == "driver":
        wanted.update(_pod_template(conf))
    if role == "jobmanager" and spec.profile == "strict":
        wanted.update(_flink_template(flink_template))
    return Request(role, tuple(args), wanted, conf)


def _pod_template(conf: Mapping[str, str]) -> dict[str, str]:
    """The pod template of executors, which Spark mounts into a driver's pod."""
    from .kubernetes import TEMPLATE, TEMPLATE_PROPERTY

    path = conf.get(TEMPLATE_PROPERTY)
    if not path:
        return {}
    return {TEMPLATE: _encoded(path, TEMPLATE_PROPERTY)}


def _flink_template(path: str) -> dict[str, str]:
    """The pod template of TaskManagers, if Flink has mounted one into a JobManager's pod."""
    if not os.path.exists(path):  # noqa: PTH110
        return {}
    from .kubernetes import FLINK_TEMPLATE

    return {FLINK_TEMPLATE: _encoded(path, "the pod template")}


def _own_address(manager: str) -> dict[str, str]:
    """The address from which this machine reaches its JobManager; nothing where none is found.

    Flink looks it up itself, which it cannot do inside, and Flink on Kubernetes tells only the
    JobManager's pod.
    """
    import socket  # only here: other roles do without

    for host in filter(None, (manager, socket.gethostname())):
        try:
            family, kind, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, kind) as asked:
                asked.connect(address)  # sends nothing: the kernel only chooses a way
                return {_OWN_ADDRESS[0]: asked.getsockname()[0]}
        except (OSError, UnicodeError):
            continue
    return {}


def _goes_in(name: str, role: str) -> bool:
    if name in _ALWAYS or is_service(name):
        return True
    if role == "thrift" and name in _THRIFT_NAMES:
        return True
    if not role or name in _HOMES or _SERVICE_LINK.fullmatch(name):
        return False
    return name in _ROLE_NAMES or name.startswith(_ROLE_PREFIXES[role])


def _conf(role: str, args: Sequence[str], env: Mapping[str, str], spec: Launch) -> dict[str, str]:
    if role in SPARK_ROLES and role != "executor":
        return _spark_conf(args, env, spec)
    if role in FLINK_ROLES:
        return _flink_conf(env, spec)
    return {}


def _spark_conf(args: Sequence[str], env: Mapping[str, str], spec: Launch) -> dict[str, str]:
    """Spark's properties: of the file that is named, else of its default place, if it is there."""
    path = None
    for position, word in enumerate(args):
        if word == _CONF_OPTION:
            path = args[position + 1] if position + 1 < len(args) else ""
        elif word.startswith(f"{_CONF_OPTION}="):
            path = word.partition("=")[2]
    if path is None:
        folder = env.get("SPARK_CONF_DIR") or (f"{spec.spark.home}/conf" if spec.spark else "")
        path = os.path.join(folder, "spark-defaults.conf")
        if not os.path.isfile(path):
            return {}
    text = _read(path, _CONF_OPTION).decode("utf-8", "replace")
    from .properties import parse_properties

    try:
        return parse_properties(text)
    except ValueError as error:
        raise Stop(UNUSABLE, f"{path}: {error}") from None


def _flink_conf(env: Mapping[str, str], spec: Launch) -> dict[str, str]:
    """Flink's configuration: of either file name, and what the stock image's variable adds."""
    folder = env.get("FLINK_CONF_DIR") or (f"{spec.flink.home}/conf" if spec.flink else "")
    conf: dict[str, str] = {}
    from .flink_conf import FILES

    for name in FILES:
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            conf = _parsed(path, _read(path, "FLINK_CONF_DIR").decode("utf-8", "replace"), name)
            break
    return {**conf, **_parsed("FLINK_PROPERTIES", env.get("FLINK_PROPERTIES", ""))}


def _parsed(where: str, text: str, name: str | None = None) -> dict[str, str]:
    from .flink_conf import parse_conf

    try:
        return parse_conf(text, name)
    except ValueError as error:
        raise Stop(UNUSABLE, f"{where}: {error}") from None


def _read(path: str, what: str) -> bytes:
    return read_file(path, LONGEST_FILE, f"{what}: {path}")


def _encoded(path: str, what: str) -> str:
    import base64  # only here: most starts bring no file along

    return base64.b64encode(_read(path, what)).decode()
