"""Properties of Spark's jobs: the host's, the sealed, the added; and where secrets go."""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spark_requests import (
    AT_HOME,
    EXECUTOR,
    IN_ENCLAVE,
    JAR,
    JOB,
    LOCAL,
    POD_IP,
    ask,
    launch,
    options,
    properties,
    refusal,
)

from imagekit.runtime import spark, spark_table
from imagekit.runtime.spark_conf import check_property, local_path, storage
from imagekit.runtime.stop import REFUSED, Stop

MOUNTS = [
    {"path": "/data/", "host": "/h", "key_name": "warehouse"},
    {"path": "/more", "host": "/i", "key_name": "other"},
]
URL = "spark.hadoop.javax.jdo.option.ConnectionURL"
EVIL = "org.example.Evil"


def composed(profile="strict", role="submit", args=LOCAL, env=None, conf=None, sealed=(), **more):
    spec = launch(profile, conf=dict(sealed), **more)
    return spark.compose(spec, ask(role, *args, env=env, conf=conf), AT_HOME)


# --- what the host may set --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("spark.authenticate", "false"),
        ("spark.authenticate", "true"),
        ("spark.authenticate.secret", "x"),
        ("spark.authenticate.secret.file", "/x"),
        ("spark.network.crypto.enabled", "false"),
        ("spark.network.crypto.saslFallback", "true"),
        ("spark.io.encryption.enabled", "false"),
        ("spark.ssl.enabled", "false"),
        ("spark.ssl.keyStore", "/tmp/x"),
        ("spark.ssl.port", "1"),
        ("spark.acls.enable", "false"),
        ("spark.ui.filters", EVIL),
        ("spark.hadoop.fs.file.impl", EVIL),
        ("spark.hadoop.fs.defaultFS", "hdfs://evil"),
        ("spark.hadoop.hadoop.security.group.mapping", EVIL),
        ("spark.driver.extraJavaOptions", "-javaagent:/x"),
        ("spark.driver.defaultJavaOptions", "-javaagent:/x"),
        ("spark.executor.extraJavaOptions", "-javaagent:/x"),
        ("spark.driver.extraClassPath", "/x"),
        ("spark.executor.extraClassPath", "/x"),
        ("spark.driver.extraLibraryPath", "/x"),
        ("spark.driver.userClassPathFirst", "true"),
        ("spark.plugins", EVIL),
        ("spark.extraListeners", EVIL),
        ("spark.sql.extensions", EVIL),
        ("spark.sql.queryExecutionListeners", EVIL),
        ("spark.sql.streaming.checkpointFileManagerClass", EVIL),
        ("spark.sql.warehouse.dir", "/host"),
        ("spark.sql.catalog.x", EVIL),
        ("spark.sql.hive.metastore.jars", "/x"),
        ("spark.serializer", EVIL),
        ("spark.closure.serializer", EVIL),
        ("spark.shuffle.manager", EVIL),
        ("spark.io.compression.codec", EVIL),
        ("spark.io.crypto.cipher.classes", EVIL),
        ("spark.local.dir", "/host"),
        ("spark.eventLog.dir", "file:///host"),
        ("spark.eventLog.enabled", "true"),
        ("spark.jars", f"local://{JAR},https://evil/x.jar"),
        ("spark.jars.packages", "g:a:1"),
        ("spark.jars.ivySettings", "/x"),
        ("spark.files", "/data/secret"),
        ("spark.archives", "/data/secret"),
        ("spark.submit.pyFiles", "/x.py"),
        ("spark.pyspark.python", "/x"),
        ("spark.r.command", "/x"),
        ("spark.redaction.regex", "nothing"),
        ("spark.metrics.conf", "/x"),
        ("spark.metrics.conf.*.sink.x.class", EVIL),
        ("spark.executor.resource.gpu.discoveryScript", "/x"),
        ("spark.driver.resource.gpu.discoveryScript", "/x"),
        ("spark.kubernetes.driver.pod.featureSteps", EVIL),
        ("spark.kubernetes.executor.pod.featureSteps", EVIL),
        ("spark.kubernetes.allocation.pods.allocator", EVIL),
        ("spark.kubernetes.executor.podTemplateFile", "/data/secret"),
        ("spark.kubernetes.authenticate.driver.mounted.oauthTokenFile", "/data/secret"),
        ("spark.kubernetes.authenticate.oauthToken", "x"),
        ("spark.kubernetes.authenticate.caCertFile", "/tmp/evil.crt"),
        ("spark.kubernetes.authenticate.clientKeyFile", "/data/secret"),
        ("spark.master", "local-cluster[1,1,512]"),
        ("spark.master", "org.example://x"),
        ("spark.driver.host", "a b"),
        ("spark.app.name", "x\nimagekit: all is well"),
        ("java.library.path", "/tmp"),
        ("", ""),
        ("spark.x" * 2000, ""),
    ],
)
def test_what_could_do_harm_is_refused_by_name_under_strict_and_works_under_compat(name, value):
    stop = refusal(spark.compose, launch(), ask("driver", *JOB, conf={name: value}), AT_HOME)
    assert stop.code == REFUSED
    shown = name if 0 < len(name) < 100 else "a property whose name cannot be printed"
    assert stop.line.startswith(f"{shown}: ")
    assert not value.strip() or len(value) < 6 or value not in stop.line
    if name:
        assert properties(composed("compat", "driver", JOB, conf={name: value}))[name] == value


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("spark.executor.instances", "2", "two"),
        ("spark.executor.memory", "1500m", "1g -x"),
        ("spark.network.timeout", "10000000", "1 s"),
        ("spark.kubernetes.container.image", "r.example:5000/a/b@sha256:ab", "a b"),
        ("spark.kubernetes.container.image.pullPolicy", "Always", "Sometimes"),
        ("spark.kubernetes.node.selector.label", "dev", "a b"),
        ("spark.kubernetes.driver.label.team/a", "x y", "x\ny"),
        ("spark.kubernetes.executor.secretKeyRef.S", "a:b", "a"),
        ("spark.kubernetes.executor.secrets.a", "/mnt/a", "mnt"),
        ("spark.kubernetes.executor.volumes.hostPath.a.mount.path", "/a", "a b"),
        ("spark.executorEnv.TZ", "UTC", "a\nb"),
        ("spark.master", "k8s://https://10.0.0.1:6443", "k8s://file:///x"),
        ("spark.master", "k8s://https://[fe80::1]:6443/a", "k8s://https://a b"),
        ("spark.master", "spark://a:7077,b:7077", "spark://a"),
        ("spark.master", "local[*]", "local[*]x"),
        ("spark.jars", f"local://{JAR},{JAR}", "local:///x.jar"),
        ("spark.io.compression.codec", "zstd", "zstd2"),
        ("spark.sql.autoBroadcastJoinThreshold", "-1", "-2"),
        ("spark.submit.pyFiles", "", "x"),
    ],
)
def test_what_spark_on_kubernetes_sends_has_its_form(name, good, bad):
    spec = launch()
    assert check_property(spec, name, good)
    for value in (bad, good + "\n", good + "\x00", good + "\u2028", "x" * 10_000):
        with pytest.raises(Stop) as caught:
            check_property(spec, name, value)
        assert caught.value.line.startswith(f"{name}: ")


