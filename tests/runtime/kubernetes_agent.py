"""What a node does for pods of a recording API server: runs them, tells how they fare.

Each pod with a label is started as a container of an :class:`real_runs.Image`, with the variables
that the pod has: values, fields of the pod, keys of Secrets. Its status is told to the API server;
a pod that is deleted is ended.
"""

import signal
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import private_root
from kubernetes_api import KubernetesApi, make_certificate
from real_runs import Image, Running

POD_IP = "127.0.0.1"
TOKEN = "the-token-of-the-account"
KUBERNETES = {"KUBERNETES_SERVICE_HOST": POD_IP, "KUBERNETES_SERVICE_PORT": "443"}
"""Variables by which a pod finds the API server."""


def pod_env(
    env: Mapping[str, Any], name: str, secrets: Mapping[str, Mapping[str, str]]
) -> dict[str, str]:
    """Give a container's variables.

    Args:
        env: name → value or source, as the files of ``tests/golden/kubernetes`` have it.
        name: of the pod.
        secrets: name of a Secret → key → value.
    """
    fields = {"status.podIP": POD_IP, "metadata.name": name, "spec.nodeName": "node"}
    found = {}
    for variable, value in env.items():
        if isinstance(value, str):
            found[variable] = value
        elif "fieldRef" in value:
            found[variable] = fields[value["fieldRef"]["fieldPath"]]
        else:
            found[variable] = secrets[value["secretKeyRef"]["name"]][value["secretKeyRef"]["key"]]
    return found


SERVICE = "kubernetes.default.svc"
_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


@contextmanager
def service_account(made: Image, folder: Path) -> Iterator[KubernetesApi]:
    """Have an API server where pods of an image find it, with an account for them.

    Args:
        made: the image.
        folder: for the server's certificate and key.
    """
    certificate, key = make_certificate(folder, SERVICE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    account: dict[str, bytes | str] = {
        "ca.crt": certificate.read_bytes(),
        "token": TOKEN,
        "namespace": "default",
    }
    made.write({f"{_ACCOUNT}/{name}": data for name, data in account.items()})
    with private_root.in_network(made.process, lambda: KubernetesApi(443, context)) as api:
        yield api


_SCHEDULED = [{"type": "PodScheduled", "status": "True"}]


class Agent:
    """Runs the pods that a job asks for, while its block runs.

    Attributes:
        started: name of a pod → its container.
        variables: name of a pod → the variables it was started with.
    """

    def __init__(
        self,
        api: KubernetesApi,
        image: Image,
        label: tuple[str, str],
        secrets: Mapping[str, Mapping[str, str]],
        change: Callable[[dict[str, str]], dict[str, str]] = dict,
        **options: Any,
    ) -> None:
        self.started: dict[str, Running] = {}
        self.variables: dict[str, dict[str, str]] = {}
        self._api, self._image, self._label, self._secrets = api, image, label, secrets
        self._change, self._options = change, options
        self._containers = ExitStack()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self._containers.close()

    def check(self) -> None:
        """Fail if a container has failed by itself, with what it said."""
        for name, container in list(self.started.items()):
            assert container.status() in (None, 0, -signal.SIGKILL), f"{name}: {container.output()}"

    def end_of(self, container: Running) -> tuple[int, str]:
        """Wait for the job's own container, unless one of its pods fails; status and output."""
        while container.status() is None:
            self.check()
            time.sleep(0.1)
        return container.end()

    def _work(self) -> None:
        told: dict[str, str] = {}
        while not self._stopped.wait(0.1):
            pods = {pod["metadata"]["name"]: pod for pod in self._api.objects("pods")}
            for name, pod in pods.items():
                labels = pod["metadata"].get("labels", {})
                if name not in self.started and labels.get(self._label[0]) == self._label[1]:
                    self._start(name, pod)
            for name, container in self.started.items():
                status = container.status()
                phase = {None: "Running", 0: "Succeeded"}.get(status, "Failed")
                if name not in pods and status is None:
                    container.kill()
                elif told.get(name) != phase:
                    told[name] = phase
                    self._tell(name, phase, status)

    def _start(self, name: str, pod: Mapping[str, Any]) -> None:
        (container,) = pod["spec"]["containers"]
        env = {
            entry["name"]: entry.get("valueFrom") or entry.get("value", "")
            for entry in container.get("env", [])
        }
        self.variables[name] = self._change(pod_env(env, name, self._secrets))
        # Flink's JobManager takes a TaskManager for its own once it has seen this.
        self._api.change("pods", name, {"status": {"conditions": _SCHEDULED}})
        words = container.get("args") or []
        self.started[name] = self._containers.enter_context(
            self._image.start(*words, env=self.variables[name], **self._options)
        )

    def _tell(self, name: str, phase: str, code: int | None) -> None:
        state: dict[str, Any] = {"running": {"startedAt": "2024-01-01T00:00:00Z"}}
        if code is not None:
            state = {"terminated": {"exitCode": code, "reason": phase}}
        container = {"name": "main", "ready": code is None, "state": state, "restartCount": 0}
        status = {"phase": phase, "podIP": POD_IP, "containerStatuses": [container]}
        self._api.change("pods", name, {"status": status})
