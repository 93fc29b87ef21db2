"""The commands of ``imagekit secrets``: what they write, say and refuse."""

import base64
import json
import os
import pty
import stat
import subprocess
import sys

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.serialization import load_pem_private_key, pkcs12
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import imagekit.secrets.folder
from imagekit.cli.main import app, run
from imagekit.secrets.passwords import Password

PASSWORD = "only-for-tests"
SMALL = ("--key-size", "2048")
FILES = {
    "ssl": [
        *("keys.yaml", "keystore.jks", "keystore.pkcs12"),
        *("server.crt", "server.csr", "server.key", "server.pem"),
    ],
    "password": ["key.txt", "output.bin", "password.yaml", "spark-secret.yaml"],
    "flink": ["flink-ssl-key.yaml", "flink_internal.keystore"],
    "data-key": ["data-key.env", "encrypted-keys.yaml", "plaintextkey"],
    "rbac": ["rbac.yaml"],
}
FOLDERS = {
    "ssl": "keys",
    "password": "password",
    "flink": "flink-keys",
    "data-key": "encrypted_keys",
    "rbac": "rbac",
}
LOCKED = ("ssl", "password", "flink")
"""Those that take a password."""


def options(command):
    return SMALL if command in ("ssl", "flink") else ()


@pytest.fixture(autouse=True)
def given_password(monkeypatch, in_folder):
    monkeypatch.setenv("IMAGEKIT_PASSWORD", PASSWORD)
    for name in list(os.environ):
        if name.startswith("IMAGEKIT_KMS_"):
            monkeypatch.delenv(name)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("command", FILES)
def test_the_files_are_written_for_their_owner_alone_and_named(imagekit, in_folder, command):
    code, out, err = imagekit("secrets", command, *options(command))
    assert code == 0, err
    folder = in_folder / FOLDERS[command]
    assert names(folder) == FILES[command]
    assert out.splitlines() == [f"{folder.name}/{name}" for name in FILES[command]]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert names(in_folder) == [folder.name]


@pytest.mark.parametrize("command", FILES)
def test_a_dry_run_names_the_same_files_and_writes_nothing(
    imagekit, in_folder, command, monkeypatch
):
    monkeypatch.delenv("IMAGEKIT_PASSWORD")
    code, out, err = imagekit("secrets", command, "--dry-run", "-o", "there", "--json")
    assert code == 0, err
    answer = json.loads(out)
    assert answer["schema"] == 1 and answer["dry_run"] is True
    assert answer["files"] == [f"there/{name}" for name in FILES[command]]
    assert names(in_folder) == []
    (in_folder / "there").mkdir()
    (in_folder / "there" / FILES[command][0]).touch()
    assert imagekit("secrets", command, "--dry-run", "-o", "there")[0] == 2


@pytest.mark.parametrize("command", FILES)
def test_nothing_is_overwritten_without_force_and_all_of_it_with_it(imagekit, in_folder, command):
    words = ("secrets", command, *options(command), "-o", "there")
    assert imagekit(*words)[0] == 0
    folder = in_folder / "there"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    code, out, err = imagekit(*words)
    assert (code, out) == (2, "")
    assert "error: there: exists already" in err and "hint: secrets are never overwritten" in err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    code, _, err = imagekit(*words, "--force")
    assert code == 0, err
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(after) == sorted(before)
    same = {"rbac.yaml", "data-key.env", *(["spark-secret.yaml"] if command == "password" else [])}
    assert {name for name in after if after[name] == before[name]} <= same


def test_it_is_refused_before_anything_is_asked_or_made(imagekit, in_folder, monkeypatch):
    (in_folder / "keys").mkdir()
    (in_folder / "keys" / "server.key").write_text("old")
    monkeypatch.delenv("IMAGEKIT_PASSWORD")
    code, _, err = imagekit("secrets", "ssl", "--password-file", "missing")
    assert code == 2 and "exists already" in err
    code, _, err = imagekit("secrets", "ssl", "--password-file", "missing", "-o", "new")
    assert code == 3 and "cannot read the password" in err


