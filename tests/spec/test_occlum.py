"""The section ``occlum`` of a project file, and what BigDL's variables in it change elsewhere."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from imagekit.enclave.occlum.sizes import parse_occlum_size
from imagekit.enclave.occlum.versions import occlum_version
from imagekit.errors import UsageError
from imagekit.spec.fields import parse_yaml
from imagekit.spec.keys import KEYS, OCCLUM_THREADS, names
from imagekit.spec.occlum_rules import check_occlum
from imagekit.spec.options import (
    EnclaveOptions,
    OcclumFeatures,
    OcclumKss,
    OcclumMount,
    OcclumOptions,
    OcclumProcess,
)
from imagekit.spec.project import Project, parse_project

LEAST = """\
schema: 1
image: team/x
tag: 1.0
libos: occlum
base: {image: "oci:base"}
matrix: {epc: [8g], log: [debug]}
"""

FULL = (
    LEAST
    + """\
enclave: {edmm: true}
occlum:
  version: v0.31.0
  template: my.template
  define: {b: 2, a: "1"}
  kernel_heap: 512MB
  kernel_heap_max: 2 GB
  kernel_stack: 2MB
  user_space_max: 16GB
  init_threads: 8
  process: {stack: 8MB, heap: 256MB, mmap: 1GB}
  entry_points: [/opt/b, /opt/a]
  mounts:
    - {type: hostfs, target: /data, source: ./data}
    - type: ext2
      target: /disk
      options: {temporary: true, cache_size: 1024KB, disk_size: 10240MB}
  features: {amx: 1, pkru: 2, io_uring: 16, posix_shm: true}
  kss: {family_id: 0123456789ABCDEF0123456789abcdef, ext_prod_id: 00000000000000000000000000000001}
  disable_log: true
  epc_request: 20Gi
  environment:
    ENABLE_SGX_DEBUG: "true"
    SGX_LOG_LEVEL: debug
    SGX_MEM_SIZE: 8GB
