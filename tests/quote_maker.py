"""Quotes, certificates and collateral as Intel makes them, by an Intel of our own.

Written from Intel's descriptions of the formats and knows nothing of imagekit, so that the two can
disagree. Everything can be made wrong: a function takes what it writes.
"""

import hashlib
import json
import struct
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
START, END = NOW - timedelta(days=100), NOW + timedelta(days=100)
FMSPC = "00906ed50000"
COMPONENTS = (5, 5, 2, 4, 1, 128, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
PCE_SVN = 13
QE_SVN = 8
SGX_OID = "1.2.840.113741.1.13.1"
INTEL_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
SGX_QE_SIGNER = "8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff"
TD_QE_SIGNER = "dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5"
ENCLAVE, SIGNER = "e1" * 32, "51" * 32
TD = "7d" * 48


@cache
def key(name, curve=ec.SECP256R1):
    """A key by name, made once."""
    return ec.generate_private_key(curve())


def der(tag, *contents):
    content = b"".join(contents)
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    long = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(long)]) + long + content


def oid(*children):
    # 1.2.840.113741.1.13.1 in DER is 2a 8648 86f84d 01 0d 01
    return der(0x06, bytes.fromhex("2a864886f84d010d01") + bytes(children))


def integer(value):
    return der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def sgx_extension(fmspc=FMSPC, components=COMPONENTS, pce_svn=PCE_SVN, sgx_type=0, without=()):
    tcb = [
        der(0x30, oid(2, place), integer(svn))
        for place, svn in enumerate([*components, pce_svn], 1)
    ]
    tcb.append(der(0x30, oid(2, 18), der(0x04, bytes(components))))
    values = {
        1: der(0x04, bytes(range(16))),
        2: der(0x30, *tcb),
        3: der(0x04, bytes(2)),
        4: der(0x04, bytes.fromhex(fmspc)),
        5: der(0x0A, bytes([sgx_type])),
    }
    return der(0x30, *(der(0x30, oid(n), value) for n, value in values.items() if n not in without))


def name(common):
    return x509.Name(
        [
            x509.NameAttribute(x509.NameOID.COMMON_NAME, common),
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Intel Corporation"),
        ]
    )


@dataclass(frozen=True)
class Cert:
    """A certificate to be made."""

    subject: str
    issuer: str
    key: ec.EllipticCurvePrivateKey
    signer: ec.EllipticCurvePrivateKey
    ca: bool = True
    path: int | None = None
    usage: str = "issuer"
    extension: bytes | None = None
    start: datetime = START
    end: datetime = END
    serial: int = 1000
    digest: type[hashes.HashAlgorithm] = hashes.SHA256
    demanded: bool = False

    def make(self):
        builder = (
            x509.CertificateBuilder(name(self.issuer), name(self.subject), self.key.public_key())
            .serial_number(self.serial)
            .not_valid_before(self.start)
            .not_valid_after(self.end)
        )
        if self.ca is not None:
            builder = builder.add_extension(x509.BasicConstraints(self.ca, self.path), True)
        if self.usage:
            issuer = self.usage == "issuer"
            usage = x509.KeyUsage(
                not issuer, not issuer, False, False, False, issuer, issuer, False, False
            )
            builder = builder.add_extension(usage, True)
        ski = x509.SubjectKeyIdentifier.from_public_key
        aki = x509.AuthorityKeyIdentifier.from_issuer_public_key
        builder = builder.add_extension(ski(self.key.public_key()), False)
        builder = builder.add_extension(aki(self.signer.public_key()), False)
        crl = x509.DistributionPoint(
            [x509.UniformResourceIdentifier("https://crl.example/crl.der")], None, None, None
        )
        builder = builder.add_extension(x509.CRLDistributionPoints([crl]), False)
        if self.extension is not None:
            own = x509.UnrecognizedExtension(x509.ObjectIdentifier(SGX_OID), self.extension)
            builder = builder.add_extension(own, False)
        if self.demanded:
            unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0")
            builder = builder.add_extension(unknown, True)
        return builder.sign(self.signer, self.digest())


