"""What starts in an image: the launcher, and what ``launch.json`` seals for it.

The same in all cells of a project, so it is made once.
"""

from dataclasses import dataclass
from typing import Any

from imagekit.enclave.releases import GRAMINE_1_3
from imagekit.errors import InputError, UsageError
from imagekit.images.layers import LayerFile
from imagekit.release.contents import Base
from imagekit.release.gramine_base import GramineBase
from imagekit.release.runtimes import find_flink, find_java, find_spark
from imagekit.render.templates import template_folder
from imagekit.runtime.files import runtime_files, secured_argvs
from imagekit.runtime.launch import (
    FLINK_ROLES,
    OCCLUM,
    SPARK_ROLES,
    Encrypted,
    Java,
    Product,
    launch_spec,
)
from imagekit.runtime.occlum_rules import check_occlum
from imagekit.runtime.paths import LAUNCH_SPEC, LOG_FOLDER, NO_FORK_JAR
from imagekit.runtime.settings import check_sealed
from imagekit.spec.options import AttestationOptions
from imagekit.spec.project import Project

ARCH_LIBDIR = "/usr/lib/x86_64-linux-gnu"
SECURED_ARGVS = "/ppml/secured_argvs"

PASSTHROUGH_PATTERN = r"[\x20-\x7e]*"
"""What a passed-through variable may hold: printable ASCII on one line."""

_ARENAS = "4"
"""Arenas of the C library's allocator: each may take 128 MiB of the enclave; BigDL's number."""


@dataclass(frozen=True)
class Products:
    """What a base has to run jobs with; None where it has not, or does not say which."""

    java: Java | None
    spark: Product | None
    flink: Product | None


def find_products(base: Base) -> Products:
    """Look for Java, Spark and Flink."""
    rootfs = base.rootfs
    return Products(
        find_java(rootfs, base.java_home),
        find_spark(rootfs, base.spark_home),
        find_flink(rootfs, base.flink_home),
    )


def sealed_environment(base: Base, project: Project) -> dict[str, str]:
    """Give the sealed environment: defaults for what the base has, then the project file's."""
    libraries = _libraries(base.java_home, project.libos)
    env = {
        "PATH": "/usr/bin:/bin",
        "HOME": "/tmp",  # noqa: S108 - inside the enclave, where it is a private tmpfs
        "LANG": "C.UTF-8",
        "MALLOC_ARENA_MAX": _ARENAS,
        "LD_LIBRARY_PATH": ":".join(libraries),
    }
    if base.java_home:
        env["JAVA_HOME"] = base.java_home
    if base.spark_home:
        env |= {"SPARK_HOME": base.spark_home, "SPARK_LOCAL_IP": "127.0.0.1"}
    if base.flink_home:
        env["FLINK_HOME"] = base.flink_home
    env |= dict(project.launch.env)
    return {name: value for name, value in env.items() if name not in project.launch.passthrough}


def _libraries(java_home: str, libos: str) -> list[str]:
    """Give the folders in which programs inside look for libraries.

    With Gramine /lib is its own C library's folder. With Occlum it is musl's, so that programs made
    for glibc look there last.
    """
    if libos == "occlum":
        java = [f"{java_home}/lib/server", f"{java_home}/lib"] if java_home else []
        return [*java, "/opt/occlum/glibc/lib", ARCH_LIBDIR, "/lib"]
    return ["/lib", ARCH_LIBDIR] + ([f"{java_home}/lib"] if java_home else [])


def runtime_layer_files(base: Base, project: Project) -> tuple[LayerFile, ...]:
    """Give the launcher, the doors, and what the profile seals.

    Raises:
        UsageError: profile strict with nothing to run.
        InputError: the base lacks something that the project file names.
    """
    products = find_products(base)
    try:
        own = runtime_files(base.python, project.libos)
    except ValueError as error:
        raise InputError(f"{project.path}: paths.{error}", "name another interpreter") from None
    files = [LayerFile(path, data, mode) for path, (data, mode) in own.items()]
    files += _java_files(products)
    if project.profile == "strict":
        _check_launch(base, project, products)
        files.append(LayerFile(LAUNCH_SPEC, _strict_spec(base, project, products)))
    else:
        files.append(LayerFile(LAUNCH_SPEC, _compat_spec(project, products)))
        old = isinstance(base, GramineBase) and base.release is GRAMINE_1_3
        if old and base.rootfs.kind(SECURED_ARGVS) is None:
            files.append(LayerFile(SECURED_ARGVS, secured_argvs()))
    return tuple(files)


def _java_files(products: Products) -> list[LayerFile]:
    """What JVMs need beside the launcher; nothing in an image without Spark and Flink."""
    folder = template_folder("java")
    files = []
    if products.spark is not None:
        files.append(LayerFile(NO_FORK_JAR, (folder / "no-fork.jar").read_bytes()))
    for name, product in (("spark", products.spark), ("flink", products.flink)):
        if product is not None:
            files += [
                LayerFile(f"{LOG_FOLDER}/{name}/{path.name}", path.read_bytes())
                for path in sorted((folder / "log" / name).iterdir())
            ]
    return files


def _strict_spec(base: Base, project: Project, products: Products) -> bytes:
    launch = project.launch
    return launch_spec(
        launch.command,
        sealed_environment(base, project),
        dict.fromkeys(launch.passthrough, PASSTHROUGH_PATTERN),
        profile="strict",
        roles=list(launch.roles),
        classes=list(launch.classes),
        jars=list(launch.jars),
        arguments=launch.arguments,
        conf=dict(launch.conf),
        conf_allowed=dict(launch.conf_allowed),
        attestation={
            "required": launch.attestation.required,
            "settings": _settings(launch.attestation, project),
        },
        **_facts(project, products),
    )


