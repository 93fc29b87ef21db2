"""A project for Occlum as a whole: what it says twice, and what a version of Occlum lacks."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from imagekit.enclave.occlum.environment import EnvironmentSettings
from imagekit.enclave.occlum.versions import OcclumVersion, occlum_version
from imagekit.errors import UsageError
from imagekit.spec.fields import Node, shown
from imagekit.spec.keys import KEYS, OCCLUM_THREADS
from imagekit.spec.occlum import OcclumSection, agree, parse_occlum
from imagekit.spec.options import EnclaveOptions, LaunchOptions, OcclumOptions
from imagekit.spec.sizes import epc_name

if TYPE_CHECKING:
    from imagekit.spec.project import Project


def occlum_project(project: "Project", keys: Mapping[str, Node]) -> "Project":
    """Read the section ``occlum`` into a project, and what its variables say into the others.

    Without a number of threads, the project gets :data:`imagekit.spec.keys.OCCLUM_THREADS`.

    Args:
        project: with libos occlum, complete but for that section.
        keys: the project file's sections.

    Raises:
        UsageError: anything that is not allowed in the section; a variable that contradicts another
            key; something that the version lacks, if one is named.
    """
    section = parse_occlum(keys["occlum"], project.folder) if "occlum" in keys else OcclumSection()
    project = _apply(project, section, keys["enclave"].mapping() if "enclave" in keys else {})
    version = project.occlum.version
    problems = (
        edmm_problems(project.occlum, project.enclave)
        if version is None
        else version_problems(project.occlum, project.enclave, occlum_version(version))
    )
    for path, problem, hint in problems:
        raise _place(keys, path).error(problem, hint)
    return project


def _place(keys: Mapping[str, Node], path: str) -> Node:
    """Give the value at a path; what a variable says stands there."""
    section, *inner = path.split(".")
    node = keys[section]
    for name in inner:
        below = node.mapping()
        if name not in below:
            return below["environment"]
        node = below[name]
    return node


def _apply(project: "Project", section: OcclumSection, enclave: Mapping[str, Node]) -> "Project":
    settings, places = section.settings, section.environment
    _check_axes(project, settings, places)
    options = project.enclave
    if "max_threads" not in enclave:
        options = options._replace(max_threads=OCCLUM_THREADS)
    for name, variable in (("max_threads", "SGX_THREAD"), ("debug", "ENABLE_SGX_DEBUG")):
        wanted = getattr(settings, name)
        if wanted is not None:
            given = getattr(options, name) if name in enclave else None
            agree(places[variable], f"enclave.{name}", given, wanted, lambda v: str(v).lower())
            options = options._replace(**{name: wanted})
    most = KEYS["enclave.max_threads"].most or 0
    if options.max_threads > most:
        raise places["SGX_THREAD"].error(
            f"{options.max_threads} is out of range", f"allowed: 1 to {most}"
        )
    return replace(
        project,
        enclave=options,
        occlum=section.options,
        launch=_with_arenas(project, settings.malloc_arena_max, places),
    )


def _check_axes(
    project: "Project", settings: EnvironmentSettings, places: Mapping[str, Node]
) -> None:
    matrix = project.matrix
    if settings.user_space is not None and set(matrix.epc) != {settings.user_space}:
        raise places["SGX_MEM_SIZE"].error(
            f"{shown(places['SGX_MEM_SIZE'].raw)} contradicts matrix.epc, which is "
            f"{', '.join(map(epc_name, sorted(matrix.epc)))}",
            "user space is the cell's size: write it in matrix.epc, and leave SGX_MEM_SIZE out",
        )
    if settings.log is not None and set(matrix.log) != {settings.log}:
        raise places["SGX_LOG_LEVEL"].error(
            f"{shown(settings.log)} contradicts matrix.log, which is {', '.join(matrix.log)}",
            f"write matrix.log: [{settings.log}]; a level never makes an enclave debuggable, "
            "only enclave.debug does",
        )


def _with_arenas(
    project: "Project", arenas: str | None, places: Mapping[str, Node]
) -> LaunchOptions:
    launch = project.launch
    if arenas is None:
        return launch
    name = "MALLOC_ARENA_MAX"
    if name in launch.passthrough:
        raise places[name].error(
            "launch.passthrough leaves its value to the host", "name it in one of the two places"
        )
    env = dict(launch.env)
    agree(places[name], f"launch.env.{name}", env.get(name), arenas, str)
    return launch._replace(env=tuple(sorted((env | {name: arenas}).items())))


def version_problems(
    options: OcclumOptions, enclave: EnclaveOptions, version: OcclumVersion
) -> Iterator[tuple[str, str, str]]:
    """Give what a version of Occlum does not have of what a project asks for.

    Args:
        options: the section ``occlum``.
        enclave: the section ``enclave``.
        version: named by the project, or found in the base.

    Yields:
        The key, what is wrong, and what to do; a line each.
    """
    for key, asked, since in (
        ("enclave.edmm", enclave.edmm, (0, 30, 0)),
        ("occlum.kernel_heap_max", _differing_max(options), (0, 29, 5)),
        ("occlum.user_space_max", options.user_space_max is not None, (0, 30, 0)),
        ("occlum.init_threads", options.init_threads is not None, (0, 30, 0)),
        ("occlum.features.amx", options.features.amx, (0, 30, 0)),
        ("occlum.features.pkru", options.features.pkru, (0, 28, 0)),
        ("occlum.features.io_uring", options.features.io_uring, (0, 31, 0)),
        ("occlum.features.posix_shm", options.features.posix_shm, (0, 30, 1)),
        ("occlum.disable_log", options.disable_log is not None, (0, 30, 1)),
        ("occlum.mounts", any(m.type == "ext2" for m in options.mounts), (0, 31, 0)),
    ):
        if asked and version.number < since:
            what = "ext2" if key == "occlum.mounts" else "it"
            yield (
                key,
                f"Occlum {version.name} does not have {what}",
                f"take Occlum {'.'.join(map(str, since))} or later, or leave it out",
            )
    yield from edmm_problems(options, enclave)


def _differing_max(options: OcclumOptions) -> bool:
    return options.kernel_heap_max not in (None, options.kernel_heap)


def edmm_problems(
    options: OcclumOptions, enclave: EnclaveOptions
) -> Iterator[tuple[str, str, str]]:
    """Give what only an enclave with EDMM can have, and this one has not.

    Args:
        options: the section ``occlum``.
        enclave: the section ``enclave``.

    Yields:
        The key, what is wrong, and what to do; a line each.
    """
    if enclave.edmm:
        return
    for key, why in (
        ("user_space_max", "it replaces the size that the cell is named after"),
        ("init_threads", "all threads are there from the start"),
    ):
        if getattr(options, key) is not None:
            yield (
                f"occlum.{key}",
                f"is for EDMM: {why} otherwise",
                "leave it out, or set enclave.edmm: true",
            )


def check_occlum(project: "Project", version: OcclumVersion) -> None:
    """Refuse a project that asks for what the Occlum in its base does not have.

    Args:
        project: with libos occlum.
        version: found in the base.

    Raises:
        UsageError: with the key; the first that is wrong.
    """
    for key, problem, hint in version_problems(project.occlum, project.enclave, version):
        raise UsageError(f"{project.path}: {key}: {problem}", hint)
