"""Looking into a manifest of unknown shape without ever failing."""

from collections.abc import Mapping
from typing import Any


def value_at(manifest: Mapping[str, Any], key: str) -> Any:
    """Give the value at a dotted path, None if there is none on the way."""
    value: Any = manifest
    for name in key.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def table_at(manifest: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Give the table at a dotted path, an empty one if there is none."""
    value = value_at(manifest, key)
    return value if isinstance(value, Mapping) else {}


def array_at(manifest: Mapping[str, Any], key: str) -> list[Any]:
    """Give the array at a dotted path, an empty one if there is none."""
    value = value_at(manifest, key)
    return value if isinstance(value, list) else []


def text_at(manifest: Mapping[str, Any], key: str) -> str:
    """Give the string at a dotted path, an empty one if there is none."""
    value = value_at(manifest, key)
    return value if isinstance(value, str) else ""


def uris(items: list[Any]) -> list[tuple[int, str, Any]]:
    """Give number, URI and hash (None: it has none) of file entries; others are left out."""
    found = []
    for number, item in enumerate(items):
        table = {"uri": item} if isinstance(item, str) else item
        if isinstance(table, Mapping) and isinstance(table.get("uri"), str):
            found.append((number, table["uri"], table.get("sha256")))
    return found


def normal_path(uri: str) -> str:
    """Give the path that a ``file:`` or ``dev:`` URI means, without ``.``, ``..`` and ``//``."""
    parts: list[str] = []
    path = uri.partition(":")[2] if uri.startswith(("file:", "dev:")) else uri
    for part in path.split("/"):
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return ("/" if path.startswith("/") else "") + "/".join(parts)
