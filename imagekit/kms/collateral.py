"""Collateral: what Intel says of platforms and quoting enclaves, and what it has revoked.

It is fetched elsewhere, from a PCCS or from Intel's provisioning certification service (PCS), and
given as files. Three forms are read:

| form | is |
|---|---|
| file, as dcap-qvl writes it | JSON; signatures apart from ``tcb_info`` and ``qe_identity`` |
| file, as Intel's library takes it | the same, signatures inside, as the PCS answers |
| folder | one file per answer of the PCS or PCCS, and its issuer chain from the answer's header |

The signature of TCB information and of an identity is over its text as it was sent, so that text is
cut out and never written anew (Intel's PCS API documentation, version 4, "Get TCB Info").
"""

import json
import re
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from imagekit.errors import InputError
from imagekit.files import disk_error

LARGEST_FILE = 1 << 24
"""Bytes. Lists of revoked certificates are the largest, some hundred kilobytes."""

FILES: Mapping[str, tuple[str, ...]] = {
    "tcb_info": ("tcb_info.json",),
    "tcb_info_issuer_chain": ("tcb_info_issuer_chain.pem",),
    "qe_identity": ("qe_identity.json",),
    "qe_identity_issuer_chain": ("qe_identity_issuer_chain.pem",),
    "pck_crl": ("pck_crl.der", "pck_crl.pem", "pck_crl.hex"),
    "pck_crl_issuer_chain": ("pck_crl_issuer_chain.pem",),
    "root_ca_crl": ("root_ca_crl.der", "root_ca_crl.pem", "root_ca_crl.hex"),
}
"""Names of the files in a folder, by what they hold; one of each is enough."""

_BODIES = {"tcb_info": "tcbInfo", "qe_identity": "enclaveIdentity"}
_HINT = "fetch it anew from the PCCS, or from Intel's provisioning certification service"


@dataclass(frozen=True)
class Collateral:
    """Everything that decides on a platform's state; nothing of it is checked yet.

    Attributes:
        tcb_info, qe_identity: JSON, the text as signed.
        tcb_info_signature, qe_identity_signature: 64 bytes each.
        tcb_info_issuer_chain, qe_identity_issuer_chain, pck_crl_issuer_chain: PEM.
        pck_crl, root_ca_crl: DER.
    """

    tcb_info: str
    tcb_info_signature: bytes
    tcb_info_issuer_chain: str
    qe_identity: str
    qe_identity_signature: bytes
    qe_identity_issuer_chain: str
    pck_crl: bytes
    pck_crl_issuer_chain: str
    root_ca_crl: bytes

    def to_json(self) -> str:
        """Give it in dcap-qvl's form."""
        return json.dumps(
            {
                name: value.hex() if isinstance(value, bytes) else value
                for name, value in asdict(self).items()
            }
        )

    @property
    def valid_until(self) -> str:
        """The first ``nextUpdate`` of TCB information and identity; "" if they do not say."""
        dates = []
        for text in (self.tcb_info, self.qe_identity):
            try:
                date = json.loads(text)["nextUpdate"]
                datetime.fromisoformat(date)
            except (ValueError, TypeError, KeyError, RecursionError):
                return ""
            dates.append(str(date))
        return min(dates)  # all are of one form, in UTC


def read_collateral(path: Path) -> Collateral:
    """Read collateral in any of its forms.

    Args:
        path: file or folder.

    Raises:
        InputError: it is not there, not readable, or incomplete.
    """
    values = _read_folder(path) if path.is_dir() else _read_file(path)
    try:
        return _collateral(values)
    except ValueError as error:
        raise InputError(f"{path}: no collateral for a quote: {error}", _HINT) from None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise disk_error(error, path, "read the collateral") from None
    if len(data) > LARGEST_FILE:
        raise InputError(f"{path}: it is too large for collateral", _HINT)
    return data


