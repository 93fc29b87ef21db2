"""The commands of ``imagekit kms`` against services and networks that fail.

For every fault: the right exit code, one clear line with one that says what to do, no policy twice,
no id recorded as good that was not read back, and the API key in no output.
"""

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from attestation_service import APP_ID, start_service
from conftest import error_lines
from kms_faults import READ, UPLOAD, Fault, closed_port, faults
from plain_quotes import sgx_quote

MR_ENCLAVE, MR_SIGNER = "a1" * 32, "b2" * 32
REGISTER = ("register", "--mr-enclave", MR_ENCLAVE, "--mr-signer", MR_SIGNER)
BIGDL = ("register", "--service", "bigdl", "--mr-enclave", MR_ENCLAVE)
RECORD = "imagekit.registrations.json"
QUICK, PATIENT = 1, 20  # seconds: for faults that wait for the time limit, and for all others
SLOW = ("silent-before", "silent-after", "drip")


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def problem(self) -> str:
        return error_lines(self.err)[0]


class Kms:
    """The command line of a user in a folder of his own, with an account that nobody else has."""

    def __init__(self, service, folder):
        self.service, self.folder = service, folder
        self.key = secrets.token_hex(16)
        folder.mkdir(exist_ok=True)
        (folder / "ca.pem").write_text(service.ca)
        service.ehsm.tenants[APP_ID] = service.bigdl.accounts[APP_ID] = self.key
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "IMAGEKIT_KMS_APP_ID": APP_ID,
            "IMAGEKIT_KMS_API_KEY": self.key,
        }

    def start(self, *arguments, address=None, limit=PATIENT, stdin=subprocess.DEVNULL):
        """Start a command; it has an end of its own even if its test has not."""
        where = ["--url", address or self.service.address, "--cacert", "ca.pem"]
        return subprocess.Popen(
            [sys.executable, "-m", "imagekit", "kms", *arguments, *where, "--timeout", str(limit)],
            cwd=self.folder,
            env=self.environment,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, process, stdin=None):
        """Wait for a command; nothing it leaves behind may hold the API key."""
        with process:
            try:
                out, err = process.communicate(stdin, timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        assert "Traceback" not in out + err, err
        for name, text in {"stdout": out, "stderr": err, **self.files()}.items():
            assert self.key not in text, f"the API key is in {name}"
        return Ended(process.returncode, out, err)

    def __call__(self, *arguments, **more):
        return self.finish(self.start(*arguments, **more))

    def files(self):
        paths = [path for path in self.folder.rglob("*") if path.is_file()]
        return {path.name: path.read_text() for path in paths if path.name != "account"}

    def struck(self, *arguments, faults_=(), certificates=None, fails=True):
        """A command during which faults strike."""
        limit = QUICK if any(fault.kind in SLOW for fault in faults_) else PATIENT
        with faults(self.service, *faults_, certificates=certificates) as plan:
            ended = self(*arguments, limit=limit)
        if plan.elsewhere:
            assert plan.elsewhere.seen == [], "a redirect was followed"
        if fails:
            assert ended.problem
            assert "policyID" not in ended.out
        return ended

    @property
    def stored(self):
        return self.service.ehsm.policies_of(MR_ENCLAVE)

    @property
    def uploads(self):
        return self.service.bodies(UPLOAD)

    def recorded(self):
        """policy id → whether it was read back and equal."""
        path = self.folder / RECORD
        entries = json.loads(path.read_text())["registrations"] if path.exists() else []
        return {entry["policy_id"]: entry["confirmed"] for entry in entries}


@pytest.fixture
def service(certificates):
    with start_service(certificates) as started:
        yield started


@pytest.fixture
def kms(service, tmp_path):
    return Kms(service, tmp_path / "user")


def test_without_faults_a_policy_is_registered_once_and_then_reused(kms):
    first, second = kms(*REGISTER), kms(*REGISTER)
    (policy,) = kms.stored
    assert (first.code, second.code) == (0, 0), first
    assert policy in first.out and first.out == second.out
    assert kms.recorded() == {policy: True}


# -- upload: the answer is lost


@pytest.mark.parametrize("kind", ["lost-before", "silent-before"])
def test_a_request_that_got_lost_is_sent_again_as_it_was(kms, kind):
    ended = kms.struck(*REGISTER, faults_=[Fault(kind)], fails=False)
    (policy,) = kms.stored
    assert (ended.code, policy in ended.out) == (0, True), ended.err
    first, second = kms.uploads
    assert first == second
    assert kms.recorded() == {policy: True}


LOST = (
    "lost-after",
    "closed-after",
    "silent-after",
    "cut-head",
    "cut-length",
    "cut-chunk",
    "endless",
    "drip",
)


@pytest.mark.parametrize("kind", LOST)
def test_a_lost_answer_is_an_unknown_outcome_and_no_second_policy(kms, kind):
    ended = kms.struck(*REGISTER, faults_=[Fault(kind)])
    assert ended.code == 8, ended.err
    assert "registered, id unknown" in ended.problem
    assert len(kms.stored) == 1
    first, *more = kms.uploads
    assert more and set(more) == {first}  # the very bytes, never a fresh timestamp
    assert kms.recorded() == {}


def test_after_a_lost_answer_the_next_run_registers_with_a_known_id(kms):
    kms.struck(*REGISTER, faults_=[Fault("lost-after")])
    assert kms(*REGISTER).code == 0
    assert kms(*REGISTER).code == 0
    assert len(kms.stored) == 2
    assert kms.recorded() == {kms.stored[1]: True}
    assert len(set(kms.uploads)) == 2


@pytest.mark.parametrize(("kind", "stored"), [("lost-before", 0), ("lost-after", 1)])
def test_a_network_that_stays_broken_is_an_unknown_outcome(kms, kind, stored):
    ended = kms.struck(*REGISTER, faults_=[Fault(kind, times=99)])
    assert (ended.code, "not known" in ended.problem) == (8, True), ended.err
    assert len(kms.stored) == stored
    assert len(set(kms.uploads)) == 1
    assert len(kms.uploads) < 6
    assert kms.recorded() == {}


def test_a_repetition_is_no_proof_of_a_registration_with_a_wrong_key(kms):
    """The service notes timestamps before it looks at signs."""
    kms.service.ehsm.tenants[APP_ID] = "another key"
    ended = kms.struck(*REGISTER, faults_=[Fault("lost-after")])
    assert ended.code == 7, ended.err
    assert "registered, id unknown" not in ended.err
    assert (kms.stored, kms.recorded()) == ([], {})


# -- upload: there is nobody, or somebody else


def test_a_connection_that_is_refused_leaves_nothing_in_doubt(kms):
    with closed_port() as port:
        ended = kms(*REGISTER, address=f"127.0.0.1:{port}")
    assert (ended.code, "refused" in ended.problem) == (4, True), ended.err
    ended = kms.struck(*REGISTER, faults_=[Fault("refused", "connect", times=99)])
    assert (ended.code, kms.service.seen, kms.recorded()) == (4, [], {}), ended.err
    assert kms(*REGISTER).code == 0
    assert len(kms.stored) == 1


@pytest.mark.parametrize("status", [302, 307])
def test_a_redirect_is_not_followed(kms, certificates, status):
    fault = Fault(f"redirect-{status}")
    ended = kms.struck(*REGISTER, faults_=[fault], certificates=certificates)
    assert (ended.code, "redirect" in ended.problem) == (4, True), ended.err
    assert (kms.stored, len(kms.uploads), kms.recorded()) == ([], 1, {})


def test_a_certificate_that_is_not_trusted_gets_no_request(kms):
    (kms.folder / "ca.pem").unlink()
    (kms.folder / "ca.pem").symlink_to("/etc/ssl/certs/ca-certificates.crt")
    if (kms.folder / "ca.pem").exists():
        assert kms(*REGISTER).code == 4
    (kms.folder / "ca.pem").unlink()
    (kms.folder / "ca.pem").write_text(kms.service.ca)
    assert kms(*REGISTER, "--pin-sha256", "00" * 32).code == 4
    assert kms.service.seen == []
    assert kms(*REGISTER, "--pin-sha256", kms.service.pin).code == 0


def test_proxies_of_the_environment_are_not_asked(kms):
    with closed_port() as port:
        for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            kms.environment[name] = f"http://127.0.0.1:{port}"
        assert kms(*REGISTER).code == 0
        ended = kms(*REGISTER, "--force", "--proxy", f"http://127.0.0.1:{port}")
    assert (ended.code, len(kms.stored)) == (4, 1), ended.err


# -- upload: another answer


@pytest.mark.parametrize(
    ("kind", "stored", "words"),
    [
        ("gateway", 0, "502"),
        ("gateway-after", 1, "504"),
        ("html", 1, "no eHSM"),
        ("not-json", 1, "no eHSM"),
        ("half-json", 1, "no eHSM"),
        ("empty", 1, "no eHSM"),
        ("null-result", 1, "no result"),
        ("no-id", 1, "no policy id"),
        ("repeated", 0, "id unknown"),
        ("unknown-code", 1, "not known"),
    ],
)
def test_an_answer_that_says_nothing_is_an_unknown_outcome(kms, kind, stored, words):
    ended = kms.struck(*REGISTER, faults_=[Fault(kind)])
    assert (ended.code, words in ended.problem) == (8, True), ended.err
    assert len(kms.stored) == stored
    assert len(kms.uploads) == 1  # an answer came: nothing is sent again
    assert kms.recorded() == {}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("clock-ahead", "11 minutes ahead"),
        ("clock-behind", "11 minutes behind"),
        ("store-down", "store"),
        ("unknown-appid", "does not know this APP_ID"),
    ],
)
def test_a_refusal_says_why_and_nothing_is_stored(kms, kind, words):
    ended = kms.struck(*REGISTER, faults_=[Fault(kind)])
    assert (ended.code, words in ended.problem) == (7, True), ended.err
    assert (kms.stored, len(kms.uploads), kms.recorded()) == ([], 1, {})
    assert kms(*REGISTER).code == 0


