"""Rules: Spark and Flink work where no process can be started, and what they try is known."""

import os
import re
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from process_trace import no_processes, started_processes, trace
from runtime_parts import (
    FLINK_VERSIONS,
    SPARK_VERSIONS,
    FlinkRuntime,
    SparkRuntime,
    debian_jdk,
    flink,
    spark,
)

from imagekit.runtime.java import ADD_OPENS
from imagekit.runtime.paths import NO_FORK_CLASS

ROOT = Path(__file__).parent.parent.parent
JAR = ROOT / "java" / "no-fork.jar"
LOG = ROOT / "java" / "log"
FILE_SYSTEMS = {
    "fs.file.impl": NO_FORK_CLASS,
    "fs.AbstractFileSystem.file.impl": "io.imagekit.hadoop.NoForkLocalFs",
}
# A short run: little of it is compiled well.
QUICK = ("-Xmx1g", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:-UsePerfData")
TABLES = ("person: Bob 1 Engineer; Eve 2 Driver", "parquet: 2", "saved: 2", "streamed: 2")

per_spark = pytest.mark.parametrize("version", SPARK_VERSIONS)
per_flink = pytest.mark.parametrize("version", FLINK_VERSIONS)


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
    runtime: SparkRuntime, folder: Path, name: str, *arguments: str | Path, jar: bool = True
) -> list[str | Path]:
    """The command of a job whose files are all below a folder, with our jar and settings or not."""
    logging = (
        f"-Dlog4j.configuration=file:{LOG}/spark/log4j.properties"
        if runtime.version.startswith("3.1.")
        else f"-Dlog4j2.configurationFile=file:{LOG}/spark/log4j2.properties"
    )
    conf = {
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
        "-Dspark.hadoop.hadoop.user.group.static.mapping.overrides=tester=testers",
        logging,
        *("-cp", f"{first}{runtime.home}/jars/*", "org.apache.spark.deploy.SparkSubmit"),
        *("--master", "local[2]", "--class", name),
        *(word for pair in (conf | ours).items() for word in ("--conf", "=".join(pair))),
        f"local:{runtime.examples_jar}",
        *arguments,
    ]


def tables(runtime: SparkRuntime, folder: Path, jar: bool = True) -> list[str | Path]:
    return submit(runtime, folder, "io.imagekit.jobs.LocalTables", folder / "files", jar=jar)


def harmless(words: list[str], folder: Path) -> bool:
    """Whether a process is one of those in java/README.md, for a file of the job."""
    match words:
        case ["setsid", "bash", "-c", "echo $$"] | ["getconf", "PAGESIZE"]:
            return True
        case ["rm", "-rf", path]:
            return path.startswith(f"{folder}/")
        case ["chmod", "a+x", path]:
            return path.startswith(f"{folder}/local/") and path.endswith(".jar")
    return False


USER = {"SPARK_USER": "tester", "HADOOP_USER_NAME": "tester"}


class TestJar:
    def test_is_what_its_source_gives(self, tmp_path: Path) -> None:
        debian_jdk()
        done = run([ROOT / "scripts" / "build-java", tmp_path / "again.jar"], tmp_path)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "again.jar").read_bytes() == JAR.read_bytes()

    def test_differs_when_the_source_does(self, tmp_path: Path) -> None:
        debian_jdk()
        for part in ("java", "scripts", "imagekit/runtime"):
            run(["mkdir", "-p", tmp_path / part], tmp_path)
            run(["cp", "-r", f"{ROOT / part}/.", tmp_path / part], tmp_path)
        source = tmp_path / "java/src/io/imagekit/hadoop/NoForkRawFileSystem.java"
        source.write_text(source.read_text().replace("does not exist", "is not there"))
        done = run([tmp_path / "scripts" / "build-java", tmp_path / "again.jar"], tmp_path)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "again.jar").read_bytes() != JAR.read_bytes()

    @per_spark
    def test_stubs_declare_what_that_hadoop_does(self, version: str, tmp_path: Path) -> None:
        debian_jdk()
        class_path = f"--class-path={spark(version).home}/jars/*"
        done = run([ROOT / "scripts" / "build-java", class_path, tmp_path / "real.jar"], tmp_path)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "real.jar").read_bytes() == JAR.read_bytes()

    def test_is_for_java_8(self) -> None:
        with zipfile.ZipFile(JAR) as jar:
            heads = [jar.read(name)[:8] for name in jar.namelist()]
        assert heads
        assert set(heads) == {bytes.fromhex("cafebabe00000034")}  # JVM specification, 4.1: 52


