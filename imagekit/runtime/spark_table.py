"""The closed grammar of Spark's roles: what a host may set under strict, and in which form.

The properties are those that Spark on Kubernetes puts into a driver's properties file, and those
that the seeds' commands set, as far as they can do no harm: they say where things are, how many and
how long, never which code runs, what is encrypted, who is believed or which file is read. A value
that makes the driver read a file and send it to the API server (pod template, token, certificate)
may only be the path where Kubernetes itself mounts it. The variables are those of driver and
executor pods. Both were taken from what Spark 3.1.3, 3.5.9 and 4.3.0 really send.

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

import re
from typing import Mapping  # noqa: UP035 - Python 3.8

from .rules import Table

HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[?[0-9A-Fa-f:.]{2,45}\]?)"
NUMBER = r"[0-9]{1,15}"
BOOLEAN = r"true|false"
FRACTION = r"[0-9]{1,3}(?:\.[0-9]{1,6})?"
DURATION = r"[0-9]{1,15}(?:us|ms|s|m|min|h|d)?"
SIZE = r"[0-9]{1,15}(?:[kKmMgGtT][bB]?|[bB])?"
NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?"
USER = r"[A-Za-z_][A-Za-z0-9_.-]{0,63}"
TEXT = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]{1,256}"
PATH = r"/[A-Za-z0-9._/-]{0,1023}"
ADDRESS = rf"https?://{HOST}(?::[0-9]{{1,5}})?(?:/[A-Za-z0-9._/-]{{0,255}})?"
LEVEL = r"off|error|warn|warning|info|debug|trace|all"
_IMAGE = r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,511}"
_LABEL = r"[A-Za-z0-9._/-]{1,253}"
_MASTER = (
    rf"local(?:\[(?:[0-9]{{1,3}}|\*)(?:,[0-9]{{1,3}})?\])?|k8s://(?:{ADDRESS}|{HOST}:[0-9]{{1,5}})"
    rf"|spark://{HOST}:[0-9]{{1,5}}(?:,{HOST}:[0-9]{{1,5}}){{0,8}}"
)

_FORMS: dict[str, str] = {
    NUMBER: (
        "spark.app.submitTime spark.driver.port spark.driver.blockManager.port "
        "spark.blockManager.port spark.ui.port spark.port.maxRetries spark.driver.cores "
        "spark.executor.cores spark.executor.instances spark.cores.max spark.task.cpus "
        "spark.task.maxFailures spark.default.parallelism spark.sql.shuffle.partitions "
        "spark.dynamicAllocation.minExecutors spark.dynamicAllocation.maxExecutors "
        "spark.dynamicAllocation.initialExecutors spark.rpc.netty.dispatcher.numThreads "
        "spark.rpc.message.maxSize spark.rpc.numRetries spark.rpc.io.numConnectionsPerPeer "
        "spark.kubernetes.allocation.batch.size "
        "spark.kubernetes.submission.connectionTimeout "
        "spark.kubernetes.submission.requestTimeout "
        "spark.kubernetes.driver.connectionTimeout spark.kubernetes.driver.requestTimeout "
        "spark.stage.maxConsecutiveAttempts "
        "spark.hadoop.hive.server2.thrift.port spark.executor.maxNumFailures"
    ),
    BOOLEAN: (
        "spark.kubernetes.submitInDriver spark.kubernetes.submission.waitAppCompletion "
        "spark.kubernetes.executor.deleteOnTermination spark.kubernetes.trust.certificates "
        "spark.kubernetes.local.dirs.tmpfs spark.kubernetes.sgx.enabled "
        "spark.kubernetes.driver.ownPersistentVolumeClaim "
        "spark.kubernetes.driver.reusePersistentVolumeClaim "
        "spark.kubernetes.driver.service.deleteOnTermination "
        "spark.kubernetes.executor.enablePollingWithResourceVersion "
        "spark.dynamicAllocation.enabled spark.dynamicAllocation.shuffleTracking.enabled "
        "spark.python.use.daemon spark.python.worker.reuse spark.ui.enabled spark.speculation "
        "spark.sql.adaptive.enabled spark.sql.adaptive.coalescePartitions.enabled "
        "spark.shuffle.compress spark.shuffle.spill.compress spark.rdd.compress "
        "spark.broadcast.compress spark.sql.cbo.enabled "
        "spark.sql.hive.thriftServer.singleSession spark.sql.thriftServer.incrementalCollect"
    ),
    DURATION: (
        "spark.network.timeout spark.executor.heartbeatInterval spark.rpc.askTimeout "
        "spark.rpc.lookupTimeout spark.rpc.retry.wait spark.locality.wait "
        "spark.network.timeoutInterval spark.storage.blockManagerHeartbeatTimeoutMs "
        "spark.sql.broadcastTimeout spark.dynamicAllocation.executorIdleTimeout "
        "spark.dynamicAllocation.schedulerBacklogTimeout "
        "spark.kubernetes.allocation.batch.delay spark.kubernetes.report.interval "
        "spark.kubernetes.executor.eventProcessingInterval "
        "spark.kubernetes.executor.apiPollingInterval "
        "spark.scheduler.maxRegisteredResourcesWaitingTime spark.rpc.io.connectionTimeout"
    ),
    SIZE: (
        "spark.driver.memory spark.executor.memory spark.driver.memoryOverhead "
        "spark.executor.memoryOverhead spark.driver.maxResultSize "
        "spark.sql.files.maxPartitionBytes spark.kubernetes.sgx.driver.mem "
        "spark.kubernetes.sgx.driver.jvm.mem spark.kubernetes.sgx.executor.mem "
        "spark.kubernetes.sgx.executor.jvm.mem spark.kryoserializer.buffer.max "
        "spark.network.maxRemoteBlockSizeFetchToMem"
    ),
    FRACTION: (
        "spark.kubernetes.memoryOverheadFactor spark.driver.memoryOverheadFactor "
        "spark.executor.memoryOverheadFactor spark.memory.fraction "
        "spark.memory.storageFraction spark.scheduler.minRegisteredResourcesRatio"
    ),
    NAME: (
        "spark.app.id spark.kubernetes.namespace spark.kubernetes.driver.pod.name "
        "spark.kubernetes.executor.podNamePrefix "
        "spark.kubernetes.authenticate.driver.serviceAccountName "
        "spark.kubernetes.authenticate.executor.serviceAccountName "
        "spark.kubernetes.authenticate.serviceAccountName "
        "spark.kubernetes.driver.podTemplateContainerName "
        "spark.kubernetes.executor.podTemplateContainerName "
        "spark.kubernetes.scheduler.name spark.kubernetes.driver.scheduler.name "
        "spark.kubernetes.executor.scheduler.name"
    ),
    HOST: ("spark.driver.host spark.driver.bindAddress spark.hadoop.hive.server2.thrift.bind.host"),
    _IMAGE: (
        "spark.kubernetes.container.image spark.kubernetes.driver.container.image "
        "spark.kubernetes.executor.container.image "
        "spark.kubernetes.container.image.pullSecrets"
    ),
    r"[0-9]{1,6}(?:\.[0-9]{1,3})?m?": (
        "spark.kubernetes.driver.request.cores spark.kubernetes.driver.limit.cores "
        "spark.kubernetes.executor.request.cores spark.kubernetes.executor.limit.cores"
    ),
    TEXT: "spark.app.name",
    _MASTER: "spark.master",
    ADDRESS: "spark.kubernetes.driver.master",
    r"client|cluster": "spark.submit.deployMode",
    r"": "spark.submit.pyFiles",
    r"java": "spark.kubernetes.resource.type",
    r"Always|IfNotPresent|Never": "spark.kubernetes.container.image.pullPolicy",
    LEVEL: "spark.kubernetes.sgx.log.level",
    r"lz4|lzf|snappy|zstd": "spark.io.compression.codec",
    r"-1|[0-9]{1,15}(?:[kKmMgG][bB]?)?": "spark.sql.autoBroadcastJoinThreshold",
    r"FIFO|FAIR": "spark.scheduler.mode",
    # Names of the machine that submitted, which a driver does not read.
    rf"(?:file:(?://)?)?{PATH}": "spark.kubernetes.driver.podTemplateFile",
    r"[a-z0-9]{1,16}:[A-Za-z0-9._/:-]{1,1023}": "spark.kubernetes.file.upload.path",
    # Where Spark itself mounts it in a driver's pod.
    r"/opt/spark/pod-template/pod-spec-template\.yml": (
        "spark.kubernetes.executor.podTemplateFile"
    ),
    r"/var/run/secrets/kubernetes\.io/serviceaccount/token": (
        "spark.kubernetes.authenticate.driver.mounted.oauthTokenFile "
        "spark.kubernetes.authenticate.oauthTokenFile"
    ),
    r"/var/run/secrets/kubernetes\.io/serviceaccount/ca\.crt": (
        "spark.kubernetes.authenticate.driver.mounted.caCertFile "
        "spark.kubernetes.authenticate.caCertFile"
    ),
}
PROPERTIES = {name: form for form, names in _FORMS.items() for name in names.split()}
"""Property → regular expression that its value must match as a whole."""

JARS = ("spark.jars", "spark.repl.local.jars")
"""Properties that list jars: each must be one of the launch specification's."""

