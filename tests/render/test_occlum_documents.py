"""``Occlum.json`` from the profiles' templates and from templates of the user's own."""

import copy
import itertools
import json
import random
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from occlum_documents import VERSIONS

from imagekit.enclave.findings import ERROR
from imagekit.enclave.occlum.config import config_findings, read_occlum_config
from imagekit.enclave.occlum.versions import OcclumVersion, occlum_version
from imagekit.errors import InputError, UsageError
from imagekit.render.occlum import (
    OcclumInputs,
    OcclumJson,
    canonical_text,
    render_occlum,
    template_variables,
)
from imagekit.render.occlum_agreement import check_agrees
from imagekit.spec.options import (
    OcclumFeatures,
    OcclumKss,
    OcclumMount,
    OcclumOptions,
    OcclumProcess,
)

ROOT = Path(__file__).parents[2]
GIB = 1 << 30
WHERE = "occlum-16g-error-dcap of imagekit.yaml"
BIGDL = occlum_version("0.29.7")
INPUTS = OcclumInputs(
    version=BIGDL,
    profile="strict",
    user_space=16 * GIB,
    log="error",
    attestation="dcap",
    max_threads=512,
    product_id=1,
    version_number=3,
    debug=False,
    edmm=False,
    environment={"PATH": "/usr/bin:/bin", "MODE": "fixed"},
    passthrough=("POD_NAME",),
    options=OcclumOptions(),
    python_lib="/usr/lib/python3.8",
    java_home="/usr/lib/jvm/java-8-openjdk-amd64",
    spark_home="/opt/spark",
)
ALL = list(itertools.product(VERSIONS, ("strict", "compat")))
NAMES = [f"{version.name}-{profile}" for version, profile in ALL]


def document(inputs: OcclumInputs) -> dict[str, Any]:
    return dict(render_occlum(inputs).document)


def since(version: OcclumVersion, *number: int) -> bool:
    return version.number >= number


@pytest.mark.parametrize(("version", "profile"), ALL, ids=NAMES)
def test_a_document_has_exactly_the_keys_of_its_version(version, profile):
    found = document(replace(INPUTS, version=version, profile=profile))
    limits = {"user_space_size", "kernel_space_heap_size", "kernel_space_stack_size"}
    limits |= {"max_num_of_threads"}
    metadata = {"product_id", "version_number", "debuggable", "enable_kss"}
    metadata |= {"family_id", "ext_prod_id"}
    top = {"resource_limits", "process", "entry_points", "env", "metadata", "mount"}
    if since(version, 0, 29, 5):
        limits |= {"kernel_space_heap_max_size"}
    if since(version, 0, 30, 1):
        metadata |= {"disable_log"}
        feature = {"amx", "pkru", "enable_edmm", "enable_posix_shm"}
        feature |= {"io_uring"} if since(version, 0, 31, 0) else set()
        assert set(found["feature"]) == feature
        top |= {"feature"}
    elif since(version, 0, 28, 0):
        metadata |= {"pkru"} | ({"amx"} if since(version, 0, 30, 0) else set())
    assert set(found) == top
    assert set(found["resource_limits"]) == limits
    assert set(found["metadata"]) == metadata
    targets = ["/"] if since(version, 0, 29, 6) else ["/", "/proc", "/dev"]
    targets += ["/host"] if profile == "compat" else []
    assert [mount["target"] for mount in found["mount"]] == targets


@pytest.mark.parametrize(("version", "profile"), ALL, ids=NAMES)
@pytest.mark.parametrize("debug", [False, True])
def test_a_document_keeps_the_rules_of_its_version(version, profile, debug):
    inputs = replace(INPUTS, version=version, profile=profile, debug=debug)
    rendered = render_occlum(inputs)
    findings = config_findings(rendered.document, version, release=False)
    assert [f.line for f in findings if f.severity == ERROR] == []
    others = [f.line for f in findings if f.key != "metadata.debuggable"]
    assert (others == []) == (profile == "strict"), others
    check_agrees(rendered, inputs, WHERE)
    assert json.loads(rendered.text) == rendered.document
    assert json.loads(rendered.source) == rendered.document


