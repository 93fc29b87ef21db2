"""The files of an image as an independent reader sees them: tarfile on each layer, merged."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

from imagekit.images.oci import Image


class Entry(NamedTuple):
    """What two images have to agree about; times are not in it."""

    kind: str
    mode: int
    uid: int
    gid: int
    link: str
    capability: str
    sha256: str


class Seen(NamedTuple):
    """An image: its files by path, which of them are one file, and its config."""

    files: dict[str, Entry]
    links: set[frozenset[str]]
    config: dict[str, Any]


def of_image(image: Image) -> Seen:
    """Read an image of imagekit's."""
    layers = []
    for layer in image.layers:
        with image.blobs.open_blob(layer.digest) as stream:
            layers.append(io.BytesIO(stream.read()))
    return _seen(layers, image.config_json)


def of_archive(path: Path) -> Seen:
    """Read what ``docker save`` wrote."""
    with tarfile.open(path) as archive:

        def member(name: str) -> io.BytesIO:
            stream = archive.extractfile(name)
            assert stream is not None
            return io.BytesIO(stream.read())

        manifest = json.load(member("manifest.json"))[0]
        layers = [member(name) for name in manifest["Layers"]]
        return _seen(layers, json.load(member(manifest["Config"])))


def _seen(layers: list[io.BytesIO], config: dict[str, Any]) -> Seen:
    files: dict[str, Entry] = {}
    same: dict[str, set[str]] = {}
    for layer in layers:
        with tarfile.open(fileobj=layer) as tar:
            members = {member.name.removeprefix("./").strip("/"): member for member in tar}
            for path in members:
                _remove(path, files)
            for path, member in members.items():
                if path in {"", "."} or path.rpartition("/")[2].startswith(".wh."):
                    continue
                if not member.isdir():
                    _forget(path, files)
                if member.islnk():
                    first = member.linkname.removeprefix("./").strip("/")
                    files[path] = files[first]
                    same.setdefault(first, {first}).add(path)
                    continue
                files[path] = _entry(tar, member)
    return Seen(files, {frozenset(paths) for paths in same.values()}, config)


def _remove(path: str, files: dict[str, Entry]) -> None:
    """Take away what the whiteout at a path, if it is one, is for."""
    folder, slash, name = path.rpartition("/")
    if name == ".wh..wh..opq":
        entry = files.get(folder)
        _forget(folder, files)
        if entry is not None:
            files[folder] = entry
    elif name.startswith(".wh."):
        _forget(folder + slash + name.removeprefix(".wh."), files)


def _forget(path: str, files: dict[str, Entry]) -> None:
    for gone in [name for name in files if name == path or name.startswith(path + "/")]:
        del files[gone]


def _entry(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Entry:
    stream = tar.extractfile(member) if member.isreg() else None
    return Entry(
        "file" if member.isreg() else member.type.decode(),
        0 if member.issym() else member.mode & 0o7777,
        member.uid,
        member.gid,
        member.linkname if member.issym() else "",
        member.pax_headers.get("SCHILY.xattr.security.capability", ""),
        hashlib.sha256(stream.read()).hexdigest() if stream else "",
    )


def differences(one: Seen, two: Seen) -> list[str]:
    """Give one line per path in which two images differ."""
    paths = sorted(one.files.keys() | two.files.keys())
    return [
        f"{path}: {one.files.get(path)} / {two.files.get(path)}"
        for path in paths
        if one.files.get(path) != two.files.get(path)
    ] + [f"one file: {sorted(paths)}" for paths in one.links ^ two.links]


def run_settings(seen: Seen) -> dict[str, Any]:
    """Give what the config says about running, without what builders fill in."""
    config = seen.config["config"]
    return {
        "env": config.get("Env") or [],
        "entrypoint": config.get("Entrypoint") or [],
        "command": config.get("Cmd") or [],
        "user": config.get("User") or "",
        "workdir": config.get("WorkingDir") or "/",
        "labels": config.get("Labels") or {},
    }
