"""What Kubernetes does with objects: selectors, patches, lists; for :mod:`kubernetes_api`."""

import copy
import re
from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["Object", "Target", "allows", "listed", "merged", "patched", "selector", "status"]

Object = dict[str, Any]

_KINDS = {
    "configmaps": "ConfigMap",
    "deployments": "Deployment",
    "endpoints": "Endpoints",
    "namespaces": "Namespace",
    "nodes": "Node",
    "persistentvolumeclaims": "PersistentVolumeClaim",
    "pods": "Pod",
    "secrets": "Secret",
    "services": "Service",
}


class Target(NamedTuple):
    """What a path is about; name is None for a collection."""

    namespace: str
    plural: str
    name: str | None

    def holds(self, key: "Target") -> bool:
        same = self.plural == key.plural and self.name in (None, key.name)
        return same and self.namespace in ("", key.namespace)


def selector(query: dict[str, str]) -> Callable[[Object], bool]:
    """Labels and the field metadata.name, as far as Spark and Flink use them."""
    labels = re.findall(
        r"(!?)([\w./-]+)(?:\s*(!?=)=?\s*([\w.-]*)|\s+(in|notin)\s+\(([^)]*)\))?",
        query.get("labelSelector", ""),
    )
    name = re.fullmatch(r"metadata\.name=+(.+)", query.get("fieldSelector", ""))

    def matches(value: Object) -> bool:
        if name is not None and value["metadata"]["name"] != name[1]:
            return False
        has = value["metadata"].get("labels") or {}
        for absent, label, sign, wanted, word, several in labels:
            if sign:
                good = (has.get(label) == wanted) == (sign == "=")
            elif word:
                good = (has.get(label) in re.split(r"\s*,\s*", several)) == (word == "in")
            else:
                good = (label in has) == (not absent)
            if not good:
                return False
        return True

    return matches


def merged(old: Any, patch: Any) -> Any:
    """JSON merge patch (RFC 7396)."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    new = copy.deepcopy(old) if isinstance(old, dict) else {}
    for name, value in patch.items():
        if value is None:
            new.pop(name, None)
        else:
            new[name] = merged(new.get(name), value)
    return new


def patched(old: Object, patch: Any) -> Object:
    """A merge patch, or JSON patch (RFC 6902) of add, replace and remove."""
    if isinstance(patch, dict):
        return dict(merged(old, patch))
    new = copy.deepcopy(old)
    for step in patch:
        *folders, last = [
            word.replace("~1", "/").replace("~0", "~") for word in step["path"].split("/")[1:]
        ]
        place: Any = new
        for word in folders:
            place = place[int(word)] if isinstance(place, list) else place.setdefault(word, {})
        if isinstance(place, list):
            number = len(place) if last == "-" else int(last)
            if step["op"] == "add":
                place.insert(number, step["value"])
            elif step["op"] == "replace":
                place[number] = step["value"]
            else:
                del place[number]
        elif step["op"] == "remove":
            del place[last]
        else:
            place[last] = step["value"]
    return new


def listed(plural: str, items: list[Object], version: int) -> Object:
    return {
        "kind": f"{_KINDS.get(plural, plural.capitalize())}List",
        "apiVersion": "apps/v1" if plural == "deployments" else "v1",
        "metadata": {"resourceVersion": str(version)},
        "items": copy.deepcopy(items),
    }


def status(code: int, reason: str) -> Object:
    state = "Success" if code < 300 else "Failure"
    answer = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": state, "code": code}
    return {**answer, "reason": reason} if reason else answer


def allows(rules: list[Object], verb: str, group: str, resource: str) -> bool:
    """Whether a role with these rules allows a request, as Kubernetes' RBAC decides."""
    return any(
        {verb, "*"} & set(rule["verbs"])
        and {group, "*"} & set(rule["apiGroups"])
        and {resource, "*"} & set(rule["resources"])
        and not rule.get("resourceNames")
        for rule in rules
    )
