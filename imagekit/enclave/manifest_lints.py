"""Warnings: what runs, but insecurely or badly.

The insecure options are those that Gramine itself prints at start-up. The JVM rules come from
Spark, Flink and the Thrift server run under Gramine 1.9: which key, left out, makes what fail.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from imagekit.enclave.findings import WARNING, Finding, shown
from imagekit.enclave.manifest_values import array_at, normal_path, table_at, text_at, value_at

_INSECURE = {
    "loader.insecure__use_host_env": (
        "the host chooses the whole environment, LD_PRELOAD and JAVA_TOOL_OPTIONS included",
        "list single variables: loader.env.NAME = { passthrough = true }",
    ),
    "loader.insecure__use_cmdline_argv": (
        "the host chooses the arguments",
        "seal them in loader.argv",
    ),
    "loader.insecure__disable_aslr": ("address randomisation is off", "leave it out"),
    "sys.experimental__enable_flock": (
        "is experimental; the JVM only uses it for performance data",
        "leave it out and run java with -XX:-UsePerfData",
    ),
    "sgx.insecure__allow_memfaults_without_exinfo": (
        "the host can make up memory faults",
        "use sgx.use_exinfo on a CPU that has it",
    ),
}
_LEAST_THREADS = 4
_TMP = "/tmp"  # noqa: S108 - a path inside the enclave
_FORKING = re.compile(r"\beval\b|\||`|\$\(")


def _warn(key: str, problem: str, hint: str) -> Finding:
    return Finding(key, problem, hint, WARNING)


def lint_findings(manifest: Mapping[str, Any], release: str) -> Iterator[Finding]:
    """Give the warnings about a manifest."""
    for key, (problem, hint) in _INSECURE.items():
        if value_at(manifest, key) is True:
            yield _warn(key, problem, hint)
    if value_at(manifest, "sys.insecure__allow_eventfd") is True:
        why = "lets the host answer eventfd" + (
            "; since 1.7 Gramine does it inside, without this key" if release != "1.3" else ""
        )
        yield _warn("sys.insecure__allow_eventfd", why, "leave it out if the program runs without")
    if text_at(manifest, "loader.log_level") in ("warning", "debug", "trace", "all"):
        problem = f"{shown(text_at(manifest, 'loader.log_level'))} can leak data to the host"
        yield _warn("loader.log_level", problem, '"error" is the level for production')
    if value_at(manifest, "sgx.file_check_policy") == "allow_all_but_log":
        problem = "the host can give the enclave any file that is not trusted, code included"
        yield _warn("sgx.file_check_policy", problem, 'use "strict" and list trusted files')
    if array_at(manifest, "sgx.allowed_files"):
        problem = "the host chooses the content of these files"
        yield _warn("sgx.allowed_files", problem, "use trusted files or encrypted mounts")
    threads_key = "sgx.thread_num" if release == "1.3" else "sgx.max_threads"
    rpc = "sgx.rpc_thread_num" if release == "1.3" else "sgx.insecure__rpc_thread_num"
    threads = value_at(manifest, threads_key)
    edmm = value_at(manifest, "sgx.edmm_enable") is True
    if isinstance(threads, int) and 1 <= threads < _LEAST_THREADS and not edmm:
        problem = f"{threads} is few: Gramine's own helpers need up to three of them"
        yield _warn(threads_key, problem, f"use at least {_LEAST_THREADS}")
    if value_at(manifest, rpc):
        yield _warn(rpc, "reads and writes host memory in unsafe ways", "leave it out")
    yield from _shell(manifest)
    if _has_java(manifest):
        yield from _java(manifest, release)


def _words(manifest: Mapping[str, Any]) -> list[str]:
    return [word for word in array_at(manifest, "loader.argv") if isinstance(word, str)]


def _has_java(manifest: Mapping[str, Any]) -> bool:
    env = table_at(manifest, "loader.env")
    names = {"JAVA_HOME", "SPARK_HOME", "FLINK_HOME"}
    programs = [text_at(manifest, "libos.entrypoint"), *_words(manifest)[:1]]
    return bool(names & set(env)) or any(p.rpartition("/")[2] == "java" for p in programs)


def _shell(manifest: Mapping[str, Any]) -> Iterator[Finding]:
    words = _words(manifest)
    entry = text_at(manifest, "libos.entrypoint").rpartition("/")[2]
    if entry not in ("bash", "sh", "dash"):
        return
    if value_at(manifest, "sys.disallow_subprocesses") is not True:
        return
    command = words[2] if words[1:2] == ["-c"] and len(words) > 2 else None
    script = command is None and len(words) > 1
    if script or (command is not None and _FORKING.search(command)):
        problem = (
            "makes the shell fork, which sys.disallow_subprocesses forbids: it fails after 15 s"
        )
        yield _warn("loader.argv", problem, "end a plain command line with exec PROGRAM …")


def _java(manifest: Mapping[str, Any], release: str) -> Iterator[Finding]:
    if value_at(manifest, "sys.enable_sigterm_injection") is not True:
        problem = "is off: SIGTERM does nothing, and a pod waits its whole grace period"
        yield _warn("sys.enable_sigterm_injection", problem, "set it to true")
    if release == "1.9":
        yield from _java_1_9(manifest)
    mounts = [m for m in array_at(manifest, "fs.mounts") if isinstance(m, Mapping)]
    paths = [normal_path(m["path"]) for m in mounts if isinstance(m.get("path"), str)]
    if not any(path in ("/etc", "/etc/passwd") for path in paths):
        problem = "/etc/passwd is not mounted, so the JVM has no user name and no home"
        yield _warn("fs.mounts", problem, "mount a passwd file with one line for uid 0")
    if _TMP not in paths:
        problem = f"{_TMP} is not mounted, so there is no place for temporary files"
        yield _warn("fs.mounts", problem, f'add {{ type = "tmpfs", path = "{_TMP}" }}')
    env = table_at(manifest, "loader.env")
    host_env = value_at(manifest, "loader.insecure__use_host_env") is True
    if "SPARK_HOME" in env and "SPARK_LOCAL_IP" not in env and not host_env:
        problem = "is not set, and Spark cannot list network interfaces inside Gramine"
        yield _warn("loader.env.SPARK_LOCAL_IP", problem, "set it, or pass it through")
    words = _words(manifest)
    runs_spark = any("spark-submit" in word or word.endswith(".SparkSubmit") for word in words)
    script = next((word for word in words if runs_spark and word.endswith(".py")), None)
    if script is not None:
        problem = f"{shown(script)}: a JVM cannot start Python inside Gramine"
        yield _warn("loader.argv", problem, "submit a JVM job, or use SQL from a client outside")


def _java_1_9(manifest: Mapping[str, Any]) -> Iterator[Finding]:
    faults = ("sgx.use_exinfo", "sgx.insecure__allow_memfaults_without_exinfo")
    if not any(value_at(manifest, key) is True for key in faults):
        problem = "is off: since 1.6 Gramine ends the enclave at the memory faults a JVM lives with"
        yield _warn("sgx.use_exinfo", problem, "set it to true")
    entry = text_at(manifest, "libos.entrypoint").rpartition("/")[2]
    shell = entry in ("bash", "sh", "dash")
    if not shell and value_at(manifest, "sys.disallow_subprocesses") is not True:
        problem = "is off: each fork that a JVM tries costs half a second, or another enclave"
        yield _warn("sys.disallow_subprocesses", problem, "set it to true")
