"""A driver that starts pods: how it reaches Kubernetes, and what its executors' pods get.

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

from typing import Mapping, NamedTuple  # noqa: UP035 - Python 3.8

from . import kubernetes
from .command import FOLDER
from .kubernetes import TEMPLATE, TEMPLATE_PROPERTY
from .launch import Product
from .place import DIRECT, NATIVE, Place
from .request import Request

TEMPLATE_FILE = f"{FOLDER}/kubernetes/pod-template.yml"

_SGX = {
    "spark.kubernetes.sgx.executor.mem": "SGX_EXECUTOR_MEM_SIZE",
    "spark.kubernetes.sgx.executor.jvm.mem": "SGX_EXECUTOR_JVM_MEM_SIZE",
    "spark.kubernetes.sgx.log.level": "SGX_LOG_LEVEL",
}


class Access(NamedTuple):
    """How a driver reaches Kubernetes.

    Attributes:
        conf: properties; they win over the host's.
        files: path → content of the files that they name.
    """

    conf: dict[str, str]
    files: dict[str, bytes]

    def __repr__(self) -> str:
        """Nothing: the token is a secret."""
        return "Access(…)"


def access(request: Request, conf: Mapping[str, str]) -> Access:
    """Give the files that a driver needs for Kubernetes, and the properties that name them.

    Args:
        request: the launch request, its variables checked; the pod's account is among them.
        conf: the job's properties; without Kubernetes as master nothing is needed.

    Raises:
        Stop: the pod template is not base64.
    """
    if not conf.get("spark.master", "").startswith("k8s://"):
        return Access({}, {})
    found: dict[str, str] = {}
    files: dict[str, bytes] = {}
    account = kubernetes.account(request.env)
    if account is not None:
        prefix = "spark.kubernetes.authenticate"
        if request.role == "driver":
            prefix += ".driver.mounted"
        found.update({f"{prefix}.{name}": value for name, value in account.conf.items()})
        files.update(account.files)
    template = kubernetes.pod_template(request.env, TEMPLATE)
    if template is not None:
        files[TEMPLATE_FILE] = template
        found[TEMPLATE_PROPERTY] = TEMPLATE_FILE
    return Access(found, files)


def for_executors(
    spark: Product, request: Request, conf: Mapping[str, str], place: Place
) -> dict[str, str]:
    """Give the properties that set variables of executors' pods, where nothing else sets them.

    ``spark.kubernetes.sgx.*``, which stock Spark ignores, or else what this driver was started
    with: where it runs in an enclave, its executors do. Of a driver without one nothing follows: a
    pod template may say otherwise.

    Args:
        spark: Spark of the image.
        request: the launch request, its variables checked.
        conf: the job's properties.
        place: where the driver runs.
    """
    values: dict[str, str] = {}
    enabled = conf.get("spark.kubernetes.sgx.enabled", "" if place.kind == NATIVE else "true")
    if enabled:
        values["SGX_ENABLED"] = enabled
    if place.kind == DIRECT:
        values["SGX_MODE"] = "direct"
    for name, variable in _SGX.items():
        value = conf.get(name) or request.env.get(variable)
        if value:
            values[variable] = value
    bind = request.env.get("SPARK_DRIVER_BIND_ADDRESS")
    if bind and spark.release >= (3, 5):  # as Spark's own entry point does
        values["SPARK_DRIVER_POD_IP"] = bind
    return {f"spark.executorEnv.{variable}": value for variable, value in values.items()}
