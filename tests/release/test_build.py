"""Building cells on a tiny base: what comes out, that it is reproducible, what is refused."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import GRAMINE, JAVA, PROJECT, TAG, base_files, error_lines, write_base

from imagekit.images.cache import Cache
from imagekit.images.layers import LayerFile
from imagekit.images.open import open_image
from imagekit.images.rootfs import Rootfs
from imagekit.release.lock import read_lock

MR_SIGNER = "a252b71659792e8d0387d8af7659b68dd26b01633476ae2c64fc1dba7f740676"


def build(imagekit, *arguments):
    code, out, err = imagekit("build", "--epc", "64m", "--log", "error", *arguments)
    assert code == 0, err
    return out, err


def view(reference=f"oci:out:{TAG}"):
    image = open_image(reference, Cache())
    return image, Rootfs.from_image(image, None)


def manifest_of(rootfs):
    return tomllib.loads(rootfs.read("/ppml/bash.manifest.sgx").decode())


def change(path: Path, *pairs: tuple[str, str]) -> None:
    text = path.read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


def test_the_console_shows_the_lines_that_scripts_look_for(project, imagekit):
    out, err = build(imagekit)
    lines = out.splitlines()
    assert lines[0] == (
        "[INFO] Use the below hash values of mr_enclave and mr_signer to register enclave:"
    )
    assert lines[1].startswith("mr_enclave       : ")
    assert len(lines[1].split()[-1]) == 64
    assert lines[2] == f"mr_signer        : {MR_SIGNER}"
    assert len(lines) == 3
    assert "WITHOUT ANY ENCLAVE" in err


def test_the_image_is_the_base_plus_one_layer_with_labels(project, imagekit):
    out, _ = build(imagekit)
    base = open_image("oci:base:base", Cache())
    image, rootfs = view()
    assert image.layers[:-1] == base.layers
    assert image.entrypoint == ("/opt/entrypoint.sh",)
    labels = image.labels
    assert labels["io.imagekit.mr_enclave"] in out
    assert labels["io.imagekit.epc"] == "64m"
    assert labels["io.imagekit.standin"] == "true"
    assert labels["org.opencontainers.image.base.digest"] == base.digest
    for path in ("/ppml/bash.manifest", "/ppml/bash.sig", "/opt/entrypoint.sh"):
        assert rootfs.kind(path) == "file"
    assert rootfs.entry("/tmp").mode == 0o1777  # the layer did not touch the base's folders
    assert image.created == "2023-11-14T00:00:00Z"  # the base's own day


def test_the_default_cell_is_also_tagged_latest(project, imagekit):
    build(imagekit)
    same, _ = view("oci:out:tiny-gramine-reference:latest")
    assert same.digest == view()[0].digest
    code, _, err = imagekit("build", "--epc", "128m", "--log", "error")
    assert code == 0, err
    assert view("oci:out:tiny-gramine-reference:latest")[0].digest == same.digest


def test_strict_trusts_every_file_and_seals_the_command(project, imagekit):
    build(imagekit)
    _, rootfs = view()
    manifest = manifest_of(rootfs)
    trusted = {entry["uri"].removeprefix("file:") for entry in manifest["sgx"]["trusted_files"]}
    for path in (
        f"{GRAMINE}/runtime/glibc/libc.so.6",
        "/usr/bin/python3.11",
        "/usr/lib/python3.11/os.py",
        f"{JAVA}/lib/modules",
        f"{JAVA}/conf/net.properties",  # a link, under its own name …
        "/etc/java-17/net.properties",  # … and what it leads to
        "/opt/spark/jars/spark-core.jar",
        "/opt/imagekit/launcher.pyz",
        "/opt/imagekit/launch.json",
    ):
        assert path in trusted, path
    assert manifest["sgx"]["file_check_policy"] == "strict"
    assert "allowed_files" not in manifest["sgx"]
    assert "insecure__use_host_env" not in manifest["loader"]
    assert manifest["loader"]["argv"][-1] == "/opt/imagekit/launcher.pyz"
    env = manifest["loader"]["env"]
    assert [name for name, value in env.items() if isinstance(value, dict)] == [
        "IMAGEKIT_REQUEST",
        "POD_NAME",
    ]
    launch = json.loads(rootfs.read("/opt/imagekit/launch.json"))
    assert launch["argv"] == [f"{JAVA}/bin/java", "-version"]
    assert launch["env"]["JAVA_HOME"] == JAVA


def test_trusted_hashes_are_those_of_the_files(project, imagekit):
    build(imagekit)
    _, rootfs = view()
    for entry in manifest_of(rootfs)["sgx"]["trusted_files"]:
        assert entry["sha256"] == rootfs.sha256(entry["uri"].removeprefix("file:"))


def test_every_axis_changes_the_measurement(project, imagekit):
    code, _, err = imagekit("build", "--all")
    assert code == 0, err
    entries = read_lock(project / "imagekit.lock.json")
    assert len(entries) == 8
    assert len({entry.mr_enclave for entry in entries.values()}) == 8
    assert len({entry.base for entry in entries.values()}) == 1


def test_the_lock_records_what_was_built(project, imagekit):
    out, _ = build(imagekit)
    image, _ = view()
    entry = read_lock(project / "imagekit.lock.json")[f"registry.example:5000/team/{TAG}"]
    assert entry.digest == image.digest
    assert entry.mr_enclave in out
    assert (entry.isv_prod_id, entry.isv_svn, entry.debug) == (1, 3, False)
    assert (entry.date, entry.epoch) == ("2023-11-14", 1699920000)


def test_json_says_the_same(project, imagekit):
    out, _ = build(imagekit, "--json")
    answer = json.loads(out)
    assert answer["schema"] == 1
    assert answer["images"][0]["output"][0] == f"oci:out:{TAG}"
    assert answer["images"][0]["digest"] == view()[0].digest


def run(folder, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "imagekit", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        umask=int(environment.get("TEST_UMASK", "022"), 8),
    )


def test_clock_place_user_settings_and_umask_do_not_reach_the_image(project, imagekit, tmp_path):
    build(imagekit)
    other = tmp_path / "another place"
    other.mkdir()
    write_base(other / "base", base_files(), [])
    (other / "imagekit.yaml").write_text(PROJECT)
    (other / "key.pem").write_bytes((project / "key.pem").read_bytes())
    (other / "key.pem").chmod(0o600)
    done = run(
        other,
        "build",
        "--epc=64M",
        "--log=error",
        TZ="Pacific/Kiritimati",
        LC_ALL="C",
        PYTHONHASHSEED="77",
        TEST_UMASK="077",
        IMAGEKIT_CACHE=str(tmp_path / "other cache"),
        USER="somebody",
    )
    assert done.returncode == 0, done.stderr
    assert view(f"oci:{other / 'out'}:{TAG}")[0].digest == view()[0].digest


def test_source_date_epoch_rules_all_dates(project, imagekit, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1600000000")
    build(imagekit)
    image, _ = view()
    assert image.created == "2020-09-13T12:26:40Z"
    entry = next(iter(read_lock(project / "imagekit.lock.json").values()))
    assert entry.date == "2020-09-13"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    code, _, err = imagekit("build", "--epc", "64m")
    assert code == 2
    assert "SOURCE_DATE_EPOCH" in error_lines(err)[0]


def test_a_second_build_adds_to_the_same_output(project, imagekit):
    build(imagekit)
    first, _ = view()
    code, _, err = imagekit("build", "--select", "*-128m-error-none")
    assert code == 0, err
    assert view()[0].digest == first.digest
    assert view("oci:out:tiny-gramine-noattest-128m:1.0")[0].labels["io.imagekit.epc"] == "128m"


def test_two_builds_at_once_into_one_output_both_land(project):
    commands = [
        [sys.executable, "-m", "imagekit", "build", "--epc", epc, "--log", log]
        for epc in ("64m", "128m")
        for log in ("error", "debug")
    ]
    running = [subprocess.Popen(c, stdout=subprocess.DEVNULL, stderr=-1) for c in commands]
    for process in running:
        _, err = process.communicate()
        assert process.returncode == 0, err.decode()
    assert len(read_lock(project / "imagekit.lock.json")) == 4
    for size in ("64m", "128m"):
        for suffix in ("", "-debug"):
            view(f"oci:out:tiny-gramine-reference-{size}{suffix}:1.0")


def test_compat_is_what_bigdl_built_and_says_so(project, imagekit):
    change(
        project / "imagekit.yaml",
        ("profile: strict", "profile: compat"),
        (PROJECT.splitlines()[-1], ""),
    )
    folders = [
        LayerFile(path, directory=True)
        for path in ("/usr/local/lib", "/etc/x", "/opt/y", "/root/.kube", "/usr/lib/gcc")
    ]
    write_base(project / "base", base_files(), folders)
    _, err = build(imagekit)
    image, rootfs = view()
    assert image.labels["io.imagekit.profile"] == "compat"
    manifest = manifest_of(rootfs)
    assert manifest["sgx"]["file_check_policy"] == "allow_all_but_log"
    assert manifest["loader"]["insecure__use_host_env"] is True
    assert "warning:" in err


def test_compat_for_gramine_1_3_keeps_bigdls_keys(project, imagekit):
    change(
        project / "imagekit.yaml",
        ("profile: strict", 'profile: compat\ngramine: {version: "1.3"}'),
        (PROJECT.splitlines()[-1], ""),
    )
    build(imagekit)
    _, rootfs = view()
    text = rootfs.read("/ppml/bash.manifest.sgx").decode()
    assert "thread_num = 8" in text
    assert "nonpie_binary = true" in text
    assert 'pal_internal_mem_size = "512M"' in text
    assert rootfs.read("/ppml/secured_argvs").startswith(b"bash\0-c\0")
    assert 'uri = "file:/ppml/secured_argvs"' in text
    code, _, err = imagekit("verify", f"oci:out:{TAG}", "--allow-standin")
    assert code == 0, err


def test_an_own_template_with_variables(project, imagekit):
    template = project / "own.template"
    template.write_text(
        'libos.entrypoint = "/app"\n'
        'loader.entrypoint.uri = "file:{{ gramine.libos }}"\n'
        'loader.log_level = "{{ log_level }}"\n'
        'loader.argv = [ "{{ word }}" ]\n'
        'fs.mounts = [ { path = "/app", uri = "file:/usr/bin/bash" } ]\n'
        'sgx.enclave_size = "{{ enclave_size }}"\nsgx.max_threads = {{ max_threads }}\n'
        'sgx.remote_attestation = "{{ attestation }}"\n'
        "sgx.isvprodid = {{ isv_prod_id }}\nsgx.isvsvn = {{ isv_svn }}\n"
        'sgx.trusted_files = [ "file:/usr/bin/bash" ]\n'
    )
    flags = ("--manifest-template", "own.template", "-D", "word=hello")
    build(imagekit, *flags)
    assert manifest_of(view()[1])["loader"]["argv"] == ["hello"]
    code, _, err = imagekit("build", "--epc", "64m", *flags[:2])
    assert code == 3
    problem, hint = error_lines(err)
    assert problem == "own.template:4: 'word' is undefined"
    assert "-D" in hint


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('sgx.enclave_size = "1G"', "sgx.enclave_size is '1G'"),
        ('sgx.remote_attestation = "none"', "sgx.remote_attestation is 'none'"),
        ("sgx.debug = true", "sgx.debug is True"),
        ("sgx.thread_num = 4", "sgx.thread_num"),
        ("nonsense", "own.template: Expected '='"),
        ('sgx.trusted_files = [ "file:/none" ]', "/none"),
    ],
)
def test_templates_that_contradict_the_cell_or_are_broken(project, imagekit, line, words):
    values = {
        "libos.entrypoint": '"/app"',
        "loader.entrypoint.uri": '"file:{{ gramine.libos }}"',
        "loader.log_level": '"{{ log_level }}"',
        "fs.mounts": '[ { path = "/app", uri = "file:/usr/bin/bash" } ]',
        "sgx.enclave_size": '"{{ enclave_size }}"',
        "sgx.max_threads": "{{ max_threads }}",
        "sgx.remote_attestation": '"{{ attestation }}"',
        "sgx.isvprodid": "{{ isv_prod_id }}",
        "sgx.isvsvn": "{{ isv_svn }}",
    }
    values.pop(line.partition(" =")[0], None)
    text = "\n".join(f"{key} = {value}" for key, value in values.items()) + f"\n{line}\n"
    (project / "own.template").write_text(text)
    code, _, err = imagekit("build", "--epc", "64m", "--manifest-template", "own.template")
    assert code in (3, 6), err
    assert words in error_lines(err)[0]
    assert not (project / "out").exists()
    assert not (project / "imagekit.lock.json").exists()


def test_what_the_project_trusts_besides_is_mounted_too(project, imagekit):
    text = (project / "imagekit.yaml").read_text()
    trusted = "trusted: [/usr/bin/bash, /var/lib/dpkg/, /opt/spark/jars/spark-core.jar]\n"
    (project / "imagekit.yaml").write_text(text + trusted)
    build(imagekit)
    manifest = manifest_of(view()[1])
    uris = [entry["uri"] for entry in manifest["sgx"]["trusted_files"]]
    assert "file:/usr/bin/bash" in uris
    assert "file:/var/lib/dpkg/status" in uris
    assert uris.count("file:/opt/spark/jars/spark-core.jar") == 1
    mounts = [mount["path"] for mount in manifest["fs"]["mounts"]]
    assert mounts.count("/usr/bin/bash") == mounts.count("/var/lib/dpkg") == 1
    assert "/opt/spark/jars/spark-core.jar" not in mounts  # /opt/spark is mounted already


def test_render_writes_what_the_image_will_hold_and_needs_no_key(project, imagekit):
    (project / "key.pem").unlink()
    code, _, err = imagekit("render", "-o", "files", "--select", "*-64m-error-dcap")
    assert code == 0, err
    folder = project / "files" / "gramine-64m-error-dcap" / "rootfs"
    assert (folder / "opt/entrypoint.sh").stat().st_mode & 0o111
    assert not list(folder.rglob("*.sig"))
    (project / "key.pem").write_bytes((Path(GOLDEN_KEY)).read_bytes())
    (project / "key.pem").chmod(0o600)
    build(imagekit)
    _, rootfs = view()
    for path in folder.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == rootfs.read("/" + str(path.relative_to(folder)))
    assert not (project / "out" / "files").exists()


GOLDEN_KEY = Path(__file__).parent.parent / "golden/gramine/test-only-enclave-key.pem"
