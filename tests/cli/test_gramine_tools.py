"""The drop-in tools against what the stock tools gave for the same inputs."""

import io
import json
import os
import stat
from pathlib import Path

import pytest
from conftest import error_lines

GRAMINE = Path(__file__).parent.parent / "golden" / "gramine"
CASES = sorted(path.name for path in GRAMINE.iterdir() if path.is_dir())
PINNED = (
    'loader.entrypoint.uri = "file:/opt/gramine/libsysdb.so"\n'
    f'loader.entrypoint.sha256 = "{"0" * 64}"\n'
    'fs.mounts = [ { path = "/a", uri = "file:/a" } ]\n'
)
NEGATIVE = json.loads((GRAMINE / "negative.json").read_text())


def prepare(name, folder, tree_of):
    case = GRAMINE / name
    expected = json.loads((case / "expected.json").read_text())
    flags = ["--gramine-version", "1.3"] if expected["gramine_version"] == "1.3.1" else []
    if expected.get("files"):
        tree_of(expected["files"], folder / "files")
    if expected.get("chroot"):
        flags += ["--chroot", tree_of(expected["chroot"], folder / "root")]
    (folder / "app.manifest.template").write_bytes((case / "app.manifest.template").read_bytes())
    return case, expected, flags


def defines_of(values):
    return [f"-D{key}={value}" for key, value in values.items()]


@pytest.mark.parametrize("name", CASES)
def test_output_equals_the_stock_tools(name, in_folder, tree_of, imagekit, golden_key):
    case, expected, flags = prepare(name, in_folder, tree_of)
    defines = defines_of(json.loads((case / "defines.json").read_text()))

    code, _, err = imagekit(
        "tool", "gramine-manifest", *flags, *defines, "app.manifest.template", "app.manifest"
    )
    assert code == 0, err
    assert (in_folder / "app.manifest").read_bytes() == (case / "app.manifest").read_bytes()

    # fmt: off
    code, out, err = imagekit(
        "tool", "gramine-sgx-sign", *flags, "-m", "app.manifest", "-o", "app.manifest.sgx",
        "-l", GRAMINE / expected["libpal"], "-k", golden_key, "-d", expected["date"],
        "--depfile", "app.d",
    )
    # fmt: on
    assert code == 0, err
    sgx = in_folder / "app.manifest.sgx"
    assert sgx.read_bytes() == (case / "app.manifest.sgx").read_bytes()
    assert (in_folder / "app.sig").read_bytes() == (case / "app.sig").read_bytes()
    assert expected["mr_enclave"] in out
    depfile = (in_folder / "app.d").read_text()
    assert depfile.startswith("app.manifest.sgx app.sig:")
    assert "app.manifest" in depfile
    assert str(GRAMINE / expected["libpal"]) in depfile


@pytest.mark.parametrize("case", NEGATIVE["cases"], ids=lambda case: case["name"])
def test_what_the_stock_tools_refuse_or_should_is_refused_in_two_lines(
    case, in_folder, imagekit, golden_key
):
    from conftest import make_tree

    if case["files"]:
        make_tree(case["files"], in_folder / "files")
    (in_folder / "app.manifest.template").write_text(case["template"])
    made = "app.manifest.template", "app.manifest"
    code, _, err = imagekit("tool", "gramine-manifest", *defines_of(case["defines"]), *made)
    stock = case["gramine-manifest"]["exit_code"]
    if stock or not case.get("gramine-sgx-sign", {}).get("exit_code"):
        assert (code != 0) == (stock != 0), err
    if code:
        error_lines(err)
        assert not (in_folder / "app.manifest").exists()
        code, _, err = imagekit("tool", "gramine-manifest", "--no-check", *made)
        assert (code != 0) == (
            case.get("gramine-manifest --no-check", {"exit_code": 0})["exit_code"] != 0
        ), err
        if code:
            error_lines(err)
            return
    # fmt: off
    sign = (
        "tool", "gramine-sgx-sign", "-m", "app.manifest", "-o", "app.manifest.sgx",
        "-l", GRAMINE / NEGATIVE["libpal"], "-k", golden_key, "-d", NEGATIVE["date"],
    )
    # fmt: on
    code, _, err = imagekit(*sign)
    assert code == 6, err
    error_lines(err)
    assert not list(in_folder.glob("app.sig*")) + list(in_folder.glob("app.manifest.sgx"))

    code, out, err = imagekit(*sign, "--permissive")
    if case["gramine-sgx-sign"]["exit_code"] == 0:
        assert code == 0, err
        assert "warning:" in err
        assert case["mr_enclave"] in out
    else:
        assert code == 6, err
        error_lines(err)


def test_nothing_is_written_unless_everything_can_be(in_folder, imagekit, golden_key):
    case = GRAMINE / "n14-defaults"
    (in_folder / "app.manifest").write_bytes((case / "app.manifest").read_bytes())
    pal = GRAMINE / json.loads((case / "expected.json").read_text())["libpal"]
    sign = "tool", "gramine-sgx-sign", "-m", "app.manifest", "-l", pal, "-k", golden_key
    for wrong in (
        ("-o", "none/x"),
        ("-o", "x", "-s", "none/y"),
        ("-o", "x", "--depfile", "none/z"),
    ):
        code, _, err = imagekit(*sign, *wrong)
        assert code == 3
        error_lines(err)
        assert [path.name for path in in_folder.iterdir()] == ["app.manifest"]


