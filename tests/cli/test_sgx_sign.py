"""The drop-in ``sgx_sign`` against what the SDK's own tool gave, and what it must refuse."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import error_lines
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from sdk_enclaves import Recipe, make_enclave

from imagekit.enclave.known_signers import INTEL_SAMPLE
from imagekit.enclave.sdk.signed import read_enclave
from imagekit.enclave.sigstruct import SIZE, mr_signer_of, parse_sigstruct
from imagekit.signing.keyfile import load_modulus

GOLDEN = Path(__file__).parent.parent / "golden" / "sgx-sdk"
CASES = sorted(path.name for path in (GOLDEN / "cases").iterdir())
NEGATIVE = {
    case["name"]: case for case in json.loads((GOLDEN / "negative.json").read_text())["cases"]
}
TOOL = ("tool", "sgx-sign")
DEFAULT = GOLDEN / "cases" / "mini_tls.occlum_default"
DAY = ("--date", "2026-11-22")


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "key.pem"
    shutil.copyfile(GOLDEN / "test-only-signing-key.pem", path)
    path.chmod(0o600)
    return path


@pytest.fixture
def public():
    return GOLDEN / "test-only-signing-key.pub.pem"


def made_key(path, exponent=3, bits=3072):
    made = rsa.generate_private_key(exponent, bits)
    path.write_bytes(
        made.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    path.chmod(0o600)
    return path


def inputs_of(name):
    case = GOLDEN / "cases" / name
    expected = json.loads((case / "expected.json").read_text())
    config = ["-config", case / "config.xml"] if (case / "config.xml").exists() else []
    return case, expected, ["-enclave", GOLDEN / expected["enclave"], *config, "-ignore-rel-error"]


@pytest.mark.parametrize("name", CASES)
def test_sign_gives_the_bytes_of_the_sdks_tool(name, in_folder, imagekit, key):
    case, expected, inputs = inputs_of(name)
    outputs = "-out", "out.so", "-cssfile", "out.css", "-dumpfile", "out.txt"
    code, out, err = imagekit(*TOOL, "sign", *inputs, "-key", key, *outputs, *DAY)
    assert code == 0, err
    assert (in_folder / "out.so").read_bytes() == (case / "signed.so").read_bytes()
    assert (in_folder / "out.css").read_bytes() == (case / "sigstruct.css").read_bytes()
    assert f"mr_enclave       : {expected['mr_enclave']}\n" in out
    assert f"mr_signer        : {expected['mr_signer']}\n" in out
    text = (in_folder / "out.txt").read_text()
    assert hashes_of(text) == (expected["mr_enclave"], expected["mr_signer"])
    assert f"required memory: {expected['required_memory_bytes']} bytes" in err


@pytest.mark.parametrize("name", CASES)
def test_signing_elsewhere_gives_the_same_bytes(name, in_folder, imagekit, key, public):
    case, expected, inputs = inputs_of(name)
    code, out, err = imagekit(*TOOL, "gendata", *inputs, "-out", "t.tbs", *DAY)
    assert code == 0, err
    assert expected["mr_enclave"] in out
    assert (in_folder / "t.tbs").read_bytes() == (case / "signing-material.tbs").read_bytes()
    subprocess.run(
        ["openssl", "dgst", "-sha256", "-sign", key, "-out", "t.sig", "t.tbs"], check=True
    )
    assert (in_folder / "t.sig").read_bytes() == (case / "signature.sig").read_bytes()
    parts = "-key", public, "-sig", "t.sig", "-unsigned", "t.tbs"
    code, out, err = imagekit(*TOOL, "catsig", *inputs, *parts, "-out", "o.so", "-cssfile", "o.css")
    assert code == 0, err
    assert expected["mr_signer"] in out
    assert (in_folder / "o.so").read_bytes() == (case / "signed.so").read_bytes()
    assert (in_folder / "o.css").read_bytes() == (case / "sigstruct.css").read_bytes()


def refused(code, err, wanted, folder):
    assert code == wanted, err
    line, hint = error_lines(err)
    assert hint
    assert not (folder / "o.so").exists()
    return line


CONFIGS = sorted(name for name, case in NEGATIVE.items() if "config" in case)


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations_that_the_sdk_refuses(name, in_folder, imagekit, key):
    (in_folder / "x.xml").write_text(NEGATIVE[name]["config"])
    given = "-enclave", GOLDEN / "mini_tls.so", "-config", "x.xml"
    for command in (("sign", "-key", key), ("gendata",)):
        code, _, err = imagekit(*TOOL, *command, *given, "-out", "o.so")
        assert "x.xml" in refused(code, err, 3, in_folder)


def test_keys_and_files_that_the_sdk_refuses(in_folder, imagekit, key):
    plain = "-enclave", GOLDEN / "mini_tls.so", "-out", "o.so"
    for exponent, bits, words in ((65537, 3072, "exponent is 65537"), (3, 2048, "2048 bits")):
        wrong = made_key(in_folder / "wrong.pem", exponent, bits)
        code, _, err = imagekit(*TOOL, "sign", *plain, "-key", wrong)
        assert words in refused(code, err, 6, in_folder)
    code, _, err = imagekit(*TOOL, "sign", *plain, "-key", GOLDEN / "test-only-signing-key.pub.pem")
    assert "public key" in refused(code, err, 3, in_folder)

    signed = DEFAULT / "signed.so"
    code, _, err = imagekit(*TOOL, "sign", "-enclave", signed, "-out", "o.so", "-key", key)
    assert "signed already" in refused(code, err, 6, in_folder)
    code, _, err = imagekit(*TOOL, "gendata", "-enclave", signed, "-out", "o.so")
    assert "signed already" in refused(code, err, 6, in_folder)

    text = "-enclave", GOLDEN / "mini_textrel.so", "-out", "o.so"
    code, _, err = imagekit(*TOOL, "sign", *text, "-key", key)
    assert "text relocations, at 0x1096" in refused(code, err, 3, in_folder)
    code, _, err = imagekit(*TOOL, "sign", *text, "-key", key, "-ignore-rel-error")
    assert code == 0
    assert "warning: " in err
    assert "text relocations" in err


def test_signatures_that_do_not_belong_are_refused(in_folder, imagekit, key, public):
    case = DEFAULT
    good = {
        "-enclave": GOLDEN / "mini_tls.so",
        "-config": case / "config.xml",
        "-key": public,
        "-sig": case / "signature.sig",
        "-unsigned": case / "signing-material.tbs",
        "-out": "o.so",
    }

    def catsig(**changes):
        words = {**good, **{f"-{name}": value for name, value in changes.items()}}
        return imagekit(*TOOL, "catsig", *[word for pair in words.items() for word in pair])

    other = GOLDEN / "cases" / "mini_tls.occlum_kss" / "config.xml"
    line = refused(*catsig(config=other)[::2], 5, in_folder)
    assert "attributes" in line and "measurement" not in line
    line = refused(*catsig(enclave=GOLDEN / "mini_notls.so")[::2], 5, in_folder)
    assert "measurement" in line

    made_key(in_folder / "other.pem")
    command = "openssl pkey -in other.pem -pubout -out other.pub.pem"
    subprocess.run(command.split(), check=True)
    assert "no signature" in refused(*catsig(key="other.pub.pem")[::2], 6, in_folder)
    assert "private key" in refused(*catsig(key=key)[::2], 3, in_folder)
    for exponent, bits in ((65537, 3072), (3, 2048)):
        made_key(in_folder / "other.pem", exponent, bits)
        subprocess.run(command.split(), check=True)
        refused(*catsig(key="other.pub.pem")[::2], 6, in_folder)

    signature = (case / "signature.sig").read_bytes()
    material = (case / "signing-material.tbs").read_bytes()
    for content in (b"", signature[:100], signature + b"\0"):
        (in_folder / "x.sig").write_bytes(content)
        assert "384 bytes" in refused(*catsig(sig="x.sig")[::2], 3, in_folder)
    (in_folder / "x.sig").write_bytes(signature[::-1])
    assert "no signature" in refused(*catsig(sig="x.sig")[::2], 6, in_folder)
    for content in (b"", material[:-1], material + b"\0"):
        (in_folder / "x.tbs").write_bytes(content)
        assert "256 bytes" in refused(*catsig(unsigned="x.tbs")[::2], 3, in_folder)
    for position in range(0, 256, 7):
        changed = bytearray(material)
        changed[position] ^= 1
        (in_folder / "x.tbs").write_bytes(changed)
        code = 6 if 20 <= position < 24 else 5
        refused(*catsig(unsigned="x.tbs")[::2], code, in_folder)

    # Another date alone is fine, if that is what was signed.
    (in_folder / "x.tbs").write_bytes(material[:20] + bytes.fromhex("01022020") + material[24:])
    subprocess.run(
        ["openssl", "dgst", "-sha256", "-sign", key, "-out", "x.sig", "x.tbs"], check=True
    )
    code, _, err = catsig(unsigned="x.tbs", sig="x.sig")
    assert code == 0, err
    signed = read_enclave((in_folder / "o.so").read_bytes(), "o.so").enclave_sigstruct()
    assert signed.body.date == bytes.fromhex("01022020")


# Signing again


@pytest.mark.parametrize("name", [name for name in CASES if "mini_tls" in name])
@pytest.mark.parametrize("with_config", [True, False])
def test_signing_again_gives_the_same_bytes(name, with_config, in_folder, imagekit, key):
    case, expected, _ = inputs_of(name)
    config = case / "config.xml"
    given = ["-config", config] if with_config and config.exists() else []
    sign = "sign", "-enclave", case / "signed.so", "-key", key, "-out", "o.so", "-resign"
    code, out, err = imagekit(*TOOL, *sign, *given, *DAY)
    assert code == 0, err
    assert expected["mr_enclave"] in out
    assert (in_folder / "o.so").read_bytes() == (case / "signed.so").read_bytes()
    assert ("keeps the layout" in err) == (not given)


def test_a_new_configuration_lays_an_enclave_of_the_known_sdk_out_anew(in_folder, imagekit, key):
    case = GOLDEN / "cases" / "mini_tls.occlum_edmm"
    given = "-enclave", DEFAULT / "signed.so", "-config", case / "config.xml", "-out", "o.so"
    code, _, err = imagekit(*TOOL, "sign", *given, "-key", key, "-resign", *DAY)
    assert code == 0, err
    assert (in_folder / "o.so").read_bytes() == (case / "signed.so").read_bytes()


def of_another_sdk(folder, key, imagekit):
    """Sign as the known SDK, and say that it was another: the layout is as good as any."""
    (folder / "u.so").write_bytes(make_enclave())
    words = "-enclave", "u.so", "-key", key, "-out", "s.so", *DAY
    assert imagekit(*TOOL, "sign", *words)[0] == 0
    other = (2 << 32 | 17 << 16 | 101).to_bytes(8, "little")
    known = (2 << 32 | 26 << 16 | 100).to_bytes(8, "little")
    data = (folder / "s.so").read_bytes()
    assert data.count(known) == 1
    (folder / "s.so").write_bytes(data.replace(known, other))


def test_an_enclave_of_another_sdk_keeps_its_layout(in_folder, imagekit, key):
    of_another_sdk(in_folder, key, imagekit)
    again = "sign", "-enclave", "s.so", "-key", key, "-out", "o.so", "-resign", *DAY
    code, kept, err = imagekit(*TOOL, *again)
    assert code == 0, err
    assert (in_folder / "o.so").read_bytes() == (in_folder / "s.so").read_bytes()

    config = in_folder / "x.xml"
    root = "<EnclaveConfiguration>{}</EnclaveConfiguration>"
    config.write_text(root.format("<ProdID>9</ProdID><DisableDebug>1</DisableDebug>"))
    code, out, err = imagekit(*TOOL, *again, "-config", config)
    assert code == 0, err
    assert out == kept  # ids and debugging are not measured
    body = read_enclave((in_folder / "o.so").read_bytes(), "o.so").enclave_sigstruct().body
    assert body.isv_prod_id == 9
    assert body.flags_mask & 2

    (in_folder / "o.so").unlink()
    config.write_text(root.format("<HeapMaxSize>0x2000000</HeapMaxSize>"))
    line = refused(*imagekit(*TOOL, *again, "-config", config)[::2], 3, in_folder)
    assert "HeapInitSize is 0x2000000" in line


def test_an_unsigned_enclave_of_another_sdk_is_named_and_refused(in_folder, imagekit, key):
    (in_folder / "u.so").write_bytes(make_enclave(Recipe(sdk=(2, 17, 101))))
    code, _, err = imagekit(*TOOL, "sign", "-enclave", "u.so", "-key", key, "-out", "o.so")
    line = refused(code, err, 3, in_folder)
    assert "2.17.101" in line
    assert "-resign" in err


def test_a_file_that_changed_after_signing_is_told(in_folder, imagekit, key):
    data = bytearray((DEFAULT / "signed.so").read_bytes())
    data[0x1040] ^= 1  # in the code
    (in_folder / "s.so").write_bytes(data)
    words = "-enclave", "s.so", "-key", key, "-out", "o.so", "-resign"
    code, out, err = imagekit(*TOOL, "sign", *words)
    assert code == 0, err
    assert "changed after it was signed" in err
    assert json.loads((DEFAULT / "expected.json").read_text())["mr_enclave"] not in out


# Dump


def hashes_of(text):
    """What the scripts of BigDL and Occlum read: after a line, and the last two lines."""
    lines = text.splitlines()
    at = next(number for number, line in enumerate(lines) if "enclave_hash.m" in line)
    return tuple(
        "".join(" ".join(pair).replace("0x", "").split())
        for pair in (lines[at + 1 : at + 3], lines[-2:])
    )


def test_dump_is_read_by_the_scripts_of_others(in_folder, imagekit):
    expected = json.loads((DEFAULT / "expected.json").read_text())
    words = "dump", "-enclave", DEFAULT / "signed.so", "-dumpfile", "d.txt", "-cssfile", "d.css"
    code, out, err = imagekit(*TOOL, *words)
    assert (code, out) == (0, ""), err
    shell = "sed -n '/enclave_hash.m/,/isv_prod_id/p' d.txt | head -3 | tail -2 | xargs"
    for command, name in ((shell, "mr_enclave"), ("tail -2 d.txt | xargs", "mr_signer")):
        line = f"{command} | sed 's/0x//g' | sed 's/ //g'"
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True)
        assert done.stdout == f"{expected[name]}\n"
    text = (in_folder / "d.txt").read_text()
    assert re.search(r"^metadata->enclave_css\.body\.enclave_hash\.m:$", text, re.M)
    assert text.splitlines()[-3] == "mrsigner->value:"
    assert "metadata->enclave_css.header.date: 0x20261122\n" in text
    assert "metadata->enclave_size: 0x20000000\n" in text
    assert (in_folder / "d.css").read_bytes() == (DEFAULT / "sigstruct.css").read_bytes()
    code, out, _ = imagekit(*TOOL, "dump", "-enclave", DEFAULT / "signed.so")
    assert (code, out) == (0, text)


def test_dump_of_an_unsigned_file_is_zeros(in_folder, imagekit):
    words = "-enclave", GOLDEN / "mini_tls.so", "-dumpfile", "d.txt", "-cssfile", "d.css"
    code, _, err = imagekit(*TOOL, "dump", *words)
    assert code == 0
    assert "not signed" in err
    assert hashes_of((in_folder / "d.txt").read_text()) == ("0" * 64, "0" * 64)
    assert (in_folder / "d.css").read_bytes() == bytes(SIZE)


def test_dump_shows_a_broken_signature_and_says_so(in_folder, imagekit):
    data = bytearray((DEFAULT / "signed.so").read_bytes())
    block = read_enclave(bytes(data), "x").blocks[0].offset
    data[block + 64 + 960] ^= 1
    (in_folder / "s.so").write_bytes(data)
    code, out, err = imagekit(*TOOL, "dump", "-enclave", "s.so")
    assert code == 0
    assert "warning: s.so: the signature does not fit" in err
    assert hashes_of(out)[0] != json.loads((DEFAULT / "expected.json").read_text())["mr_enclave"]


# Options


ALL = {
    "sign": ["-enclave", "e", "-key", "k", "-out", "o"],
    "gendata": ["-enclave", "e", "-out", "o"],
    "catsig": ["-enclave", "e", "-key", "k", "-sig", "s", "-unsigned", "t", "-out", "o"],
    "dump": ["-enclave", "e", "-dumpfile", "d"],
}


@pytest.mark.parametrize("command", ALL)
def test_the_command_line_is_as_strict_as_the_sdks(command, in_folder, imagekit):
    words = ALL[command]

    def usage(*changed):
        code, _, err = imagekit(*TOOL, command, *changed)
        assert code == 2, err
        return error_lines(err)[0]

    required = words[::2] if command != "dump" else ["-enclave"]
    for option in required:
        at = words.index(option)
        assert option in usage(*words[:at], *words[at + 2 :])
        assert "more than once" in usage(*words, option, "again")
        assert "begins with a dash" in usage(*words[:at], option, "-x", *words[at + 2 :])
        usage(*words[: at + 1])
    usage(*words, "-nonsense")
    usage(*words, "-enclav", "x")
    usage(*words, "word")
    if command != "dump":
        assert "more than once" in usage(*words, "-resign", "-resign")
    last = words[-1]
    (in_folder / "link").symlink_to(last)
    for other in ("e", f"./../{in_folder.name}/e", str(in_folder / "e")):
        assert "are both" in usage(*words[:-1], other)
    assert "are both" in usage("-enclave", "link", *words[2:])


def test_commands_help_and_version(imagekit):
    assert imagekit(*TOOL, "nonsense")[0] == 2
    for words in (("-help",), ("--help",), ("sign", "-help"), ("dump", "--help")):
        code, out, _ = imagekit(*TOOL, *words)
        assert code == 0
        assert "Usage: imagekit tool sgx-sign" in out
    for word in ("-version", "--version"):
        code, out, _ = imagekit(*TOOL, word)
        assert code == 0
        assert "sgx_sign 2.26" in out


def test_the_order_of_occlum_and_files_that_are_missing(in_folder, imagekit, key):
    words = "-key", key, "-enclave", GOLDEN / "mini_tls.so", "-out", "o.so", "-config"
    code, _, err = imagekit(*TOOL, "sign", *words, DEFAULT / "config.xml", *DAY)
    assert code == 0, err
    assert (in_folder / "o.so").read_bytes() == (DEFAULT / "signed.so").read_bytes()
    (in_folder / "o.so").unlink()
    for changed in (("none.xml",), (in_folder,)):
        refused(*imagekit(*TOOL, "sign", *words, *changed)[::2], 3, in_folder)
    for enclave in ("none.so", in_folder, "/dev/null", DEFAULT / "config.xml"):
        words = "-enclave", enclave, "-key", key, "-out", "o.so"
        refused(*imagekit(*TOOL, "sign", *words)[::2], 3, in_folder)


def test_dates(in_folder, imagekit, monkeypatch):
    words = "gendata", "-enclave", GOLDEN / "mini_tls.so", "-out", "t.tbs"

    def date():
        return (in_folder / "t.tbs").read_bytes()[20:24][::-1].hex()

    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert imagekit(*TOOL, *words)[0] == 0
    assert date() == "20231114"
    assert imagekit(*TOOL, *words, "--date", "2024-02-29")[0] == 0
    assert date() == "20240229"
    for wrong in ("2024-02-30", "x", "20240101"):
        code, _, err = imagekit(*TOOL, *words, "--date", wrong)
        assert code == 2
        error_lines(err)
    assert date() == "20240229"


# Nothing is lost, nothing is half-written, nothing leaks


def test_a_failure_leaves_all_outputs_as_they_were(in_folder, imagekit, key):
    words = "-enclave", GOLDEN / "mini_tls.so", "-key", key, "-out", "o.so"
    (in_folder / "o.so").write_text("before")
    for more in (("-cssfile", "none/x"), ("-dumpfile", "none/x"), ("-config", "none.xml")):
        code, _, err = imagekit(*TOOL, "sign", *words, *more)
        assert code == 3
        error_lines(err)
        assert (in_folder / "o.so").read_text() == "before"
        assert [path.name for path in in_folder.iterdir()] == ["o.so"]


def test_the_key_leaves_no_trace(in_folder, imagekit, tmp_path):
    from imagekit.signing.keyfile import generate_key

    generate_key(tmp_path / "k.pem", b"a long passphrase")
    (tmp_path / "phrase").write_text("a long passphrase\n")
    inputs = "-enclave", GOLDEN / "mini_tls.so", "-key", tmp_path / "k.pem"
    outputs = "-out", "o.so", "-cssfile", "o.css", "-dumpfile", "o.txt"
    code, out, err = imagekit(*TOOL, "sign", *inputs, *outputs)
    assert code == 6
    assert "passphrase is needed" in error_lines(err)[0]
    phrase = "--passphrase-file", tmp_path / "phrase"
    code, out, err = imagekit(*TOOL, "sign", *inputs, *outputs, *phrase)
    assert code == 0, err
    secret = serialization.load_pem_private_key(
        (tmp_path / "k.pem").read_bytes(), b"a long passphrase"
    )
    numbers = secret.private_numbers()
    written = b"".join(path.read_bytes() for path in in_folder.iterdir())
    for number in (numbers.d, numbers.p, numbers.q):
        for order in ("big", "little"):
            raw = number.to_bytes((number.bit_length() + 7) // 8, order)
            assert raw[:32] not in written
            assert raw.hex() not in out + err
    assert "passphrase" not in out + err
    assert b"PRIVATE" not in written


def test_the_key_of_intels_samples_signs_for_debugging_alone(
    in_folder, imagekit, key, public, monkeypatch
):
    """The key itself is not here: for the test, ours counts as it."""
    from imagekit.release import sgx_sign

    ours = mr_signer_of(load_modulus(public)).hex()
    monkeypatch.setattr(sgx_sign, "INTEL_SAMPLE", ours)
    words = "-enclave", GOLDEN / "mini_tls.so", "-key", key, "-out", "o.so"
    release = GOLDEN / "cases" / "mini_tls.occlum_kss"
    code, _, err = imagekit(*TOOL, "sign", *words, "-config", release / "config.xml")
    line = refused(code, err, 6, in_folder)
    assert ours[:16] in line
    parts = "-sig", release / "signature.sig", "-unsigned", release / "signing-material.tbs"
    again = "-enclave", GOLDEN / "mini_tls.so", "-key", public, "-out", "o.so"
    config = "-config", release / "config.xml"
    refused(*imagekit(*TOOL, "catsig", *again, *parts, *config)[::2], 6, in_folder)
    code, _, err = imagekit(*TOOL, "sign", *words, "-config", DEFAULT / "config.xml")
    assert code == 0
    assert "anybody can sign with it" in err
    assert "debug enclave" in err


def test_the_sample_key_is_intels():
    assert INTEL_SAMPLE.startswith("83d719e7")


def test_what_is_signed_can_be_read_back(in_folder, imagekit, key):
    words = "-enclave", GOLDEN / "mini_notls.so", "-key", key, "-out", "o.so", "-cssfile", "o.css"
    assert imagekit(*TOOL, "sign", *words)[0] == 0
    sigstruct = parse_sigstruct((in_folder / "o.css").read_bytes())
    enclave = read_enclave((in_folder / "o.so").read_bytes(), "o.so")
    assert enclave.enclave_sigstruct() == sigstruct
    code, out, err = imagekit("inspect", "o.so")
    assert code == 0, err
    assert sigstruct.body.mr_enclave.hex() in out