def test_a_generated_password_is_kept_by_force(imagekit, in_folder):
    """The file may be the only one that holds it."""
    assert imagekit("secrets", "ssl", *SMALL, "--generate")[0] == 0
    kept = (in_folder / "keys" / "password.txt").read_bytes()
    words = ("secrets", "ssl", *SMALL, "--force")
    code, _, err = imagekit(*words, "--password-file", "keys/password.txt")
    assert code == 2 and "as a whole, password.txt with it" in err
    assert (in_folder / "keys" / "password.txt").read_bytes() == kept
    assert imagekit(*words, "--generate")[0] == 0
    assert (in_folder / "keys" / "password.txt").read_bytes() != kept


# -- what is in the files


def secret_of(path):
    body = yaml.safe_load(path.read_bytes())
    return body, {key: base64.b64decode(value) for key, value in body["data"].items()}


def test_the_secret_of_ssl_holds_what_bigdls_templates_mount(imagekit, in_folder):
    assert imagekit("secrets", "ssl", *SMALL, "--namespace", "team")[0] == 0
    body, data = secret_of(in_folder / "keys" / "keys.yaml")
    assert body["metadata"] == {"name": "ssl-keys", "namespace": "team"}
    others = [name for name in FILES["ssl"] if name != "keys.yaml"]
    assert data == {name: (in_folder / "keys" / name).read_bytes() for name in others}


def test_the_certificate_is_what_the_options_say(imagekit, in_folder):
    more = ("--name", "spark.example", "--san", "IP:10.0.0.1", "--san", "b.example")
    code, out, _ = imagekit("secrets", "ssl", *SMALL, *more, "--days", "30", "--json")
    assert code == 0
    answer = json.loads(out)
    assert answer["secrets"] == ["ssl-keys"]
    certificate = answer["certificate"]
    assert certificate["name"] == "spark.example"
    assert certificate["san"] == ["DNS:spark.example", "IP:10.0.0.1", "DNS:b.example"]
    store = (in_folder / "keys" / "keystore.jks").read_bytes()
    found = pkcs12.load_pkcs12(store, PASSWORD.encode())
    assert found.key.key_size == 2048
    assert (found.cert.certificate.not_valid_after_utc).strftime("%Y-%m-%d") == certificate[
        "not_after"
    ][:10]


def test_what_is_chosen_by_default_is_said(imagekit):
    code, _, err = imagekit("secrets", "ssl", "--dry-run")
    assert code == 0
    assert "RSA-3072, certificate for localhost, valid 365 days\n" in err
    assert (
        "RSA-4096, certificate for flink.internal, valid 365 days"
        in imagekit("secrets", "flink", "--dry-run")[2]
    )


def test_the_password_comes_out_of_key_and_ciphertext_with_its_newline(imagekit, in_folder):
    assert imagekit("secrets", "password")[0] == 0
    folder = in_folder / "password"
    key = load_pem_private_key((folder / "key.txt").read_bytes(), None)
    assert key.key_size == 2048
    sealed = (folder / "output.bin").read_bytes()
    assert key.decrypt(sealed, PKCS1v15()) == f"{PASSWORD}\n".encode()
    body, data = secret_of(folder / "password.yaml")
    assert body["metadata"]["name"] == "ssl-password"
    assert data == {"key.txt": (folder / "key.txt").read_bytes(), "output.bin": sealed}
    body, data = secret_of(folder / "spark-secret.yaml")
    assert body["metadata"]["name"] == "spark-secret"
    assert data == {"secret": PASSWORD.encode()}


@pytest.mark.integration("openssl")
@pytest.mark.parametrize("length", [6, 244])
def test_the_old_line_of_openssl_reads_it(imagekit, in_folder, monkeypatch, length):
    password = "x" * length
    monkeypatch.setenv("IMAGEKIT_PASSWORD", password)
    assert imagekit("secrets", "password")[0] == 0
    line = "openssl rsautl -inkey password/key.txt -decrypt <password/output.bin"
    done = subprocess.run(["sh", "-c", line], capture_output=True, check=True)
    assert done.stdout == f"{password}\n".encode()


