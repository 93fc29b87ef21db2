"""The section ``launch`` of a project file: what runs inside, and what a host may choose of it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imagekit.runtime.launch import Encrypted
from imagekit.spec.fields import Node, shown
from imagekit.spec.keys import KEYS, names, required
from imagekit.spec.options import AttestationOptions, LaunchOptions
from imagekit.spec.readers import (
    axis,
    check_variable,
    host_path,
    inside_path,
    texts_by_name,
    variables,
)

_CLASS = re.compile(r"[A-Za-z_$][\w$]*(\.[A-Za-z_$][\w$]*)*", re.ASCII)
_PROPERTY = re.compile(r"[A-Za-z$][A-Za-z0-9._$/-]*")
_KEY_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


def parse_launch_options(node: Node, profile: str, folder: Path) -> LaunchOptions:
    """Read the section ``launch``.

    Args:
        node: the section.
        profile: the project's.
        folder: where relative paths start from.

    Raises:
        UsageError: anything that is not allowed there.
    """
    keys = node.mapping(names("launch"))
    if profile == "compat":
        raise node.error(
            "profile compat takes command and environment from the host",
            'write "profile: strict", or remove this key',
        )
    launch = LaunchOptions(
        command=_command(keys["command"]) if "command" in keys else (),
        env=variables(keys["env"]) if "env" in keys else (),
        passthrough=_names(keys["passthrough"]) if "passthrough" in keys else (),
        **_grammar(keys),
        attestation=_attestation(keys["attestation"], folder)
        if "attestation" in keys
        else AttestationOptions(),
    )
    both = sorted({name for name, _ in launch.env} & set(launch.passthrough))
    if both:
        raise keys["passthrough"].error(
            f"{both[0]} has a sealed value in launch.env", "name it in one of the two places"
        )
    both = sorted({name for name, _ in launch.conf} & {name for name, _ in launch.conf_allowed})
    if both:
        raise keys["conf_allowed"].error(
            f"{both[0]} has a sealed value in launch.conf", "name it in one of the two places"
        )
    return launch


def parse_encrypted(node: Node) -> tuple[Encrypted, ...]:
    """Read the list ``encrypted``.

    Raises:
        UsageError: anything that is not allowed there.
    """
    mounts = tuple(_mount(item) for item in node.sequence())
    seen: dict[str, int] = {}
    for item, mount in zip(node.sequence(), mounts, strict=True):
        for other in seen:
            if f"{mount.path}/".startswith(f"{other}/") or f"{other}/".startswith(f"{mount.path}/"):
                raise item.error(
                    f"{mount.path} and {other} lie in each other", "give each a place of its own"
                )
        seen[mount.path] = item.line
    return mounts


def _mount(node: Node) -> Encrypted:
    keys = node.mapping(names("encrypted[]"), required("encrypted[]"))
    path = inside_path(keys["path"], keys["path"].string())
    host = inside_path(keys["host"], keys["host"].string()) if "host" in keys else path
    key = keys["key"].string() if "key" in keys else str(KEYS["encrypted[].key"].default)
    if not _KEY_NAME.fullmatch(key):
        raise keys["key"].error(f"{shown(key)} is not a key's name", "use letters, digits and _")
    return Encrypted(path, host, key)


def _grammar(keys: Mapping[str, Node]) -> dict[str, Any]:
    """What a launch request may choose."""
    found: dict[str, Any] = {}
    if "roles" in keys:
        options = KEYS["launch.roles"].options
        found["roles"] = axis(keys["roles"], lambda item: item.choice(options), str)
    if "classes" in keys:
        found["classes"] = axis(keys["classes"], _class, shown, 0)
    if "jars" in keys:
        found["jars"] = axis(keys["jars"], lambda n: inside_path(n, n.string()), shown, 0)
    if "arguments" in keys:
        found["arguments"] = _pattern(keys["arguments"])
    for name in ("conf", "conf_allowed"):
        if name in keys:
            found[name] = _properties(keys[name], patterns=name == "conf_allowed")
    return found


def _command(node: Node) -> tuple[str, ...]:
    program, *arguments = node.sequence(minimum=1)
    # Nothing looks along PATH inside: the manifest names the one program that is measured.
    path = inside_path(program, program.string(what="a program"))
    return (path, *(item.string(empty=True) for item in arguments))


def _names(node: Node) -> tuple[str, ...]:
    found = axis(node, lambda item: item.string(what="a variable name"), shown, 0)
    for item in node.sequence():
        check_variable(item, item.raw)
    return tuple(sorted(found))


def _class(node: Node) -> str:
    name = node.string(what="a class name")
    if not _CLASS.fullmatch(name):
        raise node.error(f"{shown(name)} is not a class name", "write it as in org.example.Job")
    return name


def _pattern(node: Node) -> str:
    text = node.string(what="a regular expression", empty=True)
    try:
        re.compile(text, re.ASCII)
    except (re.error, RecursionError, OverflowError) as error:
        raise node.error(
            f"{shown(text)} is not a regular expression: {error}", "use Python's syntax"
        ) from None
    return text


def _properties(node: Node, *, patterns: bool) -> tuple[tuple[str, str], ...]:
    for name, child in node.mapping().items():
        if not _PROPERTY.fullmatch(name):
            raise child.error(f"{shown(name)} is not a property's name", "write it as in spark.x.y")
        if patterns:
            _pattern(child)
    return texts_by_name(node)


def _attestation(node: Node, folder: Path) -> AttestationOptions:
    keys = node.mapping(names("launch.attestation"))
    values: dict[str, Any] = {}
    for name, child in keys.items():
        key = KEYS[f"launch.attestation.{name}"]
        if key.kind == "boolean":
            values[name] = child.boolean()
        elif name == "ca":
            values[name] = host_path(child, folder)
        elif key.options:
            values[name] = child.choice(key.options)
        else:
            values[name] = child.string()
            if key.pattern and not re.search(key.pattern, values[name]):
                raise child.error(f"{shown(values[name])} is not allowed here", key.text)
    return AttestationOptions(**values)
