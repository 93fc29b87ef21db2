"""Data keys: made by an eHSM or in a file, and taken by the runtime."""

import base64
import json
import stat
from pathlib import Path

import pytest
from attestation_service import API_KEY, APP_ID, start_service
from enclave_devices import *  # noqa: F403 - fixtures

from imagekit.errors import CheckError, OutcomeUnknownError, UsageError
from imagekit.runtime import https, storage, tls
from imagekit.runtime.ehsm import Credentials
from imagekit.runtime.launch import launch_spec, parse_launch
from imagekit.runtime.stop import UNREACHABLE
from imagekit.secrets import data_key

WHO = Credentials(APP_ID, API_KEY)


@pytest.fixture
def service(certificates):
    with start_service(certificates) as started:
        yield started


@pytest.fixture
def there(service):
    return tls.Service("here", "127.0.0.1", service.port, pin=bytes.fromhex(service.pin), limit=20)


@pytest.fixture
def unlock(gramine, mount):
    """Has the runtime set the key from a folder's files; gives the key that Gramine got."""

    def run(folder, **more):
        lines = (folder / "data-key.env").read_text().splitlines()
        env = {**dict(line.split("=", 1) for line in lines), **more}
        for name in ("LOCAL_DATA_KEY", "EHSM_PRIMARY_KEY", "EHSM_DATA_KEY"):
            if name in env:  # as the launcher outside of the enclave does
                path = Path(env.pop(name))
                assert str(path.parent) == "/ppml/encrypted_keys"
                data = (folder / path.name).read_bytes()
                env[f"{name}_DATA"] = base64.b64encode(data).decode()
        encrypted = [{"path": str(mount.path), "host": "/h", "key_name": "warehouse"}]
        settings = {"required": False, "settings": {}}
        spec = launch_spec(profile="compat", encrypted=encrypted, attestation=settings)
        storage.unlock(parse_launch(spec), env, gramine.place())
        return (gramine.folder / "keys" / "warehouse").read_bytes()

    return run


def test_the_runtime_takes_a_local_key_as_it_was_made(imagekit, in_folder, unlock):
    assert imagekit("secrets", "data-key")[0] == 0
    folder = in_folder / "encrypted_keys"
    assert unlock(folder) == (folder / "plaintextkey").read_bytes()


@pytest.fixture
def door(service, monkeypatch):
    for name in ("ACCOUNT", "API_KEY", "APP_ID", "URL", "PIN_SHA256"):
        monkeypatch.delenv(f"IMAGEKIT_KMS_{name}", raising=False)
    monkeypatch.setenv("IMAGEKIT_KMS_API_KEY", API_KEY)
    pin = ("--pin-sha256", service.pin)
    return ("secrets", "data-key", "--ehsm", "--url", service.address, "--app-id", APP_ID, *pin)


def test_the_runtime_takes_a_key_that_an_ehsm_made(imagekit, in_folder, door, service, unlock):
    code, out, err = imagekit(*door)
    assert code == 0, err
    assert "eHSM's keys expire after a year" in err
    folder = in_folder / "encrypted_keys"
    names = ["data-key.env", "encrypted-keys.yaml", "encrypted_data_key", "encrypted_primary_key"]
    assert out.splitlines() == [f"encrypted_keys/{name}" for name in names]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    key = unlock(folder, API_KEY=API_KEY)
    assert len(key) == 16
    assert API_KEY not in out + err
    for path in folder.iterdir():
        data = path.read_bytes()
        assert API_KEY.encode() not in data and key not in data
        assert base64.b64encode(key) not in data
    (created,) = service.bodies("CreateKey")
    (asked,) = service.bodies("GenerateDataKeyWithoutPlaintext")
    assert json.loads(created)["payload"]["keyspec"] == "EH_AES_GCM_256"
    assert json.loads(asked)["payload"]["keylen"] == 16
    assert not service.bodies("GenerateDataKey")  # it would answer with the key itself


