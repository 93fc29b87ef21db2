import hashlib
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from imagekit.spec.base import BaseSpec, parse_base
from imagekit.spec.fields import load_yaml

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"


@pytest.fixture(scope="module")
def deb(tmp_path_factory):
    path = tmp_path_factory.mktemp("standin") / "x.deb"
    script = QUICKSTART / "make_standin.py"
    subprocess.run([sys.executable, "-I", script, path], check=True, capture_output=True)
    return path.read_bytes()


def members(deb):
    assert deb.startswith(b"!<arch>\n")
    at, found = 8, {}
    while at < len(deb):
        name, size = deb[at : at + 16].decode().strip(), int(deb[at + 48 : at + 58])
        found[name] = deb[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    return found


@pytest.fixture(scope="module")
def root(deb, tmp_path_factory):
    """The package's files, unpacked."""
    import io
    import tarfile

    path = tmp_path_factory.mktemp("root")
    with tarfile.open(fileobj=io.BytesIO(members(deb)["data.tar"])) as archive:
        archive.extractall(path, filter="tar")
    return path


def test_the_package_has_the_hash_the_project_file_names(deb):
    spec = parse_base(load_yaml(QUICKSTART / "imagekit.yaml").mapping()["base"])
    assert isinstance(spec, BaseSpec)
    named = [artifact.sha256 for artifact in spec.artifacts if artifact.is_deb]
    assert named == [hashlib.sha256(deb).hexdigest()]


def test_the_package_does_not_depend_on_time_or_environment(deb, tmp_path):
    again = tmp_path / "y.deb"
    env = {"TZ": "Asia/Tokyo", "SOURCE_DATE_EPOCH": "1", "PYTHONHASHSEED": "7"}
    script = QUICKSTART / "make_standin.py"
    subprocess.run(
        [sys.executable, script, again], check=True, capture_output=True, env=env, cwd="/"
    )
    assert again.read_bytes() == deb


def test_the_package_is_a_deb_of_three_members(deb):
    found = members(deb)
    assert list(found) == ["debian-binary", "control.tar", "data.tar"]
    assert found["debian-binary"] == b"2.0\n"


@pytest.mark.integration("dpkg-deb")
def test_dpkg_reads_the_package(deb, tmp_path):
    (tmp_path / "x.deb").write_bytes(deb)
    fields = subprocess.run(
        ["dpkg-deb", "-f", tmp_path / "x.deb", "Package", "Version", "Provides"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert fields == "Package: gramine-standin\nVersion: 1.9\n"


def test_the_pal_is_an_elf_file_with_two_segments_and_says_that_it_is_none(root):
    from imagekit.enclave.standin import is_standin

    data = (root / "usr/lib/x86_64-linux-gnu/gramine/sgx/libpal.so").read_bytes()
    kind, machine = struct.unpack_from("<HH", data, 16)
    offset, count = struct.unpack_from("<Q", data, 32)[0], struct.unpack_from("<H", data, 56)[0]
    loads = [
        header
        for header in (struct.unpack_from("<IIQQQQQQ", data, offset + 56 * i) for i in range(count))
        if header[0] == 1
    ]
    assert (data[:4], kind, machine) == (b"\x7fELF", 3, 62)
    assert [header[1] for header in loads] == [5, 6]
    assert loads[1][6] > loads[1][5]  # bss
    assert 350_000 < len(data) < 450_000
    assert is_standin(data)


def manifest(folder, text, name="app.manifest.sgx"):
    (folder / name).write_text(text)
    (folder / "app.sig").write_bytes(b"")


def launch(root, folder, *arguments, program="gramine-sgx", env=None):
    return subprocess.run(
        [sys.executable, "-I", root / "usr/bin" / program, *arguments],
        cwd=folder,
        env={"SECRET": "1", "LET_IN": "2", "PYTHONHOME": "/nonexistent", **(env or {})},
        capture_output=True,
        text=True,
    )


PRINT_ENV = (
    'libos.entrypoint = "/usr/bin/env"\nloader.argv = ["env"]\nloader.env.A = "b c"\n'
    'loader.env.V = { value = "x" }\nloader.env.LET_IN = { passthrough = true }\n'
    "loader.env.ABSENT = { passthrough = true }\nloader.env.PYTHONHOME = { passthrough = false }\n"
)


def test_the_program_gets_the_manifests_environment_and_nothing_else(root, tmp_path):
    manifest(tmp_path, PRINT_ENV)
    done = launch(root, tmp_path, "app")
    assert done.returncode == 0
    assert sorted(done.stdout.split("\n")) == ["", "A=b c", "LET_IN=2", "V=x"]
    assert "THIS IS A STAND-IN" in done.stderr and "no enclave" in done.stderr


def test_the_host_environment_comes_in_only_when_the_manifest_says_so(root, tmp_path):
    manifest(tmp_path, PRINT_ENV + "loader.insecure__use_host_env = true\n")
    lines = launch(root, tmp_path, "app").stdout.split("\n")
    assert "SECRET=1" in lines and "A=b c" in lines and "PYTHONHOME=/nonexistent" not in lines


def test_the_generated_c_library_is_not_offered_to_native_programs(root, tmp_path):
    folder = "/usr/lib/x86_64-linux-gnu/gramine/runtime/glibc"
    manifest(tmp_path, PRINT_ENV + f'loader.env.LD_LIBRARY_PATH = "{folder}:/lib"\n')
    assert "LD_LIBRARY_PATH=/lib\n" in launch(root, tmp_path, "app").stdout


def test_arguments_come_from_a_file_of_words(root, tmp_path):
    (tmp_path / "argv").write_bytes(b"sh\0-c\0printf '%s|' \"$@\"\0x\0a b\0c\0")
    manifest(
        tmp_path, f'libos.entrypoint = "/bin/sh"\nloader.argv_src_file = "file:{tmp_path}/argv"\n'
    )
    assert launch(root, tmp_path, "app").stdout == "a b|c|"


def test_arguments_of_the_command_line_count_only_when_allowed(root, tmp_path):
    text = 'libos.entrypoint = "/bin/echo"\nloader.argv = ["echo", "sealed"]\n'
    manifest(tmp_path, text)
    assert launch(root, tmp_path, "app").stdout == "sealed\n"
    refused = launch(root, tmp_path, "app", "more")
    assert refused.returncode == 1 and "refused" in refused.stderr
    manifest(tmp_path, text + "loader.insecure__use_cmdline_argv = true\n")
    assert launch(root, tmp_path, "--", "app", "given").stdout == "given\n"


def test_gramine_direct_reads_the_unsigned_manifest(root, tmp_path):
    manifest(
        tmp_path, 'libos.entrypoint = "/bin/echo"\nloader.argv = ["echo", "d"]\n', "d.manifest"
    )
    assert launch(root, tmp_path, "d", program="gramine-direct").stdout == "d\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot read app.manifest.sgx"),
        ("x = [", "is no manifest"),
        ("x = 1", "no libos.entrypoint"),
        ('libos.entrypoint = "/nonexistent"', "cannot run /nonexistent"),
    ],
)
def test_an_unusable_manifest_is_refused_in_one_line(root, tmp_path, text, said):
    if text is not None:
        manifest(tmp_path, text)
    done = launch(root, tmp_path, "app")
    assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr


def test_an_unsigned_manifest_is_refused(root, tmp_path):
    manifest(tmp_path, PRINT_ENV)
    (tmp_path / "app.sig").unlink()
    assert "not signed" in launch(root, tmp_path, "app").stderr


def test_exit_code_process_and_signals_are_the_programs_own(root, tmp_path):
    manifest(
        tmp_path,
        'libos.entrypoint = "/bin/sh"\n'
        "loader.argv = ['sh', '-c', 'trap \"exit 43\" TERM; echo $$; while :; do :; done']\n",
    )
    command = [sys.executable, "-I", root / "usr/bin/gramine-sgx", "app"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert int(process.stdout.readline()) == process.pid
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(timeout=20) == 43
    manifest(tmp_path, 'libos.entrypoint = "/bin/sh"\nloader.argv = ["sh", "-c", "exit 7"]\n')
    assert launch(root, tmp_path, "app").returncode == 7
