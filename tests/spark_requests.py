"""Launch specifications and requests for Spark's roles, and what real Spark gives its pods."""

import json
from pathlib import Path

from imagekit.runtime.launch import Launch, launch_spec, parse_launch
from imagekit.runtime.place import DIRECT, ENCLAVE, NATIVE, Place
from imagekit.runtime.properties import parse_properties
from imagekit.runtime.request import Request
from imagekit.runtime.stop import Stop

CAPTURES = Path(__file__).parent / "golden" / "kubernetes"

AT_HOME = Place(NATIVE, False, None, "/dev/attestation")
IN_DIRECT = Place(DIRECT, False, 16 << 30, "/dev/attestation")
IN_ENCLAVE = Place(ENCLAVE, True, 16 << 30, "/dev/attestation")

HOME = "/opt/spark"
JAR = f"{HOME}/examples/jars/spark-examples_2.12-3.5.9.jar"
PI = "org.apache.spark.examples.SparkPi"
JOB = ("--class", PI, f"local://{JAR}")
LOCAL = ("--master", "local[2]", *JOB)
POD_IP = "10.244.0.7"

EXECUTOR = {
    "SPARK_DRIVER_URL": "spark://CoarseGrainedScheduler@driver-svc.default.svc:7078",
    "SPARK_EXECUTOR_ID": "1",
    "SPARK_EXECUTOR_CORES": "2",
    "SPARK_EXECUTOR_MEMORY": "1024m",
    "SPARK_APPLICATION_ID": "spark-0123456789abcdef0123456789abcdef",
    "SPARK_EXECUTOR_POD_IP": POD_IP,
    "SPARK_EXECUTOR_POD_NAME": "spark-pi-exec-1",
    "SPARK_RESOURCE_PROFILE_ID": "0",
    "SPARK_USER": "root",
}
"""The variables of an executor's pod that are always there."""


def launch(profile="strict", spark="3.5.9", java=None, home=HOME, **more) -> Launch:
    """Give an image's specification: SparkPi, with numbers as arguments."""
    fitting = 11 if spark.startswith("3.1") else 17
    keys = {
        "profile": profile,
        "roles": ["driver", "executor", "submit", "thrift"],
        "classes": [PI],
        "jars": [JAR],
        "arguments": "[0-9]{1,6}",
        "java": {"home": "/opt/java", "major": java or fitting},
        "spark": {"home": str(home), "version": spark},
        **more,
    }
    return parse_launch(launch_spec(**keys))


def ask(role: str, *args: str, env=None, conf=None) -> Request:
    """Give a request."""
    return Request(role, args, dict(env or {}), dict(conf or {}))


def captured(path: Path) -> Request:
    """Give the request that a pod of real Spark makes."""
    pod = json.loads(path.read_text())
    env = {name: _value(value) for name, value in pod["env"].items() if _for_spark(name)}
    role, *args = pod["args"]
    return Request(role, tuple(args), env, parse_properties(pod["properties"] or ""))


def _value(value: object) -> str:
    if isinstance(value, str):
        return value
    assert isinstance(value, dict)
    field = value.get("fieldRef", {}).get("fieldPath")
    return {"status.podIP": POD_IP, "metadata.name": "spark-pi-exec-1"}.get(field, "from-a-secret")


def _for_spark(name: str) -> bool:
    """What the launcher does not keep for itself."""
    kept = ("ATTESTATION", "APP_ID", "API_KEY", "ENCRYPTED_FSD", "USING_LOCAL", "LOCAL_DATA_KEY")
    known = ("SGX_ENABLED", "SGX_LOG_LEVEL", "MALLOC_ARENA_MAX", "PCCS_URL")
    return not name.startswith(kept) and name not in known


def refusal(compose, *args) -> Stop:
    """Give the refusal of a call, whose line must be one."""
    try:
        got = compose(*args)
    except Stop as stop:
        assert stop.line.isprintable() and len(stop.line) < 300
        return stop
    raise AssertionError(f"not refused: {got.argv}")


def options(argv) -> list[str]:
    """Give Java's own options of a command."""
    return list(argv[1 : list(argv).index("-cp")])


def class_path(argv) -> list[str]:
    """Give the class path of a command."""
    return argv[list(argv).index("-cp") + 1].split(":")


def main(argv) -> list[str]:
    """Give the main class of a command and what stands after it."""
    return list(argv[list(argv).index("-cp") + 2 :])


def properties(command) -> dict[str, str]:
    """Give the properties that a driver's command has written."""
    place = list(command.argv).index("--properties-file")
    return parse_properties(command.files[command.argv[place + 1]].decode("ascii"))
