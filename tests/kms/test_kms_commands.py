"""``imagekit kms`` with images, lock files and a running service."""

import base64
import json
import os
import stat
from pathlib import Path

import pytest
import yaml
from attestation_service import start_service
from conftest import TAG, error_lines
from kms_parts import *  # noqa: F403 - fixtures
from kms_parts import GIVEN, MR_ENCLAVE, MR_SIGNER, command, write_account
from registry_parts import *  # noqa: F403 - fixtures

from imagekit.runtime import settings as runtime_settings

ACCOUNT = ("--account", "account.json")
ALL = ("--all", "--allow-standin")


def lock():
    return json.loads(Path("imagekit.lock.json").read_text())["images"]


def record():
    return json.loads(Path("imagekit.registrations.json").read_text())["registrations"]


def failed(imagekit, *arguments, code):
    found, out, err = imagekit("kms", *arguments)
    assert found == code, (out, err)
    return error_lines(err)


def done(imagekit, *arguments):
    code, out, err = imagekit("kms", *arguments)
    assert code == 0, err
    return out, err


# -- accounts


def test_enroll_keeps_the_key_in_a_file_for_its_owner_and_says_the_app_id_alone(
    service, in_folder, imagekit
):
    out, err = done(
        imagekit, "enroll", "a.json", "--url", service.address, "--pin-sha256", service.pin
    )
    account = json.loads(Path("a.json").read_text())
    assert service.ehsm.tenants[account["app_id"]] == account["api_key"]
    assert stat.S_IMODE(Path("a.json").stat().st_mode) == 0o600
    assert out == f"app_id           : {account['app_id']}\n"
    assert account["api_key"] not in out + err
    assert account["pin_sha256"] == service.pin  # later commands need no option
    done(imagekit, "register", "--account", "a.json", *GIVEN)


def test_enroll_never_overwrites_and_asks_before_it_makes_an_account(service, account, imagekit):
    before = account.read_bytes()
    problem, _ = failed(imagekit, "enroll", account, "--url", service.address, code=3)
    assert "exists already" in problem
    failed(imagekit, "enroll", "nowhere/a.json", "--url", service.address, code=3)
    assert account.read_bytes() == before
    assert not service.seen


def test_enroll_as_a_dry_run_asks_nobody(service, in_folder, imagekit):
    done(imagekit, "enroll", "a.json", "--url", service.address, "--dry-run")
    assert not service.seen
    assert not Path("a.json").exists()


