"""Spark's roles: what real Spark passes becomes the right command, and nothing else does."""

import base64
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spark_requests import (
    AT_HOME,
    CAPTURES,
    EXECUTOR,
    HOME,
    IN_DIRECT,
    IN_ENCLAVE,
    JAR,
    JOB,
    LOCAL,
    PI,
    POD_IP,
    ask,
    captured,
    class_path,
    launch,
    main,
    options,
    properties,
    refusal,
)

from imagekit.runtime import spark
from imagekit.runtime.command import FOLDER
from imagekit.runtime.paths import NO_FORK_JAR
from imagekit.runtime.spark_args import parse_submit
from imagekit.runtime.spark_executor import java_options
from imagekit.runtime.stop import REFUSED, UNUSABLE, Stop

SUBMIT = "org.apache.spark.deploy.SparkSubmit"
THRIFT = "org.apache.spark.sql.hive.thriftserver.HiveThriftServer2"
THRIFT_JAR = "spark-hive-thriftserver_2.12-3.5.9.jar"
DRIVERS = sorted(CAPTURES.glob("spark-*-driver.json"))
EXECUTORS = sorted(CAPTURES.glob("spark-*-executor.json"))
SECURED = {
    "spark.authenticate": "true",
    "spark.authenticate.enableSaslEncryption": "true",
    "spark.network.crypto.enabled": "true",
    "spark.network.crypto.keyLength": "128",
    "spark.network.crypto.keyFactoryAlgorithm": "PBKDF2WithHmacSHA1",
    "spark.io.encryption.enabled": "true",
    "spark.io.encryption.keySizeBits": "128",
    "spark.io.encryption.keygen.algorithm": "HmacSHA1",
    "spark.ssl.enabled": "true",
    "spark.ssl.port": "8043",
    "spark.ssl.keyStore": "/ppml/keys/keystore.jks",
    "spark.ssl.keyStoreType": "JKS",
    "spark.ssl.trustStore": "/ppml/keys/keystore.jks",
    "spark.ssl.trustStoreType": "JKS",
}
PASSWORDS = {
    "spark.authenticate.secret": "[ -~]{8,64}",
    "spark.ssl.keyPassword": "[ -~]{8,64}",
    "spark.ssl.keyStorePassword": "[ -~]{8,64}",
    "spark.ssl.trustStorePassword": "[ -~]{8,64}",
}


@pytest.fixture
def home(tmp_path):
    """A folder with what of Spark is looked at."""
    (tmp_path / "jars").mkdir()
    for file in (THRIFT_JAR, "spark-hive_2.12-3.5.9.jar", "hive-thriftserver.jar"):
        (tmp_path / "jars" / file).touch()
    return tmp_path


def name(path):
    return path.stem


def version(path):
    return path.stem.split("-")[1]


def sealed_for(path, profile, jar=JAR):
    """The image that a captured job is for."""
    conf = SECURED if "-secure-" in path.name else {}
    allowed = PASSWORDS if "-secure-" in path.name else {}
    return launch(profile, version(path), conf=conf, conf_allowed=allowed, jars=[jar])


# --- what real Spark passes -------------------------------------------------------------------


def test_there_are_captures_of_both_oldest_and_newest_line():
    assert {version(path) for path in DRIVERS} >= {"3.1.3", "3.5.9"}
    assert {version(path) for path in EXECUTORS} >= {"3.1.3", "3.5.9"}


@pytest.mark.parametrize("profile", ["strict", "compat"])
@pytest.mark.parametrize("path", [p for p in DRIVERS if "python" not in p.name], ids=name)
def test_a_drivers_pod_runs_its_job_by_spark_submit(path, profile):
    request = captured(path)
    jar = request.args[-2].removeprefix("local://")
    command = spark.compose(sealed_for(path, profile, jar), request, AT_HOME)
    assert main(command.argv) == [
        SUBMIT,
        *("--deploy-mode", "client"),
        *("--conf", f"spark.driver.bindAddress={POD_IP}"),
        *("--properties-file", f"{FOLDER}/spark.properties"),
        *("--class", PI, f"local://{jar}", "10"),
    ]
    written = properties(command)
    kept = {name: written.get(name) for name in request.conf}
    assert kept == {**request.conf, "spark.submit.deployMode": "client"}
    assert command.env["SPARK_LOCAL_IP"] == POD_IP
    assert command.env["SPARK_USER"] == request.env["SPARK_USER"]
    assert command.env["SPARK_HOME"] == HOME


@pytest.mark.parametrize("profile", ["strict", "compat"])
@pytest.mark.parametrize("path", EXECUTORS, ids=name)
def test_an_executors_pod_runs_the_backend_of_its_spark(path, profile):
    request = captured(path)
    env = request.env
    command = spark.compose(sealed_for(path, profile), request, AT_HOME)
    backend = main(command.argv)
    old = version(path).startswith("3.1")
    assert backend[0] == (
        "org.apache.spark.executor.CoarseGrainedExecutorBackend"
        if old
        else "org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend"
    )
    assert backend[1:] == [
        *("--driver-url", env["SPARK_DRIVER_URL"]),
        *("--executor-id", env["SPARK_EXECUTOR_ID"]),
        *("--cores", env["SPARK_EXECUTOR_CORES"]),
        *("--app-id", env["SPARK_APPLICATION_ID"]),
        *("--hostname", POD_IP),
        *("--resourceProfileId", "0"),
        *([] if old else ["--podName", "spark-pi-exec-1"]),
    ]
    given = {value for key, value in env.items() if key.startswith("SPARK_JAVA_OPT_")}
    assert {word for word in given if word.startswith("-Dspark.")} <= set(options(command.argv))
    assert command.env["SPARK_LOCAL_IP"] == POD_IP
    assert command.env.get("_SPARK_AUTH_SECRET") == env.get("_SPARK_AUTH_SECRET")
    assert not [key for key in command.env if key.startswith("SPARK_JAVA_OPT_")]


