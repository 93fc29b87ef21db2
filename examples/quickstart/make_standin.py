#!/usr/bin/env python3
"""Make gramine-standin_1.9_amd64.deb: a package that stands where Gramine would stand.

It lets a machine without Gramine go through every step of imagekit: the files have Gramine's names
and places, so manifests can be rendered, measured and signed. **Nothing in it protects anything**:
its ``gramine-sgx`` runs the program of the manifest natively, without any enclave.

Standard library only. The same bytes come out on every machine: no clock, no compression, no names
of the machine; the filler is SHA-256 of a counter.

usage: make_standin.py [OUTPUT.deb]        (prints the file's SHA-256)
"""

import hashlib
import io
import struct
import sys
import tarfile
from pathlib import Path

PACKAGE, VERSION, ARCHITECTURE = "gramine-standin", "1.9", "amd64"
FILE_NAME = f"{PACKAGE}_{VERSION}_{ARCHITECTURE}.deb"
EPOCH = 1704067200  # 2024-01-01
GRAMINE = "usr/lib/x86_64-linux-gnu/gramine"
MARKER = b"imagekit stand-in PAL"
"""These bytes tell imagekit (and anybody else) that a libpal.so is no PAL at all."""

TEXT = """\
This is not Gramine.

The package gramine-standin holds generated files with the names of Gramine's, for trying imagekit
where Gramine cannot be had. There is no enclave and no protection of any kind: gramine-sgx and
gramine-direct run the program named in the manifest as an ordinary process. Images made with it are
labelled io.imagekit.standin=true, and `imagekit verify` refuses them unless asked otherwise.
"""

DESCRIPTION = """\
stand-in for Gramine, without any enclave
 Generated files with the names of Gramine's, for trying imagekit where Gramine cannot be had.
 It protects nothing.
"""

LAUNCHER = '''\
#!/usr/bin/python3 -I
"""Stand-in for @NAME@: runs a manifest's program natively, without any enclave."""

import os
import sys
import tomllib

NAME, SUFFIX = "@NAME@", "@SUFFIX@"
RUNTIME = "/usr/lib/x86_64-linux-gnu/gramine/"


def fail(problem):
    sys.stderr.write(f"{NAME} (stand-in): {problem}\\n")
    sys.exit(1)


def table(value, *keys):
    for key in keys:
        value = value.get(key, {}) if isinstance(value, dict) else {}
    return value


def load(name):
    path = name + SUFFIX
    try:
        with open(path, "rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror}")
    except ValueError as error:
        fail(f"{path} is no manifest: {error}")


def words(uri):
    """The NUL-separated words of an argv or environment file."""
    path = uri.removeprefix("file:")
    try:
        with open(path, "rb") as stream:
            data = stream.read()
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror}")
    return [os.fsdecode(word) for word in data.removesuffix(b"\\0").split(b"\\0")] if data else []


def arguments(manifest, name, given):
    loader = table(manifest, "loader")
    if loader.get("insecure__use_cmdline_argv"):
        return [name, *given]
    if given:
        fail("arguments are refused: the manifest does not set loader.insecure__use_cmdline_argv")
    if "argv_src_file" in loader:
        return words(loader["argv_src_file"])
    return [str(word) for word in loader.get("argv", [])]


def environment(manifest):
    """What the manifest lets in, and nothing else."""
    loader = table(manifest, "loader")
    result = dict(os.environ) if loader.get("insecure__use_host_env") else {}
    if "env_src_file" in loader:
        result.update(word.partition("=")[::2] for word in words(loader["env_src_file"]))
    for name, value in table(loader, "env").items():
        if isinstance(value, dict) and "value" not in value:
            if not value.get("passthrough"):
                result.pop(name, None)
            elif name in os.environ:
                result[name] = os.environ[name]
        else:
            result[name] = str(value["value"] if isinstance(value, dict) else value)
    if "LD_LIBRARY_PATH" in result:  # the C library in there is made of random bytes
        folders = result["LD_LIBRARY_PATH"].split(":")
        kept = [folder for folder in folders if not (folder + "/").startswith(RUNTIME)]
        result["LD_LIBRARY_PATH"] = ":".join(kept)
    return result


def main():
    given = sys.argv[1:]
    if given[:1] == ["--"]:
        del given[0]
    if not given:
        fail(f"usage: {NAME} APPLICATION [ARGUMENT...]")
    name = given.pop(0)
    manifest = load(name)
    if SUFFIX.endswith(".sgx") and not os.path.exists(name + ".sig"):
        fail(f"cannot read {name}.sig: the manifest is not signed")
    entrypoint = table(manifest, "libos", "entrypoint")
    if not isinstance(entrypoint, str):
        fail(f"{name}{SUFFIX} has no libos.entrypoint")
    program = entrypoint.removeprefix("file:")
    program = program if program.startswith("/") else os.path.join(os.getcwd(), program)
    argv = arguments(manifest, name, given) or [entrypoint]
    env = environment(manifest)
    sys.stderr.write(
        f"{NAME}: THIS IS A STAND-IN. There is no enclave: {program} runs natively, "
        "readable and changeable by this host.\\n"
    )
    sys.stderr.flush()
    try:
        os.chdir(table(manifest, "fs").get("start_dir", "/"))
        os.execve(program, argv, env)
    except OSError as error:
        fail(f"cannot run {program}: {error.strerror}")


main()
'''

