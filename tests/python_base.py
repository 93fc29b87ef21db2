"""A real base with Python and imagekit's own tools under the names of Gramine's.

Where Gramine itself cannot be had, its place in the base is taken by files that are not labelled a
stand-in, and ``gramine-manifest`` and ``gramine-sgx-sign`` are imagekit's drop-in tools.
"""

import functools
import importlib.metadata
from pathlib import Path

from conftest import GRAMINE, base_files

from imagekit.images.bases.assemble import assemble
from imagekit.images.cache import Cache
from imagekit.images.compose import append
from imagekit.images.layers import LayerFile, write_layer
from imagekit.images.layout import OciLayout
from imagekit.images.oci import Image
from imagekit.images.rootfs import Rootfs
from imagekit.spec.base import parse_base
from imagekit.spec.base_values import BaseSpec
from imagekit.spec.fields import parse_yaml

ROOT = Path(__file__).parent.parent
TEST_CACHE = ROOT / ".imagekit" / "test-cache"
TOOLS = "/opt/imagekit-tools"
_NEEDED = (
    *("typer", "rich", "markdown-it-py", "mdurl", "pygments", "click", "shellingham"),
    *("annotated-doc", "typing-extensions", "jinja2", "markupsafe", "pyyaml", "tomli-w", "toml"),
    *("numpy", "cryptography", "cffi", "deflate"),
)
_SPEC = """
distribution: {suite: bookworm, variant: minbase}
packages: [python3-minimal, libpython3-stdlib]
exclude: [/usr/share/doc/*, /usr/share/locale/*, /usr/share/man/*]
date: 2026-01-01
"""


def python_root(cache: Cache) -> Image:
    """Debian with Python, made once per checkout."""
    spec = parse_base(parse_yaml(_SPEC, "python-base"))
    assert isinstance(spec, BaseSpec)
    return assemble(spec, ROOT, cache, spec.epoch).image


def tool_files() -> list[LayerFile]:
    """imagekit with what it imports for signing, and two commands that run it."""
    files = []
    for name in _NEEDED:
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in distribution.files or ():
            path = Path(str(distribution.locate_file(file)))
            if ".." not in file.parts and "__pycache__" not in file.parts and path.is_file():
                files.append(LayerFile(f"{TOOLS}/{file}", path))
    for path in sorted((ROOT / "imagekit").rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            files.append(LayerFile(f"{TOOLS}/{path.relative_to(ROOT)}", path))
    for name in ("gramine-manifest", "gramine-sgx-sign"):
        files.append(LayerFile(f"/usr/local/bin/{name}", command(name), 0o755))
    return files


def command(name: str, before: str = "") -> bytes:
    """A shell script that runs one of the drop-in tools; ``before`` may spoil things first."""
    run = f"PYTHONPATH={TOOLS} exec python3 -m imagekit --quiet tool {name} {before}"
    return f'#!/bin/sh\n{run} "$@"\n'.encode()


def gramine_files(marker: bytes = b"takes Gramine's place in a test") -> list[LayerFile]:
    """Gramine's own files, not labelled a stand-in."""
    return [file for file in base_files(marker) if file.path.startswith(GRAMINE)]


@functools.cache
def python_base() -> Image:
    """The base with Python, the tools, and something in the places of Gramine, Java and Spark."""
    java = [file for file in base_files() if "/jvm/" in file.path or "/spark/" in file.path]
    return with_layer(python_root(Cache(TEST_CACHE)), [*tool_files(), *gramine_files(), *java])


def with_layer(image: Image, files: list[LayerFile]) -> Image:
    """An image with one more layer, in the cache of the tests."""
    cache = Cache(TEST_CACHE)
    parents = Rootfs.from_image(image, cache).directory
    layer = write_layer(files, cache.blobs, 0, parents=parents)
    return append(image, layer, cache.blobs, created=0, history="test")


def write_python_base(folder: Path, files: list[LayerFile]) -> Path:
    """Write the base, with further files, as an OCI layout with the tag ``base``."""
    image = with_layer(python_base(), files) if files else python_base()
    OciLayout.create(folder).put(image, "base")
    return folder