@given(st.text(string.printable), st.text(string.printable))
def test_a_name_that_is_in_no_table_is_refused_whatever_it_is(name, value):
    known = name in spark_table.PROPERTIES or name in spark_table.JARS
    known = known or any(re.fullmatch(form, name) for form in spark_table.FAMILIES)
    if not known:
        with pytest.raises(Stop):
            check_property(launch(), name, value)


def test_no_table_lets_the_host_choose_protection_code_or_files():
    security = (
        *("authenticate.secret", "authenticate.enable", "network.crypto", "io.encryption"),
        *("ssl", "hadoop.fs", "plugins", "Listeners", "JavaOptions", "ClassPath", "LibraryPath"),
        *(
            "acls",
            "redaction",
            "serializer",
            "extensions",
            "eventLog",
            "spark.local.dir",
            "warehouse",
        ),
    )
    for name in spark_table.PROPERTIES:
        assert not any(f".{part}" in f".{name}" or name.endswith(part) for part in security), name
        assert name.startswith("spark.") and name != "spark.authenticate"


def test_every_form_of_the_tables_is_an_expression_that_refuses_line_breaks():
    forms = {*spark_table.PROPERTIES.values(), *spark_table.FAMILIES.values()}
    for form in forms:
        for text in ("\n", "a\n", "1\n", "/a\n", "\x00"):
            assert re.fullmatch(form, text, re.ASCII) is None, form


