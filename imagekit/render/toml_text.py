"""Manifest text: TOML read and written exactly as each Gramine release does.

The text is measured, so a byte more or less is another enclave. Gramine 1.4 and later read with
tomli and write with tomli_w (the reader is in the standard library as tomllib, the same code);
Gramine 1.3 reads and writes with ``toml`` 0.10.2, whose style differs.
"""

import tomllib
from collections.abc import Mapping
from typing import Any

from imagekit.enclave.releases import GRAMINE_1_3, Release
from imagekit.errors import InputError


def parse_toml(text: str, release: Release, name: str) -> dict[str, Any]:
    """Parse a manifest.

    Args:
        text: TOML.
        release: whose parser is used.
        name: the file's name, for error messages.

    Raises:
        InputError: not valid TOML (or, for 1.3, not what that release's parser takes).
    """
    if release is not GRAMINE_1_3:
        try:
            return tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise InputError(f"{name}: {_one_line(error)}", "mend the TOML text") from None
    import toml

    try:
        return toml.loads(text)
    except (
        toml.TomlDecodeError,
        IndexError,
        TypeError,
        ValueError,
        AttributeError,
        KeyError,
    ) as error:
        raise InputError(
            f"{name}: Gramine 1.3 cannot read this TOML: {_one_line(error)}",
            "1.3 takes no arrays that mix strings and tables, among others",
        ) from None


def dump_toml(manifest: Mapping[str, Any], release: Release) -> bytes:
    """Write a manifest as that release's tools do; UTF-8 bytes.

    Raises:
        InputError: a text in it, such as a file's name, is not Unicode.
    """
    if release is GRAMINE_1_3:
        import toml

        text = toml.dumps(manifest)
    else:
        import tomli_w

        text = tomli_w.dumps(manifest)
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        line = text[: error.start].rpartition("\n")[2] + text[error.start :].partition("\n")[0]
        raise InputError(
            f"{line!a}: a name that is not UTF-8 cannot stand in a manifest",
            "rename the file, or leave its folder out of sgx.trusted_files",
        ) from None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