RUNTIME_LIBRARIES = (
    "ld-linux-x86-64.so.2",
    "libanl.so.1",
    "libc.so.6",
    "libdl.so.2",
    "libm.so.6",
    "libnss_compat.so.2",
    "libnss_dns.so.2",
    "libnss_files.so.2",
    "libpthread.so.0",
    "libresolv.so.2",
    "librt.so.1",
    "libutil.so.1",
)


def filler(name: str, size: int) -> bytes:
    """Give ``size`` bytes that look random and are always the same for one name."""
    count = -(-size // 32)
    blocks = (hashlib.sha256(f"{name} {i}".encode()).digest() for i in range(count))
    return b"".join(blocks)[:size]


def elf(name: str, code_size: int, data_size: int, bss_size: int, note: bytes) -> bytes:
    """Give an ELF64 shared object for x86-64 with two loadable segments.

    The first (read, execute) begins with the headers and ``note``; the second (read, write) is
    followed by ``bss_size`` zero bytes in memory. Sizes in bytes. Nothing in it can be executed.
    """
    page = 4096
    headers = 64 + 3 * 56
    code = filler(name + " code", code_size - headers - len(note))
    offset = -(-code_size // page) * page
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01" + bytes(9),
        3,  # ET_DYN
        62,  # EM_X86_64
        1,
        headers + len(note),  # entry: the first filler byte
        64,
        0,
        0,
        64,
        56,
        3,
        0,
        0,
        0,
    )
    segments = (
        struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, code_size, code_size, page),
        struct.pack(
            "<IIQQQQQQ", 1, 6, offset, offset, offset, data_size, data_size + bss_size, page
        ),
        struct.pack("<IIQQQQQQ", 0x6474E551, 6, 0, 0, 0, 0, 0, 16),  # PT_GNU_STACK
    )
    text = header + b"".join(segments) + note + code
    return text.ljust(offset, b"\0") + filler(name + " data", data_size)


def launcher(name: str, suffix: str) -> bytes:
    """Give the launch script called ``name`` that reads ``APPLICATION`` + ``suffix``."""
    return LAUNCHER.replace("@NAME@", name).replace("@SUFFIX@", suffix).encode()


def content() -> dict[str, tuple[int, bytes]]:
    """Give the package's files: path (without leading slash) to mode and content."""
    files = {
        "usr/bin/gramine-direct": (0o755, launcher("gramine-direct", ".manifest")),
        "usr/bin/gramine-sgx": (0o755, launcher("gramine-sgx", ".manifest.sgx")),
        f"{GRAMINE}/STAND-IN": (0o644, TEXT.encode()),
        f"{GRAMINE}/libsysdb.so": (0o644, elf("libsysdb", 250_000, 24_000, 400_000, b"")),
        f"{GRAMINE}/sgx/libpal.so": (
            0o755,
            elf("libpal", 340_000, 60_000, 90_000, b"\0" + MARKER + b"\0"),
        ),
    }
    for name in RUNTIME_LIBRARIES:
        files[f"{GRAMINE}/runtime/glibc/{name}"] = (0o755, elf(name, 6_000, 1_000, 500, b""))
    return files


def tar(files: dict[str, tuple[int, bytes]]) -> bytes:
    """Give an uncompressed tar with the files and their folders, sorted, owned by root."""
    folders = {str(parent) for name in files for parent in Path(name).parents}
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in sorted(folders | set(files)):
            member = tarfile.TarInfo("./" if name == "." else f"./{name}")
            member.mtime, member.uname, member.gname = EPOCH, "root", "root"
            if name in files:
                member.mode, data = files[name]
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
            else:
                member.mode, member.type = 0o755, tarfile.DIRTYPE
                archive.addfile(member)
    return output.getvalue()


def control(files: dict[str, tuple[int, bytes]]) -> bytes:
    """Give the control archive: the package's fields and the sums of its files."""
    size = sum(len(data) for _, data in files.values()) // 1024
    fields = (
        f"Package: {PACKAGE}\n"
        f"Version: {VERSION}\n"
        f"Architecture: {ARCHITECTURE}\n"
        "Maintainer: imagekit quickstart <root@localhost>\n"
        f"Installed-Size: {size}\n"
        "Depends: python3-minimal (>= 3.11), libpython3-stdlib (>= 3.11)\n"
        "Conflicts: gramine\n"
        "Section: misc\n"
        "Priority: optional\n"
        f"Description: {DESCRIPTION}"
    )
    sums = "".join(
        f"{hashlib.md5(data, usedforsecurity=False).hexdigest()}  {name}\n"
        for name, (_, data) in sorted(files.items())
    )
    return tar({"control": (0o644, fields.encode()), "md5sums": (0o644, sums.encode())})


def package() -> bytes:
    """Give the whole .deb (deb(5): an ar archive of three members)."""
    files = content()
    members = {
        "debian-binary": b"2.0\n",
        "control.tar": control(files),
        "data.tar": tar(files),
    }
    output = [b"!<arch>\n"]
    for name, data in members.items():
        output.append(f"{name:<16}{EPOCH:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode())
        output.append(data + b"\n" * (len(data) % 2))
    return b"".join(output)


def main() -> None:
    """Write the package and print its SHA-256."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name(FILE_NAME)
    data = package()
    path.write_bytes(data)
    print(f"{hashlib.sha256(data).hexdigest()}  {path}")


if __name__ == "__main__":
    main()
