"""A cell's enclave configuration: everything that stands in the layer but the signature.

What is the same in all cells of a project (the launcher, the sealed command, the lists of trusted
files) is made once by a :class:`Renderer`; a cell then costs the rendering of its own manifest.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any

from imagekit.enclave.findings import Finding
from imagekit.enclave.releases import GRAMINE_1_3
from imagekit.errors import ImagekitError, InputError, UsageError
from imagekit.images.layers import LayerFile
from imagekit.images.rootfs import Rootfs
from imagekit.release.gramine_base import GramineBase
from imagekit.release.launching import ARCH_LIBDIR, runtime_layer_files, sealed_environment
from imagekit.release.signing import check_before_signing
from imagekit.render.manifest import Expansions, complete_manifest
from imagekit.render.templates import render_text, template_folder
from imagekit.runtime.paths import APP, LAUNCHER
from imagekit.runtime.place import SIZE_VARIABLE
from imagekit.runtime.request import VARIABLE as REQUEST_VARIABLE
from imagekit.spec.matrix import Cell
from imagekit.spec.project import Project
from imagekit.spec.sizes import gramine_size


@dataclass(frozen=True)
class ImageTree:
    """The merged view of an image as the :class:`imagekit.render.tree.Tree` of a manifest.

    It answers as a container of the image would: the stock tools, run inside one, give the same
    manifest. Gramine looks files up by the path of a mount, so a folder keeps the path by which it
    is named, links in it included.
    """

    rootfs: Rootfs

    def kind(self, path: str) -> str | None:
        """See Tree."""
        return self.rootfs.kind(path)

    def is_link(self, path: str) -> bool:
        """See Tree."""
        entry = self.rootfs.entry(path, follow=False)
        return entry is not None and entry.kind == "symlink"

    def resolve(self, path: str) -> str:
        """See Tree."""
        self.rootfs.resolve(path)
        return path

    def children(self, path: str) -> list[str]:
        """See Tree."""
        return list(self.rootfs.children(path))

    def sha256(self, path: str) -> str:
        """See Tree."""
        return self.rootfs.sha256(path)

    def walkable(self, path: str) -> bool:
        """See Tree: links are resolved inside the image, so none is left out."""
        return True


@dataclass(frozen=True)
class Rendered:
    """The enclave configuration of a cell, ready to be measured.

    Attributes:
        cell: which.
        source: the rendered template, before anything was completed.
        text: bytes of ``bash.manifest``.
        sgx: bytes of ``bash.manifest.sgx``.
        manifest: the latter, parsed.
        files: everything else that goes into the layer.
        warnings: what is unwise in it.
    """

    cell: Cell
    source: bytes
    text: bytes
    sgx: bytes
    manifest: Mapping[str, Any]
    files: tuple[LayerFile, ...]
    warnings: tuple[Finding, ...]


def _template(base: GramineBase, project: Project) -> tuple[str, str]:
    """Text and name of the manifest template."""
    if project.gramine.template is not None:
        path = project.gramine.template
    else:
        old = base.release is GRAMINE_1_3
        if old and project.profile == "strict":
            raise InputError(
                f"profile strict needs Gramine 1.9, not 1.3 ({base.release_origin})",
                "take profile compat, or a base with a newer Gramine",
            )
        name = "strict" if project.profile == "strict" else "bash"
        folder = template_folder("gramine") / ("1.3" if old else "")
        path = folder / f"{name}.manifest.template"
    try:
        return path.read_text("utf-8"), str(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(f"{path}: {reason}", "check --manifest-template") from None


def template_variables(base: GramineBase, project: Project, cell: Cell) -> dict[str, Any]:
    """Give everything a manifest template may use; see ``docs/manifest-templates.md``."""
    strict = project.profile == "strict"
    return {
        "gramine": base.gramine,
        "log_level": cell.log,
        "enclave_size": gramine_size(cell.epc),
        "max_threads": project.enclave.max_threads,
        "edmm": project.enclave.edmm,
        "debug": project.enclave.debug,
        "attestation": cell.attestation,
        "isv_prod_id": project.enclave.isv_prod_id,
        "isv_svn": project.enclave.isv_svn,
        "arch_libdir": ARCH_LIBDIR,
        "execdir": "/usr/bin",
        "python": base.python,
        "python_lib": base.python_lib,
        "java_home": base.java_home,
        "jdk_home": base.java_home,
        "java_etc": list(base.java_etc),
        "spark_home": base.spark_home,
        "flink_home": base.flink_home,
        "launcher": LAUNCHER,
        "app": APP,
        "argv": list(project.launch.command),
        "env": {
            **sealed_environment(base, project),
            SIZE_VARIABLE: gramine_size(cell.epc),
        }
        if strict
        else {},
        "passthrough": [REQUEST_VARIABLE, *project.launch.passthrough],
        "trusted": list(project.trusted),
        "encrypted": [
            {"path": mount.path, "uri": f"file:{mount.host}", "key_name": mount.key_name}
            for mount in project.encrypted
        ],
    }


def _check_project(base: GramineBase, project: Project) -> None:
    """Refuse what the project file says wrongly, by its own words rather than the template's."""
    for uri in project.trusted:
        path = uri.removeprefix("file:")
        kind = base.rootfs.kind(path)
        if kind is None:
            raise InputError(
                f"{project.path}: trusted: {path} is not in the base",
                "give a path inside the image, or add the file to the base",
            )
        if (kind == "dir") != path.endswith("/"):
            raise InputError(
                f"{project.path}: trusted: {path} is a {'folder' if kind == 'dir' else 'file'}",
                "a folder ends with a slash, a file does not",
            )
    own = template_variables(base, project, Cell("gramine", 1 << 30, "error", "none"))
    for name, _ in project.gramine.define:
        if not name.isidentifier():
            raise UsageError(
                f"-D {name}: no template can use a variable of that name", "use letters and digits"
            )
        if name in own:
            raise UsageError(
                f"-D {name}: this variable is imagekit's own", "choose another name for yours"
            )