def test_the_least_of_a_base_is_enough():
    for profile in ("strict", "compat"):
        inputs = replace(
            INPUTS, profile=profile, java_home="", spark_home="", environment={}, passthrough=()
        )
        rendered = render_occlum(inputs)
        read_occlum_config(rendered.document, BIGDL)
        check_agrees(rendered, inputs, WHERE)
        assert not any("//" in entry for entry in rendered.document["entry_points"])


def test_strict_opens_one_program_and_two_names():
    found = document(INPUTS)
    assert found["entry_points"] == ["/opt/imagekit/enclave"]
    assert found["env"]["untrusted"] == ["IMAGEKIT_REQUEST", "POD_NAME"]
    default = dict(entry.split("=", 1) for entry in found["env"]["default"])
    assert default["MODE"] == "fixed"
    assert default["IMAGEKIT_LIBOS"] == "occlum"
    assert default["IMAGEKIT_ENCLAVE_SIZE"] == "16G"
    assert default["IMAGEKIT_ATTESTATION"] == "dcap"
    assert found["env"]["default"] == sorted(found["env"]["default"])
    assert {mount["type"] for mount in found["mount"]} == {"unionfs"}


def test_compat_is_bigdls_document():
    found = document(replace(INPUTS, profile="compat", environment={}, passthrough=()))
    java = "/usr/lib/jvm/java-8-openjdk-amd64"
    assert found["entry_points"][:2] == [f"{java}/bin", "/bin"]
    assert found["env"]["untrusted"] == [
        *("IMAGEKIT_REQUEST", "KUBECONFIG", "MALLOC_ARENA_MAX", "ATTESTATION_DEBUG"),
        *("DMLC_TRACKER_URI", "SPARK_DRIVER_URL", "SPARK_TESTING", "_SPARK_AUTH_SECRET"),
    ]
    names = {entry.split("=", 1)[0] for entry in found["env"]["default"]}
    assert {
        *("OCCLUM", "PYTHONHOME", "LD_LIBRARY_PATH", "SPARK_CONF_DIR", "SPARK_ENV_LOADED"),
        *("PYTHONHASHSEED", "SPARK_HOME", "SPARK_SCALA_VERSION", "SPARK_JARS_DIR"),
        "LAUNCH_CLASSPATH",
    } <= names
    assert "PYTHONHASHSEED=0" in found["env"]["default"]
    assert found["mount"][-1] == {"target": "/host", "type": "hostfs", "source": "."}
    assert found["resource_limits"]["kernel_space_heap_size"] == "1GB"
    assert found["resource_limits"]["kernel_space_heap_max_size"] == "1GB"


@pytest.mark.parametrize("profile", ["strict", "compat"])
def test_no_name_is_both_fixed_and_left_to_the_host(profile):
    environment = dict.fromkeys(("MALLOC_ARENA_MAX", "SPARK_TESTING", "POD_NAME"), "1")
    inputs = replace(
        INPUTS,
        profile=profile,
        environment=environment,
        passthrough=("POD_NAME", "SPARK_HOME", "LANG", "IMAGEKIT_LIBOS"),
    )
    rendered = render_occlum(inputs)
    env = rendered.document["env"]
    default = [entry.split("=", 1)[0] for entry in env["default"]]
    assert not set(default) & set(env["untrusted"])
    assert len(set(default)) == len(default)
    assert "MALLOC_ARENA_MAX=1" in env["default"] and "SPARK_TESTING=1" in env["default"]
    assert "IMAGEKIT_LIBOS=occlum" in env["default"]  # nobody leaves that to the host
    check_agrees(rendered, inputs, WHERE)


@pytest.mark.parametrize(
    ("log", "given", "expected"),
    [
        ("off", None, True),
        ("error", None, False),
        ("debug", None, False),
        ("error", True, True),
        ("off", False, False),
    ],
)
def test_the_log_is_off_where_cell_or_project_say_so(log, given, expected):
    options = OcclumOptions(disable_log=given)
    for version in (occlum_version("0.30.1"), occlum_version("0.31.0")):
        found = document(replace(INPUTS, version=version, log=log, options=options))
        assert found["metadata"]["disable_log"] is expected
        assert found["metadata"]["debuggable"] is False