def _compat_spec(project: Project, products: Products) -> bytes:
    """Nothing in it is sealed: this profile's manifest takes the file from the host.

    Its variables count where the host sets none. The project file has ones of its own only by
    ``occlum.environment``.
    """
    env = {"MALLOC_ARENA_MAX": _ARENAS} | dict(project.launch.env)
    return launch_spec(env=env, profile="compat", **_facts(project, products))


def _facts(project: Project, products: Products) -> dict[str, Any]:
    def fields(value: Java | Product | None) -> dict[str, Any] | None:
        return None if value is None else value._asdict()

    mounts = list(project.encrypted)
    if project.profile == "compat" and project.libos != OCCLUM:  # its manifest template's own
        mounts = [
            Encrypted("/ppml/encrypted-fs", "/ppml/encrypted-fs", "_sgx_mrsigner"),
            Encrypted("/ppml/encrypted-fsd", "/ppml/encrypted-fsd", "sgx_data_key"),
            *mounts,
        ]
    return {
        "libos": project.libos,
        "java": fields(products.java),
        "spark": fields(products.spark),
        "flink": fields(products.flink),
        "encrypted": [mount._asdict() for mount in mounts],
        "exposed": _exposed(project),
    }


def _exposed(project: Project) -> list[str]:
    """The host's folders in an enclave of Occlum; compat's template has one of its own."""
    if project.libos != OCCLUM:
        return []
    found = {mount.target for mount in project.occlum.mounts if mount.type == "hostfs"}
    return sorted(found | ({"/host"} if project.profile == "compat" else set()))


def _settings(options: AttestationOptions, project: Project) -> dict[str, str]:
    """The sealed variables of attestation and storage."""
    values = {
        "ATTESTATION_TYPE": options.type,
        "ATTESTATION_URL": options.url,
        "APP_ID": options.app_id,
        "ATTESTATION_CA": _certificates(options, project),
        "ATTESTATION_PIN_SHA256": options.pin_sha256,
        "ATTESTATION_SERVER_NAME": options.server_name,
        "ATTESTATION_ACCEPT": options.accept,
        "ALLOW_LOCAL_DATA_KEY": "true" if options.local_data_key else None,
    }
    sealed = {name: value for name, value in values.items() if value is not None}
    try:
        check_sealed(sealed)
    except ValueError as error:
        raise UsageError(
            f"{project.path}: launch.attestation: settings{error}",
            "correct the value: no container of the image would start with it",
        ) from None
    return sealed


def _certificates(options: AttestationOptions, project: Project) -> str | None:
    if options.ca is None:
        return None
    where = f"{project.path}: launch.attestation.ca: {options.ca}"
    try:
        text = options.ca.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not PEM text"
        raise InputError(f"{where}: {reason}", "name a file of PEM certificates") from None
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise InputError(f"{where}: no PEM certificates", "name a file of PEM certificates")
    if "PRIVATE KEY" in text:
        raise InputError(f"{where}: holds a private key", "name a file of certificates alone")
    return text


def _check_launch(base: Base, project: Project, products: Products) -> None:
    """Refuse what could never start."""
    launch, where = project.launch, project.path
    if project.libos == OCCLUM:
        homes = (products.java, products.spark, products.flink)
        code = [base.python, base.python_lib, *launch.command[:1], *launch.jars]
        code += [product.home for product in homes if product is not None]
        try:
            check_occlum(launch.passthrough, _exposed(project), code)
        except ValueError as error:
            raise UsageError(
                f"{where}: {error}",
                "give a variable its value in launch.env; mount the host's folders elsewhere",
            ) from None
    if not launch.command and not launch.roles:
        raise UsageError(
            f"{where}: launch.command: profile strict seals what runs; nothing is given",
            "write launch: {roles: [thrift]} or launch: {command: [/usr/bin/java, …]}, or take "
            '"profile: compat"',
        )
    if launch.command and base.rootfs.kind(launch.command[0]) != "file":
        raise InputError(
            f"{where}: launch.command: {launch.command[0]} is not in the base",
            "give the program's absolute path inside the image",
        )
    for jar in launch.jars:
        if base.rootfs.kind(jar) != "file":
            raise InputError(
                f"{where}: launch.jars: {jar} is not in the base",
                "give the jar's absolute path inside the image, or add it to the base",
            )
    for role in launch.roles:
        _check_role(role, project, products)


_SEALED = {
    **dict.fromkeys(("driver", "executor"), "spark.authenticate"),
    **dict.fromkeys(FLINK_ROLES, "security.ssl.internal.enabled"),
}
"""What has to be sealed as true for a role: without it whoever reaches a port of the role has it
run code, and MRENCLAVE stands for no workload."""


def _check_role(role: str, project: Project, products: Products) -> None:
    name = _SEALED.get(role)
    if name is not None and dict(project.launch.conf).get(name) != "true":
        raise UsageError(
            f"{project.path}: launch.conf: {name} is not sealed, and {role} would run code for "
            "whoever reaches its port",
            f'write launch: {{conf: {{{name}: "true"}}}}',
        )
    needed: list[tuple[str, object, str]] = [("Java", products.java, "paths.java_home")]
    if role in SPARK_ROLES:
        needed.append(("Spark", products.spark, "paths.spark_home"))
    if role in FLINK_ROLES:
        needed.append(("Flink", products.flink, "paths.flink_home"))
    for name, found, key in needed:
        if found is None:
            raise InputError(
                f"{project.path}: launch.roles: {role} needs {name}, and the base has none whose "
                "version is known",
                f"add {name} to the base, or say where it is in {key}",
            )
