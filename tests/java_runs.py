"""Running jobs of the real Spark and Flink with what imagekit adds to them, natively."""

import os
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from runtime_parts import FlinkRuntime, SparkRuntime

from imagekit.runtime.java import ADD_OPENS
from imagekit.runtime.paths import NO_FORK_CLASS

ROOT = Path(__file__).parent.parent
JAR = ROOT / "java" / "no-fork.jar"
LOG = ROOT / "java" / "log"
FILE_SYSTEMS = {
    "fs.file.impl": NO_FORK_CLASS,
    "fs.AbstractFileSystem.file.impl": "io.imagekit.hadoop.NoForkLocalFs",
}
_NO_GROUPS = "org.apache.hadoop.security.NullGroupsMapping"
# A short run: little of it is compiled well.
QUICK = ("-Xmx1g", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:-UsePerfData")


def run(
    command: Sequence[str | Path], folder: Path, **env: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env={**os.environ, "LC_ALL": "C.UTF-8", "SPARK_LOCAL_IP": "127.0.0.1", **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def submit(
    runtime: SparkRuntime,
    folder: Path,
    name: str,
    *arguments: str | Path,
    jar: bool = True,
    conf: Mapping[str, object] = {},
) -> list[str | Path]:
    """The command of a job whose files are all below a folder, with our jar and settings or not."""
    logging = (
        f"-Dlog4j.configuration=file:{LOG}/spark/log4j.properties"
        if runtime.version.startswith("3.1.")
        else f"-Dlog4j2.configurationFile=file:{LOG}/spark/log4j2.properties"
    )
    settings = {
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.codegen.wholeStage": "false",
        "spark.local.dir": f"{folder}/local",
        "spark.sql.warehouse.dir": f"{folder}/warehouse",
        "spark.hadoop.javax.jdo.option.ConnectionURL": (
            f"jdbc:derby:;databaseName={folder}/metastore;create=true"
        ),
    }
    first = f"{JAR}:" if jar else ""
    ours = {f"spark.hadoop.{key}": value for key, value in FILE_SYSTEMS.items() if jar}
    (folder / "tmp").mkdir(exist_ok=True)
    return [
        runtime.java / "bin" / "java",
        *QUICK,
        *(ADD_OPENS if runtime.java_major >= 17 else ()),
        f"-Djava.io.tmpdir={folder}/tmp",
        f"-Dspark.hadoop.hadoop.security.group.mapping={_NO_GROUPS}",
        logging,
        *("-cp", f"{first}{runtime.home}/jars/*", "org.apache.spark.deploy.SparkSubmit"),
        *("--master", "local[2]", "--class", name),
        *(
            word
            for key, value in {**settings, **ours, **conf}.items()
            for word in ("--conf", f"{key}={value}")
        ),
        f"local:{runtime.examples_jar}",
        *arguments,
    ]


def free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        free = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in free:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in free]


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 180
    while process.poll() is None and time.monotonic() < end:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    pytest.fail("the server does not answer")


def configure(folder: Path) -> None:
    rpc, rest = free_ports(2)
    settings = {
        "jobmanager.rpc.address": "127.0.0.1",
        "jobmanager.rpc.port": rpc,
        "rest.port": rest,
        "rest.address": "127.0.0.1",
        "taskmanager.host": "127.0.0.1",
        "taskmanager.bind-host": "127.0.0.1",
        "taskmanager.numberOfTaskSlots": 1,
        "taskmanager.cpu.cores": 1.0,
        "taskmanager.memory.framework.heap.size": "128m",
        "taskmanager.memory.framework.off-heap.size": "64m",
        "taskmanager.memory.task.heap.size": "128m",
        "taskmanager.memory.task.off-heap.size": "0b",
        "taskmanager.memory.managed.size": "64m",
        "taskmanager.memory.network.min": "32m",
        "taskmanager.memory.network.max": "32m",
        "taskmanager.memory.jvm-metaspace.size": "128m",
        "taskmanager.memory.jvm-overhead.min": "64m",
        "taskmanager.memory.jvm-overhead.max": "64m",
        "taskmanager.network.netty.transport": "nio",
        "external-resources": "none",
        "io.tmp.dirs": f"{folder}/tmp",
        "parallelism.default": 1,
    }
    text = "".join(f"{key}: {value}\n" for key, value in settings.items())
    (folder / "flink-conf.yaml").write_text(text)
    (folder / "tmp").mkdir()


def flink_command(runtime: FlinkRuntime, folder: Path, name: str, *more: str) -> list[str | Path]:
    logging = f"file:{LOG}/flink/log4j-console.properties"
    return [
        *(runtime.java / "bin" / "java", *QUICK, "-Xmx512m"),
        *(ADD_OPENS if runtime.java_major >= 17 else ()),
        *(f"-Dlog4j.configurationFile={logging}", f"-Dlog4j.configuration={logging}"),
        *("-cp", f"{runtime.home}/lib/*:{runtime.wordcount_jar}", name),
        *("--configDir", folder, *more),
    ]


def stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End what strace traces; strace itself would only let go of it."""
    for process in processes:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        for pid in children.read_text().split() if children.exists() else ():
            os.kill(int(pid), 15)
    for process in processes:
        process.wait(30)
