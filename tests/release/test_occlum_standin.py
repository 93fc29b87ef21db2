"""The stand-in for Occlum's commands makes what imagekit and Occlum's own rules expect of them."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml
from conftest import GOLDEN
from hypothesis import strategies as st
from occlum_parts import VERSIONS, library, template, toolchain_environment, write_toolchain

from imagekit.enclave.occlum.built import layout_findings, sigstruct_findings, xml_findings
from imagekit.enclave.occlum.chain import InstanceParts, check_chain
from imagekit.enclave.occlum.config import read_occlum_config
from imagekit.enclave.occlum.enclave_xml import enclave_config, enclave_xml
from imagekit.enclave.occlum.versions import occlum_version
from imagekit.enclave.sdk.signed import read_enclave
from imagekit.enclave.standin import is_standin
from imagekit.release.sdk_enclave import measure_enclave
from imagekit.release.sgx_sign import make_ready
from imagekit.render.yaml_text import to_yaml

sys.path.append(str(Path(__file__).parent.parent / "occlum_standin"))
import bom_yaml
import occlum_config

SIGNED = "build/lib/libocclum-libos.signed.so"
KEY = GOLDEN / "sgx-sdk" / "test-only-signing-key.pem"
OTHER_KEY = GOLDEN / "gramine" / "test-only-enclave-key.pem"
as_root = pytest.mark.integration("sh", root=True)


@dataclass
class Instance:
    """An instance in a folder of its own."""

    folder: Path
    toolchain: Path

    def call(self, *words: object, fails: bool = False, **more: str) -> str:
        """Run a command; gives both of its outputs."""
        done = subprocess.run(
            [str(word) for word in words],
            cwd=self.folder,
            env=toolchain_environment(self.toolchain, more),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert (done.returncode != 0) == fails, done.stdout
        assert "Traceback" not in done.stdout, done.stdout
        return done.stdout

    def build(self, *words: object, **more: str) -> str:
        """Build; gives mr_enclave."""
        self.call("occlum", "build", *words, **more)
        return self.mr_enclave

    def measure(self, *words: object, **more: str) -> str:
        """Build without a signature, which takes long; gives mr_enclave."""
        tool = self.write("sign", '#!/bin/sh\ncp "$7" "$9"\n', 0o755)
        self.call("occlum", "build", "--sign-tool", tool, *words, **more)
        xml = self.read("build/Enclave.xml")
        return make_ready(self.read(SIGNED), SIGNED, xml).measurement.mr_enclave.hex()

    @property
    def mr_enclave(self) -> str:
        """As imagekit measures it."""
        return measure_enclave(read_enclave(self.read(SIGNED), SIGNED)).mr_enclave.hex()

    @property
    def document(self) -> dict[str, Any]:
        """Its Occlum.json."""
        return json.loads(self.read("Occlum.json"))

    def change(self, path: str, value: object) -> None:
        """Set a key of its Occlum.json."""
        document = self.document
        *folders, name = path.split(".")
        table = document
        for folder in folders:
            table = table[folder]
        table[name] = value
        self.write("Occlum.json", json.dumps(document))

    def read(self, path: str) -> bytes:
        return (self.folder / path).read_bytes()

    def write(self, path: str, content: str | bytes, mode: int = 0o644) -> Path:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())
        target.chmod(mode)
        return target

    def files(self) -> dict[str, bytes | str]:
        """What is in its folder: content, or target of a link."""
        found = {}
        for path in sorted(self.folder.rglob("*")):
            name = str(path.relative_to(self.folder))
            if path.is_symlink():
                found[name] = str(path.readlink())
            elif path.is_file():
                found[name] = path.read_bytes()
        return found


@pytest.fixture(scope="module")
def toolchains(tmp_path_factory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def make(version: str) -> Path:
        if version not in made:
            made[version] = write_toolchain(tmp_path_factory.mktemp("occlum") / version, version)
        return made[version]

    return make


@pytest.fixture(scope="module")
def initialised(toolchains, tmp_path_factory) -> Callable[[str], Path]:
    """Makes an instance of each version once."""
    made: dict[str, Path] = {}

    def make(version: str) -> Path:
        if version not in made:
            made[version] = tmp_path_factory.mktemp("instance")
            Instance(made[version], toolchains(version)).call("occlum", "init")
        return made[version]

    return make


@pytest.fixture
def new(initialised, toolchains, tmp_path) -> Callable[..., Instance]:
    """Makes initialised instances with a small tree."""

    def make(version: str = "0.29.7") -> Instance:
        folder = tmp_path / f"instance-{len(list(tmp_path.glob('instance-*')))}"
        shutil.copytree(initialised(version), folder, symlinks=True)
        instance = Instance(folder, toolchains(version))
        instance.write("image/bin/tool", "#!/bin/sh\n", 0o755)
        instance.write("image/data/small.txt", "small")
        instance.write("image/data/large.bin", bytes(range(256)) * 400)
        (folder / "image/data/link").symlink_to("small.txt")
        return instance

    return make


def rich(version: str) -> dict[str, Any]:
    """A document that sets all that a version knows."""
    document = template(version)
    number = tuple(map(int, version.split(".")))
    document["resource_limits"].update(user_space_size="1GB", kernel_space_heap_size=" 64 MB")
    document["resource_limits"]["max_num_of_threads"] = 5
    document["metadata"].update(product_id=7, version_number=3, debuggable=False, enable_kss=True)
    document["metadata"]["family_id"] = {"high": "0x1", "low": "0xFFFFFFFFFFFFFFFF"}
    document["metadata"]["ext_prod_id"] = {"high": "0xa", "low": "0x2"}
    document["entry_points"] = ["/opt/start", "/bin"]
    if number >= (0, 29, 5):
        document["resource_limits"]["kernel_space_heap_max_size"] = "128MB"
    if number >= (0, 30, 0):
        document["resource_limits"].update(user_space_max_size="2GB")
    if number >= (0, 30, 1):
        document["feature"].update(amx=2, pkru=1)
        document["metadata"]["disable_log"] = True
    elif number >= (0, 28, 0):
        document["metadata"]["pkru"] = 2
    return document


# -- what init makes


def test_init_makes_an_instance_once(toolchains, tmp_path):
    instance = Instance(tmp_path, toolchains("0.29.7"))
    instance.call("occlum", "init")
    assert instance.document == template("0.29.7")
    assert (instance.folder / "Occlum.json").stat().st_mode & 0o777 == 0o644
    assert instance.read(".__occlum_status") == b"initialized\n"
    assert instance.read("image/etc/hosts") == b"127.0.0.1   localhost\n"
    for name in ("bin", "lib64", "root", "host", "ext2", "opt/occlum/glibc/lib"):
        assert (instance.folder / "image" / name).is_dir()
    assert (instance.folder / "initfs").is_dir()
    assert "already" in instance.call("occlum", "init", fails=True)


def test_new_makes_a_folder(toolchains, tmp_path):
    instance = Instance(tmp_path, toolchains("0.29.7"))
    instance.call("occlum", "new", "a")
    assert (tmp_path / "a/image/bin").is_dir()
    assert "File exists" in instance.call("occlum", "new", "a", fails=True)


# -- what build makes


@pytest.mark.parametrize("version", VERSIONS)
def test_a_build_is_what_imagekit_expects_of_this_version(new, version):
    instance = new(version)
    instance.write("Occlum.json", json.dumps(rich(version)))
    instance.build("--sign-key", KEY, "--sgx-mode", "HW")
    known = occlum_version(version)
    config = read_occlum_config(instance.document, known)
    enclave = enclave_config(config)
    signed = read_enclave(instance.read(SIGNED), SIGNED)
    body = signed.enclave_sigstruct().body
    assert body.mr_enclave.hex() == instance.mr_enclave
    assert xml_findings(enclave, instance.read("build/Enclave.xml")) == ()
    assert sigstruct_findings(enclave, body) == ()
    assert layout_findings(enclave, signed.metadata) == ()
    parts = InstanceParts(
        signed,
        instance.read("build/.Occlum_sys.json.protected"),
        config,
        instance.read("build/mount/.ROOT_MAC"),
        instance.read("build/initfs/.ROOT_MAC"),
        instance.read("build/mount/__ROOT/metadata"),
        instance.read("build/initfs/__ROOT/metadata"),
    )
    assert [check.line for check in check_chain(parts) if check.state != "ok"] == []


def test_a_build_has_all_files(new):
    instance = new("0.29.7")
    instance.build()
    found = instance.files()
    for name in (
        *("build/image_config.json", "build/.Occlum_sys.json", "build/Enclave.xml", SIGNED),
        *("build/lib/libocclum-libos.so.0.29.7", "build/lib/libocclum-pal.so.0"),
        *("build/bin/occlum-run", "initfs/etc/image_config.json"),
    ):
        assert found[name], name
    assert found["build/lib/libocclum-libos.so.0"] == "libocclum-libos.so.0.29.7"
    assert found["build/lib/libocclum-libos.so"] == "libocclum-libos.so.0"
    assert json.loads(found["build/image_config.json"]) == {"image_type": "integrity-only"}
    assert (found[".sgx_mode"], found[".__occlum_status"]) == (b"HW\n", b"built\n")
    assert (instance.folder / "run/mount/__ROOT").is_dir()
    assert (instance.folder / "run/initfs/__ROOT").is_dir()
    assert is_standin(found[SIGNED])
    assert not is_standin(library("0.29.7", b"something else"))
    # The section holds 47 characters and a line end, and nothing else has changed but it.
    mac = found["build/lib/libocclum-libos.so.0.29.7"]
    before = library("0.29.7")
    changed = [at for at, byte in enumerate(before) if byte != mac[at]]
    assert mac[changed[0] : changed[0] + 48].endswith(b"\n")
    assert changed[-1] - changed[0] < 48


ORDER = [
    *("ProdID", "ISVSVN", "StackMaxSize", "StackMinSize", "HeapInitSize", "HeapMaxSize"),
    *("HeapMinSize", "TCSNum", "TCSMaxNum", "TCSMinPool", "TCSPolicy", "DisableDebug"),
    *("MiscSelect", "MiscMask", "ReservedMemMaxSize", "ReservedMemMinSize"),
    *("ReservedMemInitSize", "ReservedMemExecutable", "UserRegionSize", "EnableKSS"),
    *("ISVEXTPRODID_H", "ISVEXTPRODID_L", "ISVFAMILYID_H", "ISVFAMILYID_L", "PKRU", "AMX"),
]


def test_the_xml_has_the_elements_of_its_version_in_order():
    def elements(version: tuple[int, int, int], edmm: bool) -> list[str]:
        document = template(".".join(map(str, version)))
        xml = occlum_config.Config(document, version, edmm).enclave_xml()
        return [line.strip()[1:].partition(">")[0] for line in xml.splitlines()[1:-1]]

    region = [name for name in ORDER if name != "UserRegionSize"]
    assert elements((0, 31, 0), True) == ORDER
    assert elements((0, 31, 0), False) == region
    assert elements((0, 29, 7), True) == region[:-1]
    fixed = [name for name in region if name not in ("TCSMaxNum", "TCSMinPool")]
    assert elements((0, 28, 0), False) == fixed[:-1]
    assert elements((0, 27, 0), False) == fixed[:-2]


sizes = st.sampled_from(["4KB", "1MB", "64 MB", "300MB", "1GB", "2048MB", "20GB", "1TB"])


@hypothesis.given(
    version=st.sampled_from([*VERSIONS, "0.26.3", "0.29.5", "0.30.0"]),
    edmm=st.booleans(),
    limits=st.fixed_dictionaries(
        {
            "user_space_size": sizes,
            "kernel_space_heap_size": sizes,
            "kernel_space_stack_size": sizes,
            "max_num_of_threads": st.integers(1, 5000),
        },
        optional={
            "user_space_max_size": sizes,
            "kernel_space_heap_max_size": sizes,
            "init_num_of_threads": st.integers(1, 64),
        },
    ),
)
def test_limits_become_the_enclave_that_imagekit_expects(version, edmm, limits):
    """Two programs, written apart from the same table."""
    known = occlum_version(version)
    edmm = edmm and known.has_edmm
    document = template(version)
    if not known.has_edmm:
        limits = {n: v for n, v in limits.items() if n not in ("user_space_max_size",
                                                               "init_num_of_threads")}  # fmt: skip
    if known.number < (0, 29, 5):
        limits.pop("kernel_space_heap_max_size", None)
    document["resource_limits"] = limits
    try:
        config = read_occlum_config(document, known)
        expected = enclave_xml(enclave_config(config, edmm=edmm), known)
    except Exception as error:  # limits that contradict each other are refused before a build
        hypothesis.assume(type(error).__name__ != "UsageError")
        raise
    assert occlum_config.Config(document, known.number, edmm).enclave_xml() == expected


def test_two_builds_are_equal_whatever_clock_and_owner_say(new):
    first, second = new(), new()
    for path in sorted((second.folder / "image").rglob("*")):
        os.utime(path, (1, 1), follow_symlinks=False)
        if os.geteuid() == 0:
            os.chown(path, 12, 34, follow_symlinks=False)
    first.build()
    second.build()
    assert first.files() == second.files()
    again = first.files()
    first.build("-f")
    assert first.files() == again


CHANGES: dict[str, Callable[[Instance], object]] = {
    "a byte": lambda i: i.write("image/data/small.txt", "smalk"),
    "a byte of a large file": lambda i: i.write("image/data/large.bin", bytes(102400)),
    "a mode": lambda i: (i.folder / "image/data/small.txt").chmod(0o600),
    "a folder's mode": lambda i: (i.folder / "image/data").chmod(0o700),
    "a name": lambda i: (i.folder / "image/data/small.txt").rename(i.folder / "image/data/s"),
    "an empty folder": lambda i: (i.folder / "image/new").mkdir(),
    "a link": lambda i: (
        (i.folder / "image/data/link").unlink(),
        (i.folder / "image/data/link").symlink_to("large.bin"),
    ),
    "initfs": lambda i: i.write("initfs/etc/more", "x"),
    "a variable": lambda i: i.change("env.default", ["OCCLUM=no"]),
    "a name of the host's": lambda i: i.change("env.untrusted", []),
    "entry points": lambda i: i.change("entry_points", ["/data"]),
    "a process size": lambda i: i.change("process.default_heap_size", "33MB"),
    "a mount": lambda i: i.change("mount", i.document["mount"][:1]),
    "threads": lambda i: i.change("resource_limits.max_num_of_threads", 33),
    "user space": lambda i: i.change("resource_limits.user_space_size", "301MB"),
}


def test_what_is_measured_is_measured(new):
    plain = new().measure()
    found = {}
    for name, change in CHANGES.items():
        instance = new()
        change(instance)
        found[name] = instance.measure()
    assert len({plain, *found.values()}) == 1 + len(CHANGES), found


def test_what_is_only_signed_is_not_measured(new):
    instance = new()
    plain = instance.build()
    assert instance.measure() == plain
    instance.change("metadata.product_id", 9)
    instance.change("metadata.debuggable", False)
    instance.change("metadata.no_such_key", 1)  # as Occlum: silently ignored
    instance.change("resource_limits.user_space_sise", "1g")
    assert instance.build("--sign-key", OTHER_KEY) == plain


def test_without_a_tree_the_packed_one_stays(new):
    instance = new()
    plain = instance.build()
    shutil.rmtree(instance.folder / "image")
    shutil.rmtree(instance.folder / "initfs")
    assert instance.build() == plain
    assert "there is no image/" in instance.call("occlum", "build", "--force", fails=True)


def test_edmm_by_option_variable_and_document(new):
    instance = new("0.31.0")
    plain = instance.measure()
    grown = instance.measure("--enable-edmm", "Y")
    assert b"UserRegionSize" in instance.read("build/Enclave.xml")
    assert grown != plain
    assert instance.measure(ENABLE_EDMM="yes") == grown
    assert instance.measure("--enable-edmm", "N", ENABLE_EDMM="yes") == plain
    assert instance.measure(ENABLE_EDMM="on") == plain
    instance.change("feature.enable_edmm", True)
    assert instance.measure("--enable-edmm", "N") == grown


# -- how build fails


@pytest.mark.parametrize("text", ["1g", "1.5GB", "1024", "1G", "", "-1GB", "GB"])
def test_a_bad_size_leaves_empty_files(new, text):
    instance = new()
    instance.build()
    instance.change("resource_limits.user_space_size", text)
    said = instance.call("occlum", "build", fails=True)
    assert "gen_internal_conf: user_space_size: " in said
    assert ("No unit" in said) == (text in ("1g", "1024", "1G", ""))
    assert "make: *** " in said
    assert instance.read("build/Enclave.xml") == instance.read("build/.Occlum_sys.json") == b""
    assert not (instance.folder / SIGNED).exists()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("env", None),
        ("mount", []),
        ("metadata.debuggable", "yes"),
        ("metadata.family_id", {"high": "0x0"}),
        ("resource_limits.max_num_of_threads", -1),
        ("mount", [{"type": "unionfs", "target": "/"}]),
        ("mount", [{"type": "ext2", "target": "/ext2"}]),
    ],
)
def test_other_bad_values_end_like_bad_sizes(new, path, value):
    instance = new()
    instance.change(path, value)
    assert "gen_internal_conf: " in instance.call("occlum", "build", fails=True)
    assert not (instance.folder / SIGNED).exists()


def test_from_0_30_1_features_are_required():
    document = template("0.30.1")
    del document["feature"]
    with pytest.raises(occlum_config.BadConfig, match="feature"):
        occlum_config.Config(document, (0, 30, 1))
    occlum_config.Config(document, (0, 30, 0))


def test_what_build_refuses(new, tmp_path):
    instance = new()
    for words, said in (
        (("--sgx-mod", "HW"), "Unknown option: --sgx-mod"),
        (("--sign-key",), "needs a value"),
        (("more",), "Unknown argument: more"),
        (("--enable-edmm", "Y"), "Unknown option: --enable-edmm"),
        (("--image-key", "k"), "no encrypted image"),
        (("--buildin-image-key",), "no encrypted image"),
        (("--sgx-mode", "SIM"), "libocclum-libos_sim.so"),
        (("--sgx-mode", "hw"), "invalid SGX mode"),
        (("--sign-key", "none.pem"), "none.pem does not exist"),
        (("--sign-tool", "./none"), "./none: No such file"),
        (("--sign-tool", "/bin/false"), "make: *** "),
    ):
        assert said in instance.call("occlum", "build", *words, fails=True)
    instance.folder = tmp_path / "empty"
    instance.folder.mkdir()
    for command in ("build", "run", "status", "package"):
        assert "not an Occlum instance" in instance.call("occlum", command, fails=True)
    for words in ((), ("start",)):
        assert "usage" in instance.call("occlum", *words, fails=True)


def test_the_sdk_s_signing_tool_goes_before(new, tmp_path):
    instance = new()
    tool = instance.write("sdk/bin/x64/sgx_sign", "#!/bin/sh\necho the SDK signs; exit 3\n", 0o755)
    said = instance.call("occlum", "build", fails=True, SGX_SDK=str(tool.parent.parent.parent))
    assert "the SDK signs" in said
    assert "Error 3" in said


# -- print, status, package


def test_print_and_status(new):
    instance = new()
    assert "occlum build first" in instance.call("occlum", "print", "mrenclave", fails=True)
    assert instance.call("occlum", "status") == "initialized\n"
    mr_enclave = instance.build()
    sigstruct = read_enclave(instance.read(SIGNED), SIGNED).enclave_sigstruct()
    assert instance.call("occlum", "print", "mrenclave") == f"{mr_enclave}\n"
    assert instance.call("occlum", "print", "mrsigner") == f"{sigstruct.mr_signer.hex()}\n"
    assert instance.call("occlum", "status") == "built\n"


def test_package_takes_what_runs(new):
    instance = new()
    assert "occlum build first" in instance.call("occlum", "package", fails=True)
    instance.build()
    assert "debuggable" in instance.call("occlum", "package", fails=True)
    instance.call("occlum", "package", "--debug", "debug.tar.gz")
    instance.change("metadata.debuggable", False)
    instance.build()
    instance.call("occlum", "package")
    for name in ("debug", "occlum_instance"):
        with tarfile.open(instance.folder / f"{name}.tar.gz") as tar:
            names = set(tar.getnames())
        assert {f"{name}/{SIGNED}", f"{name}/build/mount/__ROOT/metadata"} <= names
        left_out = ("image", "build/Enclave.xml", "build/.Occlum_sys.json")
        assert not names & {f"{name}/{path}" for path in left_out}


# -- run


@pytest.fixture
def running(new) -> Instance:
    """An instance with a shell and a script in it."""
    instance = new()
    shell = os.path.realpath("/bin/sh")
    script = """#!/bin/sh
