"""The distribution's files: mmdebstrap makes a root from signed apt archives.

mmdebstrap works without a daemon, as root or in a user namespace, and checks what it fetches
through apt (Release signatures, then SHA-256 of every index and package).
"""

import base64
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from imagekit.errors import EngineError, InputError
from imagekit.files import disk_error
from imagekit.images.bases.process import one_line, run_program
from imagekit.images.progress import NO_PROGRESS, Progress
from imagekit.spec.base import AptSource, BaseSpec

_KEPT_VARIABLES = (
    "HOME",
    "PATH",
    "TMPDIR",
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "no_proxy",
    "all_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
)
_ARMOR_BEGIN = b"-----BEGIN PGP PUBLIC KEY BLOCK-----"
_FIELD = re.compile(r"(Package|Version|Architecture|SHA256): (\S+)")
_LIST = "/tmp/imagekit-packages"  # noqa: S108 - inside the new root
_AVAILABLE = "/tmp/imagekit-available"  # noqa: S108

_LIST_HOOK = (
    "chroot \"$1\" dpkg-query -W -f='${Package}\\t${Version}\\t${Architecture}\\n' "
    f'> "$1{_LIST}" && APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-cache dumpavail '
    f"| grep -E '^(Package|Version|Architecture|SHA256): ' > \"$1{_AVAILABLE}\""
)
_INSTALL_HOOK = (
    'if [ -x "$1/usr/bin/apt-get" ]; then chroot "$1" apt-get install --yes '
    '--no-install-recommends {debs}; else chroot "$1" dpkg --install {debs}; fi'
)

_HINTS = (
    (
        ("Unable to locate package", "has no installation candidate", "was not found"),
        "check the names under base.packages and the components of the mirrors",
    ),
    (
        ("NO_PUBKEY", "is not signed", "EXPKEYSIG", "couldn't be verified", "no valid OpenPGP"),
        "the archive's key is missing or wrong: install the distribution's keyring package here, "
        "or correct signed_by",
    ),
    (
        ("Could not resolve", "Could not connect", "Failed to fetch", "Cannot initiate the conn"),
        "check the network and the mirrors; behind a proxy, set http_proxy and https_proxy",
    ),
    (
        ("certificate verification failed", "certificate is NOT trusted", "No system certificates"),
        "install the CA of that server (or of your proxy) on this machine: "
        "/usr/local/share/ca-certificates, then update-ca-certificates",
    ),
    (("No space left",), "free some space in TMPDIR (default /tmp), or set TMPDIR elsewhere"),
    (
        ("subuid", "user namespaces", "unshare", "Operation not permitted"),
        "run as root, or allow user namespaces and give this user ranges in /etc/subuid, subgid",
    ),
    (("unmet dependencies", "Depends:"), "add what is missing to base.packages"),
)


@dataclass(frozen=True, order=True)
class Package:
    """An installed package; ``sha256`` is that of the .deb where apt knows it."""

    name: str
    version: str
    architecture: str
    sha256: str | None = None


def bootstrap(
    spec: BaseSpec,
    debs: Sequence[Path],
    keys: Mapping[str, bytes],
    folder: Path,
    epoch: int,
    progress: Progress = NO_PROGRESS,
) -> tuple[Path, tuple[Package, ...]]:
    """Make the distribution's root.

    Args:
        spec: distribution, packages and sources are used.
        debs: local packages, installed last.
        keys: the public key of every source, by the source's name.
        folder: an empty scratch folder.
        epoch: SOURCE_DATE_EPOCH, seconds since 1970.
        progress: told the steps.

    Returns:
        The root as a tar file in ``folder``, not normalised, and the installed packages, sorted.

    Raises:
        InputError: mmdebstrap is missing, or the disk refuses.
        EngineError: mmdebstrap failed; holds its last lines.
    """
    program = shutil.which("mmdebstrap")
    if program is None:
        raise InputError(
            "mmdebstrap is not installed, and nothing else here assembles a distribution",
            "sudo apt-get install mmdebstrap",
        )
    folder = folder.absolute()  # mmdebstrap runs in there
    target = folder / "root.tar"
    hooks = _hooks(spec, [deb.absolute() for deb in debs], keys, folder)
    argv = [
        *_own_mounts(),
        program,
        f"--variant={spec.distribution.variant}",
        "--architectures=amd64",
        "--format=tar",
        *([f"--include={','.join(sorted(spec.packages))}"] if spec.packages else []),
        *_snapshot_options(spec),
        *hooks,
        spec.distribution.suite,
        str(target),
        *spec.distribution.mirrors,
    ]
    with _Steps(spec.distribution.suite, progress) as steps:
        done = run_program(argv, env=_environment(epoch, folder), folder=folder, on_line=steps.line)
    if done.code != 0:
        raise _failure(done.code, done.tail)
    return target, _packages(folder)


