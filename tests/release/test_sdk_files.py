"""``inspect`` and ``measure`` of enclave files of the Intel SGX SDK."""

import json
from pathlib import Path

import pytest
from conftest import error_lines

GOLDEN = Path(__file__).parents[1] / "golden" / "sgx-sdk"
CASES = sorted(path.name for path in (GOLDEN / "cases").iterdir())


@pytest.mark.parametrize("case", CASES)
def test_a_signed_file_measures_to_what_the_sdk_signed(case, imagekit):
    folder = GOLDEN / "cases" / case
    expected = json.loads((folder / "expected.json").read_text())
    code, out, _ = imagekit("measure", folder / "signed.so", "--json")
    assert code == 0
    assert json.loads(out)["mr_enclave"] == expected["mr_enclave"]
    code, out, _ = imagekit("inspect", folder / "signed.so", "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["signed"] is True
    assert facts["sigstruct"]["mr_enclave"] == expected["mr_enclave"]
    assert facts["sigstruct"]["mr_signer"] == expected["mr_signer"]
    assert facts["memory"]["committed"] == expected["required_memory_bytes"]
    assert facts["metadata"]["enclave_size"] == expected["enclave_size"]
    assert facts["regions"]


def test_a_file_that_was_never_signed_says_so(imagekit):
    unsigned = GOLDEN / "mini_tls.so"
    code, out, _ = imagekit("inspect", unsigned, "--json")
    assert code == 0
    assert json.loads(out)["signed"] is False
    code, _, err = imagekit("measure", unsigned)
    assert code == 3
    assert "not signed" in error_lines(err)[0]


def test_a_changed_byte_measures_to_something_else(imagekit, tmp_path):
    signed = bytearray((GOLDEN / "cases" / "mini_tls.none" / "signed.so").read_bytes())
    expected = json.loads((GOLDEN / "cases" / "mini_tls.none" / "expected.json").read_text())
    signed[0x1000] ^= 1  # the first byte of its code
    changed = tmp_path / "changed.so"
    changed.write_bytes(signed)
    code, out, _ = imagekit("measure", changed, "--json")
    assert code == 0
    assert json.loads(out)["mr_enclave"] != expected["mr_enclave"]


def test_what_is_no_enclave_is_refused(imagekit, tmp_path):
    text = tmp_path / "x.so"
    text.write_text("no enclave at all")
    for command in ("measure", "inspect"):
        code, _, err = imagekit(command, text)
        assert code in (3, 5)
        assert str(text) in error_lines(err)[0]
    code, _, err = imagekit("measure", tmp_path / "absent.so")
    assert code == 3
    assert "absent.so" in error_lines(err)[0]


def test_a_changed_signature_is_refused(imagekit, tmp_path):
    case = GOLDEN / "cases" / "mini_tls.none"
    data = bytearray((case / "signed.so").read_bytes())
    at = data.index((case / "sigstruct.css").read_bytes())
    data[at + 600] ^= 1
    broken = tmp_path / "broken.so"
    broken.write_bytes(data)
    code, _, err = imagekit("inspect", broken)
    assert code == 5
    assert "signature" in error_lines(err)[0]