echo "$0 $# $PWD [$OCCLUM] [$EXAMPLE] [$OTHER]"
cat() { while read -r line; do echo "$line"; done; }
cat </data/small-link; echo gone >/dev/null; echo more >/tmp/x; cat </tmp/x
[ "$1" = kill ] && kill -TERM $$
exit 7
"""
    instance.write("hello", script, 0o755)
    instance.write("small", "the content\n")
    (instance.folder / "image/data/small-link").symlink_to("../data/small")
    bom = {
        "targets": [
            {"target": "/bin", "copy": [{"files": [{"name": shell, "rename": "sh"}, "hello"]}]},
            {"target": "/data", "copy": [{"files": ["small", {"name": shell, "rename": "out"}]}]},
        ]
    }
    instance.write("bom.yaml", to_yaml([bom]))
    instance.call("copy_bom", "-f", "bom.yaml", "--root", "image")
    instance.build()
    return instance


@as_root
def test_run_starts_a_program_with_the_enclave_s_tree_and_variables(running):
    command = ("occlum", "run", "/bin/hello", "one", "two words")
    said = running.call(*command, fails=True, EXAMPLE="from host", OTHER="o")
    lines = said.splitlines()
    assert lines[0] == "occlum stand-in: no enclave"
    assert lines[-3:] == ["/bin/hello 2 / [yes] [from host] []", "the content", "more"]
    done = subprocess.run(
        [*command], cwd=running.folder, env=toolchain_environment(running.toolchain)
    )
    assert done.returncode == 7
    done = subprocess.run(
        [*command[:3], "kill"], cwd=running.folder, env=toolchain_environment(running.toolchain)
    )
    assert done.returncode == 128 + 15
    assert "No such file" in running.call("occlum", "run", "/bin/none", fails=True)


@as_root
def test_a_file_of_the_tree_goes_before_the_host_s(running):
    script = "#!/bin/sh\nread -r line </etc/hosts; echo $line; [ -e /etc/shadow ] || echo none\n"
    running.write("image/bin/look", script, 0o755)
    running.write("image/etc/hosts", "127.0.0.2 inside\n")
    running.build()
    said = running.call("occlum", "run", "/bin/look")
    assert said.splitlines()[-2:] == ["127.0.0.2 inside", "none"]


@as_root
def test_run_takes_a_script_s_whole_first_line_for_its_interpreter(running):
    running.write("image/bin/odd", "#!/bin/sh -e\nexit 0\n", 0o755)
    running.write("image/bin/gone", "#!/bin/bash\nexit 0\n", 0o755)
    running.write("image/bin/fine", "#! /bin/sh\nexit 0\n", 0o755)
    running.build()
    assert "no interpreter '/bin/sh -e'" in running.call("occlum", "run", "/bin/odd", fails=True)
    assert "no interpreter '/bin/bash'" in running.call("occlum", "run", "/bin/gone", fails=True)
    running.call("occlum", "run", "/bin/fine")


@as_root
def test_run_holds_entry_points(running):
    for program in ("/data/out", "/binary", "bin/hello", "/bin/../data/out", "hello"):
        said = running.call("occlum", "run", program, fails=True)
        assert f"{program} is below none of the entry points /bin" in said
    running.change("entry_points", ["/data/out"])
    running.build()
    running.call("occlum", "run", "/data/out", "-c", "exit 0")
    assert "none of the entry" in running.call("occlum", "run", "/bin/hello", fails=True)


def first_with(instance: Instance, content: bytes) -> Path:
    """The packed file with this content."""
    folder = instance.folder / "build/mount/__ROOT"
    return next(p for p in sorted(folder.iterdir()) if content in p.read_bytes())


@as_root
@pytest.mark.parametrize("what", ["small", "large", "missing", "metadata", "config", "initfs"])
def test_run_refuses_what_was_changed(running, what):
    build = running.folder / "build"
    path = {
        "small": first_with(running, b"the content"),
        "large": first_with(running, bytes(range(256)) * 2),
        "missing": first_with(running, b"the content"),
        "metadata": build / "mount/__ROOT/metadata",
        "config": build / ".Occlum_sys.json.protected",
        "initfs": build / "initfs/__ROOT/metadata",
    }[what]
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    path.unlink() if what == "missing" else path.write_bytes(data)
    said = running.call("occlum", "run", "/bin/hello", fails=True)
    assert "the content" not in said
    assert ("No such file" if what == "missing" else "not the file that") in said


def test_run_needs_a_build(new):
    instance = new()
    assert "occlum build first" in instance.call("occlum", "run", "/bin/tool", fails=True)


# -- copy_bom


class Bom(Instance):
    """An instance that lists for copy_bom are tried on."""

    def copy(self, text: str, *words: object, fails: bool = False, **more: str) -> str:
        self.write("bom.yaml", text)
        words = ("-f", "bom.yaml", "--root", "image", *words)
        return self.call("copy_bom", *words, fails=fails, **more)

    def tree(self) -> dict[str, str]:
        """The tree: content of files, targets of links, "dir"."""
        found = {}
        for path in sorted((self.folder / "image").rglob("*")):
            name = str(path.relative_to(self.folder / "image"))
            if path.is_symlink():
                found[name] = f"-> {path.readlink()}"
            else:
                found[name] = "dir" if path.is_dir() else path.read_text()
        return found


@pytest.fixture
def bom(toolchains, tmp_path) -> Bom:
    bom = Bom(tmp_path, toolchains("0.29.7"))
    bom.write("src/a", "a", 0o755)
    bom.write("src/in/b", "b", 0o600)
    bom.write("src/in/deep/c.pyc", "c")
    bom.write("src/.git/x", "x")
    (tmp_path / "src/in/link").symlink_to("../a")
    (tmp_path / "src/in/dangling").symlink_to("/nowhere")
    (tmp_path / "image").mkdir()
    return bom


IN = {"b": "b", "dangling": "-> /nowhere", "deep": "dir", "deep/c.pyc": "c", "link": "-> ../a"}


def below(folder: str, entries: dict[str, str]) -> dict[str, str]:
    return {f"{folder}/{name}": value for name, value in entries.items()}


def test_targets_folders_and_links_are_made(bom):
    bom.copy("""\
