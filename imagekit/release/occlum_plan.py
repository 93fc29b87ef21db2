"""What Occlum's cells take of EPC, told from the project file alone."""

from imagekit.enclave.occlum.config import read_occlum_config
from imagekit.enclave.occlum.enclave_xml import enclave_config
from imagekit.enclave.occlum.epc import CommittedEpc, committed_epc, gib, request_finding
from imagekit.enclave.occlum.versions import NEWEST, occlum_version
from imagekit.enclave.sdk.config import EnclaveConfig
from imagekit.release.occlum_inputs import occlum_inputs
from imagekit.render.occlum import render_occlum
from imagekit.spec.matrix import Cell
from imagekit.spec.project import Project


def planned_epc(project: Project, cell: Cell) -> CommittedEpc:
    """Give what a cell commits when its enclave starts, without the library OS's own pages.

    Args:
        project: whose libos is occlum. Where it names no version, the newest one's rules are taken.
        cell: which.

    Raises:
        UsageError, InputError: what the project file says makes no enclave.
    """
    return committed_epc(_enclave(project, cell))


def epc_remarks(project: Project, cells: tuple[Cell, ...]) -> list[str]:
    """Give a line for each cell that does not fit what its pods ask for (``occlum.epc_request``).

    Raises:
        UsageError, InputError: as :func:`planned_epc`.
    """
    request = project.occlum.epc_request
    if request is None:
        return []
    found = [(cell, request_finding(_enclave(project, cell), request)) for cell in cells]
    return [f"{cell.id}: {one.line} ({one.hint})" for cell, one in found if one is not None]


def epc_text(epc: CommittedEpc) -> str:
    """Give committed EPC for people, as ``9.25 GiB``."""
    return gib(epc.total)


def _enclave(project: Project, cell: Cell) -> EnclaveConfig:
    version = NEWEST if project.occlum.version is None else occlum_version(project.occlum.version)
    inputs = occlum_inputs(
        project, cell, version, environment={}, passthrough=(), python_lib="/usr/lib/python3"
    )
    rendered = render_occlum(inputs)
    config = read_occlum_config(rendered.document, version, rendered.name)
    return enclave_config(config, edmm=project.enclave.edmm)