def deb822(source: AptSource, key: bytes) -> str:
    """Give the apt source entry (sources.list(5), DEB822-STYLE FORMAT) with its key inside.

    The key stands in the entry itself: apt resolves a Signed-By path on the building machine while
    it bootstraps, and in the image later.
    """
    lines = [
        "Types: deb",
        f"URIs: {source.uri}",
        f"Suites: {' '.join(source.suites)}",
        *([f"Components: {' '.join(source.components)}"] if source.components else []),
        "Architectures: amd64",
        "Signed-By:",
    ]
    armored = key if key.lstrip().startswith(_ARMOR_BEGIN) else _armor(key)
    text = armored.decode("ascii", "replace").strip()
    lines += [f" {line.strip() or '.'}" for line in text.splitlines()]
    return "\n".join(lines) + "\n"


def _armor(key: bytes) -> bytes:
    """Give a binary OpenPGP key as ASCII armor (RFC 4880, section 6.2) with its CRC-24."""
    crc = 0xB704CE
    for byte in key:
        crc ^= byte << 16
        for _ in range(8):
            crc = (crc << 1) ^ (0x1864CFB if crc & 0x800000 else 0)
    body = base64.encodebytes(key).replace(b"\n", b"")
    rows = [body[i : i + 64] for i in range(0, len(body), 64)]
    check = b"=" + base64.b64encode((crc & 0xFFFFFF).to_bytes(3, "big"))
    end = _ARMOR_BEGIN.replace(b"BEGIN", b"END")
    return b"\n".join([_ARMOR_BEGIN, b"", *rows, check, end, b""])


def _hooks(
    spec: BaseSpec, debs: Sequence[Path], keys: Mapping[str, bytes], folder: Path
) -> list[str]:
    hooks = []
    for source in spec.sources:
        path = folder / f"{source.name}.sources"
        try:
            path.write_text(deb822(source, keys[source.name]), encoding="ascii")
        except OSError as error:
            raise disk_error(error, path, "write") from None
        inside = f"/etc/apt/sources.list.d/{source.name}.sources"
        hooks.append(f"--setup-hook=upload {shlex.quote(str(path))} {inside}")
    inside_debs = [f"/tmp/imagekit-{i}.deb" for i in range(len(debs))]  # noqa: S108
    for deb, inside in zip(debs, inside_debs, strict=True):
        hooks.append(f"--customize-hook=upload {shlex.quote(str(deb))} {inside}")
    if debs:
        install = _INSTALL_HOOK.replace("{debs}", " ".join(inside_debs))
        hooks.append(f"--customize-hook={install}")
    hooks.append(f"--customize-hook={_LIST_HOOK}")
    for inside in (_LIST, _AVAILABLE):
        outside = shlex.quote(str(folder / inside.rpartition("/")[2]))
        hooks.append(f"--customize-hook=download {inside} {outside}")
    return hooks


def _snapshot_options(spec: BaseSpec) -> list[str]:
    # the Release file of a past day says that it has expired; its signature counts as before
    return ['--aptopt=Acquire::Check-Valid-Until "false"'] if spec.distribution.snapshot else []


