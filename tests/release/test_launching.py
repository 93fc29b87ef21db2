"""What an image seals for its launcher, and what is refused while it is built."""

import json
import shutil
import tomllib
from types import SimpleNamespace

import pytest
from conftest import JAVA, PROJECT, TAG, base_files, error_lines, write_base

from imagekit.images.cache import Cache
from imagekit.images.layers import LayerFile
from imagekit.images.open import open_image
from imagekit.images.rootfs import Rootfs
from imagekit.release.launching import runtime_layer_files
from imagekit.render.templates import template_folder
from imagekit.runtime.launch import Attestation, Encrypted, Java, Product, parse_launch
from imagekit.spec.project import load_project

RUNTIMES = [
    LayerFile(f"{JAVA}/release", b'IMPLEMENTOR="x"\nJAVA_VERSION="17.0.9"\n'),
    LayerFile("/opt/spark/jars/spark-core_2.12-3.5.9.jar", b"core"),
    LayerFile("/opt/job.jar", b"job"),
]
COMMAND = "launch: {command: [/usr/lib/jvm/java-17/bin/java, -version], passthrough: [POD_NAME]}\n"
ROLES = """\
launch:
  roles: [driver, executor]
  classes: [org.example.Job]
  jars: [/opt/job.jar]
  arguments: "[a-z]+"
  conf: {spark.authenticate: "true"}
  conf_allowed: {spark.x.y: "[0-9]+"}
"""


@pytest.fixture
def folder(in_folder, golden_key):
    write_base(in_folder / "base", base_files(), RUNTIMES)
    shutil.copy(golden_key, in_folder / "key.pem")
    return in_folder


@pytest.fixture
def build(folder, imagekit):
    """Builds a cell with this launch section; gives code, stderr and, if built, its files."""

    def call(launch, *pairs):
        text = PROJECT.replace(COMMAND, launch)
        for old, new in pairs:
            assert old in text
            text = text.replace(old, new)
        (folder / "imagekit.yaml").write_text(text)
        code, _, err = imagekit("build", "--epc", "64m", "--log", "error")
        if code:
            return code, err, None
        return code, err, Rootfs.from_image(open_image(f"oci:out:{TAG}", Cache()), None)

    return call


def sealed(rootfs):
    return parse_launch(rootfs.read("/opt/imagekit/launch.json"))


def manifest(rootfs):
    return tomllib.loads(rootfs.read("/ppml/bash.manifest.sgx").decode())


def test_roles_are_sealed_with_what_the_base_has(build):
    code, err, rootfs = build(ROLES)
    assert code == 0, err
    spec = sealed(rootfs)
    assert (spec.profile, spec.argv, spec.roles) == ("strict", (), ("driver", "executor"))
    assert (spec.classes, spec.jars) == (("org.example.Job",), ("/opt/job.jar",))
    assert spec.arguments.pattern == "[a-z]+"
    assert spec.conf == {"spark.authenticate": "true"}
    assert spec.conf_allowed["spark.x.y"].pattern == "[0-9]+"
    assert spec.java == Java(JAVA, 17)
    assert spec.spark == Product("/opt/spark", "3.5.9")
    assert spec.flink is None
    assert spec.attestation == Attestation(False, {})


def test_what_jvms_need_is_in_the_layer_and_trusted(build):
    rootfs = build(ROLES)[2]
    trusted = {entry["uri"] for entry in manifest(rootfs)["sgx"]["trusted_files"]}
    java = template_folder("java")
    for path, source in (
        ("/opt/imagekit/no-fork.jar", "no-fork.jar"),
        ("/opt/imagekit/log/spark/log4j2.properties", "log/spark/log4j2.properties"),
        ("/opt/imagekit/log/spark/log4j.properties", "log/spark/log4j.properties"),
    ):
        assert rootfs.read(path) == (java / source).read_bytes()
        assert f"file:{path}" in trusted
    assert rootfs.kind("/opt/imagekit/log/flink") is None


def test_an_image_without_spark_and_flink_carries_nothing_for_them(project, imagekit):
    assert imagekit("build", "--epc", "64m", "--log", "error")[0] == 0
    rootfs = Rootfs.from_image(open_image(f"oci:out:{TAG}", Cache()), None)
    assert rootfs.kind("/opt/imagekit/no-fork.jar") is None
    assert sealed(rootfs).java is None  # it does not say which Java it is


def test_the_manifest_lets_the_request_through_and_seals_the_enclaves_size(build):
    env = manifest(build(ROLES)[2])["loader"]["env"]
    assert env["IMAGEKIT_REQUEST"] == {"passthrough": True}
    assert env["IMAGEKIT_ENCLAVE_SIZE"] == "64M"
    assert [name for name, value in env.items() if isinstance(value, dict)] == ["IMAGEKIT_REQUEST"]


