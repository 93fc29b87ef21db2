"""What ``secrets data-key`` writes: the key of encrypted mounts, as the runtime reads it.

:mod:`imagekit.runtime.storage` says which files and variables it takes. Gramine's key is 16 bytes.
Either they stand in a file, which the host can read, too; or an eHSM has made them and gives them
out encrypted under a key of its own, which never leaves it. Then nobody outside of the eHSM and of
the enclave has seen the data key, this program neither.
"""

import base64
import binascii
import re
import secrets
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from imagekit.errors import CheckError, OutcomeUnknownError, UsageError
from imagekit.runtime import https, tls
from imagekit.runtime.ehsm import Credentials, read_result, signed_request, target
from imagekit.runtime.storage import KEY_SIZE
from imagekit.secrets.folder import SecretFiles
from imagekit.secrets.kubernetes import secret

SECRET = "encrypted-keys"  # noqa: S105 - the name of a Secret
SECRET_YAML = "encrypted-keys.yaml"  # noqa: S105
ENV = "data-key.env"
MOUNT = "/ppml/encrypted_keys"
"""Where BigDL's images, and ours, look for the files."""
LOCAL_NAME = "plaintextkey"
PRIMARY_NAME, DATA_NAME = "encrypted_primary_key", "encrypted_data_key"
LOCAL_NAMES = (LOCAL_NAME, SECRET_YAML, ENV)
EHSM_NAMES = (PRIMARY_NAME, DATA_NAME, SECRET_YAML, ENV)

Ask = Callable[[str, bytes | None], https.Answer]
"""Sends a request, path and body, as :func:`imagekit.runtime.https.ask` does."""

_KEY_SPEC = {
    "keyspec": "EH_AES_GCM_256",
    "origin": "EH_INTERNAL_KEY",
    "keyusage": "EH_KEYUSAGE_ENCRYPT_DECRYPT",
}
_KEY_ID = re.compile("[0-9A-Za-z-]{8,64}", re.ASCII)


def local_key(namespace: str | None) -> SecretFiles:
    """Make a data key that the host knows: 16 random bytes in a file, for tests."""
    variables = {"USING_LOCAL_DATA_KEY": "true", "LOCAL_DATA_KEY": f"{MOUNT}/{LOCAL_NAME}"}
    return _files({LOCAL_NAME: secrets.token_bytes(KEY_SIZE)}, variables, namespace)


def ehsm_key(
    service: tls.Service,
    who: Credentials,
    namespace: str | None,
    key_id: str | None = None,
    ask: Ask | None = None,
) -> SecretFiles:
    """Have an eHSM make a data key.

    Args:
        service: where it is and how it is known; goes into the variables, but for a CA.
        who: the account; the app id goes into the variables, the API key nowhere.
        namespace: of the Secret.
        key_id: key to encrypt the data key under; a new one if None.
        ask: sends a request; directly to `service` if None.

    Raises:
        UsageError: `key_id` is none.
        Stop: no connection, not the service, or it refused.
        CheckError: an answer does not hold what was asked for.
        OutcomeUnknownError: an answer was lost after the request was sent.
    """
    send = ask or partial(https.ask, service)
    if key_id is None:
        key_id = _new_key(send, who)
    elif not _KEY_ID.fullmatch(key_id):
        raise UsageError("--key-id is not the id of a key", "copy it from where it was made")
    ciphertext = _data_key(send, who, key_id)
    files = {PRIMARY_NAME: f"{key_id}\n".encode(), DATA_NAME: f"{ciphertext}\n".encode()}
    return _files(files, _variables(service, who), namespace)


def _new_key(send: Ask, who: Credentials) -> str:
    body = signed_request(who, _KEY_SPEC)
    try:
        result = read_result("CreateKey", send(target("CreateKey"), body))
    except https.Lost as lost:
        raise OutcomeUnknownError(
            f"{lost.line}: a key was made, perhaps, and its id is lost",
            "run the command again: a key that nobody uses does no harm",
        ) from None
    key_id = result.get("keyid")
    if not isinstance(key_id, str) or not _KEY_ID.fullmatch(key_id):
        raise CheckError("CreateKey: the answer has no key id", "is this an eHSM?")
    return key_id


def _data_key(send: Ask, who: Credentials, key_id: str) -> str:
    """Give a new data key, encrypted, as base64."""
    action = "GenerateDataKeyWithoutPlaintext"
    again = f"run the command again with --key-id {key_id}"
    body = signed_request(who, {"keyid": key_id, "keylen": KEY_SIZE})
    try:
        result = read_result(action, send(target(action), body))
    except https.Lost as lost:
        raise OutcomeUnknownError(f"{lost.line}: there is no data key yet", again) from None
    text = result.get("ciphertext")
    try:
        sealed = base64.b64decode(text if isinstance(text, str) else "*", validate=True)
    except (binascii.Error, ValueError):
        sealed = b""
    if len(sealed) <= KEY_SIZE or result.get("plaintext") is not None:
        raise CheckError(f"{action}: the answer is no encrypted key", again)
    return str(text)


def _variables(service: tls.Service, who: Credentials) -> dict[str, str]:
    found = {
        "EHSM_URL": service.address,
        "APP_ID": who.app_id,
        "EHSM_PRIMARY_KEY": f"{MOUNT}/{PRIMARY_NAME}",
        "EHSM_DATA_KEY": f"{MOUNT}/{DATA_NAME}",
    }
    if service.pin:
        found["EHSM_PIN_SHA256"] = service.pin.hex()
    if service.server_name:
        found["EHSM_SERVER_NAME"] = service.server_name
    return found


def _files(
    keys: Mapping[str, bytes], variables: Mapping[str, Any], namespace: str | None
) -> SecretFiles:
    lines = {"ENCRYPTED_FSD": "true", **variables}
    text = "".join(f"{name}={lines[name]}\n" for name in sorted(lines))
    files = SecretFiles(keys)
    files[SECRET_YAML] = secret(SECRET, keys, namespace)
    files[ENV] = text.encode()
    return files