@pytest.mark.parametrize("path", [p for p in DRIVERS if "secure" in p.name], ids=name)
def test_security_that_the_image_does_not_seal_is_not_taken_from_the_host(path):
    spec = launch("strict", version(path), jars=[captured(path).args[-2].removeprefix("local://")])
    stop = refusal(spark.compose, spec, captured(path), AT_HOME)
    assert stop.code == REFUSED
    assert stop.line.startswith("spark.authenticate:")


@pytest.mark.parametrize("profile", ["strict", "compat"])
@pytest.mark.parametrize("path", [p for p in DRIVERS if "python" in p.name], ids=name)
def test_python_jobs_are_refused_with_what_to_do_instead(path, profile):
    stop = refusal(spark.compose, sealed_for(path, profile), captured(path), AT_HOME)
    assert stop.code == REFUSED
    assert "JVM job" in stop.line and "thrift" in stop.line


@pytest.mark.parametrize("profile", ["strict", "compat"])
@pytest.mark.parametrize(
    ("role", "args"),
    [
        ("driver-py", JOB),
        ("driver-r", JOB),
        ("driver", ("--class", PI, "local:///opt/job.py")),
        ("submit", ("--master", "local", "/opt/job.R", "1")),
        ("submit", ("--master", "local", "pyspark-shell")),
        ("submit", ("--class", "org.apache.spark.deploy.PythonRunner", f"local://{JAR}")),
        ("submit", ("--class", "org.apache.spark.deploy.RRunner", f"local://{JAR}")),
    ],
)
def test_other_languages_are_refused_in_every_role_and_profile(profile, role, args):
    stop = refusal(spark.compose, launch(profile), ask(role, *args), AT_HOME)
    assert "Python and R jobs do not run here" in stop.line


# --- options of spark-submit ------------------------------------------------------------------


def test_options_win_over_conf_and_conf_over_the_file_and_the_last_conf_over_the_first():
    args = (
        *("--conf", "spark.executor.memory=1g", "-c", "spark.executor.memory=2g"),
        *("--driver-memory=3g", "--conf", "spark.driver.memory=4g"),
        *LOCAL,
    )
    conf = {"spark.executor.memory": "5g", "spark.driver.memory": "6g", "spark.ui.port": "4041"}
    for profile in ("strict", "compat"):
        got = properties(spark.compose(launch(profile), ask("submit", *args, conf=conf), AT_HOME))
        assert got["spark.executor.memory"] == "2g"
        assert got["spark.driver.memory"] == "3g"
        assert got["spark.ui.port"] == "4041"


def test_all_options_become_properties_so_that_argv_stays_small():
    args = (
        *("--master", "spark://host:7077", "--name", "x y", "--deploy-mode", "client"),
        *("--jars", "/a.jar,/b.jar", "--files", "/f", "--num-executors", "3"),
        *("--total-executor-cores", "4", "--queue", "q", "--supervise", "-v"),
        *("--properties-file", "/x.conf", "--class", "A", "/job.jar", "--conf", "a=b"),
    )
    got = parse_submit(args)
    assert got.conf == {
        "spark.master": "spark://host:7077",
        "spark.app.name": "x y",
        "spark.submit.deployMode": "client",
        "spark.jars": "/a.jar,/b.jar",
        "spark.files": "/f",
        "spark.executor.instances": "3",
        "spark.cores.max": "4",
        "spark.yarn.queue": "q",
    }
    assert (got.main_class, got.resource, got.arguments) == ("A", "/job.jar", ("--conf", "a=b"))


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (("--jdbc-driver", "x"), "--jdbc-driver: spark-submit has no such option"),
        (("--sgx-log-level", "error"), "--sgx-log-level: spark-submit has no such option"),
        (("--h\u00fcnter2\n",), "an option: spark-submit has no such option"),
        (("--master",), "--master has no value: write --master VALUE"),
        (("--conf",), "--conf has no value: write --conf VALUE"),
        (("--conf", "hunter2"), "--conf is not followed by NAME=VALUE"),
        (("--conf", "=hunter2"), "--conf is not followed by NAME=VALUE"),
        (("-c=a=b",), "an option: spark-submit has no such option"),
        (("--class=",), "an option: spark-submit has no such option"),
        (("--help",), "--help starts no job here: name a class and a jar"),
        (("-h",), "--help starts no job here: name a class and a jar"),
        (("--version",), "--version starts no job here: name a class and a jar"),
        (("--kill", "x"), "--kill starts no job here: name a class and a jar"),
        (("--remote", "sc://x"), "--remote starts no job here: name a class and a jar"),
        (("--master", "local"), "no jar: name the job's jar after the options"),
    ],
)
def test_a_command_line_that_starts_no_job_is_refused(args, line):
    stop = refusal(spark.compose, launch("compat"), ask("submit", *args), AT_HOME)
    assert (stop.code, stop.line) == (REFUSED, line)


@given(st.lists(st.sampled_from(["--conf", "--class", "a=b", "-c", "-x", "--master=a", "x", "--"])))
def test_any_words_are_read_or_refused(words):
    try:
        got = parse_submit(words)
    except Stop as stop:
        assert stop.code == REFUSED
    else:
        assert got.resource is not None or not got.arguments


@pytest.mark.parametrize("role", ["submit", "thrift"])
@pytest.mark.parametrize("profile", ["strict", "compat"])
@pytest.mark.parametrize(
    "how", [("--deploy-mode", "cluster"), ("-c", "spark.submit.deployMode=cluster")]
)
def test_cluster_mode_is_refused_where_it_would_only_make_a_pod(home, role, profile, how):
    spec = launch(profile, home=home)
    words = () if role == "thrift" else JOB
    stop = refusal(spark.compose, spec, ask(role, *how, *words), AT_HOME)
    assert "deploy-mode cluster" in stop.line and "client" in stop.line


def test_local_mode_has_a_master_and_no_bind_address():
    command = spark.compose(launch(), ask("submit", *LOCAL, "7"), AT_HOME)
    assert main(command.argv) == [
        *(SUBMIT, "--deploy-mode", "client", "--properties-file", f"{FOLDER}/spark.properties"),
        *("--class", PI, f"local://{JAR}", "7"),
    ]
    assert properties(command)["spark.master"] == "local[2]"
    assert command.env["SPARK_LOCAL_IP"] == "127.0.0.1"


