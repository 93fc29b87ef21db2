"""The properties of a Spark job: what of the host's counts, what is sealed, what is always added.

Under strict every property from outside has to be in :mod:`.spark_table`, in the launch
specification's ``conf_allowed``, or equal to what is sealed. Under compat all of them count. In
both a sealed property wins, and what is missing for a JVM that cannot start processes is added.

Python 3.8, standard library, nothing else of this package.
"""

from __future__ import annotations

import os
import re
from typing import Mapping  # noqa: UP035 - Python 3.8

from . import rules
from .command import TEMPORARY
from .launch import Launch, Product
from .paths import NO_FORK_CLASS
from .request import Request
from .spark_table import JARS, TABLE
from .stop import REFUSED, Stop

_NO_FORK_ABSTRACT = "io.imagekit.hadoop.NoForkLocalFs"
"""The same file system for users of Hadoop's FileContext; it stands in the same jar."""
_SCHEME = re.compile(r"(file|local):(//)?(?=/)")
_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_METASTORE = "spark.hadoop.javax.jdo.option.ConnectionURL"


def check_property(spec: Launch, name: str, value: str, option: str = "") -> bool:
    """Check a property from outside as :func:`.rules.check` does, and jars by their list.

    Args:
        spec: the launch specification.
        name: of the property.
        value: its value, which no message shows.
        option: what brought it, for the message.

    Returns:
        Whether the host's value counts; if not, the sealed one does.

    Raises:
        Stop: it is refused.
    """
    counts = rules.check(spec, TABLE, name, value, option)
    if counts and name in JARS and name not in spec.conf_allowed:
        for jar in filter(None, value.split(",")):
            check_jar(spec, jar, f"{option} ({name})" if option else name)
    return counts


def local_path(location: str) -> str | None:
    """Give the path of a local location (``/x``, ``file:///x``, ``local:///x``), None of others."""
    found = _SCHEME.match(location)
    if found is not None:
        return location[found.end() :]
    return None if _REMOTE.match(location) else location


def check_jar(spec: Launch, location: str, what: str) -> None:
    """Refuse a jar that the launch specification does not name.

    Raises:
        Stop: it is none of those.
    """
    if location not in spec.jars and local_path(location) not in spec.jars:
        raise Stop(REFUSED, f"{what}: this jar is none of those sealed in this image")


def host_conf(spec: Launch, asked: Mapping[str, str]) -> dict[str, str]:
    """Give what of the host's properties counts, under the profile's rules.

    Raises:
        Stop: one is refused.
    """
    if spec.profile != "strict":
        return dict(asked)
    return {name: asked[name] for name in sorted(asked) if check_property(spec, name, asked[name])}


def with_additions(
    spec: Launch, conf: Mapping[str, str], request: Request, defaults: Mapping[str, str]
) -> dict[str, str]:
    """Give the properties of a driver: the host's, the sealed ones over them, and what is missing.

    Added if nobody set it: local directories, and Hive's warehouse and metastore, in private memory
    or, under strict, on the first encrypted mount; and what `defaults` holds.

    Args:
        spec: the launch specification.
        conf: the host's, as :func:`host_conf` gives them, and what the runtime sets over them.
        request: the launch request; its variables count.
        defaults: further properties to add.
    """
    merged = {**conf, **spec.conf}
    base = _private(spec)
    added = {
        **defaults,
        "spark.local.dir": local_dirs(spec, merged, request),
        "spark.sql.warehouse.dir": f"{base}/warehouse",
        **_secret(merged, request),
    }
    if "spark.hadoop.hive.metastore.uris" not in merged:
        added[_METASTORE] = f"jdbc:derby:;databaseName={base}/metastore_db;create=true"
    return {**added, **merged}


GROUPS = "spark.hadoop.hadoop.security.group.mapping"
"""Who tells Hadoop a user's groups. Before Spark 3.3 it counts only as a property of the JVM."""


