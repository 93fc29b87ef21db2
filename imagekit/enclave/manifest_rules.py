"""Rules of a Gramine manifest: the strict schema, and what may not be signed.

The stock signer takes nearly everything and the mistake shows much later: a loader that refuses, a
JVM that dies for want of threads, a debug flag that was never set. Two questions are answered here:

- :func:`schema_findings`: does this text follow the manifest syntax of a release (what
  gramine-manifest of 1.9 checks, done for 1.3 as well)?
- :func:`signing_findings`: may this manifest be signed? The schema, plus everything that the stock
  signer lets through although no loader takes it, plus warnings.

Both are total: any TOML document gives findings, never an exception.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from imagekit.enclave.findings import ERROR, WARNING, Finding, dotted, ordered, shown
from imagekit.enclave.legacy_keys import legacy_key, nearest_key
from imagekit.enclave.manifest_files import file_findings, mount_findings
from imagekit.enclave.manifest_lints import lint_findings
from imagekit.enclave.manifest_schema import SCHEMAS, Array, Leaf, Node, Table, Wrong
from imagekit.enclave.manifest_values import array_at, table_at, value_at
from imagekit.enclave.parameters import parse_gramine_size
from imagekit.enclave.releases import release_named
from imagekit.errors import SigningError

__all__ = ["Finding", "schema_findings", "signing_findings"]

_LARGEST = 1 << 40
_PAGE = 4096
_LOWEST_ADDRESS = 0x10000
# SSA 8, TCS 1, TLS 1, stack 64, signal stack 16 pages per thread; one page of manifest at least.
_PAGES_PER_THREAD = 90


def schema_findings(manifest: Mapping[str, Any], release: str) -> tuple[Finding, ...]:
    """Check a manifest against the syntax of a Gramine release.

    Args:
        manifest: parsed TOML, after rendering and defaults.
        release: ``1.9`` or ``1.3``.

    Returns:
        Findings, errors first. For 1.3, which has no check of its own and ignores unknown keys, a
        key that never did anything is a warning; for 1.9 every unknown key is an error.

    Raises:
        UsageError: no rules for that release are known.
    """
    name = release_named(release).name
    return ordered(list(_check(SCHEMAS[name], dict(manifest), "", name)))


def signing_findings(manifest: Mapping[str, Any], release: str) -> tuple[Finding, ...]:
    """Say what keeps a manifest from being signed, and what is unwise in it.

    Args:
        manifest: parsed TOML, complete: what is about to be measured.
        release: ``1.9`` or ``1.3``.

    Returns:
        Findings, errors first; :func:`schema_findings` are among them. Errors with ``stock`` set
        are refused by the stock signer too, the others are those that it lets through.

    Raises:
        UsageError: no rules for that release are known.
    """
    name = release_named(release).name
    found = list(schema_findings(manifest, name))
    for rule in _RULES:
        found += rule(manifest, name)
    return ordered(found)


def _check(node: Node, value: object, key: str, release: str) -> Iterator[Finding]:
    if isinstance(node, Leaf):
        wrong = node.check(value)
        if wrong:
            yield _finding(key, wrong)
    elif isinstance(node, Table):
        yield from _check_table(node, value, key, release)
    elif isinstance(node, Array):
        if not isinstance(value, list):
            hint = node.instead or "write it in square brackets"
            yield _finding(key, Wrong(f"expected an array, is {shown(value)}", hint, node.stock))
            return
        for number, item in enumerate(value):
            yield from _check(node.item, item, f"{key}[{number}]", release)
    elif isinstance(value, str):
        yield from _check(node.text, value, key, release)
    elif isinstance(value, dict):
        yield from _check_table(node.table, value, key, release)
    else:
        wrong = Wrong(f"expected a string or a table, is {shown(value)}", "correct it", node.stock)
        yield _finding(key, wrong)


def _check_table(node: Table, value: object, key: str, release: str) -> Iterator[Finding]:
    if not isinstance(value, dict):
        hint = node.instead or "write it as a table"
        yield _finding(key, Wrong(f"expected a table, is {shown(value)}", hint, node.stock))
        return
    for name in node.required:
        if name not in value:
            # The stock tools fill in the entry point; only a trusted file without URI stops them.
            stock = key.startswith("sgx.trusted_files")
            problem = "is missing, and Gramine does not start without it"
            yield Finding(dotted(key, name), problem, "add it", ERROR, stock)
    for name, inner in value.items():
        path = dotted(key, name)
        if name in node.fields:
            yield from _check(node.fields[name], inner, path, release)
        elif node.rest is not None:
            yield from _check(node.rest, inner, path, release)
        else:
            yield _unknown(path, release)


def _unknown(key: str, release: str) -> Finding:
    legacy = legacy_key(key, release)
    if legacy is not None:
        mild = legacy.harmless and release == "1.3"
        return Finding(key, legacy.became, legacy.do, WARNING if mild else ERROR)
    near = nearest_key(key, release)
    hint = f"did you mean {near}?" if near else "leave it out"
    # 1.3 ignores what it does not know.
    return Finding(key, f"is not a key of Gramine {release}", hint, loads=release == "1.3")


def _finding(key: str, wrong: Wrong) -> Finding:
    return Finding(key, wrong.problem, wrong.hint, ERROR, wrong.stock)


def _threads(manifest: Mapping[str, Any], release: str) -> int:
    value = value_at(manifest, f"sgx.{release_named(release).threads_key}")
    return value if isinstance(value, int) and 1 <= value <= 4096 else 4


def _enclave_size(manifest: Mapping[str, Any], release: str) -> Iterator[Finding]:
    key = "sgx.enclave_size"
    value = value_at(manifest, key)
    if not isinstance(value, str):
        return
    try:
        size = parse_gramine_size(value)
    except SigningError as error:
        wrong = Wrong(f"{shown(value)} is not a size", error.hint, True)
        upper = value.strip().upper().removesuffix("B").removesuffix("I")
        if upper != value and upper[:-1].isdecimal() and upper[-1:] in "KMG":
            wrong = Wrong(f"{shown(value)} is not a size for Gramine", f'write "{upper}"', True)
        yield _finding(key, wrong)
        return
    least = _LOWEST_ADDRESS + (1 + _PAGES_PER_THREAD * _threads(manifest, release)) * _PAGE
    if size & (size - 1):
        low = 1 << (size.bit_length() - 1)
        hint = f"the powers of two around it are {_size_name(low)} and {_size_name(2 * low)}"
        yield Finding(
            key, f"{shown(value)} is not a power of two, and the CPU takes no other", hint
        )
    if size > _LARGEST:
        yield Finding(
            key, f"{shown(value)} is more than 1 TiB; the loader refuses it", 'at most "1024G"'
        )
    elif size < least:
        needs = f"its {_threads(manifest, release)} threads alone need {least} bytes"
        yield Finding(
            key, f"{shown(value)} is not large enough: {needs}", "make it larger", ERROR, True
        )


def _size_name(size: int) -> str:
    for unit, letter in ((1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")):
        if size >= unit and size % unit == 0:
            return f'"{size // unit}{letter}"'
    return f'"{size}"'


def _other_sizes(manifest: Mapping[str, Any], release: str) -> Iterator[Finding]:
    for key in ("sys.stack.size", "sys.brk.max_size", "loader.pal_internal_mem_size"):
        value = value_at(manifest, key)
        if not isinstance(value, str) or (
            key == "loader.pal_internal_mem_size" and release != "1.3"
        ):
            continue
        # The loader's own reader: decimal, with a unit of either case.
        if not re.fullmatch(r"[0-9]+[KkMmGg]?", value, re.ASCII):
            problem = f"{shown(value)} is not a size"
            yield Finding(key, problem, "write it like 512K, 4M or 1G")


def _cpu_features(manifest: Mapping[str, Any], release: str) -> Iterator[Finding]:
    features = table_at(manifest, "sgx.cpu_features")
    avx, avx512 = features.get("avx"), features.get("avx512")
    if avx == "required" and avx512 == "disabled":
        yield Finding(
            "sgx.cpu_features.avx512",
            '"disabled" takes AVX away again, although sgx.cpu_features.avx is "required"',
            'leave avx512 "unspecified"',
            loads=True,
        )
    if avx == "disabled" and avx512 == "required":
        yield Finding(
            "sgx.cpu_features.avx",
            '"disabled" has no effect: avx512 = "required" switches AVX on',
            "ask for both or for neither",
            loads=True,
        )


def _debug_only(manifest: Mapping[str, Any], release: str) -> Iterator[Finding]:
    debug = value_at(manifest, "sgx.debug") is True
    asked = [
        key for key in ("sgx.enable_stats", "sgx.vtune_profile") if value_at(manifest, key) is True
    ]
    if value_at(manifest, "sgx.profile.enable") in ("main", "all"):
        asked.append("sgx.profile.enable")
    for key in asked:
        if debug:
            yield Finding(key, "works with a debug build of Gramine only", "leave it out", WARNING)
        else:
            problem = "is on in a production enclave; the loader refuses that"
            yield Finding(key, problem, "leave it out, or set sgx.debug = true for development")
    if debug:
        problem = "the host can read and change all memory of a debug enclave"
        yield Finding("sgx.debug", problem, "set it to false for production", WARNING)
    both = ("sgx.preheat_enclave", "sgx.edmm_enable")
    if release == "1.9" and all(value_at(manifest, key) is True for key in both):
        problem = "cannot be combined with sgx.edmm_enable: there is no heap to fault in"
        yield Finding("sgx.preheat_enclave", problem, "leave one of the two out")


def _attestation(manifest: Mapping[str, Any], release: str) -> Iterator[Finding]:
    epid = release == "1.3" and value_at(manifest, "sgx.remote_attestation") == "epid"
    if epid and not value_at(manifest, "sgx.ra_client_spid"):
        problem = "is needed for EPID attestation"
        yield Finding("sgx.ra_client_spid", problem, 'write the SPID, or use "dcap"')


def _arguments(manifest: Mapping[str, Any], release: str) -> Iterator[Finding]:
    loader = table_at(manifest, "loader")
    ways = [key for key in ("argv", "argv_src_file") if key in loader]
    if loader.get("insecure__use_cmdline_argv") is True:
        ways.append("insecure__use_cmdline_argv")
    if len(ways) > 1:
        names = ", ".join(f"loader.{way}" for way in ways)
        yield Finding(
            "loader", f"has {names}, of which only one may be used", "leave the others out"
        )
    if loader.get("argv") == []:
        yield Finding(
            "loader.argv", "is empty, so there is no argv[0]", "write the program's name first"
        )


def _environment(manifest: Mapping[str, Any], release: str) -> Iterator[Finding]:
    host_env = value_at(manifest, "loader.insecure__use_host_env") is True
    for name, value in table_at(manifest, "loader.env").items():
        key = dotted("loader.env", name)
        if not name or "=" in name or "\0" in name:
            problem = "is not a name that an environment variable can have"
            yield Finding(key, problem, "use letters, digits and underscores")
        if not isinstance(value, dict):
            continue
        has = {part for part in ("value", "passthrough") if part in value}
        if has == {"value", "passthrough"}:
            yield Finding(key, "has both a value and passthrough", "keep one of the two")
        elif not has:
            yield Finding(key, "has neither a value nor passthrough", "give it one of the two")
        if "passthrough" in has and host_env:
            problem = "passthrough has no effect: loader.insecure__use_host_env passes everything"
            yield Finding(key, problem, "leave insecure__use_host_env out", WARNING)


def _mixed_arrays(manifest: Mapping[str, Any], release: str) -> Iterator[Finding]:
    if release != "1.3":
        return
    for key in ("sgx.trusted_files", "sgx.allowed_files", "fs.mounts"):
        # Not the exact type: that parser has several kinds of dict.
        kinds = {isinstance(item, Mapping) for item in array_at(manifest, key)}
        if len(kinds) > 1:
            problem = "mixes strings and tables, and the TOML parser of Gramine 1.3 crashes on that"
            yield Finding(key, problem, "write all items in one form", ERROR, stock=True)


_RULES: tuple[Callable[[Mapping[str, Any], str], Iterator[Finding]], ...] = (
    _enclave_size,
    _other_sizes,
    _cpu_features,
    _debug_only,
    _attestation,
    _arguments,
    _environment,
    _mixed_arrays,
    file_findings,
    mount_findings,
    lint_findings,
)