def test_enroll_with_bigdls_service(service, in_folder, imagekit):
    options = ("--url", service.address, "--pin-sha256", service.pin, "--service", "bigdl")
    done(imagekit, "enroll", "a.json", *options)
    account = json.loads(Path("a.json").read_text())
    assert service.bigdl.accounts[account["app_id"]] == account["api_key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_an_account_that_others_can_read_is_refused(account, imagekit, mode):
    account.chmod(mode)
    problem, hint = failed(imagekit, "register", *ACCOUNT, *GIVEN, code=3)
    assert "others" in problem
    assert "chmod 600" in hint


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", "\0", '{"schema": 2}', "[" * 100000, '{"schema": 1, "url": 7}']
)
def test_what_is_no_account_file_is_refused(account, imagekit, text):
    account.write_text(text)
    problem, _ = failed(imagekit, "register", *ACCOUNT, *GIVEN, code=3)
    assert "not an account file" in problem


def test_an_account_file_is_for_its_own_service_alone(account, imagekit):
    for option, value in (("--url", "other.example:1"), ("--service", "bigdl"), ("--app-id", "x")):
        problem, _ = failed(imagekit, "register", *ACCOUNT, *GIVEN, option, value, code=2)
        assert option in problem


@pytest.mark.parametrize("way", ["file", "stdin", "environment"])
def test_the_api_key_comes_from_file_stdin_or_environment(service, in_folder, way):
    app_id, api_key = next(iter(service.ehsm.tenants.items()))
    options = ["--url", service.address, "--pin-sha256", service.pin, "--app-id", app_id]
    env, given = dict(os.environ), None
    if way == "file":
        Path("key").write_text(f"{api_key}\n")
        Path("key").chmod(0o600)
        options += ["--api-key-file", "key"]
    elif way == "stdin":
        options += ["--api-key-file", "-"]
        given = f"{api_key}\n"
    else:
        env["IMAGEKIT_KMS_API_KEY"] = api_key
    ran = command("kms", "register", *options, *GIVEN, env=env, input=given)
    assert ran.returncode == 0, ran.stderr
    assert len(service.ehsm.policies) == 1
    assert api_key not in ran.stdout + ran.stderr


def test_without_an_account_it_says_how_to_get_one(service, in_folder, imagekit):
    options = ("--url", service.address, "--pin-sha256", service.pin)
    _, hint = failed(imagekit, "register", *options, *GIVEN, code=2)
    assert "enroll" in hint
    problem, _ = failed(imagekit, "register", *GIVEN, code=2)
    assert problem == "which service?"


# -- registering


def test_an_image_is_registered_once_and_reused(built, service, imagekit):
    write_account(built / "account.json", service)
    image = f"oci:out:{TAG}"
    out, _ = done(imagekit, "register", image, *ACCOUNT, "--allow-standin")
    again, err = done(imagekit, "register", image, *ACCOUNT, "--allow-standin")
    assert out == again
    assert "read back and equal" in err
    (policy_id,) = service.ehsm.policies
    assert out == f"[INFO] policyID: {policy_id}\n"
    entry = next(entry for name, entry in lock().items() if name.endswith(TAG))
    values = {name: entry[name] for name in ("mr_enclave", "mr_signer")}
    assert service.ehsm.policies[policy_id][1] == values
    assert record()[0]["images"] == {image: entry["digest"]}


def test_all_of_a_lock_is_verified_and_registered(built, service, imagekit):
    write_account(built / "account.json", service)
    out, _ = done(imagekit, "register", *ALL, *ACCOUNT, "--json")
    wanted = {(entry["mr_enclave"], entry["mr_signer"]) for entry in lock().values()}
    stored = [(p["mr_enclave"], p["mr_signer"]) for _, p in service.ehsm.policies.values()]
    assert sorted(stored) == sorted(wanted)
    assert {one["state"] for one in json.loads(out)["policies"]} == {"registered"}
    images = {name: digest for one in record() for name, digest in one["images"].items()}
    assert images == {name: entry["digest"] for name, entry in lock().items()}


def test_a_damaged_image_is_not_registered(built, service, imagekit):
    write_account(built / "account.json", service)
    entry = next(entry for name, entry in lock().items() if name.endswith(TAG))
    blob = built / "out" / "blobs" / entry["layer"].replace(":", "/")
    data = bytearray(blob.read_bytes())
    data[-700] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(data)
    failed(imagekit, "register", *ALL, *ACCOUNT, code=5)
    failed(imagekit, "register", f"oci:out:{TAG}", "--allow-standin", *ACCOUNT, code=5)
    assert not service.ehsm.policies


def test_an_image_that_is_not_the_locks_is_not_registered(built, service, imagekit):
    write_account(built / "account.json", service)
    text = Path("imagekit.lock.json").read_text()
    entry = next(entry for name, entry in lock().items() if name.endswith(TAG))
    Path("imagekit.lock.json").write_text(text.replace(entry["digest"], f"sha256:{'0' * 64}"))
    failed(imagekit, "register", *ALL, *ACCOUNT, code=5)
    assert not service.ehsm.policies


def test_the_standin_is_refused_unless_asked_for(built, service, imagekit):
    write_account(built / "account.json", service)
    failed(imagekit, "register", f"oci:out:{TAG}", *ACCOUNT, code=5)
    failed(imagekit, "register", "--all", *ACCOUNT, code=5)
    failed(imagekit, "register", "--all", "--images", "none", *ACCOUNT, code=5)
    assert not service.seen


def test_the_locks_word_is_taken_only_if_somebody_says_so(built, service, imagekit):
    write_account(built / "account.json", service)
    _, err = done(imagekit, "register", *ALL, "--images", "none", *ACCOUNT)
    assert "warning: the images are not looked at" in err
    assert len(service.ehsm.policies) == len(lock())


def test_a_signer_that_everybody_has_is_refused_without_force(project, service, imagekit):
    assert imagekit("build", "--epc", "64m", "--log", "error")[0] == 0  # with the tests' key
    write_account(project / "account.json", service)
    image = (f"oci:out:{TAG}", "--allow-standin")
    problem, _ = failed(imagekit, "register", *image, *ACCOUNT, code=5)
    assert "everybody has" in problem
    assert not service.ehsm.policies
    _, err = done(imagekit, "register", *image, *ACCOUNT, "--force")
    assert "warning: mr_signer belongs to a key that everybody has" in err


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--mr-enclave", "0" * 64, "--mr-signer", MR_SIGNER), 5),
        (("--mr-enclave", MR_ENCLAVE, "--mr-signer", "0" * 64), 5),
        (("--mr-enclave", MR_ENCLAVE, "--mr-signer", MR_ENCLAVE), 5),
        (("--mr-enclave", MR_ENCLAVE), 2),
        (("--mr-enclave", MR_ENCLAVE[1:], "--mr-signer", MR_SIGNER), 2),
        (("--mr-enclave", "xy" * 32, "--mr-signer", MR_SIGNER), 2),
        (("--mr-enclave", "", "--mr-signer", ""), 2),
        ((*GIVEN, "--mr-td", "ab" * 48), 2),
        ((*GIVEN, "--policy-type", "SGXMREnclavePolicy"), 2),
        ((*GIVEN, "--all"), 2),
        ((), 2),
    ],
)
def test_what_matches_nothing_or_everything_is_refused(account, service, imagekit, options, code):
    failed(imagekit, "register", *ACCOUNT, *options, code=code)
    assert not service.seen


