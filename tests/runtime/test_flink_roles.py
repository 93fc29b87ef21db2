"""Flink's roles: what each becomes, and what cannot be."""

import re
import shutil
from contextlib import suppress

import pytest
from flink_starts import *  # noqa: F403 - fixtures too

from imagekit.runtime import flink
from imagekit.runtime.flink_conf import FILE_KEY, items_of
from imagekit.runtime.request import Request
from imagekit.runtime.stop import Stop

MAIN = {
    "application": "org.apache.flink.kubernetes.entrypoint.KubernetesApplicationClusterEntrypoint",
    "session": "org.apache.flink.kubernetes.entrypoint.KubernetesSessionClusterEntrypoint",
    "taskmanager": "org.apache.flink.kubernetes.taskmanager.KubernetesTaskExecutorRunner",
}


@pytest.mark.parametrize("place", [HERE, IN_8G], ids=["native", "enclave"])
@pytest.mark.parametrize("start", STARTS, ids=IDS)
def test_a_real_start_is_composed_under_strict(start, place, spec, home):
    request = request_of(start)
    sealed = sealing(request)
    command = flink.compose(spec(version=start["flink"], conf=sealed), request, place)
    argv = list(command.argv)
    assert argv[0] == "/jdk/bin/java"
    main = argv.index(MAIN[start["kind"]])
    taskmanager = start["kind"] == "taskmanager"
    assert argv[main + 1 :] == (["--configDir", CONF_FOLDER] if taskmanager else [])
    jars = ("flink-csv.jar", "flink-zzz.jar", "log4j-core.jar", "flink-dist-1.jar")
    assert argv[main - 2 : main] == ["-classpath", ":".join(f"{home}/lib/{jar}" for jar in jars)]
    assert [word for word in argv if re.match(r"-D(?!log|jdk\.|io\.netty|java\.)", word)] == []
    assert list(command.files) == [f"{CONF_FOLDER}/{start['file']}"]
    conf = written(command)
    assert sealed.items() <= conf.items()
    assert conf["taskmanager.network.netty.transport"] == "nio"
    assert "env.java.opts.all" not in conf
    assert command.storage["io.tmp.dirs"] == request.conf.get("io.tmp.dirs", "/tmp")
    assert command.env["FLINK_CONF_DIR"] == CONF_FOLDER
    assert command.env["_POD_IP_ADDRESS"] == "10.1.2.3"
    if start["kind"] != "session":
        arguments = items_of(conf, "$internal.application.program-args")
        assert arguments in (["--input", "a b", "--x", "it's"], ["--rounds", "3"], [])
        (jar,) = items_of(conf, "pipeline.jars")
        assert re.fullmatch("file:/[^/].*" if taskmanager else "local:///.*", jar)


@pytest.mark.parametrize("start", STARTS, ids=IDS)
def test_a_real_start_with_other_keys_than_the_sealed_ones_is_refused(start, spec):
    request = request_of(start)
    sealed = {**INTERNAL_TLS, **REST_TLS}
    if not any("keystore" in name for name in request.conf):
        request = request._replace(conf={**request.conf, "security.ssl.internal.keystore": "/x"})
    line = refused(spec(version=start["flink"], conf=sealed), request)
    assert line.startswith("security.ssl.internal.")


@pytest.mark.parametrize("start", [s for s in STARTS if s["kind"] == "taskmanager"])
def test_a_taskmanager_of_kubernetes_has_the_memory_that_the_jobmanager_computed(start, spec):
    request = request_of(start)
    image = spec(version=start["flink"], conf=sealing(request))
    command = flink.compose(image, request, HERE)
    assert command.argv[1:5] == tuple(start["env"]["FLINK_TM_JVM_MEM_OPTS"].split())
    given_ = dict(re.findall(r"-D (\S+)=(\S+)", start["args"][2]))
    assert len(given_) == 13
    assert given_.items() <= written(command).items()
    lying = request._replace(env={**request.env, "FLINK_TM_JVM_MEM_OPTS": "-Xmx99g"})
    assert "FLINK_TM_JVM_MEM_OPTS" in refused(image, lying)
    compat = flink.compose(spec("compat", version=start["flink"]), lying, HERE)
    assert compat.argv[1] == "-Xmx99g"


