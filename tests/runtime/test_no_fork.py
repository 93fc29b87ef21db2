"""Rules: Spark and Flink work where no process can be started, and what they try is known."""

import os
import re
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from java_runs import QUICK, configure, flink_command, free_ports, run, stop, submit, wait_for
from process_trace import no_processes, started_processes, trace
from runtime_parts import FLINK_VERSIONS, SPARK_VERSIONS, SparkRuntime, flink, spark

pytestmark = pytest.mark.integration("strace")
TABLES = ("person: Bob 1 Engineer; Eve 2 Driver", "parquet: 2", "saved: 2", "streamed: 2")

per_spark = pytest.mark.parametrize("version", SPARK_VERSIONS)
per_flink = pytest.mark.parametrize("version", FLINK_VERSIONS)


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

    def test_thrift_tries_no_process_but_the_harmless(self, tmp_path: Path) -> None:
        """Also not ``id`` for the user who connects."""
        runtime, log = spark("3.5.9"), tmp_path / "trace"
        port = free_ports(1)[0]
        server = "org.apache.spark.sql.hive.thriftserver.HiveThriftServer2"
        settings = {"bind.host": "127.0.0.1", "port": port}
        conf = {f"spark.hadoop.hive.server2.thrift.{key}": value for key, value in settings.items()}
        command = submit(runtime, tmp_path, server, conf=conf)
        queries = tmp_path / "queries.sql"
        queries.write_text(
            "CREATE DATABASE test_db;\nUSE test_db;\nCREATE TABLE person (name STRING, age INT);\n"
            "INSERT INTO person VALUES ('Bob', 1);\nSELECT concat(name, age) FROM person;\n"
        )
        with (tmp_path / "err").open("w") as err:
            process = subprocess.Popen(
                trace(command, log),
                cwd=tmp_path,
                env={**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", **USER},
                stdin=subprocess.DEVNULL,
                stderr=err,
            )
        try:
            wait_for(port, process)
            client = [
                *(runtime.java / "bin" / "java", *QUICK, "-cp", f"{runtime.home}/jars/*"),
                *("org.apache.hive.beeline.BeeLine", "-u", f"jdbc:hive2://127.0.0.1:{port}"),
                *("-n", "alice", "-f", queries),
            ]
            done = run(client, tmp_path)
        finally:
            stop([process])
        assert "Bob1" in done.stdout, done.stderr
        unknown = [words for words in started_processes(log) if not harmless(words, tmp_path)]
        assert unknown == []
        said = (tmp_path / "err").read_text()
        assert "RECEIVED SIGNAL TERM" in said

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
