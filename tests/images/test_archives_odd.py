"""Archives whose JSON is valid and of the wrong kinds: an error that names them, no traceback."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from imagekit.errors import InputError
from imagekit.images.archives import open_docker_archive, read_docker_stream
from imagekit.images.cache import Cache

ID = "sha256:" + "1" * 64
ODD: list[Any] = [5, "x", None, True, [5], {"a": 5}, [[]], [None]]


def tar(**files: Any) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for name, value in files.items():
            data = json.dumps(value).encode()
            member = tarfile.TarInfo(f"{name}.json")
            member.size = len(data)
            made.addfile(member, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("field", ["RepoTags", "Config", "Layers", None])
def test_a_docker_archive_with_odd_values(tmp_path: Path, field: str | None, odd: Any) -> None:
    item = {"Config": "config.json", "RepoTags": ["x:1"], "Layers": []}
    manifest = odd if field is None else [{**item, field: odd}]
    (tmp_path / "f.tar").write_bytes(tar(manifest=manifest, config={}))
    for tag in (None, "1"):
        with pytest.raises(InputError, match=r"f\.tar|image"):
            open_docker_archive(tmp_path / "f.tar", tag, Cache(tmp_path / "cache"))


def test_names_that_are_no_names_are_said(tmp_path: Path) -> None:
    (tmp_path / "f.tar").write_bytes(tar(manifest=[{"RepoTags": 5}]))
    with pytest.raises(InputError, match=r"RepoTags in manifest\.json is no list of names"):
        open_docker_archive(tmp_path / "f.tar", "1", Cache(tmp_path / "cache"))


@pytest.mark.parametrize("odd", ODD)
def test_a_stream_with_an_odd_index(tmp_path: Path, odd: Any) -> None:
    for index in (odd, {"manifests": odd}, {"manifests": [{"digest": odd}]}):
        data = tar(index=index, manifest=[{"Config": 5}])
        with pytest.raises(InputError, match="the engine's image"):
            read_docker_stream(iter([data]), ID, "the engine's image", Cache(tmp_path / "cache"))
