"""What a pod needs to attest: a Kubernetes Secret, and the variables that read it."""

from pathlib import Path
from typing import Any

from imagekit.errors import InputError, UsageError
from imagekit.files import write_atomically, write_new
from imagekit.kms.account import BIGDL, Account
from imagekit.render.yaml_text import to_yaml
from imagekit.runtime import settings
from imagekit.secrets.kubernetes import check_label, secret

SECRET = "kms-secret"  # noqa: S105 - a name, by BigDL's templates
KEYS = {"app_id": "APP_ID", "api_key": "API_KEY", "policy_id": "ATTESTATION_POLICYID"}
"""Data key of the Secret → variable of the container, by BigDL's templates."""
_TYPES = {BIGDL: settings.BIGDL}


def secret_document(account: Account, policy_id: str, name: str, namespace: str | None) -> bytes:
    """Write the Secret with app id, API key and policy id, as YAML.

    Args:
        account: whose credentials.
        policy_id: the policy that pods attest against.
        name: of the Secret.
        namespace: of the Secret; None leaves it to ``kubectl``.

    Raises:
        UsageError: no policy id (a service takes that for "any enclave"), or not a name.
    """
    if not policy_id.strip():
        raise UsageError(
            "the policy id is empty: a service takes that for any genuine enclave",
            "register the image first",
        )
    check_label("--name", name)
    if namespace is not None:
        check_label("--namespace", namespace)
    values = {
        "app_id": account.credentials.app_id,
        "api_key": account.credentials.api_key,
        "policy_id": policy_id,
    }
    return secret(name, {key: value.encode() for key, value in values.items()}, namespace)


def environment(account: Account, name: str) -> str:
    """Write the ``env`` of a container that attests with the Secret, as YAML; holds no secret.

    Every value is a text: Kubernetes takes no other. The address has no scheme, as BigDL's own
    client needs it.
    """
    plain = {"ATTESTATION": "true", "ATTESTATION_URL": account.url}
    if account.service in _TYPES:
        plain["ATTESTATION_TYPE"] = _TYPES[account.service]
    if account.pin:
        plain["ATTESTATION_PIN_SHA256"] = account.pin
    if account.server_name:
        plain["ATTESTATION_SERVER_NAME"] = account.server_name
    variables: list[dict[str, Any]] = [
        {"name": variable, "value": value} for variable, value in plain.items()
    ]
    for key, variable in KEYS.items():
        source = {"secretKeyRef": {"name": name, "key": key}}
        variables.append({"name": variable, "valueFrom": source})
    return to_yaml([{"env": variables}]).decode("ascii")


def write_secret(path: Path, document: bytes, force: bool) -> None:
    """Write a document with secrets, mode 0600, whole or not at all.

    Raises:
        InputError: the name is taken and `force` is not given, or it cannot be written.
    """
    if force:
        write_atomically(path, document, 0o600)
        return
    try:
        write_new(path, document, 0o600)
    except FileExistsError:
        raise InputError(f"{path} exists already", "name another file, or give --force") from None
