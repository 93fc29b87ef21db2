"""Reading collateral in all its forms."""

import json
from base64 import b64encode
from pathlib import Path
from urllib.parse import quote as url_encoded

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quote_maker import END, collateral, level, stamp, tcb_info

from imagekit.errors import InputError
from imagekit.kms.collateral import FILES, read_collateral

GOLDEN = Path(__file__).parent.parent / "golden" / "quotes"
GIVEN = collateral()
CHAINS = [name for name in GIVEN if name.endswith("chain")]


@pytest.fixture
def read(tmp_path):
    def read(values):
        path = tmp_path / "collateral.json"
        path.write_text(values if isinstance(values, str) else json.dumps(values))
        return read_collateral(path)

    return read


def body(text, name, signature, form="{{{}}}"):
    return form.format(f'"{name}":{text},"signature":"{signature}"')


def as_answers():
    """What the PCS answers: text and signature in one body, chains in headers."""
    return {
        "tcb_info": body(GIVEN["tcb_info"], "tcbInfo", GIVEN["tcb_info_signature"]),
        "qe_identity": body(
            GIVEN["qe_identity"], "enclaveIdentity", GIVEN["qe_identity_signature"]
        ),
        "pck_crl": GIVEN["pck_crl"],
        "root_ca_crl": GIVEN["root_ca_crl"],
        **{name: url_encoded(GIVEN[name]) for name in CHAINS},
    }


def write_folder(folder, values):
    for name, files in FILES.items():
        (folder / files[0]).write_bytes(
            bytes.fromhex(values[name]) if name.endswith("crl") else values[name].encode()
        )
    return folder


def test_the_file_of_dcap_qvl_is_read(read):
    found = read(GIVEN)
    assert json.loads(found.to_json()) == GIVEN
    assert found.valid_until == stamp(END)


def test_files_with_more_in_them_are_read(read):
    more = {**GIVEN, "pck_certificate_chain": "another chain", "version": 3}
    assert read(more) == read(GIVEN)
    assert "another chain" not in read(more).to_json()


def test_the_form_of_intels_library_is_read(read):
    assert read(as_answers()) == read(GIVEN)


def test_a_folder_of_answers_is_read(read, tmp_path):
    assert read_collateral(write_folder(tmp_path, as_answers())) == read(GIVEN)


def test_lists_of_revoked_certificates_may_be_pem_or_digits(tmp_path, read):
    folder = write_folder(tmp_path, as_answers())
    der = (folder / "pck_crl.der").read_bytes()
    (folder / "pck_crl.der").unlink()
    (folder / "root_ca_crl.der").rename(folder / "root_ca_crl.x")
    (folder / "root_ca_crl.hex").write_text(GIVEN["root_ca_crl"] + "\n")
    text = b"-----BEGIN X509 CRL-----\n%s\n-----END X509 CRL-----\n" % b64encode(der)
    (folder / "pck_crl.pem").write_bytes(text)
    assert read_collateral(folder) == read(GIVEN)


def test_signed_text_is_taken_as_it_stands(read):
    odd = '{ "nextUpdate" : "2026-01-01T00:00:00Z",\n "b":{"}":"]"} , "a":[1.0, 1e2 ,"\\u00e9"] }'
    values = as_answers()
    for form in ("{{{}}}", " {{ {} }} \n"):
        values["tcb_info"] = body(odd, "tcbInfo", "ab" * 64, form)
        assert read(values).tcb_info == odd
    signature_first = f'{{"signature":"{"ab" * 64}", "tcbInfo" : {odd}}}'
    values["tcb_info"] = signature_first
    assert read(values).tcb_info == odd


@pytest.mark.parametrize("name", sorted(GIVEN))
def test_a_file_with_something_missing_is_refused(read, name):
    for value in (None, "", 7, []):
        with pytest.raises(InputError, match=r"collateral\.json: no collateral for a quote: "):
            read({**GIVEN, name: value})
    with pytest.raises(InputError):
        read({key: value for key, value in GIVEN.items() if key != name})


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_folder_with_something_missing_is_refused(tmp_path, name):
    (write_folder(tmp_path, as_answers()) / FILES[name][0]).unlink()
    with pytest.raises(InputError, match=f"there is no {FILES[name][0]}"):
        read_collateral(tmp_path)


