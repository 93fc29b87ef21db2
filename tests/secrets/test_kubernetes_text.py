"""Kubernetes objects as text, and the role that they give to jobs."""

import base64
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from kubernetes_objects import allows

from imagekit.errors import UsageError
from imagekit.render.yaml_text import to_yaml
from imagekit.secrets import rbac
from imagekit.secrets.kubernetes import check_label, secret

RECORDED = sorted((Path(__file__).parents[1] / "golden" / "kubernetes").glob("*-requests.json"))


class NothingButTexts(yaml.SafeLoader):
    """Reads plain scalars as YAML 1.1 or 1.2 might: anything that is not surely a word is wrong."""

    def construct_scalar(self, node):
        assert node.style == '"' or node.value[:1].isalpha(), node.value
        return super().construct_scalar(node)


@given(st.dictionaries(st.from_regex("[a-z.]{1,9}", fullmatch=True), st.binary(max_size=99)))
def test_a_secret_holds_what_was_put_in(data):
    text = secret("name", data, "space")
    found = yaml.load(text, NothingButTexts)
    assert found["kind"] == "Secret" and found["type"] == "Opaque"
    assert found["metadata"] == {"name": "name", "namespace": "space"}
    assert {key: base64.b64decode(value) for key, value in found["data"].items()} == data
    assert list(found["data"]) == sorted(data)
    assert text == secret("name", dict(reversed(data.items())), "space")


@given(st.text(max_size=20))
def test_a_text_stays_a_text_in_any_yaml(text):
    (line,) = [line for line in to_yaml([{"key": text}]).decode().splitlines() if line]
    assert yaml.safe_load(line) == {"key": text}
    assert line.isascii()
    value = line.removeprefix("key: ")
    if value[0] not in "'\"":
        assert len(value) > 1 and value[0].isalpha() and value == text


@pytest.mark.parametrize("text", ["1e5", "y", "n", "0x10", "true", "null", "~", "1_000", "on", "."])
def test_what_looks_like_something_else_is_quoted(text):
    assert to_yaml([{"key": text}]).decode().strip() in (f'key: "{text}"', f"key: '{text}'")


def test_without_a_namespace_none_is_named():
    assert yaml.safe_load(secret("name", {}, None))["metadata"] == {"name": "name"}


@pytest.mark.parametrize("text", ["", "Upper", "-a", "a-", "a.b", "a_b", "a" * 64, "ä", "a\n"])
def test_a_name_that_kubernetes_refuses_is_refused(text):
    with pytest.raises(UsageError, match="is not a name in Kubernetes"):
        check_label("--namespace", text)
    check_label("--namespace", "a" * 63)


# -- roles


def asked(path):
    """All that was asked for in a recording: verb, group, resource."""
    for lines in json.loads(path.read_text()).values():
        for line in lines:
            verb, _, what = line.partition(" ")
            plural, _, group = what.partition(".")
            yield verb, group, plural


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_the_role_allows_all_that_spark_and_flink_asked_for(path):
    product = path.name.partition("-")[0]
    requests = list(asked(path))
    assert len(requests) > 5
    for role in (rbac.rules(product), rbac.rules("both")):
        assert not [request for request in requests if not allows(role, *request)]


@pytest.mark.parametrize(("name", "other"), [("spark-4.3.0", "flink"), ("flink-1.20.5", "spark")])
def test_a_role_that_lacks_something_is_noticed(name, other):
    (path,) = (path for path in RECORDED if path.name == f"{name}-requests.json")
    assert [request for request in asked(path) if not allows(rbac.rules(other), *request)]


@pytest.mark.parametrize("product", rbac.PRODUCTS)
def test_the_role_lets_nobody_at_secrets_or_rights(product):
    role = rbac.rules(product)
    for verb in ("get", "list", "watch", "create", "update", "patch", "delete"):
        assert allows(role, verb, "", "pods")
        for group, resource in (
            ("", "secrets"),
            ("", "serviceaccounts"),
            ("", "serviceaccounts/token"),
            ("", "pods/exec"),
            ("", "pods/attach"),
            ("", "nodes"),
            ("rbac.authorization.k8s.io", "roles"),
            ("rbac.authorization.k8s.io", "rolebindings"),
            ("batch", "jobs"),
        ):
            assert not allows(role, verb, group, resource)
    assert "*" not in str(role)


def test_the_objects_fit_together():
    account, role, binding, token = rbac.objects("jobs", "team", "both", token=True)
    assert [one["kind"] for one in (account, role, binding, token)] == [
        "ServiceAccount",
        "Role",
        "RoleBinding",
        "Secret",
    ]
    assert all(one["metadata"]["namespace"] == "team" for one in (account, role, binding, token))
    name = account["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": name, "namespace": "team"}]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["roleRef"]["apiGroup"] == role["apiVersion"].partition("/")[0]
    assert token["type"] == "kubernetes.io/service-account-token"
    assert token["metadata"]["annotations"] == {"kubernetes.io/service-account.name": name}
    assert len(rbac.objects("jobs", "team", "both", token=False)) == 3


def test_the_file_is_those_objects_and_always_the_same():
    text = rbac.rbac("jobs", "1e5", "both", token=True)[rbac.YAML]
    assert list(yaml.safe_load_all(text)) == rbac.objects("jobs", "1e5", "both", token=True)
    assert text == rbac.rbac("jobs", "1e5", "both", token=True)[rbac.YAML]
    with pytest.raises(UsageError, match="--for hive is not known"):
        rbac.rbac("jobs", "team", "hive", token=False)
