"""The jobs that ``record.py`` records: their properties and pod templates."""

import json
from typing import Any

CASES = {"spark": ("", "secure", "python"), "flink": ("", "secure", "session")}
IMAGE = "registry.example/team/enclave:1"
PASSWORD = "only-for-tests"

SPARK_ENCLAVE = {
    "SGX_ENABLED": "true",
    "SGX_DRIVER_MEM_SIZE": "16g",
    "SGX_DRIVER_JVM_MEM_SIZE": "3g",
    "SGX_EXECUTOR_MEM_SIZE": "16g",
    "SGX_EXECUTOR_JVM_MEM_SIZE": "3g",
    "SGX_LOG_LEVEL": "error",
}
SPARK_SECURITY = {
    "spark.authenticate": "true",
    "spark.authenticate.secret": PASSWORD,
    "spark.kubernetes.executor.secretKeyRef.SPARK_AUTHENTICATE_SECRET": "spark-secret:secret",
    "spark.kubernetes.driver.secretKeyRef.SPARK_AUTHENTICATE_SECRET": "spark-secret:secret",
    "spark.authenticate.enableSaslEncryption": "true",
    "spark.network.crypto.enabled": "true",
    "spark.network.crypto.keyLength": "128",
    "spark.network.crypto.keyFactoryAlgorithm": "PBKDF2WithHmacSHA1",
    "spark.io.encryption.enabled": "true",
    "spark.io.encryption.keySizeBits": "128",
    "spark.io.encryption.keygen.algorithm": "HmacSHA1",
    "spark.ssl.enabled": "true",
    "spark.ssl.port": "8043",
    "spark.ssl.keyPassword": PASSWORD,
    "spark.ssl.keyStore": "/ppml/keys/keystore.jks",
    "spark.ssl.keyStorePassword": PASSWORD,
    "spark.ssl.keyStoreType": "JKS",
    "spark.ssl.trustStore": "/ppml/keys/keystore.jks",
    "spark.ssl.trustStorePassword": PASSWORD,
    "spark.ssl.trustStoreType": "JKS",
}
SPARK_PRESETS = {
    "spark.network.timeout": "10000000",
    "spark.executor.heartbeatInterval": "10000000",
    "spark.python.use.daemon": "false",
    "spark.python.worker.reuse": "false",
    "spark.kubernetes.authenticate.driver.serviceAccountName": "spark",
    "spark.kubernetes.driver.podTemplateFile": "/opt/templates/spark-driver.json",
    "spark.kubernetes.executor.podTemplateFile": "/opt/templates/spark-executor.json",
    "spark.kubernetes.executor.deleteOnTermination": "false",
    "spark.kubernetes.sgx.enabled": "true",
    "spark.kubernetes.sgx.driver.jvm.mem": "3g",
    "spark.kubernetes.sgx.executor.jvm.mem": "3g",
    "spark.driver.memory": "4g",
    "spark.driver.cores": "2",
    "spark.executor.memory": "4g",
    "spark.executor.cores": "2",
}
FLINK_SECURITY = {
    "kubernetes.sgx.enabled": "true",
    "jobmanager.memory.process.size": "4g",
    "taskmanager.memory.process.size": "4g",
    "io.tmp.dirs": "/ppml/encrypted-fs",
    "kubernetes.flink.conf.dir": "/ppml/flink/conf",
    "kubernetes.entry.path": "/opt/flink-entrypoint.sh",
    "kubernetes.jobmanager.service-account": "spark",
    "kubernetes.taskmanager.service-account": "spark",
    "kubernetes.pod-template-file.jobmanager": "/opt/templates/flink.json",
    "kubernetes.pod-template-file.taskmanager": "/opt/templates/flink.json",
    "heartbeat.timeout": "10000000",
    "heartbeat.interval": "10000000",
    "akka.ask.timeout": "10000000ms",
    "akka.lookup.timeout": "10000000ms",
    "security.ssl.internal.enabled": "true",
    "security.ssl.internal.keystore": "/ppml/flink/keys/flink_internal.keystore",
    "security.ssl.internal.keystore-password": PASSWORD,
    "security.ssl.internal.truststore": "/ppml/flink/keys/flink_internal.keystore",
    "security.ssl.internal.truststore-password": PASSWORD,
    "security.ssl.internal.key-password": PASSWORD,
}


def template(container: str) -> str:
    """Give a pod template with what BigDL's have: attestation, keys, the quoting service."""

    def secret(name: str, key: str) -> dict[str, Any]:
        return {"name": name, "valueFrom": {"secretKeyRef": {"name": "kms-secret", "key": key}}}

    values = {
        "ATTESTATION": "true",
        "ATTESTATION_URL": "ehsm.example:9000",
        "PCCS_URL": "https://pccs.example:8081",
        "MALLOC_ARENA_MAX": "4",
        "ENCRYPTED_FSD": "true",
        "USING_LOCAL_DATA_KEY": "true",
        "LOCAL_DATA_KEY": "/ppml/encrypted_keys/plaintextkey",
    }
    mounts = {
        "aesm-socket": ("/var/run/aesmd/aesm.socket", {"hostPath": {"path": "/var/run/aesmd"}}),
        "ssl-keys": ("/ppml/keys", {"secret": {"secretName": "ssl-keys"}}),
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "spec": {
            "containers": [
                {
                    "name": container,
                    "env": [
                        *({"name": name, "value": value} for name, value in values.items()),
                        secret("APP_ID", "app_id"),
                        secret("API_KEY", "api_key"),
                        secret("ATTESTATION_POLICYID", "policy_id"),
                    ],
                    "volumeMounts": [
                        {"name": name, "mountPath": mount[0]} for name, mount in mounts.items()
                    ],
                    "resources": {"limits": {"sgx.intel.com/enclave": "1"}},
                }
            ],
            "volumes": [{"name": name, **mount[1]} for name, mount in mounts.items()],
        },
    }
    return json.dumps(pod, indent=1)


def spark_confs(case: str) -> dict[str, str]:
    """Give the properties that a client of this case sets."""
    confs = {
        "spark.executor.instances": "2",
        "spark.kubernetes.container.image": IMAGE,
        "spark.kubernetes.submission.waitAppCompletion": "false",
    }
    if case == "secure":
        confs |= SPARK_PRESETS | SPARK_SECURITY
        confs |= {f"spark.kubernetes.driverEnv.{k}": v for k, v in SPARK_ENCLAVE.items()}
        confs |= {f"spark.executorEnv.{k}": v for k, v in SPARK_ENCLAVE.items()}
    return confs


def flink_confs(case: str, version: str, cluster: str) -> dict[str, str]:
    """Give the properties that a client of this case sets."""
    image = "kubernetes.container.image" + (".ref" if version >= "1.17" else "")
    confs = {"kubernetes.cluster-id": cluster, image: IMAGE}
    return {**confs, **FLINK_SECURITY} if case == "secure" else confs