class TestFileSystem:
    def answers(
        self, runtime: SparkRuntime, folder: Path, conf: Sequence[str], **env: str
    ) -> list[str]:
        folder.mkdir(exist_ok=True)
        (folder / "files").mkdir()
        command = [
            *(runtime.java / "bin" / "java", *QUICK, "-cp"),
            f"{JAR}:{runtime.home}/jars/*:{runtime.examples_jar}",
            *("io.imagekit.jobs.LocalFiles", folder / "files", *conf),
        ]
        done = run(no_processes(command) if conf else command, folder, **env)
        assert done.returncode == 0, done.stderr
        return done.stdout.replace(str(folder), "").splitlines()

    @per_spark
    def test_answers_what_hadoops_own_does(self, version: str, tmp_path: Path) -> None:
        """Hadoop's own may start processes here, ours may not."""
        conf = ["=".join(pair) for pair in FILE_SYSTEMS.items()]
        *ours, classes = self.answers(spark(version), tmp_path / "ours", conf)
        *theirs, other_classes = self.answers(spark(version), tmp_path / "theirs", [])
        assert classes == "system: " + " ".join(FILE_SYSTEMS.values())
        assert "imagekit" not in other_classes
        assert len(ours) > 40
        assert ours == theirs

    def test_says_when_the_locale_has_no_such_name(self, tmp_path: Path) -> None:
        conf = ["=".join(pair) for pair in FILE_SYSTEMS.items()]
        answers = self.answers(spark(SPARK_VERSIONS[0]), tmp_path / "c", conf, LC_ALL="C")
        assert "umlaut: java.io.IOException" in answers


class TestSpark:
    @per_spark
    def test_pi_runs_where_no_process_can_start(self, version: str, tmp_path: Path) -> None:
        command = submit(spark(version), tmp_path, "org.apache.spark.examples.SparkPi", "2")
        done = run(no_processes(command), tmp_path, **USER)
        assert done.returncode == 0, done.stderr
        assert "Pi is roughly 3.1" in done.stdout
        self.quiet(done.stderr)

    @per_spark
    def test_tables_work_where_no_process_can_start(self, version: str, tmp_path: Path) -> None:
        done = run(no_processes(tables(spark(version), tmp_path)), tmp_path, **USER)
        assert done.returncode == 0, done.stderr
        assert tuple(done.stdout.splitlines()) == TABLES
        self.quiet(done.stderr)

    def test_tables_fail_there_without_the_jar(self, tmp_path: Path) -> None:
        """So the tests above can fail."""
        command = tables(spark("3.5.9"), tmp_path, jar=False)
        done = run(no_processes(command), tmp_path, **USER)
        assert done.returncode != 0
        assert TABLES[0] not in done.stdout
        assert re.search(r'Cannot run program "(chmod|ls|/bin/ls)": error=11', done.stderr)

    @per_spark
    def test_tables_try_no_process_but_the_harmless(self, version: str, tmp_path: Path) -> None:
        """java/README.md says what these are, and that they are no use to the job."""
        log = tmp_path / "trace"
        done = run(trace(tables(spark(version), tmp_path), log), tmp_path, **USER)
        assert done.returncode == 0, done.stderr
        assert tuple(done.stdout.splitlines()) == TABLES
        tried = started_processes(log)
        assert tried.count(["setsid", "bash", "-c", "echo $$"]) == 1
        assert {words[0] for words in tried} >= {"setsid", "rm"}  # the trace sees them
        unknown = [words for words in tried if not harmless(words, tmp_path)]
        assert unknown == []

    @staticmethod
    def quiet(stderr: str) -> None:
        """Logging is set up, and says nothing of itself, nor of what was refused."""
        lines = stderr.splitlines()
        assert any(re.match(r"\d\d/\d\d/\d\d \d\d:\d\d:\d\d INFO SparkContext: ", x) for x in lines)
        for sign in (
            "log4j:",
            "StatusLogger",
            "error=11",
            "Cannot run program",
            "JavaUtils",
            "\tat ",
        ):
            assert sign not in stderr, [line for line in lines if sign in line][:3]


