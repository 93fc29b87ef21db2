"""What Kubernetes gives a pod, brought into the enclave with the launch request.

Kubernetes puts token and CA below ``/var/run/secrets``, host files that no strict manifest takes.
A driver or JobManager that starts pods needs them: the entry point reads them, the launcher writes
them to files of its own. Both are the cluster's word: who rules the cluster chooses the API server
that the job talks to. The token is read once, and asks for pods as long as the API server takes it.
The template of the pods that they start comes along too; nothing in here rests on what it says.

Python 3.8, standard library, nothing else of this package.
"""

# ruff: noqa: PTH118, PTH123
from __future__ import annotations

import os
from typing import Mapping, NamedTuple  # noqa: UP035 - Python 3.8

from .command import FOLDER
from .paths import ACCOUNT_FOLDER
from .stop import REFUSED, Stop

TEMPLATE = "SPARK_POD_TEMPLATE_DATA"
FLINK_TEMPLATE = "FLINK_POD_TEMPLATE_DATA"
"""Variables with the pod template for executors or TaskManagers, in base64, that the entry point
outside has read: inside, the mount of it is not to be seen."""
TEMPLATE_FORM = r"[A-Za-z0-9+/=]{1,65536}"
TEMPLATE_PROPERTY = "spark.kubernetes.executor.podTemplateFile"
"""Where Spark says that file is."""

TOKEN_FILE = f"{FOLDER}/kubernetes/token"
CA_FILE = f"{FOLDER}/kubernetes/ca.crt"

VARIABLES = {
    "KUBERNETES_TOKEN": r"[A-Za-z0-9._~+/=-]{1,8000}",
    "KUBERNETES_CA": r"[\x20-\x7e\r\n]{1,8000}",
    "KUBERNETES_NAMESPACE": r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
    "KUBERNETES_SERVICE_HOST": r"[0-9A-Za-z.:-]{1,253}",
    "KUBERNETES_SERVICE_PORT": r"[0-9]{1,5}",
}
"""What of a request this module answers for, with an expression for each value."""

_FILES = {
    "KUBERNETES_TOKEN": "token",
    "KUBERNETES_CA": "ca.crt",
    "KUBERNETES_NAMESPACE": "namespace",
}
_LONGEST = 8000


class Account(NamedTuple):
    """A service account inside.

    Attributes:
        files: path → content of files to write.
        env: variables by which the client of Kubernetes in Flink (fabric8) finds all of it.
        conf: properties by which the one in Spark does, without their prefix.
    """

    files: dict[str, bytes]
    env: dict[str, str]
    conf: dict[str, str]

    def __repr__(self) -> str:
        """Nothing: the token is a secret."""
        return "Account(…)"


def read_account(env: Mapping[str, str], folder: str = ACCOUNT_FOLDER) -> dict[str, str]:
    """Give the variables of a pod's account, outside; nothing where there is none.

    Args:
        env: of the container.
        folder: where Kubernetes puts the account.
    """
    found = {}
    for name, file_name in _FILES.items():
        try:
            with open(os.path.join(folder, file_name), encoding="ascii") as file:
                found[name] = file.read(_LONGEST).strip()
        except (OSError, ValueError):
            continue
    for name in ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        if found and env.get(name):
            found[name] = env[name]
    return found


def account(env: Mapping[str, str]) -> Account | None:
    """Give the account of a request, inside; None where it has none.

    Args:
        env: of the request, its values already matched against :data:`VARIABLES`.
    """
    token = env.get("KUBERNETES_TOKEN")
    if not token:
        return None
    files = {TOKEN_FILE: token.encode()}
    names = {"KUBERNETES_AUTH_TOKEN": token}
    conf = {"oauthTokenFile": TOKEN_FILE}
    if env.get("KUBERNETES_CA"):
        files[CA_FILE] = env["KUBERNETES_CA"].encode() + b"\n"
        names["KUBERNETES_CERTS_CA_FILE"] = CA_FILE
        conf["caCertFile"] = CA_FILE
    host, port = env.get("KUBERNETES_SERVICE_HOST"), env.get("KUBERNETES_SERVICE_PORT", "443")
    if host:
        shown = f"[{host}]" if ":" in host else host
        names["KUBERNETES_MASTER"] = f"https://{shown}:{port}"
    if env.get("KUBERNETES_NAMESPACE"):
        names["KUBERNETES_NAMESPACE"] = env["KUBERNETES_NAMESPACE"]
    return Account(files, names, conf)


def pod_template(env: Mapping[str, str], name: str) -> bytes | None:
    """Give the pod template of a request, inside; None where it has none.

    Args:
        env: of the request.
        name: :data:`TEMPLATE` or :data:`FLINK_TEMPLATE`.

    Raises:
        Stop: it is not base64.
    """
    value = env.get(name)
    if value is None:
        return None
    import base64  # only here: few requests have one

    try:
        return base64.b64decode(value.encode(), validate=True)
    except ValueError:
        raise Stop(REFUSED, f"{name} is not base64") from None
