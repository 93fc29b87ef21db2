"""Encrypted storage: where the key comes from, that it is the right one, and what is encrypted."""

import base64
import os
import threading
import time
import traceback
from pathlib import Path
from typing import NamedTuple

import pytest
from attestation_service import API_KEY, APP_ID, old_certificate, start_service
from enclave_devices import *  # noqa: F403 - fixtures
from enclave_devices import DIRECT, NATIVELY
from hypothesis import given
from hypothesis import strategies as st

from imagekit.runtime import storage
from imagekit.runtime.canary import CANARY
from imagekit.runtime.launch import launch_spec, parse_launch
from imagekit.runtime.place import Place
from imagekit.runtime.stop import FAILED, KMS_REFUSED, REFUSED, UNREACHABLE, UNUSABLE, Stop

KEY = b"\x01data-key\xff\x00key\x0a~"
OTHER = bytes(reversed(KEY))


def encoded(data):
    return base64.b64encode(data).decode()


def spec_of(mounts, profile="strict", **sealed):
    return parse_launch(
        launch_spec(
            profile=profile,
            encrypted=[
                {"path": str(path), "host": "/h", "key_name": name} for path, name in mounts
            ],
            attestation={"required": False, "settings": sealed},
        )
    )


@pytest.fixture
def local():
    """A local key, as a test set-up gives it."""
    return {
        "ENCRYPTED_FSD": "true",
        "USING_LOCAL_DATA_KEY": "true",
        "LOCAL_DATA_KEY_DATA": encoded(KEY),
    }


@pytest.fixture
def service(certificates):
    with start_service(certificates) as started:
        yield started


@pytest.fixture
def remote(service):
    """A key that eHSM has wrapped."""
    key_id, ciphertext = service.ehsm.wrap(KEY)
    return {
        "ENCRYPTED_FSD": "true",
        "EHSM_URL": "127.0.0.1",
        "EHSM_PORT": str(service.port),
        "EHSM_PRIMARY_KEY_DATA": encoded(f"{key_id}\n".encode()),
        "EHSM_DATA_KEY_DATA": encoded(f"{ciphertext}\n".encode()),
        "APP_ID": APP_ID,
        "API_KEY": API_KEY,
        "ATTESTATION_CA": service.ca,
        "ATTESTATION_TIMEOUT": "20",
    }


class Outcome(NamedTuple):
    """How an unlock ended: exit code (0 for a success), the line, stderr."""

    code: int
    line: str
    notes: str


@pytest.fixture
def outcome(capfd, gramine, mount):
    """Unlocks; whatever happens, no key is shown and nothing goes to stdout."""

    def run(env, spec=None, place=None, secret=KEY):
        code, line, shown = 0, "", ""
        spec = spec or spec_of([(mount.path, "warehouse")], "compat")
        try:
            storage.unlock(spec, env, place or gramine.place())
        except Stop as stop:
            code, line = stop.code, stop.line
            shown = "".join(traceback.format_exception(type(stop), stop, stop.__traceback__))
        out, err = capfd.readouterr()
        assert (out, "\n" in line) == ("", False)
        for form in (API_KEY, secret.hex(), encoded(secret), repr(secret)[2:-1], "key-that-must"):
            assert form not in out + err + shown
        return Outcome(code, line, err)

    return run


def key_of(gramine, name="warehouse"):
    return (gramine.folder / "keys" / name).read_bytes()


# -- whether


@pytest.mark.parametrize("env", [{}, {"ENCRYPTED_FSD": "false"}, {"ENCRYPTED_FSD": "No"}])
def test_without_a_word_for_yes_nothing_is_set(outcome, gramine, env):
    assert outcome(env).code == 0
    assert outcome(env, place=NATIVELY).code == 0
    assert key_of(gramine) == b""


@pytest.mark.parametrize("word", ["true", "True", "1", "yes", "on"])
def test_a_word_for_yes_sets_the_key(outcome, gramine, local, word):
    assert outcome(local | {"ENCRYPTED_FSD": word}).code == 0
    assert key_of(gramine) == KEY


