"""Enclave signing keys that everybody has: an mr_signer of these says nothing of who signed."""

INTEL_SAMPLE = "83d719e77deaca1470f6baf62a4d774303c899db69020f9c70ee1dfc08c7ce9e"
"""mr_signer of the key in Intel's samples, which Occlum ships as its default."""

KNOWN_SIGNERS: dict[str, str] = {
    "c30446b4be9baf0f69728423ea613ef81a63e72acf7439fa0549001fd5482835": (
        "the key in eHSM's own repository"
    ),
    INTEL_SAMPLE: ("Intel's sample key, which Occlum signs with unless it is given another one"),
    "a252b71659792e8d0387d8af7659b68dd26b01633476ae2c64fc1dba7f740676": (
        "the key of imagekit's own tests"
    ),
    "45ee84c0240c9dc65c49b5cfdd442b5924631b4e2fe4ab7059a86937d065073a": (
        "the key of imagekit's own tests"
    ),
}
"""mr_signer, 64 lower-case hexadecimal digits, to where its private key is published."""


def known_signer(mr_signer: str) -> str | None:
    """Say where the private key of an mr_signer is published; None if that is not known."""
    return KNOWN_SIGNERS.get(mr_signer.lower())
