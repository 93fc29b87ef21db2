"""Bad input of every kind: two lines, the right exit code, nothing left behind."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import GRAMINE, TAG, base_files, error_lines, write_base

from imagekit.images.cache import Cache
from imagekit.images.layers import LayerFile
from imagekit.images.layout import OciLayout
from imagekit.images.open import open_image
from imagekit.signing.keyfile import generate_key


def state(folder):
    """Everything in a folder, with contents: to see that nothing was left."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if "cache" not in path.parts
    }


@pytest.fixture
def fails(project, imagekit):
    def call(code, *words, arguments=("--epc", "64m", "--log", "error"), command="build"):
        before = state(project)
        found, out, err = imagekit(command, *arguments)
        assert found == code, err
        problem, hint = error_lines(err)
        for word in words:
            assert word in problem + hint, err
        assert out == ""
        assert state(project) == before
        return problem, hint

    return call


def test_no_project_file(project, fails):
    (project / "imagekit.yaml").unlink()
    fails(2, "imagekit.yaml", "imagekit init")


def test_an_unknown_key_names_line_and_nearest_key(project, fails):
    path = project / "imagekit.yaml"
    path.write_text(path.read_text().replace("  epc: [64m", "  epcs: [64m"))
    problem, hint = fails(2, "matrix.epcs")
    assert problem.startswith("imagekit.yaml:8: ")
    assert '"epc"' in hint


@pytest.mark.parametrize("size", ["12g", "0", "16x", "99999g", "", "-4g", "1.5g", "g", "16"])
def test_sizes(fails, size):
    fails(2, arguments=("--epc", size, "--log", "error"))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--log", "loud"), "loud"),
        (("--libos", "sgx"), "sgx"),
        (("--profile", "lax"), "lax"),
        (("--select", "*-7g-*"), "*-7g-*"),
        (("--all", "--epc", "64m"), "--all"),
        (("--output", "docker://x/y"), "docker"),
        (("--output", "out"), "out"),
        (("--date", "22.11.2026"), "22.11.2026"),
        (("--nonsense",), "--nonsense"),
        (("-D", "1x=2"), "1x"),
        (("-D", "launcher=/evil"), "launcher"),
        (("--date", "2026-13-45"), "2026-13-45"),
        (("--libos", "occlum"), "occlum"),
        (("--key", "none.pem"), "none.pem"),
        (("--manifest-template", "none.template"), "none.template"),
    ],
)
def test_options(project, imagekit, arguments, word):
    before = state(project)
    code, _, err = imagekit("build", *arguments)
    assert code in (2, 3, 4), err
    assert word in "".join(error_lines(err))
    assert state(project) == before


def test_the_base_is_missing(project, fails):
    (project / "base" / "index.json").unlink()
    fails(3, "base")


def test_the_base_is_no_image_at_all(project, fails):
    for path in (project / "base").rglob("*"):
        if path.is_file():
            path.write_text("hello")
    fails(3, "base")


def damage(project, change):
    layout = OciLayout.open(project / "base")
    blob = layout.blobs.path(layout.image("base").layers[0].digest)
    blob.write_bytes(change(blob.read_bytes()))
    return blob.name


def test_a_truncated_base_layer(project, fails):
    name = damage(project, lambda data: data[:-3000])
    fails(3, name)


def test_a_base_layer_with_another_content(project, fails):
    name = damage(project, lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    fails(3, name)


def test_a_base_without_gramine(project, fails):
    files = [file for file in base_files() if GRAMINE not in file.path]
    write_base(project / "base", files)
    fails(3, "no Gramine", "apt source")


def test_a_base_without_python(project, fails):
    write_base(project / "base", [f for f in base_files() if "python" not in f.path])
    fails(3, "/usr/bin/python3", "paths.python")


def test_a_base_with_a_gramine_of_unknown_rules(project, fails):
    status = b"Package: gramine\nVersion: 2.4-1\n"
    write_base(project / "base", base_files(), [LayerFile("/var/lib/dpkg/status", status)])
    fails(3, "Gramine 2.4", "gramine.version")


def test_a_trusted_file_that_the_base_does_not_have(project, fails):
    path = project / "imagekit.yaml"
    path.write_text(path.read_text() + "trusted: [/opt/none.jar]\n")
    problem, _ = fails(3, "/opt/none.jar")
    assert problem.startswith("imagekit.yaml: trusted: ")


@pytest.mark.parametrize("path", ["/opt/spark", "/usr/bin/bash/"])
def test_a_trusted_path_of_the_other_kind(project, fails, path):
    file = project / "imagekit.yaml"
    file.write_text(file.read_text() + f"trusted: [{path}]\n")
    fails(3, "trusted", path)


def test_a_command_that_the_base_does_not_have(project, fails):
    path = project / "imagekit.yaml"
    path.write_text(path.read_text().replace("/bin/java, -v", "/bin/jova, -v"))
    fails(3, "launch.command", "jova")


def test_strict_without_a_command(project, fails):
    path = project / "imagekit.yaml"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    fails(2, "launch.command")


def test_an_enclave_too_small_for_its_threads(project, fails):
    path = project / "imagekit.yaml"
    path.write_text(path.read_text().replace("max_threads: 8", "max_threads: 1024"))
    fails(6, "gramine-64m-error-dcap", "thread")


def test_no_key_named_anywhere(project, fails):
    path = project / "imagekit.yaml"
    path.write_text(path.read_text().replace("signing: {key: ./key.pem}\n", ""))
    fails(2, "signing", "key generate")


def test_a_key_of_another_kind(project, fails):
    subprocess.run(
        ["openssl", "genrsa", "-out", "other.pem", "3072"], check=True, capture_output=True
    )
    Path("other.pem").chmod(0o600)
    fails(6, "exponent", arguments=("--epc", "64m", "--key", "other.pem"))


def test_an_encrypted_key_without_passphrase(project, fails, monkeypatch):
    generate_key(project / "locked.pem", b"secret words")
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        fails(6, "passphrase is needed", arguments=("--epc", "64m", "--key", "locked.pem"))


def run(folder, *arguments, before=None):
    return subprocess.run(
        [sys.executable, "-m", "imagekit", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=before,
    )


def test_an_output_that_cannot_be_written(project, imagekit):
    (project / "out").write_text("a file is in the way")
    code, _, err = imagekit("build", "--epc", "64m")
    assert code == 3, err
    assert "out" in error_lines(err)[0]
    assert (project / "out").read_text() == "a file is in the way"
    code, _, err = imagekit("build", "--epc", "64m", "--output", "oci:/proc/imagekit")
    assert code == 3, err
    error_lines(err)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_leaves_no_image_and_the_next_run_succeeds(project, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], check=True)
    try:
        done = run(project, "build", "--epc", "64m", "--output", f"oci:{disk}/out")
        assert done.returncode == 3, done.stderr
        problem, hint = error_lines(done.stderr)
        assert "No space left" in problem
        assert "free" in hint
        layout = OciLayout.open(disk / "out")
        assert layout.tags() == ()
        assert not (project / "imagekit.lock.json").exists()
        subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
        done = run(project, "build", "--epc", "64m", "--output", f"oci:{disk}/out")
        assert done.returncode == 0, done.stderr
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_file_size_limit_is_a_clear_error(project):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, 8_000))

    done = run(project, "build", "--epc", "64m", before=limit)
    assert done.returncode == 3, done.stderr
    error_lines(done.stderr)