# -- reading back


@pytest.mark.parametrize(
    ("kind", "action"),
    [
        ("unknown-id", UPLOAD),
        ("wrong-id", UPLOAD),
        ("lost-write", UPLOAD),
        ("stored-empty", UPLOAD),
        ("bare-policy", READ),
        ("other-enclave", READ),
        ("other-signer", READ),
        ("upper-case", READ),
    ],
)
def test_a_policy_that_reads_otherwise_is_never_good(kms, kind, action):
    ended = kms.struck(*REGISTER, faults_=[Fault(kind, action)])
    assert ended.code == 5, ended.err
    assert len(kms.uploads) == 1
    assert not any(kms.recorded().values())


@pytest.mark.parametrize("kind", ["unknown-id", "wrong-id", "lost-write", "stored-empty"])
def test_an_id_that_was_not_good_is_not_used_by_the_next_run(kms, kind):
    kms.struck(*REGISTER, faults_=[Fault(kind)])
    (bad,) = kms.recorded() or {"": False}
    ended = kms(*REGISTER)
    assert ended.code == 0, ended.err
    assert bad not in ended.out.split()
    (policy,) = kms.recorded()
    assert kms.recorded() == {policy: True}
    assert policy in kms.stored


def test_swapped_answers_of_two_uploads_at_once_are_found(service, tmp_path):
    users = [Kms(service, tmp_path / name) for name in ("one", "two")]
    users[0].key = users[1].key
    users[0].environment = users[1].environment | {"HOME": str(users[0].folder)}
    mine = ("c1" * 32, "c2" * 32)
    with faults(service, Fault("swapped", times=2)):
        running = [
            user.start("register", "--mr-enclave", value, "--mr-signer", MR_SIGNER)
            for user, value in zip(users, mine, strict=True)
        ]
        ended = [user.finish(process) for user, process in zip(users, running, strict=True)]
    for user, end in zip(users, ended, strict=True):
        assert (end.code, "does not say" in end.problem) == (5, True), end.err
        assert not any(user.recorded().values())
    assert [len(service.ehsm.policies_of(value)) for value in mine] == [1, 1]


