"""What ``tool gramine-manifest`` and ``tool gramine-sgx-sign`` do.

Same inputs, same bytes as the stock tools of the chosen release; more is refused, and nothing is
written unless everything succeeded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagekit.enclave.elf import Elf, parse_elf
from imagekit.enclave.findings import Finding
from imagekit.enclave.layout import Area
from imagekit.enclave.manifest_rules import schema_findings
from imagekit.enclave.releases import Release
from imagekit.errors import ImagekitError, InputError
from imagekit.files import write_together
from imagekit.images.progress import NO_PROGRESS, Progress
from imagekit.release.signing import (
    SignedEnclave,
    Tolerance,
    check_before_signing,
    measure_and_sign,
    refuse,
)
from imagekit.render.manifest import complete_manifest, trusted_hashes
from imagekit.render.templates import render_text
from imagekit.render.tree import ChrootTree, HostTree
from imagekit.render.variables import GramineVariables, machine_variables
from imagekit.signing.signer import Signer

_MAX_PAL = 256 << 20


def read_input(path: Path, what: str, limit: int = 64 << 20, hint: str = "check the path") -> bytes:
    """Read a whole input file.

    Raises:
        InputError: missing, unreadable, or larger than `limit` bytes.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot read the {what}: {error.strerror}", hint) from None
    if len(data) > limit:
        raise InputError(f"{path}: too large for a {what}", "check the path")
    return data


def read_text(path: Path, what: str) -> str:
    """Read a UTF-8 text file; errors as :func:`read_input`."""
    return decode_text(read_input(path, what), str(path))


def decode_text(data: bytes, name: str) -> str:
    """Read UTF-8, whatever the locale says.

    Raises:
        InputError: it is something else.
    """
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InputError(f"{name}: not UTF-8 text", "save it as UTF-8") from None


def read_pal(path: Path) -> Elf:
    """Read a ``libpal.so``; errors as :func:`read_input`."""
    hint = "give --libpal, or --pkglibdir if Gramine is installed elsewhere"
    return parse_elf(read_input(path, "PAL", _MAX_PAL, hint), str(path))


def make_tree(chroot: Path | None) -> HostTree:
    """Give where trusted files are looked up.

    Raises:
        InputError: the chroot folder does not exist.
    """
    if chroot is None:
        return HostTree()
    if not chroot.is_dir():
        raise InputError(f"{chroot}: no such folder", "check --chroot")
    return ChrootTree(chroot)


@dataclass(frozen=True)
class CompletedManifest:
    """What gramine-manifest gives.

    Attributes:
        text: the manifest's bytes.
        skipped: links met on a walk that the stock tool leaves out.
        warnings: what is unwise in it.
    """

    text: bytes
    skipped: tuple[str, ...]
    warnings: tuple[Finding, ...]


def make_manifest(
    template: str,
    defines: Mapping[str, str | bool],
    *,
    name: str,
    release: Release,
    gramine: GramineVariables,
    chroot: Path | None = None,
    check: bool = True,
) -> CompletedManifest:
    """Render, complete and check a manifest.

    Args:
        template: the template's text.
        defines: the ``-D`` variables; a string each, or True for a name without value.
        name: the template's file name, for error messages.
        release: whose tool is followed.
        gramine: where Gramine is installed.
        chroot: look trusted files up below this folder.
        check: do the schema check (release 1.3 has none).

    Raises:
        InputError: template, TOML, a trusted file or the schema.
    """
    variables: dict[str, Any] = {"gramine": gramine, **machine_variables(), **defines}
    text = render_text(template, variables, name)
    tree = make_tree(chroot)
    try:
        manifest, out = complete_manifest(
            text,
            release,
            name=name,
            libos=gramine.libos,
            tree=tree,
            entry_tree=HostTree(),
            expand=release.expands_early,
        )
    except ImagekitError as error:
        raise _say_where(error, name, gramine) from None
    findings: tuple[Finding, ...] = ()
    if check and release.expands_early:
        findings = schema_findings(manifest, release.name)
        refuse(findings, name, InputError)
    return CompletedManifest(out, tuple(getattr(tree, "skipped", ())), findings)


def _say_where(error: ImagekitError, name: str, gramine: GramineVariables) -> ImagekitError:
    if error.problem.startswith(gramine.libos):
        return InputError(
            f"{name}: {error.problem}",
            "install Gramine, give --pkglibdir, or pin loader.entrypoint.uri and .sha256",
        )
    return type(error)(f"{name}: {error.problem.removeprefix(f'{name}: ')}", error.hint)


