"""Spark's roles with real Spark: what a container of an image does when it is started."""

import re
from pathlib import Path

import process_trace
import pytest
from image_layout import PASSWORD
from real_runs import COMMANDS, NATIVE, STAND_IN, CommandLines, ways
from runtime_parts import SPARK_VERSIONS
from spark_images import LOCAL, MARKER_SHUFFLE, PI, job, spark_image

from imagekit.runtime.java import ADD_OPENS

pytestmark = pytest.mark.integration(*COMMANDS, root=True)


@pytest.mark.parametrize("way", ways())
@pytest.mark.parametrize("version", SPARK_VERSIONS)
def test_a_local_job_with_the_security_confs_computes_and_shows_no_secret(version, way):
    with spark_image(version, secure=True) as (made, runtime), CommandLines(made) as processes:
        status, said = made.ends(*LOCAL, *job(runtime), "4", way=way)
    assert status == 0, said
    assert "Pi is roughly 3.1" in said
    assert PASSWORD not in said
    seen = [line for line in processes.seen if b"SparkSubmit" in line]
    assert seen and not [line for line in processes.seen if PASSWORD.encode() in line]
    assert ("STAND-IN" in said) == (way == STAND_IN)


def test_the_wrong_java_is_refused_with_the_ones_that_work():
    with spark_image("3.1.3", java={"home": "/opt/java", "major": 17}) as (made, runtime):
        status, said = made.ends(*LOCAL, *job(runtime))
    assert status == 3
    assert said.endswith(
        "imagekit: error: Spark 3.1.3 does not work with Java 17: take an image with Java 8 or 11\n"
    )


def test_a_heap_of_half_the_enclave_is_refused_before_a_jvm_starts():
    with spark_image() as (made, runtime):
        words = (*LOCAL, *job(runtime))
        status, said = made.ends(*words, way=STAND_IN, env={"SGX_DRIVER_JVM_MEM_SIZE": "8g"})
    assert status == 2
    assert re.search(r"error: SGX_DRIVER_JVM_MEM_SIZE: a heap of 8192 MiB does not fit", said)
    assert "16384 MiB" in said


def test_an_unwritable_folder_is_named():
    with spark_image() as (made, runtime):
        script = 'mount -t tmpfs -o ro tmpfs /tmp && exec "$@"'
        around = ("sh", "-c", script, "sh")
        status, said = made.ends(*LOCAL, *job(runtime), around=around)
    assert status == 3
    assert said.endswith(
        "imagekit: error: /tmp/imagekit: cannot be written: Read-only file system\n"
    )


@pytest.mark.parametrize("way", [NATIVE, STAND_IN])
def test_sigterm_ends_a_running_job_with_its_status(way):
    with spark_image() as (made, runtime):
        words = (*LOCAL, *job(runtime), "100000")
        with made.start(*words, way=way, process_one=True) as running:
            running.wait_for("Finished task 0.0")
            running.terminate()
            status, said = running.end(30)
    assert status == 143
    assert "Shutdown hook called" in said


# --- Thrift -----------------------------------------------------------------------------------

QUERY = """\
create database test_db;
use test_db;
create table person(name string, age int, job string)
  row format delimited fields terminated by '\\t';
insert into person values ("Bob", 1, "Engineer");
select * from person;
set fs.file.impl;
"""
BEELINE = ("org.apache.hive.beeline.BeeLine", "-u", "jdbc:hive2://127.0.0.1:10000", "-n", "root")


