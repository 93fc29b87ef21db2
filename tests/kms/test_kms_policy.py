"""Policies: their forms for each service, what is refused, and the file they are recorded in."""

import json
import threading
from dataclasses import replace

import pytest
from attestation_service import start_service
from bigdl_service import fits
from hypothesis import given
from hypothesis import strategies as st
from plain_quotes import sgx_quote, td_quote
from regopy import Interpreter

from imagekit.enclave.known_signers import KNOWN_SIGNERS
from imagekit.errors import CheckError, InputError, KmsError, UsageError
from imagekit.kms.bigdl import BigDl, wire_values
from imagekit.kms.connection import open_connection
from imagekit.kms.policy import DIGITS, NEEDED, check_policy, from_json, policy_of, to_json
from imagekit.kms.policy_texts import FORMATS, Enclave, policy_text
from imagekit.kms.record import Registration, exclusive, read_record, update_record, write_record
from imagekit.runtime.ehsm import Credentials

E, S = "ab" * 32, "cd" * 32


def quote_policy(mr_enclave=E, mr_signer=S):
    return policy_of("QuotePolicy", {"mr_enclave": mr_enclave, "mr_signer": mr_signer})


def registration(policy_id="id-1", policy=None, **more):
    values = {"service": "ehsm", "url": "h:1", "app_id": "app", "confirmed": True, "images": {}}
    return Registration(policy=policy or quote_policy(), policy_id=policy_id, **{**values, **more})


@st.composite
def policies(draw):
    kind = draw(st.sampled_from(sorted(NEEDED)))
    given_values = {
        name: st.text("0123456789abcdef", min_size=size, max_size=size)
        for name, size in DIGITS.items()
    }
    given_values["isv_prod_id"] = st.integers(0, 65535)
    return policy_of(kind, {name: draw(given_values[name]) for name in NEEDED[kind]})


@given(policies())
def test_a_policy_reads_back_as_itself(policy):
    assert from_json(json.loads(json.dumps(to_json(policy))), "x") == policy


@given(
    st.dictionaries(
        st.sampled_from(["type", "mr_enclave", "mr_signer", "isv_prod_id", "rtmr", "x"]),
        st.none() | st.text() | st.integers() | st.just({}) | st.sampled_from([*NEEDED, E, S]),
    )
)
def test_what_is_no_policy_is_an_input_error(value):
    try:
        policy = from_json(value, "x")
    except InputError:
        return
    assert to_json(policy) == value


@pytest.mark.parametrize("value", [None, [], "QuotePolicy", 1, {"type": ["QuotePolicy"]}])
def test_what_is_no_object_is_no_policy(value):
    with pytest.raises(InputError):
        from_json(value, "x")


@pytest.mark.parametrize("signer", sorted(KNOWN_SIGNERS))
def test_every_known_signer_is_refused_and_recognised_on_the_wrong_side(signer):
    with pytest.raises(CheckError, match="everybody"):
        check_policy(quote_policy(mr_signer=signer))
    assert check_policy(quote_policy(mr_signer=signer), force=True)
    with pytest.raises(CheckError, match="mr_enclave is the mr_signer of"):
        check_policy(quote_policy(mr_enclave=signer), force=True)


def test_a_product_id_has_16_bits():
    for number in (-1, 65536):
        with pytest.raises(UsageError, match="65535"):
            policy_of("SGXMRSignerPolicy", {"mr_signer": S, "isv_prod_id": number})


# -- BigDL's service compares numbers


@pytest.fixture(scope="module")
def bigdl(certificates):
    with start_service(certificates) as service:
        connection = open_connection(service.address, pin=service.pin)
        who = Credentials(*next(iter(service.bigdl.accounts.items())))
        yield service, BigDl(connection, who, lambda line: None)


LEADING_ZEROS = "00" * 3 + "0b"