def sign_manifest_file(
    manifest_file: Path,
    libpal: Path,
    signer: Signer,
    *,
    date: str,
    release: Release,
    gramine: GramineVariables,
    chroot: Path | None = None,
    permissive: bool = False,
    progress: Progress = NO_PROGRESS,
) -> tuple[SignedEnclave, list[Path]]:
    """Complete, measure and sign a manifest; nothing is written.

    Args:
        manifest_file: output of gramine-manifest.
        libpal: Gramine's PAL.
        signer: whose key.
        date: ``YYYY-MM-DD``.
        release: whose tool is followed.
        gramine: where Gramine is installed.
        chroot: look trusted files up below this folder.
        permissive: sign what the stock tool would sign although no loader takes it.
        progress: told the bytes hashed.

    Returns:
        The signed enclave, and the files it was made from.

    Raises:
        InputError: a file is missing or not what it should be.
        SigningError: it must not or cannot be signed.
    """
    name = str(manifest_file)
    text = read_text(manifest_file, "manifest")
    pal = read_pal(libpal)
    tree = make_tree(chroot)
    try:
        manifest, out = complete_manifest(
            text, release, name=name, libos=gramine.libos, tree=tree, entry_tree=HostTree()
        )
    except ImagekitError as error:
        raise _say_where(error, name, gramine) from None
    tolerance: Tolerance = "stock" if permissive else "loads"
    signed = measure_and_sign(
        out,
        manifest,
        pal,
        signer,
        release=release,
        date=date,
        what=name,
        warnings=check_before_signing(manifest, release, name, tolerance),
        progress=progress,
    )
    return signed, [manifest_file, libpal, *_existing(tree, trusted_hashes(manifest))]


def _existing(tree: HostTree, paths: Mapping[str, str]) -> list[Path]:
    """Trusted files that are here; pinned ones may live in an image only."""
    return [tree.host_path(path) for path in paths if tree.kind(path) == "file"]


def write_signed(
    signed: SignedEnclave,
    *,
    manifest_sgx: Path,
    sigfile: Path,
    depfile: Path | None,
    inputs: Sequence[Path],
) -> None:
    """Write the manifest, the SIGSTRUCT and, if asked for, a make/ninja dependency file.

    Raises:
        InputError: a file cannot be written; all are left as they were.
    """
    files = {manifest_sgx: signed.manifest, sigfile: signed.sigstruct.to_bytes()}
    if depfile is not None:
        listed = " \\\n".join(f"\t{_make_name(path)}" for path in inputs)
        targets = f"{_make_name(manifest_sgx)} {_make_name(sigfile)}"
        files[depfile] = f"{targets}: \\\n{listed}\n".encode()
    write_together(files)


def _make_name(path: Path) -> str:
    return (
        str(path).replace("\\", "\\\\").replace(" ", "\\ ").replace("$", "$$").replace("#", "\\#")
    )


def describe_area(area: Area) -> str:
    """Give one line about an area: addresses, type, permissions, name, measured or not."""
    marks = [] if area.count == 1 else [f"{area.count} of them"]
    marks += ["measured"] if area.measured else []
    tail = f" {', '.join(marks)}" if marks else ""
    return (
        f"    {area.start:016x}-{area.end:016x} [{area.page_type}:{area.permissions}] "
        f"({area.name}){tail}"
    )


def describe_signed(signed: SignedEnclave) -> str:
    """Give what gramine-sgx-sign prints: attributes, areas, measurement."""
    body, layout, parameters = signed.sigstruct.body, signed.measurement.layout, signed.parameters
    return "\n".join(
        (
            "Attributes:",
            f"    size:          {layout.size:#x}",
            f"    max_threads:   {layout.threads}",
            f"    edmm:          {str(parameters.edmm).lower()}",
            f"    isv_prod_id:   {body.isv_prod_id}",
            f"    isv_svn:       {body.isv_svn}",
            f"    attr.flags:    {body.flags:#x}",
            f"    attr.xfrm:     {body.xfrm:#x} (mask {body.xfrm_mask:#x})",
            f"    misc_select:   {body.misc_select:#x}",
            f"    debug:         {str(parameters.debug).lower()}",
            "Memory:",
            *(describe_area(area) for area in layout.areas),
            "Measurement:",
            f"    {signed.mr_enclave}",
        )
    )
