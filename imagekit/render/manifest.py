"""Completing a Gramine manifest: defaults, the entry point's hash, trusted files.

Follows gramine-manifest and gramine-sgx-sign of 1.9 and of 1.3.1 to the byte, order of keys
included,
since the text is measured.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from imagekit.enclave.releases import GRAMINE_1_3, Release
from imagekit.errors import InputError
from imagekit.render.toml_text import dump_toml, parse_toml
from imagekit.render.tree import Tree, hash_files

Manifest = dict[str, Any]
Expansions = dict[str, tuple[tuple[str, str], ...]]
"""What trusted-file URIs stand for, URI and hash of each file; kept for manifests of one tree."""

_SCHEME = "file:"
_HEX256 = re.compile(r"[0-9a-f]{64}")

_DEFAULTS_1_9: tuple[tuple[str, Any], ...] = (
    ("trusted_files", ()),
    ("max_threads", 4),
    ("isvprodid", 0),
    ("isvsvn", 0),
    ("remote_attestation", "none"),
    ("debug", False),
    ("enable_stats", False),
    ("edmm_enable", False),
    ("enclave_size", None),  # depends on edmm_enable
    ("use_exinfo", False),
    ("cpu_features", {}),
)
_CPU_FEATURES_1_9 = (
    ("avx", "unspecified"),
    ("avx512", "unspecified"),
    ("amx", "unspecified"),
    ("mpx", "disabled"),
    ("pkru", "disabled"),
)
_DEFAULTS_1_3: tuple[tuple[str, Any], ...] = (
    ("trusted_files", ()),
    ("enclave_size", "256M"),
    ("thread_num", 4),
    ("isvprodid", 0),
    ("isvsvn", 0),
    ("remote_attestation", "none"),
    ("debug", False),
    ("require_avx", False),
    ("require_avx512", False),
    ("require_mpx", False),
    ("require_pkru", False),
    ("require_amx", False),
    ("support_exinfo", False),
    ("nonpie_binary", False),
    ("enable_stats", False),
)


def _bad(key: str, what: str, hint: str) -> InputError:
    return InputError(f"{key}: {what}", hint)


def _table(parent: Manifest, key: str, name: str) -> Manifest:
    table = parent.setdefault(key, {})
    if not isinstance(table, dict):
        raise _bad(name, "is not a table", "see the manifest syntax of this Gramine release")
    return table


def fill_defaults(manifest: Manifest, release: Release, *, libos: str, entry_tree: Tree) -> None:
    """Add what the stock tools add, in their order, to a parsed manifest (in place).

    Args:
        manifest: parsed TOML.
        release: whose defaults.
        libos: path of ``libsysdb.so``, the default entry point.
        entry_tree: where the entry point is read when its hash is not given (1.9).

    Raises:
        InputError: a value of a shape that the stock tools cannot take either.
    """
    sgx = _table(manifest, "sgx", "sgx")
    if release is GRAMINE_1_3:
        for key, value in _DEFAULTS_1_3:
            sgx.setdefault(key, [] if value == () else value)
        sgx["trusted_files"] = _as_tables(sgx["trusted_files"])
        return
    for key, value in _DEFAULTS_1_9:
        if key == "enclave_size":
            value = release.default_edmm_size if sgx["edmm_enable"] else "256M"
        sgx.setdefault(key, list(value) if value == () else dict(value) if value == {} else value)
    features = _table(sgx, "cpu_features", "sgx.cpu_features")
    for feature, value in _CPU_FEATURES_1_9:
        features.setdefault(feature, value)
    entry = _table(manifest, "loader", "loader").setdefault("entrypoint", {})
    if not isinstance(entry, dict):
        raise _bad(
            "loader.entrypoint",
            "is a string; since Gramine 1.9 it is a table",
            'write loader.entrypoint.uri = "file:…" (or leave it out)',
        )
    entry.setdefault("uri", _SCHEME + libos)
    if "sha256" not in entry:
        entry["sha256"] = entry_tree.sha256(_path_of(entry["uri"], "loader.entrypoint.uri"))
    sgx["trusted_files"] = _as_tables(sgx["trusted_files"])


def _as_tables(files: object) -> list[Manifest]:
    key = "sgx.trusted_files"
    if not isinstance(files, list):
        raise _bad(key, "is not an array", 'write it like [ "file:/path", … ]')
    tables = []
    for number, item in enumerate(files):
        table = {"uri": item} if isinstance(item, str) else item
        if not isinstance(table, dict) or not isinstance(table.get("uri"), str):
            raise _bad(f"{key}[{number}]", "is neither a string nor a table with a uri", "mend it")
        tables.append(table)
    return tables


def _path_of(uri: object, key: str) -> str:
    if not isinstance(uri, str) or not uri.startswith(_SCHEME):
        raise _bad(key, f"{uri!r} does not start with file:", "only file: URIs can be trusted")
    return uri.removeprefix(_SCHEME)


def expand_trusted_files(
    manifest: Manifest, release: Release, tree: Tree, expansions: Expansions | None = None
) -> None:
    """Replace folders by their files and give every file its SHA-256 (in place).

    Entries that bring a hash are taken as they are. Folders (URI with a slash at the end) are
    walked depth first in code-point order, dot files included; links to folders are not entered,
    links to files stand under their own name.

    Args:
        manifest: with defaults filled in.
        release: 1.9 keeps each URI once; 1.3 lists whatever is met.
        tree: where the files are.
        expansions: what is known of this tree already; what is found is added.

    Raises:
        InputError: a file that is missing, a folder without slash or a file with one, a URI that is
            not ``file:``, two different hashes for one URI.
    """
    sgx = manifest["sgx"]
    known = {} if expansions is None else expansions
    entries = _as_tables(sgx["trusted_files"])
    for number, entry in enumerate(entries):
        _check_entry(entry, f"sgx.trusted_files[{number}]", tree, known)
    _refuse_two_hashes(entries)
    _hash_new(entries, tree, known)
    listed: list[tuple[str, str]] = []
    for entry in entries:
        pinned = entry.get("sha256")
        listed += known[entry["uri"]] if pinned is None else [(entry["uri"], str(pinned))]
    if release is not GRAMINE_1_3:
        pins = {entry["uri"]: str(entry["sha256"]) for entry in entries if "sha256" in entry}
        listed = [(uri, pins.get(uri, value)) for uri, value in dict(listed).items()]
    sgx["trusted_files"] = [{"uri": uri, "sha256": value} for uri, value in listed]


def _refuse_two_hashes(entries: Sequence[Manifest]) -> None:
    seen: dict[str, str] = {}
    for entry in entries:
        uri, pinned = entry["uri"], entry.get("sha256")
        if pinned is not None and seen.setdefault(uri, str(pinned)) != str(pinned):
            raise _bad(
                "sgx.trusted_files",
                f"{uri} has two different hashes ({seen[uri]} and {pinned})",
                "leave one of the two entries out",
            )


def _check_entry(entry: Manifest, key: str, tree: Tree, known: Expansions) -> None:
    uri = entry["uri"]
    path = _path_of(uri, key)
    is_folder = path.endswith("/")
    if "sha256" in entry:
        if is_folder:
            raise _bad(key, f"{uri} is a folder and has a sha256", "leave the sha256 out")
        return
    if uri in known:
        return
    kind = tree.kind(path)
    if kind is None:
        tree.resolve(path)  # says precisely what is wrong with a link
        raise _bad(key, f"{uri}: no such file or folder", "check the path")
    if kind == "dir" and not is_folder:
        raise _bad(key, f"{uri} is a folder", 'a folder\'s URI ends with "/"')
    if kind == "file" and is_folder:
        raise _bad(key, f"{uri} is a file", 'leave the "/" at the end out')


def _hash_new(entries: Sequence[Manifest], tree: Tree, known: Expansions) -> None:
    """Find and hash the files of all URIs that are not known yet."""
    found: dict[str, list[tuple[str, str]]] = {}  # URI → URI and path of each file
    for entry in entries:
        uri = entry["uri"]
        if "sha256" in entry or uri in known or uri in found:
            continue
        path = uri.removeprefix(_SCHEME)
        if path.endswith("/"):
            files = [(_SCHEME + child, child) for child in _walk(tree, tree.resolve(path))]
        else:
            files = [(uri, path)]
        found[uri] = files
    hashes = hash_files(tree, [path for files in found.values() for _, path in files])
    for uri, files in found.items():
        known[uri] = tuple((child, hashes[path]) for child, path in files)


def _walk(tree: Tree, folder: str) -> list[str]:
    """Files below a folder, in the order in which Gramine lists them."""
    files: list[str] = []
    top = str(PurePosixPath(folder))
    pending = [top]
    # An explicit stack: image trees may be nested deeper than Python's recursion limit.
    while pending:
        path = pending.pop()
        kind = tree.kind(path)
        if kind == "dir" and (path == top or not tree.is_link(path)):
            pending += [str(PurePosixPath(path) / name) for name in reversed(tree.children(path))]
        elif kind == "file" and tree.walkable(path):
            files.append(path)
    return files


def complete_manifest(
    text: str,
    release: Release,
    *,
    name: str,
    libos: str,
    tree: Tree,
    entry_tree: Tree | None = None,
    expand: bool = True,
    expansions: Expansions | None = None,
) -> tuple[Manifest, bytes]:
    """Make the final manifest from rendered template text.

    Args:
        text: TOML.
        release: whose rules.
        name: the file's name, for error messages.
        libos: path of ``libsysdb.so``.
        tree: where trusted files are looked up.
        entry_tree: where the entry point is looked up; `tree` if not given.
        expand: expand trusted files too.
        expansions: see :func:`expand_trusted_files`.

    Returns:
        The parsed manifest and its text as UTF-8 bytes.

    Raises:
        InputError: see the functions above.
    """
    manifest = parse_toml(text, release, name)
    fill_defaults(manifest, release, libos=libos, entry_tree=entry_tree or tree)
    if expand:
        expand_trusted_files(manifest, release, tree, expansions)
    return manifest, dump_toml(manifest, release)


def trusted_hashes(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Give path → hash of all trusted files of a finished manifest, the entry point included."""
    hashes = {}
    for entry in manifest["sgx"].get("trusted_files", []):
        hashes[_path_of(entry["uri"], "sgx.trusted_files")] = str(entry["sha256"])
    entrypoint = manifest.get("loader", {}).get("entrypoint")
    if isinstance(entrypoint, Mapping) and "sha256" in entrypoint:
        hashes[_path_of(entrypoint["uri"], "loader.entrypoint.uri")] = str(entrypoint["sha256"])
    return hashes
