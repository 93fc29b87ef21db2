"""The script that builds an instance, run with tools that do what they are told; its Dockerfile."""

import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from dockerfile_rules import lint, parse

from imagekit.errors import InputError
from imagekit.render.occlum import build_script
from imagekit.render.occlum_dockerfile import (
    BOM,
    CONFIG,
    LIBRARY,
    SCRIPT,
    OcclumImage,
    occlum_dockerfile,
)
from imagekit.render.pod_paths import REFUSED_PATHS
from imagekit.runtime.paths import APP, OCCLUM_INSTANCE

OUTPUTS = [
    "build/.Occlum_sys.json.protected",
    "build/Enclave.xml",
    "build/lib/libocclum-libos.signed.so",
]
OCCLUM = """\
#!/bin/sh
set -eu
echo "occlum $*" >>"$LOG"
umask >>"$LOG"
echo "$TZ $LC_ALL $SOURCE_DATE_EPOCH ${SGX_MODE-}${ENABLE_EDMM-}${OCCLUM_LOG_LEVEL-}" >>"$LOG"
case $1 in
init)
    mkdir -p image/etc image/tmp initfs run/mount/__ROOT
    echo "127.0.0.1   localhost" >image/etc/hosts
    echo "{}" >Occlum.json
    ;;
build)
    cat Occlum.json "$5" >>"$LOG"
    mkdir -p build/lib
    for path in .Occlum_sys.json.protected Enclave.xml lib/libocclum-libos.signed.so; do
        echo x >"build/$path"
    done
    echo HW >.sgx_mode
    ;;
esac
eval "${OCCLUM_DOES-}"
"""
COPY_BOM = """\
#!/bin/sh
set -eu
echo "copy_bom $*" >>"$LOG"
cat "$2" >>"$LOG"
cp "$ETC/hosts" "$ETC/passwd" "$ETC/nsswitch.conf" "$4/etc/"
eval "${COPY_BOM_DOES-}"
"""


class Machine:
    """A folder with tools, inputs, and the script; what differs from a container is its /etc."""

    def __init__(self, folder: Path, edmm: bool = False) -> None:
        self.folder = folder
        self.instance = folder / "instance"
        self.log = folder / "log"
        self.etc = folder / "app" / "etc"
        self.etc.mkdir(parents=True)
        self.env: dict[str, str] = {}
        for name in ("hosts", "passwd", "nsswitch.conf"):
            (self.etc / name).write_text(f"the launcher's {name}\n")
        (folder / "bin").mkdir()
        for name, text in (("occlum", OCCLUM), ("copy_bom", COPY_BOM)):
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        for name in ("config", "bom", "key"):
            (folder / name).write_text(f"this is the {name}\n")
        script = build_script(edmm)
        assert f"{APP}/etc/" in script
        self.script = folder / "build-instance.sh"
        self.script.write_text(script.replace(f"{APP}/etc/", f"{self.etc}/"))

    def arguments(self) -> list[str]:
        return [str(self.folder / name) for name in ("config", "bom", "key", "instance")]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        environment = {
            "PATH": f"{self.folder}/bin:/usr/bin:/bin",
            "LOG": str(self.log),
            "ETC": str(self.etc),
            "LC_ALL": "C",
            "TZ": "Asia/Tokyo",
            "SGX_MODE": "SIM",
            "ENABLE_EDMM": "Y",
            "OCCLUM_LOG_LEVEL": "trace",
            "SOURCE_DATE_EPOCH": "1700000000",
        }
        return subprocess.Popen(
            ["sh", str(self.script), *(arguments or self.arguments())],
            env=environment | self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            umask=0o077,
        )

    def run(self, *arguments: str) -> tuple[int, str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=60)
        assert out == "", "a build lists nothing"
        return process.returncode, err

    @property
    def logged(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path / "with blank")


@pytest.fixture(autouse=True)
def _folder(tmp_path):
    (tmp_path / "with blank").mkdir()