def test_the_jvm_of_a_jobmanager_java_17(spec):
    command = flink.compose(spec(), ask("standalone-job", "-j", "org.example.WordCount"), IN_8G)
    argv = command.argv[: command.argv.index("-classpath")]
    assert argv[:4] == (
        "/jdk/bin/java", "-Xmx1073741824", "-Xms1073741824", "-XX:MaxMetaspaceSize=268435456"
    )  # fmt: skip
    rest = list(argv[4:])
    assert rest[:3] == [
        "-XX:-UsePerfData", "-XX:ActiveProcessorCount=2", "-XX:CompressedClassSpaceSize=64m"
    ]  # fmt: skip
    assert "--add-opens=java.base/java.util.concurrent.locks=ALL-UNNAMED" in rest
    assert rest[-3:] == [
        "-Dlog.file=/tmp/imagekit/flink.log",
        "-Dlog4j.configuration=file:/opt/imagekit/log/flink/log4j-console.properties",
        "-Dlog4j.configurationFile=file:/opt/imagekit/log/flink/log4j-console.properties",
    ]
    assert command.argv[command.argv.index("-classpath") + 2 :] == (
        "org.apache.flink.container.entrypoint.StandaloneApplicationClusterEntryPoint",
        "--configDir", CONF_FOLDER, "--job-classname=org.example.WordCount", "--",
    )  # fmt: skip


def test_the_jvm_of_a_taskmanager_java_11(spec):
    request = ask("taskmanager", conf={"taskmanager.numberOfTaskSlots": "4"}, LOCAL_IP="10.0.0.9")
    command = flink.compose(spec(version="1.16.3"), request, IN_8G)
    argv = command.argv
    assert argv[5:8] == ("-XX:+UseG1GC", "-XX:-UsePerfData", "-XX:ActiveProcessorCount=4")
    assert not [word for word in argv if word.startswith("--add")]
    assert argv[-3:] == (
        "org.apache.flink.runtime.taskexecutor.TaskManagerRunner", "--configDir", CONF_FOLDER
    )  # fmt: skip
    conf = written(command)
    assert (conf["taskmanager.host"], conf["taskmanager.bind-host"]) == ("10.0.0.9", "0.0.0.0")


def test_a_session_cluster_of_the_stock_image(spec):
    request = ask("jobmanager", "jm-1", "8082", "-Drest.port=1", "-D", "parallelism.default=3")
    command = flink.compose(spec(conf={**INTERNAL_TLS, **REST_TLS}), request, HERE)
    assert command.argv[-5:] == (
        "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint",
        "--configDir", CONF_FOLDER, "--executionMode", "cluster",
    )  # fmt: skip
    conf = written(command)
    assert conf["jobmanager.rpc.address"] == "jm-1"
    assert conf["rest.port"] == "8082"
    assert conf["parallelism.default"] == "3"
    assert conf["web.submit.enable"] == "false"


def test_all_options_of_a_job_of_the_stock_image(spec):
    args = (
        *("--job-classname", "org.example.WordCount", "-jid", "0" * 32, "-n", "--host=jm"),
        *(
            "-s",
            "/data/sp",
            "--jars",
            "local:///opt/job/job.jar",
            "-Drest.port=8082",
            "--in",
            "-Da=b",
        ),
    )
    strict = spec(conf_allowed={"execution.savepoint.path": "/data/.*"})
    command = flink.compose(strict, ask("standalone-job", *args), HERE)
    assert command.argv[command.argv.index("--configDir") + 2 :] == (
        "--job-classname=org.example.WordCount", f"--job-id={'0' * 32}", "--fromSavepoint=/data/sp",
        "--jars=local:///opt/job/job.jar", "--allowNonRestoredState", "--", "--in", "-Da=b",
    )  # fmt: skip
    assert written(command)["rest.port"] == "8082"
    assert "a" not in written(command)


def test_an_abbreviated_option_is_the_jobs_argument(spec):
    """Flink takes ``--job-clas`` for ``--job-classname``: after ``--`` it cannot."""
    request = ask("standalone-job", "--job-clas", "Evil")
    command = flink.compose(spec(arguments="[A-Za-z-]+"), request, HERE)
    assert command.argv[-4:] == (CONF_FOLDER, "--", "--job-clas", "Evil")