def _environment(epoch: int, folder: Path) -> dict[str, str]:
    """Give only what may matter: package scripts must not see the caller's other variables."""
    names = {*_KEPT_VARIABLES, *(name.upper() for name in _KEPT_VARIABLES)}
    env = {name: value for name, value in os.environ.items() if name in names}
    path = env.get("PATH") or os.defpath
    env["PATH"] = f"{path}:/usr/sbin:/sbin"
    if "TMPDIR" not in env and os.geteuid() == 0:
        # what a killed mmdebstrap leaves is then removed with our folder by the next run; in a user
        # namespace it could not get there, a home folder being closed to the namespace's users
        env["TMPDIR"] = str(folder)
    env.update(LC_ALL="C.UTF-8", TZ="UTC", SOURCE_DATE_EPOCH=str(epoch))
    return env


def _own_mounts() -> list[str]:
    """Give the command prefix that keeps mmdebstrap's mounts to itself, where root may do so.

    In a mount namespace of its own everything it mounts goes away with it, even when it is killed.
    In a user namespace (not root) that is so anyway.
    """
    prefix = ["unshare", "--mount", "--propagation=private", "--"]
    if os.geteuid() != 0 or shutil.which(prefix[0]) is None:
        return []
    probe = subprocess.run([*prefix, "true"], check=False, capture_output=True)
    return prefix if probe.returncode == 0 else []


class _Steps:
    """Shows mmdebstrap's "I: …" lines as one task after the other."""

    def __init__(self, suite: str, progress: Progress) -> None:
        self.suite, self.progress, self.stack = suite, progress, ExitStack()

    def __enter__(self) -> "_Steps":
        return self

    def __exit__(self, *_details: object) -> None:
        self.stack.close()

    def line(self, text: str) -> None:
        if not text.startswith("I: ") or not text.endswith("..."):
            return
        self.stack.close()
        label = "".join(c for c in text[3:-3] if c.isprintable())[:80]
        self.stack.enter_context(self.progress.task(f"{self.suite}: {label}", None))


def _failure(code: int, tail: Sequence[str]) -> EngineError:
    errors = []
    for before, line in zip(["", *tail], tail, strict=False):
        if line.startswith(("E: ", "Err:", "dpkg: error")):
            # the line before dpkg's own says why a package's script failed
            errors += [before, line] if line.startswith("dpkg: error") and before else [line]
    # mmdebstrap's own last words only say that something failed
    telling = [line for line in errors if "mmdebstrap" not in line and " failed: " not in line]
    text = "\n".join(tail)
    hint = next(
        (hint for signs, hint in _HINTS if any(sign in text for sign in signs)),
        "run `mmdebstrap SUITE /dev/null` by hand to see everything it says",
    )
    said = one_line((telling or errors or list(tail))[-3:])
    ended = f"signal {-code}" if code < 0 else f"exit code {code}"
    return EngineError(f"mmdebstrap failed ({ended}): {said}", hint)


def _packages(folder: Path) -> tuple[Package, ...]:
    try:
        installed = (folder / _LIST.rpartition("/")[2]).read_text(encoding="utf-8")
        available = (folder / _AVAILABLE.rpartition("/")[2]).read_text(encoding="utf-8")
    except (OSError, ValueError):
        raise EngineError(
            "mmdebstrap delivered no list of packages", "check its version: 1.3 or later is needed"
        ) from None
    hashes = _hashes(available)
    rows = [line.split("\t") for line in installed.splitlines()]
    return tuple(
        sorted(
            Package(row[0], row[1], row[2], hashes.get((row[0], row[1], row[2])))
            for row in rows
            if len(row) == 3
        )
    )


def _hashes(available: str) -> dict[tuple[str, str, str], str]:
    found: dict[tuple[str, str, str], str] = {}
    fields: dict[str, str] = {}
    for line in available.splitlines():
        match = _FIELD.fullmatch(line)
        if match is None:
            continue
        if match[1] == "Package":
            fields = {}
        fields[match[1]] = match[2]
        if len(fields) == 4:
            found[(fields["Package"], fields["Version"], fields["Architecture"])] = fields["SHA256"]
    return found
