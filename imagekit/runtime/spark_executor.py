"""The role ``executor``: Spark on Kubernetes starts it with nothing but variables.

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

import re

from .command import Command
from .java import ADD_OPENS, split_options
from .launch import Launch
from .place import Place
from .request import Request
from .spark_conf import check_property, listed_folders, local_dirs, no_process
from .spark_env import environment, executor_secret
from .spark_java import class_path, heap, java_argv, parts, say, without_secrets
from .spark_table import NUMBERED
from .stop import REFUSED, Stop

_CANONICAL = re.compile(r"0|[1-9][0-9]{0,4}")
_SYSTEM_PROPERTY = re.compile(r"-D(spark\.[^=]+)=(.*)", re.DOTALL)
_SPARKS_OWN = frozenset(
    (
        *ADD_OPENS,
        "--add-opens=java.base/jdk.internal.ref=ALL-UNNAMED",
        "-XX:+IgnoreUnrecognizedVMOptions",
        "--add-modules=jdk.incubator.vector",
        "--enable-native-access=ALL-UNNAMED",
        "--sun-misc-unsafe-memory-access=allow",
        "-Djava.net.preferIPv6Addresses=false",
        "-Dio.netty.allocator.type=pooled",
        "-Dio.netty.handler.ssl.defaultEndpointVerificationAlgorithm=NONE",
    )
)
"""Options that Spark 3.3 to 4.3 gives every JVM. Under strict they count as known and are left out:
the runtime gives what this Java needs."""

_NOT_FOR_EXECUTORS = re.compile(
    r"spark\.(?:driver|kubernetes|executorEnv|submit|app|jars|master|authenticate\.secret\.driver)"
    r"(?:\..*)?|spark\.executor\.(?:extraJavaOptions|defaultJavaOptions|extraClassPath)",
    re.DOTALL,
)
_SEALED_OPTIONS = ("spark.executor.defaultJavaOptions", "spark.executor.extraJavaOptions")


def compose_executor(spec: Launch, request: Request, place: Place) -> Command:
    """Make the command of an executor.

    Properties of the request do not count, as with Spark's own entry point: the executor asks its
    driver for them.

    Args:
        spec: the launch specification.
        request: the launch request, its variables checked.
        place: where it runs.

    Raises:
        Stop: something is refused or missing.
    """
    java, spark = parts(spec)
    if request.args:
        raise Stop(REFUSED, "executor takes no arguments: all it needs comes in variables")
    env = request.env
    added = _defined(no_process(spark))
    sealed = [*_defined(executor_conf(spec)), *_sealed_options(spec)]
    options, files = without_secrets([*added, *java_options(spec, env), *sealed], java)
    size = heap(
        (
            ("SGX_EXECUTOR_JVM_MEM_SIZE", env.get("SGX_EXECUTOR_JVM_MEM_SIZE"), ""),
            ("SPARK_EXECUTOR_MEMORY", env.get("SPARK_EXECUTOR_MEMORY"), "m"),
        ),
        place,
    )
    cores = _needed(env, "SPARK_EXECUTOR_CORES")
    if not cores.isdigit():
        raise Stop(REFUSED, "SPARK_EXECUTOR_CORES is not a number")
    threads = env.get("NETTY_THREAD", "")
    argv = java_argv(spec, place, options, size, max(2, int(cores)), threads)
    argv += ["-cp", _class_path(spec, request), *_backend(spark.release, env)]
    folders = local_dirs(spec, spec.conf, request)
    variables = environment(spec, spark, request, _needed(env, "SPARK_EXECUTOR_POD_IP"), folders)
    variables.update(executor_secret(spec, request))
    _warn(spec)
    return Command(tuple(argv), variables, files, listed_folders("SPARK_LOCAL_DIRS", folders))


def _backend(release: tuple[int, ...], env: dict[str, str]) -> list[str]:
    """Give the main class and its arguments, which differ by Spark's release."""
    named = release >= (3, 3)
    package = "scheduler.cluster.k8s.Kubernetes" if named else "executor.CoarseGrained"
    argv = [f"org.apache.spark.{package}ExecutorBackend"]
    argv += ["--driver-url", _needed(env, "SPARK_DRIVER_URL")]
    argv += ["--executor-id", _needed(env, "SPARK_EXECUTOR_ID")]
    argv += ["--cores", _needed(env, "SPARK_EXECUTOR_CORES")]
    argv += ["--app-id", _needed(env, "SPARK_APPLICATION_ID")]
    argv += ["--hostname", _needed(env, "SPARK_EXECUTOR_POD_IP")]
    if "SPARK_RESOURCE_PROFILE_ID" in env:
        argv += ["--resourceProfileId", env["SPARK_RESOURCE_PROFILE_ID"]]
    if named:
        argv += ["--podName", _needed(env, "SPARK_EXECUTOR_POD_NAME")]
    return argv


