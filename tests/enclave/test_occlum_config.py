"""Occlum.json: every rule is broken once and seen caught; any JSON gives findings only."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from occlum_documents import VERSIONS, document

from imagekit.enclave.findings import Finding
from imagekit.enclave.occlum.config import (
    Features,
    Mount,
    ProcessSizes,
    config_findings,
    debug_finding,
    read_occlum_config,
)
from imagekit.enclave.occlum.document import MAX_BYTES, parse_document
from imagekit.enclave.occlum.keys import KEYS
from imagekit.enclave.occlum.versions import BIGDL, NEWEST, OcclumVersion, occlum_version
from imagekit.errors import ImagekitError, InputError, UsageError

V26, V290, V300, V301 = map(occlum_version, ("0.26.3", "0.29.0", "0.30.0", "0.30.1"))
ROOT = document(NEWEST)["mount"][0]
LAYERS = ROOT["options"]["layers"]


def about(findings: tuple[Finding, ...], key: str) -> Finding:
    found = [finding for finding in findings if finding.key == key]
    assert found, [finding.line for finding in findings]
    return found[0]


def root(*layers: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"target": "/", "type": "unionfs", "options": {"layers": list(layers)}}]


def mounts(*further: dict[str, Any]) -> list[dict[str, Any]]:
    return [ROOT, *further]


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_the_template_of_each_version_has_no_findings(version: OcclumVersion) -> None:
    assert config_findings(document(version), version) == ()


def test_a_document_of_bigdl_has_warnings_only() -> None:
    found = config_findings(
        document(
            BIGDL,
            resource_limits__user_space_size="20GB",
            resource_limits__kernel_space_heap_size="1GB",
            resource_limits__kernel_space_heap_max_size="1GB",
            resource_limits__max_num_of_threads=512,
            entry_points=["/usr/lib/jvm/java-8-openjdk-amd64/bin", "/bin"],
            env__default=["OCCLUM=yes", "PYTHONHASHSEED=0", ""],
            env__untrusted=["KUBECONFIG", "MALLOC_ARENA_MAX", "ATTESTATION_DEBUG"],
            mount=mounts({"target": "/host", "type": "hostfs", "source": "."}),
        ),
        BIGDL,
    )
    assert {finding.key for finding in found} == {
        *("entry_points[0]", "entry_points[1]", "env.default[2]", "env.untrusted[2]", "mount[1]"),
    }
    assert {finding.severity for finding in found} == {"warning"}


ERRORS: list[tuple[OcclumVersion, dict[str, Any], str, str, str]] = [
    # unknown keys, and keys of other versions
    (BIGDL, {"ressource_limits": {}}, "ressource_limits", "not a key", "mean resource_limits?"),
    (BIGDL, {"user_space_size": "1GB"}, "user_space_size", "ignores it", "resource_limits.user_s"),
    (
        BIGDL,
        {"resource_limits__kernel_heap_size": "1GB"},
        "resource_limits.kernel_heap_size",
        "not a key of Occlum 0.29.7",
        "resource_limits.kernel_space_heap_size",
    ),
    (BIGDL, {"zzzzzzzz": 1}, "zzzzzzzz", "not a key", "leave it out"),
    (BIGDL, {"a.b": 1}, '"a.b"', "not a key", ""),
    (NEWEST, {"metadata__pkru": 0}, "metadata.pkru", "became feature.pkru in Occlum 0.30.1", ""),
    (NEWEST, {"metadata__amx": 0}, "metadata.amx", "became feature.amx", "write feature.amx"),
    (V26, {"metadata__pkru": 0}, "metadata.pkru", "came with Occlum 0.28.0", ""),
    (BIGDL, {"metadata__amx": 0}, "metadata.amx", "came with Occlum 0.30.0", ""),
    (BIGDL, {"metadata__disable_log": True}, "metadata.disable_log", "with Occlum 0.30.1", ""),
    (V300, {"feature": {}}, "feature", "came with Occlum 0.30.1", ""),
    (V301, {"feature__io_uring": 1}, "feature.io_uring", "came with Occlum 0.31.0", ""),
    (
        V290,
        {"resource_limits__kernel_space_heap_max_size": "1GB"},
    )
    * 1
    + ("resource_limits.kernel_space_heap_max_size", "came with Occlum 0.29.5", ""),
    (
        BIGDL,
        {"resource_limits__user_space_max_size": "1GB"},
    )
    * 1
    + ("resource_limits.user_space_max_size", "came with Occlum 0.30.0", ""),
    # missing keys
    *(
        (NEWEST, {path.replace(".", "__"): None}, path, "is missing", "add it")
        for path, key in KEYS.items()
        if key.required and "[" not in path
    ),
    (NEWEST, {"mount": mounts({"type": "ramfs"})}, "mount[1].target", "is missing", ""),
    (NEWEST, {"mount": mounts({"target": "/a"})}, "mount[1].type", "is missing", ""),
    # kinds
    (NEWEST, {"env": []}, "env", "expected an object, is a list", ""),
    (NEWEST, {"entry_points": "/bin"}, "entry_points", "a list of texts", "square brackets"),
    (NEWEST, {"entry_points": [1]}, "entry_points[0]", "expected a text, is 1", ""),
    (NEWEST, {"mount": {}}, "mount", "expected a list of objects", ""),
    (NEWEST, {"mount": [ROOT, 1]}, "mount[1]", "expected an object", ""),
    (NEWEST, {"metadata__debuggable": "false"}, "metadata.debuggable", "true or false", "quotes"),
    (NEWEST, {"metadata__product_id": "7"}, "metadata.product_id", "whole number", "write 7"),
    (NEWEST, {"metadata__product_id": True}, "metadata.product_id", "whole number", ""),
    (NEWEST, {"metadata__product_id": 1.0}, "metadata.product_id", "whole number", ""),
    (NEWEST, {"env__default": ["A=\0"]}, "env.default[0]", "zero byte", ""),
    # sizes
    *(
        (NEWEST, {path.replace(".", "__"): value}, path, problem, hint)
        for path, key in KEYS.items()
        if key.kind == "size" and "[" not in path
        for value, problem, hint in (
            ("1g", "no unit", '"1GB"'),
            ("1.5GB", "no whole number", '"1536MB"'),
            ("1024", "no unit", ""),
            (1024, "not a text", ""),
        )
    ),
    (
        NEWEST,
        {"resource_limits__user_space_size": "0GB"},
    )
    * 1
    + ("resource_limits.user_space_size", "no memory", ""),
    (
        NEWEST,
        {"resource_limits__user_space_size": "4097B"},
    )
    * 1
    + ("resource_limits.user_space_size", "not whole pages", '"8KB"'),
    (
        NEWEST,
        {"resource_limits__kernel_space_heap_size": "6KB"},
    )
    * 1
    + ("resource_limits.kernel_space_heap_size", "not whole pages", ""),
    (
        NEWEST,
        {"resource_limits__kernel_space_stack_size": "1B"},
    )
    * 1
    + ("resource_limits.kernel_space_stack_size", "not whole pages", '"4KB"'),
    # numbers
    (
        NEWEST,
        {"resource_limits__max_num_of_threads": 0},
    )
    * 1
    + ("resource_limits.max_num_of_threads", "out of range", "1 to"),
    (
        NEWEST,
        {"resource_limits__max_num_of_threads": "32"},
    )
    * 1
    + ("resource_limits.max_num_of_threads", "whole number", "without quotes"),
    (NEWEST, {"metadata__product_id": 65536}, "metadata.product_id", "65536 is out", "65535"),
    (NEWEST, {"metadata__version_number": -1}, "metadata.version_number", "-1 is out", ""),
    (NEWEST, {"feature__amx": 3}, "feature.amx", "out of range", "0 to 2"),
    (BIGDL, {"metadata__pkru": 3}, "metadata.pkru", "out of range", "0 to 2"),
    (NEWEST, {"feature__io_uring": 17}, "feature.io_uring", "out of range", "0 to 16"),
    # limits that do not fit
    (
        BIGDL,
        {"resource_limits__kernel_space_heap_max_size": "16MB"},
        "resource_limits.kernel_space_heap_max_size",
        "16MB is less than kernel_space_heap_size, 32MB",
        "not below",
    ),
    (
        BIGDL,
        {"resource_limits__kernel_space_heap_size": "2GB"},
        "resource_limits.kernel_space_heap_max_size",
        "left out, so it is 1GB, less than",
        '"2GB"',
    ),
    (
        NEWEST,
        {"resource_limits__user_space_size": "1TB", "resource_limits__max_num_of_threads": 1 << 31},
        "resource_limits",
        "address space",
        "",
    ),
    (
        NEWEST,
        {"process__default_heap_size": "300MB"},
        "process.default_heap_size",
        "304MB, are more than all user space, 300MB",
        "",
    ),
    # ids
    (NEWEST, {"metadata__family_id__high": "7"}, "metadata.family_id.high", "hexadecimal", '"0x7"'),
    (NEWEST, {"metadata__family_id__low": 7}, "metadata.family_id.low", "text like", '"0x7"'),
    (
        NEWEST,
        {"metadata__enable_kss": True, "metadata__ext_prod_id__low": "0x" + "1" * 17},
        "metadata.ext_prod_id.low",
        "64 bits",
        "16 digits",
    ),
    (
        NEWEST,
        {"metadata__family_id__low": "0x10"},
        "metadata.family_id.low",
        '"0x10" becomes 0',
        "enable_kss",
    ),
    # entry points and environment
    (NEWEST, {"entry_points": []}, "entry_points", "no program can be started", ""),
    (NEWEST, {"entry_points": ["bin"]}, "entry_points[0]", "not an absolute path", ""),
    (NEWEST, {"entry_points": ["/a/../b"]}, "entry_points[0]", "detours", ""),
    (NEWEST, {"entry_points": ["//a"]}, "entry_points[0]", "detours", ""),
    (NEWEST, {"entry_points": ["/a/"]}, "entry_points[0]", "detours", ""),
    (NEWEST, {"entry_points": ["/" + "a" * 5000]}, "entry_points[0]", "not an absolute", ""),
    (NEWEST, {"env__default": ["LANG"]}, "env.default[0]", "NAME=VALUE", ""),
    (NEWEST, {"env__default": ["=x"]}, "env.default[0]", "NAME=VALUE", ""),
    (NEWEST, {"env__default": ["A=1", "A=2"]}, "env.default[1]", "A is set already", ""),
    (NEWEST, {"env__untrusted": ["A=1"]}, "env.untrusted[0]", "not the name", "the name alone"),
    (NEWEST, {"env__untrusted": ["a b"]}, "env.untrusted[0]", "not the name", "letters"),
    # mounts
    (NEWEST, {"mount": []}, "mount", "no unionfs is mounted at /", "template"),
    (
        NEWEST,
        {"mount": [{"target": "/", "type": "sefs", "source": "."}]},
        "mount",
        "no unionfs",
        "",
    ),
    (NEWEST, {"mount": root()}, "mount[0].options.layers", "no layer of /", ""),
    (NEWEST, {"mount": root(LAYERS[1])}, "mount[0].options.layers", "no layer of /", "template"),
    (NEWEST, {"mount": root(LAYERS[0], LAYERS[0])}, "mount[0].options.layers", "more than one", ""),
    (NEWEST, {"mount": [ROOT, ROOT]}, "mount[1].target", "of mount[0] already", ""),
    (NEWEST, {"mount": root(LAYERS[0], ROOT)}, "mount[0].options.layers[1].type", "be a layer", ""),
    (
        NEWEST,
        {"mount": root(LAYERS[0], ROOT)},
        "mount[0].options.layers[1].options.layers",
        "no layers of its own",
        "",
    ),
    (
        NEWEST,
        {"mount": root(LAYERS[0] | {"options": {"MAC": "", "mac": ""}})},
        "mount[0].options.layers[0].options.mac",
        "not a key",
        "mount[].options.MAC",
    ),
    (
        NEWEST,
        {"mount": root(LAYERS[0] | {"options": {"MAC": "aa-bb"}})},
        "mount[0].options.layers[0].options.MAC",
        "no tag",
        "",
    ),
    (
        NEWEST,
        {"mount": mounts({"type": "nfs", "target": "/a"})},
        "mount[1].type",
        "no type",
        "sefs",
    ),
    (V301, {"mount": mounts({"type": "ext2", "target": "/a"})}, "mount[1].type", "0.31.0", ""),
    (
        NEWEST,
        {"mount": mounts({"type": "ramfs", "target": "a"})},
        "mount[1].target",
        "absolute",
        "",
    ),
    (NEWEST, {"mount": mounts({"type": "hostfs", "target": "/a"})}, "mount[1].source", "one", ""),
    (
        NEWEST,
        {"mount": mounts({"type": "unionfs", "target": "/a"})},
        "mount[1].options.layers",
        "needs layers",
        "",
    ),
    (
        NEWEST,
        {"mount": mounts({"type": "hostfs", "target": "/opt/app", "source": "."})},
        "mount[1].target",
        'the entry point "/opt/app/start"',
        "",
    ),
    *(
        (
            NEWEST,
            {"mount": mounts({"type": "ext2", "target": "/a", "options": options})},
            f"mount[1].options.{name}",
            problem,
            "",
        )
        for options, name, problem in (
            ({}, "disk_size", "needs one"),
            ({"disk_size": "4GB"}, "disk_size", "too small"),
            ({"disk_size": "5g"}, "disk_size", "no unit"),
            ({"disk_size": "5GB", "cache_size": "188KB"}, "cache_size", "too small"),
            ({"disk_size": "5GB", "cache_size": "193KB"}, "cache_size", "whole pages"),
            ({"disk_size": "5GB", "cache_size": "33MB"}, "cache_size", "kernel's heap, 32MB"),
            ({"disk_size": "5GB", "MAC": ""}, "MAC", "option of sefs"),
        )
    ),
]


@pytest.mark.parametrize(
    ("version", "changed", "key", "problem", "hint"),
    ERRORS,
    ids=[f"{row[0].name}-{row[2]}-{row[3]}"[:60] for row in ERRORS],
)
def test_each_broken_rule_is_an_error(
    version: OcclumVersion, changed: dict[str, Any], key: str, problem: str, hint: str
) -> None:
    findings = config_findings(document(version, **changed), version)
    found = [f for f in findings if f.key == key and problem in f.problem]
    assert found, [f.line for f in findings]
    assert found[0].severity == "error"
    assert hint in found[0].hint
    for finding in findings:
        assert finding.line.isprintable()
        assert finding.hint.isprintable()
        assert finding.hint
    with pytest.raises(UsageError):
        read_occlum_config(document(version, **changed), version)


def test_all_errors_are_collected_errors_first() -> None:
    broken = document(
        NEWEST,
        resource_limits__user_space_size="1g",
        env__untrusted=["a b"],
        mount=[],
        entry_points=["/bin"],
        metadata__product_id=99999,
    )
    found = config_findings(broken, NEWEST)
    keys = [finding.key for finding in found]
    assert keys == [
        *("env.untrusted[0]", "metadata.product_id", "mount"),
        *("resource_limits.user_space_size", "entry_points[0]"),
    ]
    with pytest.raises(UsageError, match=r"my\.json: env.*and 3 more"):
        read_occlum_config(broken, NEWEST, "my.json")


WARNINGS: list[tuple[OcclumVersion, dict[str, Any], str, str]] = [
    (
        V300,
        {"resource_limits__kernel_space_heap_max_size": "16MB"},
        "resource_limits.kernel_space_heap_max_size",
        "16MB replaces kernel_space_heap_size, 32MB",
    ),
    (
        NEWEST,
        {"resource_limits__kernel_space_heap_max_size": "1GB"},
        "resource_limits.kernel_space_heap_max_size",
        "replaces",
    ),
    (
        NEWEST,
        {"resource_limits__user_space_max_size": "1GB"},
        "resource_limits.user_space_max_size",
        "replaces user_space_size",
    ),
    (
        NEWEST,
        {"resource_limits__init_num_of_threads": 4},
        "resource_limits.init_num_of_threads",
        "no effect without EDMM",
    ),
    (BIGDL, {"process__default_mmap_size": "8GB"}, "process.default_mmap_size", "no effect"),
    *(
        (NEWEST, {"entry_points": [path]}, "entry_points[0]", "arguments of its choice")
        for path in (
            *("/", "/bin", "/usr/bin", "/usr/local/bin", "/usr", "/bin/sh", "/usr/bin/python3"),
            *("/usr/bin/python3.11", "/bin/busybox", "/opt/jdk/bin/java", "/opt/jdk/bin"),
            *("/usr/bin/env", "/usr/bin/node"),
        )
    ),
    (NEWEST, {"entry_points": ["/a/b", "/a/b"]}, "entry_points[1]", "already"),
    (NEWEST, {"env__default": [""]}, "env.default[0]", "sets nothing"),
    (NEWEST, {"env__default": ["DB_PASSWORD=hunter2"]}, "env.default[0]", "readable for everyone"),
    (NEWEST, {"env__untrusted": ["OCCLUM"]}, "env.untrusted[0]", "wins over the one in env.def"),
    (NEWEST, {"env__untrusted": ["LD_PRELOAD"]}, "env.untrusted[0]", "chooses the code"),
    (NEWEST, {"env__untrusted": ["JAVA_TOOL_OPTIONS"]}, "env.untrusted[0]", "chooses the code"),
    (NEWEST, {"env__untrusted": ["ATTESTATION_DEBUG"]}, "env.untrusted[0]", "attestation pass"),
    (NEWEST, {"env__untrusted": ["A", "A"]}, "env.untrusted[1]", "already"),
    (
        NEWEST,
        {"mount": mounts({"type": "hostfs", "target": "/host", "source": "."})},
        "mount[1]",
        'the files below "/host"',
    ),
    (
        NEWEST,
        {"mount": mounts({"type": "procfs", "target": "/proc"})},
        "mount[1]",
        "mounts /proc by itself",
    ),
]


@pytest.mark.parametrize(
    ("version", "changed", "key", "problem"),
    WARNINGS,
    ids=[f"{row[2]}-{row[3]}-{number}"[:70] for number, row in enumerate(WARNINGS)],
)
def test_what_is_unwise_is_a_warning(
    version: OcclumVersion, changed: dict[str, Any], key: str, problem: str
) -> None:
    findings = config_findings(document(version, **changed), version)
    found = about(findings, key)
    assert problem in found.problem
    assert {finding.severity for finding in findings} == {"warning"}
    assert not any("hunter2" in f.line + f.hint for f in findings)
    read_occlum_config(document(version, **changed), version)


def test_a_start_program_without_arguments_and_the_mounts_of_old_templates_are_fine() -> None:
    old = mounts({"type": "procfs", "target": "/proc"}, {"type": "devfs", "target": "/dev"})
    assert config_findings(document(V290, mount=old), V290) == ()
    assert config_findings(document(NEWEST, entry_points=["/opt/binary/x"]), NEWEST) == ()


def test_what_is_no_variable_is_not_shown() -> None:
    findings = config_findings(document(NEWEST, env__default=["hunter2"]), NEWEST)
    assert not any("hunter2" in finding.line + finding.hint for finding in findings)


# Debuggable


def test_a_debuggable_enclave_is_refused_for_a_release_and_a_warning_otherwise() -> None:
    debug = document(NEWEST, metadata__debuggable=True)
    assert about(config_findings(debug, NEWEST), "metadata.debuggable").severity == "error"
    relaxed = about(config_findings(debug, NEWEST, release=False), "metadata.debuggable")
    assert relaxed.severity == "warning"
    assert "asked for twice" in relaxed.hint
    assert read_occlum_config(debug, NEWEST).debuggable


@pytest.mark.parametrize("value", [False, None, "true", 1])
def test_nothing_but_true_is_debuggable(value: object) -> None:
    assert debug_finding(value) is None


@pytest.mark.parametrize("disable_log", [True, False])
def test_the_log_has_no_part_in_it(disable_log: bool) -> None:
    quiet = document(NEWEST, metadata__disable_log=disable_log)
    assert config_findings(quiet, NEWEST) == ()
    assert not read_occlum_config(quiet, NEWEST).debuggable
    assert read_occlum_config(quiet, NEWEST).disable_log is disable_log


# EDMM


def test_edmm_makes_the_maximum_a_maximum() -> None:
    heap = "resource_limits__kernel_space_heap_max_size"
    assert config_findings(document(NEWEST, **{heap: "1GB"}), NEWEST, edmm=True) == ()
    asked = document(NEWEST, **{heap: "1GB", "feature__enable_edmm": True})
    assert config_findings(asked, NEWEST) == ()
    for key, value in (
        (heap, "16MB"),
        ("resource_limits__user_space_max_size", "299MB"),
        ("resource_limits__init_num_of_threads", 33),
    ):
        findings = config_findings(document(NEWEST, **{key: value}), NEWEST, edmm=True)
        assert [f.key for f in findings] == [key.replace("__", ".")]
        assert findings[0].severity == "error"
        assert findings[0].stock


def test_a_process_may_have_what_user_space_grows_to() -> None:
    large = document(NEWEST, process__default_heap_size="15GB")
    assert config_findings(large, NEWEST, edmm=True) == ()
    assert config_findings(large, NEWEST) != ()


def test_a_cache_may_be_as_large_as_the_heap_grows_to() -> None:
    options = {"disk_size": "5GB", "cache_size": "1GB"}
    disk = document(NEWEST, mount=mounts({"type": "ext2", "target": "/a", "options": options}))
    assert config_findings(disk, NEWEST, edmm=True) == ()
    assert config_findings(disk, NEWEST) != ()


@pytest.mark.parametrize("version", [v for v in VERSIONS if not v.has_edmm], ids=lambda v: v.name)
def test_edmm_is_refused_where_there_is_none(version: OcclumVersion) -> None:
    found = about(config_findings(document(version), version, edmm=True), "feature.enable_edmm")
    assert f"{version.name} has no EDMM" in found.problem
    assert "0.30.0" in found.hint


# Typed values


def test_every_value_is_read() -> None:
    disk = {"disk_size": "10GB", "cache_size": "256KB", "temporary": True}
    config = read_occlum_config(
        document(
            NEWEST,
            resource_limits={
                "user_space_size": "8GB",
                "user_space_max_size": "9GB",
                "kernel_space_heap_size": "1GB",
                "kernel_space_heap_max_size": "2GB",
                "kernel_space_stack_size": "2MB",
                "max_num_of_threads": 64,
                "init_num_of_threads": 8,
            },
            env__default=["A=1=2", "B="],
            env__untrusted=["C"],
            metadata__product_id=65535,
            metadata__version_number=3,
            metadata__enable_kss=True,
            metadata__family_id={"high": "0x1", "low": "0xF"},
            metadata__ext_prod_id={"high": "0x0", "low": "0xffffffffffffffff"},
            feature={
                "amx": 1,
                "pkru": 2,
                "io_uring": 16,
                "enable_edmm": True,
                "enable_posix_shm": True,
            },
            mount=mounts({"type": "ext2", "target": "/disk", "options": disk}),
        ),
        NEWEST,
    )
    assert (config.user_space, config.user_space_max) == (8 << 30, 9 << 30)
    assert (config.kernel_heap, config.kernel_heap_max) == (1 << 30, 2 << 30)
    assert (config.kernel_stack, config.max_threads, config.init_threads) == (2 << 20, 64, 8)
    assert config.process == ProcessSizes(4 << 20, 32 << 20, 100 << 20)
    assert config.entry_points == ("/opt/app/start",)
    assert config.env_default == (("A", "1=2"), ("B", ""))
    assert config.env_untrusted == ("C",)
    assert (config.product_id, config.version_number) == (65535, 3)
    assert (config.family_id, config.ext_prod_id) == (1 << 64 | 15, (1 << 64) - 1)
    assert config.features == Features(1, 2, 16, True, True)
    assert config.disable_log  # follows debuggable
    assert config.mounts == (
        Mount(
            "unionfs",
            "/",
            layers=(
                Mount("sefs", "/", "./build/mount/__ROOT", ""),
                Mount("sefs", "/", "./run/mount/__ROOT"),
            ),
        ),
        Mount("ext2", "/disk", temporary=True, cache_size=256 << 10, disk_size=10 << 30),
    )


def test_ids_are_zero_without_kss_and_features_are_in_metadata_before_0_30_1() -> None:
    config = read_occlum_config(document(V300, metadata__pkru=1, metadata__amx=2), V300)
    assert config.features == Features(amx=2, pkru=1)
    assert (config.family_id, config.ext_prod_id, config.disable_log) == (0, 0, False)


# Text


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"a": 1, "a": 2}', "'a' is given twice"),
        (b'{"a": NaN}', "NaN is no JSON"),
        (b'{"a": -Infinity}', "no JSON"),
        (b'{"a": ' + b"1" * 5000 + b"}", "too long"),
        (b'{"a": ' + b"[" * 100000, "nested too deeply"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a": "\\ud800"}', "not UTF-8"),
        (b" " * (MAX_BYTES + 1), "larger than"),
    ],
    ids=range(11),
)
def test_what_is_no_document_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        parse_document(data, "x.json")
    assert caught.value.problem.startswith("x.json")


def test_a_document_is_read_with_a_byte_order_mark() -> None:
    assert parse_document(b'\xef\xbb\xbf{"a": "\xc3\xa4"}') == {"a": "ä"}


def test_a_document_full_of_unknown_keys_is_judged_in_time() -> None:
    many = {f"unknown_key_{number}": number for number in range(20000)}
    layers = [{f"zzz{number}": 1} for number in range(2000)]
    data = json.dumps(document(NEWEST) | many | {"mount": layers}).encode()
    found = config_findings(parse_document(data), NEWEST)
    assert len(found) > 25000


# Whatever the JSON

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["1GB", "1g", "/", "/bin", "0x1", "A=1", "hostfs", "unionfs", "sefs", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(sorted({p.rpartition(".")[2].rstrip("[]") for p in KEYS}))
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def check(value: object, version: OcclumVersion, edmm: bool) -> None:
    findings = config_findings(value, version, edmm=edmm)
    for finding in findings:
        assert finding.line.isprintable()
        assert finding.hint.isprintable()
    errors = [f for f in config_findings(value, version, release=False) if f.severity == "error"]
    try:
        read_occlum_config(value, version)
    except ImagekitError as error:
        assert errors
        assert error.problem.isprintable()
    else:
        assert not errors


@settings(max_examples=150, deadline=None)
@given(JSON, st.sampled_from(VERSIONS), st.booleans())
def test_any_json_gives_findings(value: Any, version: OcclumVersion, edmm: bool) -> None:
    check(value, version, edmm)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    found = [path] if path else []
    for key, child in items:
        found += places(child, (*path, key))
    return found


FULL = document(
    NEWEST,
    mount=mounts(
        {"type": "ext2", "target": "/a", "options": {"disk_size": "5GB", "cache_size": "1MB"}},
        {"type": "hostfs", "target": "/host", "source": "."},
    ),
    resource_limits__user_space_max_size="1GB",
    resource_limits__kernel_space_heap_max_size="1GB",
    resource_limits__init_num_of_threads=4,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(places(FULL)), JSON, st.sampled_from(VERSIONS), st.booleans())
def test_any_value_anywhere_gives_findings(
    path: tuple[Any, ...], value: Any, version: OcclumVersion, edmm: bool
) -> None:
    tree = copy.deepcopy(FULL)
    place: Any = tree
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    check(tree, version, edmm)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60) | st.text('{}[]:,"\\ud80 1eE.-nulltrue', max_size=40).map(str.encode))
def test_any_bytes_are_a_document_or_an_input_error(data: bytes) -> None:
    try:
        found = parse_document(data)
    except InputError as error:
        assert error.problem.isprintable()
    else:
        json.dumps(found, ensure_ascii=False).encode()
