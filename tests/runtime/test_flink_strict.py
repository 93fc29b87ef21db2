"""What a host may not have of Flink under strict, and has under compat; and no secret is shown."""

import re

import pytest
from flink_starts import *  # noqa: F403 - fixtures too
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagekit.runtime import flink, flink_host
from imagekit.runtime.flink_args import parse_args
from imagekit.runtime.flink_conf import LISTS, items_of
from imagekit.runtime.flink_rules import TABLE
from imagekit.runtime.place import DIRECT, Place
from imagekit.runtime.stop import Stop

REFUSED_PROPERTIES = [
    ("env.java.opts.all", "-javaagent:/x.jar"),
    ("env.java.opts", "-Da=b"),
    ("env.java.opts.all", "--add-opens=java.base/java.lang=ALL-UNNAMED -Da=b"),
    ("env.java.opts.taskmanager", "-Xbootclasspath/a:/x"),
    ("env.java.home", "/x"),
    ("env.java.default-opts.all", "-XX:OnError=id"),
    ("security.ssl.internal.enabled", "false"),
    ("security.ssl.rest.enabled", "false"),
    ("security.ssl.internal.keystore", "/host/keystore"),
    ("security.ssl.internal.truststore", "/host/truststore"),
    ("security.ssl.verify-hostname", "false"),
    ("security.ssl.enabled", "false"),
    ("blob.service.ssl.enabled", "false"),
    ("taskmanager.data.ssl.enabled", "false"),
    ("web.submit.enable", "true"),
    ("jobmanager.web.submit.enable", "true"),
    ("pipeline.jars", "local:///host/evil.jar"),
    ("pipeline.jars", "http://host/job.jar"),
    ("pipeline.jars", "local:///opt/job/job.jar;/x"),
    ("pipeline.jars", "local://opt/job/job.jar"),
    ("pipeline.jars", "/opt/job/../job/job.jar"),
    ("pipeline.classpaths", "file:///host/x.jar"),
    ("pipeline.classpaths", "/opt/job/%6aob.jar"),
    ("$internal.application.main", "org.example.Other"),
    ("$internal.application.program-args", "far too long to match"),
    ("$internal.application.program-args", "-py;x"),
    ("classloader.parent-first-patterns.additional", "a"),
    ("plugin.classloader.parent-first-patterns.additional", "a"),
    ("metrics.reporter.x.factory.class", "a"),
    ("high-availability.type", "org.example.Evil"),
    ("high-availability.storageDir", "s3://x"),
    ("state.backend", "org.example.Evil"),
    ("state.checkpoints.dir", "s3://x"),
    ("execution.savepoint.path", "s3://x"),
    ("execution.job-listeners", "a.B"),
    ("security.module.factory.classes", "a.B"),
    ("kubernetes.config.file", "/x"),
    ("python.executable", "/x"),
    ("s3.endpoint", "http://x"),
    ("fs.default-scheme", "s3://x"),
    ("queryable-state.enable", "true"),
    ("rest.profiling.enabled", "true"),
    ("a.b", "c"),
    ("akka.ask.timeout", "1; x"),
    ("rest.port", "8081\n"),
    ("parallelism.default", "x"),
    ("io.tmp.dirs", "relative/x"),
    ("kubernetes.cluster-id", "a b"),
    ("containerized.x.env.Y", "z"),
    ("kubernetes.container.image.ref", "a" * 600),
    ("parallelism.default", "1" * 9000),
]


@pytest.mark.parametrize(("name", "value"), REFUSED_PROPERTIES)
@pytest.mark.parametrize("how", ["file", "option"])
def test_a_property_that_brings_code_or_takes_protection_away_is_refused(how, name, value, spec):
    args = (f"-D{name}={value}",) if how == "option" else ()
    conf = {name: value} if how == "file" else {}
    request = ask("taskmanager", *args, conf=conf, LOCAL_IP="10.0.0.2")
    line = refused(spec(), request)
    assert len(value) < 5 or value not in line
    assert name in line or name.startswith("$internal")