@pytest.mark.parametrize("name", ["ENCRYPTED_FSD", "USING_LOCAL_DATA_KEY"])
@pytest.mark.parametrize("word", ["", "ture", "2", "true "])
def test_any_other_word_is_an_error_and_never_an_off(outcome, gramine, local, name, word):
    ended = outcome(local | {name: word})
    assert (ended.code, name in ended.line) == (REFUSED, True)
    assert key_of(gramine) == b""


def test_a_sealed_word_counts_too(outcome, gramine, mount, local):
    del local["ENCRYPTED_FSD"]
    spec = spec_of([(mount.path, "warehouse")], "compat", ENCRYPTED_FSD="true")
    assert outcome(local, spec).code == 0
    assert key_of(gramine) == KEY
    strict = spec_of([(mount.path, "warehouse")], ENCRYPTED_FSD="true")
    ended = outcome(local | {"ENCRYPTED_FSD": "false"}, strict)
    assert (ended.code, "ENCRYPTED_FSD" in ended.line) == (REFUSED, True)


def test_natively_nothing_would_be_encrypted(outcome, local):
    ended = outcome(local, place=NATIVELY)
    assert (ended.code, "without Gramine" in ended.line) == (REFUSED, True)


def test_an_image_without_a_mount_that_takes_a_key_is_said(outcome, local, mount):
    for mounts in ([], [(mount.path, "_sgx_mrsigner")]):
        ended = outcome(local, spec_of(mounts, "compat"))
        assert (ended.code, "takes a key" in ended.line) == (REFUSED, True)


# -- setting it


def test_each_key_name_gets_the_key_and_the_cpus_own_are_left_alone(
    outcome, gramine, mount, local, tmp_path
):
    gramine.key("second"), gramine.key("_sgx_mrenclave")
    folders = [mount.path, tmp_path / "two", tmp_path / "three", tmp_path / "cpu"]
    for folder in folders[1:]:
        folder.mkdir()
    names = ["warehouse", "second", "second", "_sgx_mrenclave"]
    assert outcome(local, spec_of(zip(folders, names, strict=True), "compat")).code == 0
    assert key_of(gramine) == key_of(gramine, "second") == KEY
    assert key_of(gramine, "_sgx_mrenclave") == b""
    assert [(folder / CANARY).exists() for folder in folders] == [True, True, True, False]


def test_the_key_is_set_in_one_write_and_before_the_mount_is_touched(
    outcome, gramine, mount, local, monkeypatch
):
    seen = []
    write, opened = os.write, os.open

    def watch_open(path, *more, **options):
        if str(mount.path) in os.fsdecode(path):
            seen.append("mount")
        return opened(path, *more, **options)

    def watch_write(number, data):
        if Path(f"/proc/self/fd/{number}").resolve().parent.name == "keys":
            seen.append(bytes(data))
        return write(number, data)

    monkeypatch.setattr(os, "open", watch_open)
    monkeypatch.setattr(os, "write", watch_write)
    assert outcome(local).code == 0
    assert seen[:2] == [KEY, "mount"]
    assert seen.count(KEY) == 1


def test_a_key_name_that_the_manifest_has_not_is_said(outcome, mount, local):
    ended = outcome(local, spec_of([(mount.path, "other")], "compat"))
    assert (ended.code, "key_name" in ended.line) == (UNUSABLE, True)


def test_a_key_that_gramine_does_not_take_is_said(outcome, mount, local, monkeypatch):
    opened = os.open

    def refuse(path, *more, **options):
        if os.fsdecode(path).endswith("keys/warehouse"):
            raise PermissionError(13, "Permission denied", path)
        return opened(path, *more, **options)

    monkeypatch.setattr(os, "open", refuse)
    ended = outcome(local)
    assert (ended.code, "Permission denied" in ended.line) == (UNUSABLE, True)


# -- a local key


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (KEY, KEY),
        (b"sixteen letters!", b"sixteen letters!"),
        (b"15-letters-long", b"15-letters-long\n"),
        (b"15-letters-long\n", b"15-letters-long\n"),
        (b"15-letters-long\nand more\n", b"15-letters-long\n"),
        (b"key-that-must-not-show-anywhere\n", b"key-that-must-n\n"),
    ],
)
def test_a_local_file_gives_the_key_that_bigdl_makes_of_it(
    outcome, gramine, mount, local, content, key
):
    (mount.path.parent / "key").write_bytes(content)
    assert outcome(local | {"LOCAL_DATA_KEY_DATA": encoded(content)}, secret=key).code == 0
    assert key_of(gramine) == key
    del local["LOCAL_DATA_KEY_DATA"]
    inside = local | {"LOCAL_DATA_KEY": str(mount.path.parent / "key")}
    assert outcome(inside, secret=key).code == 0