class Renderer:
    """Renders the cells of one project on one base; several threads may ask for cells.

    Raises:
        UsageError: the project file lacks something that the profile needs.
        InputError: the template cannot be read, or the base lacks the command.
    """

    def __init__(self, base: GramineBase, project: Project) -> None:
        self._base = base
        self._project = project
        _check_project(base, project)
        self._files = runtime_layer_files(base, project)
        self._template, self._name = _template(base, project)
        self._tree = ImageTree(base.rootfs.with_files(self._files))
        self._expansions: Expansions = {}
        # Rendering holds Python's own lock all the time: two at once would only do work twice.
        self._turn = Lock()

    def render(self, cell: Cell) -> Rendered:
        """Render, complete and check a cell's configuration.

        Raises:
            InputError: template, or a trusted file that the base does not have.
            SigningError: a manifest that must not be signed.
        """
        with self._turn:
            return self._render(cell)

    def _render(self, cell: Cell) -> Rendered:
        base, release = self._base, self._base.release
        text = render_text(
            self._template,
            template_variables(base, self._project, cell) | dict(self._project.gramine.define),
            self._name,
        )
        try:
            manifest, early = self._complete(text, expand=release.expands_early)
            sgx = early
            if not release.expands_early:
                manifest, sgx = self._complete(early.decode(), expand=True)
        except ImagekitError as error:
            problem = error.problem.removeprefix(f"{self._name}: ")
            raise type(error)(f"{self._name}: {problem}", error.hint) from None
        warnings = check_before_signing(manifest, release, f"{cell.id}: {self._name}")
        _check_agrees(manifest, self._project, cell, release.threads_key, self._name)
        return Rendered(cell, text.encode(), early, sgx, manifest, self._files, warnings)

    def _complete(self, text: str, *, expand: bool) -> tuple[dict[str, Any], bytes]:
        return complete_manifest(
            text,
            self._base.release,
            name=self._name,
            libos=self._base.gramine.libos,
            tree=self._tree,
            expand=expand,
            expansions=self._expansions,
        )


def _check_agrees(
    manifest: Mapping[str, Any], project: Project, cell: Cell, threads_key: str, name: str
) -> None:
    """Refuse a template that does not use what the cell and the project say."""
    sgx = manifest["sgx"]
    wanted = {
        "sgx.enclave_size": (sgx.get("enclave_size"), gramine_size(cell.epc)),
        "sgx.remote_attestation": (sgx.get("remote_attestation"), cell.attestation),
        f"sgx.{threads_key}": (sgx.get(threads_key), project.enclave.max_threads),
        "sgx.debug": (sgx.get("debug"), project.enclave.debug),
        "sgx.isvprodid": (sgx.get("isvprodid"), project.enclave.isv_prod_id),
        "sgx.isvsvn": (sgx.get("isvsvn"), project.enclave.isv_svn),
        "loader.log_level": (manifest["loader"].get("log_level"), cell.log),
    }
    for key, (found, expected) in wanted.items():
        if found != expected:
            raise InputError(
                f"{name}: {key} is {found!r}, but {cell.id} of {project.path.name} says "
                f"{expected!r}",
                "let the template use its variables (docs/manifest-templates.md)",
            )