@pytest.mark.parametrize("kind", ["lost-before", "lost-after", "silent-after", "endless"])
def test_reading_is_tried_again(kms, kind):
    ended = kms.struck(*REGISTER, faults_=[Fault(kind, READ)], fails=False)
    assert (ended.code, len(kms.stored), len(kms.uploads)) == (0, 1, 1), ended.err
    requests = [json.loads(body) for body in kms.service.bodies(READ)]
    assert len({request["nonce"] for request in requests}) in (1, len(requests))
    assert kms.recorded() == {kms.stored[0]: True}


@pytest.mark.parametrize(
    ("kind", "times", "code"),
    [
        ("lost-before", 99, 4),
        ("gateway", 1, 4),
        ("empty", 1, 4),
        ("redirect-307", 1, 4),
        ("unknown-appid", 1, 7),
    ],
)
def test_a_policy_that_could_not_be_read_is_read_by_the_next_run(
    kms, certificates, kind, times, code
):
    fault = Fault(kind, READ, times=times)
    ended = kms.struck(*REGISTER, faults_=[fault], certificates=certificates)
    assert ended.code == code, ended.err
    (policy,) = kms.stored
    assert kms.recorded() == {policy: False}
    ended = kms(*REGISTER)
    assert (ended.code, policy in ended.out, kms.stored) == (0, True, [policy])
    assert kms.recorded() == {policy: True}


