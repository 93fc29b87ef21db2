"""What the host may choose of Flink's configuration under the strict profile.

The table holds what the client of native Kubernetes and the stock image really pass (recorded with
Flink 1.15.4, 1.16.3 and 1.20.5) and what BigDL's guides set, and nothing by which code, a class, a
plugin, a key, state of an earlier run or a file of the host comes in. Everything else has to be
sealed in ``launch.conf`` or named in ``launch.conf_allowed``.

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

import re
from typing import Mapping, Sequence  # noqa: UP035 - Python 3.8

from . import flink_job
from .flink_conf import FILE_KEY, FILES
from .launch import Launch
from .rules import Table, check

_BOOLEAN = "(?i:true|false)"
_NUMBER = r"-?[0-9]{1,18}"
_DECIMAL = r"-?[0-9]{1,9}(\.[0-9]{1,18})?"
_NAME = r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?"
_HOST = rf"({_NAME}|[0-9a-fA-F:]{{2,45}})"
_PORTS = r"[0-9]{1,5}(-[0-9]{1,5})?(,[0-9]{1,5}(-[0-9]{1,5})?){0,15}"
_SIZE = r"[0-9]{1,19} ?[A-Za-z]{0,10}"
_TIME = r"[0-9]{1,18} ?[A-Za-z]{0,12}"
_PATH = r"/[A-Za-z0-9._/-]{0,255}"
_LABELS = r"[A-Za-z0-9._/:,; ='-]{0,4096}"
_IMAGE = r"[A-Za-z0-9._/:@-]{1,512}"
_OPENS = r"--add-(exports|opens)=[a-z0-9.]{1,60}/[a-z0-9.]{1,80}=ALL-UNNAMED"

_PATTERNS: dict[str, Sequence[str]] = {
    _HOST: (
        *("jobmanager.rpc.address", "jobmanager.bind-host", "rest.address", "rest.bind-address"),
        *("taskmanager.host", "taskmanager.bind-host"),
    ),
    _PORTS: (
        *("jobmanager.rpc.port", "jobmanager.rpc.bind-port", "rest.port", "rest.bind-port"),
        *("taskmanager.rpc.port", "taskmanager.rpc.bind-port", "taskmanager.data.port"),
        *("taskmanager.data.bind-port", "blob.server.port", "query.server.port"),
        "metrics.internal.query-service.port",
    ),
    _SIZE: (
        *(f"jobmanager.memory.{name}.size" for name in ("process", "flink", "heap", "off-heap")),
        *("jobmanager.memory.jvm-metaspace.size", "taskmanager.memory.jvm-metaspace.size"),
        *("jobmanager.memory.jvm-overhead.min", "jobmanager.memory.jvm-overhead.max"),
        *("taskmanager.memory.jvm-overhead.min", "taskmanager.memory.jvm-overhead.max"),
        *("taskmanager.memory.network.min", "taskmanager.memory.network.max"),
        *("taskmanager.memory.process.size", "taskmanager.memory.flink.size"),
        *("taskmanager.memory.framework.heap.size", "taskmanager.memory.framework.off-heap.size"),
        *("taskmanager.memory.task.heap.size", "taskmanager.memory.task.off-heap.size"),
        *("taskmanager.memory.managed.size", "taskmanager.memory.segment-size"),
        *("akka.framesize", "pekko.framesize"),
    ),
    _DECIMAL: (
        *("jobmanager.memory.jvm-overhead.fraction", "taskmanager.memory.jvm-overhead.fraction"),
        *("taskmanager.memory.managed.fraction", "taskmanager.memory.network.fraction"),
        *("taskmanager.cpu.cores", "kubernetes.jobmanager.cpu", "kubernetes.taskmanager.cpu"),
        *("kubernetes.jobmanager.cpu.amount", "kubernetes.taskmanager.cpu.amount"),
        *("kubernetes.jobmanager.cpu.limit-factor", "kubernetes.taskmanager.cpu.limit-factor"),
        "kubernetes.jobmanager.memory.limit-factor",
        "kubernetes.taskmanager.memory.limit-factor",
    ),
    _NUMBER: (
        *("parallelism.default", "taskmanager.numberOfTaskSlots", "kubernetes.jobmanager.replicas"),
        *("kubernetes.transactional-operation.max-retries", "kubernetes.client.io-pool.size"),
        *("slotmanager.number-of-slots.max", "rest.retry.max-attempts"),
    ),
    _TIME: (
        *("akka.ask.timeout", "akka.lookup.timeout", "akka.tcp.timeout"),
        *("pekko.ask.timeout", "pekko.lookup.timeout", "pekko.tcp.timeout"),
        *("heartbeat.timeout", "heartbeat.interval", "slot.request.timeout", "web.timeout"),
        *("taskmanager.slot.timeout", "taskmanager.registration.timeout"),
        *("taskmanager.network.request-backoff.max", "taskmanager.network.request-backoff.initial"),
        *("resourcemanager.taskmanager-timeout", "kubernetes.websocket.timeout"),
        "resourcemanager.taskmanager-registration.timeout",
        "jobmanager.adaptive-scheduler.resource-wait-timeout",
        "jobmanager.adaptive-scheduler.resource-stabilization-timeout",
        *("execution.checkpointing.interval", "execution.checkpointing.timeout"),
        *("rest.connection-timeout", "rest.idleness-timeout", "rest.await-leader-timeout"),
    ),
    _BOOLEAN: (
        *("execution.attached", "execution.shutdown-on-attached-exit"),
        *("execution.shutdown-on-application-finish", "cluster.evenly-spread-out-slots"),
        *("execution.savepoint.ignore-unclaimed-state", "kubernetes.hostnetwork.enabled"),
        "execution.state-recovery.ignore-unclaimed-state",
        *("kubernetes.decorator.hadoop-conf-mount.enabled", "kubernetes.sgx.enabled"),
        *("kubernetes.decorator.kerberos-mount.enabled", "web.cancel.enable"),
        "kubernetes.artifacts.local-upload-enabled",
        "jobmanager.memory.enable-jvm-direct-memory-limit",
    ),
    "(?i:false)": ("web.submit.enable",),
    "(?i:true)": (
        *("security.ssl.internal.enabled", "security.ssl.rest.enabled"),
        *("security.ssl.rest.authentication-enabled", "security.ssl.verify-hostname"),
    ),
    _NAME: (
        *("kubernetes.cluster-id", "kubernetes.namespace", "kubernetes.service-account"),
        *("kubernetes.jobmanager.service-account", "kubernetes.taskmanager.service-account"),
        *("kubernetes.container.image.pull-policy", "kubernetes.rest-service.exposed.type"),
        *("kubernetes.rest-service.exposed.node-port-address-type", "taskmanager.resource-id"),
        *("kubernetes.client.user-agent", "pipeline.name"),
    ),
    _IMAGE: ("kubernetes.container.image", "kubernetes.container.image.ref"),
    _PATH: (
        *("kubernetes.entry.path", "kubernetes.flink.conf.dir", "kubernetes.flink.log.dir"),
        *("kubernetes.pod-template-file", "kubernetes.pod-template-file.default"),
        *("kubernetes.pod-template-file.jobmanager", "kubernetes.pod-template-file.taskmanager"),
    ),
    _LABELS: (
        *("kubernetes.jobmanager.labels", "kubernetes.taskmanager.labels"),
        *("kubernetes.jobmanager.annotations", "kubernetes.taskmanager.annotations"),
        *("kubernetes.jobmanager.node-selector", "kubernetes.taskmanager.node-selector"),
        *("kubernetes.jobmanager.tolerations", "kubernetes.taskmanager.tolerations"),
        *("kubernetes.jobmanager.owner.reference", "kubernetes.rest-service.annotations"),
        *("kubernetes.container.image.pull-secrets", "kubernetes.node-name-label"),
        *("kubernetes.secrets", "kubernetes.env.secretKeyRef"),
        "kubernetes.internal-service.annotations",
    ),
    r"[\x20-\x7e]{0,4096}": (  # words for the pods' containers, which are checked there
        *("kubernetes.jobmanager.entrypoint.args", "kubernetes.taskmanager.entrypoint.args"),
    ),
    rf"{_PATH}([,:]{_PATH}){{0,15}}": ("io.tmp.dirs",),  # they have to be encrypted
    r"/tmp/flink-web-[0-9a-f-]{36}": ("web.tmpdir",),  # noqa: S108 - it has to be encrypted, too
    "kubernetes-(application|session)|embedded|remote": ("execution.target",),
    "NORMAL|DETACHED": ("internal.cluster.execution-mode",),
    "NO_CLAIM": ("execution.savepoint-restore-mode", "execution.state-recovery.claim-mode"),
    r"org\.apache\.flink\.kubernetes\.entrypoint\."
    "Kubernetes(Application|Session)ClusterEntrypoint": (
        "kubernetes.internal.jobmanager.entrypoint.class",
    ),
    "full|region": ("jobmanager.execution.failover-strategy",),
    "(?i:batch|streaming|automatic)": ("execution.runtime-mode",),
    "(?i:exactly_once|at_least_once)": ("execution.checkpointing.mode",),
    "auto|nio|epoll": ("taskmanager.network.netty.transport",),  # it becomes nio anyway
    "none": ("external-resources",),
    "[0-9a-f]{32}": ("$internal.pipeline.job-id",),
    # These have no effect: the image has its own.
    f"({_OPENS}( {_OPENS}){{0,63}})?": ("env.java.opts.all",),
    "|".join(map(re.escape, FILES)): (FILE_KEY,),
}

_ENV = {r"containerized\.(master|taskmanager)\.env\..+": r"[\x20-\x7e]{0,4096}"}
"""Variables for the pods' containers, which are checked there."""