def test_the_data_key_is_sixteen_bytes_and_new_each_time(imagekit, in_folder):
    for folder in ("a", "b"):
        code, _, err = imagekit("secrets", "data-key", "-o", folder)
        assert code == 0 and "warning: the host can read this key" in err
    first, second = ((in_folder / name / "plaintextkey").read_bytes() for name in "ab")
    assert len(first) == len(second) == 16 and first != second
    body, data = secret_of(in_folder / "a" / "encrypted-keys.yaml")
    assert body["metadata"]["name"] == "encrypted-keys" and data == {"plaintextkey": first}


def test_rbac_is_always_the_same_and_says_for_what(imagekit, in_folder):
    words = ("secrets", "rbac", "--for", "spark", "--name", "jobs", "--namespace", "team")
    code, _, err = imagekit(*words, "--token")
    assert code == 0 and "account jobs in namespace team, role for spark" in err
    before = (in_folder / "rbac" / "rbac.yaml").read_bytes()
    assert imagekit(*words, "--token", "--force")[0] == 0
    assert (in_folder / "rbac" / "rbac.yaml").read_bytes() == before
    kinds = [body["kind"] for body in yaml.safe_load_all(before)]
    assert kinds == ["ServiceAccount", "Role", "RoleBinding", "Secret"]


# -- where the password comes from


def opens(folder, password):
    try:
        pkcs12.load_pkcs12((folder / "keystore.jks").read_bytes(), password)
    except ValueError:
        return False
    return True


def start(*words, **more):
    command = [sys.executable, "-m", "imagekit", "secrets", *words]
    return subprocess.run(command, capture_output=True, check=False, **more)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
@pytest.mark.parametrize("source", ["file", "stdin"])
def test_a_password_from_a_file_or_stdin_without_its_line_break(in_folder, source, end):
    data = b"another-one" + end
    (in_folder / "pass").write_bytes(data)
    (in_folder / "pass").chmod(0o600)
    name = "-" if source == "stdin" else "pass"
    done = start("ssl", *SMALL, "--password-file", name, input=data)
    assert done.returncode == 0, done.stderr
    assert opens(in_folder / "keys", b"another-one")
    assert not opens(in_folder / "keys", PASSWORD.encode())
    assert b"another-one" not in done.stdout + done.stderr


def test_a_file_that_others_can_read_is_warned_of(imagekit, in_folder):
    (in_folder / "pass").write_text(PASSWORD)
    (in_folder / "pass").chmod(0o644)
    code, _, err = imagekit("secrets", "flink", *SMALL, "--password-file", "pass")
    assert code == 0 and "warning: pass: mode 0644" in err


def test_a_password_that_is_read_in_several_ways_is_warned_of(imagekit, monkeypatch):
    monkeypatch.setenv("IMAGEKIT_PASSWORD", "with#sign")
    code, out, err = imagekit("secrets", "password")
    assert code == 0 and "warning: the password has characters that shells" in err
    assert "with#sign" not in out + err


@pytest.mark.parametrize("command", LOCKED)
def test_without_any_source_it_says_which_there_are(in_folder, command):
    env = {name: value for name, value in os.environ.items() if name != "IMAGEKIT_PASSWORD"}
    done = start(command, stdin=subprocess.DEVNULL, env=env, text=True)
    assert done.returncode == 2 and done.stdout == ""
    hint = "give --password-file or --generate, set IMAGEKIT_PASSWORD or run in a terminal"
    assert done.stderr.endswith(f"hint: {hint}\n")
    assert names(in_folder) == []


def test_two_sources_exclude_each_other(imagekit):
    code, _, err = imagekit("secrets", "ssl", "--generate", "--password-file", "x")
    assert code == 2 and "--generate and --password-file exclude each other" in err


@pytest.mark.parametrize(("again", "code"), [("another-one", 0), ("another-two", 2)])
def test_a_prompt_asks_twice_and_shows_nothing(in_folder, monkeypatch, again, code):
    monkeypatch.delenv("IMAGEKIT_PASSWORD")
    seen = bytearray()
    answers = ["another-one", again]

    def read(fd):
        data = os.read(fd, 1024)
        seen.extend(data)
        if data.rstrip().endswith((b"keystores:", b"once more:")):
            os.write(fd, answers.pop(0).encode() + b"\n")
        return data

    command = [sys.executable, "-m", "imagekit", "secrets", "ssl", *SMALL]
    status = os.waitstatus_to_exitcode(pty.spawn(command, read))
    assert (status, answers) == (code, [])
    assert b"another" not in seen
    assert (in_folder / "keys").exists() == (code == 0)
    if code == 0:
        assert opens(in_folder / "keys", b"another-one")