def test_a_proxy_user_is_passed_and_no_process_is_started_for_its_groups():
    env = {"SPARK_DRIVER_BIND_ADDRESS": POD_IP, "SPARK_USER": "joe"}
    request = ask("driver", "--proxy-user", "joe", "--class", PI, f"local://{JAR}", env=env)
    for profile in ("strict", "compat"):
        command = spark.compose(launch(profile), request, AT_HOME)
        assert main(command.argv)[7:9] == ["--proxy-user", "joe"]
        groups = "spark.hadoop.hadoop.security.group.mapping"
        assert properties(command)[groups].endswith(".NullGroupsMapping")
        assert f"-D{groups}={properties(command)[groups]}" in command.argv  # before Spark 3.3
        assert command.env["SPARK_USER"] == "joe"


def test_a_user_without_a_name_is_told_so(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000)
    stop = refusal(spark.compose, launch(), ask("submit", *LOCAL), AT_HOME)
    assert stop.code == UNUSABLE
    assert "user 4000000 has no line in /etc/passwd" in stop.line


# --- Java -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "works", "fails"),
    [
        ("3.1.3", (8, 11), (7, 17, 21)),
        ("3.2.4", (8, 11), (17,)),
        ("3.3.4", (8, 11, 17), (21,)),
        ("3.5.9", (8, 11, 17, 21), (7, 25)),
        ("4.0.1", (17, 21, 25), (8, 11)),
        ("4.3.0", (17, 21, 25), (8, 11)),
    ],
)
def test_the_wrong_java_is_refused_with_those_that_work(version, works, fails):
    for java in works:
        spark.compose(launch("strict", version, java), ask("submit", *LOCAL), AT_HOME)
    for java in fails:
        stop = refusal(
            spark.compose, launch("compat", version, java), ask("executor", env=EXECUTOR), AT_HOME
        )
        assert stop.code == UNUSABLE
        assert stop.line.startswith(f"Spark {version} does not work with Java {java}: take ")


def test_an_image_without_spark_or_java_or_with_an_old_spark_is_told_so():
    for missing in ("spark", "java"):
        stop = refusal(
            spark.compose, launch()._replace(**{missing: None}), ask("submit", *LOCAL), AT_HOME
        )
        assert (stop.code, f"no {missing.title()}" in stop.line) == (UNUSABLE, True)
    stop = refusal(spark.compose, launch(spark="2.4.8"), ask("submit", *LOCAL), AT_HOME)
    assert "too old" in stop.line


def test_modules_are_opened_for_the_javas_that_close_them():
    request = ask("submit", *LOCAL)
    old = options(spark.compose(launch(java=11), request, AT_HOME).argv)
    new = options(spark.compose(launch(java=17), request, AT_HOME).argv)
    opened = "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED"
    assert opened in new and opened not in old


def test_logging_is_configured_in_the_form_of_sparks_release():
    for version, option in (
        ("3.1.3", "-Dlog4j.configuration=file:/opt/imagekit/log/spark/log4j.properties"),
        ("3.3.0", "-Dlog4j2.configurationFile=file:/opt/imagekit/log/spark/log4j2.properties"),
    ):
        argv = spark.compose(launch(spark=version, java=11), ask("submit", *LOCAL), AT_HOME).argv
        assert option in argv


def test_the_file_system_without_processes_is_first_on_every_class_path():
    sealed = {"spark.driver.extraClassPath": "/x/*", "spark.executor.extraClassPath": "/y.jar"}
    for profile in ("strict", "compat"):
        for request, extra in (
            (ask("submit", *LOCAL), "/x/*"),
            (ask("executor", env={**EXECUTOR}), "/y.jar"),
        ):
            got = class_path(spark.compose(launch(profile, conf=sealed), request, AT_HOME).argv)
            assert got == [NO_FORK_JAR, extra, f"{HOME}/jars/*"]


def test_the_images_configuration_is_on_the_class_path_where_there_is_one(home):
    (home / "conf").mkdir()
    spec = launch(home=home)
    got = class_path(spark.compose(spec, ask("submit", *LOCAL), AT_HOME).argv)
    assert got == [NO_FORK_JAR, f"{home}/conf", f"{home}/jars/*"]
    given = ask("submit", *LOCAL, env={"SPARK_CONF_DIR": str(home)})
    assert class_path(spark.compose(spec, given, AT_HOME).argv) == got
    compat = launch("compat", home=home)
    assert str(home) in class_path(spark.compose(compat, given, AT_HOME).argv)


def test_flags_for_an_enclave_are_given_in_gramine_alone():
    request = ask("submit", *LOCAL)
    assert "-XX:-UsePerfData" not in spark.compose(launch(), request, AT_HOME).argv
    for place in (IN_DIRECT, IN_ENCLAVE):
        argv = spark.compose(launch(), request, place).argv
        assert {"-XX:-UsePerfData", "-XX:ActiveProcessorCount=2", "-Duser.home=/tmp"} <= {*argv}


@pytest.mark.parametrize(
    ("master", "conf", "count"),
    [
        ("local", {}, 2),
        ("local[6]", {}, 6),
        ("local[6,3]", {}, 6),
        ("local[999]", {}, 16),
        ("spark://h:1", {}, 2),
        ("spark://h:1", {"spark.driver.cores": "5"}, 5),
    ],
)
def test_a_driver_sees_as_many_processors_as_it_has_work_for(master, conf, count):
    request = ask("submit", "--master", master, *JOB, conf=conf)
    assert f"-XX:ActiveProcessorCount={count}" in spark.compose(launch(), request, IN_ENCLAVE).argv


def test_an_executor_sees_its_cores():
    env = {**EXECUTOR, "SPARK_EXECUTOR_CORES": "7", "NETTY_THREAD": "9"}
    argv = spark.compose(launch(), ask("executor", env=env), IN_ENCLAVE).argv
    assert {"-XX:ActiveProcessorCount=7", "-Dio.netty.availableProcessors=9"} <= {*argv}


