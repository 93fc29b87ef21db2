"""In an enclave of Occlum: how it is known, what fits into it, and which folders are the host's."""

import pytest

from imagekit.runtime import spark_java, storage
from imagekit.runtime.java import check_heap, enclave_flags
from imagekit.runtime.launch import OCCLUM, launch_spec, parse_launch
from imagekit.runtime.place import (
    ENCLAVE,
    NATIVE,
    Place,
    find_place,
    occlum_environment,
)
from imagekit.runtime.stop import REFUSED, UNUSABLE, Stop

SEALED = {name.encode(): value.encode() for name, value in occlum_environment("8G", "dcap").items()}
INSIDE = Place(ENCLAVE, True, 8 << 30, "/nonexistent", OCCLUM)


def found(env, libos=OCCLUM):
    return find_place(env, "/nonexistent/attestation", libos)


def test_the_sealed_variables_say_what_it_is():
    place = found(SEALED)
    assert (place.kind, place.quotes, place.enclave_size, place.libos) == (
        *(ENCLAVE, True, 8 << 30, OCCLUM),
    )
    assert place.in_occlum
    assert found({**SEALED, b"IMAGEKIT_ATTESTATION": b"none"}).quotes is False
    assert occlum_environment("512M", "none")["IMAGEKIT_ENCLAVE_SIZE"] == "512M"


@pytest.mark.parametrize("value", [None, b"", b"gramine", b"Occlum", b"occlum\n"])
def test_without_the_librarys_name_it_is_native(value):
    env = {name: text for name, text in SEALED.items() if name != b"IMAGEKIT_LIBOS"}
    place = found(env if value is None else {**env, b"IMAGEKIT_LIBOS": value})
    assert (place.kind, place.quotes, place.enclave_size, place.in_occlum) == (
        *(NATIVE, False, None, False),
    )


def test_an_image_of_gramine_is_no_enclave_of_occlum_whatever_a_host_says():
    place = found(SEALED, "gramine")
    assert (place.kind, place.quotes, place.in_occlum) == (NATIVE, False, False)


@pytest.mark.parametrize("value", [None, b"", b"DCAP", b"epid", b"\xff"])
def test_another_attestation_is_not_taken_for_none(value):
    env = {name: text for name, text in SEALED.items() if name != b"IMAGEKIT_ATTESTATION"}
    with pytest.raises(Stop, match="IMAGEKIT_ATTESTATION is neither none nor dcap") as stop:
        found(env if value is None else {**env, b"IMAGEKIT_ATTESTATION": value})
    assert stop.value.code == UNUSABLE


def test_a_size_of_another_form_is_refused():
    with pytest.raises(Stop, match="IMAGEKIT_ENCLAVE_SIZE"):
        found({**SEALED, b"IMAGEKIT_ENCLAVE_SIZE": b"8GB"})


# -- Java


def test_a_heap_fits_into_three_quarters_of_user_space():
    check_heap("X", 6 << 30, INSIDE)
    for heap in ((6 << 30) + 1, 8 << 30, 1 << 50):
        with pytest.raises(Stop, match=r"take at most 3/4 of the user space's 8192 MiB") as stop:
            check_heap("X", heap, INSIDE)
        assert stop.value.code == REFUSED
    check_heap("X", 64 << 30, INSIDE._replace(kind=NATIVE))
    with pytest.raises(Stop, match="less than half of the enclave"):
        check_heap("X", 4 << 30, INSIDE._replace(libos="gramine"))


FLAGS = {
    "-XX:-UseCompressedOops",
    "-Dos.name=Linux",
    "-Djdk.lang.Process.launchMechanism=vfork",
    "-Dio.netty.availableProcessors=4",
}


def test_a_jvm_gets_what_occlum_needs_and_only_there():
    assert {*FLAGS, "-XX:ActiveProcessorCount=4"} <= set(enclave_flags(INSIDE, 4))
    assert not FLAGS & set(enclave_flags(INSIDE._replace(libos="gramine"), 4))
    assert enclave_flags(INSIDE._replace(kind=NATIVE), 4) == ()


def test_spark_gets_them_and_a_number_of_threads_wins():
    spec = parse_launch(
        launch_spec(
            libos="occlum",
            java={"home": "/opt/java", "major": 8},
            spark={"home": "/opt/spark", "version": "3.1.3"},
        )
    )
    argv = spark_java.java_argv(spec, INSIDE, (), 1 << 30, 4, "16")
    assert {*FLAGS, "-Divy.home=/tmp/.ivy", "-Duser.home=/tmp"} <= set(argv)
    name = "-Dio.netty.availableProcessors="
    assert [word for word in argv if word.startswith(name)] == [f"{name}4", f"{name}16"]
    native = spark_java.java_argv(spec, INSIDE._replace(kind=NATIVE), (), 1 << 30, 4, "")
    assert not [word for word in native if "ivy" in word or word in FLAGS]


# -- folders


def spec_of(profile="strict", exposed=("/data/out",)):
    return parse_launch(launch_spec(libos="occlum", profile=profile, exposed=list(exposed)))


@pytest.mark.parametrize("folder", ["/tmp/x", "/data", "/data/outer", "/data/out/../in", "/x"])
def test_all_but_the_hosts_folders_are_protected(folder):
    storage.check(spec_of(), {"spark.local.dir": folder}, INSIDE)


@pytest.mark.parametrize(
    "folder", ["/data/out", "/data/out/x", "//data/out", "/data/x/../out/y", "data", ""]
)
def test_the_hosts_folders_are_refused(folder, capsys):
    with pytest.raises(Stop, match=r"spark\.local\.dir: refused, its folder is the host's") as stop:
        storage.check(spec_of(), {"spark.local.dir": folder}, INSIDE)
    assert stop.value.code == REFUSED
    storage.check(spec_of("compat"), {"spark.local.dir": folder}, INSIDE)
    assert "the host's, which can read it (profile compat)" in capsys.readouterr().err


def test_a_link_to_a_hosts_folder_is_one(tmp_path):
    (tmp_path / "host").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "host")
    spec = spec_of("compat", [str(tmp_path / "host")])._replace(profile="strict")
    with pytest.raises(Stop, match="the host's"):
        storage.check(spec, {"x": str(tmp_path / "link" / "y")}, INSIDE)


def test_natively_nothing_is_checked():
    storage.check(spec_of(), {"x": "/data/out"}, INSIDE._replace(kind=NATIVE))


def test_data_keys_are_gramines():
    env = {"ENCRYPTED_FSD": "true"}
    with pytest.raises(Stop, match="no encrypted mount"):
        storage.unlock(spec_of(), env, INSIDE)
    with pytest.raises(Stop, match="without Occlum nothing would be encrypted"):
        storage.unlock(spec_of(), env, INSIDE._replace(kind=NATIVE))