def test_another_data_key_can_be_had_under_the_same_key(imagekit, in_folder, door, service, unlock):
    assert imagekit(*door, "-o", "a")[0] == 0
    key_id = (in_folder / "a" / "encrypted_primary_key").read_text().strip()
    assert imagekit(*door, "-o", "b", "--key-id", key_id)[0] == 0
    assert (in_folder / "b" / "encrypted_primary_key").read_text().strip() == key_id
    assert len(service.bodies("CreateKey")) == 1
    sealed = [(in_folder / name / "encrypted_data_key").read_bytes() for name in "ab"]
    assert sealed[0] != sealed[1]


def test_a_dry_run_asks_the_service_for_nothing(imagekit, in_folder, door, service):
    code, out, err = imagekit(*door, "--dry-run")
    assert code == 0 and f"data key of {service.address}, under a new key" in err
    assert "encrypted_keys/encrypted_data_key" in out.splitlines()
    assert list(in_folder.iterdir()) == [] and service.seen == []


def test_a_folder_that_is_there_is_refused_before_the_service_is_asked(
    imagekit, in_folder, door, service
):
    (in_folder / "encrypted_keys").mkdir()
    (in_folder / "encrypted_keys" / "plaintextkey").write_bytes(bytes(16))
    code, _, err = imagekit(*door)
    assert code == 2 and "exists already" in err and service.seen == []


def test_a_refusal_is_the_services(imagekit, in_folder, door, service):
    service.ehsm.tenants[APP_ID] = "another-key"
    code, out, err = imagekit(*door)
    assert (code, out) == (7, "") and "the API key is not that of this APP_ID" in err
    assert list(in_folder.iterdir()) == []


def test_options_that_do_not_fit_are_refused(imagekit, in_folder, door):
    code, _, err = imagekit("secrets", "data-key", "--key-id", "x" * 36)
    assert code == 2 and "give --ehsm as well" in err
    code, _, err = imagekit(*door, "--service", "bigdl")
    assert code == 2 and "bigdl makes no keys" in err
    code, _, err = imagekit(*door, "--key-id", "no id")
    assert code == 2 and "--key-id is not the id of a key" in err


def test_the_variables_say_how_the_service_is_known(service, there):
    named = there._replace(server_name="ehsm")
    lines = data_key.ehsm_key(named, WHO, None)["data-key.env"].decode().splitlines()
    assert lines == sorted(lines)
    assert f"EHSM_URL=127.0.0.1:{service.port}" in lines
    assert f"EHSM_PIN_SHA256={service.pin}" in lines and "EHSM_SERVER_NAME=ehsm" in lines
    assert f"APP_ID={APP_ID}" in lines and not [line for line in lines if "API_KEY" in line]


@pytest.mark.parametrize("action", ["CreateKey", "GenerateDataKeyWithoutPlaintext"])
def test_a_lost_answer_is_told_from_a_failure(there, action):
    def ask(path, body):
        if path.endswith(f"={action}"):
            raise https.Lost(UNREACHABLE, "here: no answer")
        return https.ask(there, path, body)

    with pytest.raises(OutcomeUnknownError, match="here: no answer") as caught:
        data_key.ehsm_key(there, WHO, None, ask=ask)
    if action != "CreateKey":
        key_id = caught.value.hint.rpartition(" ")[2]
        assert data_key.ehsm_key(there, WHO, None, key_id)["encrypted_primary_key"].decode() == (
            f"{key_id}\n"
        )


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ({}, "has no key id"),
        ({"keyid": 5}, "has no key id"),
        ({"keyid": "no id"}, "has no key id"),
        ({"keyid": "x" * 36}, "is no encrypted key"),
        ({"keyid": "x" * 36, "ciphertext": "no base64"}, "is no encrypted key"),
        ({"keyid": "x" * 36, "ciphertext": "AAAA"}, "is no encrypted key"),
        ({"keyid": "x" * 36, "ciphertext": "A" * 64, "plaintext": "AAAA"}, "is no encrypted key"),
    ],
)
def test_an_answer_without_what_was_asked_for_is_noticed(there, service, result, reason):
    service.change = lambda _: {"code": 200, "message": "success!", "result": result}
    with pytest.raises(CheckError, match=reason):
        data_key.ehsm_key(there, WHO, None)


def test_a_key_id_that_is_none_is_not_sent(there, service):
    with pytest.raises(UsageError):
        data_key.ehsm_key(there, WHO, None, key_id="a&b")
    assert service.seen == []