ROOT = Cert("Intel SGX Root CA", "Intel SGX Root CA", key("root"), key("root"), path=1, serial=1)
PLATFORM = Cert(
    "Intel SGX PCK Platform CA", "Intel SGX Root CA", key("ca"), key("root"), path=0, serial=2
)
PCK = Cert(
    "Intel SGX PCK Certificate",
    "Intel SGX PCK Platform CA",
    key("pck"),
    key("ca"),
    ca=False,
    usage="signer",
    extension=sgx_extension(),
    serial=3,
)
TCB_SIGNING = Cert(
    "Intel SGX TCB Signing",
    "Intel SGX Root CA",
    key("tcb"),
    key("root"),
    ca=False,
    usage="signer",
    serial=4,
)


def pem(*certs):
    return b"".join(cert.make().public_bytes(Encoding.PEM) for cert in certs)


def root_der(cert=ROOT):
    return cert.make().public_bytes(Encoding.DER)


def raw_key(private):
    numbers = private.public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def raw_signature(private, message):
    r, s = utils.decode_dss_signature(private.sign(message, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def report(enclave, signer, prod_id, svn, data, debug=False, cpu_svn=bytes(COMPONENTS)):
    return struct.pack(
        "<16sI28xQQ32s32x32s96xHH60x64s",
        cpu_svn,
        0,
        0x15 | 2 * debug,
        0xE7,
        bytes.fromhex(enclave),
        bytes.fromhex(signer),
        prod_id,
        svn,
        data,
    )


def td_report(td, data, debug=False, seam_signer=bytes(48), seam_attributes=0):
    return struct.pack(
        "<16s48s48sQQQ48s144x192x64s",
        bytes(16),
        b"\x5b" * 48,
        seam_signer,
        seam_attributes,
        0x1000_0000 | debug,
        0xE7,
        bytes.fromhex(td),
        data,
    )


@dataclass(frozen=True)
class Maker:
    """A quote to be made; `change` wants one thing otherwise.

    `qe_data` is what the quoting enclave's report says of the attestation key, if it lies.
    """

    version: int = 3
    tdx: bool = False
    enclave: str = ENCLAVE
    signer: str = SIGNER
    prod_id: int = 0
    svn: int = 0
    debug: bool = False
    report_data: bytes = bytes(64)
    td: str = TD
    seam_signer: bytes = bytes(48)
    seam_attributes: int = 0
    key_type: int = 2
    vendor: bytes = INTEL_VENDOR
    qe_signer: str = ""
    qe_prod_id: int = 0
    qe_svn: int = QE_SVN
    qe_debug: bool = False
    qe_data: bytes | None = None
    auth: bytes = bytes(range(32))
    attestation: ec.EllipticCurvePrivateKey = key("attestation")  # noqa: RUF009 - made once
    attestation_raw: bytes | None = None
    pck: ec.EllipticCurvePrivateKey = key("pck")  # noqa: RUF009
    chain: bytes = pem(PCK, PLATFORM, ROOT) + b"\0"
    chain_type: int = 5
    outer_type: int = 6
    in_data: bytes = b""
    after: bytes = b""

    def change(self, **values):
        return replace(self, **values)

    def signed(self):
        header = struct.pack(
            "<HHIHH16s20s",
            self.version,
            self.key_type,
            0x81 if self.tdx else 0,
            0 if self.tdx else self.qe_svn,
            0 if self.tdx else PCE_SVN,
            self.vendor,
            b"\x0a" * 16 + bytes(4),
        )
        if self.tdx:
            seam = self.seam_signer, self.seam_attributes
            return header + td_report(self.td, self.report_data, self.debug, *seam)
        ids = self.prod_id, self.svn
        return header + report(self.enclave, self.signer, *ids, self.report_data, self.debug)

    def qe_report(self):
        own = self.attestation_raw or raw_key(self.attestation)
        data = self.qe_data or hashlib.sha256(own + self.auth).digest() + bytes(32)
        signer = self.qe_signer or (TD_QE_SIGNER if self.tdx else SGX_QE_SIGNER)
        prod_id = self.qe_prod_id or (2 if self.tdx else 1)
        return report("0e" * 32, signer, prod_id, self.qe_svn, data, self.qe_debug)

    def build(self):
        signed, qe_report = self.signed(), self.qe_report()
        own = self.attestation_raw or raw_key(self.attestation)
        rest = qe_report + raw_signature(self.pck, qe_report)
        rest += struct.pack("<H", len(self.auth)) + self.auth
        rest += struct.pack("<HI", self.chain_type, len(self.chain)) + self.chain + self.in_data
        if self.version == 4:
            rest = struct.pack("<HI", self.outer_type, len(rest)) + rest
        rest = raw_signature(self.attestation, signed) + own + rest
        return signed + struct.pack("<I", len(rest)) + rest + self.after


V3 = Maker()
V4 = Maker(version=4)
V4_TD = Maker(version=4, tdx=True)


def stamp(moment):
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def crl(issuer, signer, revoked=(), start=START, end=END):
    builder = x509.CertificateRevocationListBuilder(name(issuer), start, end)
    builder = builder.add_extension(x509.CRLNumber(1), False)
    aki = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    builder = builder.add_extension(aki, False)
    for serial in revoked:
        one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(start)
        builder = builder.add_revoked_certificate(one.build())
    return builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.DER)


def level(status, components=COMPONENTS, pce_svn=PCE_SVN, advisories=()):
    return {
        "tcb": {"sgxtcbcomponents": [{"svn": svn} for svn in components], "pcesvn": pce_svn},
        "tcbDate": stamp(START),
        "tcbStatus": status,
        **({"advisoryIDs": list(advisories)} if advisories else {}),
    }


def tcb_info(levels, end=END, fmspc=FMSPC):
    return {
        "id": "SGX",
        "version": 3,
        "issueDate": stamp(START),
        "nextUpdate": stamp(end),
        "fmspc": fmspc.upper(),
        "pceId": "0000",
        "tcbType": 0,
        "tcbEvaluationDataNumber": 17,
        "tcbLevels": levels,
    }


def qe_identity(end=END, status="UpToDate"):
    return {
        "id": "QE",
        "version": 2,
        "issueDate": stamp(START),
        "nextUpdate": stamp(end),
        "tcbEvaluationDataNumber": 17,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": SGX_QE_SIGNER.upper(),
        "isvprodid": 1,
        "tcbLevels": [{"tcb": {"isvsvn": QE_SVN}, "tcbDate": stamp(START), "tcbStatus": status}],
    }


def collateral(info=None, identity=None, revoked=(), revoked_issuers=(), signer=None, end=END):
    """What Intel says of platforms, in the form of dcap-qvl's files."""
    signer = signer or key("tcb")
    info = json.dumps(info or tcb_info([level("UpToDate")], end), separators=(",", ":"))
    identity = json.dumps(identity or qe_identity(end), separators=(",", ":"))
    chain = pem(TCB_SIGNING, ROOT).decode()
    return {
        "pck_crl_issuer_chain": pem(PLATFORM, ROOT).decode(),
        "root_ca_crl": crl("Intel SGX Root CA", key("root"), revoked_issuers, end=end).hex(),
        "pck_crl": crl("Intel SGX PCK Platform CA", key("ca"), revoked, end=end).hex(),
        "tcb_info_issuer_chain": chain,
        "tcb_info": info,
        "tcb_info_signature": raw_signature(signer, info.encode()).hex(),
        "qe_identity_issuer_chain": chain,
        "qe_identity": identity,
        "qe_identity_signature": raw_signature(signer, identity.encode()).hex(),
    }
