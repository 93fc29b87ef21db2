"""The Dockerfile of an Occlum cell, for people who build without imagekit.

Two stages on the same base: the first builds the instance with the script that imagekit itself runs
(:func:`imagekit.render.occlum.build_script`), the second takes what ``occlum package`` would take.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from imagekit.render.dockerfile import render_dockerfile
from imagekit.runtime.paths import OCCLUM_INSTANCE

TEMPLATE = "occlum.Dockerfile.template"
CONFIG, BOM, SCRIPT = (
    f"instance/{name}" for name in ("Occlum.json", "bom.yaml", "build-instance.sh")
)
"""Where the Dockerfile looks for its parts in the context, besides ``rootfs/``."""
LIBRARY = f"{OCCLUM_INSTANCE}/build/lib/libocclum-libos.signed.so"
"""The signed enclave."""


@dataclass(frozen=True)
class OcclumImage:
    """What the Dockerfile of a cell says.

    Attributes:
        title: the image's name.
        version: its tag.
        cell: which cell.
        base: the base's name, pinned by digest.
        paths: absolute paths of the launcher's files, below ``rootfs/`` in the context.
        signed: whether :data:`LIBRARY` is there, too, to take the place of the enclave built.
        epoch: SOURCE_DATE_EPOCH of the build.
        env: environment of the image.
        labels: labels of the image.
        user: user of the base, or None.
        entrypoint: entry point.
    """

    title: str
    version: str
    cell: str
    base: str
    paths: Sequence[str]
    signed: bool
    epoch: int
    env: Mapping[str, str]
    labels: Mapping[str, str]
    user: str | None
    entrypoint: Sequence[str]


def occlum_dockerfile(image: OcclumImage) -> str:
    """Give the Dockerfile of an Occlum cell.

    Its context has :data:`CONFIG`, :data:`BOM`, :data:`SCRIPT` and the launcher's files below
    ``rootfs/``. Files are copied by folder, so that a folder that the base has keeps its mode and
    owner.

    Raises:
        InputError: a value that no Dockerfile can hold.
    """
    copies: dict[str, list[str]] = {}
    for path in sorted(set(image.paths) - {LIBRARY}):
        copies.setdefault(path.rpartition("/")[0] + "/", []).append(path)
    variables = {name: getattr(image, name) for name in OcclumImage.__dataclass_fields__}
    own = {"copies": copies, "instance": OCCLUM_INSTANCE, "library": LIBRARY}
    return render_dockerfile(TEMPLATE, variables | own)