def test_sealed_java_options_are_applied_as_sparks_scripts_do():
    conf = {
        "spark.driver.extraJavaOptions": "-Da='b c' -Xss2m",
        "spark.executor.extraJavaOptions": '-De="f g"',
        "spark.executor.defaultJavaOptions": "-Dd=1",
    }
    spec = launch(conf=conf)
    got = options(spark.compose(spec, ask("submit", *LOCAL), AT_HOME).argv)
    assert {"-Da=b c", "-Xss2m"} <= {*got}
    got = options(spark.compose(spec, ask("executor", env=EXECUTOR), AT_HOME).argv)
    assert {"-De=f g", "-Dd=1"} <= {*got}
    broken = launch(conf={"spark.driver.extraJavaOptions": "-Da='b"})
    stop = refusal(spark.compose, broken, ask("submit", *LOCAL), AT_HOME)
    assert stop.line.startswith("spark.driver.extraJavaOptions: a quote")


# --- heap -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "conf", "heap"),
    [
        ({}, {}, "-Xmx1024m"),
        ({"SPARK_DRIVER_MEMORY": "3g"}, {}, "-Xmx3072m"),
        ({"SPARK_DRIVER_MEMORY": "3g"}, {"spark.driver.memory": "2g"}, "-Xmx2048m"),
        ({}, {"spark.driver.memory": "900"}, "-Xmx900m"),
        ({}, {"spark.driver.memory": "900k"}, "-Xmx900k"),
        ({"SGX_DRIVER_JVM_MEM_SIZE": "6g"}, {"spark.driver.memory": "2g"}, "-Xmx6144m"),
        (
            {},
            {"spark.driver.memory": "2g", "spark.kubernetes.sgx.driver.jvm.mem": "4g"},
            "-Xmx4096m",
        ),
    ],
)
@pytest.mark.parametrize("place", [AT_HOME, IN_ENCLAVE], ids=["native", "enclave"])
def test_a_drivers_heap_is_the_enclaves_or_else_sparks(place, env, conf, heap):
    argv = spark.compose(launch(), ask("submit", *LOCAL, env=env, conf=conf), place).argv
    assert [word for word in argv if word.startswith("-Xm")] == [heap]


@pytest.mark.parametrize(
    ("env", "heap"),
    [({}, "-Xmx1024m"), ({"SGX_EXECUTOR_JVM_MEM_SIZE": "5g"}, "-Xmx5120m")],
)
def test_an_executors_heap_is_the_enclaves_or_else_sparks(env, heap):
    argv = spark.compose(launch(), ask("executor", env={**EXECUTOR, **env}), IN_ENCLAVE).argv
    assert [word for word in argv if word.startswith("-Xm")] == [heap]


def test_the_default_heap_is_said(capsys):
    spark.compose(launch(), ask("submit", *LOCAL), AT_HOME)
    said = capsys.readouterr().err
    assert said.startswith("imagekit: the heap is 1g, Spark's default") and said.count("\n") == 1
    spark.compose(launch(), ask("submit", "--driver-memory", "1g", *LOCAL), AT_HOME)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("role", ["submit", "executor"])
def test_a_heap_that_fills_half_of_the_enclave_is_refused(role):
    variable = f"SGX_{'DRIVER' if role == 'submit' else 'EXECUTOR'}_JVM_MEM_SIZE"
    for size, fits in (("8191m", True), ("8g", False), ("20g", False)):
        env = {**(EXECUTOR if role == "executor" else {}), variable: size}
        request = ask(role, *(LOCAL if role == "submit" else ()), env=env)
        if fits:
            spark.compose(launch(), request, IN_ENCLAVE)
            continue
        stop = refusal(spark.compose, launch(), request, IN_ENCLAVE)
        assert stop.code == REFUSED
        assert stop.line.startswith(f"{variable}: a heap of ")
        spark.compose(launch(), request, AT_HOME)


@pytest.mark.parametrize("text", ["0", "1x", "-1g", "1 g", "g", "1g -javaagent:x", "hunter2"])
def test_a_heap_that_is_no_size_is_refused_and_not_shown(text):
    for profile in ("strict", "compat"):
        env = {"SGX_DRIVER_JVM_MEM_SIZE": text}
        stop = refusal(spark.compose, launch(profile), ask("submit", *LOCAL, env=env), AT_HOME)
        assert stop.line.startswith("SGX_DRIVER_JVM_MEM_SIZE: ")
        assert "hunter2" not in stop.line


def test_no_option_of_the_host_wins_over_the_heap_that_was_checked():
    env = {**EXECUTOR, "SPARK_JAVA_OPT_0": "-Xmx15g"}
    got = options(spark.compose(launch("compat"), ask("executor", env=env), IN_ENCLAVE).argv)
    assert got.index("-Xmx15g") < got.index("-Xmx1024m")


# --- executors --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "missing",
    [
        "SPARK_DRIVER_URL",
        "SPARK_EXECUTOR_ID",
        "SPARK_EXECUTOR_CORES",
        "SPARK_APPLICATION_ID",
        "SPARK_EXECUTOR_POD_IP",
        "SPARK_EXECUTOR_POD_NAME",
    ],
)
@pytest.mark.parametrize("profile", ["strict", "compat"])
def test_a_variable_that_an_executor_needs_is_named(profile, missing):
    env = {name: value for name, value in EXECUTOR.items() if name != missing}
    stop = refusal(spark.compose, launch(profile), ask("executor", env=env), AT_HOME)
    assert stop.line == f"{missing} is not set: Spark's driver sets it for executors"


def test_an_executor_takes_no_arguments():
    stop = refusal(spark.compose, launch(), ask("executor", "-cp", "/x", env=EXECUTOR), AT_HOME)
    assert "takes no arguments" in stop.line


def test_java_options_are_sorted_by_number_not_by_text():
    env = {f"SPARK_JAVA_OPT_{number}": f"-Dspark.ui.port={number}" for number in range(12)}
    for profile in ("strict", "compat"):
        assert java_options(launch(profile), env) == [f"-Dspark.ui.port={n}" for n in range(12)]