def test_each_layer_of_properties_wins_over_the_one_before(spec):
    conf = {
        "jobmanager.rpc.address": "localhost",
        "rest.bind-address": "localhost",
        "blob.server.port": "1",
    }
    compat = spec("compat")

    def address(*args, **env):
        command = flink.compose(compat, ask("jobmanager", *args, conf=conf, **env), HERE)
        return written(command)["jobmanager.rpc.address"]

    properties = "jobmanager.rpc.address: properties"
    stock = {"JOB_MANAGER_RPC_ADDRESS": "variable"}
    assert address() == "localhost"
    assert address(**stock) == "variable"
    assert address(**stock, FLINK_PROPERTIES=properties) == "properties"
    assert address("-Djobmanager.rpc.address=option", **stock) == "option"
    assert address("host", "-Djobmanager.rpc.address=option", **stock) == "host"
    sealed = spec(conf={**INTERNAL_TLS, **REST_TLS, "jobmanager.rpc.address": "sealed"})
    command = flink.compose(sealed, ask("jobmanager", conf=conf, **stock), HERE)
    assert written(command)["jobmanager.rpc.address"] == "sealed"


def test_the_stock_images_variables_do_what_its_entry_point_does(spec):
    conf = dict.fromkeys(
        ("jobmanager.bind-host", "taskmanager.bind-host", "taskmanager.host"), "localhost"
    )
    request = ask(
        "taskmanager",
        conf=conf,
        JOB_MANAGER_RPC_ADDRESS="jm",
        LOCAL_IP="10.0.0.2",
        TASK_MANAGER_NUMBER_OF_TASK_SLOTS="3",
    )
    found = written(flink.compose(spec(), request, HERE))
    assert found["taskmanager.host"] == "10.0.0.2"
    assert found["taskmanager.bind-host"] == "0.0.0.0"
    assert found["blob.server.port"] == "6124"
    assert found["taskmanager.numberOfTaskSlots"] == "3"
    kept = written(flink.compose(spec(), ask("taskmanager", conf=conf), HERE))
    assert kept["taskmanager.host"] == kept["taskmanager.bind-host"] == "localhost"


def test_the_file_has_the_name_that_it_came_with(spec):
    """Flink 1.20 gives its TaskManagers' pods a file of the name that it has itself."""
    for version, name, expected in (
        ("1.20.5", None, "config.yaml"), ("1.20.5", "flink-conf.yaml", "flink-conf.yaml"),
        ("1.20.5", "config.yaml", "config.yaml"), ("1.16.3", "config.yaml", "flink-conf.yaml"),
        ("1.16.3", None, "flink-conf.yaml"),
    ):  # fmt: skip
        conf = {FILE_KEY: name} if name else {}
        compat = spec("compat", version=version)
        command = flink.compose(compat, ask("jobmanager", conf=conf), HERE)
        assert list(command.files) == [f"{CONF_FOLDER}/{expected}"]
        assert FILE_KEY.encode() not in b"".join(command.files.values())