@pytest.mark.parametrize("stage", range(12))
def test_a_killed_build_leaves_nothing_false_and_can_be_run_again(project, stage):
    command = [sys.executable, "-m", "imagekit", "build", "--all"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(0.25 + 0.12 * stage)
    process.kill()
    process.wait()
    if (project / "out" / "index.json").exists():
        layout = OciLayout.open(project / "out")
        for tag in layout.tags():  # whatever is in the index is complete
            image = layout.image(tag)
            for layer in image.layers:
                assert layout.blobs.has(layer.digest, layer.size)
    done = run(project, "build", "--epc", "64m", "--log", "error")
    assert done.returncode == 0, done.stderr
    image = open_image(f"oci:{project}/out:{TAG}", Cache())
    assert image.labels["io.imagekit.epc"] == "64m"
    left = [path for path in (project / "out").rglob("*") if path.name.startswith(".")]
    assert left == []


def test_what_a_killed_build_left_goes_even_when_nothing_is_to_do(project):
    assert run(project, "build", "--epc", "64m", "--log", "error").returncode == 0
    left = [project / "out" / name / ".imagekit-tmp-1-0" for name in ("", "blobs")]
    for path in left:
        path.touch()
    done = run(project, "build", "--epc", "64m", "--log", "error")
    assert "nothing to do" in done.stderr
    assert [path for path in left if path.exists()] == []


def test_interrupting_is_clean(project):
    process = subprocess.Popen(
        [sys.executable, "-m", "imagekit", "build", "--all"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(0.8)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    if process.returncode != 0:  # a quick machine may be done by then
        assert process.returncode == 130, err
    assert "Traceback" not in err


def test_a_defect_is_reported_as_one_and_shown_with_v(project, imagekit, monkeypatch):
    def broken(*arguments, **more):
        raise RuntimeError("something nobody thought of")

    monkeypatch.setattr("imagekit.release.pipeline.open_base", broken)
    code, _, err = imagekit("build", "--epc", "64m")
    assert code == 1
    problem, hint = error_lines(err)
    assert "something nobody thought of" in problem
    assert "-v" in hint
    with pytest.raises(RuntimeError):
        imagekit("-v", "build", "--epc", "64m")


def test_a_missing_signature_file_and_a_folder(project, imagekit):
    for target in ("none.sig", "base"):
        code, _, err = imagekit("inspect", target)
        assert code == 3
        assert target in error_lines(err)[0]


def test_a_group_alone_shows_its_help(imagekit):
    for words in ((), ("key",), ("base",), ("tool",)):
        code, out, err = imagekit(*words)
        assert code == 2
        assert (out + err).startswith("Usage: imagekit")
        assert "error:" not in err


def test_usage_errors_point_to_the_commands_own_help(imagekit):
    assert error_lines(imagekit("build", "--bogus")[2])[1] == "see imagekit build --help"
    assert error_lines(imagekit("key", "show")[2])[1] == "see imagekit key show --help"


def test_an_image_reference_to_nowhere(project, imagekit):
    for command in ("verify", "inspect", "measure"):
        for reference, code in (("oci:none", 3), ("nonsense:x", 2), ("docker://x/y", 4)):
            found, _, err = imagekit(command, reference)
            assert found == code, err
            error_lines(err)


def test_every_command_has_help(imagekit):
    for words in (
        (),
        ("init",),
        ("plan",),
        ("render",),
        ("base",),
        ("base", "build"),
        ("base", "lock"),
        ("build",),
        ("key",),
        ("key", "generate"),
        ("key", "show"),
        ("inspect",),
        ("measure",),
        ("verify",),
        ("tool",),
        ("tool", "gramine-manifest"),
        ("tool", "gramine-sgx-sign"),
        ("tool", "sgx-sign"),
        ("tool", "sgx-sign", "sign"),
        ("tool", "sgx-sign", "gendata"),
        ("tool", "sgx-sign", "catsig"),
        ("tool", "sgx-sign", "dump"),
    ):
        code, out, err = imagekit(*words, "--help")
        assert code == 0, err
        assert "Usage: imagekit" in out