class TestFlink:
    @per_flink
    def test_word_count_tries_no_process(self, version: str, tmp_path: Path) -> None:
        runtime = flink(version)
        configure(tmp_path)
        job = "org.apache.flink.container.entrypoint.StandaloneApplicationClusterEntryPoint"
        worker = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
        logs = [tmp_path / "jobmanager.trace", tmp_path / "taskmanager.trace"]
        with ExitStack() as stack:
            out = [
                stack.enter_context((tmp_path / f"{name}.{kind}").open("w"))
                for name in ("jobmanager", "taskmanager")
                for kind in ("out", "err")
            ]
            commands = (
                flink_command(runtime, tmp_path, job, "-j", "io.imagekit.jobs.WordCount"),
                flink_command(runtime, tmp_path, worker),
            )
            processes = [
                subprocess.Popen(
                    trace(command, log),
                    cwd=tmp_path,
                    stdin=subprocess.DEVNULL,
                    stdout=out[2 * number],
                    stderr=out[2 * number + 1],
                )
                for number, (command, log) in enumerate(zip(commands, logs, strict=True))
            ]
            try:
                end = time.monotonic() + 180
                while not any(p.poll() is not None for p in processes) and time.monotonic() < end:
                    time.sleep(0.1)
                assert processes[0].wait(10) == 0, (tmp_path / "taskmanager.err").read_text()
            finally:
                stop(processes)
        counts = (tmp_path / "taskmanager.out").read_text()
        assert "(to,4)" in counts, (tmp_path / "taskmanager.err").read_text()
        assert "(question,1)" in counts
        for log in logs:
            assert log.stat().st_size > 0
            assert started_processes(log) == []
        for name in ("jobmanager", "taskmanager"):
            said = (tmp_path / f"{name}.err").read_text()
            assert re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO ", said, re.MULTILINE)
            for sign in ("log4j:", "StatusLogger", "Unable to create"):
                assert sign not in said


def configure(folder: Path) -> None:
    with socket.socket() as first, socket.socket() as second:
        for free in (first, second):
            free.bind(("127.0.0.1", 0))
        rpc, rest = (free.getsockname()[1] for free in (first, second))
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


class TestTracer:
    """What the tests above lean on."""

    def test_refuses_processes_and_nothing_else(self, tmp_path: Path) -> None:
        script = (
            "import os, subprocess, threading\n"
            "thread = threading.Thread(target=print, args=('thread',))\n"
            "thread.start(), thread.join()\n"
            "for start in (os.fork, lambda: subprocess.Popen('true'),\n"
            "              lambda: os.posix_spawn('/bin/true', ['true'], {})):\n"
            "    try:\n"
            "        start()\n"
            "    except BlockingIOError:\n"
            "        print('refused', flush=True)\n"
            "os.execv('/bin/echo', ['echo', 'another program'])\n"
        )
        done = run(no_processes([sys.executable, "-c", script]), tmp_path)
        assert done.stdout.splitlines() == ["thread", *["refused"] * 3, "another program"]

    def test_lists_what_was_started_and_what_was_not_found(self, tmp_path: Path) -> None:
        script = "/bin/true 1 '2 ]'; (exec nothere); (:); /bin/echo ä"
        log = tmp_path / "trace"
        done = run(trace(["sh", "-c", f"{script}; exit 3"], log), tmp_path)
        assert done.returncode == 3
        assert started_processes(log) == [
            ["/bin/true", "1", "2 ]"],
            ["nothere"],
            [],
            ["/bin/echo", "ä"],
        ]