def test_what_the_project_says_about_occlum_stands_in_the_document():
    options = OcclumOptions(
        kernel_heap=2 * GIB,
        kernel_heap_max=3 * GIB,
        kernel_stack=2 << 20,
        user_space_max=32 * GIB,
        init_threads=16,
        process=OcclumProcess(stack=8 << 20, heap=64 << 20),
        entry_points=("/opt/own", "/opt/imagekit/enclave"),
        mounts=(
            OcclumMount("hostfs", "/tmp", "./shuffle"),
            OcclumMount("ext2", "/ext", None, (("disk_size", "5GB"), ("temporary", True))),
        ),
        features=OcclumFeatures(amx=2, pkru=1, io_uring=4, posix_shm=True),
        kss=OcclumKss("00000000000000010000000000000002", "f" * 32),
    )
    version = occlum_version("0.31.0")
    inputs = replace(INPUTS, version=version, options=options, edmm=True, debug=True)
    rendered = render_occlum(inputs)
    check_agrees(rendered, inputs, WHERE)
    config = read_occlum_config(rendered.document, version)
    assert (config.kernel_heap, config.kernel_heap_max) == (2 * GIB, 3 * GIB)
    assert (config.user_space, config.user_space_max) == (16 * GIB, 32 * GIB)
    assert (config.max_threads, config.init_threads, config.kernel_stack) == (512, 16, 2 << 20)
    assert (config.process.stack, config.process.heap) == (8 << 20, 64 << 20)
    assert config.entry_points == ("/opt/imagekit/enclave", "/opt/own")
    assert [(m.type, m.target, m.source) for m in config.mounts[1:]] == [
        ("hostfs", "/tmp", "./shuffle"),
        ("ext2", "/ext", None),
    ]
    assert config.mounts[2].temporary and config.mounts[2].disk_size == 5 * GIB
    features = config.features
    assert (features.amx, features.pkru, features.io_uring) == (2, 1, 4)
    assert features.edmm and features.posix_shm and config.debuggable
    assert (config.family_id, config.ext_prod_id) == (1 << 64 | 2, (1 << 128) - 1)
    assert config.enable_kss and (config.product_id, config.version_number) == (1, 3)


def test_features_of_0_30_0_stand_in_its_metadata():
    version = occlum_version("0.30.0")
    options = OcclumOptions(features=OcclumFeatures(amx=1, pkru=2))
    metadata = document(replace(INPUTS, version=version, options=options))["metadata"]
    assert (metadata["amx"], metadata["pkru"]) == (1, 2)


# -- the text


def shuffled(value: Any, source: random.Random) -> Any:
    if isinstance(value, dict):
        keys = list(value)
        source.shuffle(keys)
        return {key: shuffled(value[key], source) for key in keys}
    return [shuffled(item, source) for item in value] if isinstance(value, list) else value


@given(st.sampled_from(ALL), st.randoms(use_true_random=False))
def test_the_text_does_not_depend_on_the_order_of_a_templates_keys(which, source):
    version, profile = which
    rendered = render_occlum(replace(INPUTS, version=version, profile=profile))
    again = canonical_text(shuffled(rendered.document, source), version)
    assert again == rendered.text


def test_the_text_has_occlums_order_and_form():
    text = render_occlum(replace(INPUTS, version=occlum_version("0.31.0"))).text.decode()
    assert text.startswith('{\n  "resource_limits": {\n    "user_space_size": "16GB",\n')
    assert text.endswith("\n}\n") and "\t" not in text and " \n" not in text
    assert list(json.loads(text)) == [
        *("resource_limits", "process", "entry_points", "env", "metadata", "feature", "mount"),
    ]
    assert list(json.loads(text)["mount"][0]) == ["target", "type", "options"]


def test_an_unknown_key_is_kept_for_the_check_to_find():
    found = document(INPUTS) | {"zeta": {"b": 1, "a": [{"d": 1, "c": 2}]}, "alpha": 1}
    text = canonical_text(found, BIGDL).decode()
    assert list(json.loads(text))[-2:] == ["alpha", "zeta"]
    assert list(json.loads(text)["zeta"]) == ["a", "b"]
    assert config_findings(json.loads(text), BIGDL)[0].severity == ERROR


