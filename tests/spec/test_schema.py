"""The JSON Schema and the template of `imagekit init` keep up with the parser."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from imagekit import spec
from imagekit.errors import UsageError
from imagekit.spec.fields import parse_yaml
from imagekit.spec.keys import KEYS, names
from imagekit.spec.names import parse_image_reference
from imagekit.spec.project import parse_project
from imagekit.spec.schema import project_schema, schema_text

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = Path(spec.__file__).with_name("init.yaml").read_text(encoding="utf-8")
VALIDATOR = Draft202012Validator(project_schema())


class CoreLoader(yaml.SafeLoader):
    """YAML as editors read it: a date is text."""


CoreLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith("timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def value(text: str) -> Any:
    return yaml.load(text, CoreLoader)


def switched_on(text: str, libos: str | None = None) -> str:
    """The template with all settings switched on, but the one that excludes others.

    With a library OS, as a project for it: without the sections of the other one.
    """
    lines = [line for line in text.splitlines() if not re.match(" *#(image|from): ", line)]
    whole = "\n".join(re.sub(r"^( *)#(?=[-\w])", r"\1", line) for line in lines) + "\n"
    if libos is None:
        return whole
    others = {"gramine": "occlum", "occlum": "gramine|encrypted"}[libos]
    whole = re.sub(rf"^({others}):.*\n((  .*)?\n)+", "", whole, flags=re.MULTILINE)
    if libos == "occlum":
        for given, instead in FOR_OCCLUM.items():
            assert given in whole
            whole = whole.replace(given, instead)
    return whole


FOR_OCCLUM = {
    "libos: gramine ": "libos: occlum ",
    "log: [error, debug, all]": "log: [error, debug, info]",
    "attestation: none, log: all}": "attestation: none, log: debug}",
    "{libos: gramine,": "{libos: occlum,",
    "version: 0.29.7": "version: 0.31.0",
    "edmm: false ": "edmm: true ",
}
"""What a project for Occlum with every setting of the template writes in another way."""


def read(text: str) -> None:
    parse_project(parse_yaml(text, "imagekit.yaml"), Path("imagekit.yaml"))


def test_the_published_schema_is_current() -> None:
    published = (ROOT / "docs" / "imagekit.schema.json").read_text(encoding="utf-8")
    assert published == schema_text(), "run: python -m imagekit.spec.schema > docs/…"


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(project_schema())


def test_every_key_is_described() -> None:
    for path, key in KEYS.items():
        assert key.text.endswith("."), path


@pytest.mark.parametrize(
    "text",
    [TEMPLATE, switched_on(TEMPLATE, "gramine"), switched_on(TEMPLATE, "occlum")],
    ids=["as-is", "all-on", "all-on-occlum"],
)
def test_the_template_is_read_and_satisfies_the_schema(text: str) -> None:
    read(text)
    VALIDATOR.validate(value(text))


def test_the_template_shows_every_key() -> None:
    shown: set[str] = {"base.image", "base.from"}

    def walk(node: Any, path: str) -> None:
        if isinstance(node, dict):
            for name, child in node.items():
                shown.add(f"{path}.{name}".lstrip("."))
                walk(child, f"{path}.{name}")
        elif isinstance(node, list):
            for child in node:
                walk(child, f"{path}[]")

    walk(value(switched_on(TEMPLATE)), "")
    assert "#image: oci:base" in TEMPLATE and "#from: docker://" in TEMPLATE
    # A key of an apt archive is best kept as a file; the comment shows the other way.
    in_words = {"base.sources[].signed_by." + name for name in ("url", "sha256", "path")}
    assert set(KEYS) - shown <= in_words
    assert "signed_by: {url:" in TEMPLATE


def test_the_defaults_that_the_template_shows_are_defaults() -> None:
    matrix = value(TEMPLATE)["matrix"]
    assert matrix["default"] == {
        name: KEYS[f"matrix.default.{name}"].default for name in names("matrix.default")
    }
    for name, shown in value(TEMPLATE)["enclave"].items():
        assert shown == KEYS[f"enclave.{name}"].default


def test_the_template_names_an_image_that_registries_take() -> None:
    template = value(TEMPLATE)
    parse_image_reference(f"{template['image']}:{template['tag']}")


MAPPINGS = {
    "": "zzzzz: 1\nschema: 1\n",
    "base": "base: {zzzzz: 1}",
    "base.distribution": "base: {distribution: {suite: a, zzzzz: 1}}",
    "base.sources[]": "base: {distribution: {suite: a}, sources: [{zzzzz: 1}]}",
    "base.sources[].signed_by": "base: {distribution: {suite: a}, sources: "
    "[{name: a, uri: 'https://a.example/', suites: [a], components: [b], signed_by: {zzzzz: 1}}]}",
    "base.artifacts[]": "base: {distribution: {suite: a}, artifacts: [{zzzzz: 1}]}",
    "base.files[]": "base: {distribution: {suite: a}, files: [{zzzzz: 1}]}",
    "matrix": "matrix: {epc: [8g], zzzzz: 1}",
    "matrix.exclude[]": "matrix: {epc: [8g], exclude: [{zzzzz: 1}]}",
    "matrix.default": "matrix: {epc: [8g], default: {zzzzz: 1}}",
    "enclave": "enclave: {zzzzz: 1}",
    "signing": "signing: {zzzzz: 1}",
    "gramine": "gramine: {zzzzz: 1}",
    "occlum": "occlum: {zzzzz: 1}",
    "occlum.process": "occlum: {process: {zzzzz: 1}}",
    "occlum.mounts[]": "occlum: {mounts: [{type: ramfs, target: /a, zzzzz: 1}]}",
    "occlum.mounts[].options": "occlum: {mounts: [{type: ramfs, target: /a, options: {zzzzz: 1}}]}",
    "occlum.features": "occlum: {features: {zzzzz: 1}}",
    "occlum.kss": "occlum: {kss: {zzzzz: 1}}",
    "launch": "launch: {zzzzz: 1}",
    "launch.attestation": "launch: {attestation: {zzzzz: 1}}",
    "encrypted[]": "encrypted: [{path: /a, zzzzz: 1}]",
    "paths": "paths: {zzzzz: 1}",
}


def project_with(text: str) -> str:
    lines = {
        "schema": "1",
        "image": "x",
        "tag": "'1'",
        "base": '{image: "oci:x"}',
        "matrix": "{epc: [8g]}",
    }
    if text.startswith("occlum:"):
        lines["libos"] = "occlum"
    rest = "".join(f"{k}: {v}\n" for k, v in lines.items() if f"{k}:" not in text.partition(" ")[0])
    return rest.replace("schema: 1\n", "" if "schema: 1" in text else "schema: 1\n") + text


@pytest.mark.parametrize("path", MAPPINGS)
def test_the_parser_knows_exactly_the_keys_of_the_table(path: str) -> None:
    with pytest.raises(UsageError, match="zzzzz: unknown key") as caught:
        read(project_with(MAPPINGS[path]))
    assert caught.value.hint == f"known here: {', '.join(sorted(names(path)))}"


def test_every_mapping_of_the_table_is_among_those_looked_at() -> None:
    assert {path.rpartition(".")[0] for path in KEYS} == set(MAPPINGS)


@pytest.mark.parametrize(
    "text",
    [
        "tag: 2.5",
        "tag: latest",
        "libos: occlum",
        "profile: compat",
        "matrix: {epc: [16g, 8 GiB, 64MB, 1Gi], log: [none, warning, trace]}",
        "matrix: {epc: [16g], log: [error, all], exclude: [{libos: gramine, log: all}]}",
        "gramine: {version: 1.9, define: {a: 1, b: x}}",
        "gramine: {version: '1.3'}",
        "base: {distribution: {suite: bookworm}, date: 2026-01-01, user: 1000}",
        "base: {from: 'oci:x'}",
        "base: {from: 'docker-archive:x.tar:a', packages: [a1], user: 1, env: {A: 1}}",
        "base: {distribution: {suite: a}, sources: [{name: a, uri: 'https://a.example/', "
        "suites: [a], components: [b], "
        f"signed_by: {{url: 'https://a.example/k', sha256: {'0' * 64}}}}}]}}",
        "launch: {command: [/a, '', 1], passthrough: [], env: {A: ''}}",
        "trusted: [/a/, 'file:/b']",
        "occlum: {version: 0.30.1, kernel_heap: 1 GB, epc_request: 17179869184}",
        "occlum: {epc_request: 16Gi, environment: {MALLOC_ARENA_MAX: 4}}",
        f"occlum: {{kss: {{family_id: {'1' * 32}}}, entry_points: [/a/b]}}",
    ],
)
def test_what_the_parser_takes_the_schema_takes(text: str) -> None:
    whole = project_with(text)
    read(whole)
    VALIDATOR.validate(value(whole))


@pytest.mark.parametrize(
    "text",
    [
        *MAPPINGS.values(),
        "schema: 2",
        "tag: '-x'",
        "tag: true",
        "libos: sgx",
        "base: {image: 'oci:x', packages: [a]}",
        "base: {image: 'oci:x', distribution: {suite: a}}",
        "base: {packages: [a]}",
        "base: {from: 'oci:x', image: 'oci:x'}",
        "base: {from: 'oci:x', distribution: {suite: a}}",
        "base: {from: 'oci:x', exclude: [/a]}",
        "base: {from: x}",
        "base: {distribution: {suite: a}, artifacts: [{to: /x}]}",
        "base: {distribution: {suite: a}, files: [{path: /x}]}",
        "matrix: {epc: []}",
        "matrix: {epc: [16]}",
        "matrix: {epc: [16x]}",
        "matrix: {epc: [8g], exclude: [{}]}",
        "matrix: {epc: [8g], default: {attestation: none}}",
        "enclave: {max_threads: 5000}",
        "enclave: {debug: 'true'}",
        "launch: {command: []}",
        "launch: {env: {1A: x}}",
        "trusted: [a]",
        "paths: {python: python3}",
        "occlum: {version: '0.29'}",
        "occlum: {kernel_heap: 1g}",
        "occlum: {kernel_heap: 1.5GB}",
        "occlum: {process: {heap: '1024'}}",
        "occlum: {features: {amx: 3}}",
        "occlum: {features: {io_uring: 17}}",
        "occlum: {kss: {family_id: '0x1'}}",
        "occlum: {mounts: [{type: nfs, target: /a}]}",
        "occlum: {mounts: [{type: ramfs, target: a}]}",
        "occlum: {mounts: [{type: ramfs}]}",
        "occlum: {entry_points: [a]}",
        "occlum: {init_threads: 0}",
        "occlum: {disable_log: 'true'}",
        "occlum: {epc_request: 16GB}",
        "occlum: {environment: {'A-B': 1}}",
    ],
)
def test_what_the_schema_refuses_the_parser_refuses(text: str) -> None:
    whole = project_with(text)
    assert not VALIDATOR.is_valid(value(whole))
    with pytest.raises(UsageError):
        read(whole)