targets:
  - target: /t   # always made
  - target: /path/to
    mkdirs: [a, b/c]
    createlinks: [{src: ../x, linkname: y}]
""")
    folders = ("t", "path", "path/to", "path/to/a", "path/to/b", "path/to/b/c")
    assert bom.tree() == {**dict.fromkeys(folders, "dir"), "path/to/y": "-> ../x"}


def test_folders_are_copied_with_links_and_a_slash_means_their_content(bom):
    bom.copy("""\
targets:
- target: /
  copy:
  - dirs: [src/in]
- target: /x
  copy:
  - from: src
    dirs: [in/]
""")
    assert bom.tree() == {"in": "dir", "x": "dir", **below("in", IN), **below("x", IN)}
    assert (bom.folder / "image/x/b").stat().st_mode & 0o777 == 0o600


def test_files_are_copied_with_links_followed(bom):
    sha256 = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"  # of "a"
    bom.copy(f"""\
targets:
  - target: /bin
    copy:
      - from: {bom.folder}/src
        files:
          - a
          - {{name: in/link, rename: "to a", hash: {sha256}, autodep: false}}
          - name: {bom.folder}/src/in/b
""")
    assert bom.tree() == {"bin": "dir", "bin/a": "a", "bin/to a": "a", "bin/b": "b"}
    assert os.access(bom.folder / "image/bin/a", os.X_OK)
    assert not (bom.folder / "image/bin/to a").is_symlink()


def test_neither_files_nor_folders_is_all_of_from(bom):
    bom.copy("targets: [{target: /all, copy: [{from: src/in}]}]")
    assert bom.tree() == {"all": "dir", **below("all", IN)}
    said = bom.copy("targets: [{target: /all, copy: [{}]}]", fails=True)
    assert "from is missing" in said


def test_excludes_are_for_folders_and_come_from_includes_too(bom):
    bom.write("boms/base.yaml", "excludes: [.git]\ntargets: [{target: /first}]\n")
    text = """\
