"""Roles in an enclave of Occlum: real pods' starts get its flags, and a heap that fits its size."""

import json
import sys

import pytest
from flink_starts import *  # noqa: F403 - fixtures too
from flink_starts import IDS, STARTS, request_of
from occlum_image import Image
from spark_requests import (
    CAPTURES,
    EXECUTOR,
    IN_ENCLAVE,
    LOCAL,
    ask,
    captured,
    launch,
    main,
    options,
    refusal,
)

from imagekit.runtime import flink, spark, storage
from imagekit.runtime.launch import OCCLUM
from imagekit.runtime.stop import REFUSED, Stop

INSIDE = IN_ENCLAVE._replace(libos=OCCLUM)
FLAGS = [
    "-XX:-UseCompressedOops",
    "-Dos.name=Linux",
    "-Djdk.lang.Process.launchMechanism=vfork",
]
PODS = [
    CAPTURES / f"spark-{version}-{role}.json"
    for version in ("3.1.3", "3.5.9", "4.3.0")
    for role in ("driver", "executor")
]


def of_occlum(**more):
    return launch(libos="occlum", **more)


def java_with_flags(words):
    """Whether a command's JVM has the flags, each once, and as many processors as netty."""
    counts = [words.count(flag) for flag in FLAGS]
    values = dict(word.split("=", 1) for word in words if "rocessor" in word)
    seen = values["-XX:ActiveProcessorCount"]
    return counts == [1, 1, 1] and values["-Dio.netty.availableProcessors"] == seen


# -- Spark


@pytest.mark.parametrize("path", PODS, ids=lambda path: path.stem)
@pytest.mark.parametrize("profile", ["strict", "compat"])
def test_what_real_spark_starts_differs_from_gramine_in_flags_alone(path, profile):
    request, version = captured(path), path.stem.split("-")[1]
    jars = [word.removeprefix("local://") for word in request.args if word.endswith(".jar")]
    here, there = (
        spark.compose(launch(profile, version, libos=libos, jars=jars), request, place)
        for libos, place in (("occlum", INSIDE), ("gramine", IN_ENCLAVE))
    )
    assert java_with_flags(options(here.argv))
    assert "-Divy.home=/tmp/.ivy" in here.argv
    assert main(here.argv) == main(there.argv)
    assert (here.env, here.storage) == (there.env, there.storage)
    added = [word for word in options(here.argv) if word not in options(there.argv)]
    netty = [word for word in added if word.startswith("-Dio.netty.availableProcessors=")]
    assert sorted(added) == sorted([*FLAGS, *netty, "-Divy.home=/tmp/.ivy"])
    assert here.storage
    if profile == "strict":
        storage.check(of_occlum(spark=version), here.storage, INSIDE)


@pytest.mark.parametrize("role", ["executor", "submit", "driver"])
def test_a_heap_is_held_against_user_space(role):
    words = () if role == "executor" else LOCAL
    name = f"SGX_{'EXECUTOR' if role == 'executor' else 'DRIVER'}_JVM_MEM_SIZE"
    env = dict(EXECUTOR) if role == "executor" else {}
    if role == "driver":
        env["SPARK_DRIVER_BIND_ADDRESS"] = "10.0.0.1"
        words = ("--class", LOCAL[3], LOCAL[-1])

    def compose(size, place=INSIDE):
        conf = {"spark.master": "local[2]"} if role == "driver" else {}
        return spark.compose(
            of_occlum(), ask(role, *words, env={**env, name: size}, conf=conf), place
        )

    assert "-Xmx12288m" in compose("12g").argv  # three quarters of 16 GiB
    stop = refusal(compose, "12289m")
    assert (stop.code, name in stop.line, "user space" in stop.line) == (REFUSED, True, True)
    assert "half" in refusal(compose, "12g", IN_ENCLAVE).line


@pytest.mark.parametrize(
    ("libos", "level", "taken"),
    [("occlum", level, True) for level in ("off", "warn", "info", "trace", "all")]
    + [("occlum", "verbose", False), ("gramine", "warning", True)],
)
def test_every_level_may_be_asked_for_by_a_property(libos, level, taken):
    conf = {"spark.master": "local[2]", "spark.kubernetes.sgx.log.level": level}
    request = ask("submit", *LOCAL, env={}, conf=conf)
    place = INSIDE if libos == "occlum" else IN_ENCLAVE
    if taken:
        assert spark.compose(launch(libos=libos), request, place).argv
    else:
        assert "log.level" in refusal(spark.compose, launch(libos=libos), request, place).line


def test_local_folders_on_a_mount_of_the_hosts_end_the_start():
    for folders, good in (("/tmp/a,/datum", True), ("/tmp/a,/data/b", False)):
        spec = of_occlum(exposed=["/data"], conf={"spark.local.dir": folders})
        made = spark.compose(spec, ask("submit", *LOCAL), INSIDE)
        if good:
            storage.check(spec, made.storage, INSIDE)
            continue
        with pytest.raises(Stop, match="the host's, which could read it") as stop:
            storage.check(spec, made.storage, INSIDE)
        assert stop.value.code == REFUSED


# -- Flink


@pytest.mark.parametrize("start", STARTS, ids=IDS)
def test_what_real_flink_starts_gets_the_flags(start, spec):
    made = spec("compat", start["flink"], libos="occlum")
    command = flink.compose(made, request_of(start), INSIDE)
    assert java_with_flags(command.argv)
    gramine = flink.compose(spec("compat", start["flink"]), request_of(start), IN_ENCLAVE)
    assert not set(FLAGS) & set(gramine.argv)
    assert command.files.keys() == gramine.files.keys()
    storage.check(made, command.storage, INSIDE)


# -- the whole way


def test_a_role_becomes_the_jvm_by_way_of_the_start(tmp_path):
    """From the container's words to the program in the enclave, with a java that tells its own."""
    image = Image(tmp_path)
    java = tmp_path / "java/bin/java"
    java.parent.mkdir(parents=True)
    java.write_text(
        f"#!{sys.executable} -IS\n"
        "import json, os, sys\n"
        "print(json.dumps([sys.argv[1:], dict(os.environ)]))\n"
        "sys.exit(3)\n"
    )
    java.chmod(0o755)
    conf = {"spark.authenticate": "true"}
    more = {"java": {"home": str(tmp_path / "java"), "major": 17}, "conf": conf, "env": {"A": "1"}}
    image.seal([], roles=["executor"], **more)
    pod = {**EXECUTOR, "SPARK_DRIVER_URL": "spark://CoarseGrainedScheduler@driver:7078"}
    pod |= {"SGX_ENABLED": "true", "SGX_EXECUTOR_JVM_MEM_SIZE": "2g", "SGX_MEM_SIZE": "20GB"}
    done = image.start("executor", **pod)
    assert done.returncode == 3, done.stderr
    words, env = json.loads(done.stdout)
    assert java_with_flags(words)
    assert "-Xmx2048m" in words
    assert "spark://CoarseGrainedScheduler@driver:7078" in words
    assert env["A"] == "1"
    assert not [name for name in env if name.startswith(("IMAGEKIT", "SGX", "PYTHON", "SEALED"))]
    too_large = image.start("executor", **{**pod, "SGX_EXECUTOR_JVM_MEM_SIZE": "7g"})
    assert (too_large.returncode, too_large.stdout) == (2, "")
    assert "at most 3/4 of the user space's 8192 MiB" in too_large.stderr
    image.seal([], roles=["driver"], **more)
    assert "launch.roles does not name it" in image.start("executor", **pod).stderr
