"""Which versions of Occlum are known, and what each has."""

import pytest

from imagekit.enclave.occlum.keys import KEYS, names
from imagekit.enclave.occlum.versions import BIGDL, NEWEST, Layout, occlum_version
from imagekit.errors import UsageError

FEATURES = {"amx", "pkru", "enable_edmm", "enable_posix_shm"}
LIMITS = {
    "user_space_size",
    "kernel_space_heap_size",
    "kernel_space_stack_size",
    "max_num_of_threads",
}
METADATA = {
    *("product_id", "version_number", "debuggable", "enable_kss", "family_id", "ext_prod_id"),
}


@pytest.mark.parametrize(
    ("name", "layout", "limits", "metadata", "feature", "sdk"),
    [
        ("0.26.0", Layout.FIXED, set(), set(), None, None),
        ("0.26.3", Layout.FIXED, set(), set(), None, None),
        ("0.27.3", Layout.FIXED, set(), set(), None, None),
        ("0.28.0", Layout.FIXED, set(), {"pkru"}, None, "2.16"),
        ("0.28.1", Layout.FIXED, set(), {"pkru"}, None, "2.16"),
        ("0.29.0", Layout.FIXED, set(), {"pkru"}, None, None),
        ("0.29.4", Layout.FIXED, set(), {"pkru"}, None, None),
        ("0.29.5", Layout.HEAP_MAX, {"kernel_space_heap_max_size"}, {"pkru"}, None, None),
        ("0.29.7", Layout.HEAP_MAX, {"kernel_space_heap_max_size"}, {"pkru"}, None, "2.17.1"),
        (
            "0.30.0",
            Layout.SGX2,
            {"kernel_space_heap_max_size", "user_space_max_size", "init_num_of_threads"},
            {"pkru", "amx"},
            None,
            "2.20",
        ),
        (
            "0.30.1",
            Layout.SGX2,
            {"kernel_space_heap_max_size", "user_space_max_size", "init_num_of_threads"},
            {"disable_log"},
            FEATURES,
            None,
        ),
        (
            "0.31.0",
            Layout.SGX2,
            {"kernel_space_heap_max_size", "user_space_max_size", "init_num_of_threads"},
            {"disable_log"},
            FEATURES | {"io_uring"},
            "2.21",
        ),
    ],
)
def test_the_keys_of_each_version(name, layout, limits, metadata, feature, sdk):
    version = occlum_version(name)
    assert version.name == name
    assert version.layout is layout
    assert set(names("resource_limits", version)) == LIMITS | limits
    assert set(names("metadata", version)) == METADATA | metadata
    assert ("feature" in names("", version)) == (feature is not None) == version.has_features
    assert set(names("feature", version)) == (feature or set())
    assert version.sdk == sdk
    assert version.has_edmm == (layout is Layout.SGX2)


def test_the_mounts_that_occlum_adds_by_itself():
    assert not occlum_version("0.29.5").adds_proc_and_dev
    assert occlum_version("0.29.6").adds_proc_and_dev


def test_only_the_gap_between_what_was_seen_is_inferred():
    inferred = [p for p in range(8) if occlum_version(f"0.29.{p}").inferred]
    assert inferred == [1, 2, 3, 4]
    assert not occlum_version("0.30.0").inferred


def test_versions_sort_by_age():
    assert occlum_version("0.29.7") < occlum_version("0.30.0") < NEWEST
    assert occlum_version("v0.29.7") == BIGDL


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("0.25.0", "not known"),
        ("0.29.8", "not known"),
        ("0.30.2", "not known"),
        ("0.31.1", "not known"),
        ("0.32.0", "not known"),
        ("1.0.0", "not known"),
        ("0.29", "leaves the patch release open"),
        ("", "no version"),
        ("0.29.7-ubuntu20.04", "no version"),
        ("0.29.7\n", "no version"),
        ("\uff10.29.7", "no version"),
        ("0.29." + "7" * 5000, "no version"),
        ("latest", "no version"),
    ],
    ids=lambda text: text[:12],
)
def test_what_is_not_known_is_refused_with_the_known(text, problem):
    with pytest.raises(UsageError, match=problem) as caught:
        occlum_version(text)
    assert "0.29.0 to 0.29.7" in caught.value.hint
    assert len(caught.value.problem) < 150


def test_what_a_key_moved_to_is_a_key():
    for path, key in KEYS.items():
        assert (key.until is None) == (not key.moved), path
        assert not key.moved or KEYS[key.moved].since == key.until
