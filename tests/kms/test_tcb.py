"""A platform's state, by the library dcap-qvl."""

import builtins
import importlib
import json
import os
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from quote_maker import (
    COMPONENTS,
    ENCLAVE,
    NOW,
    PCE_SVN,
    V3,
    collateral,
    key,
    level,
    qe_identity,
    root_der,
    tcb_info,
)

from imagekit.errors import InputError
from imagekit.kms.collateral import read_collateral
from imagekit.kms.quotes import Expectation, check_quote
from imagekit.kms.tcb import DEFAULT_ACCEPT, TCB_STATUSES

GOLDEN = Path(__file__).parent.parent / "golden" / "quotes"
OF_GOLDEN = datetime(2025, 7, 1, tzinfo=UTC)
SGX, TDX = (GOLDEN / "sgx_quote").read_bytes(), (GOLDEN / "tdx_quote").read_bytes()
WANTED = Expectation(mr_enclave=ENCLAVE)
ANY_TD = Expectation(mr_td=TDX[48 + 136 : 48 + 184].hex())
OF_ENCLAVES = [status for status in TCB_STATUSES if not status.startswith("TD")]
WEAK = "ConfigurationAndSWHardeningNeeded"


@pytest.fixture(autouse=True)
def library():
    if os.environ.get("CI"):
        return importlib.import_module("dcap_qvl")
    return pytest.importorskip("dcap_qvl", reason="dcap-qvl is not installed: imagekit[quotes]")


@pytest.fixture
def read(tmp_path):
    def read(**values):
        path = tmp_path / "collateral.json"
        path.write_text(json.dumps(collateral(**values)))
        return read_collateral(path)

    return read


def check(given, quote=V3, when=NOW, accept=DEFAULT_ACCEPT):
    return check_quote(quote.build(), WANTED, when, given, accept, root=root_der())


def golden(name):
    return read_collateral(GOLDEN / f"{name}_quote_collateral.json")


def test_a_platform_that_is_up_to_date_passes(read):
    verdict = check(read())
    assert verdict.failed == []
    assert verdict.facts.tcb_status == "UpToDate"
    assert verdict.facts.collateral_until == "2027-03-02T12:00:00Z"
    assert "TCB level UpToDate, nothing revoked" in verdict.passed
    assert not any("TCB" in line for line in verdict.not_proved)


def test_real_quotes_with_collateral_are_judged_from_the_pinned_root():
    verdict = check_quote(TDX, ANY_TD, OF_GOLDEN, golden("tdx"))
    assert verdict.failed == []
    verdict = check_quote(SGX, Expectation(), OF_GOLDEN, golden("sgx"))
    assert verdict.failed == [
        f"TCB level: it is {WEAK} (INTEL-SA-00289, INTEL-SA-00615); accepted: UpToDate"
    ]
    assert verdict.facts.advisories == ("INTEL-SA-00289", "INTEL-SA-00615")
    assert verdict.facts.collateral_until == "2025-07-19T10:01:18Z"
    accept = frozenset({"UpToDate", WEAK})
    assert check_quote(SGX, Expectation(), OF_GOLDEN, golden("sgx"), accept).failed == []


@pytest.mark.parametrize("status", OF_ENCLAVES)
def test_only_accepted_states_pass(read, status):
    given = read(info=tcb_info([level(status, advisories=["INTEL-SA-00001"])]))
    verdict = check(given)
    assert verdict.facts.tcb_status == status
    assert bool(verdict.failed) == (status != "UpToDate")
    assert check(given, accept=frozenset({status})).failed == []


def test_a_platform_below_the_newest_level_has_the_state_of_its_own(read):
    newer = (9, *COMPONENTS[1:])
    levels = [level("UpToDate", newer), level("OutOfDate", advisories=["INTEL-SA-00002"])]
    verdict = check(read(info=tcb_info(levels)))
    assert verdict.failed == ["TCB level: it is OutOfDate (INTEL-SA-00002); accepted: UpToDate"]
    levels = [level("UpToDate", pce_svn=PCE_SVN + 1), level("OutOfDate")]
    assert check(read(info=tcb_info(levels))).facts.tcb_status == "OutOfDate"


def test_an_old_quoting_enclave_is_not_up_to_date(read):
    verdict = check(read(identity=qe_identity(status="OutOfDate")))
    assert verdict.facts.tcb_status == "OutOfDate"
    assert verdict.failed