def no_process(spark: Product) -> dict[str, str]:
    """Give the properties without which Hadoop starts ``chmod``, ``ls`` and ``id``.

    Args:
        spark: Spark of the image.
    """
    package = "org.apache.spark.sql.execution.streaming"
    if spark.release >= (4, 1):  # looked up in the jars of 4.0.1 and 4.1.1
        package += ".checkpointing"
    return {
        "spark.hadoop.fs.file.impl": NO_FORK_CLASS,
        "spark.hadoop.fs.AbstractFileSystem.file.impl": _NO_FORK_ABSTRACT,
        GROUPS: "org.apache.hadoop.security.NullGroupsMapping",
        "spark.sql.streaming.checkpointFileManagerClass": (
            f"{package}.FileSystemBasedCheckpointFileManager"
        ),
    }


def _private(spec: Launch) -> str:
    """Give the folder for data that nobody has named a place for.

    Under compat it is not an encrypted mount: BigDL's manifests always have one, and its key need
    not be set.
    """
    strict = spec.profile == "strict"
    return spec.encrypted[0].path.rstrip("/") if strict and spec.encrypted else TEMPORARY


def local_dirs(spec: Launch, conf: Mapping[str, str], request: Request) -> str:
    """Give Spark's local directories, separated by commas.

    What is sealed or allowed as ``spark.local.dir`` counts first. Under compat the host's
    ``SPARK_LOCAL_DIRS`` does next; under strict it does not count, as it is a folder of the host:
    the first encrypted mount is taken, or ``/tmp``, which is the enclave's own memory.
    """
    chosen = conf.get("spark.local.dir", "")
    if not chosen and spec.profile != "strict":
        chosen = request.env.get("SPARK_LOCAL_DIRS", "")
    base = _private(spec)
    return chosen or (base if base == TEMPORARY else f"{base}/spark-local")


def _secret(conf: Mapping[str, str], request: Request) -> dict[str, str]:
    """Take the secret of authentication from a variable, if nothing else has it.

    ``SPARK_AUTHENTICATE_SECRET`` is where the seeds' pods get it from a Kubernetes Secret.
    """
    given = map(request.env.get, ("_SPARK_AUTH_SECRET", "SPARK_AUTHENTICATE_SECRET"))
    value = next(filter(None, given), None)
    if value is None or conf.get("spark.authenticate") != "true" or has_secret(conf):
        return {}
    return {"spark.authenticate.secret": value}


def has_secret(conf: Mapping[str, str]) -> bool:
    """Say whether properties hold the secret of authentication, or say in which file it is."""
    kinds = ("", ".file", ".driver.file", ".executor.file")
    return any(f"spark.authenticate.secret{kind}" in conf for kind in kinds)


def storage(conf: Mapping[str, str]) -> dict[str, str]:
    """Give the local folders that a driver with these properties writes the job's data to.

    Returns:
        What a folder is for → the folder.
    """
    folders = listed_folders("spark.local.dir", conf.get("spark.local.dir", ""))
    names = ["spark.sql.warehouse.dir", "spark.sql.streaming.checkpointLocation"]
    names.append("spark.checkpoint.dir")
    if conf.get("spark.eventLog.enabled") == "true":
        names.append("spark.eventLog.dir")
    for name in names:
        default = "/tmp/spark-events" if name == "spark.eventLog.dir" else ""  # noqa: S108 - Spark's
        folder = local_path(conf.get(name, default))
        if folder:
            folders[name] = os.path.normpath(folder)
    database = _derby(conf.get(_METASTORE, ""))
    if database:
        folders["metastore"] = os.path.normpath(database)
    return folders


def _derby(url: str) -> str:
    """Give the folder of a Derby database, "" if this is none in a folder of this machine."""
    if not url.startswith("jdbc:derby:"):
        return ""
    name, *attributes = url[len("jdbc:derby:") :].split(";")
    for attribute in attributes:
        key, _, value = attribute.partition("=")
        if key == "databaseName":
            name = value
    if name.startswith(("memory:", "classpath:", "jar:", "//")):
        return ""
    return name[len("directory:") :] if name.startswith("directory:") else name


def listed_folders(name: str, text: str) -> dict[str, str]:
    """Give the local ones of locations separated by commas: what each is for → the folder."""
    paths = [path for path in map(local_path, text.split(",")) if path]
    return {
        f"{name} ({number})" if number > 1 else name: os.path.normpath(path)
        for number, path in enumerate(paths, 1)
    }
