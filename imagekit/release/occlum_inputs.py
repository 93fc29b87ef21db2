"""What project and cell say to an ``Occlum.json``, with a base or before there is one.

A module of its own since ``plan`` needs no more than this, and should not load what reads images.
"""

from collections.abc import Mapping, Sequence

from imagekit.enclave.occlum.versions import OcclumVersion
from imagekit.render.occlum import OcclumInputs
from imagekit.spec.matrix import Cell
from imagekit.spec.project import Project


def occlum_inputs(
    project: Project,
    cell: Cell,
    version: OcclumVersion,
    *,
    environment: Mapping[str, str],
    passthrough: Sequence[str],
    python_lib: str,
    java_home: str = "",
    spark_home: str = "",
    flink_home: str = "",
) -> OcclumInputs:
    """Give what the ``Occlum.json`` of a cell depends on.

    Args:
        project: the project.
        cell: which.
        version: whose document it is.
        environment: variables with fixed values.
        passthrough: variables that a host may set.
        python_lib: folder of Python's library.
        java_home: "" if not there, or not known yet.
        spark_home: the same.
        flink_home: the same.
    """
    enclave = project.enclave
    return OcclumInputs(
        version=version,
        profile=project.profile,
        user_space=cell.epc,
        log=cell.log,
        attestation=cell.attestation,
        max_threads=enclave.max_threads,
        product_id=enclave.isv_prod_id,
        version_number=enclave.isv_svn,
        debug=enclave.debug,
        edmm=enclave.edmm,
        environment=environment,
        passthrough=passthrough,
        options=project.occlum,
        python_lib=python_lib,
        java_home=java_home,
        spark_home=spark_home,
        flink_home=flink_home,
    )
