"""BigDL's variables of Occlum's pods: what each does at start, and that none is a silent no-op."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from occlum_image import CONFIG, Image

from imagekit.runtime import occlum_settings
from imagekit.runtime.occlum_settings import log_level, notes, read_config, stays_outside
from imagekit.runtime.request import VARIABLE, parse_request
from imagekit.runtime.stop import Stop


@pytest.fixture
def image(tmp_path):
    return Image(tmp_path)


# -- what was decided when the image was built


@pytest.mark.parametrize(
    ("name", "same", "other", "built"),
    [
        ("SGX_MEM_SIZE", ("8GB", "8 gb", "8192MB"), ("20GB", "8", "8g", "x"), "8GB"),
        ("SGX_KERNEL_HEAP", ("1GB", "1024MB"), ("2GB", "1TB"), "1GB"),
        ("SGX_THREAD", ("512", '"512"'), ("1024", "512.0", "many"), "512"),
        ("ENABLE_SGX_DEBUG", ("false", "False"), ("true", "1"), "false"),
    ],
)
def test_a_variable_that_asks_for_something_else_is_said(name, same, other, built):
    for value in same:
        assert notes({name: value}, CONFIG) == []
    for value in other:
        (line,) = notes({name: value}, CONFIG)
        assert line == f"{name} has no effect: the image was built with {built}"
    assert notes({name: ""}, CONFIG) == []


@pytest.mark.parametrize("name", ["SGX_MEM_SIZE", "SGX_KERNEL_HEAP", "SGX_THREAD"])
def test_without_a_configuration_it_is_said_all_the_same(name):
    for config in ({}, {"resource_limits": []}, {"resource_limits": {"user_space_size": "\x1b"}}):
        assert notes({name: "1"}, config) == [f"{name} has no effect: the image was built before"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("SGX_HEAP", "0.29.7"),
        ("META_SPACE", "MaxMetaspaceSize"),
        ("SGX_MEMORY_SIZE", "SGX_MEM_SIZE may be meant"),
        ("SGX_THREADS", "SGX_THREAD may be meant"),
        ("DRIVER_MEMORY", "SGX_DRIVER_JVM_MEM_SIZE"),
        ("USING_TMP_HOSTFS", "when the image is built"),
        ("policy_Id", "ATTESTATION_POLICYID may be meant"),
        ("PCCL_URL", "PCCS_URL may be meant"),
        ("SGX_MEM_SIZ", "not known"),
    ],
)
def test_dead_and_mistyped_names_are_named(name, words):
    (line,) = notes({name: "secret"}, CONFIG)
    assert line.startswith(f"{name} has no effect: ")
    assert words in line
    assert "secret" not in line


def test_what_has_an_effect_is_not_said_to_have_none():
    meant = ("SGX_ENABLED", "SGX_MODE", "SGX_DRIVER_JVM_MEM_SIZE", "SGX_EXECUTOR_JVM_MEM_SIZE")
    outside = ("SGX_LOG_LEVEL", "SGX_AESM_ADDR", "SGX_SDK", "PATH", "MY_SGX_X")
    assert notes(dict.fromkeys((*meant, *outside), "x"), CONFIG) == []
    assert not any(map(stays_outside, meant))


def test_a_debuggable_enclave_is_said():
    lines = notes({}, {"metadata": {"debuggable": True}})
    assert lines == ["the enclave is debuggable: the host can look into it"]


@given(
    st.dictionaries(st.sampled_from(["resource_limits", "metadata", "x"]), st.none() | st.text())
)
def test_any_configuration_will_do(config):
    env = dict.fromkeys(occlum_settings._BUILT, "1GB")
    assert len(notes(env, config)) == len(env)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b" " * (1 << 21), b'"x"'], ids=range(7)
)
def test_a_configuration_that_cannot_be_read_decides_nothing(tmp_path, data):
    (tmp_path / "Occlum.json").write_bytes(data)
    assert read_config(str(tmp_path / "Occlum.json")) == {}
    assert read_config(str(tmp_path / "missing")) == {}


def test_the_notes_are_printed_and_nothing_of_it_goes_in(image):
    pod = {
        "SGX_MEM_SIZE": "20GB",
        "SGX_THREAD": "1024",
        "SGX_KERNEL_HEAP": "1GB",
        "SGX_HEAP": "512MB",
        "SGX_MEMORY_SIZE": "10GB",
        "SGX_LOG_LEVEL": "off",
        "ENABLE_SGX_DEBUG": "true",
        "SGX_DRIVER_JVM_MEM_SIZE": "1g",
    }
    made = image.decide("driver", SGX_ENABLED="true", **pod)
    assert [note.split(" has no effect")[0] for note in made.notes if "no effect" in note] == [
        *("ENABLE_SGX_DEBUG", "SGX_MEM_SIZE", "SGX_THREAD", "SGX_HEAP", "SGX_MEMORY_SIZE"),
    ]
    request = parse_request(made.env[VARIABLE])
    assert request.env == {"SGX_ENABLED": "true", "SGX_DRIVER_JVM_MEM_SIZE": "1g"}
    done = image.start(SGX_ENABLED="true", SGX_MEM_SIZE="20GB")
    assert "imagekit: SGX_MEM_SIZE has no effect: the image was built with 8GB\n" in done.stderr


def test_an_image_of_gramine_still_refuses_what_it_does_not_know(image):
    image.seal(libos="gramine")
    made = image.decide("driver", SGX_ENABLED="false", SGX_THREAD="1")
    assert "SGX_THREAD" in parse_request(made.env[VARIABLE]).env


# -- the log


@pytest.mark.parametrize(
    ("given", "wanted"),
    [(level, level) for level in occlum_settings.LOG_LEVELS]
    + [("DEBUG", "debug"), ("warning", "warn"), ("all", "trace"), ("fatal", "error")],
)
def test_the_level_is_occlums(given, wanted):
    added, lines = log_level({"SGX_LOG_LEVEL": given}, CONFIG)
    assert added == {"OCCLUM_LOG_LEVEL": wanted}
    assert bool(lines) == (wanted in ("warn", "info", "debug", "trace"))
    debuggable = {"metadata": {"debuggable": True}}
    assert log_level({"SGX_LOG_LEVEL": given}, debuggable) == (added, ())


@pytest.mark.parametrize("level", ["verbose", "1", "debug "])
def test_what_is_no_level_is_refused(level):
    with pytest.raises(Stop, match="SGX_LOG_LEVEL is none of off, error") as stop:
        log_level({"SGX_LOG_LEVEL": level}, CONFIG)
    assert stop.value.code == 2


def test_it_wins_over_the_level_of_the_image_and_a_difference_is_said():
    wanted = ({"OCCLUM_LOG_LEVEL": "off"}, ())
    both = {"SGX_LOG_LEVEL": "off", "OCCLUM_LOG_LEVEL": "error"}
    added, (line,) = log_level(both, CONFIG)
    assert (added, line.startswith("SGX_LOG_LEVEL counts, not OCCLUM_LOG_LEVEL")) == (
        wanted[0],
        True,
    )
    for same in ("off", "OFF", ""):
        assert log_level({**both, "OCCLUM_LOG_LEVEL": same}, CONFIG) == wanted
    _, lines = log_level({**both, "SGX_LOG_LEVEL": "debug"}, CONFIG)
    assert [line.split()[1] for line in lines] == ["counts,", "an"]
    assert log_level({"SGX_LOG_LEVEL": "", "OCCLUM_LOG_LEVEL": "x"}, CONFIG) == ({}, ())


def test_the_level_reaches_occlum_and_changes_nothing_else(image):
    before = json.loads((image.instance / "Occlum.json").read_text())
    assert "log trace\n" in image.start(SGX_ENABLED="true", SGX_LOG_LEVEL="trace").stderr
    assert "log None\n" in image.start(SGX_ENABLED="true").stderr
    image.env["OCCLUM_LOG_LEVEL"] = "error"  # as images have it
    assert "log error\n" in image.start(SGX_ENABLED="true").stderr
    assert "log off\n" in image.start(SGX_ENABLED="true", SGX_LOG_LEVEL="off").stderr
    assert json.loads((image.instance / "Occlum.json").read_text()) == before