@pytest.mark.parametrize(
    "names",
    [
        ("1",),
        ("0", "2"),
        ("0", "00"),
        ("0", "+1"),
        ("0", "1", "01"),
        ("0", " 1"),
        ("0", ""),
        ("\u0660",),
    ],
)
def test_a_gap_or_a_number_written_twice_is_refused(names):
    env = {f"SPARK_JAVA_OPT_{name}": "-Dspark.ui.port=1" for name in names}
    stop = refusal(spark.compose, launch(), ask("executor", env={**EXECUTOR, **env}), AT_HOME)
    assert stop.line.startswith("SPARK_JAVA_OPT_…: refused")


@pytest.mark.parametrize(
    "option",
    [
        "-javaagent:/tmp/x.jar",
        "-agentlib:jdwp=transport=dt_socket",
        "-agentpath:/tmp/x.so",
        "-XX:OnError=/tmp/x",
        "-XX:OnOutOfMemoryError=/tmp/x",
        "-XX:Flags=/tmp/x",
        "-XX:VMOptionsFile=/tmp/x",
        "-XX:+DisableAttachMechanism",
        "-Xbootclasspath/a:/tmp/x.jar",
        "-cp",
        "/tmp/x.jar",
        "--class-path=/tmp",
        "--module-path=/tmp",
        "--patch-module=java.base=/tmp",
        "--add-opens=java.base/java.lang=evil",
        "@/tmp/options",
        "-Djava.security.policy=/tmp/x",
        "-Dlog4j2.configurationFile=http://evil/x",
        "-Djava.library.path=/tmp",
        "-Dcom.sun.management.jmxremote.port=1",
        "-Xmx100g",
        "org.example.Evil",
        "",
        "-Dspark.ui.port",
    ],
)
def test_java_options_of_the_host_work_under_compat_and_are_refused_under_strict(option):
    request = ask("executor", env={**EXECUTOR, "SPARK_JAVA_OPT_0": option})
    assert option in spark.compose(launch("compat"), request, AT_HOME).argv
    stop = refusal(spark.compose, launch(), request, AT_HOME)
    assert stop.code == REFUSED
    assert stop.line == "SPARK_JAVA_OPT_0: this Java option may not be set from outside"


@pytest.mark.parametrize(
    "option",
    [
        "-Dspark.authenticate=false",
        "-Dspark.network.crypto.enabled=false",
        "-Dspark.io.encryption.enabled=false",
        "-Dspark.hadoop.fs.file.impl=org.example.Evil",
        "-Dspark.executor.plugins=org.example.Evil",
        "-Dspark.plugins=org.example.Evil",
        "-Dspark.ui.port=1 -javaagent:x",
        "-Dspark.driver.port=99999999999999999",
    ],
)
def test_properties_of_an_executor_are_checked_as_any_others(option):
    env = {**EXECUTOR, "SPARK_JAVA_OPT_0": "-Dspark.rpc.askTimeout=9s", "SPARK_JAVA_OPT_1": option}
    spark.compose(launch("compat"), ask("executor", env=env), AT_HOME)
    stop = refusal(spark.compose, launch(), ask("executor", env=env), AT_HOME)
    property_name = option[2:].partition("=")[0]
    assert stop.line.startswith(f"SPARK_JAVA_OPT_1 ({property_name}): ")


def test_what_is_sealed_reaches_an_executor_before_it_talks_to_its_driver():
    spec = launch(conf=SECURED)
    got = options(spark.compose(spec, ask("executor", env=EXECUTOR), AT_HOME).argv)
    assert {f"-D{name}={value}" for name, value in SECURED.items()} <= {*got}
    env = {**EXECUTOR, "SPARK_JAVA_OPT_0": "-Dspark.authenticate=false"}
    stop = refusal(spark.compose, spec, ask("executor", env=env), AT_HOME)
    assert "launch.conf seals another value" in stop.line
    compat = launch("compat", conf=SECURED)
    got = options(spark.compose(compat, ask("executor", env=env), AT_HOME).argv)
    assert got.index("-Dspark.authenticate=false") < got.index("-Dspark.authenticate=true")


def test_an_executor_that_would_believe_anybody_is_warned_of(capsys):
    spark.compose(launch(), ask("executor", env=EXECUTOR), AT_HOME)
    assert "spark.authenticate is not sealed" in capsys.readouterr().err
    spark.compose(launch(conf=SECURED), ask("executor", env=EXECUTOR), AT_HOME)
    assert "spark.authenticate" not in capsys.readouterr().err


def test_variables_that_are_sealed_for_executors_are_set_and_may_come_back_from_the_driver():
    spec = launch(conf={"spark.executorEnv.TZ": "UTC", "spark.kubernetes.driverEnv.TZ": "CET"})
    for env in (EXECUTOR, {**EXECUTOR, "TZ": "UTC"}):
        assert spark.compose(spec, ask("executor", env=env), AT_HOME).env["TZ"] == "UTC"
    assert spark.compose(spec, ask("driver", *LOCAL), AT_HOME).env["TZ"] == "CET"
    stop = refusal(spark.compose, spec, ask("executor", env={**EXECUTOR, "TZ": "CET"}), AT_HOME)
    assert stop.line.startswith("TZ: sealed in this image with another value")


def test_the_class_path_of_executors_is_the_sealed_one():
    env = {**EXECUTOR, "SPARK_CLASSPATH": "/tmp/evil/*"}
    compat = spark.compose(launch("compat"), ask("executor", env=env), AT_HOME)
    assert "/tmp/evil/*" in class_path(compat.argv)
    for spec in (launch(), launch(conf={"spark.executor.extraClassPath": "/opt/x/*"})):
        stop = refusal(spark.compose, spec, ask("executor", env=env), AT_HOME)
        assert stop.line.startswith("SPARK_CLASSPATH: ")
    same = launch(conf={"spark.executor.extraClassPath": "/tmp/evil/*"})
    got = class_path(spark.compose(same, ask("executor", env=env), AT_HOME).argv)
    assert got.count("/tmp/evil/*") == 1