# -- reuse


@pytest.mark.parametrize(
    ("kind", "times", "code"),
    [("lost-before", 99, 4), ("gateway", 1, 4), ("store-down", 1, 7), ("null-result", 1, None)],
)
def test_what_could_not_be_asked_about_is_not_registered_anew(kms, kind, times, code):
    kms(*REGISTER)
    ended = kms.struck(*REGISTER, faults_=[Fault(kind, READ, times=times)])
    assert ended.code == code or (code is None and ended.code in (4, 5, 7)), ended.err
    assert (len(kms.stored), len(kms.uploads)) == (1, 1)
    assert kms.recorded() == {kms.stored[0]: True}


def test_a_policy_that_the_service_has_lost_is_registered_anew(kms):
    kms(*REGISTER)
    kms.service.ehsm.policies.clear()
    assert kms(*REGISTER).code == 0
    assert kms.recorded() == {kms.stored[0]: True}


@pytest.mark.parametrize(
    "kind",
    ["upper-case", "other-enclave", "other-signer", "bare-policy"],
)
def test_a_recorded_policy_that_reads_otherwise_is_spoken_of(kms, kind):
    kms(*REGISTER)
    (policy,) = kms.stored
    ended = kms.struck(*REGISTER, faults_=[Fault(kind, READ)], fails=False)
    assert policy in ended.err


# -- several at once


def lock_file(folder, count):
    from imagekit.release.lock import FILE_NAME, LockEntry, update_lock

    def entry(number):
        return LockEntry(
            digest=f"sha256:{number:064x}",
            base=f"sha256:{number:064x}",
            libos="gramine",
            profile="reference",
            epc="16g",
            log="error",
            attestation="dcap",
            gramine="1.9",
            mr_enclave=f"{number + 0xC0:064x}",
            mr_signer=MR_SIGNER,
            isv_prod_id=0,
            isv_svn=0,
            debug=False,
            date="20261122",
            epoch=0,
            layer=f"sha256:{number:064x}",
            manifest_sha256="2" * 64,
            libpal_sha256="3" * 64,
            standin=False,
        )

    entries = {f"registry.example/team/cell-{n:02d}:1.0": entry(n) for n in range(count)}
    update_lock(folder / FILE_NAME, entries)
    return [item.mr_enclave for item in entries.values()]


ALL = ("register", "--all", "--images", "none")


@pytest.mark.parametrize("at_once", [True, False])
def test_eighteen_measurements_twice_are_eighteen_policies(kms, at_once):
    enclaves = lock_file(kms.folder, 18)
    with ThreadPoolExecutor() as pool:
        running = [kms.start(*ALL)]
        ended = [] if at_once else [kms.finish(running.pop())]
        running.append(kms.start(*ALL))
        ended += pool.map(kms.finish, running)
    assert [end.code for end in ended] == [0, 0], ended[0].err
    owners = [fields["mr_enclave"] for _, fields in kms.service.ehsm.policies.values()]
    assert sorted(owners) == sorted(enclaves)
    assert set(kms.recorded()) == set(kms.service.ehsm.policies)
    assert all(kms.recorded().values())
    requests = [json.loads(body) for _, body in kms.service.seen]
    assert len({request["nonce"] for request in requests}) == len(requests)


