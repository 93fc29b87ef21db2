"""What is known of Intel's attestation beforehand: its root, its quoting enclaves, its names.

All of this is public. The root certificate is published at
``https://certificates.trustedservices.intel.com/Intel_SGX_Provisioning_Certification_RootCA.cer``;
the identities of the quoting enclaves by Intel's provisioning certification service, below
``sgx/certification/v4/qe/identity`` and ``tdx/certification/v4/qe/identity``.
"""

from typing import NamedTuple

# Base64 of the DER; SHA-256 of the DER is
# 44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3, which a test holds.
_ROOT = """
MIICjzCCAjSgAwIBAgIUImUM1lqdNInzg7SVUr9QGzknBqwwCgYIKoZIzj0EAwIwaDEaMBgGA1UEAwwRSW50ZWwgU0
dYIFJvb3QgQ0ExGjAYBgNVBAoMEUludGVsIENvcnBvcmF0aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkGA1UE
CAwCQ0ExCzAJBgNVBAYTAlVTMB4XDTE4MDUyMTEwNDUxMFoXDTQ5MTIzMTIzNTk1OVowaDEaMBgGA1UEAwwRSW50ZW
wgU0dYIFJvb3QgQ0ExGjAYBgNVBAoMEUludGVsIENvcnBvcmF0aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkG
A1UECAwCQ0ExCzAJBgNVBAYTAlVTMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEC6nEwMDIYZOj/iPWsCzaEKi71O
iOSLRFhWGjbnBVJfVnkY4u3IjkDYYL0MxO4mqsyYjlBalTVYxFP2sJBK5zlKOBuzCBuDAfBgNVHSMEGDAWgBQiZQzW
Wp00ifODtJVSv1AbOScGrDBSBgNVHR8ESzBJMEegRaBDhkFodHRwczovL2NlcnRpZmljYXRlcy50cnVzdGVkc2Vydm
ljZXMuaW50ZWwuY29tL0ludGVsU0dYUm9vdENBLmRlcjAdBgNVHQ4EFgQUImUM1lqdNInzg7SVUr9QGzknBqwwDgYD
VR0PAQH/BAQDAgEGMBIGA1UdEwEB/wQIMAYBAf8CAQEwCgYIKoZIzj0EAwIDSQAwRgIhAOW/5QkR+S9CiSDcNoowLu
PRLsWGf/Yi7GSX94BgwTwgAiEA4J0lrHoMs+Xo5o/sX6O9QWxHRAvZUGOdRQ7cvqRXaqI=
"""


def _der(text: str) -> bytes:
    from base64 import b64decode

    return b64decode("".join(text.split()), validate=True)


INTEL_SGX_ROOT_CA = _der(_ROOT)
"""The certificate "Intel SGX Root CA", DER. Its name and key are what is trusted: until 2020 Intel
gave another certificate of the same name and key, and quotes may carry either."""

QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
"""QE vendor id of Intel's quoting enclaves, in a quote's header."""


class QuotingEnclave(NamedTuple):
    """Whose report vouches for an attestation key.

    Attributes:
        name: for messages.
        mr_signer: 64 lower-case hexadecimal digits.
        isv_prod_id: its product id.
    """

    name: str
    mr_signer: str
    isv_prod_id: int


SGX_QE = QuotingEnclave(
    "Intel's quoting enclave",
    "8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff",
    1,
)
"""Signs quotes of SGX enclaves."""

TD_QE = QuotingEnclave(
    "Intel's TD quoting enclave",
    "dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5",
    2,
)
"""Signs quotes of TDX virtual machines."""

PCK_NAME = "Intel SGX PCK Certificate"
"""Common name of every PCK certificate (PCK certificate profile, "PCK Certificate")."""

PCK_ISSUERS = ("Intel SGX PCK Processor CA", "Intel SGX PCK Platform CA")
"""Common names of the two authorities that issue them. The root issues others, too, whose
certificates say nothing of a platform: the one that signs TCB information, for one."""