def test_two_of_one_in_a_folder_are_refused(tmp_path):
    (write_folder(tmp_path, as_answers()) / "pck_crl.pem").write_bytes(b"")
    with pytest.raises(InputError, match=r"there is more than one pck_crl\.der or pck_crl\.pem"):
        read_collateral(tmp_path)


@pytest.mark.parametrize(
    "name, value, reason",
    [
        ("tcb_info", "[]", "tcb_info is no JSON object"),
        ("tcb_info", "{}", "tcb_info is no JSON object"),
        ("tcb_info", '["a":1}', "tcb_info is no JSON object"),
        ("tcb_info", '{"a";1}', "tcb_info is no JSON object"),
        ("tcb_info", '{"a":1]', "tcb_info is no JSON object"),
        ("tcb_info", '{"a":1} x', "something follows the JSON object of tcb_info"),
        ("tcb_info", '{"a":1,"a":2}', "tcb_info has a member twice"),
        ("tcb_info", "[" * 100000, "tcb_info is no JSON object"),
        ("tcb_info", '{"a":' + "[" * 100000, "tcb_info is no JSON object"),
        ("tcb_info", '{"tcbInfo":{}}', "tcb_info has no signature"),
        ("qe_identity", '{"enclaveIdentity":{},"signature":7}', "qe_identity has no signature"),
        ("qe_identity_signature", "ab" * 63, "qe_identity has no signature of 64 bytes"),
        ("pck_crl", "zz", "pck_crl is neither DER nor PEM nor hexadecimal digits"),
        ("pck_crl", "3003020101", "pck_crl is no list of revoked certificates"),
        ("root_ca_crl", GIVEN["root_ca_crl"] + "00", "root_ca_crl is no list of revoked"),
        ("pck_crl_issuer_chain", "hello", "pck_crl_issuer_chain has no certificates as PEM"),
    ],
)
def test_what_is_of_no_form_is_refused(read, name, value, reason):
    with pytest.raises(InputError, match=reason):
        read({**GIVEN, name: value})


@pytest.mark.parametrize("text", ["", "hello", "[]", "7", "[" * 100000])
def test_a_file_that_is_no_collateral_is_refused(read, text):
    with pytest.raises(InputError, match=r"collateral\.json: no collateral for a quote: it is n"):
        read(text)


def test_a_path_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"cannot read the collateral .*nothing: No such file"):
        read_collateral(tmp_path / "nothing")


def test_a_file_that_is_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("imagekit.kms.collateral.LARGEST_FILE", 100)
    (tmp_path / "c.json").write_text(json.dumps(GIVEN))
    with pytest.raises(InputError, match="too large"):
        read_collateral(tmp_path / "c.json")


def test_when_it_ends_is_not_known_if_it_does_not_say(read):
    info = tcb_info([level("UpToDate")])
    for end in (None, "soon", 7):
        text = json.dumps({**info, "nextUpdate": end})
        assert read({**GIVEN, "tcb_info": text}).valid_until == ""


def test_real_collateral_is_read():
    for name in ("sgx", "tdx"):
        found = read_collateral(GOLDEN / f"{name}_quote_collateral.json")
        assert found.valid_until.startswith("2025-07-19T10:")


@given(
    st.dictionaries(
        st.sampled_from(sorted(GIVEN)),
        st.one_of(st.text(), st.binary(), st.just(None), st.integers(), st.just("{}")),
    )
)
def test_any_values_give_collateral_or_a_reason(values):
    from imagekit.kms import collateral

    try:
        collateral._collateral({**GIVEN, **values})
    except ValueError as error:
        assert str(error)
        assert "\n" not in str(error)