def test_one_lost_answer_among_many_does_not_spoil_the_others(kms):
    lock_file(kms.folder, 8)
    planned = [
        Fault("lost-after", nth=2),
        Fault("lost-before", nth=4),
        Fault("store-down", nth=6),
        Fault("other-enclave", READ, nth=3),
    ]
    ended = kms.struck(*ALL, faults_=planned, fails=False)
    assert (ended.code, "3 of 8" in ended.problem) == (8, True), ended.err
    assert len(kms.service.ehsm.policies) == 7
    assert list(kms.recorded().values()).count(True) == 5
    ended = kms(*ALL)
    assert ended.code == 0, ended.err
    assert len(kms.recorded()) == 8
    assert all(kms.recorded().values())
    # One more for the lost answer; the one that was misread is asked about, not made again.
    assert len(kms.service.ehsm.policies) == 9


def test_a_check_never_passes_on_a_faulty_answer(kms):
    lock_file(kms.folder, 2)
    assert kms(*ALL).code == 0
    before = kms.files()
    assert kms("check").code == 0
    for kind, times, code in (
        ("bare-policy", 1, 5),
        ("other-enclave", 1, 5),
        ("upper-case", 1, 5),
        ("lost-before", 99, 4),
        ("html", 1, 4),
        ("unknown-appid", 1, 7),
    ):
        ended = kms.struck("check", faults_=[Fault(kind, READ, times=times)])
        assert (kind, ended.code) == (kind, code), ended.err
    assert kms.files() == before


# -- BigDL's service: nothing can be read back, and nothing is known as repeated


@pytest.mark.parametrize(
    ("kind", "code", "stored"),
    [
        ("lost-before", 8, 0),
        ("lost-after", 8, 1),
        ("huge", 8, 1),
        ("gateway", 8, 0),
        ("half-json", 8, 1),
        ("empty", 8, 1),
        ("no-id", 8, 1),
        ("redirect-308", 4, 0),
    ],
)
def test_bigdls_service_is_asked_once_whatever_comes_back(kms, certificates, kind, code, stored):
    fault = Fault(kind, "registerPolicy")
    ended = kms.struck(*BIGDL, faults_=[fault], certificates=certificates)
    assert ended.code == code, ended.err
    assert len(kms.service.bigdl.policies) == stored
    assert len(kms.service.bodies("registerPolicy")) == 1
    assert kms.recorded() == {}


def test_bigdls_refusals_are_said(kms):
    kms.service.bigdl.accounts[APP_ID] = "another key"
    ended = kms(*BIGDL)
    assert (ended.code, kms.service.bigdl.policies) == (7, {}), ended.err


@pytest.mark.parametrize(
    ("options", "quote"),
    [
        (("--mr-enclave", "000a" + "1" * 60), sgx_quote("000a" + "1" * 60, MR_SIGNER)),
        (
            ("--policy-type=SGXMRSignerPolicy", f"--mr-signer=0{'b' * 63}", "--isv-prod-id=1"),
            sgx_quote(MR_ENCLAVE, "0" + "b" * 63, product=1),
        ),
    ],
)
def test_what_is_registered_with_bigdls_service_fits_its_quotes(kms, options, quote):
    """It compares numbers without their leading zeros, and reads product ids backwards."""
    import base64

    assert kms("register", "--service", "bigdl", *options).code == 0
    (policy,) = kms.service.bigdl.policies
    request = {"appID": APP_ID, "apiKey": kms.key, "policyID": policy}
    request["quote"] = base64.b64encode(quote).decode()
    reply = kms.service.bigdl.http("POST", "/verifyQuote", json.dumps(request).encode())
    assert json.loads(reply.data) == {"result": 0}


# -- enrolment


def test_an_enrolment_writes_the_key_to_its_file_alone(kms):
    ended = kms("enroll", "account")
    path = kms.folder / "account"
    account = json.loads(path.read_text())
    assert (ended.code, path.stat().st_mode & 0o777) == (0, 0o600), ended.err
    assert kms.service.ehsm.tenants[account["app_id"]] == account["api_key"]
    assert account["app_id"] in ended.out
    assert account["api_key"] not in ended.out + ended.err
    again = kms("enroll", "account")
    assert (again.code, len(kms.service.bodies("Enroll"))) == (3, 1), again.err
    kms.environment = {"PATH": os.environ["PATH"], "HOME": str(kms.folder)}
    assert kms(*REGISTER, "--account", "account").code == 0
    assert all(account["api_key"] not in text for text in kms.files().values())