@pytest.mark.parametrize(
    "content",
    [b"", b"fourteen-bytes", b"fourteen-bytes\n", bytes(32), b"a b c d e f g h i j",
     b"key-that-must\tx and more", b"\xff" * 17, b"x\n" * 20],
)  # fmt: skip
def test_a_local_file_of_which_no_key_can_be_made_is_refused(outcome, gramine, local, content):
    ended = outcome(local | {"LOCAL_DATA_KEY_DATA": encoded(content)})
    assert (ended.code, "LOCAL_DATA_KEY" in ended.line) == (REFUSED, True)
    assert key_of(gramine) == b""


@given(st.binary(max_size=40))
def test_a_local_key_has_16_bytes_or_is_refused(content):
    spec, given_ = spec_of([], "compat"), {"LOCAL_DATA_KEY_DATA": encoded(content)}
    try:
        key = storage._local_key(spec, given_)
    except Stop as stop:
        assert stop.code == REFUSED
    else:
        assert len(key) == 16
        assert key[:15] == content[:15]


def test_a_local_key_is_warned_of(outcome, local):
    assert "the host knows the data key" in outcome(local).notes


def test_a_strict_image_refuses_a_local_key_unless_it_allows_it_itself(
    outcome, gramine, mount, local
):
    mounts = [(mount.path, "warehouse")]
    ended = outcome(local, spec_of(mounts))
    assert (ended.code, "strict" in ended.line) == (REFUSED, True)
    ended = outcome(local | {"ALLOW_LOCAL_DATA_KEY": "true"}, spec_of(mounts))
    assert ended.code == REFUSED
    assert outcome(local, spec_of(mounts, ALLOW_LOCAL_DATA_KEY="false")).code == REFUSED
    assert key_of(gramine) == b""
    ended = outcome(local, spec_of(mounts, ALLOW_LOCAL_DATA_KEY="true"))
    assert (ended.code, "host knows" in ended.notes) == (0, True)
    assert key_of(gramine) == KEY


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({}, REFUSED),
        ({"LOCAL_DATA_KEY": ""}, REFUSED),
        ({"LOCAL_DATA_KEY": "relative"}, REFUSED),
        ({"LOCAL_DATA_KEY": "/nonexistent/key"}, UNUSABLE),
        ({"LOCAL_DATA_KEY_DATA": "*"}, REFUSED),
        ({"LOCAL_DATA_KEY_DATA": "AAA"}, REFUSED),
    ],
)
def test_a_key_file_that_is_not_there_is_said(outcome, local, more, code):
    del local["LOCAL_DATA_KEY_DATA"]
    ended = outcome(local | more)
    assert (ended.code, "LOCAL_DATA_KEY" in ended.line) == (code, True)


# -- a key of eHSM


def test_ehsm_decrypts_the_data_key(outcome, gramine, remote, service):
    assert outcome(remote).code == 0
    assert key_of(gramine) == KEY
    assert [path for path, _ in service.seen] == ["/ehsm?Action=Decrypt"]
    assert API_KEY.encode() not in b"".join(body for _, body in service.seen)


def test_ehsm_works_under_strict_too(outcome, gramine, mount, remote):
    assert outcome(remote, spec_of([(mount.path, "warehouse")])).code == 0
    assert key_of(gramine) == KEY


def test_the_files_can_be_inside(outcome, gramine, remote, tmp_path):
    for name in ("EHSM_PRIMARY_KEY", "EHSM_DATA_KEY"):
        (tmp_path / name).write_bytes(base64.b64decode(remote.pop(f"{name}_DATA")))
        remote[name] = str(tmp_path / name)
    assert outcome(remote).code == 0
    assert key_of(gramine) == KEY


def test_an_address_with_its_port_needs_no_other(outcome, remote, service):
    del remote["EHSM_PORT"]
    assert outcome(remote | {"EHSM_URL": service.address}).code == 0
    ended = outcome(remote)
    assert (ended.code, "port" in ended.line) == (REFUSED, True)