# --- driver and submit under strict -----------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (("--class", "org.example.Evil", f"local://{JAR}"), "--class: this class is none"),
        (("--class", f"{PI}$", f"local://{JAR}"), "--class: this class is none"),
        ((f"local://{JAR}",), "--class is missing"),
        (("--class", PI, "local:///tmp/evil.jar"), "the job's jar: this jar is none"),
        (("--class", PI, "https://evil/x.jar"), "the job's jar: this jar is none"),
        (("--class", PI, f"hdfs://{JAR}"), "the job's jar: this jar is none"),
        (("--class", PI, f"local://host{JAR}"), "the job's jar: this jar is none"),
        (("--class", PI, f"local://{HOME}/examples/../{JAR}"), "the job's jar: this jar is none"),
        (("--class", PI, "spark-internal"), "the job's jar: this jar is none"),
        (("--class", PI, "spark-shell"), "the job's jar: this jar is none"),
        ((*JOB, "10", "x"), "argument 2 of the job: refused"),
        ((*JOB, "10\n"), "argument 1 of the job: refused"),
        ((*JOB, "1" * 9000), "argument 1 of the job: refused"),
        (("--packages", "g:a:1", *JOB), "spark.jars.packages: refused, the host may not"),
        (("--jars", "/tmp/x.jar", *JOB), "spark.jars: this jar is none"),
        (("--files", "/data/secret", *JOB), "spark.files: refused, the host may not"),
        (
            ("--driver-java-options", "-javaagent:x", *JOB),
            "spark.driver.extraJavaOptions: refused, the host may not",
        ),
        (
            ("--driver-class-path", "/tmp/x", *JOB),
            "spark.driver.extraClassPath: refused, the host may not",
        ),
        (
            ("--driver-library-path", "/tmp", *JOB),
            "spark.driver.extraLibraryPath: refused, the host may not",
        ),
        (("--master", "local-cluster[1,2,512]", *JOB), "spark.master: refused"),
        (("--master", "yarn", *JOB), "spark.master: refused"),
        (("--proxy-user", "a b", *JOB), "--proxy-user: refused"),
    ],
)
@pytest.mark.parametrize("role", ["driver", "submit"])
def test_what_is_not_sealed_is_refused_under_strict_and_works_under_compat(role, args, line):
    stop = refusal(spark.compose, launch(), ask(role, *args), AT_HOME)
    assert stop.code == REFUSED
    assert stop.line.startswith(line)
    argv = spark.compose(launch("compat"), ask(role, *args), AT_HOME).argv
    assert argv[0] == "/opt/java/bin/java" and SUBMIT in argv


@pytest.mark.parametrize("scheme", ["", "local://", "file://", "file:", "local:"])
def test_a_sealed_jar_may_be_named_in_every_way_that_spark_has_for_it(scheme):
    request = ask("driver", "--class", PI, f"{scheme}{JAR}")
    assert main(spark.compose(launch(), request, AT_HOME).argv)[-1] == f"{scheme}{JAR}"


def test_spark_internal_runs_where_it_is_sealed():
    spec = launch(jars=["spark-internal"])
    request = ask("submit", "--class", PI, "spark-internal")
    assert main(spark.compose(spec, request, AT_HOME).argv)[-1] == "spark-internal"


def test_a_job_that_takes_no_arguments_gets_none():
    spec = launch(arguments=None)
    spark.compose(spec, ask("submit", *LOCAL), AT_HOME)
    stop = refusal(spark.compose, spec, ask("submit", *LOCAL, "1"), AT_HOME)
    assert stop.line.startswith("the job takes no arguments")


def test_compat_applies_what_sparks_scripts_apply():
    conf = {
        "spark.driver.extraJavaOptions": "-javaagent:/x.jar",
        "spark.driver.extraClassPath": "/x/*",
        "spark.driver.extraLibraryPath": "/lib",
    }
    env = {"SPARK_EXTRA_CLASSPATH": "/y/*", "LD_PRELOAD": "/x.so", "JAVA_TOOL_OPTIONS": "-Da=b"}
    command = spark.compose(launch("compat"), ask("driver", *JOB, env=env, conf=conf), AT_HOME)
    assert {"-javaagent:/x.jar", "-Djava.library.path=/lib"} <= {*options(command.argv)}
    assert class_path(command.argv) == [NO_FORK_JAR, "/x/*", f"{HOME}/jars/*", "/y/*"]
    assert command.env["LD_PRELOAD"] == "/x.so"
    assert command.env["JAVA_TOOL_OPTIONS"] == "-Da=b"


@pytest.mark.parametrize(
    "name",
    [
        "LD_PRELOAD",
        "JAVA_TOOL_OPTIONS",
        "sgx_command",
        "SPARK_SUBMIT_OPTS",
        "SPARK_DAEMON_JAVA_OPTS",
        "SPARK_JAVA_OPT_0",
        "SPARK_EXTRA_CLASSPATH",
        "SPARK_DIST_CLASSPATH",
        "HADOOP_CONF_DIR",
        "_SPARK_LAUNCHER_PORT",
        "SPARK_PREPEND_CLASSES",
        "SPARK_TESTING",
        "MASTER",
    ],
)
@pytest.mark.parametrize("role", ["driver", "submit"])
def test_variables_that_are_not_known_are_refused_by_name(role, name):
    stop = refusal(spark.compose, launch(), ask(role, *LOCAL, env={name: "hunter2"}), AT_HOME)
    assert stop.line == f"{name}: this variable may not be set from outside"


def test_a_variable_whose_name_cannot_be_printed_is_refused_without_it():
    env = {"A\nimagekit: all is well": "x"}
    stop = refusal(spark.compose, launch(), ask("submit", *LOCAL, env=env), AT_HOME)
    assert stop.line == (
        "a variable whose name cannot be printed: this variable may not be set from outside"
    )


@pytest.mark.parametrize(
    ("role", "name", "value"),
    [
        ("driver", "SPARK_DRIVER_BIND_ADDRESS", "10.0.0.1 --conf x=y"),
        ("driver", "SPARK_USER", "root;evil=wheel"),
        ("driver", "SPARK_APPLICATION_ID", "a b"),
        ("executor", "SPARK_DRIVER_URL", "http://evil"),
        ("executor", "SPARK_DRIVER_URL", "spark://a@h:1\n"),
        ("executor", "SPARK_EXECUTOR_ID", "1 --cores 99"),
        ("executor", "SPARK_EXECUTOR_CORES", "0"),
        ("executor", "SPARK_EXECUTOR_CORES", "٣"),
        ("executor", "SPARK_EXECUTOR_POD_NAME", "@/tmp/x"),
        ("executor", "SPARK_EXECUTOR_ATTRIBUTE_X", "a\x1b[2J"),
        ("executor", "SPARK_USER", "x" * 70_000),
    ],
)
def test_variables_have_their_form(role, name, value):
    base = EXECUTOR if role == "executor" else {}
    request = ask(role, *(JOB if role == "driver" else ()), env={**base, name: value})
    stop = refusal(spark.compose, launch(), request, AT_HOME)
    assert stop.line == f"{name}: refused, its value does not have the form that is allowed"