@given(
    st.dictionaries(
        st.from_regex("[A-Z_][A-Z0-9_]{0,8}", fullmatch=True),
        st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=30),
        max_size=5,
    ),
    st.sampled_from(["strict", "compat"]),
)
def test_no_value_breaks_out_of_its_place(environment, profile):
    inputs = replace(INPUTS, environment=environment, profile=profile)
    rendered = render_occlum(inputs)
    check_agrees(rendered, inputs, WHERE)
    plain = document(replace(inputs, environment={}))
    assert rendered.document.keys() == plain.keys()
    assert rendered.document["mount"] == plain["mount"]
    default = rendered.document["env"]["default"]
    open_names = rendered.document["env"]["untrusted"]
    for name, value in environment.items():
        assert f"{name}={value}" in default or name in (*open_names, *inputs.sealed)
    reordered = replace(inputs, environment=dict(reversed(environment.items())))
    assert render_occlum(reordered).text == rendered.text


def test_a_document_nested_without_end_is_refused_not_a_crash():
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InputError, match="nested too deeply"):
        canonical_text({"x": deep}, BIGDL)
    while isinstance(deep, list):  # a recursive deallocation would be as deep
        deep = deep[0]


# -- templates of the user's own


def own(tmp_path: Path, text: str | bytes, **define: str | bool) -> OcclumInputs:
    path = tmp_path / "own.template"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    options = OcclumOptions(template=path, define=tuple(sorted(define.items())))
    return replace(INPUTS, options=options)


def test_a_template_of_the_users_own_gets_all_variables_and_its_own(tmp_path):
    text = (ROOT / "occlum/strict.Occlum.json.template").read_text()
    text = text.replace('"OCCLUM": "yes"', '"OCCLUM": "yes", "MINE": mine')
    inputs = own(tmp_path, text, mine="of the command line")
    rendered = render_occlum(inputs)
    assert "MINE=of the command line" in rendered.document["env"]["default"]
    check_agrees(rendered, inputs, WHERE)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{\n\n{{ nothing }}}", r"own\.template:3: 'nothing' is undefined"),
        ("{\n{{ kss.nothing | json }}}", r"own\.template:2: .*nothing"),
        ("{\n{{ [nothing] | json }}}", r"own\.template:2: 'nothing' is undefined"),
        ("{\n{% if %}}", r"own\.template:2: "),
        ('{\n"a": 1,\n}', r"own\.template as rendered:3: not JSON"),
        ("[]", r"own\.template as rendered: not a JSON object"),
        ('{"a": 1, "a": 2}', r"own\.template as rendered: the key 'a' is given twice"),
        ('{"a": NaN}', r"own\.template as rendered: NaN"),
        ("", r"own\.template as rendered:1: not JSON"),
        (b"\xff{}", r"own\.template: not UTF-8"),
        ('{"a": {{ version | json }}}', r"own\.template:1: TypeError: no JSON for OcclumVersion"),
        ('{"a": ' + "[" * 90_000 + "]" * 90_000 + "}", r"nested too deeply"),
    ],
)
def test_a_broken_template_is_named_with_its_line(tmp_path, text, words):
    with pytest.raises(InputError, match=words) as caught:
        render_occlum(own(tmp_path, text))
    assert caught.value.hint


def test_a_template_that_cannot_be_read_is_named(tmp_path):
    options = OcclumOptions(template=tmp_path / "missing")
    with pytest.raises(InputError, match="missing: No such file") as caught:
        render_occlum(replace(INPUTS, options=options))
    assert "occlum.template" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "words"), [("edmm", "imagekit's own"), ("not-a-name", "no template can use")]
)
def test_a_variable_that_no_template_could_use_is_refused(tmp_path, name, words):
    with pytest.raises(UsageError, match=words):
        render_occlum(own(tmp_path, "{}", **{name: "1"}))


# -- agreement with cell and project

Change = Callable[[dict[str, Any]], None]


def setting(path: str, value: Any) -> Change:
    def change(found: dict[str, Any]) -> None:
        *above, last = path.split(".")
        place: Any = found
        for name in above:
            place = place[name]
        place[last] = value

    return change


def without(path: str, text: str) -> Change:
    def change(found: dict[str, Any]) -> None:
        table, name = path.split(".")
        found[table][name] = [item for item in found[table][name] if not item.startswith(text)]

    return change