def fails(verdict, words):
    assert len(verdict.failed) == 1, verdict.failed
    assert verdict.failed[0].startswith("quote and collateral: ")
    assert words.lower() in verdict.failed[0].lower()
    assert verdict.facts.tcb_status == ""
    assert not any("TCB" in line for line in verdict.passed)


def test_a_revoked_platform_fails_whatever_is_accepted(read):
    accept = frozenset(TCB_STATUSES)
    fails(check(read(info=tcb_info([level("Revoked")])), accept=accept), "revoked")


def test_a_revoked_certificate_fails(read):
    fails(check(read(revoked=[3])), "revoked")
    fails(check(read(revoked_issuers=[2])), "revoked")
    assert check(read(revoked=[4])).failed == []


def test_collateral_that_has_ended_fails(read):
    given = read(end=NOW - timedelta(days=1))
    fails(check(given), "expired")
    assert check(given, when=NOW - timedelta(days=2)).failed == []


@pytest.mark.parametrize("name", ["sgx", "tdx"])
def test_real_collateral_that_has_ended_fails(name):
    quote, expected = {"sgx": (SGX, Expectation()), "tdx": (TDX, ANY_TD)}[name]
    late = datetime(2025, 8, 1, tzinfo=UTC)
    accept = frozenset(TCB_STATUSES)
    fails(check_quote(quote, expected, late, golden(name), accept), "expired")


def test_collateral_signed_by_another_key_fails(read):
    fails(check(read(signer=key("other"))), "signature")


def test_collateral_of_another_root_fails():
    given = golden("sgx")
    fails(check_quote(V3.build(), WANTED, NOW, given, root=root_der()), "")


def test_collateral_of_another_kind_of_platform_fails(read):
    fails(check(read(info=tcb_info([level("UpToDate")], fmspc="00906ed50001"))), "fmspc")
    fails(check_quote(SGX, Expectation(), OF_GOLDEN, golden("tdx")), "")


@pytest.mark.parametrize("name", ["tcb_info", "qe_identity", "root_ca_crl", "pck_crl"])
@pytest.mark.parametrize("of", ["ours", "intel"])
def test_changed_collateral_fails(read, name, of):
    given = read() if of == "ours" else golden("tdx")
    value = getattr(given, name)
    if isinstance(value, str):
        changed = value.replace('"tcbEvaluationDataNumber":17', '"tcbEvaluationDataNumber":99')
    else:
        changed = value[:-1] + bytes([value[-1] ^ 1])  # of its signature
    assert changed != value
    given = replace(given, **{name: changed})
    if of == "ours":
        fails(check(given), "")
    else:
        fails(check_quote(TDX, ANY_TD, OF_GOLDEN, given), "")


# The list of revoked PCK certificates is checked by the quote's own chain, not by the one with it.
@pytest.mark.parametrize("name", ["tcb_info_issuer_chain", "qe_identity_issuer_chain"])
def test_issuers_of_another_root_fail(read, name):
    given = read()
    fails(check(replace(given, **{name: getattr(golden("tdx"), name)})), "")


def test_a_quote_that_does_not_hold_is_not_judged(read):
    verdict = check(read(), V3.change(pck=key("other")))
    assert len(verdict.failed) == 1
    assert "the quote itself does not hold" in "\n".join(verdict.not_proved)
    assert verdict.facts.tcb_status == ""


def test_without_the_library_the_way_to_it_is_said(read, monkeypatch):
    imported = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "dcap_qvl":
            raise ImportError
        return imported(name, *args, **kwargs)

    given = read()
    monkeypatch.delitem(sys.modules, "dcap_qvl", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match="dcap-qvl") as caught:
        check(given)
    assert "imagekit[quotes]" in caught.value.hint
    assert check(None).failed == []


def test_a_panic_of_the_library_is_a_finding(read, monkeypatch, library):
    class Panic(BaseException):
        pass

    def panic(*_):
        raise Panic("called `Option::unwrap()`\non a `None` value")

    def interrupted(*_):
        raise KeyboardInterrupt

    given = read()
    monkeypatch.setattr(library, "verify_with_root_ca", panic)
    fails(check(given), "called `option::unwrap()` on a `none` value")
    monkeypatch.setattr(library, "verify_with_root_ca", interrupted)
    with pytest.raises(KeyboardInterrupt):
        check(given)