# --- what is sealed ---------------------------------------------------------------------------


def test_a_sealed_property_wins_and_a_host_that_sets_it_differently_is_refused():
    sealed = {"spark.ui.port": "4044"}
    assert properties(composed(conf={"spark.ui.port": "4044"}, sealed=sealed))
    spec = launch(conf=sealed)
    assert (
        properties(spark.compose(spec, ask("submit", *LOCAL), AT_HOME))["spark.ui.port"] == "4044"
    )
    stop = refusal(spark.compose, spec, ask("submit", *LOCAL, conf={"spark.ui.port": "1"}), AT_HOME)
    assert stop.line == ("spark.ui.port: refused, launch.conf seals another value: leave it out")
    compat = launch("compat", conf=sealed)
    got = spark.compose(compat, ask("submit", *LOCAL, conf={"spark.ui.port": "1"}), AT_HOME)
    assert properties(got)["spark.ui.port"] == "4044"


def test_what_spark_always_sends_is_replaced_by_the_sealed_without_a_word():
    spec = launch(conf={"spark.app.name": "mine", "spark.master": "local[3]"})
    got = properties(spark.compose(spec, ask("submit", *LOCAL), AT_HOME))
    assert (got["spark.app.name"], got["spark.master"]) == ("mine", "local[3]")


def test_what_the_image_allows_has_the_form_that_it_says():
    spec = launch(conf_allowed={"spark.sql.warehouse.dir": "/data/[a-z]+", "spark.x": ".*"})
    request = ask("submit", *LOCAL, conf={"spark.sql.warehouse.dir": "/data/a", "spark.x": "y"})
    got = properties(spark.compose(spec, request, AT_HOME))
    assert (got["spark.sql.warehouse.dir"], got["spark.x"]) == ("/data/a", "y")
    request = ask("submit", *LOCAL, conf={"spark.sql.warehouse.dir": "/host/a"})
    stop = refusal(spark.compose, spec, request, AT_HOME)
    assert stop.line.startswith("spark.sql.warehouse.dir: refused")
    long = ask("submit", *LOCAL, conf={"spark.x": "y" * 10_000})
    assert refusal(spark.compose, spec, long, AT_HOME).line.startswith("spark.x: refused")


# --- what is added ----------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["submit", "executor"])
@pytest.mark.parametrize("profile", ["strict", "compat"])
def test_hadoop_gets_what_starts_no_process(profile, role):
    if role == "submit":
        got = properties(composed(profile, env={"SPARK_USER": "joe"}))
    else:
        argv = composed(profile, role, (), env={**EXECUTOR, "SPARK_USER": "joe"}).argv
        got = dict(word[2:].split("=", 1) for word in options(argv) if word.startswith("-Dspark."))
    assert got["spark.hadoop.fs.file.impl"] == "io.imagekit.hadoop.NoForkFileSystem"
    assert got["spark.hadoop.fs.AbstractFileSystem.file.impl"] == "io.imagekit.hadoop.NoForkLocalFs"
    groups = "spark.hadoop.hadoop.security.group.mapping"
    assert got[groups] == "org.apache.hadoop.security.NullGroupsMapping"
    assert got["spark.sql.streaming.checkpointFileManagerClass"] == (
        "org.apache.spark.sql.execution.streaming.FileSystemBasedCheckpointFileManager"
    )