def test_ehsm_can_have_another_certificate_than_the_attestation_service(
    outcome, remote, service, tmp_path
):
    with start_service(old_certificate(tmp_path / "own")) as own:
        own.ehsm.keys = service.ehsm.keys
        remote |= {"EHSM_PORT": str(own.port)}
        assert outcome(remote).code == UNREACHABLE
        assert outcome(remote | {"EHSM_PIN_SHA256": own.pin}).code == 0
        wrong = {"EHSM_PIN_SHA256": "00" * 32, "ATTESTATION_PIN_SHA256": own.pin}
        assert outcome(remote | wrong).code == UNREACHABLE


@pytest.mark.parametrize("size", [0, 1, 15, 17, 32])
def test_a_data_key_of_another_size_is_refused(outcome, gramine, remote, service, size):
    key_id, ciphertext = service.ehsm.wrap(bytes(size))
    remote["EHSM_PRIMARY_KEY_DATA"] = encoded(key_id.encode())
    remote["EHSM_DATA_KEY_DATA"] = encoded(ciphertext.encode())
    ended = outcome(remote, secret=KEY)
    assert (ended.code, "16 bytes" in ended.line) == (FAILED, True)
    assert key_of(gramine) == b""


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"API_KEY": API_KEY[::-1]}, "API key"),
        ({"APP_ID": "00000000-0000-4000-8000-000000000000"}, "APP_ID"),
        ({"EHSM_PRIMARY_KEY_DATA": encoded(b"15ca0dd5-2d34-4221-a708-3171ffe60001")}, "key id"),
        ({"EHSM_DATA_KEY_DATA": encoded(b"A" * 64)}, "could not do that"),
    ],
)
def test_what_ehsm_refuses_is_said(outcome, gramine, remote, more, words):
    ended = outcome(remote | more)
    assert (ended.code, words in ended.line) == (KMS_REFUSED, True), ended
    assert key_of(gramine) == b""


@pytest.mark.parametrize(
    "result",
    [{}, {"plaintext": None}, {"plaintext": 16}, {"plaintext": "A" * 23}, {"plaintext": "*" * 24},
     {"plaintext": ["AAAA"]}],
)  # fmt: skip
def test_an_answer_without_a_key_is_a_failure(outcome, gramine, remote, service, result):
    service.change = lambda reply: {**reply, "result": result}
    assert outcome(remote).code == FAILED
    assert key_of(gramine) == b""


@pytest.mark.parametrize(
    "data", [b"", b"<html>", b'{"code":200', b'{"result":{"plaintext":"' + b"A" * 22 + b'=="}}']
)
def test_what_is_no_answer_gives_no_key(outcome, gramine, remote, service, data):
    service.change = lambda _: data
    assert outcome(remote).code == UNREACHABLE
    assert key_of(gramine) == b""


def test_a_service_that_does_not_answer_ends_at_the_time_limit(outcome, remote, service):
    done = threading.Event()
    service.instead = lambda _: done.wait(30)
    begun = time.monotonic()
    ended = outcome(remote | {"ATTESTATION_TIMEOUT": "1"})
    done.set()
    assert (ended.code, "EHSM_URL" in ended.line) == (UNREACHABLE, True)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    "more",
    [
        {"EHSM_URL": ""},
        {"APP_ID": ""},
        {"API_KEY": ""},
        {"EHSM_URL": "http://127.0.0.1"},
        {"EHSM_PRIMARY_KEY_DATA": encoded(b" ")},
        {"EHSM_PRIMARY_KEY_DATA": encoded(b"two words")},
        {"EHSM_DATA_KEY_DATA": encoded(b"***")},
        {"EHSM_DATA_KEY_DATA": "*"},
    ],
)
def test_a_setting_that_cannot_work_is_refused_before_anything_is_sent(
    outcome, remote, service, more
):
    ended = outcome(remote | more)
    (name,) = more
    if name.endswith("_KEY_DATA"):
        name = name[: -len("_DATA")]
    assert (ended.code, name in ended.line) == (REFUSED, True)
    assert service.seen == []


def test_gramine_direct_gets_no_key_of_ehsm_but_may_have_a_local_one(
    outcome, gramine, remote, local, service
):
    ended = outcome(remote, place=gramine.place(DIRECT))
    assert (ended.code, "gramine-direct" in ended.line) == (REFUSED, True)
    assert service.seen == []
    assert outcome(local, place=gramine.place(DIRECT)).code == 0
    assert key_of(gramine) == KEY


