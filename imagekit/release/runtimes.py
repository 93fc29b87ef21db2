"""Which Java, Spark and Flink a base has: looked up by file names, nothing of it is run."""

import re

from imagekit.images.rootfs import Rootfs
from imagekit.runtime.launch import Java, Product

_JAVA_VERSION = re.compile(r'^JAVA_VERSION="(?:1\.)?([0-9]+)[^"]*"', re.MULTILINE)
_SPARK_CORE = re.compile(r"spark-core_[0-9.]+-([0-9]+(?:\.[0-9]+)+)\.jar")
_FLINK_DIST = re.compile(r"flink-dist(?:_[0-9.]+)?-([0-9]+(?:\.[0-9]+)+)\.jar")


def find_java(rootfs: Rootfs, home: str) -> Java | None:
    """Give the Java of a folder by its file ``release`` (JEP 223: ``1.8`` means 8).

    Args:
        rootfs: the base.
        home: where its Java is; "" if there is none.

    Returns:
        None if there is none, or it does not say which it is.
    """
    path = f"{home}/release"
    if not home or rootfs.kind(path) != "file":
        return None
    found = _JAVA_VERSION.search(rootfs.read(path).decode("utf-8", "replace"))
    return Java(home, int(found[1])) if found else None


def find_spark(rootfs: Rootfs, home: str) -> Product | None:
    """Give the Spark of a folder by the name of its core jar; None as in :func:`find_java`."""
    return _product(rootfs, home, "jars", _SPARK_CORE)


def find_flink(rootfs: Rootfs, home: str) -> Product | None:
    """Give the Flink of a folder by the name of its main jar; None as in :func:`find_java`."""
    return _product(rootfs, home, "lib", _FLINK_DIST)


def _product(rootfs: Rootfs, home: str, folder: str, name: re.Pattern[str]) -> Product | None:
    path = f"{home}/{folder}"
    if not home or rootfs.kind(path) != "dir":
        return None
    found = {match[1] for child in rootfs.children(path) if (match := name.fullmatch(child))}
    return Product(home, found.pop()) if len(found) == 1 else None
