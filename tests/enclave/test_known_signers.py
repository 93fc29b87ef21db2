"""Signing keys that everybody has."""

import json
import re
from pathlib import Path

from imagekit.enclave.known_signers import KNOWN_SIGNERS, known_signer
from imagekit.enclave.sigstruct import mr_signer_of
from imagekit.signing.keyfile import load_modulus

GRAMINE = Path(__file__).parent.parent / "golden" / "gramine"


def test_the_key_of_our_own_tests_is_known():
    mr_signer = mr_signer_of(load_modulus(GRAMINE / "test-only-enclave-key.pem")).hex()
    assert "imagekit" in KNOWN_SIGNERS[mr_signer]
    expected = json.loads((GRAMINE / "c01-chroot" / "expected.json").read_text())
    assert expected["mr_signer"] == mr_signer


def test_the_keys_of_ehsm_and_occlum_are_known():
    ehsm = known_signer("c30446b4be9baf0f69728423ea613ef81a63e72acf7439fa0549001fd5482835")
    occlum = known_signer("83D719E77DEACA1470F6BAF62A4D774303C899DB69020F9C70EE1DFC08C7CE9E")
    assert "eHSM" in ehsm
    assert "Occlum" in occlum
    assert known_signer("00" * 32) is None


def test_all_are_of_one_form():
    assert all(re.fullmatch("[0-9a-f]{64}", mr_signer) for mr_signer in KNOWN_SIGNERS)