@pytest.mark.parametrize(
    ("kind", "codes"),
    [
        ("lost-before", [8]),
        ("lost-after", [8]),
        ("endless", [8]),
        ("gateway", [4, 8]),
        ("html", [4, 8]),
        ("null-result", [4, 5, 8]),
        ("redirect-301", [4]),
        ("store-down", [7]),
    ],
)
def test_an_enrolment_that_fails_is_not_repeated_and_leaves_no_file(kms, certificates, kind, codes):
    before = set(kms.service.ehsm.tenants)
    fault = Fault(kind, "Enroll")
    ended = kms.struck("enroll", "account", faults_=[fault], certificates=certificates)
    assert ended.code in codes, ended.err
    assert len(kms.service.bodies("Enroll")) == 1
    assert list(kms.files()) == ["ca.pem"]
    assert not (kms.folder / "account").exists()
    for tenant in set(kms.service.ehsm.tenants) - before:
        assert kms.service.ehsm.tenants[tenant] not in ended.out + ended.err


# -- the quote of the service


@pytest.mark.parametrize(
    ("kind", "times", "codes"),
    [
        ("lost-before", 99, [4]),
        ("not-json", 1, [4]),
        ("redirect-303", 1, [4]),
        ("null-result", 1, [4, 5, 7]),
        ("clock-behind", 1, [7]),
    ],
)
def test_no_quote_is_no_proof(kms, certificates, kind, times, codes):
    fault = Fault(kind, "GenerateQuote", times=times)
    ended = kms.struck("attest", faults_=[fault], certificates=certificates)
    assert ended.code in codes, ended.err
    assert list(kms.files()) == ["ca.pem"]


@pytest.mark.parametrize("quote", [sgx_quote(), sgx_quote(debug=True)])
def test_a_quote_without_valid_signatures_is_no_proof(kms, quote):
    kms.service.ehsm.quote = quote
    ended = kms("attest", "--mr-enclave", "e5" * 32)
    assert (ended.code, len(ended.problem) > 0) == (5, True), ended.err


@pytest.mark.parametrize("quote", [b"\0", bytes(440), sgx_quote()[:-1]])
def test_what_is_no_quote_is_the_services_fault(kms, quote):
    kms.service.ehsm.quote = quote
    ended = kms("attest", "--mr-enclave", "e5" * 32)
    assert (ended.code in (4, 5), len(ended.problem) > 0) == (True, True), ended.err


# -- what others see


@pytest.fixture
def hanging(kms):
    """Starts a command that hangs on a silent service; ends it after the test."""
    with contextlib.ExitStack() as stack:

        def start(*arguments, action=UPLOAD, **more):
            plan = stack.enter_context(faults(kms.service, Fault("silent-after", action)))
            process = kms.start(*arguments, **more)
            stack.callback(process.kill)
            if more.get("stdin") == subprocess.PIPE:
                process.stdin.write(kms.key + "\n")
                process.stdin.close()
                process.stdin = None
            assert plan.busy.wait(20), "it never asked"
            return plan, process

        yield start