def test_a_pods_account_goes_into_files_and_variables(spec):
    start = next(s for s in STARTS if s["flink"] == "1.20.5" and s["kind"] == "application")
    request = request_of(start)
    token = "eyJhbGciOi.J9-_x"
    env = {**request.env, "KUBERNETES_TOKEN": token, "KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    command = flink.compose(spec(), request._replace(env=env), HERE)
    assert command.files["/tmp/imagekit/kubernetes/token"] == token.encode()
    assert command.env["KUBERNETES_MASTER"] == "https://10.0.0.1:443"
    assert token not in repr(command) + " ".join(command.argv)


def test_every_folder_that_flink_writes_to_has_to_be_encrypted(spec):
    conf = {
        "io.tmp.dirs": "/a,/b:/c", "process.working-dir": "/d", "blob.storage.directory": "/e",
        "state.checkpoints.dir": "file:///f", "state.savepoints.dir": "s3://bucket/x",
        "execution.checkpointing.dir": "/g", "high-availability.storageDir": "file:/h",
    }  # fmt: skip
    command = flink.compose(spec("compat"), ask("jobmanager", conf=conf), HERE)
    assert command.storage == {
        "io.tmp.dirs (1)": "/a", "io.tmp.dirs (2)": "/b", "io.tmp.dirs (3)": "/c",
        "process.working-dir": "/d", "blob.storage.directory": "/e", "state.checkpoints.dir": "/f",
        "execution.checkpointing.dir": "/g", "high-availability.storageDir": "/h",
    }  # fmt: skip


def test_without_a_word_temporary_files_are_in_the_enclaves_memory(spec):
    command = flink.compose(spec("compat"), ask("jobmanager"), HERE)
    assert command.storage == {"io.tmp.dirs": "/tmp"}
    assert written(command)["io.tmp.dirs"] == "/tmp"


def test_memory_has_to_fit_into_the_enclave(spec):
    conf = {"taskmanager.memory.process.size": "9g", "taskmanager.memory.managed.fraction": "0.7"}
    line = refused(spec(), ask("taskmanager", conf=conf, LOCAL_IP="::1"), IN_8G)
    assert "a process of 9216 MiB does not fit" in line
    conf = {"taskmanager.memory.process.size": "7500m", "taskmanager.memory.managed.size": "64m"}
    line = refused(spec(), ask("taskmanager", conf=conf, LOCAL_IP="::1"), IN_8G)
    assert "heap" in line
    assert "less than half" in line
    flink.compose(spec(), ask("taskmanager", conf=conf, LOCAL_IP="::1"), HERE)
    line = refused(
        spec("compat"), ask("jobmanager", conf={"jobmanager.memory.process.size": "6g"}), IN_8G
    )
    assert line.startswith("jobmanager.memory.process.size: a heap")
    slots = {"taskmanager.numberOfTaskSlots": "x"}
    assert "numberOfTaskSlots" in refused(spec("compat"), ask("taskmanager", conf=slots))
    flink.compose(spec("compat"), ask("jobmanager", conf=slots), HERE)
    inconsistent = ask("jobmanager", conf={"jobmanager.memory.process.size": "300m"})
    assert "raise jobmanager.memory.process.size" in refused(spec("compat"), inconsistent)


@pytest.mark.parametrize(
    ("version", "java", "works"),
    [
        ("1.15.4", 8, True), ("1.16.3", 11, True), ("1.16.3", 17, False), ("1.18.1", 17, True),
        ("1.20.5", 21, True), ("1.20.5", 25, False), ("1.14.6", 11, False),
    ],
)  # fmt: skip
def test_a_java_that_this_flink_does_not_work_with_is_refused(version, java, works, spec):
    compat = spec("compat", version=version, java=java)
    if works:
        argv = flink.compose(compat, ask("jobmanager"), HERE).argv
        assert ("-Djava.security.manager=allow" in argv) == (java > 17)
    else:
        line = refused(compat, ask("jobmanager"), code=3)
        assert "take" in line


@pytest.mark.parametrize("missing", ["flink", "java"])
def test_an_image_without_flink_or_java_says_so(missing, spec):
    image = spec("compat")._replace(**{missing: None})
    assert f"this image has no {missing.capitalize()}" in refused(image, ask("jobmanager"), code=3)


def test_flinks_own_jar_has_to_be_there_once(spec, home, tmp_path):
    shutil.copytree(home, tmp_path / "f")
    image = spec("compat")
    image = image._replace(flink=image.flink._replace(home=str(tmp_path / "f")))
    (tmp_path / "f" / "lib" / "flink-dist_2.12-1.jar").touch()
    assert "more than once" in refused(image, ask("jobmanager"), code=3)
    (tmp_path / "f" / "lib" / "flink-dist_2.12-1.jar").unlink()
    (tmp_path / "f" / "lib" / "flink-dist-1.jar").unlink()
    assert "is missing" in refused(image, ask("jobmanager"), code=3)


def test_the_images_own_hadoop_comes_after_flink(spec, home):
    image = spec("compat", env={"HADOOP_CLASSPATH": "/hadoop/*", "HADOOP_CONF_DIR": "/etc/hadoop"})
    argv = flink.compose(image, ask("jobmanager"), HERE).argv
    path = argv[argv.index("-classpath") + 1]
    assert path.endswith(f":{home}/lib/flink-dist-1.jar:/hadoop/*:/etc/hadoop")


@pytest.mark.parametrize(
    ("role", "args"),
    [
        ("jobmanager", ("a", "1", "b")),
        ("jobmanager", ("--job-classname", "x")),
        ("jobmanager", ("-D",)),
        ("jobmanager", ("-D=x",)),
        ("jobmanager", ("--host",)),
        ("jobmanager", ("a", "port")),
        ("jobmanager", ("--webui-port", "x")),
        ("jobmanager", ("--",)),
        ("jobmanager", ("kubernetes-jobmanager.sh",)),
        ("jobmanager", ("kubernetes-jobmanager.sh", "x")),
        ("jobmanager", ("kubernetes-jobmanager.sh", "kubernetes-session", "x")),
        ("jobmanager", ("kubernetes-jobmanager.sh", "kubernetes-session", "--host", "x")),
        ("taskmanager", ("x",)),
        ("taskmanager", ("--host", "x")),
        ("taskmanager", ("-n",)),
        ("taskmanager", ("kubernetes-taskmanager.sh", "x")),
        ("standalone-job", ("-jid", "x")),
        ("standalone-job", ("-j",)),
    ],
)
def test_arguments_that_a_role_does_not_have_are_refused_by_both_profiles(role, args, spec):
    for profile in ("strict", "compat"):
        refused(spec(profile), ask(role, *args, LOCAL_IP="::1"))


def test_one_roles_script_does_not_start_another_role(spec):
    sealed = {**INTERNAL_TLS, **REST_TLS}
    for role, script in (
        ("jobmanager", "kubernetes-taskmanager.sh"),
        ("taskmanager", "kubernetes-jobmanager.sh"),
    ):
        with suppress(Stop):
            command = flink.compose(spec(conf=sealed), ask(role, script, LOCAL_IP="::1"), HERE)
            assert not set(MAIN.values()) & set(command.argv)


def test_another_configuration_folder_than_the_one_that_was_read_is_refused(spec):
    args = ("--configDir", "/other")
    request = ask("taskmanager", *args, FLINK_CONF_DIR="/flink/conf", LOCAL_IP="::1")
    assert "--configDir is refused" in refused(spec("compat"), request)
    same = request._replace(env={**request.env, "FLINK_CONF_DIR": "/other"})
    assert "/other" not in flink.compose(spec("compat"), same, HERE).argv


def test_what_cannot_be_looked_up_inside_has_to_be_said(spec):
    assert "taskmanager.host is not set" in refused(spec(), ask("taskmanager"), IN_8G)
    flink.compose(spec(), ask("taskmanager"), HERE)  # natively Flink looks it up
    nowhere = Request(
        "taskmanager", (), {"LOCAL_IP": "::1"}, {"taskmanager.memory.process.size": "2g"}
    )
    assert "jobmanager.rpc.address is not set" in refused(spec(), nowhere)
    own = Request("jobmanager", (), {"LOCAL_IP": "::1"}, {"jobmanager.memory.process.size": "2g"})
    assert written(flink.compose(spec("compat"), own, HERE))["jobmanager.rpc.address"] == "::1"


@pytest.mark.parametrize("properties", ["a", "a:b", "a.b: c\nd"])
def test_variables_with_properties_have_to_be_properties(properties, spec):
    assert "FLINK_PROPERTIES: refused: line" in refused(
        spec("compat"), ask("jobmanager", FLINK_PROPERTIES=properties)
    )


def test_a_value_that_the_old_file_cannot_hold_is_refused_by_name(spec):
    conf = {"s3.secret-key": "a#b"}
    line = refused(spec("compat", version="1.16.3"), ask("jobmanager", conf=conf))
    assert line.startswith("s3.secret-key: flink-conf.yaml cannot hold its value")
    flink.compose(spec("compat"), ask("jobmanager", conf=conf), HERE)


def test_a_list_that_is_none_is_refused(spec):
    request = ask("jobmanager", conf={"pipeline.jars": "[a"})
    assert "pipeline.jars" in refused(spec("compat"), request)