def test_a_build(machine):
    code, err = machine.run()
    assert (code, err) == (0, "")
    lines = machine.logged.splitlines()
    key, bom = machine.folder / "key", machine.folder / "bom"
    calls = [line for line in lines if line.startswith(("occlum ", "copy_bom "))]
    assert calls == [
        "occlum init",
        f"copy_bom -f {bom} --root image",
        f"occlum build --sgx-mode HW --sign-key {key}",
    ]
    assert lines.count("0022") == 2
    assert lines.count("UTC C.UTF-8 1700000000 ") == 2, "what the machine says changes nothing"
    assert "this is the config" in lines and "this is the bom" in lines
    assert "this is the key" in lines and not key.exists()
    assert not (machine.instance / "image").exists()
    assert (machine.instance / "initfs").is_dir()
    assert all((machine.instance / name).read_text() == "x\n" for name in OUTPUTS)
    assert (machine.instance / "run/mount/__ROOT").is_dir()
    assert (machine.instance / "Occlum.json").read_text() == "this is the config\n"


def test_no_key_is_left_anywhere(machine):
    machine.run()
    machine.log.unlink()
    for path in machine.folder.rglob("*"):
        assert not path.is_file() or "this is the key" not in path.read_text()


def test_edmm_is_asked_for(tmp_path):
    machine = Machine(tmp_path / "with blank", edmm=True)
    assert machine.run() == (0, "")
    assert f"--sign-key {machine.folder / 'key'} --enable-edmm Y" in machine.logged


def test_an_empty_folder_is_taken(machine):
    machine.instance.mkdir()
    assert machine.run() == (0, "")


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("does", ["rm -f build/Enclave.xml.none {}", ": >{}"])
def test_an_output_that_is_missing_or_empty_is_seen(machine, name, does):
    machine.env["OCCLUM_DOES"] = f'if [ "$1" = build ]; then {does.format(name)}; fi'
    code, err = machine.run()
    assert code == 1 and f"{name}: missing or empty after occlum build" in err
    assert not (machine.folder / "key").exists()
    assert (machine.instance / "image").exists(), "for looking at"


@pytest.mark.parametrize("step", ["init", "build"])
def test_what_a_tool_says_and_its_code_come_through(machine, step):
    machine.env["OCCLUM_DOES"] = f'if [ "$1" = {step} ]; then echo broken >&2; exit 7; fi'
    code, err = machine.run()
    assert (code, err) == (7, "broken\n")
    assert not (machine.folder / "key").exists()


def test_a_failing_copy_bom_ends_it(machine):
    machine.env["COPY_BOM_DOES"] = "echo no such file >&2; exit 3"
    code, err = machine.run()
    assert (code, err) == (3, "no such file\n")
    assert "occlum build" not in machine.logged


@pytest.mark.parametrize("mode", ["SIM", "HYPER"])
def test_a_build_that_is_not_for_hardware_is_refused(machine, mode):
    machine.env["OCCLUM_DOES"] = f"echo {mode} >.sgx_mode"
    code, err = machine.run()
    assert code == 1 and f"built for {mode}, not for hardware" in err


MADE = {
    "file": 'mkdir -p "{folder}"; echo x >"{path}"',
    "folder": 'mkdir -p "{path}"; echo x >"{path}/x"',
    "link": 'mkdir -p "{folder}"; rm -rf "{path}"; ln -s /nowhere "{path}"',
}


@pytest.mark.parametrize("path", sorted(REFUSED_PATHS))
@pytest.mark.parametrize("kind", sorted(MADE))
def test_what_belongs_to_a_pod_never_gets_into_the_tree(machine, path, kind):
    names = {"path": f"image{path}", "folder": str(Path(f"image{path}").parent)}
    machine.env["COPY_BOM_DOES"] = MADE[kind].format(**names)
    code, err = machine.run()
    assert code == 1 and f"{path}: belongs to one pod or machine" in err
    assert "occlum build" not in machine.logged