def test_encrypted_folders_are_mounted_and_told_to_the_launcher(build):
    launch = ROLES + "encrypted: [{path: /data, host: /mnt/data, key: warehouse}]\n"
    code, err, rootfs = build(launch)
    assert code == 0, err
    assert sealed(rootfs).encrypted == (Encrypted("/data", "/mnt/data", "warehouse"),)
    mounts = manifest(rootfs)["fs"]["mounts"]
    assert {
        "type": "encrypted", "path": "/data", "uri": "file:/mnt/data", "key_name": "warehouse"
    } in mounts  # fmt: skip
    assert rootfs.kind("/mnt/data") is None  # the entry point makes it, or it is a volume


def test_attestation_is_sealed_with_the_certificates_text(build, folder):
    pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    (folder / "ca.pem").write_text(pem)
    launch = ROLES + (
        "  attestation: {required: true, url: 'kms.example:9000', app_id: a-b, ca: ca.pem, "
        f"pin_sha256: '{'ab' * 32}', server_name: ehsm, accept: '0xa001', local_data_key: true}}\n"
    )
    code, err, rootfs = build(launch, ("attestation: [dcap, none]", "attestation: [dcap]"))
    assert code == 0, err
    assert sealed(rootfs).attestation == Attestation(
        True,
        {
            "ATTESTATION_URL": "kms.example:9000", "APP_ID": "a-b", "ATTESTATION_CA": pem,
            "ATTESTATION_PIN_SHA256": "ab" * 32, "ATTESTATION_SERVER_NAME": "ehsm",
            "ATTESTATION_ACCEPT": "0xa001", "ALLOW_LOCAL_DATA_KEY": "true",
        },
    )  # fmt: skip


def test_compat_carries_facts_and_seals_nothing(build):
    code, err, rootfs = build("", ("profile: strict", "profile: compat"))
    assert code == 0, err
    spec = sealed(rootfs)
    assert spec.env == {"MALLOC_ARENA_MAX": "4"}
    assert (spec.profile, spec.roles, spec.spark) == ("compat", (), Product("/opt/spark", "3.5.9"))
    assert Encrypted("/ppml/encrypted-fsd", "/ppml/encrypted-fsd", "sgx_data_key") in spec.encrypted


@pytest.mark.parametrize(
    ("section", "arenas"),
    [("", "4"), ('occlum: {environment: {MALLOC_ARENA_MAX: "1"}}\n', "1")],
)
def test_compat_takes_what_bigdls_variables_set_for_occlum(folder, section, arenas):
    text = PROJECT.replace(COMMAND, section).replace("profile: strict", "profile: compat")
    text = text.replace("libos: gramine", "libos: occlum")
    (folder / "imagekit.yaml").write_text(text)
    project = load_project(folder / "imagekit.yaml")
    base = SimpleNamespace(
        rootfs=Rootfs.from_image(open_image("oci:base", Cache()), None),
        python="/usr/bin/python3.8",
        **{f"{name}_home": f"/opt/{name}" for name in ("java", "spark", "flink")},
    )
    files = {file.path: file.data for file in runtime_layer_files(base, project)}
    spec = parse_launch(files["/opt/imagekit/launch.json"])
    assert spec.env == {"MALLOC_ARENA_MAX": arenas}
    assert (spec.libos, spec.profile, spec.exposed) == ("occlum", "compat", ("/host",))
    assert (spec.encrypted, spec.spark) == ((), Product("/opt/spark", "3.5.9"))
    assert files["/opt/imagekit/enclave/start"].startswith(b"#!/usr/bin/python3.8\n")


