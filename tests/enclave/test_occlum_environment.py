"""BigDL's names: each is a setting, or an error that says why it is none."""

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekit.enclave.findings import Finding
from imagekit.enclave.occlum.environment import (
    DEAD,
    SOURCES,
    EnvironmentSettings,
    environment_settings,
)


def only(name: str, value: str = "hunter2") -> Finding:
    settings, findings = environment_settings({name: value})
    assert settings == EnvironmentSettings()
    (found,) = findings
    assert (found.key, found.severity) == (name, "error")
    return found


def test_every_setting_has_its_name() -> None:
    settings, findings = environment_settings(
        {
            "SGX_MEM_SIZE": "15GB",
            "SGX_THREAD": "1024",
            "SGX_KERNEL_HEAP": "2GB",
            "ENABLE_SGX_DEBUG": "true",
            "SGX_LOG_LEVEL": "trace",
            "USING_TMP_HOSTFS": "false",
            "MALLOC_ARENA_MAX": "1",
        }
    )
    assert findings == ()
    assert settings == EnvironmentSettings(15 << 30, 1024, 2 << 30, True, "trace", False, "1")
    assert sorted(SOURCES.values()) == sorted(field.name for field in fields(EnvironmentSettings))


def test_the_log_level_never_makes_an_enclave_debuggable() -> None:
    for level in ("off", "debug", "trace"):
        settings, _ = environment_settings({"SGX_LOG_LEVEL": level})
        assert (settings.log, settings.debug) == (level, None)
    assert "enclave.debug" in only("SGX_LOG_LEVEL", "error").hint


def test_quotes_around_a_number_are_taken_off_as_bigdl_does() -> None:
    assert environment_settings({"SGX_THREAD": '"512"'})[0].max_threads == 512


@pytest.mark.parametrize(
    ("name", "value", "problem", "hint"),
    [
        ("SGX_MEM_SIZE", "16g", '"16g" has no unit', '"16GB"'),
        ("SGX_MEM_SIZE", "0GB", "whole pages", ""),
        ("SGX_MEM_SIZE", "1KB", "whole pages", ""),
        ("SGX_KERNEL_HEAP", "1.5GB", "no whole number", '"1536MB"'),
        ("SGX_THREAD", "many", "not a number of threads", "digits"),
        ("SGX_THREAD", "0", "not a number", ""),
        ("ENABLE_SGX_DEBUG", "True", "neither true nor false", ""),
        ("USING_TMP_HOSTFS", "yes", "neither true nor false", ""),
        ("SGX_LOG_LEVEL", "error", "read as off by BigDL", "matrix.log"),
        ("MALLOC_ARENA_MAX", "-1", "not a number of arenas", ""),
    ],
)
def test_a_value_that_means_nothing_is_an_error(
    name: str, value: str, problem: str, hint: str
) -> None:
    found = only(name, value)
    assert problem in found.problem
    assert hint in found.hint


@pytest.mark.parametrize(
    ("name", "problem", "hint"),
    [
        ("SGX_HEAP", "no effect since BigDL went to Occlum 0.29.7", "occlum.process.heap"),
        ("META_SPACE", "no effect since 2023-01", "MaxMetaspaceSize"),
        ("SGX_MEMORY_SIZE", "SGX_MEM_SIZE is what they know", "write SGX_MEM_SIZE"),
        ("SGX_MEM_SIZ", "no script of BigDL reads it", "write SGX_MEM_SIZE"),
        ("sgx_thread", "no script of BigDL reads it", "write SGX_THREAD"),
        ("SGX_HEAP_SIZE", "SGX_HEAP is what they know, and that is no setting", "process.heap"),
        ("PCCL_URL", "PCCS_URL is what they know, and that is no setting", "is started"),
        ("ATTESTATION", "read when a container starts", "matrix.attestation"),
        ("PCCS_URL", "read when a container starts", "is started"),
        ("ATTESTATION_URL", "read when a container starts", "launch.attestation.url"),
        ("APP_ID", "read when a container starts", "launch.attestation.app_id"),
        ("API_KEY", "read when a container starts", "Kubernetes Secret"),
        ("APIKEY", "API_KEY is what they know", "Kubernetes Secret"),
        ("CHALLENGE", "read when a container starts", ""),
        ("REPORT_DATA", "read when a container starts", ""),
        ("policy_Id", "read when a container starts", ""),
        ("DRIVER_MEMORY", "read when a container starts", "submitted"),
        ("NETTY_THREAD", "read when a container starts", "submitted"),
        ("SGX_DRIVER_JVM_MEM_SIZE", "read when a container starts", "submitted"),
        ("SGX_EXECUTOR_JVM_MEM_SIZE", "read when a container starts", "submitted"),
        ("OCCLUM_LOG_LEVEL", "read when a container starts", "matrix.log"),
        ("NOTHING_LIKE_IT", "no script of BigDL reads it", "known here: ENABLE_SGX_DEBUG"),
    ],
)
def test_a_name_that_sets_nothing_is_an_error_with_the_reason(
    name: str, problem: str, hint: str
) -> None:
    found = only(name)
    assert problem in found.problem
    assert hint in found.hint
    assert "hunter2" not in found.line + found.hint


def test_all_errors_are_given_at_once() -> None:
    values = dict.fromkeys((*DEAD, "API_KEY", "SGX_THREAD"), "x")
    assert len(environment_settings(values)[1]) == len(DEAD) + 2


@given(st.dictionaries(st.text(max_size=12) | st.sampled_from(sorted(SOURCES)), st.text()))
def test_any_environment_is_settings_and_findings(values: dict[str, str]) -> None:
    settings, findings = environment_settings(values)
    wrong = {finding.key for finding in findings}
    set_by = {name for name, key in SOURCES.items() if getattr(settings, key) is not None}
    assert wrong | set_by == set(values)
    assert not wrong & set_by
    assert all(f.problem.isprintable() and f.hint.isprintable() for f in findings)