def test_only_what_spark_reads_and_what_chooses_nothing_gets_into_the_environment():
    env = {
        **EXECUTOR,
        "SPARK_LOCAL_DIRS": "/var/data/x",
        "SPARK_CONF_DIR": "/opt/spark/conf",
        "SPARK_EXECUTOR_DIRS": "/host",
        "SPARK_VERSION": "3.5.9",
        "SPARK_EXECUTOR_ATTRIBUTE_NODE": "n1",
        "SPARK_LOG_URL_STDOUT": "http://logs/1",
        "SGX_EXECUTOR_MEM_SIZE": "16g",
        "_SPARK_AUTH_SECRET": "s",
    }
    command = spark.compose(launch(), ask("executor", env=env), AT_HOME)
    assert command.env == {
        "JAVA_HOME": "/opt/java",
        "SPARK_APPLICATION_ID": EXECUTOR["SPARK_APPLICATION_ID"],
        "SPARK_EXECUTOR_ATTRIBUTE_NODE": "n1",
        "SPARK_EXECUTOR_POD_IP": POD_IP,
        "SPARK_EXECUTOR_POD_NAME": "spark-pi-exec-1",
        "SPARK_HOME": HOME,
        "SPARK_LOCAL_DIRS": "/tmp",
        "SPARK_LOCAL_IP": POD_IP,
        "SPARK_LOG_URL_STDOUT": "http://logs/1",
        "SPARK_USER": "root",
        "_SPARK_AUTH_SECRET": "s",
    }


def test_roles_that_the_image_does_not_have_are_refused():
    stop = refusal(spark.compose, launch(roles=["executor"]), ask("submit", *LOCAL), AT_HOME)
    assert "not part of this image" in stop.line
    assert refusal(spark.compose, launch(), ask("taskmanager"), AT_HOME).code == REFUSED
    spark.compose(launch("compat", roles=[]), ask("submit", *LOCAL), AT_HOME)


# --- Thrift -----------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["strict", "compat"])
@pytest.mark.parametrize(
    "words", [(), ("--class", THRIFT), ("spark-internal",), ("--class", THRIFT, "JAR")]
)
def test_thrift_is_its_class_its_jar_and_its_name(home, profile, words):
    jar = f"local://{home}/jars/{THRIFT_JAR}"
    words = [jar if word == "JAR" else word for word in words]
    spec = launch(profile, home=home, classes=[], jars=[])
    command = spark.compose(spec, ask("thrift", "--master", "local[2]", *words), AT_HOME)
    assert main(command.argv) == [
        *(SUBMIT, "--deploy-mode", "client", "--properties-file", f"{FOLDER}/spark.properties"),
        *("--class", THRIFT, jar),
    ]
    assert properties(command)["spark.app.name"] == "Thrift JDBC/ODBC Server"


@pytest.mark.parametrize(
    "words",
    [("--class", PI), (f"local://{JAR}",), ("spark-internal", "x"), ("/x.jar",), ("--class", "")],
)
@pytest.mark.parametrize("profile", ["strict", "compat"])
def test_thrift_runs_nothing_else(home, profile, words):
    stop = refusal(spark.compose, launch(profile, home=home), ask("thrift", *words), AT_HOME)
    assert stop.line.startswith("thrift ")


@pytest.mark.parametrize(
    ("names", "line"),
    [
        ((), "no spark-hive-thriftserver_*.jar"),
        (("spark-hive-thriftserver_2.12-3.5.9.jar.bak",), "no spark-hive-thriftserver_*.jar"),
        ((THRIFT_JAR, THRIFT_JAR.replace("2.12", "2.13")), "several spark-hive-thriftserver_*.jar"),
        (None, "No such file or directory"),
    ],
)
def test_an_image_without_one_thrift_jar_is_told_so(tmp_path, names, line):
    if names is not None:
        (tmp_path / "jars").mkdir()
    for file in names or ():
        (tmp_path / "jars" / file).touch()
    stop = refusal(spark.compose, launch(home=tmp_path), ask("thrift"), AT_HOME)
    assert stop.code == UNUSABLE
    assert line in stop.line


@pytest.mark.parametrize(
    ("args", "env", "port", "host"),
    [
        ((), {}, None, "0.0.0.0"),
        ((), {"SPARK_LOCAL_IP": POD_IP}, None, POD_IP),
        (("--hiveconf", "hive.server2.thrift.port=10001"), {}, "10001", "0.0.0.0"),
        (("--hiveconf", "hive.server2.thrift.bind.host=h"), {}, None, "h"),
        (
            ("-c", "spark.hadoop.hive.server2.thrift.port=10001"),
            {"HIVE_SERVER2_THRIFT_PORT": "10002", "HIVE_SERVER2_THRIFT_BIND_HOST": "i"},
            "10002",
            "i",
        ),
    ],
)
@pytest.mark.parametrize("profile", ["strict", "compat"])
def test_where_thrift_listens_can_be_said(home, profile, args, env, port, host):
    spec = launch(profile, home=home)
    got = properties(spark.compose(spec, ask("thrift", *args, env=env), AT_HOME))
    assert got.get("spark.hadoop.hive.server2.thrift.port") == port
    assert got["spark.hadoop.hive.server2.thrift.bind.host"] == host


@pytest.mark.parametrize("value", ["1 0", "x", "", "-1"])
def test_a_port_is_a_number(home, value):
    args = ("--hiveconf", f"hive.server2.thrift.port={value}")
    stop = refusal(spark.compose, launch(home=home), ask("thrift", *args), AT_HOME)
    assert stop.line.startswith("spark.hadoop.hive.server2.thrift.port: refused")