"""
)


def read(text: str) -> Project:
    return parse_project(parse_yaml(text, "imagekit.yaml"), Path("folder/imagekit.yaml"))


def refused(text: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        read(text)
    assert caught.value.problem.startswith("imagekit.yaml:")
    for line in (caught.value.problem, caught.value.hint):
        assert line.isprintable(), line
        assert line
    return caught.value


def test_every_key_of_a_full_section_is_read() -> None:
    assert set(yaml.safe_load(FULL)["occlum"]) == set(names("occlum"))
    project = read(FULL)
    assert project.occlum == OcclumOptions(
        version="0.31.0",
        template=Path("folder/my.template"),
        define=(("a", "1"), ("b", "2")),
        kernel_heap=512 << 20,
        kernel_heap_max=2 << 30,
        kernel_stack=2 << 20,
        user_space_max=16 << 30,
        init_threads=8,
        process=OcclumProcess(8 << 20, 256 << 20, 1 << 30),
        entry_points=("/opt/b", "/opt/a"),
        mounts=(
            OcclumMount("hostfs", "/data", "./data"),
            OcclumMount(
                "ext2",
                "/disk",
                None,
                (("cache_size", "1MB"), ("disk_size", "10GB"), ("temporary", True)),
            ),
        ),
        features=OcclumFeatures(1, 2, 16, True),
        kss=OcclumKss("0123456789abcdef" * 2, "0" * 31 + "1"),
        disable_log=True,
        epc_request=20 << 30,
        environment=(
            ("ENABLE_SGX_DEBUG", "true"),
            ("SGX_LOG_LEVEL", "debug"),
            ("SGX_MEM_SIZE", "8GB"),
        ),
    )
    assert project.enclave == EnclaveOptions(OCCLUM_THREADS, debug=True, edmm=True)


def test_the_least_file_has_the_documented_defaults() -> None:
    options = read(LEAST).occlum
    assert options == OcclumOptions() == read(LEAST + "occlum: {}\n").occlum
    for name in ("kernel_heap", "kernel_stack"):
        assert parse_occlum_size(KEYS[f"occlum.{name}"].default) == getattr(options, name)
    for name in names("occlum.process"):
        default = KEYS[f"occlum.process.{name}"].default
        assert parse_occlum_size(default) == getattr(options.process, name)
    for name in names("occlum.features"):
        assert KEYS[f"occlum.features.{name}"].default == getattr(options.features, name)
    for name in names("occlum.kss"):
        assert KEYS[f"occlum.kss.{name}"].default == getattr(OcclumKss(), name)


def test_an_enclave_of_occlum_has_bigdls_number_of_threads_unless_told() -> None:
    assert str(OCCLUM_THREADS) in KEYS["enclave.max_threads"].text
    assert read(LEAST).enclave.max_threads == OCCLUM_THREADS
    assert read(LEAST + "enclave: {isv_svn: 1}\n").enclave.max_threads == OCCLUM_THREADS
    assert read(LEAST + "enclave: {max_threads: 1024}\n").enclave.max_threads == 1024
    assert read(LEAST.replace("occlum", "gramine")).enclave.max_threads == 1024


# BigDL's names


def environment(**values: str) -> str:
    return f"occlum:\n  environment: {yaml_map(values)}\n"


def yaml_map(values: dict[str, str]) -> str:
    return "{" + ", ".join(f"{name}: {value}" for name, value in values.items()) + "}"


def test_variables_set_what_no_other_key_says() -> None:
    project = read(
        LEAST
        + environment(
            SGX_THREAD="1024",
            SGX_KERNEL_HEAP="2GB",
            ENABLE_SGX_DEBUG='"true"',
            USING_TMP_HOSTFS='"true"',
            MALLOC_ARENA_MAX="1",
            SGX_MEM_SIZE="8GB",
            SGX_LOG_LEVEL="debug",
        )
    )
    assert project.enclave == EnclaveOptions(1024, debug=True)
    assert (project.occlum.kernel_heap, project.occlum.kernel_heap_max) == (2 << 30, 2 << 30)
    assert project.occlum.mounts == (OcclumMount("hostfs", "/tmp", "./shuffle"),)
    assert project.launch.env == (("MALLOC_ARENA_MAX", "1"),)


def test_variables_may_repeat_what_another_key_says() -> None:
    project = read(
        LEAST
        + "enclave: {max_threads: 256, debug: false}\n"
        + "launch: {env: {MALLOC_ARENA_MAX: 1, A: b}}\n"
        + environment(
            SGX_THREAD="256",
            ENABLE_SGX_DEBUG='"false"',
            MALLOC_ARENA_MAX="1",
            SGX_KERNEL_HEAP="1GB",
            USING_TMP_HOSTFS='"true"',
        )
        + "  kernel_heap: 1024MB\n"
        + "  mounts: [{type: hostfs, target: /tmp, source: ./shuffle}]\n"
    )
    assert project.enclave.max_threads == 256
    assert project.launch.env == (("A", "b"), ("MALLOC_ARENA_MAX", "1"))
    assert len(project.occlum.mounts) == 1


def test_a_debug_log_does_not_make_a_debug_enclave() -> None:
    assert not read(LEAST + environment(SGX_LOG_LEVEL="debug")).enclave.debug


ARENAS = environment(MALLOC_ARENA_MAX="1")


@pytest.mark.parametrize(
    ("text", "problem", "hint"),
    [
        # other sections
        (LEAST + "gramine: {}", "gramine: concerns gramine, and libos is occlum", "leave it out"),
        (LEAST + "encrypted: [{path: /a}]", "encrypted: is of Gramine", "libos: gramine"),
        (LEAST.replace("occlum", "gramine") + "occlum: {}", "occlum: concerns occlum", ""),
        # keys
        (LEAST + "occlum: {kernel_heep: 1GB}", "kernel_heep: unknown key", "kernel_heap"),
        (LEAST + "occlum: {untrusted: [A]}", "occlum.untrusted: unknown key", ""),
        (LEAST + "occlum: []", "occlum: expected a mapping", ""),
        (LEAST + "occlum: {version: 0.29}", "patch release open", "0.29.7"),
        (LEAST + "occlum: {version: 0.32.0}", "the rules of Occlum 0.32.0", "known: 0.26.x"),
        (LEAST + "occlum: {kernel_heap: 1g}", '"1g" has no unit', 'write "1GB"'),
        (LEAST + "occlum: {kernel_heap: 1.5GB}", "no whole number", '"1536MB"'),
        (LEAST + "occlum: {kernel_heap: 1024}", "no unit", ""),
        (LEAST + "occlum: {kernel_heap: 0GB}", "not whole pages", "next is 4KB"),
        (LEAST + "occlum: {kernel_stack: 5KB}", "not whole pages", "next is 8KB"),
        (LEAST + "occlum: {kernel_heap_max: 512MB}", "512MB is less than kernel_heap, 1GB", ""),
        (LEAST + "occlum: {process: {heap: 1g}}", "occlum.process.heap: ", '"1GB"'),
        (LEAST + "occlum: {init_threads: 0}", "0 is out of range", "1 to 4096"),
        (LEAST + "occlum: {entry_points: [bin]}", "not an absolute path", ""),
        (LEAST + "occlum: {entry_points: [/a, /a]}", "given twice", ""),
        (LEAST + "occlum: {features: {amx: 3}}", "3 is out of range", "0 to 2"),
        (LEAST + "occlum: {features: {io_uring: 17}}", "17 is out of range", "0 to 16"),
        (LEAST + "occlum: {features: {posix_shm: 1}}", "expected true or false", ""),
        (LEAST + "occlum: {kss: {family_id: '0x1'}}", "not a number of 32 hex digits", ""),
        (LEAST + "occlum: {disable_log: 1}", "expected true or false", ""),
        (LEAST + "occlum: {epc_request: 16GB}", "not a quantity of Kubernetes", "16Gi"),
        # mounts
        (LEAST + "occlum: {mounts: [{type: nfs, target: /a}]}", '"nfs" is not allowed', "hostfs"),
        (LEAST + "occlum: {mounts: [{type: ramfs}]}", 'key "target" is missing', ""),
        (LEAST + "occlum: {mounts: [{type: ramfs, target: a}]}", "not an absolute path", ""),
        (LEAST + "occlum: {mounts: [{type: hostfs, target: /a}]}", "needs a source", ""),
        (LEAST + "occlum: {mounts: [{type: ext2, target: /a}]}", "needs options.disk_size", "5GB"),
        *(
            (
                LEAST + f"occlum: {{mounts: [{{type: ramfs, target: {target}}}]}}",
                "the image has its own files",
                "another folder",
            )
            for target in ("/", "/proc", "/dev", "/opt", "/opt/imagekit", "/opt/imagekit/etc")
        ),
        (
            LEAST + "occlum: {mounts: [{type: ramfs, target: /a}, {type: ramfs, target: /a}]}",
            "/a is a target already",
            "line 7",
        ),
        (
            LEAST + "occlum: {mounts: [{type: ramfs, target: /a, options: {disk_size: 5GB}}]}",
            "option of ext2, not of ramfs",
            "",
        ),
        (
            LEAST + "occlum: {mounts: [{type: ramfs, target: /a, options: {cache_size: 4KB}}]}",
            "too small",
            "192KB",
        ),
        # what a version does not have
        (
            LEAST + "enclave: {edmm: true}\nocclum: {version: 0.29.7}",
            "enclave.edmm: Occlum",
            "0.30",
        ),
        (
            LEAST + "occlum: {version: 0.29.0, kernel_heap_max: 2GB}",
            "occlum.kernel_heap_max: Occlum 0.29.0 does not have it",
            "0.29.5 or later",
        ),
        (LEAST + "occlum: {version: 0.29.7, features: {amx: 1}}", "features.amx", "0.30.0"),
        (LEAST + "occlum: {version: 0.27.0, features: {pkru: 1}}", "features.pkru", "0.28.0"),
        (LEAST + "occlum: {version: 0.30.1, features: {io_uring: 1}}", "io_uring", "0.31.0"),
        (LEAST + "occlum: {version: 0.30.0, features: {posix_shm: true}}", "posix_shm", "0.30.1"),
        (LEAST + "occlum: {version: 0.30.0, disable_log: false}", "disable_log", "0.30.1"),
        (
            LEAST + "occlum: {version: 0.30.1, "
            "mounts: [{type: ext2, target: /a, options: {disk_size: 5GB}}]}",
            "does not have ext2",
            "0.31.0",
        ),
        (LEAST + "occlum: {user_space_max: 16GB}", "user_space_max: is for EDMM", "edmm: true"),
        (LEAST + "occlum: {init_threads: 4}", "init_threads: is for EDMM", "edmm: true"),
        # variables
        (LEAST + environment(SGX_HEAP="1GB"), "environment.SGX_HEAP: has no effect", "heap"),
        (LEAST + environment(META_SPACE="1g"), "environment.META_SPACE: has no effect", ""),
        (LEAST + environment(SGX_MEMORY_SIZE="8GB"), "SGX_MEM_SIZE is what they know", "write"),
        (LEAST + environment(PCCS_URL="x"), "no setting of a build", "is started"),
        (LEAST + environment(SGX_KERNEL_HEAP="1g"), '"1g" has no unit', '"1GB"'),
        (LEAST + environment(SGX_MEM_SIZE="15GB"), "contradicts matrix.epc, which is 8g", "leave"),
        (
            LEAST.replace("[8g]", "[8g, 16g]") + environment(SGX_MEM_SIZE="8GB"),
            "which is 8g, 16g",
            "",
        ),
        (
            LEAST + environment(SGX_LOG_LEVEL='"off"'),
            '"off" contradicts matrix.log, which is debug',
            "never makes an enclave debuggable",
        ),
        (LEAST + environment(SGX_THREAD="5000"), "5000 is out of range", "1 to 4096"),
        (LEAST + environment(ENABLE_SGX_DEBUG="true"), "found true", "quote it"),
        (
            LEAST + "enclave: {max_threads: 512}\n" + environment(SGX_THREAD="256"),
            '"256" contradicts enclave.max_threads, which is 512',
            "one of the two",
        ),
        (
            LEAST + "enclave: {debug: true}\n" + environment(ENABLE_SGX_DEBUG='"false"'),
            "contradicts enclave.debug, which is true",
            "",
        ),
        (
            LEAST + environment(SGX_KERNEL_HEAP="2GB") + "  kernel_heap: 1GB",
            "contradicts occlum.kernel_heap, which is 1GB",
            "",
        ),
        (
            LEAST + environment(SGX_KERNEL_HEAP="2GB") + "  kernel_heap_max: 4GB",
            "contradicts occlum.kernel_heap_max, which is 4GB",
            "",
        ),
        (
            LEAST + environment(USING_TMP_HOSTFS='"false"') + "  mounts: [{type: hostfs, "
            "target: /tmp, source: ./shuffle}]",
            "says something else about /tmp",
            "",
        ),
        (
            LEAST + environment(USING_TMP_HOSTFS='"true"') + "  mounts: [{type: ramfs, "
            "target: /tmp}]",
            "says something else about /tmp",
            "",
        ),
        (
            LEAST + "launch: {env: {MALLOC_ARENA_MAX: 4}}\n" + ARENAS,
            "contradicts launch.env.MALLOC_ARENA_MAX, which is 4",
            "",
        ),
        (
            LEAST + "launch: {passthrough: [MALLOC_ARENA_MAX]}\n" + ARENAS,
            "launch.passthrough leaves its value to the host",
            "",
        ),
    ],
)
def test_what_is_wrong_is_said_with_line_key_and_a_way_out(
    text: str, problem: str, hint: str
) -> None:
    error = refused(text)
    assert problem in error.problem
    assert hint in error.hint


@pytest.mark.parametrize("name", ["API_KEY", "APP_ID", "APIKEY", "SOMETHING"])
@pytest.mark.parametrize("value", ["hunter2", "[hunter2]", "'hunter2'"])
def test_a_value_that_may_be_a_secret_is_not_shown(name: str, value: str) -> None:
    error = refused(LEAST + environment(**{name: value}))
    assert name in error.problem
    assert "hunter2" not in error.problem + error.hint


def test_the_message_names_the_line_of_the_key() -> None:
    text = LEAST + "occlum:\n  version: 0.29.7\n  features:\n    amx: 1\n"
    assert refused(text).problem.startswith("imagekit.yaml:10: occlum.features.amx: ")


def test_a_version_found_in_the_base_is_held_against_the_project() -> None:
    project = read(LEAST + "occlum: {features: {io_uring: 1}}\n")
    check_occlum(project, occlum_version("0.31.0"))
    with pytest.raises(UsageError, match=r"imagekit\.yaml: occlum\.features\.io_uring: Occlum 0"):
        check_occlum(project, occlum_version("0.30.1"))
    with pytest.raises(UsageError, match=r"enclave\.edmm"):
        check_occlum(read(LEAST + "enclave: {edmm: true}\n"), occlum_version("0.29.7"))


# Whatever YAML

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["1GB", "1g", "/", "/a", "0x1", "16Gi", "true", "ext2", "0.29.7", "a\nb"])
)
WORDS = st.sampled_from(
    [part.rstrip("[]") for path in KEYS if path.startswith("occlum") for part in path.split(".")]
    + ["SGX_THREAD", "SGX_MEM_SIZE", "API_KEY"]
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=8,
)
TREE = yaml.load(FULL, yaml.BaseLoader)


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(sorted(TREE["occlum"])), VALUES, st.none() | WORDS)
def test_any_value_anywhere_is_read_or_a_usage_error(
    name: str, value: Any, inner: str | None
) -> None:
    tree = yaml.load(FULL, yaml.BaseLoader)
    place = tree["occlum"]
    if inner is not None and isinstance(place[name], dict):
        place, name = place[name], inner
    place[name] = value
    try:
        project = read(yaml.safe_dump(tree))
    except UsageError as error:
        assert error.problem.isprintable()
        assert error.hint.isprintable()
    else:
        assert hash(project) is not None
        assert project.occlum.kernel_heap % 4096 == 0
