"""Bases that exist already: every transport gives the same enclave."""

import gzip
import hashlib
import json
import subprocess
from pathlib import Path

import pytest
from conftest import PROJECT, error_lines

from imagekit.images.layout import OciLayout
from imagekit.release.lock import read_lock


def build(imagekit, base, output):
    Path("imagekit.yaml").write_text(PROJECT.replace("oci:base:base", base))
    code, _, err = imagekit("build", "--epc", "64m", "--log", "error", "--output", f"oci:{output}")
    assert code == 0, err
    code, _, err = imagekit(
        "verify", "--allow-standin", f"oci:{output}:tiny-gramine-reference:latest"
    )
    assert code == 0, err
    return next(iter(read_lock(Path("imagekit.lock.json")).values()))


@pytest.mark.integration("skopeo")
@pytest.mark.parametrize("transport", ["oci-archive", "docker-archive"])
def test_an_archive_measures_like_the_layout_it_was_made_from(project, imagekit, transport):
    wanted = build(imagekit, "oci:base:base", "one")
    target = f"{transport}:base.tar:registry.example/base:1"
    subprocess.run(["skopeo", "copy", "-q", "oci:base:base", target], check=True)
    found = build(imagekit, target, "two")
    assert found.mr_enclave == wanted.mr_enclave


@pytest.mark.integration("skopeo")
def test_a_compressed_base_measures_the_same(project, imagekit):
    wanted = build(imagekit, "oci:base:base", "one")
    command = ["skopeo", "copy", "-q", "--dest-compress", "dir:plain", "oci:zipped:base"]
    subprocess.run(["skopeo", "copy", "-q", "oci:base:base", "dir:plain"], check=True)
    subprocess.run(command, check=True)
    layers = OciLayout.open(Path("zipped")).image("base").layers
    assert all(layer.media_type.endswith("gzip") for layer in layers)
    assert build(imagekit, "oci:zipped:base", "two").mr_enclave == wanted.mr_enclave


def test_a_compressed_layer_that_unpacks_to_something_else_is_refused(project, imagekit):
    """The blob's digest fits; what it unpacks to is not what the config says."""
    layout = OciLayout.open(project / "base")
    image = layout.image("base")
    raw = gzip.decompress(layout.blobs.path(image.layers[0].digest).read_bytes())
    raw = raw.replace(b"libos", b"LIBOS")
    zipped = gzip.compress(raw, mtime=0)
    digest = hashlib.sha256(zipped).hexdigest()
    (project / "base/blobs/sha256" / digest).write_bytes(zipped)
    manifest = dict(image.manifest_json)
    manifest["layers"] = [
        {
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": f"sha256:{digest}",
            "size": len(zipped),
        },
        *manifest["layers"][1:],
    ]
    text = json.dumps(manifest).encode()
    name = hashlib.sha256(text).hexdigest()
    (project / "base/blobs/sha256" / name).write_bytes(text)
    index = json.loads((project / "base/index.json").read_text())
    index["manifests"][0] |= {"digest": f"sha256:{name}", "size": len(text)}
    (project / "base/index.json").write_text(json.dumps(index))
    code, _, err = imagekit("build", "--epc", "64m", "--log", "error")
    assert code == 3
    assert "unpacks to" in error_lines(err)[0]