@pytest.mark.parametrize(
    ("text", "reason"),
    [("12345", "fewer than 6"), ("one\ntwo2", "a line break"), ("two words", "a space")],
)
@pytest.mark.parametrize("command", LOCKED)
def test_a_password_that_java_does_not_take_is_refused(
    imagekit, in_folder, monkeypatch, command, text, reason
):
    monkeypatch.setenv("IMAGEKIT_PASSWORD", text)
    code, _, err = imagekit("secrets", command, "-o", "there")
    assert code == 3 and reason in err and text not in err
    assert names(in_folder) == []


# -- nothing shows it

FITTING = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=16, max_size=60)


def forms(password):
    """How a password could stand somewhere."""
    data = password.encode()
    found = {data, base64.b64encode(data).rstrip(b"="), data.hex().encode()}
    return {*found, repr(password)[1:-1].encode(), json.dumps(password)[1:-1].encode()}


@settings(
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(password=FITTING, broken=st.booleans(), as_json=st.booleans())
def test_a_password_is_in_no_output_and_in_no_file_but_those_that_are_for_it(
    password, broken, as_json, tmp_path_factory, capfd, monkeypatch
):
    folder = tmp_path_factory.mktemp("secrets")
    monkeypatch.setenv("IMAGEKIT_PASSWORD", password)
    with monkeypatch.context() as patched:
        if broken:  # an error after the password is known

            def fail(*_):
                raise RuntimeError("broken")

            patched.setattr(imagekit.secrets.folder, "write_folder", fail)
        for command in LOCKED:
            words = ["secrets", command, *options(command), "-o", str(folder / command)]
            code = run(app, [*words, *(["--json"] if as_json else [])], "imagekit")
            assert code == (1 if broken else 0)
    said = "".join(capfd.readouterr()).encode()
    assert not [form for form in forms(password) if form in said]
    for path in (path for path in folder.rglob("*") if path.is_file()):
        is_for_it = path.name == "spark-secret.yaml"
        assert any(form in path.read_bytes() for form in forms(password)) == is_for_it, path


def test_that_look_would_find_it(imagekit, in_folder):
    assert imagekit("secrets", "password")[0] == 0
    text = (in_folder / "password" / "spark-secret.yaml").read_bytes()
    assert any(form in text for form in forms(PASSWORD))


def test_a_generated_password_stands_in_its_file_alone(imagekit, in_folder, monkeypatch):
    made = []
    generate = Password.generate

    def watched():
        made.append(generate())
        return made[-1]

    monkeypatch.setattr(Password, "generate", watched)
    for command in LOCKED:
        words = ("secrets", command, *options(command), "--generate", "--json")
        code, out, err = imagekit(*words)
        assert code == 0, err
        text = made[-1].reveal()
        assert text.decode() not in out + err
        folder = in_folder / FOLDERS[command]
        assert (folder / "password.txt").read_bytes() == text + b"\n"
        assert f"{folder.name}/password.txt" in json.loads(out)["files"]
        holders = [path.name for path in folder.iterdir() if text in path.read_bytes()]
        assert holders == ["password.txt"]
    assert len({one.reveal() for one in made}) == 3


def test_a_password_is_no_argument_and_no_child_has_it(in_folder):
    """There is no option for it, and no program is started."""
    done = start("ssl", "--password", "only-for-tests")
    assert done.returncode == 2 and b"No such option" in done.stderr
    code = (
        "import subprocess, os\n"
        "def none(*_, **__): raise AssertionError('a program was started')\n"
        "subprocess.Popen.__init__ = os.posix_spawn = os.execve = os.fork = none\n"
        "from imagekit.cli.main import app, run\n"
        "raise SystemExit(run(app, ['secrets', 'ssl', '--key-size', '2048'], 'imagekit'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