@pytest.mark.parametrize(
    ("version", "moved"), [("3.1.3", False), ("4.0.1", False), ("4.1.1", True)]
)
def test_the_checkpoint_class_has_the_name_of_its_release(version, moved):
    got = properties(composed(spark=version))["spark.sql.streaming.checkpointFileManagerClass"]
    assert got.endswith(".FileSystemBasedCheckpointFileManager")
    assert (".checkpointing." in got) is moved


@pytest.mark.parametrize(
    ("profile", "mounts", "local", "base"),
    [
        ("strict", [], "/tmp", "/tmp"),
        ("strict", MOUNTS, "/data/spark-local", "/data"),
        ("compat", [], "/var/data/x,/var/data/y", "/tmp"),
        ("compat", MOUNTS, "/var/data/x,/var/data/y", "/tmp"),
    ],
)
def test_data_goes_to_the_enclaves_memory_or_an_encrypted_mount(profile, mounts, local, base):
    env = {"SPARK_LOCAL_DIRS": "/var/data/x,/var/data/y"}
    command = composed(profile, env=env, encrypted=mounts)
    got = properties(command)
    assert command.env["SPARK_LOCAL_DIRS"] == got["spark.local.dir"] == local
    assert got["spark.sql.warehouse.dir"] == f"{base}/warehouse"
    assert got[URL] == f"jdbc:derby:;databaseName={base}/metastore_db;create=true"
    dirs = local.split(",")
    assert command.storage == {
        "spark.local.dir": dirs[0],
        **({"spark.local.dir (2)": dirs[1]} if dirs[1:] else {}),
        "spark.sql.warehouse.dir": f"{base}/warehouse",
        "metastore": f"{base}/metastore_db",
    }
    executor = composed(profile, "executor", (), env={**EXECUTOR, **env}, encrypted=mounts)
    assert executor.env["SPARK_LOCAL_DIRS"] == local
    assert [*executor.storage.values()] == dirs


def test_sealed_places_win_and_are_looked_at():
    conf = {
        "spark.local.dir": "/more/a",
        "spark.sql.warehouse.dir": "file:///more/../host/w",
        URL: "jdbc:derby:/more/db;create=true",
        "spark.eventLog.enabled": "true",
        "spark.eventLog.dir": "/more/events",
        "spark.checkpoint.dir": "local:/more/c",
        "spark.sql.streaming.checkpointLocation": "hdfs://nn/x",
    }
    command = composed(conf={}, encrypted=MOUNTS, sealed=conf)
    assert command.env["SPARK_LOCAL_DIRS"] == "/more/a"
    assert command.storage == {
        "spark.local.dir": "/more/a",
        "spark.sql.warehouse.dir": "/host/w",
        "metastore": "/more/db",
        "spark.eventLog.dir": "/more/events",
        "spark.checkpoint.dir": "/more/c",
    }
    executor = composed(role="executor", args=(), env=EXECUTOR, sealed=conf)
    assert executor.storage == {"SPARK_LOCAL_DIRS": "/more/a"}


@pytest.mark.parametrize(
    ("url", "folder"),
    [
        ("jdbc:derby:;databaseName=/a/b;create=true", "/a/b"),
        ("jdbc:derby:/a/b;create=true", "/a/b"),
        ("jdbc:derby:directory:/a/b", "/a/b"),
        ("jdbc:derby:;databaseName=b", "b"),
        ("jdbc:derby:memory:a;create=true", None),
        ("jdbc:derby://host:1527/a", None),
        ("jdbc:mysql://host/a", None),
        ("", None),
    ],
)
def test_the_folder_of_a_metastore_is_known(url, folder):
    assert storage({URL: url}).get("metastore") == folder