def test_what_is_empty_belongs_to_nobody(machine):
    account = "image/var/run/secrets/kubernetes.io/serviceaccount"
    machine.env["COPY_BOM_DOES"] = f": >image/etc/resolv.conf; mkdir -p {account}"
    assert machine.run() == (0, "")


@pytest.mark.parametrize("name", ["hosts", "passwd", "nsswitch.conf"])
@pytest.mark.parametrize("does", ["echo 10.0.0.1 pod-7 >image/etc/{}", "rm image/etc/{}"])
def test_the_tree_has_the_launchers_own_etc(machine, name, does):
    machine.env["COPY_BOM_DOES"] = does.format(name)
    code, err = machine.run()
    assert code == 1 and f"/etc/{name}: not the launcher's" in err


@pytest.mark.parametrize("name", ["config", "bom", "key"])
@pytest.mark.parametrize("empty", [True, False])
def test_a_missing_input_is_named(machine, name, empty):
    path = machine.folder / name
    path.write_text("") if empty else path.unlink()
    code, err = machine.run()
    assert code == 2 and f"{path}: missing or empty" in err
    assert machine.logged == "" and not machine.instance.exists()


def test_wrong_calls(machine):
    assert machine.run("/x")[0] == 2
    assert machine.run(*machine.arguments(), "/more")[0] == 2
    for number in range(4):
        arguments = machine.arguments()
        arguments[number] = "relative"
        code, err = machine.run(*arguments)
        assert code == 2 and "relative: not an absolute path" in err
    assert machine.logged == "" and (machine.folder / "key").exists()


@pytest.mark.parametrize("made", ["file", "full", "link", "dangling"])
def test_an_instance_that_is_there_already_is_left_alone(machine, made):
    other = machine.folder / "other"
    other.mkdir()
    if made == "file":
        machine.instance.write_text("x")
    elif made == "full":
        machine.instance.mkdir()
        (machine.instance / ".hidden").write_text("x")
    else:
        machine.instance.symlink_to(other if made == "link" else "/nowhere")
    code, err = machine.run()
    assert code == 1 and "there already" in err
    assert machine.logged == "" and not list(other.iterdir())


@pytest.mark.parametrize("tool", ["occlum", "copy_bom"])
def test_a_base_without_the_tools_is_told_apart(machine, tool):
    (machine.folder / "bin" / tool).unlink()
    code, err = machine.run()
    assert code == 127 and f"{tool}: not in this image" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_takes_the_key_along(machine, number):
    machine.env["OCCLUM_DOES"] = 'if [ "$1" = build ]; then sleep 1; fi'
    process = machine.start()
    deadline = time.monotonic() + 30
    while "occlum build" not in machine.logged and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert not (machine.folder / "key").exists()


def test_it_is_a_script_of_any_posix_shell():
    for edmm in (False, True):
        text = build_script(edmm)
        assert text.startswith("#!/bin/sh\n") and "\nset -eu\n" in text and text.endswith("\n")
        assert text.isascii() and "{{" not in text and "{%" not in text
        for shell in ("sh", "dash", "bash"):
            if shutil.which(shell):
                subprocess.run([shell, "-n"], input=text, text=True, check=True)
        if shutil.which("shellcheck"):
            subprocess.run(["shellcheck", "-"], input=text, text=True, check=True)


# -- the Dockerfile

DIGEST = "bb" * 32
IMAGE = OcclumImage(
    title="registry.example/team/x-occlum-reference-16g",
    version="1.0",
    cell="occlum-16g-error-dcap",
    base=f"registry.example/team/x-occlum-base:1.0@sha256:{DIGEST}",
    paths=(f"{APP}/launcher.pyz", "/opt/entrypoint.sh", f"{APP}/etc/hosts"),
    signed=False,
    epoch=1704067200,
    env={"OCCLUM_LOG_LEVEL": "error"},
    labels={"io.imagekit.epc": "16g"},
    user="1000",
    entrypoint=("/opt/entrypoint.sh",),
)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("user", [None, "1000"])
def test_the_dockerfile_keeps_all_rules(signed, user):
    image = replace(IMAGE, signed=signed, user=user)
    text = occlum_dockerfile(image)
    assert lint(text, user=user is not None) == []
    assert text.endswith("\n") and "\n\n\n" not in text
    assert text == occlum_dockerfile(
        replace(IMAGE, signed=signed, user=user, paths=IMAGE.paths[::-1])
    )