def test_upper_case_is_registered_in_lower_case(account, service, imagekit):
    upper = ("--mr-enclave", f"0x{MR_ENCLAVE.upper()}", "--mr-signer", MR_SIGNER.upper())
    done(imagekit, "register", *ACCOUNT, *upper)
    ((_, policy),) = service.ehsm.policies.values()
    assert policy == {"mr_enclave": MR_ENCLAVE, "mr_signer": MR_SIGNER}


def test_a_dry_run_decides_and_sends_nothing(account, service, imagekit):
    out, _ = done(imagekit, "register", *ACCOUNT, *GIVEN, "--dry-run")
    assert out.endswith(": new\n")
    assert not service.seen
    assert not Path("imagekit.registrations.json").exists()
    done(imagekit, "register", *ACCOUNT, *GIVEN)
    asked = len(service.seen)
    out, _ = done(imagekit, "register", *ACCOUNT, *GIVEN, "--dry-run", "--json")
    (plan,) = json.loads(out)["plans"]
    assert (plan["decision"], plan["policy_id"]) == ("reuse", next(iter(service.ehsm.policies)))
    assert len(service.seen) == asked


def test_force_makes_a_new_policy_and_keeps_the_old_id_in_the_record(account, service, imagekit):
    done(imagekit, "register", *ACCOUNT, *GIVEN)
    done(imagekit, "register", *ACCOUNT, *GIVEN, "--force")
    old, new = service.ehsm.policies
    assert (record()[0]["policy_id"], record()[0]["former"]) == (new, [old])
    out, _ = done(imagekit, "register", *ACCOUNT, *GIVEN)
    assert new in out


def test_a_policy_that_the_service_lost_is_registered_anew(account, service, imagekit):
    done(imagekit, "register", *ACCOUNT, *GIVEN)
    (old,) = service.ehsm.policies
    service.ehsm.policies.clear()
    done(imagekit, "register", *ACCOUNT, *GIVEN)
    (new,) = service.ehsm.policies
    assert (record()[0]["policy_id"], record()[0]["former"]) == (new, [old])


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"schema": 9}', '{"schema": 1, "registrations": [1]}']
)
def test_a_damaged_record_is_said_and_left_alone(account, service, imagekit, text):
    Path("imagekit.registrations.json").write_text(text)
    failed(imagekit, "register", *ACCOUNT, *GIVEN, code=3)
    assert Path("imagekit.registrations.json").read_text() == text
    assert not service.ehsm.policies


# -- BigDL's service


def test_bigdls_service_gets_each_image_once(built, service, imagekit):
    write_account(built / "account.json", service, "bigdl")
    done(imagekit, "register", *ALL, *ACCOUNT)
    count = len(service.bigdl.policies)
    assert count == len({entry["mr_enclave"] for entry in lock().values()})
    _, err = done(imagekit, "register", *ALL, *ACCOUNT)
    assert "cannot be asked" in err
    assert len(service.bigdl.policies) == count
    out, _ = done(imagekit, "check", *ACCOUNT)
    assert {line.split()[0] for line in out.splitlines()} == {"unconfirmed"}


# -- checking


