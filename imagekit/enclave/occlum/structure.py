"""The shape of an ``Occlum.json``: which keys are there, and what kind of value each has."""

import re
from collections.abc import Iterator, Mapping

from imagekit.enclave.findings import Finding, dotted, shown
from imagekit.enclave.manifest_schema import Wrong
from imagekit.enclave.occlum.keys import (
    KEYS,
    Key,
    names,
    nearest_key,
    other_version,
    table_path,
)
from imagekit.enclave.occlum.sizes import occlum_size, read_size
from imagekit.enclave.occlum.versions import OcclumVersion

PAGE = 4096
_HEX = re.compile(r"0[xX][0-9a-fA-F]{1,16}", re.ASCII)
_KINDS = {
    "object": "an object",
    "objects": "a list of objects",
    "text": "a text",
    "texts": "a list of texts",
    "integer": "a whole number",
    "boolean": "true or false",
    "hex": 'a text like "0x1f"',
}
_SEARCHES = 50  # unknown keys whose like is searched for; each search costs a millisecond


def structure_findings(document: object, version: OcclumVersion) -> Iterator[Finding]:
    """Give the errors of shape: unknown and missing keys, wrong kinds, sizes and numbers.

    Args:
        document: any JSON.
        version: the Occlum that is to read it.
    """
    yield from _Walk(version).mapping("", "", document)


class _Walk:
    """One walk over a document.

    In it, ``table`` is the path of a key in the table of keys, ``label`` where the value stands.
    """

    def __init__(self, version: OcclumVersion) -> None:
        self._version = version
        self._searches = _SEARCHES

    def mapping(self, table: str, label: str, value: object) -> Iterator[Finding]:
        if not isinstance(value, Mapping):
            yield _expected(label or "Occlum.json", "object", value)
            return
        known = names(table, self._version)
        dot = f"{table}." if table else ""
        for name in known:
            if KEYS[dot + name].required and name not in value:
                yield _missing(dotted(label, name), KEYS[dot + name])
        for name, inner in value.items():
            path = dotted(label, str(name))
            if name in known:
                yield from self._value(dot + name, path, inner)
            else:
                yield self._unknown(f"{dot}{name}", path)

    def _value(self, table: str, label: str, value: object) -> Iterator[Finding]:
        key = KEYS[table]
        if key.kind == "object":
            yield from self.mapping(table, label, value)
        elif key.kind not in ("objects", "texts"):
            yield from _scalar(key, key.kind, label, value)
        elif not isinstance(value, list):
            yield _expected(label, key.kind, value)
        elif key.kind == "texts":
            for number, item in enumerate(value):
                yield from _scalar(key, "text", f"{label}[{number}]", item)
        elif ".options.layers[" in label:
            yield Finding(label, "a layer has no layers of its own", "use one unionfs", stock=True)
        else:
            for number, item in enumerate(value):
                yield from self.mapping(table_path(f"{table}[]"), f"{label}[{number}]", item)

    def _unknown(self, table: str, label: str) -> Finding:
        other = other_version(table, self._version)
        if other is not None:
            return Finding(label, *other, loads=True)
        self._searches -= 1
        near = nearest_key(table, self._version) if self._searches >= 0 else None
        hint = f"did you mean {near}?" if near else "leave it out"
        problem = f"is not a key of Occlum {self._version.name}, which ignores it"
        return Finding(label, problem, hint, loads=True)


def _scalar(key: Key, kind: str, label: str, value: object) -> Iterator[Finding]:
    wrong = None
    if kind == "size":
        wrong = _size(key, value)
    elif kind == "boolean":
        if not isinstance(value, bool):
            yield _expected(label, kind, value)
    elif kind == "integer":
        if isinstance(value, bool) or not isinstance(value, int):
            yield _expected(label, kind, value)
        elif not key.least <= value <= key.most:
            limits = f"allowed: {key.least} to {key.most}"
            wrong = Wrong(f"{shown(value)} is out of range", limits, True)
    elif not isinstance(value, str):
        yield _expected(label, kind, value)
    elif "\0" in value:
        wrong = Wrong("the text holds a zero byte", "remove it", True)
    elif kind == "hex" and not _HEX.fullmatch(value):
        wrong = Wrong(f"{shown(value)} is not a number of 64 bits in hexadecimal", _hex_hint(value))
    if wrong is not None:
        yield Finding(label, wrong.problem, wrong.hint, stock=wrong.stock)


def _size(key: Key, value: object) -> Wrong | None:
    size = read_size(value)
    if isinstance(size, Wrong):
        return size
    if size == 0 and key.positive:
        return Wrong(f"{shown(value)} is no memory at all", "make it larger", True)
    if key.pages and size % PAGE:
        up = occlum_size(size + -size % PAGE)
        return Wrong(f"{shown(value)} is not whole pages of 4KB", f'the next is "{up}"', True)
    return None


def _hex_hint(value: str) -> str:
    digits = value[2:] if value[:2] in ("0x", "0X") else value
    if re.fullmatch("[0-9a-fA-F]{1,16}", digits, re.ASCII):
        return f'write "0x{digits}" if these are hexadecimal digits'
    return 'write it like "0x1f": at most 16 digits; the upper half has its own key'


def _expected(label: str, kind: str, value: object) -> Finding:
    what = {dict: "an object", list: "a list", type(None): "null"}.get(type(value), shown(value))
    return Finding(label, f"expected {_KINDS[kind]}, is {what}", _hint(kind, value), stock=True)


def _hint(kind: str, value: object) -> str:
    if kind == "boolean" and isinstance(value, str) and value.lower() in ("true", "false"):
        return f"write {value.lower()} without quotes"
    if kind == "integer" and isinstance(value, str) and value.strip('"').isdecimal():
        return f"write {shown(value)[1:-1]} without quotes"
    if kind == "hex" and isinstance(value, int) and not isinstance(value, bool):
        return f'write "{value:#x}"' if 0 <= value < 1 << 64 else "at most 64 bits"
    if kind == "texts" and isinstance(value, str):
        return "write it in square brackets"
    return f"write {_KINDS[kind]}"


def _missing(label: str, key: Key) -> Finding:
    hint = "add it"
    if key.default is not None:
        hint = f"add it; Occlum's own template has {shown(key.default)}"
    elif label == "feature":
        hint = 'add it; "feature": {} asks for nothing'
    return Finding(label, "is missing", hint, stock=True)
