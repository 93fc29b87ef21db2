"""From the measurement of an Occlum enclave to its files: Occlum's own chain of tags.

mr_enclave covers the signed library, and in it the section ``.builtin_config``: the root tag of
``build/.Occlum_sys.json.protected``, as text. That file, the configuration of the library OS, has
the root tags of two file systems, the start-up one and the image; each of them is the tag of a file
``metadata``, in which all of its files have theirs.

The links down to ``metadata`` are checked here; the tags in it, of the single files, are not read
(imagekit's list of hashes has each of these files). What all that proves is less than it seems to,
since tags can be forged (:mod:`imagekit.enclave.occlum.protected_file`); :data:`WHAT_IS_PINNED`
says it for people.

Source: Occlum 0.26 to 0.31.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from imagekit.enclave.occlum.document import parse_document
from imagekit.enclave.occlum.internal import IMAGE, INITFS, ChainCheck, compare_config, item
from imagekit.enclave.occlum.model import OcclumConfig
from imagekit.enclave.occlum.protected_file import (
    MAC_SIZE,
    ProtectedFile,
    is_encrypted,
    mac_text,
    parse_mac_text,
    read_protected_file,
)
from imagekit.enclave.sdk.image import SHT_NOBITS, EnclaveImage
from imagekit.enclave.sdk.signed import SdkEnclave
from imagekit.errors import ImagekitError, InputError

SECTION = ".builtin_config"
SYSTEM_CONFIG = ".Occlum_sys.json.protected"
METADATA = "metadata"
ROOT_MAC = ".ROOT_MAC"

WHAT_IS_PINNED = (
    "mr_enclave pins, against everybody: Occlum's library OS, the enclave's memory and threads, "
    "and one tag of 16 bytes",
    "through that tag, and only against accidents: entry points, variables, mounts, and every file "
    "in the enclave. Its key is public, so whoever can write the image can compute other files "
    "with the same tag, which run under the same mr_enclave",
    "the SHA-256 list in the image pins those files for whoever compares it with a lock file or "
    "label that came another way; the enclave itself never looks at it",
    "an encrypted image (occlum build --image-key) would keep others from writing its files, but "
    "not the start-up file system and the configuration, which are never encrypted",
    "mr_enclave does not cover product id, SVN and the debug policy (the signature does), nor what "
    "starts the enclave, nor the log level that it is started with",
)
"""What the measurement of an Occlum enclave does and does not pin, one line per statement."""

_HINT = "take the library that occlum build signed"
_TEXT_SIZE = 3 * MAC_SIZE - 1


@dataclass(frozen=True)
class InstanceParts:
    """What a check of the chain looks at; None for a file that is not there.

    Attributes:
        library: ``build/lib/libocclum-libos.signed.so``.
        system_config: ``build/.Occlum_sys.json.protected``.
        config: ``Occlum.json``.
        root_mac, initfs_mac: ``.ROOT_MAC`` of ``build/mount`` and ``build/initfs``.
        root_metadata, initfs_metadata: ``__ROOT/metadata`` of these.
    """

    library: SdkEnclave
    system_config: bytes | None = field(repr=False)
    config: OcclumConfig
    root_mac: bytes | None
    initfs_mac: bytes | None
    root_metadata: bytes | None = field(repr=False)
    initfs_metadata: bytes | None = field(repr=False)


def check_chain(parts: InstanceParts) -> tuple[ChainCheck, ...]:
    """Check every link from the measured library to the files, and the configuration on the way.

    Whether the library measures to what is signed is not looked at here.

    Args:
        parts: the instance. Wrong and hostile content gives failed checks, no errors.
    """
    checks = [_configuration(parts)]
    document = _document(parts.system_config)
    if isinstance(document, ChainCheck):
        return (*checks, document)
    for app, folder, text, metadata in (
        (INITFS, "build/initfs", parts.initfs_mac, parts.initfs_metadata),
        (IMAGE, "build/mount", parts.root_mac, parts.root_metadata),
    ):
        checks += _file_system(document, app, folder, text, metadata)
    return (*checks, *compare_config(document, parts.config))


def builtin_mac(image: EnclaveImage) -> bytes:
    """Give the tag that a library OS has built in, from where it is measured.

    Args:
        image: the library, signed or not.

    Raises:
        InputError: there is no such section, it does not lie in what is loaded and so measured, or
            it holds no tag.
    """
    section = image.section(SECTION)
    if section is None:
        raise InputError(f"{image.name}: no section {SECTION}, so no library OS of Occlum", _HINT)
    if section.kind in (0, SHT_NOBITS) or section.size < _TEXT_SIZE:
        raise InputError(f"{image.name}: {SECTION} is empty or too short", _HINT)
    if image.file_offset(section.address, section.size) != section.offset:
        raise InputError(
            f"{image.name}: {SECTION} is not loaded where it says, so it is not measured", _HINT
        )
    content = image.data[section.offset : section.offset + section.size]
    text, rest = content[:_TEXT_SIZE], content[_TEXT_SIZE:]
    if rest.strip(b"\0") not in (b"", b"\n"):
        raise InputError(f"{image.name}: {SECTION} holds more than a tag", _HINT)
    return parse_mac_text(text, f"{image.name}: {SECTION}")


def _configuration(parts: InstanceParts) -> ChainCheck:
    name = f"tag of {SYSTEM_CONFIG} in the enclave"
    try:
        wanted = builtin_mac(parts.library.image)
        found = _read(parts.system_config, f"build/{SYSTEM_CONFIG}", SYSTEM_CONFIG)
    except ImagekitError as error:
        return ChainCheck(name, "failed", error.problem)
    return _same_tag(name, wanted, SECTION, found.mac, f"build/{SYSTEM_CONFIG}")


def _document(data: bytes | None) -> object:
    """Give the internal configuration, parsed, or the check that says why it cannot be."""
    name = "Occlum's own configuration"
    if data is None:
        return ChainCheck(name, "unchecked", "cannot be checked: it is missing")
    place = f"build/{SYSTEM_CONFIG}"
    try:
        return parse_document(read_protected_file(data, place).content, place)
    except ImagekitError as error:
        return ChainCheck(name, "failed", error.problem)


def _file_system(
    document: object, app: int, folder: str, text: bytes | None, metadata: bytes | None
) -> Iterator[ChainCheck]:
    """Check the tag that the configuration has of a file system, and the file that it is of."""
    name, where = f"tag of {folder} in Occlum's own configuration", f"app[{app}]"
    wanted = _root_mac(document, app, name)
    if isinstance(wanted, ChainCheck):
        yield wanted
    place = f"{folder}/__ROOT/{METADATA}"
    try:
        mac = _read(metadata, place, METADATA).mac
    except ImagekitError as error:
        # Only the image can be encrypted, and then others have no key to check it with.
        if app == IMAGE and metadata is not None and is_encrypted(metadata):
            yield ChainCheck(name, "unchecked", f"cannot be checked: {error.problem}")
        else:
            yield ChainCheck(name, "failed", error.problem)
        if not isinstance(wanted, ChainCheck):
            yield _noted_mac(folder, text, wanted, where)
        return
    if not isinstance(wanted, ChainCheck):
        yield _same_tag(name, wanted, where, mac, place)
    yield _noted_mac(folder, text, mac, place)


def _noted_mac(folder: str, text: bytes | None, mac: bytes, place: str) -> ChainCheck:
    """Check the tag that the build wrote down beside a file system."""
    path = f"{folder}/{ROOT_MAC}"
    name = f"tag in {path}"
    if text is None:
        return ChainCheck(name, "unchecked", "cannot be checked: the file is missing")
    try:
        noted = parse_mac_text(text, path)
    except InputError as error:
        return ChainCheck(name, "failed", error.problem)
    return _same_tag(name, noted, path, mac, place)


def _root_mac(document: object, app: int, name: str) -> bytes | ChainCheck:
    """Give the tag that the configuration has of a file system, or what is wrong there."""
    where = f"app[{app}]"
    macs = list(_root_macs(document, app))
    if not macs:
        reason = f"cannot be checked: {where} has no tag of a root file system"
        return ChainCheck(name, "unchecked", reason)
    if len(macs) > 1:
        return ChainCheck(name, "failed", f"{where} has more than one root file system")
    (mac,) = macs
    try:
        return parse_mac_text(mac if isinstance(mac, str) else "", where)
    except InputError as error:
        return ChainCheck(name, "failed", error.problem)


def _root_macs(document: object, app: int) -> Iterator[object]:
    """Give the tags of the layers at the root of a file system: one, if all is well."""
    mounts = item(document, "app", app, "mount")
    for mount in mounts if isinstance(mounts, list) else []:
        if item(mount, "target") != "/":
            continue
        layers = item(mount, "options", "layers")
        for part in (mount, *(layers if isinstance(layers, list) else [])):
            mac = item(part, "options", "MAC")
            if mac is not None and item(part, "type") == "sefs" and item(part, "target") == "/":
                yield mac


def _read(data: bytes | None, place: str, filename: str) -> ProtectedFile:
    if data is None:
        raise InputError(f"{place} is missing", _HINT)
    found = read_protected_file(data, place)
    if found.filename != filename:
        raise InputError(
            f"{place}: was written as {found.filename!r}; Occlum does not open it", _HINT
        )
    return found


def _same_tag(name: str, wanted: bytes, where: str, found: bytes, of: str) -> ChainCheck:
    if wanted == found:
        return ChainCheck(name)
    reason = f"{where} says {mac_text(wanted)}, {of} has {mac_text(found)}"
    return ChainCheck(name, "failed", reason)