def test_other_settings_of_hive_are_refused_under_strict(home):
    args = ("--hiveconf", "hive.exec.pre.hooks=org.example.Evil")
    stop = refusal(spark.compose, launch(home=home), ask("thrift", *args), AT_HOME)
    assert stop.line.startswith("spark.hadoop.hive.exec.pre.hooks: refused, the host may not")
    spark.compose(launch("compat", home=home), ask("thrift", *args), AT_HOME)


# --- Kubernetes -------------------------------------------------------------------------------

ACCOUNT = {
    "KUBERNETES_TOKEN": "hunter2.token",
    "KUBERNETES_CA": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
    "KUBERNETES_NAMESPACE": "default",
    "KUBERNETES_SERVICE_HOST": "10.96.0.1",
    "KUBERNETES_SERVICE_PORT": "443",
}
CLUSTER = {"spark.master": "k8s://https://10.96.0.1:443"}


@pytest.mark.parametrize("profile", ["strict", "compat"])
@pytest.mark.parametrize(
    ("role", "prefix"),
    [
        ("driver", "spark.kubernetes.authenticate.driver.mounted"),
        ("submit", "spark.kubernetes.authenticate"),
    ],
)
def test_a_driver_uses_the_account_that_came_with_the_request(profile, role, prefix):
    own = "/var/run/secrets/kubernetes.io/serviceaccount/token"
    conf = {**CLUSTER, f"{prefix}.oauthTokenFile": own}
    request = ask(role, *JOB, env=ACCOUNT, conf=conf)
    command = spark.compose(launch(profile), request, IN_ENCLAVE)
    got = properties(command)
    assert command.files[got[f"{prefix}.oauthTokenFile"]] == b"hunter2.token"
    assert command.files[got[f"{prefix}.caCertFile"]].startswith(b"-----BEGIN")
    assert "hunter2" not in " ".join(command.argv)
    local = spark.compose(launch(profile), ask(role, *LOCAL, env=ACCOUNT), IN_ENCLAVE)
    assert len(local.files) == 1


def test_a_sealed_account_is_not_replaced():
    name = "spark.kubernetes.authenticate.driver.mounted.caCertFile"
    spec = launch(conf={name: "/opt/ca.crt"})
    command = spark.compose(spec, ask("driver", *JOB, env=ACCOUNT, conf=CLUSTER), IN_ENCLAVE)
    assert properties(command)[name] == "/opt/ca.crt"


def test_the_pod_template_for_executors_comes_with_the_request():
    name = "spark.kubernetes.executor.podTemplateFile"
    conf = {**CLUSTER, name: "/opt/spark/pod-template/pod-spec-template.yml"}
    env = {"SPARK_POD_TEMPLATE_DATA": base64.b64encode(b"kind: Pod").decode()}
    command = spark.compose(launch(), ask("driver", *JOB, env=env, conf=conf), IN_ENCLAVE)
    assert command.files[properties(command)[name]] == b"kind: Pod"
    bad = ask("driver", *JOB, env={"SPARK_POD_TEMPLATE_DATA": "a"}, conf=conf)
    assert "not base64" in refusal(spark.compose, launch(), bad, IN_ENCLAVE).line


@pytest.mark.parametrize(
    ("place", "env", "conf", "expected"),
    [
        (AT_HOME, {}, {}, {}),
        (IN_ENCLAVE, {}, {}, {"SGX_ENABLED": "true"}),
        (IN_DIRECT, {}, {}, {"SGX_ENABLED": "true", "SGX_MODE": "direct"}),
        (IN_ENCLAVE, {}, {"sgx.enabled": "false"}, {"SGX_ENABLED": "false"}),
        (
            AT_HOME,
            {"SGX_EXECUTOR_MEM_SIZE": "8g"},
            {"sgx.enabled": "true", "sgx.executor.jvm.mem": "3g", "sgx.log.level": "error"},
            {
                "SGX_ENABLED": "true",
                "SGX_EXECUTOR_JVM_MEM_SIZE": "3g",
                "SGX_EXECUTOR_MEM_SIZE": "8g",
                "SGX_LOG_LEVEL": "error",
            },
        ),
    ],
)
def test_stock_spark_honours_the_seeds_properties_by_the_variables_of_pods(
    place, env, conf, expected
):
    conf = {f"spark.kubernetes.{name}": value for name, value in conf.items()}
    for profile in ("strict", "compat"):
        request = ask("driver", *JOB, env=env, conf={**CLUSTER, **conf})
        got = properties(spark.compose(launch(profile), request, place))
        prefix = "spark.executorEnv."
        assert expected == {
            name[len(prefix) :]: value for name, value in got.items() if name.startswith(prefix)
        }


def test_a_variable_for_executors_that_the_submitter_sets_is_kept():
    conf = {**CLUSTER, "spark.executorEnv.SGX_EXECUTOR_JVM_MEM_SIZE": "2g"}
    conf["spark.kubernetes.sgx.executor.jvm.mem"] = "3g"
    got = properties(spark.compose(launch(), ask("driver", *JOB, conf=conf), IN_ENCLAVE))
    assert got["spark.executorEnv.SGX_EXECUTOR_JVM_MEM_SIZE"] == "2g"


def test_executors_learn_the_drivers_address_where_sparks_entry_point_says_it():
    env = {"SPARK_DRIVER_BIND_ADDRESS": POD_IP}
    name = "spark.executorEnv.SPARK_DRIVER_POD_IP"
    for version, expected in (("3.3.0", None), ("3.5.9", POD_IP)):
        spec = launch(spark=version)
        got = properties(spark.compose(spec, ask("driver", *JOB, env=env, conf=CLUSTER), AT_HOME))
        assert got.get(name) == expected


def test_the_seeds_variable_for_the_address_of_a_client_is_honoured():
    command = spark.compose(launch(), ask("submit", *JOB, env={"LOCAL_IP": "10.0.0.9"}), AT_HOME)
    assert properties(command)["spark.driver.host"] == "10.0.0.9"
    assert command.env["SPARK_LOCAL_IP"] == "10.0.0.9"
