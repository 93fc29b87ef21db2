"""What ``secrets rbac`` writes: an account for jobs, and a role with what they ask for.

BigDL's guides bind the account to the cluster role ``edit``, which reads every Secret of the
namespace. The roles here hold what Spark's driver and Flink's JobManager have been seen to ask of
the API server, and their clients when they submit with the same account; Secrets are not among it,
as pods get those from the node.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from imagekit.errors import UsageError
from imagekit.render.yaml_text import to_yaml
from imagekit.secrets.folder import SecretFiles
from imagekit.secrets.kubernetes import check_label, metadata

DEFAULT_NAME = "spark"
"""The account in BigDL's guides, for Flink as well."""
YAML = "rbac.yaml"
PRODUCTS = ("spark", "flink", "both")

_GROUP = "rbac.authorization.k8s.io"
_ALL = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
_CORE = ("", ("configmaps", "pods", "services"), _ALL)
_RULES: Mapping[str, Sequence[tuple[str, Sequence[str], Sequence[str]]]] = {
    "spark": (
        _CORE,
        ("", ("persistentvolumeclaims",), _ALL),
        # The client of Spark 4 applies one for each driver.
        ("networking.k8s.io", ("networkpolicies",), ("create", "get", "patch")),
    ),
    "flink": (_CORE, ("apps", ("deployments",), _ALL)),
}
"""Product → API group, resources and verbs."""


def rules(product: str) -> list[dict[str, Any]]:
    """Give the rules of a role.

    Args:
        product: one of :data:`PRODUCTS`.

    Raises:
        UsageError: it is none of them.
    """
    if product not in PRODUCTS:
        raise UsageError(f"--for {product} is not known", f"take {', '.join(PRODUCTS)}")
    wanted = {rule for name in _RULES for rule in _RULES[name] if product in (name, "both")}
    return [
        {"apiGroups": [group], "resources": list(resources), "verbs": list(verbs)}
        for group, resources, verbs in sorted(wanted)
    ]


def objects(name: str, namespace: str, product: str, token: bool) -> list[dict[str, Any]]:
    """Give account, role and what binds them.

    Args:
        name: of all three.
        namespace: of all three; a binding has to name it.
        product: one of :data:`PRODUCTS`.
        token: also a Secret that Kubernetes fills with a token that does not expire, which from
            1.24 on no account has by itself.

    Raises:
        UsageError: one of them cannot be taken.
    """
    check_label("--name", name)
    check_label("--namespace", namespace)
    meta = metadata(name, namespace)
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta}
    rbac = {"apiVersion": f"{_GROUP}/v1"}
    found: list[dict[str, Any]] = [
        account,
        {**rbac, "kind": "Role", "metadata": meta, "rules": rules(product)},
        {
            **rbac,
            "kind": "RoleBinding",
            "metadata": meta,
            "subjects": [{"kind": "ServiceAccount", **meta}],
            "roleRef": {"apiGroup": _GROUP, "kind": "Role", "name": name},
        },
    ]
    if token:
        of = {"annotations": {"kubernetes.io/service-account.name": name}}
        secret = {"apiVersion": "v1", "kind": "Secret"}
        secret_meta = {**metadata(f"{name}-service-account-token", namespace), **of}
        kind = "kubernetes.io/service-account-token"
        found.append({**secret, "metadata": secret_meta, "type": kind})
    return found


def rbac(name: str, namespace: str, product: str, token: bool) -> SecretFiles:
    """Write :func:`objects` as one file.

    Raises:
        UsageError: as for them.
    """
    return SecretFiles({YAML: to_yaml(objects(name, namespace, product, token))})
