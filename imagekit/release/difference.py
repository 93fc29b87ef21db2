"""Where two enclaves differ, in lines for people: manifest keys, trusted files, the PAL."""

import hashlib
from collections.abc import Mapping
from typing import Any

from imagekit.enclave.releases import Release
from imagekit.errors import InputError
from imagekit.render.toml_text import parse_toml

_SHOWN = 5
"""How many differences of one kind are named; the rest is counted."""


def manifest_differences(
    first: bytes, second: bytes, names: tuple[str, str], release: Release
) -> list[str]:
    """Say where two ``.manifest.sgx`` files differ.

    Args:
        first: one file.
        second: the other.
        names: how the two are called.
        release: whose rules read them.

    Returns:
        One line per difference, a few per kind; empty if the files are equal byte for byte.

    Raises:
        InputError: one of them is no manifest.
    """
    if first == second:
        return []
    (left, ours), (right, theirs) = (
        _read(data, release, f"manifest of {name}")
        for data, name in zip((first, second), names, strict=True)
    )
    lines = _values(left, right, names) + _files(ours, theirs, names)
    if not lines:
        lines = [
            f"the text differs at byte {_first_difference(first, second)}, the content does not"
        ]
    return lines


def file_difference(path: str, first: bytes, second: bytes, names: tuple[str, str]) -> list[str]:
    """Say whether two contents of one path differ, and by which SHA-256."""
    if first == second:
        return []
    left, right = (hashlib.sha256(data).hexdigest() for data in (first, second))
    return [f"{path}: sha256 {left} ({names[0]}), {right} ({names[1]})"]


def _read(data: bytes, release: Release, name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Give all values but the trusted files by dotted key, and the trusted files' hashes."""
    try:
        manifest = parse_toml(data.decode(), release, name)
        return _flat(manifest), _trusted(manifest, name)
    except UnicodeDecodeError:
        raise _no_manifest(name, "the file is not UTF-8") from None
    except RecursionError:
        raise _no_manifest(name, "its keys are nested too deeply") from None


def _no_manifest(name: str, problem: str) -> InputError:
    return InputError(f"{name}: {problem}", "a manifest was expected: see what wrote this file")


def _flat(manifest: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Give all values but the trusted files by dotted key."""
    flat: dict[str, Any] = {}
    for name, value in manifest.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{key}.")
        elif key != "sgx.trusted_files":
            flat[key] = value
    return flat


def _trusted(manifest: Mapping[str, Any], name: str) -> dict[str, str]:
    """Give the trusted files by URI, with their hashes."""
    sgx = manifest.get("sgx", {})
    if not isinstance(sgx, Mapping):
        raise _no_manifest(name, "sgx is no table")
    files = sgx.get("trusted_files", [])
    if not isinstance(files, list) or not all(isinstance(file, Mapping) for file in files):
        raise _no_manifest(name, "sgx.trusted_files is no list of tables")
    return {str(file.get("uri")): str(file.get("sha256")) for file in files}


def _values(left: dict[str, Any], right: dict[str, Any], names: tuple[str, str]) -> list[str]:
    found = []
    for key in sorted(left.keys() | right.keys()):
        if key not in left:
            found.append(f"{key} is there only for {names[1]}")
        elif key not in right:
            found.append(f"{key} is there only for {names[0]}")
        elif left[key] != right[key]:
            found.append(f"{key} is {left[key]!r} ({names[0]}), {right[key]!r} ({names[1]})")
    return _short(found)


def _files(left: dict[str, str], right: dict[str, str], names: tuple[str, str]) -> list[str]:
    changed = [uri for uri in sorted(left.keys() & right.keys()) if left[uri] != right[uri]]
    return [
        *_short([f"trusted file {uri} has other content for each" for uri in changed]),
        *_short([f"trusted file {uri} only for {names[0]}" for uri in sorted(left.keys() - right)]),
        *_short([f"trusted file {uri} only for {names[1]}" for uri in sorted(right.keys() - left)]),
    ]


def _short(lines: list[str]) -> list[str]:
    if len(lines) <= _SHOWN:
        return lines
    return [*lines[:_SHOWN], f"… and {len(lines) - _SHOWN} more of this kind"]


def _first_difference(first: bytes, second: bytes) -> int:
    for position, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return position
    return min(len(first), len(second))