ALWAYS_SENT = frozenset(
    (
        *("blob.server.port", "execution.attached", "execution.savepoint.ignore-unclaimed-state"),
        *("execution.savepoint-restore-mode", "execution.shutdown-on-attached-exit"),
        *("execution.state-recovery.claim-mode", "execution.state-recovery.ignore-unclaimed-state"),
        *("execution.target", "internal.cluster.execution-mode", "env.java.opts.all"),
        *("jobmanager.bind-host", "jobmanager.execution.failover-strategy", "rest.bind-address"),
        *("jobmanager.memory.process.size", "jobmanager.rpc.address", "jobmanager.rpc.port"),
        *("parallelism.default", "pipeline.classpaths", "rest.address", "taskmanager.bind-host"),
        *("taskmanager.host", "taskmanager.memory.process.size", "taskmanager.numberOfTaskSlots"),
        "taskmanager.rpc.port",
    )
)
"""What the files that come with Flink set and its client sends, whether anybody chose it or not."""

_FORMS = {name: form for form, names in _PATTERNS.items() for name in names}
TABLE = Table(_FORMS, _ENV, flink_job.PROPERTIES, ALWAYS_SENT)


def merge(spec: Launch, host: Mapping[str, str]) -> dict[str, str]:
    """Put the image's and the host's properties together.

    Strict: the host's are checked (:func:`.rules.check`) and the sealed ones win. Compat: the
    host's win.

    Args:
        spec: the launch specification.
        host: properties of the request.

    Raises:
        Stop: the host may not choose this; the property is named, its value never shown.
    """
    if spec.profile != "strict":
        return {**spec.conf, **host}
    for name, value in sorted(host.items()):
        check(spec, TABLE, name, value)
    return {**host, **spec.conf}