@pytest.mark.parametrize(("name", "value"), REFUSED_PROPERTIES)
def test_under_compat_the_host_has_its_way_with_properties(name, value, spec):
    request = ask("taskmanager", conf={name: value}, LOCAL_IP="10.0.0.2")
    if "\n" in value:
        refused(spec("compat"), request)  # no file can hold it
        return
    found = written(flink.compose(spec("compat"), request, HERE))
    if name in LISTS:
        assert items_of(found, name) == items_of({name: value}, name)
    else:
        assert found[name] == value


@pytest.mark.parametrize("variable", ["JVM_ARGS", "FLINK_ENV_JAVA_OPTS", "FLINK_ENV_JAVA_OPTS_TM"])
def test_options_of_the_jvm_come_from_the_host_under_compat_alone(variable, spec):
    request = ask("taskmanager", LOCAL_IP="::1", **{variable: "-Dx='a b' -javaagent:/x.jar"})
    assert f"{variable}: refused" in refused(spec(), request)
    command = flink.compose(spec("compat"), request, HERE)
    assert {"-Dx=a b", "-javaagent:/x.jar"} <= set(command.argv)
    assert "-XX:+UseG1GC" not in command.argv
    empty = ask("taskmanager", LOCAL_IP="::1", **{variable: " "})
    flink.compose(spec(), empty, HERE)


def test_options_of_the_jvm_may_be_sealed(spec):
    sealed = {
        **INTERNAL_TLS, "env.java.opts.all": '"-Da=b -Dc=d"', "env.java.opts.taskmanager": "-De=f",
        "env.java.opts.jobmanager": "-Dg=h",
    }  # fmt: skip
    opens = "--add-opens=java.base/java.lang=ALL-UNNAMED"
    request = ask("taskmanager", conf={"env.java.opts.all": opens}, LOCAL_IP="::1")
    argv = flink.compose(spec(conf=sealed), request, HERE).argv
    assert argv[argv.index("-Da=b") : argv.index("-classpath")] == ("-Da=b", "-Dc=d", "-De=f")


def test_under_compat_options_of_the_configuration_count_unless_a_variable_says_more(spec):
    conf = {"env.java.opts.all": "-Da=b", "env.java.opts.jobmanager": "-Dc=d"}
    argv = flink.compose(spec("compat"), ask("jobmanager", conf=conf), HERE).argv
    assert {"-Da=b", "-Dc=d"} <= set(argv)
    request = ask("jobmanager", conf=conf, FLINK_ENV_JAVA_OPTS="-De=f")
    argv = flink.compose(spec("compat"), request, HERE).argv
    assert "-De=f" in argv
    assert "-Da=b" not in argv
    assert "quote" in refused(spec("compat"), ask("jobmanager", JVM_ARGS="'x"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FLINK_WHATEVER", "x"),
        ("SGX_DRIVER_MEM_SIZE", "1g"),
        ("_POD_X", "x"),
        ("LOCAL_IP", "a b"),
        ("JOB_MANAGER_RPC_ADDRESS", "a;b"),
        ("_POD_NODE_ID", "a b"),
        ("_POD_IP_ADDRESS", ""),
        ("FLINK_TM_JVM_MEM_OPTS", "-Xmx1g;"),
        ("KUBERNETES_TOKEN", "a b"),
        ("FLINK_CONF_DIR", "x"),
    ],
)
def test_a_variable_that_flink_does_not_have_or_without_its_form_is_refused_by_name(
    name, value, spec
):
    request = ask("taskmanager", **{"LOCAL_IP": "10.0.0.2", name: value})
    assert name in refused(spec(), request)
    flink.compose(spec("compat"), request, HERE)