def with_parents(pid):
    """A process and its children: what ``ps`` shows of them, and their environment."""
    pids = [str(pid), *Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    parts = [Path(f"/proc/{one}/{name}") for one in pids for name in ("cmdline", "environ")]
    return [part.read_bytes().decode() for part in parts]


@pytest.mark.parametrize("way", ["environment", "account", "file", "stdin"])
def test_a_key_is_never_an_argument(kms, hanging, way):
    more = {}
    if way != "environment":
        kms.environment = {"PATH": os.environ["PATH"], "HOME": str(kms.folder)}
    if way == "account":
        kms("enroll", "account")
        kms.key = json.loads((kms.folder / "account").read_text())["api_key"]
        options = ["--account", "account"]
    elif way == "file":
        path = kms.folder / "account"
        path.touch(0o600)
        path.write_text(kms.key + "\n")
        options = ["--app-id", APP_ID, "--api-key-file", "account"]
    elif way == "stdin":
        options = ["--app-id", APP_ID, "--api-key-file", "-"]
        more["stdin"] = subprocess.PIPE
    else:
        options = []
    plan, process = hanging(*REGISTER, *options, **more)
    arguments, environment = with_parents(process.pid)
    assert "--mr-enclave" in arguments
    assert kms.key not in arguments
    assert (kms.key in environment) == (way == "environment")
    plan.released.set()
    ended = kms.finish(process)
    assert ended.code == 8, ended.err
    assert len(kms.stored) == 1


@pytest.mark.parametrize("option", ["--api-key-file", "--account"])
def test_a_key_file_that_others_can_read_is_not_used(kms, option):
    kms.environment = {"PATH": os.environ["PATH"], "HOME": str(kms.folder)}
    path = kms.folder / "account"
    kms("enroll", "account")
    account = json.loads(path.read_text())
    options = [option, "account"]
    if option == "--api-key-file":
        path.write_text(account["api_key"])
        options += ["--app-id", account["app_id"]]
    assert kms(*REGISTER, *options).code == 0
    path.chmod(0o644)
    asked = len(kms.service.seen)
    ended = kms(*REGISTER, *options)
    assert (ended.code, len(kms.service.seen)) == (3, asked), ended.err


def test_a_dry_run_sends_nothing_and_shows_no_secret(kms):
    for more in ((), ("--json",)):
        ended = kms(*REGISTER, "--dry-run", *more)
        assert (ended.code, kms.service.seen, kms.recorded()) == (0, [], {}), ended.err
        assert MR_ENCLAVE[:8] in ended.out
    assert json.loads(ended.out)["dry_run"] is True
    assert kms(*BIGDL, "--dry-run").code == 0
    assert kms.service.seen == []


@pytest.mark.parametrize(
    ("kind", "code"), [("lost-after", 8), ("wrong-id", 5), ("store-down", 7), ("redirect-302", 4)]
)
def test_json_of_a_failure_is_json(kms, certificates, kind, code):
    with faults(kms.service, Fault(kind), certificates=certificates):
        ended = kms(*REGISTER, "--json")
    assert (ended.code, bool(ended.problem)) == (code, True), ended.err
    if ended.out:
        document = json.loads(ended.out)
        assert document["schema"] == 1
        assert f'"exit_code": {code}' in ended.out
        assert '"policy_id"' not in ended.out


@pytest.mark.parametrize(
    "values",
    [
        ("0" * 64, MR_SIGNER),
        (MR_ENCLAVE, "0" * 64),
        (MR_ENCLAVE, MR_ENCLAVE),
        (MR_ENCLAVE[:-1], MR_SIGNER),
        ("g" * 64, MR_SIGNER),
        ("\u0661" * 64, MR_SIGNER),
    ],
)
def test_what_is_no_measurement_is_never_sent(kms, values):
    ended = kms("register", "--mr-enclave", values[0], "--mr-signer", values[1])
    assert ended.code in (2, 3, 5), ended.err
    assert ended.problem
    assert (kms.service.seen, kms.recorded()) == ([], {})


def test_measurements_are_registered_in_lower_case(kms):
    given = ("--mr-enclave", f"0x{MR_ENCLAVE.upper()}", "--mr-signer", MR_SIGNER.upper())
    assert kms("register", *given).code == 0
    assert kms(*REGISTER).code == 0
    assert len(kms.stored) == len(kms.service.ehsm.policies) == 1


@pytest.mark.parametrize("content", [None, "{", '{"schema": 2}'])
def test_a_record_that_cannot_be_kept_is_found_before_anything_is_registered(kms, content):
    path = kms.folder / RECORD
    if content is None:
        path.mkdir()
    else:
        path.write_text(content)
    ended = kms(*REGISTER)
    assert (ended.code, RECORD in ended.problem) == (3, True), ended.err
    assert kms.service.seen == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_ends_at_once(kms, hanging, number):
    _, process = hanging(*REGISTER, limit=4)
    begun = time.monotonic()
    process.send_signal(number)
    ended = kms.finish(process)
    assert ended.code in (130, -number, 128 + number)
    assert time.monotonic() - begun < 2.5
    assert len(kms.uploads) == 1
    assert kms.recorded() == {}


def test_a_command_that_holds_a_key_writes_no_core(kms, hanging):
    """Its memory has the key: a crash must not bring it to the disk."""
    _, process = hanging(*REGISTER)
    limits = Path(f"/proc/{process.pid}/limits").read_text()
    process.kill()
    kms.finish(process)
    assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)