def test_check_tells_what_fits_and_what_is_left_over(built, service, imagekit):
    write_account(built / "account.json", service)
    problem, hint = failed(imagekit, "check", *ACCOUNT, code=5)
    assert "missing" in problem
    assert "kms register" in hint
    done(imagekit, "register", *ALL, *ACCOUNT)
    done(imagekit, "register", *ACCOUNT, *GIVEN)
    out, _ = done(imagekit, "check", *ACCOUNT)
    states = [line.split()[0] for line in out.splitlines()]
    assert states == ["fits"] * len(lock()) + ["left"]
    stray = next(i for i, (_, p) in service.ehsm.policies.items() if p["mr_enclave"] == MR_ENCLAVE)
    assert stray in out.splitlines()[-1]


def test_check_finds_a_changed_image_a_lost_policy_and_a_changed_one(built, service, imagekit):
    write_account(built / "account.json", service)
    done(imagekit, "register", *ALL, *ACCOUNT)
    first, second, *_ = sorted(lock())
    ids = {name: one["policy_id"] for one in record() for name in one["images"]}
    del service.ehsm.policies[ids[first]]
    owner, policy = service.ehsm.policies[ids[second]]
    service.ehsm.policies[ids[second]] = owner, {**policy, "mr_signer": "ee" * 32}
    code, out, _ = imagekit("kms", "check", *ACCOUNT, "--json")
    assert code == 5
    states = {one["reference"]: one["state"] for one in json.loads(out)["images"]}
    assert (states[first], states[second]) == ("gone", "differs")
    text = (built / "imagekit.yaml").read_text()
    (built / "imagekit.yaml").write_text(text.replace("max_threads: ", "max_threads: 1"))
    assert imagekit("build", "--all")[0] == 0
    code, out, _ = imagekit("kms", "check", *ACCOUNT, "--json")
    document = json.loads(out)
    assert code == 5
    assert {one["state"] for one in document["images"]} == {"missing"}
    left = {policy_id for one in document["leftover"] for policy_id in one["policy_ids"]}
    assert left == set(ids.values())


def test_check_of_a_pods_policy_id(built, service, imagekit):
    write_account(built / "account.json", service)
    done(imagekit, "register", *ALL, *ACCOUNT)
    image = f"oci:out:{TAG}"
    ids = {name.rpartition("/")[2]: one["policy_id"] for one in record() for name in one["images"]}
    right, wrong = ids.pop(TAG), next(iter(ids.values()))
    options = (image, *ACCOUNT, "--allow-standin", "--policy-id")
    done(imagekit, "check", *options, right)
    problem, _ = failed(imagekit, "check", *options, wrong, code=5)
    assert "differs" in problem
    failed(imagekit, "check", *ACCOUNT, "--policy-id", right, code=2)


# -- hand-over