def test_templates_from_text_and_standard_input(in_folder, imagekit, monkeypatch):
    case = GRAMINE / "n14-defaults"
    template = (case / "app.manifest.template").read_text()
    wanted = (case / "app.manifest").read_text()
    assert imagekit("tool", "gramine-manifest", "-c", template)[1] == wanted
    assert imagekit("tool", "gramine-manifest", "-c", template, "out")[0] == 0
    assert (in_folder / "out").read_text() == wanted
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(template.encode()), "latin1"))
    assert imagekit("tool", "gramine-manifest", "-")[1] == wanted
    for wrong in ((), ("-c", "x", "a", "b"), ("none.template",)):
        code, _, err = imagekit("tool", "gramine-manifest", *wrong)
        assert code in (2, 3)
        error_lines(err)


def test_a_template_on_standard_input_is_utf_8_whatever_the_locale(imagekit, monkeypatch):
    template = PINNED + 'libos.entrypoint = "/ü"\n'
    for encoding in ("latin1", "utf-8"):
        stdin = io.TextIOWrapper(io.BytesIO(template.encode()), encoding)
        monkeypatch.setattr("sys.stdin", stdin)
        code, out, err = imagekit("tool", "gramine-manifest", "-")
        assert code == 0, err
        assert 'entrypoint = "/ü"' in out
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff"), "latin1"))
    code, _, err = imagekit("tool", "gramine-manifest", "-")
    assert code == 3
    assert "stdin: not UTF-8" in error_lines(err)[0]


@pytest.mark.parametrize(
    "line",
    [
        'sys.stack.size = "512k"',
        'sys.brk.max_size = "1m"',
        'fs.mounts = [ { type = "tmpfs", path = "/tmp", uri = "anything" } ]',
        'sgx.trusted_files = [ { uri = "file:/x", sha256 = "' + "AB" * 32 + '" } ]',
    ],
)
def test_what_a_loader_takes_is_signed(in_folder, imagekit, golden_key, line):
    template = PINNED.replace('fs.mounts = [ { path = "/a", uri = "file:/a" } ]\n', "")
    mounts = "" if line.startswith("fs.") else 'fs.mounts = [ { path = "/a", uri = "file:/a" } ]\n'
    template = f'libos.entrypoint = "/a"\n{template}{mounts}{line}\n'
    render = "tool", "gramine-manifest", "-D", "x-y=1", "-c", template, "app.manifest"
    code, _, err = imagekit(*render)
    assert code == 0, err
    sign = "tool", "gramine-sgx-sign", "-m", "app.manifest", "-o", "x", "-k", golden_key
    code, _, err = imagekit(*sign, "-l", GRAMINE / "two-seg.elf")
    assert code == 0, err


def test_devices_and_links_are_written_to_not_replaced(in_folder, imagekit, golden_key):
    (in_folder / "real").write_text("before")
    (in_folder / "link").symlink_to("real")
    os.mkfifo(in_folder / "pipe")
    reader = os.open(in_folder / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    template = PINNED + 'libos.entrypoint = "/a"\n'
    for target in ("link", "pipe", "/dev/null"):
        code, _, err = imagekit("tool", "gramine-manifest", "-c", template, target)
        assert code == 0, err
    assert (in_folder / "link").is_symlink()
    assert "entrypoint" in (in_folder / "real").read_text()
    assert b"entrypoint" in os.read(reader, 10_000)
    os.close(reader)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


@pytest.mark.parametrize("size", ["99999999999999G", "0xffffffffffffffffff000"])
def test_absurd_sizes_are_refused_even_by_permission(in_folder, imagekit, golden_key, size):
    text = (
        PINNED + f'libos.entrypoint = "/a"\nsgx.edmm_enable = true\nsgx.enclave_size = "{size}"\n'
    )
    (in_folder / "app.manifest").write_text(text)
    sign = "tool", "gramine-sgx-sign", "-m", "app.manifest", "-o", "x", "-k", golden_key
    code, _, err = imagekit(*sign, "-l", GRAMINE / "two-seg.elf", "--permissive")
    assert code == 6
    assert "sgx.enclave_size" in error_lines(err)[0]


def test_the_passphrase_options(in_folder, imagekit):
    from imagekit.signing.keyfile import generate_key

    case = GRAMINE / "n14-defaults"
    (in_folder / "app.manifest").write_bytes((case / "app.manifest").read_bytes())
    (in_folder / "pass").write_text("open sesame")
    generate_key(in_folder / "k.pem", b"open sesame")
    pal = GRAMINE / json.loads((case / "expected.json").read_text())["libpal"]
    sign = "tool", "gramine-sgx-sign", "-m", "app.manifest", "-o", "x", "-l", pal, "-k", "k.pem"
    assert imagekit(*sign, "--passphrase-file", "pass")[0] == 0
    first = (in_folder / "app.sig").read_bytes()
    code, out, err = imagekit(*sign, "-p", "open sesame")
    assert code == 0
    assert "command line" in err
    assert "open sesame" not in out + err
    assert (in_folder / "app.sig").read_bytes()[128:512] == first[128:512]