def _needed(env: dict[str, str], name: str) -> str:
    value = env.get(name)
    if not value:
        raise Stop(REFUSED, f"{name} is not set: Spark's driver sets it for executors")
    return value


def java_options(spec: Launch, env: dict[str, str]) -> list[str]:
    """Give what counts of ``SPARK_JAVA_OPT_0`` and so on, in the order of their numbers.

    Under strict: Spark's own module options are left out, ``-Dspark.…`` is checked as any property
    is, and what equals a sealed option is left out as it is added anyway.

    Raises:
        Stop: under strict, any other option, a gap in the numbers, or one number written in two
            ways.
    """
    found = {name: match[1] for name in env for match in [NUMBERED.fullmatch(name)] if match}
    if spec.profile != "strict":
        numbered = sorted((int(n), name) for name, n in found.items() if n.isdecimal())
        return [env[name] for _, name in numbered]
    if not all(_CANONICAL.fullmatch(number) for number in found.values()):
        raise Stop(REFUSED, "SPARK_JAVA_OPT_…: refused, a number that Spark does not write so")
    numbers = sorted(map(int, found.values()))
    if numbers != list(range(len(numbers))):
        raise Stop(REFUSED, "SPARK_JAVA_OPT_…: refused, a number is missing from 0 to the last")
    known = {*_SPARKS_OWN, *_sealed_options(spec)}
    names = (f"SPARK_JAVA_OPT_{number}" for number in numbers)
    return [env[name] for name in names if env[name] not in known and _check(spec, name, env[name])]


def _check(spec: Launch, name: str, option: str) -> bool:
    found = _SYSTEM_PROPERTY.fullmatch(option)
    if found is None:
        raise Stop(REFUSED, f"{name}: this Java option may not be set from outside")
    return check_property(spec, found[1], found[2], name)


def executor_conf(spec: Launch) -> dict[str, str]:
    """Give the sealed properties that an executor has to know before it talks to its driver."""
    return {
        name: value
        for name, value in spec.conf.items()
        if name.startswith("spark.") and not _NOT_FOR_EXECUTORS.fullmatch(name)
    }


def _defined(conf: dict[str, str]) -> list[str]:
    return [f"-D{name}={conf[name]}" for name in sorted(conf)]


def _sealed_options(spec: Launch) -> list[str]:
    return [
        word for name in _SEALED_OPTIONS for word in split_options(name, spec.conf.get(name, ""))
    ]


def _class_path(spec: Launch, request: Request) -> str:
    env = request.env
    _, spark = parts(spec)
    sealed = spec.conf.get("spark.executor.extraClassPath", "")
    if spec.profile == "strict":
        return class_path(spark, f"{spark.home}/conf", sealed)
    before = ":".join(filter(None, (sealed, env.get("SPARK_CLASSPATH"))))
    after = ":".join(filter(None, map(env.get, ("SPARK_EXTRA_CLASSPATH", "SPARK_DIST_CLASSPATH"))))
    folder = env.get("SPARK_CONF_DIR", f"{spark.home}/conf")
    return class_path(spark, folder, before, after)


def _warn(spec: Launch) -> None:
    if spec.profile == "strict" and spec.conf.get("spark.authenticate") != "true":
        say(
            "warning: spark.authenticate is not sealed as true: whoever answers at the driver's "
            "address gives this executor code to run"
        )
