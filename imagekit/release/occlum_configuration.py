"""The configuration of Occlum's cells: ``Occlum.json`` and what is copied into the enclave's tree.

What is the same in all cells of a project (the launcher, the sealed command, the list of files) is
made once by an :class:`OcclumRenderer`.
"""

from dataclasses import dataclass

from imagekit.enclave.findings import Finding
from imagekit.enclave.occlum.config import config_findings, read_occlum_config
from imagekit.enclave.occlum.enclave_xml import enclave_config
from imagekit.enclave.occlum.epc import library_pages, request_finding
from imagekit.enclave.occlum.model import OcclumConfig
from imagekit.enclave.sdk.config import EnclaveConfig
from imagekit.enclave.sdk.image import read_image
from imagekit.errors import UsageError
from imagekit.images.layers import LayerFile
from imagekit.release.launching import runtime_layer_files, sealed_environment
from imagekit.release.occlum_base import OcclumBase
from imagekit.release.occlum_inputs import occlum_inputs
from imagekit.release.signing import refuse
from imagekit.render.bom import BomInputs, bom_yaml
from imagekit.render.occlum import OcclumInputs, OcclumJson, build_script, render_occlum
from imagekit.render.occlum_agreement import check_agrees
from imagekit.spec.matrix import Cell
from imagekit.spec.occlum_rules import check_occlum
from imagekit.spec.project import Project


@dataclass(frozen=True)
class OcclumRendered:
    """The configuration of a cell, ready for ``occlum build``.

    Attributes:
        cell: which.
        json: ``Occlum.json``.
        config: the same, typed.
        enclave: what Occlum makes of it.
        bom: what ``copy_bom`` copies into the enclave's tree.
        script: what builds the instance.
        files: the launcher's files, which stand in the image and in the enclave's tree.
        warnings: what is unwise in it.
    """

    cell: Cell
    json: OcclumJson
    config: OcclumConfig
    enclave: EnclaveConfig
    bom: bytes
    script: str
    files: tuple[LayerFile, ...]
    warnings: tuple[Finding, ...]


class OcclumRenderer:
    """Renders the cells of one project on one base; several threads may ask for cells.

    Args:
        base: the base.
        project: the project.
        release: refuse an enclave that a host can debug.

    Raises:
        UsageError: the project file asks for what this Occlum does not have.
        InputError: the base lacks something that the project file names.
    """

    def __init__(self, base: OcclumBase, project: Project, *, release: bool = True) -> None:
        check_occlum(project, base.version)
        self._base, self._project, self._release = base, project, release
        self._files = runtime_layer_files(base, project)
        self._bom = bom_yaml(base.rootfs.with_files(self._files), _bom_inputs(base, project))
        self._pages = library_pages(read_image(base.rootfs.read(base.libos), base.libos))

    def render(self, cell: Cell) -> OcclumRendered:
        """Render and check a cell's configuration.

        Raises:
            InputError: template.
            SigningError: a configuration that must not become an enclave.
        """
        project, version = self._project, self._base.version
        inputs = _inputs(self._base, project, cell)
        rendered = render_occlum(inputs)
        edmm = project.enclave.edmm
        where = f"{cell.id}: {rendered.name}"
        findings = config_findings(rendered.document, version, release=self._release, edmm=edmm)
        refuse(findings, where)
        check_agrees(rendered, inputs, f"{cell.id} of {project.path.name}")
        try:
            config = read_occlum_config(rendered.document, version, rendered.name)
            enclave = enclave_config(config, edmm=edmm)
        except UsageError as error:
            raise UsageError(f"{cell.id}: {error.problem}", error.hint) from None
        asked = self._epc_finding(enclave)
        refuse(asked, f"{cell.id}: {project.path.name}")
        return OcclumRendered(
            cell,
            rendered,
            config,
            enclave,
            self._bom,
            build_script(edmm and not version.has_features),
            self._files,
            (*findings, *asked, *_log_finding(cell, config)),
        )

    def _epc_finding(self, enclave: EnclaveConfig) -> tuple[Finding, ...]:
        request = self._project.occlum.epc_request
        if request is None:
            return ()
        elf, thread = self._pages
        found = request_finding(enclave, request, elf_pages=elf, thread_data_pages=thread)
        return () if found is None else (found,)


def _log_finding(cell: Cell, config: OcclumConfig) -> tuple[Finding, ...]:
    """A release enclave of Occlum says nothing beyond "error", whatever it is asked for."""
    if config.debuggable or cell.log in ("off", "error"):
        return ()
    problem = f"{cell.log} says no more than error in an enclave that is not debuggable"
    return (Finding("log", problem, "take error, which says the same", "warning"),)


def _inputs(base: OcclumBase, project: Project, cell: Cell) -> OcclumInputs:
    compat = project.profile == "compat"
    return occlum_inputs(
        project,
        cell,
        base.version,
        environment=dict(project.launch.env) if compat else sealed_environment(base, project),
        passthrough=project.launch.passthrough,
        python_lib=base.python_lib,
        java_home=base.java_home,
        spark_home=base.spark_home,
        flink_home=base.flink_home,
    )


def _bom_inputs(base: OcclumBase, project: Project) -> BomInputs:
    return BomInputs(
        where=str(project.path),
        python=base.python,
        python_lib=base.python_lib,
        java_home=base.java_home,
        java_etc=base.java_etc,
        spark_home=base.spark_home,
        flink_home=base.flink_home,
        trusted=project.trusted,
        command=project.launch.command,
        jars=project.launch.jars,
        mount_points=[mount.target for mount in project.occlum.mounts],
    )
