"""The image in which a container engine makes a base, where the project file names none."""

from pathlib import Path

from imagekit.errors import InputError
from imagekit.images.bases.assemble import assemble
from imagekit.images.cache import Cache
from imagekit.images.oci import Image
from imagekit.images.progress import NO_PROGRESS, Progress
from imagekit.spec.base_values import BaseSpec, Distribution

BUILDER_PACKAGES = ("ca-certificates", "mmdebstrap", "python3-cryptography")
"""What a builder image needs besides apt (python3-cryptography: for truststores in PKCS #12)."""


def builder_name(spec: BaseSpec) -> str:
    """Give the builder image's name: the project file's, or that of the one made here."""
    suite = spec.distribution.suite.strip("/").replace("/", "-").replace("~", "-").lower()
    return spec.distribution.builder or f"imagekit-builder:{suite}"


def make_builder(
    spec: BaseSpec, project_dir: Path, cache: Cache, progress: Progress = NO_PROGRESS
) -> Image:
    """Make a builder image from the suite's own archive, or take it from the cache.

    Args:
        spec: whose suite, mirrors and CA bundle are used.
        project_dir: folder that paths in it are relative to.
        cache: what is kept between runs.
        progress: told how far it is.

    Raises:
        InputError: mmdebstrap is missing here.
        EngineError: mmdebstrap or the network failed.
    """
    asked = spec.distribution
    builder = BaseSpec(
        Distribution(asked.suite, "apt", asked.mirrors, asked.snapshot),
        packages=BUILDER_PACKAGES,
        ca_bundle=spec.ca_bundle,
    )
    try:
        return assemble(builder, project_dir, cache, builder.epoch, progress=progress).image
    except InputError as error:
        if "mmdebstrap is not installed" not in error.problem:
            raise
        raise InputError(
            "no image to build in: base.distribution.builder names none, and mmdebstrap is not "
            "installed, which could make one",
            "name one there, such as debian:12@sha256:…, or: sudo apt-get install mmdebstrap",
        ) from None