# -- the canary


def test_the_first_start_writes_a_canary_and_later_ones_read_it(outcome, mount, local):
    assert outcome(local).code == 0
    assert [path.name for path in mount.path.iterdir()] == [CANARY]
    content = (mount.path / CANARY).read_bytes()
    (mount.path / "table").write_bytes(b"x")
    assert outcome(local).code == 0
    assert (mount.path / CANARY).read_bytes() == content
    assert KEY not in content


def test_a_wrong_key_is_told_at_once_and_changes_nothing(outcome, mount, local):
    assert outcome(local).code == 0
    before = (mount.path / CANARY).read_bytes()
    ended = outcome(local | {"LOCAL_DATA_KEY_DATA": encoded(OTHER)}, secret=OTHER)
    assert (ended.code, "wrong data key" in ended.line) == (FAILED, True)
    assert str(mount.path) in ended.line
    assert (mount.path / CANARY).read_bytes() == before
    assert outcome(local).code == 0


def test_a_canary_that_reads_as_something_else_is_a_wrong_key(outcome, mount, local):
    assert outcome(local).code == 0
    for content in (b"", b"x", (mount.path / CANARY).read_bytes() + b"x"):
        (mount.path / CANARY).write_bytes(content)
        assert "wrong data key" in outcome(local).line


def test_a_wrong_key_does_not_put_its_canary_beside_data_without_one(outcome, mount, local):
    table = mount.path / "db/person/part-00000"
    table.parent.mkdir(parents=True)
    table.write_bytes(b"x")
    mount.written[table] = OTHER
    ended = outcome(local)
    assert (ended.code, "none can be opened" in ended.line) == (FAILED, True)
    assert not (mount.path / CANARY).exists()
    assert outcome(local | {"LOCAL_DATA_KEY_DATA": encoded(OTHER)}, secret=OTHER).code == 0


def test_leftovers_of_an_open_without_a_key_are_told(outcome, mount, local):
    for name in ("service.properties", CANARY):
        mount.key.write_bytes(b"")
        with pytest.raises(PermissionError):
            os.open(mount.path / name, os.O_WRONLY | os.O_CREAT)
        assert (mount.path / name).read_bytes() == b""
        ended = outcome(local)
        assert (ended.code, "empty the folder" in ended.line) == (FAILED, True)
        (mount.path / name).unlink()
    assert outcome(local).code == 0


def test_leftovers_beside_readable_data_do_not_stop_a_start(outcome, mount, local):
    with pytest.raises(PermissionError):
        os.open(mount.path / "leftover", os.O_WRONLY | os.O_CREAT)
    (mount.path / "table").write_bytes(b"x")
    mount.written[mount.path / "table"] = KEY
    assert outcome(local).code == 0


def test_the_canary_that_another_enclave_is_writing_is_no_leftover(outcome, mount, local):
    (mount.path / f"{CANARY}.0badcafe").write_bytes(b"")
    assert outcome(local).code == 0


def test_a_kill_while_the_canary_is_written_leaves_none_or_a_whole_one(
    outcome, mount, local, monkeypatch
):
    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", killed)
        with pytest.raises(Killed):
            outcome(local)
    assert not (mount.path / CANARY).exists()
    assert outcome(local).code == 0


def test_a_mount_that_cannot_be_written_is_said(outcome, gramine, local, tmp_path):
    gramine.key("none")
    ended = outcome(local, spec_of([(tmp_path / "missing", "none")], "compat"))
    assert (ended.code, "cannot be written" in ended.line) == (UNUSABLE, True)


def test_a_mount_that_gives_back_something_else_is_said(outcome, mount, local, monkeypatch):
    real = os.read
    monkeypatch.setattr(os, "read", lambda fd, size: real(fd, size)[:-1])
    assert "reads back" in outcome(local).line


# -- folders


ENCLAVE = Place("enclave", True, None, "/nonexistent/attestation")


@pytest.fixture
def spec(gramine):
    gramine.key("warehouse").write_bytes(KEY)
    return spec_of([("/data", "warehouse"), ("/sealed/", "_sgx_mrsigner")])