def test_the_secret_has_what_a_pod_needs_and_the_env_has_no_secret(built, service, imagekit):
    write_account(built / "account.json", service)
    done(imagekit, "register", *ALL, *ACCOUNT)
    out, err = done(imagekit, "secret", TAG, *ACCOUNT)
    app_id, api_key = next(iter(service.ehsm.tenants.items()))
    secret = yaml.safe_load(Path("kms-secret.yaml").read_text())
    data = {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
    own = next(one for one in record() if any(name.endswith(TAG) for name in one["images"]))
    assert data == {"app_id": app_id, "api_key": api_key, "policy_id": own["policy_id"]}
    assert (secret["kind"], secret["metadata"]["name"]) == ("Secret", "kms-secret")
    assert stat.S_IMODE(Path("kms-secret.yaml").stat().st_mode) == 0o600
    assert api_key not in out + err
    env = yaml.safe_load(out)["env"]
    assert all(isinstance(one.get("value", ""), str) for one in env)
    names = {one["name"] for one in env}
    assert {"ATTESTATION", "ATTESTATION_URL", "APP_ID", "API_KEY", "ATTESTATION_POLICYID"} <= names
    values = {one["name"]: one["value"] for one in env if "value" in one}
    assert values["ATTESTATION_URL"] == service.address
    assert values["ATTESTATION_PIN_SHA256"] == service.pin


def test_a_secret_is_not_overwritten_and_never_without_a_policy(built, service, imagekit):
    write_account(built / "account.json", service)
    failed(imagekit, "secret", TAG, *ACCOUNT, code=3)  # nothing is registered
    for policy_id in ("", " "):
        failed(imagekit, "secret", *ACCOUNT, "--policy-id", policy_id, code=2)
    failed(imagekit, "secret", *ACCOUNT, "--policy-id", "not-an-id", code=2)
    done(imagekit, "register", *ALL, *ACCOUNT)
    failed(imagekit, "secret", *ACCOUNT, code=2)  # of which image?
    failed(imagekit, "secret", "other:1.0", *ACCOUNT, code=3)
    done(imagekit, "secret", TAG, *ACCOUNT, "--dry-run")
    assert not Path("kms-secret.yaml").exists()
    Path("kms-secret.yaml").write_text("mine")
    failed(imagekit, "secret", TAG, *ACCOUNT, code=3)
    assert Path("kms-secret.yaml").read_text() == "mine"
    done(imagekit, "secret", TAG, *ACCOUNT, "--force")
    assert stat.S_IMODE(Path("kms-secret.yaml").stat().st_mode) == 0o600


def test_a_policy_that_was_never_read_back_is_not_handed_over(built, service, imagekit):
    write_account(built / "account.json", service)
    done(imagekit, "register", *ALL, *ACCOUNT)
    text = Path("imagekit.registrations.json").read_text()
    Path("imagekit.registrations.json").write_text(text.replace("true", "false"))
    problem, _ = failed(imagekit, "secret", TAG, *ACCOUNT, code=3)
    assert "never read back" in problem


# -- the way to the service


def test_no_check_is_left_out_unless_it_is_shouted(service, in_folder, imagekit):
    url = ("--url", service.address)
    failed(imagekit, "enroll", "a.json", *url, code=4)
    failed(imagekit, "enroll", "a.json", *url, "--pin-sha256", "00" * 32, code=4)
    assert not service.seen
    _, err = done(imagekit, "enroll", "a.json", *url, "--insecure")
    assert "NOBODY VOUCHES" in err
    failed(imagekit, "enroll", "b.json", *url, "--insecure", "--pin-sha256", service.pin, code=2)


def test_what_insecure_has_seen_once_is_the_only_certificate_from_then_on(
    service, certificates, tmp_path, in_folder, imagekit
):
    done(imagekit, "enroll", "a.json", "--url", service.address, "--insecure")
    text = Path("a.json").read_text()
    other = certificates.__class__(*[certificates.expired] * 5)
    with start_service(other) as another:
        Path("a.json").write_text(text.replace(service.address, another.address))
        problem, _ = failed(imagekit, "register", "--account", "a.json", *GIVEN, code=4)
        assert "not the pinned one" in problem
        assert not another.seen


def test_a_ca_of_ones_own_is_enough(service, certificates, in_folder, imagekit):
    done(imagekit, "enroll", "a.json", "--url", service.address, "--cacert", certificates.ca)
    for path, code in (("missing.pem", 3), (certificates.key, 3)):
        failed(imagekit, "enroll", "b.json", "--url", service.address, "--cacert", path, code=code)


def test_the_fingerprint_is_shown_and_nothing_is_sent(service, in_folder, imagekit):
    out, _ = done(imagekit, "fingerprint", "--url", service.address)
    assert out == f"sha256           : {service.pin}\n"
    out, _ = done(imagekit, "fingerprint", "--url", service.address, "--json")
    assert json.loads(out)["sha256"] == service.pin
    assert not service.seen


@pytest.mark.parametrize(
    "options",
    [
        ("--url", "http://127.0.0.1:1"),
        ("--url", "127.0.0.1:9000/other"),
        ("--url", "127.0.0.1:1", "--timeout", "0"),
        ("--url", "127.0.0.1:1", "--pin-sha256", "abc"),
        ("--url", "127.0.0.1:1", "--proxy", "socks5://127.0.0.1:1"),
        ("--url", "127.0.0.1:1", "--service", "other"),
    ],
)
def test_bad_options_are_refused_before_anything_else(in_folder, imagekit, options):
    failed(imagekit, "enroll", "a.json", *options, code=2)


def test_the_runtime_takes_every_variable_of_the_env(built, service, imagekit):
    write_account(built / "account.json", service)
    done(imagekit, "register", *ALL, *ACCOUNT)
    out, _ = done(imagekit, "secret", TAG, *ACCOUNT)
    known = {*runtime_settings.SHARED, *runtime_settings.ATTESTATION}
    assert {one["name"] for one in yaml.safe_load(out)["env"]} <= known