_POD = r"spark\.kubernetes\.(?:driver|executor)\."
_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]{0,127}"
FAMILIES = {
    r"spark\.kubernetes\.(?:(?:driver|executor)\.)?node\.selector\.[A-Za-z0-9._/-]+": _LABEL,
    rf"{_POD}(?:label|annotation|service\.annotation|service\.label)\.[A-Za-z0-9._/-]+": TEXT,
    rf"{_POD}secretKeyRef\.{_VARIABLE}": r"[A-Za-z0-9._-]{1,253}:[A-Za-z0-9._-]{1,253}",
    rf"{_POD}secrets\.[A-Za-z0-9._-]+": PATH,
    rf"{_POD}volumes\.[A-Za-z]+\.[A-Za-z0-9-]+\.(?:mount|options)\.[A-Za-z]+": (
        r"[A-Za-z0-9._/:-]{1,1023}"
    ),
    # The environment of pods: an enclave in one checks what it is given by itself.
    rf"spark\.(?:executorEnv|kubernetes\.driverEnv)\.{_VARIABLE}": r"[ -~]{0,4096}",
}
"""Names that end in something free: expression for the name → expression for the value."""

ALWAYS_SENT = {
    *("spark.app.id", "spark.app.name", "spark.app.submitTime", "spark.driver.blockManager.port"),
    *("spark.driver.host", "spark.driver.port", "spark.jars", "spark.kubernetes.container.image"),
    *("spark.kubernetes.driver.pod.name", "spark.kubernetes.memoryOverheadFactor"),
    *("spark.kubernetes.resource.type", "spark.kubernetes.submission.waitAppCompletion"),
    *("spark.kubernetes.submitInDriver", "spark.master", "spark.submit.deployMode"),
    *("spark.submit.pyFiles", "spark.kubernetes.namespace"),
}
"""Properties that Spark itself puts into every driver's file."""

