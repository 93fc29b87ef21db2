"""Whether an ``Occlum.json`` says what cell and project say, whoever wrote its template."""

import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from imagekit.enclave.findings import shown
from imagekit.enclave.manifest_schema import Wrong
from imagekit.enclave.manifest_values import array_at, value_at
from imagekit.enclave.occlum.sizes import read_size
from imagekit.errors import InputError
from imagekit.render.occlum import OcclumInputs, OcclumJson
from imagekit.runtime.paths import OCCLUM_START

_USER_SPACE = "resource_limits.user_space_size"


def check_agrees(rendered: OcclumJson, inputs: OcclumInputs, where: str) -> None:
    """Refuse a document whose template does not use what cell and project say.

    Args:
        rendered: the document.
        inputs: what the template got.
        where: the cell and the project file, for messages.

    Raises:
        InputError: with the template and the key.
    """
    problems = (
        *_values(rendered.document, inputs, where),
        *_start(rendered.document, inputs),
        *_environment(rendered.document, inputs, where),
    )
    for problem in problems:
        raise InputError(
            f"{rendered.name}: {problem}", "let the template use its variables (docs/occlum.md)"
        )


def _values(document: Mapping[str, Any], inputs: OcclumInputs, where: str) -> Iterator[str]:
    version = inputs.version
    wanted: dict[str, object] = {
        _USER_SPACE: inputs.user_space,
        "resource_limits.max_num_of_threads": inputs.max_threads,
        "metadata.product_id": inputs.product_id,
        "metadata.version_number": inputs.version_number,
        "metadata.debuggable": inputs.debug,
        "metadata.enable_kss": inputs.options.kss is not None,
    }
    if version.has_features:
        wanted["metadata.disable_log"] = inputs.disable_log
        wanted["feature.enable_edmm"] = inputs.edmm
    for key, expected in wanted.items():
        found = value_at(document, key)
        size = read_size(found) if key == _USER_SPACE else found
        # Types count: 1 is not true, and true is not 1.
        if isinstance(size, Wrong) or type(size) is not type(expected) or size != expected:
            what = f"{expected} bytes" if key == _USER_SPACE else shown(expected)
            yield f"{key} is {shown(found)}, but {where} says {what}"


def _start(document: Mapping[str, Any], inputs: OcclumInputs) -> Iterator[str]:
    """The launcher's start is an entry point, under strict the only one but the project's."""
    entries = array_at(document, "entry_points")
    texts = [entry for entry in entries if isinstance(entry, str)]
    if not any(f"{OCCLUM_START}/".startswith(f"{entry.rstrip('/')}/") for entry in texts):
        yield f"entry_points has no {posixpath.dirname(OCCLUM_START)}: no role could be started"
    allowed = {posixpath.dirname(OCCLUM_START), OCCLUM_START, *inputs.options.entry_points}
    if inputs.profile == "strict":
        for entry in texts:
            if entry not in allowed:
                yield (
                    f"entry_points has {shown(entry)}, which occlum.entry_points does not name; "
                    "profile strict has no others"
                )


def _environment(document: Mapping[str, Any], inputs: OcclumInputs, where: str) -> Iterator[str]:
    default: dict[str, str] = {}
    for entry in array_at(document, "env.default"):
        name, _, value = str(entry).partition("=")
        default.setdefault(name, value)
    untrusted = [str(name) for name in array_at(document, "env.untrusted")]
    open_names = set(inputs.untrusted)
    fixed = {**inputs.environment, **inputs.sealed}
    for name, value in fixed.items():
        if name in open_names:
            continue
        why = "the launcher goes by it" if name in inputs.sealed else f"{where} fixes it"
        if default.get(name) != value:
            yield f"env.default does not set {name} to {shown(value)}, and {why}"
        if name in untrusted:
            yield f"env.untrusted has {name}, and {why}"
    yield from _untrusted(untrusted, open_names, inputs.profile, where)


def _untrusted(names: list[str], wanted: set[str], profile: str, where: str) -> Iterator[str]:
    for name in sorted(wanted - set(names)):
        yield f"env.untrusted has no {name}, which {where} leaves to the host"
    for name in names:
        if profile == "strict" and name not in wanted:
            yield (
                f"env.untrusted has {shown(name)}, which launch.passthrough does not name; "
                "profile strict lets nothing else in"
            )