includes: [base.yaml]
excludes: ["*.pyc", /in/dangling, deep/none, link/]
targets: [{target: /, copy: [{dirs: [src/], files: [src/in/deep/c.pyc]}]}]
"""
    assert "base.yaml" in bom.copy(text, fails=True)
    bom.copy(text, "--include-dir", "boms")
    folders = dict.fromkeys(("first", "in", "in/deep"), "dir")
    files = {"a": "a", "c.pyc": "c", "in/b": "b", "in/link": "-> ../a"}
    assert bom.tree() == {**folders, **files}


def test_variables_are_put_in(bom):
    text = "targets: [{target: /, copy: [{from: $TOP, files: ['${NAME}']}]}]"
    assert "no TOP" in bom.copy(text, fails=True)
    bom.copy(text, TOP=f"{bom.folder}/src", NAME="a")
    assert bom.tree() == {"a": "a"}


def test_it_only_adds(bom):
    bom.write("image/in/b", "old")
    bom.write("image/in/kept", "kept")
    bom.copy("targets: [{target: /, copy: [{dirs: [src/in]}]}]")
    assert bom.tree() == {"in": "dir", **below("in", {**IN, "kept": "kept"})}
    text = "targets: [{target: /in, createlinks: [{src: 'NEW', linkname: link}]}]"
    assert "is there already" in bom.copy(text, fails=True)
    bom.copy(text.replace("NEW", "../a"))


def test_links_of_the_tree_do_not_lead_out_of_it(bom):
    outside = bom.folder / "outside"
    outside.mkdir()
    for name, target in (("absolute", outside), ("up", "../../outside"), ("round", "round")):
        (bom.folder / "image" / name).symlink_to(target)
        text = f"targets: [{{target: /{name}/x, copy: [{{files: [src/a]}}]}}]"
        bom.copy(text, fails=name == "round")
    assert list(outside.iterdir()) == []
    assert (bom.folder / f"image{outside}/x/a").is_file()
    assert (bom.folder / "image/outside/x/a").is_file()


def test_a_dry_run_writes_nothing(bom):
    said = bom.copy("targets: [{target: /t, copy: [{dirs: [src]}]}]", "--dry-run")
    assert "src" in said
    assert bom.tree() == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("targets: [{target: /, copy: [{files: [src/none]}]}]", "no such file"),
        ("targets: [{target: /, copy: [{files: [src/in]}]}]", "no such file"),
        ("targets: [{target: /, copy: [{dirs: [src/none]}]}]", "no such folder"),
        ("targets: [{target: /, copy: [{dirs: [src/a]}]}]", "no such folder"),
        ("targets: [{target: /, copy: [{files: [{name: src/a, hash: aa}]}]}]", "its SHA-256"),
        ("targets: [{target: /, copy: [{files: [{rename: a}]}]}]", "name is missing"),
        ("targets: [{target: /, copies: []}]", "unknown key 'copies'"),
        ("targets: [{copy: []}]", "target is missing"),
        ("targets: {target: /}", "not what is expected"),
        ("targets: [{target: /, mkdirs: [[a]]}]", "is no text"),
        ("- a", "keys expected"),
        ("a: [", "line 1"),
        ("includes: [none.yaml]", "none.yaml"),
    ],
)
def test_what_copy_bom_refuses(bom, text, problem):
    assert problem in bom.copy(text, fails=True)


def test_its_options(bom):
    assert "unknown option" in bom.copy("", "--delete", fails=True)
    assert "-f is missing" in bom.call("copy_bom", "--root", "image", fails=True)
    assert "needs a value" in bom.call("copy_bom", "--root", fails=True)
    assert "No such file" in bom.call("copy_bom", "-f", "none", "--root", "image", fails=True)


LOADER = Path("/lib64/ld-linux-x86-64.so.2")
loads = pytest.mark.skipif(not LOADER.exists(), reason=f"this machine has no {LOADER}")


@loads
def test_libraries_come_along(bom):
    shell = os.path.realpath("/bin/sh")
    bom.copy(f"targets: [{{target: /bin, copy: [{{files: [{{name: {shell}, rename: sh}}]}}]}}]")
    found = {path.name for path in (bom.folder / "image").rglob("*") if path.is_file()}
    assert {"sh", "libc.so.6", LOADER.name} <= found
    assert (bom.folder / f"image{LOADER}").is_file()
    shutil.rmtree(bom.folder / "image")
    bom.copy(f"targets: [{{target: /, copy: [{{files: [{{name: {shell}, autodep: false}}]}}]}}]")
    assert [path.name for path in (bom.folder / "image").rglob("*")] == [Path(shell).name]
    shutil.rmtree(bom.folder / "image")
    shutil.copy(shell, bom.folder / "src/in/program")
    bom.copy("targets: [{target: /, copy: [{dirs: [src/in/]}]}]")
    assert (bom.folder / f"image{LOADER}").is_file()


@loads
def test_a_missing_library_is_an_error_for_files_and_a_warning_for_folders(bom):
    shell = Path(os.path.realpath("/bin/sh")).read_bytes()
    assert shell.count(b"libc.so.6") >= 1
    bom.write("src/in/odd", shell.replace(b"libc.so.6", b"libc.so.x"), 0o755)
    said = bom.copy("targets: [{target: /, copy: [{files: [src/in/odd]}]}]", fails=True)
    assert "libc.so.x not found" in said
    said = bom.copy("targets: [{target: /, copy: [{dirs: [src/in]}]}]")
    assert "warning: " in said
    assert "libc.so.x not found" in said


# -- the YAML of its lists


TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
NAMES = st.from_regex("[A-Za-z0-9_ #:-]{0,7}[A-Za-z]", fullmatch=True)
VALUES = st.recursive(
    TEXTS | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)


@hypothesis.given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_what_imagekit_writes_is_read(document):
    assert bom_yaml.parse(to_yaml([document]).decode("ascii")) == document


EXAMPLE = """\
---
includes: [base.yaml]          # searched in include dirs
excludes: [.git]
targets:
  - target: /path
    mkdirs: [a, b/c]
    createlinks: [{src: ../x, linkname: y}]
    copy:
      - from: /prefix # it's the default
        dirs:  [d, d/]

        files: [f, {name: f, hash: abc, autodep: false, rename: 'it''s # g'}]
  -
    target: "two \\"words\\" \\u00e9"
    copy:
    - dirs:
      - a#b
      - - nested
        - "x": y
          z:
"""


def test_an_example_is_read_as_by_others():
    assert bom_yaml.parse(EXAMPLE) == yaml.safe_load(EXAMPLE)
    assert bom_yaml.parse("") is None
    assert bom_yaml.parse("# nothing\n") is None


@pytest.mark.parametrize(
    "text",
    [
        *("a: &x b", "a: *x", "a: !!str b", "a: |\n  b", "a: >\n  b", "\ta: b", "a: b\n  c: d"),
        *("a: b\na: c", "a: [b", "a: {b: c", 'a: "b', "a: 'b", "a: b: c", "a: [b] c", "- a\nb: c"),
        *("a:\n  - b\n c: d", 'a: "\\q"', 'a: "\\u12"', "{a: b, a: c}", "a: [b,\n  c]", "a: ]"),
    ],
)
def test_other_yaml_is_refused(text):
    with pytest.raises(bom_yaml.YamlError, match=r"line [123]: "):
        bom_yaml.parse(text)