@pytest.mark.parametrize(
    "folder",
    ["/data", "/data/", "/data/warehouse", "/data/a/../b", "/sealed/x", "/tmp", "/tmp/flink/io",
     "//data/x", "/tmp/../data/x", "/data/./x", "/x/../tmp/y"],
)  # fmt: skip
def test_folders_on_encrypted_mounts_and_in_memory_pass(gramine, spec, folder):
    storage.check(spec, {"the warehouse": folder}, gramine.place())


@pytest.mark.parametrize(
    "folder",
    ["/", "/var/data", "/database", "/data/../etc", "/data/x/../../y", "/tmp/../var", "/tmpfile",
     "data", "", ".", "../data", "file:/data", "/DATA", "/sealedx", "hdfs://data/tmp", "~/tmp"],
)  # fmt: skip
def test_any_other_folder_is_refused_with_its_purpose(gramine, spec, folder):
    for place in (gramine.place(), gramine.place(DIRECT), gramine.place(quotes=False)):
        with pytest.raises(Stop) as caught:
            storage.check(spec, {"a": "/tmp", "spark.local.dir": folder}, place)
        assert caught.value.code == REFUSED
        assert caught.value.line.startswith("spark.local.dir: refused")
        assert len(folder) < 7 or folder not in caught.value.line


@given(st.lists(st.sampled_from(["data", "..", ".", "tmp", "etc", "", "x"]), max_size=8))
def test_a_folder_passes_exactly_if_its_real_path_is_below(parts):
    spec = spec_of([("/data", "_sgx_mrsigner")])
    folder = "/" + "/".join(parts)
    real = Path("/")
    for part in parts:
        real = real.parent if part == ".." else real / part
    allowed = any(top in (real, *real.parents) for top in (Path("/data"), Path("/tmp")))
    try:
        storage.check(spec, {"x": folder}, ENCLAVE)
    except Stop:
        assert not allowed
    else:
        assert allowed


def test_natively_nothing_is_encrypted_and_nothing_checked(spec):
    storage.check(spec, {"x": "/var/data"}, NATIVELY)


def test_a_folder_on_a_mount_whose_key_is_not_set_is_refused(gramine, spec):
    for content in (b"", None):
        if content is None:
            (gramine.folder / "keys/warehouse").unlink()
        else:
            (gramine.folder / "keys/warehouse").write_bytes(content)
        with pytest.raises(Stop, match="ENCRYPTED_FSD") as caught:
            storage.check(spec, {"the warehouse": "/data/w"}, gramine.place())
        assert caught.value.line.startswith("the warehouse: ")
        storage.check(spec, {"x": "/sealed/w"}, gramine.place())


def test_the_innermost_mount_counts(gramine):
    spec = spec_of([("/data", "warehouse"), ("/data/own", "_sgx_mrenclave")])
    storage.check(spec, {"x": "/data/own/w"}, gramine.place())
    with pytest.raises(Stop, match="ENCRYPTED_FSD"):
        storage.check(spec, {"x": "/data/w"}, gramine.place())


def test_under_compat_tmp_is_the_hosts_and_that_is_said(gramine, capfd):
    spec = spec_of([("/ppml/encrypted-fs", "_sgx_mrsigner")], "compat")
    folders = {"spark.local.dir": "/tmp", "the warehouse": "/ppml/encrypted-fs/w"}
    storage.check(spec, folders, gramine.place())
    err = capfd.readouterr().err
    assert "spark.local.dir: its folder is not encrypted" in err
    assert "the warehouse" not in err


# -- patterns


def test_each_variable_of_the_issue_has_a_pattern():
    names = "ENCRYPTED_FSD USING_LOCAL_DATA_KEY LOCAL_DATA_KEY EHSM_URL EHSM_PORT EHSM_PRIMARY_KEY"
    names += " EHSM_DATA_KEY LOCAL_DATA_KEY_DATA EHSM_PRIMARY_KEY_DATA EHSM_DATA_KEY_DATA APP_ID"
    names += " API_KEY ATTESTATION_CA ATTESTATION_PIN_SHA256 ATTESTATION_SERVER_NAME"
    assert set(names.split()) <= set(storage.VARIABLES)
    assert "ALLOW_LOCAL_DATA_KEY" not in storage.VARIABLES