@pytest.mark.parametrize(
    "name", ["FLINK_VERSION", "FLINK_LOG_DIR", "FLINK_PLUGINS_DIR", "NETTY_THREAD"]
)
def test_what_images_set_is_ignored(name, spec, home):
    request = ask("taskmanager", **{"LOCAL_IP": "10.0.0.2", name: "/x"})
    command = flink.compose(spec(), request, HERE)
    assert "/x" not in command.env.values()
    assert command.env["FLINK_PLUGINS_DIR"] == f"{home}/plugins"


def test_sealed_properties_win(spec):
    strict = spec(conf={**INTERNAL_TLS, "parallelism.default": "4", "heartbeat.timeout": "9"})
    same = ask("taskmanager", conf={"heartbeat.timeout": "9"}, LOCAL_IP="::1")
    other = ask("taskmanager", conf={"heartbeat.timeout": "8"}, LOCAL_IP="::1")
    sent = ask("taskmanager", conf={"parallelism.default": "1"}, LOCAL_IP="::1")
    assert written(flink.compose(strict, same, HERE))["heartbeat.timeout"] == "9"
    assert "heartbeat.timeout: refused, launch.conf seals" in refused(strict, other)
    assert written(flink.compose(strict, sent, HERE))["parallelism.default"] == "4"
    compat = spec("compat", conf={"heartbeat.timeout": "9", "web.timeout": "7"})
    found = written(flink.compose(compat, other, HERE))
    assert (found["heartbeat.timeout"], found["web.timeout"]) == ("8", "7")


def test_further_properties_are_those_that_the_image_allows(spec):
    strict = spec(conf_allowed={"s3.endpoint": "https://.*", "parallelism.default": "[12]"})
    conf = {"s3.endpoint": "https://s3", "parallelism.default": "2"}
    found = written(flink.compose(strict, ask("taskmanager", conf=conf, LOCAL_IP="::1"), HERE))
    assert conf.items() <= found.items()
    for name, value in (("s3.endpoint", "http://s3"), ("parallelism.default", "3")):
        request = ask("taskmanager", conf={name: value}, LOCAL_IP="::1")
        assert f"{name}: refused, its value" in refused(strict, request)


def test_an_odd_name_is_not_shown(spec):
    request = ask("taskmanager", conf={"a\x1b[31m": "b"}, LOCAL_IP="::1")
    assert "\x1b" not in refused(spec(), request)


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (("-j", "org.example.Other"), "main class"),
        (("--job-classname=org.example.Other",), "main class"),
        (("--jars", "/x.jar"), "launch.jars"),
        (("--jars", "local:///opt/job/job.jar,/x.jar"), "launch.jars"),
        (("far too long an argument",), "argument of the job"),
        (("x", "-j", "far too long an argument"), "argument of the job"),
        (("-s", "/data/sp"), "--fromSavepoint is refused"),
        (("-pym", "x"), "Python"),
    ],
)
def test_a_job_that_is_not_on_the_lists_is_refused(args, line, spec):
    assert line in refused(spec(), ask("standalone-job", *args))
    flink.compose(spec("compat"), ask("standalone-job", *args), HERE)


def test_a_job_takes_no_arguments_where_none_are_allowed(spec):
    assert "allows none" in refused(spec(arguments=None), ask("standalone-job", "x"))
    sealed = {**INTERNAL_TLS, "$internal.application.program-args": "x;y"}
    flink.compose(spec(arguments=None, conf=sealed), ask("taskmanager", LOCAL_IP="::1"), HERE)


def test_python_is_refused_in_an_enclave_whatever_the_profile(spec):
    conf = {"$internal.application.main": "org.apache.flink.client.python.PythonDriver"}
    words = ("kubernetes-jobmanager.sh", "kubernetes-application")
    request = ask("jobmanager", *words, conf=conf)
    in_gramine = Place(DIRECT, False, None, "/dev/attestation")
    assert "Python" in refused(spec("compat"), request, in_gramine)
    flink.compose(spec("compat"), request, HERE)
    assert "Python" in refused(spec(classes=list(conf.values())), request)