@pytest.mark.parametrize(
    ("launch", "code", "problem"),
    [
        ("launch: {env: {A: b}}\n", 2, "nothing is given"),
        (ROLES.replace("driver", "taskmanager"), 2, "security.ssl.internal.enabled is not sealed"),
        (ROLES.replace('"true"', '"false"'), 2, "spark.authenticate is not sealed"),
        ("launch: {roles: [executor]}\n", 2, "spark.authenticate is not sealed"),
        (
            "launch: {roles: [taskmanager], conf: {security.ssl.internal.enabled: 'true'}}\n",
            3,
            "taskmanager needs Flink",
        ),
        (ROLES.replace("/opt/job.jar", "/opt/none.jar"), 3, "/opt/none.jar is not in the base"),
        (ROLES + "  attestation: {ca: none.pem}\n", 3, "none.pem"),
        (ROLES + "  attestation: {ca: key.pem}\n", 3, "no PEM certificates"),
        (ROLES + "  attestation: {required: true}\n", 2, "cells without it"),
        (ROLES + "  attestation: {url: 'a b'}\n", 2, "ATTESTATION_URL is malformed"),
        (ROLES + "  attestation: {pin_sha256: ab}\n", 2, "pin_sha256"),
        (ROLES + "  attestation: {accept: all}\n", 2, "accept"),
        (ROLES.replace("driver,", "root,"), 2, "root"),
        (ROLES.replace("org.example.Job", "a b"), 2, "not a class name"),
        (ROLES.replace('"[a-z]+"', '"["'), 2, "not a regular expression"),
        (ROLES.replace('"[0-9]+"', '"("'), 2, "not a regular expression"),
        (ROLES.replace("spark.x.y", "spark.authenticate"), 2, "has a sealed value in launch.conf"),
        (ROLES + "encrypted: [{path: /a}, {path: /a/b}]\n", 2, "lie in each other"),
        (ROLES + "encrypted: [{path: a}]\n", 2, "not an absolute path"),
        (ROLES + "encrypted: [{path: /a, key: 'b/c'}]\n", 2, "not a key's name"),
    ],
)
def test_what_could_never_start_is_refused_while_it_is_built(build, launch, code, problem):
    got, err, _ = build(launch)
    assert got == code
    said, _ = error_lines(err)
    assert problem in said
    assert said.startswith("imagekit.yaml")


def test_a_private_key_is_not_taken_for_a_certificate(build, folder):
    both = "-----BEGIN CERTIFICATE-----\nAAAA\n-----BEGIN PRIVATE KEY-----\nAAAA\n"
    (folder / "ca.pem").write_text(both)
    code, err, _ = build(ROLES + "  attestation: {ca: ca.pem}\n")
    assert code == 3
    assert "private key" in err


def test_more_certificates_than_the_launcher_takes_are_refused_while_it_is_built(build, folder):
    pem = "-----BEGIN CERTIFICATE-----\n" + "A" * 70_000
    (folder / "ca.pem").write_text(pem)
    code, err, _ = build(ROLES + "  attestation: {ca: ca.pem}\n")
    assert code == 2
    assert "ATTESTATION_CA is malformed" in error_lines(err)[0]


def test_a_role_without_a_known_java_is_refused(project, imagekit):
    text = (project / "imagekit.yaml").read_text()
    (project / "imagekit.yaml").write_text(text.replace(COMMAND, "launch: {roles: [thrift]}\n"))
    code, _, err = imagekit("build", "--epc", "64m")
    assert code == 3
    assert "needs Java" in error_lines(err)[0]


@pytest.mark.parametrize(
    ("text", "major"),
    [("17.0.9", 17), ("1.8.0_192", 8), ("11.0.13", 11), ("21", 21), ("25-ea", 25)],
)
def test_javas_of_all_ages_say_which_they_are(in_folder, text, major):
    from imagekit.release.runtimes import find_java

    release = LayerFile("/j/release", f'JAVA_VERSION="{text}"\n'.encode())
    write_base(in_folder / "base", [release])
    rootfs = Rootfs.from_image(open_image("oci:base:base", Cache()), None)
    assert find_java(rootfs, "/j") == Java("/j", major)
    assert find_java(rootfs, "") is None


def test_two_versions_of_a_product_are_none(in_folder):
    from imagekit.release.runtimes import find_flink, find_spark

    names = ("flink-dist-1.20.5.jar", "flink-dist_2.12-1.13.6.jar")
    one = [LayerFile(f"/f/lib/{names[0]}", b""), LayerFile(f"/g/lib/{names[1]}", b"")]
    two = [LayerFile(f"/h/lib/{name}", b"") for name in names]
    write_base(in_folder / "base", [*one, *two])
    rootfs = Rootfs.from_image(open_image("oci:base:base", Cache()), None)
    assert find_flink(rootfs, "/f") == Product("/f", "1.20.5")
    assert find_flink(rootfs, "/g") == Product("/g", "1.13.6")
    assert find_flink(rootfs, "/h") is None
    assert find_spark(rootfs, "/f") is None


def test_the_lock_of_inputs_sees_another_launch_section(build, folder):
    assert build(ROLES)[0] == 0
    first = json.loads((folder / "imagekit.lock.json").read_text())["images"]
    assert build(ROLES.replace("[a-z]+", "[a-y]+"))[0] == 0
    second = json.loads((folder / "imagekit.lock.json").read_text())["images"]
    ((_, one),) = first.items()
    ((_, two),) = second.items()
    assert one["mr_enclave"] != two["mr_enclave"]