def test_a_default_folder_for_events_is_looked_at_where_events_are_written():
    assert storage({"spark.eventLog.enabled": "true"}) == {
        "spark.eventLog.dir": "/tmp/spark-events"
    }
    assert storage({"spark.eventLog.enabled": "false", "spark.eventLog.dir": "/x"}) == {}


def test_a_metastore_elsewhere_gets_no_database_here():
    conf = {"spark.hadoop.hive.metastore.uris": "thrift://m:9083"}
    assert URL not in properties(composed("compat", conf=conf))


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("/a", "/a"),
        ("a", "a"),
        ("file:/a", "/a"),
        ("file:///a", "/a"),
        ("local:///a", "/a"),
        ("hdfs://nn/a", None),
        ("s3a://b/a", None),
        ("https://h/a", None),
    ],
)
def test_local_locations_are_known(location, path):
    assert local_path(location) == path


# --- secrets ----------------------------------------------------------------------------------

SECRET = "spark.authenticate.secret"
AUTH = {"spark.authenticate": "true"}
SECRETS = st.text(string.ascii_letters + string.digits + "+/=_-", min_size=12).map("Q7z{}".format)


@pytest.mark.parametrize("variable", ["SPARK_AUTHENTICATE_SECRET", "_SPARK_AUTH_SECRET"])
def test_a_drivers_secret_may_come_from_a_kubernetes_secret(variable):
    env = {variable: "s3cret", "SPARK_DRIVER_BIND_ADDRESS": POD_IP}
    got = composed(role="driver", args=JOB, env=env, sealed=AUTH)
    assert properties(got)[SECRET] == "s3cret"
    assert SECRET not in properties(composed(role="driver", args=JOB, env=env))
    own = {**AUTH, f"{SECRET}.file": "/data/secret"}
    assert SECRET not in properties(composed(role="driver", args=JOB, env=env, sealed=own))


def test_an_executors_secret_may_come_from_a_kubernetes_secret():
    env = {**EXECUTOR, "SPARK_AUTHENTICATE_SECRET": "s3cret"}
    got = composed(role="executor", args=(), env=env)
    assert got.env["_SPARK_AUTH_SECRET"] == "s3cret"
    assert "SPARK_AUTHENTICATE_SECRET" not in got.env
    env["_SPARK_AUTH_SECRET"] = "driver's"
    assert composed(role="executor", args=(), env=env).env["_SPARK_AUTH_SECRET"] == "driver's"


@pytest.mark.parametrize("kind", [".file", ".executor.file"])
def test_a_secret_of_the_host_does_not_replace_the_sealed_one(kind):
    spec = launch(conf={**AUTH, f"{SECRET}{kind}": "/data/secret"})
    spark.compose(spec, ask("executor", env=EXECUTOR), AT_HOME)
    request = ask("executor", env={**EXECUTOR, "_SPARK_AUTH_SECRET": "evil"})
    stop = refusal(spark.compose, spec, request, AT_HOME)
    assert stop.line == "_SPARK_AUTH_SECRET: where the secret comes from is sealed"


def test_secrets_among_java_options_go_into_a_file_that_java_reads():
    words = '-Djavax.net.ssl.trustStorePassword="p\\\\ q\\"r" -Dplain=1'
    command = composed(sealed={"spark.driver.extraJavaOptions": words})
    (path,) = [word[1:] for word in command.argv if word.startswith("@")]
    assert command.files[path] == b'"-Djavax.net.ssl.trustStorePassword=p\\\\ q\\"r"\n'
    assert "-Dplain=1" in command.argv
    assert command.argv.index(f"@{path}") < command.argv.index("-cp")
    conf = {"spark.driver.extraJavaOptions": words}
    stop = refusal(spark.compose, launch(java=8, conf=conf), ask("submit", *LOCAL), AT_HOME)
    assert stop.line.startswith("javax.net.ssl.trustStorePassword: a secret among the options")


