"""A toolchain with the names and places of Occlum's, for tests: no enclave of it ever runs.

Where Occlum cannot be had, ``occlum`` and ``copy_bom`` are the scripts of ``occlum_standin``, the
library OS is made by ``sdk_enclaves`` and says that it is a stand-in, and the signing tool is
imagekit's own. ``write_toolchain`` puts them into a folder of this machine, ``occlum_base`` into an
image that a container engine can build instances in.
"""

import functools
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conftest import GOLDEN, JAVA, base_files
from python_base import ROOT, TEST_CACHE, command, python_root, tool_files, with_layer
from sdk_enclaves import make_enclave, section_range

from imagekit.enclave.standin import MARK
from imagekit.images.cache import Cache
from imagekit.images.compose import append
from imagekit.images.layers import LayerFile, write_layer
from imagekit.images.layout import OciLayout
from imagekit.images.oci import Image
from imagekit.images.rootfs import Rootfs

OCCLUM = "/opt/occlum"
BINARIES = f"{OCCLUM}/build/bin"
SDK = "/opt/intel/sgxsdk"
VERSIONS = ("0.28.0", "0.29.0", "0.29.7", "0.30.1", "0.31.0")
"""One version of each set of rules, and the one of BigDL."""

_DOORS = {"copy_bom": "bom_copy", "occlum": "occlum_commands", "occlum-run": "occlum_start"}
"""The commands, with the modules that are behind them."""
_BESIDE = ("protected_files.py", "sdk_enclaves.py")
_LOADER = "/lib64/ld-linux-x86-64.so.2"
_LIBRARIES = "/usr/lib/x86_64-linux-gnu:/lib/x86_64-linux-gnu"
_ENVIRONMENT = f"export SGX_SDK={SDK}\nexport PATH=$PATH:$SGX_SDK/bin/x64\n"


def library(version: str, mark: bytes = MARK) -> bytes:
    """The library OS of a version: an unsigned enclave, with the mark of stand-ins in its code."""
    data = bytearray(make_enclave())
    start, _ = section_range(bytes(data), ".text")
    text = mark + b", Occlum " + version.encode() + b"\0"
    data[start + 64 : start + 64 + len(text)] = text
    return bytes(data)


def template(version: str) -> dict[str, Any]:
    """``Occlum.json`` as ``occlum init`` of a version leaves it."""
    number = tuple(map(int, version.split(".")))
    metadata: dict[str, Any] = {
        "product_id": 0,
        "version_number": 0,
        "debuggable": True,
        "enable_kss": False,
        "family_id": {"high": "0x0", "low": "0x0"},
        "ext_prod_id": {"high": "0x0", "low": "0x0"},
    }
    document: dict[str, Any] = {
        "resource_limits": {
            "user_space_size": "300MB",
            "kernel_space_heap_size": "32MB",
            "kernel_space_stack_size": "1MB",
            "max_num_of_threads": 32,
        },
        "process": {
            "default_stack_size": "4MB",
            "default_heap_size": "32MB",
            "default_mmap_size": "100MB",
        },
        "entry_points": ["/bin"],
        "env": {"default": ["OCCLUM=yes"], "untrusted": ["EXAMPLE"]},
        "metadata": metadata,
        "mount": _mounts(number < (0, 29, 6)),
    }
    if (0, 28, 0) <= number < (0, 30, 1):
        metadata["pkru"] = 0
    if number[:3] == (0, 30, 0):
        metadata["amx"] = 0
    if number >= (0, 30, 1):
        document["feature"] = {
            "amx": 0,
            "pkru": 0,
            "enable_edmm": False,
            "enable_posix_shm": False,
        }
    if number >= (0, 31, 0):
        document["feature"]["io_uring"] = 0
    return document


def _door(module: str) -> bytes:
    """A script that runs a module beside it, and leaves nothing compiled there."""
    lines = ("#!/usr/bin/env python3", "import sys", "sys.dont_write_bytecode = True")
    run = (f"from {module} import main", "sys.exit(main(sys.argv[1:]))")
    return "".join(f"{line}\n" for line in (*lines, *run)).encode()


def _mounts(own: bool) -> list[dict[str, Any]]:
    image = {"source": "./build/mount/__ROOT", "options": {"MAC": ""}}
    layers = [
        {"target": "/", "type": "sefs", **layer}
        for layer in (image, {"source": "./run/mount/__ROOT"})
    ]
    return [
        {"target": "/", "type": "unionfs", "options": {"layers": layers}},
        {"target": "/host", "type": "hostfs", "source": "."},
        *([{"target": "/proc", "type": "procfs"}, {"target": "/dev", "type": "devfs"}] * own),
    ]


