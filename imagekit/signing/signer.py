"""What a signer is: 256 bytes in, modulus and signature out.

The message is a SIGSTRUCT's to-be-signed block. Where the private key lives (a file, a token,
another machine) is the signer's business alone; nothing else of imagekit ever sees it.
"""

from dataclasses import replace
from typing import Protocol

from imagekit.enclave.sigstruct import (
    KEY_BYTES,
    SigStruct,
    SigStructBody,
    parse_sigstruct,
    signature_fits,
)
from imagekit.errors import SigningError


class Signer(Protocol):
    """Signs to-be-signed blocks with one RSA-3072 key, e = 3."""

    @property
    def modulus(self) -> int:
        """The public modulus, a 3072-bit number."""

    def sign(self, message: bytes) -> int:
        """Give the PKCS#1 v1.5 SHA-256 signature of `message` (256 bytes) as a number.

        Raises:
            SigningError: the key cannot be used.
        """


def sign_body(body: SigStructBody, signer: Signer) -> SigStruct:
    """Sign an enclave description and check the signature just made, whatever made it.

    Raises:
        SigningError: the signer failed, or what it gave does not fit.
    """
    message = body.to_be_signed()
    modulus, signature = signer.modulus, signer.sign(message)
    if modulus.bit_length() != 8 * KEY_BYTES or not signature_fits(message, modulus, signature):
        raise SigningError(
            "the signer gave a signature that does not fit",
            "check that it signs SHA-256 with PKCS#1 v1.5 and an RSA-3072 key with e = 3",
        )
    sigstruct = SigStruct(replace(body), modulus, signature)
    parse_sigstruct(sigstruct.to_bytes())
    return sigstruct