@pytest.mark.parametrize(
    ("kind", "values", "quote", "other"),
    [
        (
            "SGXMREnclavePolicy",
            {"mr_enclave": f"{LEADING_ZEROS:<064}"},
            sgx_quote(f"{LEADING_ZEROS:<064}", S),
            sgx_quote(E, S),
        ),
        (
            "SGXMRSignerPolicy",
            {"mr_signer": f"{LEADING_ZEROS:<064}", "isv_prod_id": 1},
            sgx_quote(E, f"{LEADING_ZEROS:<064}", product=1),
            sgx_quote(E, f"{LEADING_ZEROS:<064}", product=256),
        ),
        (
            "SGXMRSignerPolicy",
            {"mr_signer": S, "isv_prod_id": 0x1234},
            sgx_quote(E, S, product=0x1234),
            sgx_quote(E, S, product=0x3412),
        ),
        (
            "SGXReportDataPolicy",
            {"report_data": f"{LEADING_ZEROS:<0128}"},
            sgx_quote(E, S, data=bytes.fromhex(LEADING_ZEROS)),
            sgx_quote(E, S),
        ),
        (
            "TDXMRTDPolicy",
            {"mr_td": f"{LEADING_ZEROS:<096}"},
            td_quote(f"{LEADING_ZEROS:<096}"),
            td_quote("ab" * 48),
        ),
        (
            "TDXReportDataPolicy",
            {"report_data": f"{LEADING_ZEROS:<0128}"},
            td_quote("ab" * 48, data=bytes.fromhex(LEADING_ZEROS)),
            td_quote("ab" * 48),
        ),
        (
            "TDXLaunchTimePolicy",
            {"mr_td": "ab" * 48, "rtmr": f"{LEADING_ZEROS:<0384}"},
            td_quote("ab" * 48, bytes.fromhex(f"{LEADING_ZEROS:<0384}")),
            td_quote("ab" * 48, bytes(191) + b"1"),
        ),
    ],
)
def test_every_policy_of_bigdls_service_matches_its_quote_and_no_other(
    bigdl, kind, values, quote, other
):
    service, client = bigdl
    policy_id = client.register(policy_of(kind, values))
    assert fits(service.bigdl.policies[policy_id], quote)
    assert not fits(service.bigdl.policies[policy_id], other)


def test_bigdls_service_refuses_a_wrong_key_and_the_client_does_not_repeat_it(bigdl):
    _, client = bigdl
    wrong = BigDl(client.connection, Credentials(client.app_id, "wr0ng-key"), lambda line: None)
    with pytest.raises(KmsError, match="app id and API key") as found:
        wrong.register(policy_of("SGXMREnclavePolicy", {"mr_enclave": E}))
    assert "wr0ng-key" not in f"{found.value} {found.value.hint}"
    with pytest.raises(CheckError, match="cannot be read back"):
        client.read_back("x")


def test_the_two_traps_by_hand():
    values = wire_values(
        policy_of("SGXMRSignerPolicy", {"mr_signer": "00ab" + "0" * 60, "isv_prod_id": 1})
    )
    assert values == {"mrSigner": "ab" + "0" * 60, "isvProdID": "100"}
    zero = policy_of("SGXMRSignerPolicy", {"mr_signer": S, "isv_prod_id": 0})
    assert wire_values(zero)["isvProdID"] == "0"


# -- texts for other services

ENCLAVE = Enclave(E, S, 1, 3)
GOOD = {
    "sgx_mrenclave": E,
    "sgx_mrsigner": S,
    "sgx_isvprodid": 1,
    "sgx_isvsvn": 3,
    "sgx_is_debuggable": False,
}


def rego_says(claims):
    interpreter = Interpreter()
    text = policy_text("ita", ENCLAVE, "x")
    interpreter.add_module("policy", f"package policy\n{text}")
    interpreter.set_input(claims)
    document = json.loads(str(interpreter.query("x = data.policy.matches_sgx_policy")))
    return document["bindings"]["x"]


def test_the_rego_policy_lets_the_enclave_through_and_newer_ones():
    assert rego_says(GOOD) is True
    assert rego_says({**GOOD, "sgx_isvsvn": 4}) is True