@pytest.mark.parametrize(
    "request_",
    [ask("standalone-job"), ask("jobmanager"), ask("taskmanager", LOCAL_IP="::1")],
    ids=["standalone-job", "jobmanager", "taskmanager"],
)
def test_without_tls_between_its_processes_flink_is_refused(request_, spec):
    assert "security.ssl.internal.enabled" in refused(spec(conf={}), request_)
    flink.compose(spec("compat"), request_, HERE)


@pytest.mark.parametrize(
    "words", [(), ("kubernetes-jobmanager.sh", "kubernetes-session")], ids=["stock", "kubernetes"]
)
def test_a_session_cluster_is_refused_unless_its_rest_port_asks_for_certificates(words, spec):
    request = ask("jobmanager", *words)
    for missing in REST_TLS:
        conf = {**INTERNAL_TLS, **REST_TLS, "web.submit.enable": "false", missing: "false"}
        assert "REST port takes code" in refused(spec(conf=conf), request)
    flink.compose(spec(conf={**INTERNAL_TLS, **REST_TLS}), request, HERE)
    flink.compose(spec("compat"), request, HERE)


SECRET_PROPERTIES = (
    *("security.ssl.internal.keystore-password", "security.ssl.rest.key-password"),
    *("s3.secret-key", "fs.azure.account.key.x", "$internal.application.program-args"),
    *("kubernetes.jobmanager.entrypoint.args", "containerized.master.env.SECRET", "pipeline.jars"),
)  # fmt: skip
SECRETS = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=12, max_size=30
).map(lambda text: f"S3cr3t{text}")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    SECRETS, st.sampled_from(SECRET_PROPERTIES), st.sampled_from(("file", "option", "sealed")),
    st.sampled_from(("strict", "compat")), st.sampled_from(("1.16.3", "1.20.5")),
    st.sampled_from(("jobmanager", "taskmanager", "standalone-job")),
)  # fmt: skip
def test_no_secret_is_on_the_command_line_or_in_a_message(
    spec, secret, name, how, profile, version, role
):
    sealed = {**INTERNAL_TLS, "security.ssl.internal.keystore-password": "sealed", **REST_TLS}
    if how == "sealed":
        sealed[name] = secret
    image = spec(
        profile,
        version=version,
        conf=sealed,
        conf_allowed={name: ".*"},
        arguments=".*",
        jars=[secret],
    )
    request = ask(
        role, *((f"-D{name}={secret}",) if how == "option" else ()),
        conf={name: secret} if how == "file" else {}, LOCAL_IP="10.0.0.2",
    )  # fmt: skip
    try:
        command = flink.compose(image, request, IN_8G)
    except Stop as stop:
        assert secret not in stop.line + str(stop) + repr(stop)
        return
    assert not any(secret in word for word in command.argv)
    assert secret not in repr(command) + repr(request) + repr(parse_args(role, request.args))
    assert secret not in "".join(command.env.values())
    found = written(command)
    assert found[name] == secret or items_of(found, name) == items_of({name: secret}, name)


@given(
    SECRETS, st.sampled_from(sorted(flink_host.VARIABLES)), st.sampled_from(("strict", "compat"))
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_variable_is_on_the_command_line_or_in_a_message(spec, secret, name, profile):
    words = ("kubernetes-jobmanager.sh", "kubernetes-application")
    try:
        command = flink.compose(spec(profile), ask("jobmanager", *words, **{name: secret}), HERE)
    except Stop as stop:
        assert secret not in stop.line
        return
    assert not any(secret in word for word in command.argv)
    assert secret not in repr(command)


def test_the_table_holds_nothing_of_a_kind_that_is_never_the_hosts():
    never = re.compile(
        r"(env\.java\.(?!opts\.all)|classloader|plugin|.*keystore|.*truststore|.*password|.*secret-key"
        r"|s3\.|fs\.|metrics\.reporter|high-availability|state\.|python|.*\.class(es)?$|.*listener)"
    )
    expected = {"kubernetes.internal.jobmanager.entrypoint.class"}
    assert {name for name in TABLE.forms if never.match(name)} == expected
