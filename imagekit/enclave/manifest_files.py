"""Rules of a manifest's files: trusted files, allowed files, mounts, encryption keys."""

from collections.abc import Iterator, Mapping
from typing import Any

from imagekit.enclave.findings import ERROR, WARNING, Finding, shown
from imagekit.enclave.manifest_values import (
    array_at,
    normal_path,
    table_at,
    text_at,
    uris,
    value_at,
)

_SPECIAL_KEYS = ("_sgx_mrenclave", "_sgx_mrsigner")
_MIXED = "two URIs for one file; Gramine compares texts"


def file_findings(manifest: Mapping[str, Any], release: str) -> Iterator[Finding]:
    """Judge ``sgx.trusted_files`` and ``sgx.allowed_files`` beyond their shape."""
    trusted = uris(array_at(manifest, "sgx.trusted_files"))
    yield from _trusted(trusted, release)
    trusted_paths = {normal_path(uri) for _, uri, _ in trusted if not uri.endswith("/")}
    for number, uri, _ in uris(array_at(manifest, "sgx.allowed_files")):
        key = f"sgx.allowed_files[{number}]"
        if normal_path(uri) in trusted_paths:
            problem = f"{shown(uri)} is trusted as well as allowed"
            hint = "keep it trusted, or do not write it there"
            yield Finding(key, problem, hint, loads=True)
    source = text_at(manifest, "loader.argv_src_file")
    if source and not _reachable(source, manifest):
        problem = f"{shown(source)} is neither trusted nor allowed, so it cannot be opened"
        yield Finding("loader.argv_src_file", problem, "list it in sgx.trusted_files", WARNING)


def _trusted(trusted: list[tuple[int, str, Any]], release: str) -> Iterator[Finding]:
    hashes: dict[str, Any] = {}
    texts: dict[str, str] = {}
    for number, uri, digest in trusted:
        key = f"sgx.trusted_files[{number}]"
        if digest is not None and uri.endswith("/"):
            problem = f"{shown(uri)} is a folder and has a sha256"
            yield Finding(key, problem, "leave the sha256 out", ERROR, stock=True)
        if isinstance(digest, str) and hashes.setdefault(uri, digest) != digest:
            problem = f"{shown(uri)} has two different hashes"
            stock = release != "1.3"
            yield Finding(key, problem, "leave one of the two entries out", ERROR, stock)
        first = texts.setdefault(normal_path(uri), uri)
        if first.rstrip("/") != uri.rstrip("/"):
            problem = f"{shown(uri)} and {shown(first)} are {_MIXED}"
            yield Finding(key, problem, "use one of them", WARNING)


def _reachable(uri: str, manifest: Mapping[str, Any]) -> bool:
    if value_at(manifest, "sgx.file_check_policy") == "allow_all_but_log":
        return True
    path = normal_path(uri)
    listed = uris(array_at(manifest, "sgx.trusted_files"))
    allowed = uris(array_at(manifest, "sgx.allowed_files"))
    paths = [normal_path(known) for _, known, _ in listed + allowed]
    return any(path == known or path.startswith(known.rstrip("/") + "/") for known in paths)


def mount_findings(manifest: Mapping[str, Any], release: str) -> Iterator[Finding]:
    """Judge ``fs.mounts``, ``fs.insecure__keys`` and where the entry point stands."""
    mounts = [
        (number, item)
        for number, item in enumerate(array_at(manifest, "fs.mounts"))
        if isinstance(item, Mapping) and isinstance(item.get("path"), str)
    ]
    seen: set[str] = set()
    encrypted: list[str] = []
    for number, mount in mounts:
        key = f"fs.mounts[{number}]"
        path = normal_path(mount["path"])
        yield from _mount(key, mount)
        if path in seen:
            problem = f"{shown(path)} is mounted a second time, over the first"
            yield Finding(f"{key}.path", problem, "keep one of the two", WARNING)
        seen.add(path)
        if mount.get("type") == "encrypted" and isinstance(mount.get("uri"), str):
            host = normal_path(mount["uri"])
            if any(_overlap(host, other) for other in encrypted):
                problem = f"{shown(mount['uri'])} overlaps another encrypted mount on the host"
                hint = "changes can get lost; separate them"
                yield Finding(f"{key}.uri", problem, hint, loads=True)
            encrypted.append(host)
    for name in table_at(manifest, "fs.insecure__keys"):
        problem = "a key that stands in the manifest is known to everybody who has the image"
        hint = "give the key at run time, through /dev/attestation/keys"
        yield Finding(f"fs.insecure__keys.{shown(name)}", problem, hint, WARNING)
    yield from _entry(manifest, seen)


def _overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(other + "/") or other.startswith(one + "/")


def _mount(key: str, mount: Mapping[str, Any]) -> Iterator[Finding]:
    kind, path, uri = mount.get("type", "chroot"), mount["path"], mount.get("uri")
    if not path.startswith("/"):
        hint = "start the path with /"
        yield Finding(f"{key}.path", f"{shown(path)} is not an absolute path", hint)
    elif normal_path(path) == "/":
        yield Finding(f"{key}.path", "/ cannot be mounted here", "use fs.root for the root folder")
    if kind in ("chroot", "encrypted", "untrusted_shm") and uri is None:
        problem = f"is missing, and a mount of type {shown(kind)} needs it"
        yield Finding(f"{key}.uri", problem, 'write uri = "file:…"')
    if kind == "chroot" and isinstance(uri, str) and not uri.startswith(("file:", "dev:")):
        problem = f"{shown(uri)} does not start with file: or dev:"
        yield Finding(f"{key}.uri", problem, "put file: in front of the path")
    scheme = {"encrypted": "file:", "untrusted_shm": "dev:"}.get(str(kind))
    if scheme and isinstance(uri, str) and not uri.startswith(scheme):
        problem = f"a mount of type {shown(kind)} needs a URI with {scheme}"
        yield Finding(f"{key}.uri", problem, f"write {scheme} in front of the path")
    name = mount.get("key_name")
    if name is None:
        return
    if kind != "encrypted":
        problem = f"has no meaning for a mount of type {shown(kind)}: the files are not encrypted"
        hint = 'set type = "encrypted", or leave it out'
        yield Finding(f"{key}.key_name", problem, hint, loads=True)
    elif isinstance(name, str) and name.startswith("_") and name not in _SPECIAL_KEYS:
        problem = f"{shown(name)} starts with an underscore and is none of Gramine's own keys"
        yield Finding(f"{key}.key_name", problem, f"those are {' and '.join(_SPECIAL_KEYS)}")


def _entry(manifest: Mapping[str, Any], mounted: set[str]) -> Iterator[Finding]:
    entry = text_at(manifest, "libos.entrypoint")
    if not entry or entry.startswith("file:"):
        return
    if not entry.startswith("/"):
        problem = f"{shown(entry)} is looked up from the start folder"
        yield Finding("libos.entrypoint", problem, "write an absolute path", WARNING)
    elif not any(_overlap(normal_path(entry), path) for path in mounted if len(path) > 1):
        problem = (
            f"{shown(entry)} is below no mount, so the host's working folder decides what it is"
        )
        yield Finding("libos.entrypoint", problem, "mount it in fs.mounts", WARNING)