def occlum_files(version: str = "0.29.7", *, mark: bytes = MARK) -> list[LayerFile]:
    """The toolchain, as it stands in a base with Python and imagekit's tools.

    Args:
        version: whose rules ``occlum build`` follows.
        mark: what the library says; without :data:`~imagekit.enclave.standin.MARK` it does not say
            that it is a stand-in.
    """
    tests = Path(__file__).parent
    modules = sorted((tests / "occlum_standin").glob("*.py"))
    template_folder = f"{OCCLUM}/etc/template"
    key = GOLDEN / "sgx-sdk" / "test-only-signing-key.pem"
    return [
        *(LayerFile(f"{BINARIES}/{name}", _door(module), 0o755)
          for name, module in _DOORS.items()),
        *(LayerFile(f"{BINARIES}/{path.name}", path) for path in modules),
        *(LayerFile(f"{BINARIES}/{name}", tests / name) for name in _BESIDE),
        LayerFile(f"{BINARIES}/sgx_sign", command("sgx-sign"), 0o755),
        LayerFile(f"{OCCLUM}/build/lib/libocclum-libos.so.{version}", library(version, mark)),
        LayerFile(f"{OCCLUM}/build/lib/libocclum-libos.so.0", link=f"libocclum-libos.so.{version}"),
        LayerFile(f"{OCCLUM}/build/lib/libocclum-pal.so.0", b"takes the place of Occlum's PAL"),
        LayerFile(f"{template_folder}/Enclave.pem", key, 0o600),
        LayerFile(f"{template_folder}/Occlum.json", json.dumps(template(version)).encode()),
        LayerFile(f"{template_folder}/occlum_elf_loader.config",
                  f"{_LOADER} {_LIBRARIES}\n".encode()),
        LayerFile(f"{SDK}/environment", _ENVIRONMENT.encode()),
        LayerFile(f"{SDK}/bin/x64/sgx_sign", link=f"{BINARIES}/sgx_sign"),
    ]  # fmt: skip


def write_toolchain(folder: Path, version: str = "0.29.7", mark: bytes = MARK) -> Path:
    """Write the toolchain into a folder of this machine, where it signs with this imagekit."""
    for file in occlum_files(version, mark=mark):
        if not file.path.startswith(f"{OCCLUM}/"):
            continue
        target = folder / file.path.removeprefix(f"{OCCLUM}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.link is not None:
            target.symlink_to(file.link)
            continue
        assert file.data is not None
        data = file.data if isinstance(file.data, bytes) else file.data.read_bytes()
        if target.name == "sgx_sign":
            run = f"exec {shlex.quote(sys.executable)} -m imagekit --quiet tool sgx-sign"
            data = f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(ROOT))} {run} "$@"\n'.encode()
        target.write_bytes(data)
        target.chmod(file.mode)
    return folder


def toolchain_environment(toolchain: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables with which the commands of a written toolchain are called."""
    path = os.pathsep.join((str(toolchain / "build/bin"), os.environ.get("PATH", "/usr/bin:/bin")))
    kept = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
    return {**kept, "PATH": path, "SOURCE_DATE_EPOCH": "1700000000", **(more or {})}


@functools.cache
def occlum_base(version: str = "0.29.7", mark: bytes = MARK) -> Image:
    """The base with Python, the tools, the toolchain, and something for Java and Spark."""
    wanted = ("/jvm/", "/spark/", "/etc/java-17/")
    java = [file for file in base_files() if any(part in file.path for part in wanted)]
    cache = Cache(TEST_CACHE)
    root = python_root(cache)
    files = [*tool_files(), *occlum_files(version, mark=mark), *java]
    layer = write_layer(files, cache.blobs, 0, parents=Rootfs.from_image(root, cache).directory)
    env = {
        "PATH": f"{BINARIES}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "JAVA_HOME": JAVA,
        "SPARK_HOME": "/opt/spark",
    }
    return append(root, layer, cache.blobs, created=0, history="test", env=env)


def write_occlum_base(
    folder: Path, version: str = "0.29.7", files: Sequence[LayerFile] = (), mark: bytes = MARK
) -> Path:
    """Write the base, with further files, as an OCI layout with the tag ``base``."""
    image = occlum_base(version, mark)
    OciLayout.create(folder).put(with_layer(image, list(files)) if files else image, "base")
    return folder
