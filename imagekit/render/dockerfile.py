"""Dockerfiles: of a base, in stages or on top of an image, and of a cell, on top of its base.

Plain Dockerfiles that the classic builder takes as well as BuildKit: no ``RUN --mount``, no
here-documents. What a line may not hold is refused, never left out.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from imagekit.errors import InputError
from imagekit.render.templates import render_text, template_folder

BASE_TEMPLATE = "base.Dockerfile.template"
DERIVED_TEMPLATE = "on-image.Dockerfile.template"
CELL_TEMPLATE = "gramine.Dockerfile.template"
ARTIFACTS, FILES = "/tree/artifacts", "/tree/files"
"""Where the builder of a base on top of an image unpacks, each thing under its number."""


class ContextFile(NamedTuple):
    """A file of the build context that is named by its content.

    Attributes:
        name: what people call it.
        sha256: 64 hex digits.
        words: further words for ``stage.pyz unpack``.
    """

    name: str
    sha256: str
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class BaseStages:
    """What the Dockerfile of a base says.

    Attributes:
        builder: image that the other stages work in.
        pinned: whether the builder is named by digest.
        builder_packages: packages it needs.
        suite: the distribution's suite.
        mirrors: its archives.
        options: options of mmdebstrap.
        epoch: SOURCE_DATE_EPOCH.
        ca_bundle: whether ``build/ca.pem`` is to be trusted.
        build_files: further files of ``build/`` for the first stage, sorted.
        debs: local packages, in the order of their numbers.
        packages: packages to install.
        exclude: patterns of what is left out.
        artifacts: what is unpacked, ``name`` being the artifact's and ``words`` all but the hash.
        files: single files, ``name`` being the path and ``words`` the mode.
        env: environment of the image.
        labels: labels of the image.
        workdir: working directory, or None.
        user: user, or None.
        entrypoint: entry point, or nothing.
    """

    builder: str
    pinned: bool
    builder_packages: Sequence[str]
    suite: str
    mirrors: Sequence[str]
    options: Sequence[str]
    epoch: int
    ca_bundle: bool
    build_files: Sequence[str]
    debs: Sequence[ContextFile]
    packages: Sequence[str]
    exclude: Sequence[str]
    artifacts: Sequence[ContextFile]
    files: Sequence[ContextFile]
    env: Mapping[str, str]
    labels: Mapping[str, str]
    workdir: str | None
    user: str | None
    entrypoint: Sequence[str]


def base_dockerfile(stages: BaseStages, *, root_only: bool = False) -> str:
    """Give the Dockerfile of a base.

    Args:
        stages: what it says.
        root_only: end with the distribution, not normalised, in one layer.

    Raises:
        InputError: a value that no Dockerfile can hold.
    """
    variables = {name: getattr(stages, name) for name in BaseStages.__dataclass_fields__}
    # apt trusts one file of certificates; the company's is enough to reach the company's proxy
    option = "--option Acquire::https::CAInfo=/imagekit/ca.pem " if stages.ca_bundle else ""
    return render_dockerfile(
        BASE_TEMPLATE, variables | {"root_only": root_only, "ca_option": option}
    )


@dataclass(frozen=True)
class DerivedStages:
    """What the Dockerfile of a base on top of an image says.

    Attributes:
        image: the image below, as engines name it.
        source: its reference in the project file.
        named: whether that name is the reference's own, not one that was made up for it.
        pinned: whether it is named by digest.
        builder: image that unpacks.
        builder_suite: the suite that imagekit makes such an image from.
        builder_packages: packages it needs.
        epoch: SOURCE_DATE_EPOCH.
        build_files: files of ``build/`` for the installation, sorted.
        debs: local packages, in the order of their numbers.
        packages: packages to install.
        artifacts: what is unpacked, ``name`` being the artifact's and ``words`` all but its place.
        files: single files, ``name`` being the path and ``words`` the mode.
        targets: where the artifacts go, in their order; then come the files.
        env: environment that is added.
        labels: labels that are added.
        workdir: working directory, or None for the image's.
        user: user, or None for the image's.
        entrypoint: entry point, or nothing for the image's.
    """

    image: str
    source: str
    named: bool
    pinned: bool
    builder: str
    builder_suite: str
    builder_packages: Sequence[str]
    epoch: int
    build_files: Sequence[str]
    debs: Sequence[ContextFile]
    packages: Sequence[str]
    artifacts: Sequence[ContextFile]
    files: Sequence[ContextFile]
    targets: Sequence[str]
    env: Mapping[str, str]
    labels: Mapping[str, str]
    workdir: str | None
    user: str | None
    entrypoint: Sequence[str]


def derived_dockerfile(stages: DerivedStages, *, changes_only: bool = False) -> str:
    """Give the Dockerfile of a base on top of an image.

    Args:
        stages: what it says.
        changes_only: end with what the installation changed, not normalised, in one layer.

    Raises:
        InputError: a value that no Dockerfile can hold.
    """
    variables = {name: getattr(stages, name) for name in DerivedStages.__dataclass_fields__}
    # Copied one by one: a folder that the image has keeps its mode and owner.
    places = [f"{ARTIFACTS}/{number}" for number in range(len(stages.artifacts))]
    places += [f"{FILES}/{number}" for number in range(len(stages.files))]
    targets = [*stages.targets, *(file.name for file in stages.files)]
    return render_dockerfile(
        DERIVED_TEMPLATE,
        variables
        | {
            "changes_only": changes_only,
            "copies": [_copied(*both) for both in zip(places, targets, strict=True)],
            "installs": bool(stages.packages or stages.debs),
            "unpacked": bool(stages.artifacts or stages.files) and not changes_only,
        },
    )


def _copied(source: str, target: str) -> str:
    """Give the words of a COPY, in the form for any name where the target needs it."""
    if re.fullmatch(r"[A-Za-z0-9_./+@%:,=~-]+", target):
        return f"{source} {target}"
    escaped = "".join("\\" + letter if letter in "\\$" else letter for letter in target)
    return json.dumps([source, escaped], ensure_ascii=False)


@dataclass(frozen=True)
class CellImage:
    """What the Dockerfile of a cell says.

    Attributes:
        title: the image's name.
        version: its tag.
        cell: which cell.
        base: the base's name, pinned by digest.
        paths: absolute paths of the layer's files.
        sigfile: the one of them that holds the signature.
        signed: whether it is there.
        labels: labels of the image.
        user: user of the base, or None.
        entrypoint: entry point.
    """

    title: str
    version: str
    cell: str
    base: str
    paths: Sequence[str]
    sigfile: str
    signed: bool
    labels: Mapping[str, str]
    user: str | None
    entrypoint: Sequence[str]


def cell_dockerfile(image: CellImage) -> str:
    """Give the Dockerfile of a cell; its files stand below ``rootfs/`` beside it.

    Files are copied by folder, so that a folder that the base has keeps its mode and owner.

    Raises:
        InputError: a value that no Dockerfile can hold.
    """
    copies: dict[str, list[str]] = {}
    for path in sorted(image.paths):
        copies.setdefault(path.rpartition("/")[0] + "/", []).append(path)
    variables = {name: getattr(image, name) for name in CellImage.__dataclass_fields__}
    return render_dockerfile(CELL_TEMPLATE, variables | {"copies": copies})


def dockerignore(paths: Sequence[str]) -> str:
    """Give the ``.dockerignore`` that lets these files of the context through and nothing else.

    So a key that lies beside them is never sent to an engine.
    """
    return "".join(f"{line}\n" for line in ["*", *(f"!{path}" for path in sorted(paths))])


def render_dockerfile(template: str, variables: Mapping[str, object]) -> str:
    """Render a template of ``dockerfiles/``.

    Raises:
        InputError: a value that no Dockerfile can hold.
    """
    path = template_folder("dockerfiles") / template
    for text in _texts(list(variables.values())):
        if not text.isprintable():  # a line break would begin an instruction of its own
            raise InputError(
                f"{text!r} cannot stand in a Dockerfile", "take control characters out of it"
            )
    return render_text(path.read_text("utf-8"), variables, template)


def _texts(value: object) -> Iterator[str]:
    """Give every text in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts([*value.keys(), *value.values()])
    elif isinstance(value, Sequence):
        for item in value:
            yield from _texts(item)