SLOTS = {
    "conf option": lambda s: (LOCAL, {}, {}, ("--conf", f"spark.ssl.keyStorePassword={s}")),
    "conf=option": lambda s: (LOCAL, {}, {}, (f"--conf=spark.ssl.keyPassword={s}",)),
    "file": lambda s: (LOCAL, {}, {"spark.authenticate.secret": s}, ()),
    "any property": lambda s: (LOCAL, {}, {"spark.harmless": s}, ()),
    "java options": lambda s: (
        LOCAL,
        {},
        {"spark.driver.extraJavaOptions": f"-Da.password={s}"},
        (),
    ),
    "variable": lambda s: (LOCAL, {"SPARK_AUTHENTICATE_SECRET": s}, {}, ()),
    "driver": lambda s: (LOCAL, {"_SPARK_AUTH_SECRET": s}, {}, ()),
    "token": lambda s: (("--master", "k8s://https://h", *JOB), {"KUBERNETES_TOKEN": s}, {}, ()),
    "executors": lambda s: (LOCAL, {}, {"spark.executorEnv.X": s}, ()),
    "keytab": lambda s: (LOCAL, {}, {}, ("--principal", s, "--keytab", s)),
}


@pytest.mark.parametrize("slot", SLOTS)
@pytest.mark.parametrize("role", ["driver", "submit"])
@given(secret=SECRETS)
def test_no_secret_of_a_driver_gets_into_argv_or_any_text(slot, role, secret):
    args, env, conf, more = SLOTS[slot](secret)
    request = ask(role, *more, *args, env=env, conf={**AUTH, **conf})
    command = spark.compose(launch("compat"), request, IN_ENCLAVE)
    assert secret not in " ".join(command.argv)
    assert secret not in repr(command) + repr(request)
    written = b"".join(command.files.values()) + "".join(command.env.values()).encode()
    assert secret.replace("=", "\\=").encode() in written or secret.encode() in written
    assert_strict_tells_nothing(request, secret)


EXECUTORS_SLOTS = {
    "variable": lambda s: {"SPARK_AUTHENTICATE_SECRET": s},
    "drivers": lambda s: {"_SPARK_AUTH_SECRET": s},
    "rpc": lambda s: {"_SPARK_SSL_RPC_KEY_STORE_PASSWORD": s},
    "java option": lambda s: {"SPARK_JAVA_OPT_0": f"-Dspark.x.password={s}"},
    "other option": lambda s: {"SPARK_JAVA_OPT_0": f"-Djavax.net.ssl.keyStorePassword={s}"},
}


@pytest.mark.parametrize("slot", EXECUTORS_SLOTS)
@given(secret=SECRETS)
def test_no_secret_of_an_executor_gets_into_argv_or_any_text(slot, secret):
    request = ask("executor", env={**EXECUTOR, **EXECUTORS_SLOTS[slot](secret)})
    command = spark.compose(launch("compat"), request, IN_ENCLAVE)
    assert secret not in " ".join(command.argv)
    assert secret not in repr(command) + repr(request)
    written = b"".join(command.files.values()) + "".join(command.env.values()).encode()
    assert secret.encode() in written
    assert_strict_tells_nothing(request, secret)


def assert_strict_tells_nothing(request, secret):
    try:
        command = spark.compose(launch(conf=AUTH), request, IN_ENCLAVE)
    except Stop as stop:
        assert secret not in stop.line
    else:
        assert secret not in " ".join(command.argv)


@given(
    st.dictionaries(st.text(max_size=20), st.text(max_size=20), max_size=3),
    st.dictionaries(st.text(max_size=20), st.text(max_size=20), max_size=3),
    st.lists(st.text(max_size=20), max_size=4),
    st.sampled_from(["driver", "submit", "executor"]),
    st.sampled_from(["strict", "compat"]),
)
def test_any_request_is_composed_or_refused_in_one_line(env, conf, args, role, profile):
    request = ask(role, *args, env={**EXECUTOR, **env}, conf=conf)
    try:
        spark.compose(launch(profile), request, AT_HOME)
    except Stop as stop:
        assert stop.line.isprintable()
