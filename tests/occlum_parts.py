"""Bases with the stand-in for Occlum in the places where Occlum's own image has the real one.

The stand-in (``tests/occlum_standin``) runs in any image with python3. Its library OS is an
enclave of the Intel SGX SDK's shape (``sdk_enclaves.py``) that carries imagekit's mark of
stand-ins; ``sgx_sign`` is imagekit's own drop-in tool.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from occlum_documents import document
from python_base import TOOLS
from sdk_enclaves import make_enclave, section_range

from imagekit.enclave.occlum.versions import occlum_version
from imagekit.enclave.standin import MARK
from imagekit.images.layers import LayerFile

STANDIN = Path(__file__).parent / "occlum_standin"
OCCLUM = "/opt/occlum"
VERSIONS = ("0.29.7", "0.30.1", "0.31.0")
COMMANDS = ("occlum", "copy_bom", "occlum-run")

SIGN_TOOL = f"""\
#!/bin/sh
PYTHONPATH={TOOLS} exec python3 -m imagekit --quiet tool sgx-sign "$@"
"""
NO_PROGRAM = "#!/bin/sh\necho 'not in this stand-in' >&2\nexit 1\n"


def libos(version: str, marker: bytes = MARK) -> bytes:
    """The unsigned library OS of a version; ``marker`` stands in its code."""
    library = make_enclave()
    offset, size = section_range(library, ".text")
    text = marker + b"\0" + f"Occlum {version}".encode() + b"\0"
    assert len(text) < size - 64
    return library[: offset + 64] + text + library[offset + 64 + len(text) :]


def template(version: str) -> dict[str, Any]:
    """The ``Occlum.json`` that ``occlum init`` leaves: debuggable, with a mount of the host's."""
    found = document(occlum_version(version), entry_points=["/bin"], metadata__debuggable=True)
    found["mount"].append({"target": "/host", "type": "hostfs", "source": "."})
    return found


def toolchain(version: str, template_key: bytes | None = None) -> dict[str, tuple[bytes, int]]:
    """All of /opt/occlum by path below it: content and mode; see :func:`links`.

    Args:
        version: such as ``0.29.7``.
        template_key: what ``occlum build`` signs with if nothing is said; none if None.
    """
    files = {f"build/bin/{name}": ((STANDIN / name).read_bytes(), 0o755) for name in COMMANDS}
    for name in ("occlum_exec_client", "occlum_exec_server"):
        files[f"build/bin/{name}"] = (
            b"#!/bin/sh\necho 'not in this stand-in' >&2\nexit 1\n",
            0o755,
        )
    for path in sorted((STANDIN / "standin").glob("*.py")):
        files[f"build/bin/standin/{path.name}"] = (path.read_bytes(), 0o644)
    maker = Path(__file__).parent / "sdk_enclaves.py"
    files["build/bin/sdk_enclaves.py"] = (maker.read_bytes(), 0o644)
    files["build/bin/sgx_sign"] = (SIGN_TOOL.encode(), 0o755)
    files[f"build/lib/libocclum-libos.so.{version}"] = (libos(version), 0o644)
    files[f"build/lib/libocclum-pal.so.{version}"] = (MARK + b": outside of the enclave\n", 0o644)
    text = json.dumps(template(version), indent=4) + "\n"
    files["etc/template/Occlum.json"] = (text.encode(), 0o644)
    if template_key is not None:
        files["etc/template/Enclave.pem"] = (template_key, 0o600)
    return dict(sorted(files.items()))


def links(version: str) -> dict[str, str]:
    """Links in /opt/occlum: path below it and what it says."""
    return {
        f"build/lib/{stem}.{end}": f"{stem}.{target}"
        for stem in ("libocclum-libos", "libocclum-pal")
        for end, target in (("so.0", f"so.{version}"), ("so", "so.0"))
    }


def occlum_files(version: str, template_key: bytes | None = None) -> list[LayerFile]:
    """The toolchain as files of an image; with the tools of :mod:`python_base` it builds and signs.

    Args:
        version: such as ``0.29.7``.
        template_key: see :func:`toolchain`. A base with a private key in it is refused by
            ``imagekit verify``, and Occlum's own image has one.
    """
    files = [
        LayerFile(f"{OCCLUM}/{path}", content, mode)
        for path, (content, mode) in toolchain(version, template_key).items()
    ]
    files += [LayerFile(f"{OCCLUM}/{path}", link=target) for path, target in links(version).items()]
    files += [
        LayerFile(f"/usr/local/bin/{name}", link=f"{OCCLUM}/build/bin/{name}")
        for name in ("occlum", "copy_bom")
    ]
    return files


def install(folder: Path, version: str, sign_tool: str, template_key: bytes | None = None) -> Path:
    """Put the toolchain into a folder of this machine; give the folder with its commands.

    Args:
        folder: takes the place of /opt/occlum; made anew.
        version: such as ``0.29.7``.
        sign_tool: script that takes the place of ``sgx_sign``.
        template_key: see :func:`toolchain`.
    """
    if folder.exists():
        shutil.rmtree(folder)
    for path, (content, mode) in toolchain(version, template_key).items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(sign_tool.encode() if path == "build/bin/sgx_sign" else content)
        target.chmod(mode)
    for path, text in links(version).items():
        (folder / path).symlink_to(text)
    return folder / "build" / "bin"