@pytest.mark.parametrize(
    "change",
    [
        {"sgx_mrenclave": S},
        {"sgx_mrsigner": E},
        {"sgx_isvprodid": 2},
        {"sgx_isvsvn": 2},
        {"sgx_is_debuggable": True},
        {"sgx_is_debuggable": None},
    ],
)
def test_the_rego_policy_refuses_everything_else(change):
    assert rego_says({**GOOD, **change}) is False
    name = next(iter(change))
    assert rego_says({key: value for key, value in GOOD.items() if key != name}) is False


def test_the_other_texts_demand_all_of_it():
    maa = policy_text("maa", ENCLAVE, "x")
    for words in (
        '"x-ms-sgx-is-debuggable", value==false',
        f'"x-ms-sgx-mrenclave", value=="{E}"',
        f'"x-ms-sgx-mrsigner", value=="{S}"',
        '"x-ms-sgx-product-id", value==1',
        '"x-ms-sgx-svn", value>=3',
    ):
        assert words in maa
    assert maa.count("permit()") == 1
    assert maa.count("&&") == 4
    package = json.loads(policy_text("marblerun", ENCLAVE, "spark"))["Packages"]["spark"]
    assert package == {
        "UniqueID": E,
        "SignerID": S,
        "ProductID": 1,
        "SecurityVersion": 3,
        "Debug": False,
    }
    variables = dict(line.split("=") for line in policy_text("ra-tls", ENCLAVE, "x").splitlines())
    assert variables == {
        "RA_TLS_MRENCLAVE": E,
        "RA_TLS_MRSIGNER": S,
        "RA_TLS_ISV_PROD_ID": "1",
        "RA_TLS_ISV_SVN": "3",
    }
    assert set(FORMATS) == {"ita", "maa", "marblerun", "ra-tls"}


# -- the record


def test_a_record_is_sorted_whatever_the_order_it_came_in(tmp_path):
    ones = [registration(f"id-{n}", quote_policy(f"{n:064x}")) for n in (3, 1, 2)]
    for name, order in (("a", ones), ("b", ones[::-1])):
        for one in order:
            update_record(tmp_path / name, one)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert [one.policy_id for one in read_record(tmp_path / "a")] == ["id-1", "id-2", "id-3"]


def test_an_image_belongs_to_the_policy_that_was_registered_for_it_last(tmp_path):
    path = tmp_path / "record"
    update_record(path, registration("old", quote_policy("1" * 64), images={"a": "d1", "b": "d2"}))
    update_record(path, registration("new", quote_policy("2" * 64), images={"a": "d3"}))
    update_record(path, registration("else", quote_policy("3" * 64), url="x:1", images={"b": "d"}))
    images = {one.policy_id: dict(one.images) for one in read_record(path)}
    assert images == {"old": {"b": "d2"}, "new": {"a": "d3"}, "else": {"b": "d"}}


@pytest.mark.parametrize(
    "change",
    [
        {"confirmed": 1},
        {"policy_id": None},
        {"images": []},
        {"images": {"a": 1}},
        {"former": "x"},
        {"former": [1]},
        {"policy": {"type": "QuotePolicy"}},
        {"policy": {"type": "QuotePolicy", "mr_enclave": E.upper(), "mr_signer": S}},
        {"more": 1},
    ],
)
def test_a_damaged_registration_is_named(tmp_path, change):
    path = tmp_path / "record"
    write_record(path, [registration()])
    document = json.loads(path.read_text())
    document["registrations"][0] |= change
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match="registration 1"):
        read_record(path)


def test_a_second_run_waits_for_the_first(tmp_path):
    path, order = tmp_path / "record", []
    inside, waiting = threading.Event(), threading.Event()

    def second() -> None:
        inside.wait(10)
        with exclusive(path, waiting.set):
            order.append("second")

    other = threading.Thread(target=second)
    other.start()
    with exclusive(path, lambda: order.append("waited")):
        inside.set()
        assert waiting.wait(10)
        order.append("first")
    other.join()
    assert order == ["first", "second"]
    assert replace(registration(), policy_id="", former=("a",)).ids == ("a",)
