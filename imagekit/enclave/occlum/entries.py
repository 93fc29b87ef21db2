"""What a host may start, and which variables it may set: ``entry_points`` and ``env``."""

import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any

from imagekit.enclave.findings import WARNING, Finding, shown
from imagekit.enclave.manifest_values import array_at
from imagekit.enclave.occlum.versions import OcclumVersion

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_INTERPRETER = re.compile(
    r"(ba|da|z|k|a)?sh|busybox|env|java|(python|pypy|perl|ruby|lua|node|nodejs|php|Rscript)[0-9.]*"
)
_PATH_MAX = 4096  # of Linux, with the byte behind it
_FOLDERS = ("bin", "sbin")
_TREES = ("/usr", "/usr/local", "/usr/lib", "/lib", "/lib64", "/opt", "/root")
_LOADS_CODE = re.compile(
    r"LD_(PRELOAD|LIBRARY_PATH|AUDIT)|PATH|(JDK_|_)JAVA_OPTIONS|JAVA_TOOL_OPTIONS|CLASSPATH"
    r"|PYTHON(PATH|HOME|STARTUP)|SPARK_DIST_CLASSPATH|SPARK_(HOME|CONF_DIR)|JAVA_HOME|BASH_ENV|ENV"
)
_SECRET = re.compile(r"PASS(WORD|PHRASE|WD)?$|SECRET|TOKEN|API_?KEY|PRIVATE_?KEY", re.IGNORECASE)


def entry_findings(
    document: Mapping[str, Any], version: OcclumVersion, edmm: bool
) -> Iterator[Finding]:
    """Give what is wrong with entry points and environment, and what a host could do with them."""
    yield from _entry_points(document.get("entry_points"))
    yield from _default(array_at(document, "env.default"))
    yield from _untrusted(document)


def is_inside_path(path: str) -> bool:
    """Tell whether a text is an absolute path without detours: no ``.``, ``..``, ``//``."""
    if len(path) >= _PATH_MAX or not path.startswith("/") or path.startswith("//"):
        return False
    return path.isprintable() and posixpath.normpath(path) == path


def _entry_points(items: object) -> Iterator[Finding]:
    if not isinstance(items, list):
        return
    if not items:
        problem = "is empty: no program can be started"
        yield Finding("entry_points", problem, "name the program that a host may start")
    seen: set[str] = set()
    for number, path in enumerate(items):
        key = f"entry_points[{number}]"
        if not isinstance(path, str):
            continue
        if not is_inside_path(path):
            problem = f"{shown(path)} is not an absolute path without detours"
            yield Finding(key, problem, "begin with /, without . or .. or a slash at the end")
        elif path in seen:
            yield Finding(key, f"{shown(path)} is there already", "remove it", WARNING)
        elif (reach := _reach(path)) is not None:
            yield Finding(
                key,
                f"the host may start {reach} with arguments of its choice",
                "name one program that takes no arguments",
                WARNING,
            )
        seen.add(path)


def _reach(path: str) -> str | None:
    """Say what an entry point lets a host start, if that is more than one program of its own."""
    name = posixpath.basename(path)
    if path == "/" or path in _TREES:
        return f"every program below {path}"
    if name in _FOLDERS:
        return f"every program in {path}, interpreters among them,"
    if _INTERPRETER.fullmatch(name):
        return f"the interpreter {path}"
    return None


def _default(items: list[Any]) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    for number, entry in enumerate(items):
        key = f"env.default[{number}]"
        if not isinstance(entry, str):
            continue
        name, equals, value = entry.partition("=")
        if not entry:
            yield Finding(key, "an empty entry sets nothing", "remove it", WARNING)
        elif not equals or not _VARIABLE.fullmatch(name):
            # The entry is not shown: whatever it is, it may be a value.
            yield Finding(key, "is not of the form NAME=VALUE", "write it like LANG=C.UTF-8")
        elif name in seen:
            problem = f"{name} is set already, in env.default[{seen[name]}]"
            yield Finding(key, problem, "set it once", loads=True)
        elif value and _SECRET.search(name):
            yield Finding(
                key,
                f"the value of {name} stands in the image, readable for everyone",
                "let the program fetch secrets after attestation",
                WARNING,
            )
        seen.setdefault(name, number)


def _untrusted(document: Mapping[str, Any]) -> Iterator[Finding]:
    default = {
        entry.partition("=")[0]
        for entry in array_at(document, "env.default")
        if isinstance(entry, str)
    }
    items = array_at(document, "env.untrusted")
    seen: set[str] = set()
    for number, name in enumerate(items):
        key = f"env.untrusted[{number}]"
        if not isinstance(name, str):
            continue
        if not _VARIABLE.fullmatch(name):
            hint = "write the name alone; a value stands in env.default" if "=" in name else ""
            yield Finding(
                key, "is not the name of a variable", hint or "use letters, digits and _ only"
            )
        elif name in seen:
            yield Finding(key, f"{name} is there already", "remove it", WARNING)
        elif _LOADS_CODE.fullmatch(name):
            problem = f"with {name} the host chooses the code that runs"
            yield Finding(key, problem, "remove it", WARNING)
        elif name == "ATTESTATION_DEBUG":
            problem = "lets the host have a failed attestation pass"
            yield Finding(key, problem, "remove it", WARNING)
        elif name in default:
            yield Finding(
                key,
                f"the host's value of {name} wins over the one in env.default",
                "name it in one of the two",
                WARNING,
            )
        seen.add(name)
