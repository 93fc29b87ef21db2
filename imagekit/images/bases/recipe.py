"""How a distribution is made, whoever makes it: mmdebstrap here, or the stages of a Dockerfile.

Two steps, the same in both. mmdebstrap makes the suite's smallest set from signed archives and
downloads all packages (``fetch.sh``); then the packages are installed by the new root's own apt
(``install.sh``), here in a chroot, there in a stage of its own, since a build by an engine may not
mount the /proc that some packages' scripts need in a chroot.
"""

import base64
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from imagekit.images.bases.packages import WORK
from imagekit.spec.base_values import AptSource, BaseSpec

FETCH, INSTALL = "fetch.sh", "install.sh"

_ARMOR_BEGIN = b"-----BEGIN PGP PUBLIC KEY BLOCK-----"
_WITHOUT_APT = "essential"  # the one variant whose root has no apt


@dataclass(frozen=True)
class Ingredients:
    """What a distribution is made from.

    Attributes:
        spec: distribution, packages and sources are used.
        debs: local packages, installed last, in this order.
        keys: the public key of every source, by the source's name.
        epoch: SOURCE_DATE_EPOCH, seconds since 1970.
        ca_bundle: certificates (PEM) to be trusted besides the system's, while it is made.
    """

    spec: BaseSpec
    debs: tuple[Path, ...]
    keys: Mapping[str, bytes]
    epoch: int
    ca_bundle: bytes | None = None

    @property
    def late_packages(self) -> tuple[str, ...]:
        """The packages that the new root's own apt installs, sorted; all, where it has one."""
        has_apt = self.spec.distribution.variant != _WITHOUT_APT
        return tuple(sorted(self.spec.packages)) if has_apt else ()

    def apt_sources(self) -> dict[str, bytes]:
        """Give the file of each further source, by its name."""
        return {
            f"{source.name}.sources": deb822(source, self.keys[source.name]).encode("ascii")
            for source in self.spec.sources
        }


def script(name: str) -> bytes:
    """Give one of the scripts beside this module: :data:`FETCH` or :data:`INSTALL`."""
    return resources.files("imagekit.images.bases").joinpath(name).read_bytes()


def mmdebstrap_options(
    ingredients: Ingredients, *, folder: str, debs: Sequence[str], ca_file: str | None
) -> list[str]:
    """Give the options of mmdebstrap for the first step, the same for both engines.

    Everything is uploaded into the new root: in a user namespace nothing else can be read.

    Args:
        ingredients: what to make.
        folder: where the scripts and the files of :meth:`Ingredients.apt_sources` stand on the
            machine that runs mmdebstrap.
        debs: the local packages there.
        ca_file: file there with all certificates to be trusted, if not just the system's.
    """
    spec, late = ingredients.spec, ingredients.late_packages
    has_apt = spec.distribution.variant != _WITHOUT_APT
    early = () if has_apt else sorted(spec.packages)
    inside = [f"/{WORK}/{number}.deb" for number in range(len(debs))]
    uploads = [(f"{folder}/{name}", f"/{WORK}/{name}") for name in (FETCH, INSTALL)]
    uploads += zip(debs, inside, strict=True)
    fetch = ["sh", f'"$1"/{WORK}/{FETCH}', '"$1"', *(shlex.quote(name) for name in late)]
    if has_apt:
        fetch += [f'"$1"{deb}' for deb in inside]
    return [
        f"--variant={spec.distribution.variant}",
        "--architectures=amd64",
        *([f"--include={','.join(early)}"] if early else []),
        # the Release file of a past day says that it has expired; its signature counts as before
        *(
            ['--aptopt=Acquire::Check-Valid-Until "false"']
            if spec.distribution.snapshot is not None
            else []
        ),
        *([f'--aptopt=Acquire::https::CAInfo "{ca_file}"'] if ca_file is not None else []),
        *(
            f"--setup-hook=upload {shlex.quote(f'{folder}/{name}')} /etc/apt/sources.list.d/{name}"
            for name in ingredients.apt_sources()
        ),
        f'--customize-hook=mkdir -p "$1"/{WORK}',
        *(f"--customize-hook=upload {shlex.quote(here)} {there}" for here, there in uploads),
        f"--customize-hook={' '.join(fetch)}",
        "--skip=cleanup/tmp",  # the lists of packages are read from there
    ]


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