def adding(path: str, text: str) -> Change:
    def change(found: dict[str, Any]) -> None:
        place: Any = found
        for name in path.split("."):
            place = place[name]
        place.append(text)

    return change


DISAGREEMENTS: list[tuple[Change, str]] = [
    (setting("resource_limits.user_space_size", "8GB"), "user_space_size is \"8GB\""),
    (setting("resource_limits.user_space_size", 16 * GIB), "user_space_size"),
    (setting("resource_limits.user_space_size", None), "user_space_size"),
    (setting("resource_limits", 1), "user_space_size"),
    (setting("resource_limits.max_num_of_threads", 64), "max_num_of_threads is 64"),
    (setting("resource_limits.max_num_of_threads", "512"), "max_num_of_threads"),
    (setting("metadata.product_id", 0), "metadata.product_id"),
    (setting("metadata.product_id", True), "metadata.product_id is true"),
    (setting("metadata.version_number", 4), "metadata.version_number"),
    (setting("metadata.debuggable", True), "metadata.debuggable is true"),
    (setting("metadata.debuggable", 0), "metadata.debuggable is 0"),
    (setting("metadata.enable_kss", True), "metadata.enable_kss"),
    (setting("metadata.disable_log", True), "metadata.disable_log"),
    (setting("feature.enable_edmm", True), "feature.enable_edmm"),
    (setting("entry_points", ["/bin"]), "entry_points has no /opt/imagekit/enclave"),
    (setting("entry_points", "/"), "entry_points has no"),
    (adding("entry_points", "/bin"), "occlum.entry_points does not name"),
    (setting("entry_points", ["/"]), "occlum.entry_points does not name"),
    (without("env.default", "IMAGEKIT_LIBOS="), "does not set IMAGEKIT_LIBOS"),
    (without("env.default", "IMAGEKIT_ENCLAVE_SIZE="), "does not set IMAGEKIT_ENCLAVE_SIZE"),
    (without("env.default", "IMAGEKIT_ATTESTATION="), "does not set IMAGEKIT_ATTESTATION"),
    (without("env.default", "PYTHONNOUSERSITE="), "does not set PYTHONNOUSERSITE"),
    (without("env.default", "MODE="), "does not set MODE to \"fixed\""),
    (setting("env.default", [1, None, {}]), "env.default does not set"),
    (setting("env", 1), "env.default does not set"),
    (adding("env.untrusted", "IMAGEKIT_LIBOS"), "env.untrusted has IMAGEKIT_LIBOS"),
    (adding("env.untrusted", "MODE"), "env.untrusted has MODE"),
    (adding("env.untrusted", "LD_PRELOAD"), "launch.passthrough does not name"),
    (without("env.untrusted", "IMAGEKIT_REQUEST"), "env.untrusted has no IMAGEKIT_REQUEST"),
    (without("env.untrusted", "POD_NAME"), "env.untrusted has no POD_NAME"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), DISAGREEMENTS, ids=[w for _, w in DISAGREEMENTS])
def test_a_document_that_contradicts_cell_or_project_is_refused(change, words):
    inputs = replace(INPUTS, version=occlum_version("0.31.0"))
    rendered = render_occlum(inputs)
    check_agrees(rendered, inputs, WHERE)
    changed = copy.deepcopy(dict(rendered.document))
    change(changed)
    with pytest.raises(InputError) as caught:
        check_agrees(OcclumJson("x.template", b"", changed, b""), inputs, WHERE)
    assert caught.value.problem.startswith("x.template: ")
    assert words in caught.value.problem
    assert "docs/occlum.md" in caught.value.hint


def test_what_the_project_opens_is_no_disagreement():
    options = OcclumOptions(entry_points=("/opt/own",))
    inputs = replace(INPUTS, options=options, passthrough=("A", "B"))
    check_agrees(render_occlum(inputs), inputs, WHERE)


# -- what belongs to the templates


def test_every_variable_of_the_templates_is_documented():
    documented = (ROOT / "docs/occlum.md").read_text()
    for name in template_variables(INPUTS):
        assert f"`{name}" in documented, name


def test_the_package_holds_the_templates():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    build = settings["tool"]["hatch"]["build"]["targets"]
    assert build["wheel"]["force-include"]["occlum"] == "imagekit/_templates/occlum"
    assert "occlum" in build["sdist"]["include"]