@pytest.mark.parametrize("way", [NATIVE, STAND_IN])
def test_the_thrift_server_makes_tables_without_a_process_and_ends_by_sigterm(way):
    """Where it can start none, as inside; a client makes the table of BigDL's guide."""
    server = ("thrift", "--master", "local[2]")
    beeline = ("/opt/java/bin/java", *ADD_OPENS, "-cp", "/opt/spark/jars/*")
    refusing = ("/usr/bin/python3", "-I", "/opt/no_processes.py")  # the checkout may be below /tmp
    source = Path(process_trace.__file__).read_bytes()
    with spark_image(secure=True) as (made, _):
        made.write({"/opt/query.sql": QUERY, refusing[-1]: source})
        with made.start(*server, way=way, around=refusing) as running:
            running.wait_for("Starting ThriftBinaryCLIService on port 10000")
            words = (*BEELINE, "-f", "/opt/query.sql")
            status, said = made.ends(*words, entry=beeline)
            running.terminate()
            ended, log = running.end(30)
    assert status == 0, said
    assert re.search(r"\| Bob +\| 1 +\| Engineer +\|", said)
    assert "io.imagekit.hadoop.NoForkFileSystem" in said
    assert "Cannot run program" not in log
    assert PASSWORD not in log
    assert ended == 143


# --- strict and compat ------------------------------------------------------------------------

LIBRARY = "/usr/lib/x86_64-linux-gnu/libc_malloc_debug.so.0"
EXECUTOR = {
    "SPARK_DRIVER_URL": "spark://CoarseGrainedScheduler@127.0.0.1:7078",
    "SPARK_EXECUTOR_ID": "1",
    "SPARK_EXECUTOR_CORES": "1",
    "SPARK_EXECUTOR_MEMORY": "512m",
    "SPARK_APPLICATION_ID": "spark-0",
    "SPARK_EXECUTOR_POD_IP": "127.0.0.1",
    "SPARK_EXECUTOR_POD_NAME": "spark-exec-1",
    "SPARK_RESOURCE_PROFILE_ID": "0",
}
OPTION = "-Dhost.was.here=1"


def test_under_compat_the_host_gets_its_way_with_class_library_and_java_options():
    env = {"LD_PRELOAD": LIBRARY, "JAVA_TOOL_OPTIONS": OPTION}
    with spark_image(profile="compat", classes=[MARKER_SHUFFLE]) as (made, runtime):
        with made.start(*LOCAL, *job(runtime, PI), env=env) as running:
            running.wait_for("Running Spark version")
            assert LIBRARY in Path(f"/proc/{running.pid}/maps").read_text()
            status, said = running.end()
        with made.start("executor", env={**EXECUTOR, "SPARK_JAVA_OPT_0": OPTION}) as running:
            running.wait_for("Started daemon", "Failed to connect")
            words = Path(f"/proc/{running.pid}/cmdline").read_bytes().split(b"\0")
    assert status == 0, said
    assert "profile compat: the host chooses the command" in said
    assert f"Picked up JAVA_TOOL_OPTIONS: {OPTION}" in said
    assert "Pi is roughly 3.1" in said
    assert OPTION.encode() in words


def test_under_compat_the_host_gets_its_way_with_the_command():
    with spark_image(profile="compat") as (made, _):
        status, said = made.ends(way=STAND_IN, env={"sgx_command": "echo host was here"})
    assert status == 0, said
    assert "sgx_command is set by the host: it runs as it is" in said
    assert said.endswith("host was here\n")


@pytest.mark.parametrize("way", [NATIVE, STAND_IN])
def test_under_strict_the_host_is_refused_all_of_it_by_name(way):
    with spark_image(classes=[MARKER_SHUFFLE]) as (made, runtime):
        words = (*LOCAL, *job(runtime, MARKER_SHUFFLE))
        for name, asked, env in (
            ("--class", (*LOCAL, *job(runtime, PI)), {}),
            ("sgx_command", words, {"sgx_command": "echo host was here"}),
            ("LD_PRELOAD", words, {"LD_PRELOAD": LIBRARY}),
            ("JAVA_TOOL_OPTIONS", words, {"JAVA_TOOL_OPTIONS": OPTION}),
            ("SPARK_JAVA_OPT_0", ("executor",), {**EXECUTOR, "SPARK_JAVA_OPT_0": OPTION}),
        ):
            status, said = made.ends(*asked, way=way, env=env)
            assert status == 2, said
            assert said.splitlines()[-1].startswith(f"imagekit: error: {name}: ")
            assert "host was here" not in said and OPTION not in said