def _read_file(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(_read(path))
    except (ValueError, RecursionError):
        raise InputError(f"{path}: no collateral for a quote: it is not JSON", _HINT) from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: no collateral for a quote: it is no JSON object", _HINT)
    return values


def _read_folder(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, files in FILES.items():
        there = [path / file for file in files if (path / file).exists()]
        if len(there) != 1:
            wrong = "there is more than one" if there else "there is no"
            raise InputError(f"{path}: {wrong} {' or '.join(files)}", _HINT)
        values[name] = _read(there[0])
    return values


def _collateral(values: Mapping[str, Any]) -> Collateral:
    tcb_info, tcb_info_signature = _signed(values, "tcb_info")
    qe_identity, qe_identity_signature = _signed(values, "qe_identity")
    return Collateral(
        tcb_info=tcb_info,
        tcb_info_signature=tcb_info_signature,
        tcb_info_issuer_chain=_chain(values, "tcb_info_issuer_chain"),
        qe_identity=qe_identity,
        qe_identity_signature=qe_identity_signature,
        qe_identity_issuer_chain=_chain(values, "qe_identity_issuer_chain"),
        pck_crl=_crl(values, "pck_crl"),
        pck_crl_issuer_chain=_chain(values, "pck_crl_issuer_chain"),
        root_ca_crl=_crl(values, "root_ca_crl"),
    )


def _signed(values: Mapping[str, Any], name: str) -> tuple[str, bytes]:
    """Give a signed text and its signature, whether they come together or apart."""
    text = _text(values, name)
    members = _members(text, name)
    body = _BODIES[name]
    if body in members:
        signature = json.loads(members.get("signature", "null"))
        text = members[body]
    else:
        signature = values.get(f"{name}_signature")
    if not isinstance(signature, str) or not re.fullmatch("[0-9A-Fa-f]{128}", signature):
        raise ValueError(f"{name} has no signature of 64 bytes in hexadecimal digits")
    return text, bytes.fromhex(signature)


def _members(text: str, name: str) -> dict[str, str]:
    """Give the members of a JSON object, each as the very text that stands there."""
    decoder, space = json.JSONDecoder(), re.compile(r"\s*")
    found: dict[str, str] = {}

    def after(at: int, char: str) -> int:
        at = space.match(text, at).end()  # type: ignore[union-attr]  # it matches nothing, too
        if text[at : at + 1] not in tuple(char):
            raise ValueError(f"{name} is no JSON object")
        return space.match(text, at + 1).end()  # type: ignore[union-attr]

    try:
        at = after(0, "{")
        while True:
            key, at = decoder.raw_decode(text, at)
            start = after(at, ":")
            _, at = decoder.raw_decode(text, start)
            if not isinstance(key, str) or key in found:
                raise ValueError(f"{name} has a member twice")
            found[key] = text[start:at]
            following = after(at, ",}")
            if text[at:following].strip() == "}":
                break
            at = following
    except (json.JSONDecodeError, RecursionError):
        raise ValueError(f"{name} is no JSON object") from None
    if text[following:]:
        raise ValueError(f"something follows the JSON object of {name}")
    return found


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise ValueError(f"{name} is no text") from None
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} is missing")
    return value


def _chain(values: Mapping[str, Any], name: str) -> str:
    """Give a chain as PEM; in a header of an answer it is URL-encoded."""
    text = _text(values, name).rstrip("\0").strip()
    if text.startswith("-----BEGIN%20"):
        text = unquote(text).strip()
    if not text.startswith("-----BEGIN CERTIFICATE-----"):
        raise ValueError(f"{name} has no certificates as PEM")
    return text + "\n"


def _crl(values: Mapping[str, Any], name: str) -> bytes:
    """Give a list of revoked certificates as DER: it comes as DER, PEM, or hexadecimal DER."""
    from cryptography import x509

    value = values.get(name)
    if isinstance(value, bytes) and value[:1] == b"\x30" and value[1:2] >= b"\x80":
        der = value
    else:
        der = _der(_text(values, name).rstrip("\0").strip(), name)
    try:
        x509.load_der_x509_crl(der)
    except ValueError:
        raise ValueError(f"{name} is no list of revoked certificates") from None
    return der


def _der(text: str, name: str) -> bytes:
    pem = re.fullmatch(r"-----BEGIN X509 CRL-----([A-Za-z0-9+/=\s]+)-----END X509 CRL-----", text)
    try:
        return b64decode(pem[1]) if pem else bytes.fromhex(text)
    except ValueError:
        raise ValueError(f"{name} is neither DER nor PEM nor hexadecimal digits") from None