TABLE = Table(PROPERTIES, FAMILIES, JARS, ALWAYS_SENT)

IMAGES_OWN = (
    *("SPARK_HOME", "SPARK_VERSION", "SPARK_SCALA_VERSION", "SPARK_JAR_REPO_URL"),
    *("SPARK_TGZ_URL", "SPARK_TGZ_ASC_URL"),
)
"""Variables that images with Spark are known to set for themselves; they have no effect inside."""

_ANY_POD: dict[str, str] = {
    "SPARK_USER": USER,
    "SPARK_APPLICATION_ID": NAME,
    "SPARK_LOCAL_DIRS": r"/[A-Za-z0-9._/-]{0,1023}(?:,/[A-Za-z0-9._/-]{0,1023}){0,32}",
    "SPARK_CONF_DIR": PATH,
    "SPARK_LOCAL_IP": HOST,
    "SPARK_DRIVER_POD_IP": HOST,
    "SPARK_AUTHENTICATE_SECRET": r"[!-~]{1,4096}",
    "SGX_ENABLED": BOOLEAN,
    "SGX_MODE": r"sgx|direct",
    "SGX_LOG_LEVEL": LEVEL,
    "SGX_DRIVER_MEM_SIZE": SIZE,
    "SGX_DRIVER_JVM_MEM_SIZE": SIZE,
    "SGX_EXECUTOR_MEM_SIZE": SIZE,
    "SGX_EXECUTOR_JVM_MEM_SIZE": SIZE,
    "NETTY_THREAD": r"[1-9][0-9]{0,2}",
    **dict.fromkeys(IMAGES_OWN, TEXT),
}
PASSWORDS = (
    "_SPARK_AUTH_SECRET",
    "_SPARK_SSL_RPC_KEY_PASSWORD",
    "_SPARK_SSL_RPC_PRIVATE_KEY_PASSWORD",
    "_SPARK_SSL_RPC_KEY_STORE_PASSWORD",
    "_SPARK_SSL_RPC_TRUST_STORE_PASSWORD",
)
"""Variables by which Spark's driver gives executors their secrets."""
_EXECUTOR = {
    **_ANY_POD,
    "SPARK_DRIVER_URL": rf"spark://[A-Za-z0-9_-]{{1,64}}@{HOST}:[0-9]{{1,5}}",
    "SPARK_EXECUTOR_ID": NUMBER,
    "SPARK_EXECUTOR_CORES": r"[1-9][0-9]{0,2}",
    "SPARK_EXECUTOR_MEMORY": SIZE,
    "SPARK_EXECUTOR_POD_IP": HOST,
    "SPARK_EXECUTOR_POD_NAME": NAME,
    "SPARK_RESOURCE_PROFILE_ID": NUMBER,
    "SPARK_EXECUTOR_DIRS": r"[A-Za-z0-9._/,:-]{1,4096}",
    **dict.fromkeys(PASSWORDS, r"[ -~]{1,4096}"),
}
_THRIFT = {"HIVE_SERVER2_THRIFT_PORT": NUMBER, "HIVE_SERVER2_THRIFT_BIND_HOST": HOST}


def variables(role: str) -> Mapping[str, str]:
    """Give a role's variables: name → regular expression that its value must match as a whole."""
    if role == "executor":
        return _EXECUTOR
    from . import kubernetes  # only here: executors ask it for nothing

    driver = {
        **_ANY_POD,
        **kubernetes.VARIABLES,
        "LOCAL_IP": HOST,
        "SPARK_DRIVER_BIND_ADDRESS": HOST,
        "SPARK_DRIVER_MEMORY": SIZE,
        kubernetes.TEMPLATE: kubernetes.TEMPLATE_FORM,
        "_SPARK_AUTH_SECRET": r"[ -~]{1,4096}",
    }
    return {**driver, **_THRIFT} if role == "thrift" else driver


NUMBERED = re.compile(r"SPARK_JAVA_OPT_(.*)", re.DOTALL)
"""An executor's Java options, one a variable."""
ATTRIBUTE = re.compile(r"SPARK_(?:EXECUTOR_ATTRIBUTE|LOG_URL|DRIVER_LOG_URL)_[A-Z0-9_]{1,64}")
"""What an executor tells about itself; Spark's user interface shows it."""