def test_the_key_comes_and_goes_in_one_command():
    lines, _ = parse(occlum_dockerfile(IMAGE))
    with_key = [line for line in lines if "key.pem" in line.rest]
    assert len(with_key) == 1 and with_key[0].name == "RUN" and with_key[0].stage == 0
    words = with_key[0].rest.split()
    assert words[:7] == ["openssl", "genrsa", "-3", "-out", "/imagekit/key.pem", "3072", "&&"]
    assert words[7:] == [
        *("SOURCE_DATE_EPOCH=1704067200", "/bin/sh", "/imagekit/build-instance.sh"),
        *("/imagekit/Occlum.json", "/imagekit/bom.yaml", "/imagekit/key.pem", OCCLUM_INSTANCE),
    ]
    copied = [line.rest for line in lines if line.name == "COPY"]
    assert f"{CONFIG} {BOM} {SCRIPT} /imagekit/" in copied


def test_the_signed_enclave_takes_the_place_of_the_other_one():
    unsigned, _ = parse(occlum_dockerfile(IMAGE))
    assert not any(f"rootfs{LIBRARY}" in line.rest for line in unsigned)
    signed, _ = parse(occlum_dockerfile(replace(IMAGE, signed=True, paths=(*IMAGE.paths, LIBRARY))))
    copies = [line.rest for line in signed if line.name == "COPY" and line.stage == 1]
    instance = f"--from=instance {OCCLUM_INSTANCE} {OCCLUM_INSTANCE}/"
    library = f"rootfs{LIBRARY} {LIBRARY.rpartition('/')[0]}/"
    assert copies.index(instance) + 1 == copies.index(library)
    assert not any(LIBRARY in line.rest for line in signed if line.stage == 0)


def test_the_reader_is_told_whose_signature_it_is():
    assert "signature of a key that is gone" in occlum_dockerfile(IMAGE)
    assert "signed already" in occlum_dockerfile(replace(IMAGE, signed=True))


def test_what_is_packaged_stays_and_nothing_else(tmp_path):
    """The command that takes the rest away, run on what a build leaves."""
    instance = tmp_path / "instance"
    kept = [
        *("Occlum.json", ".sgx_mode", "build/bin/occlum-run", "build/mount/__ROOT/metadata"),
        *("build/initfs/.ROOT_MAC", "build/.Occlum_sys.json.protected"),
        *("build/lib/libocclum-libos.signed.so", "build/lib/libocclum-pal.so.0"),
        *("build/lib/libocclum-pal.so.0.29.7", "run/mount/__ROOT/.keep"),
    ]
    gone = [
        *("build/.Occlum_sys.json", "build/Enclave.xml", "build/image_config.json"),
        *("build/lib/libocclum-libos.so.0", "build/lib/libocclum-libos.so.0.29.7"),
    ]
    for name in kept + gone:
        path = instance / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    lines, _ = parse(occlum_dockerfile(IMAGE))
    (command,) = [line.rest for line in lines if line.name == "RUN" and "find build" in line.rest]
    subprocess.run(["sh", "-c", command], cwd=instance, check=True)
    found = {str(path.relative_to(instance)) for path in instance.rglob("*") if path.is_file()}
    assert found == set(kept)


@pytest.mark.parametrize(
    "image", [replace(IMAGE, title="a\nRUN evil"), replace(IMAGE, env={"A": "x\ry"})]
)
def test_what_no_dockerfile_can_hold_is_refused(image):
    with pytest.raises(InputError, match="cannot stand in a Dockerfile"):
        occlum_dockerfile(image)
