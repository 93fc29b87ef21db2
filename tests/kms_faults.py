"""What can go wrong between a client and the services of ``attestation_service``.

    with faults(service, Fault("lost-after")) as plan:
        ...

Each fault strikes the n-th request of its action and counts what it saw and did; leaving the block
fails if one of them never struck, so that no test can pass because its fault did nothing.
"""

import contextlib
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from attestation_service import Handler, Service, start_service
from ehsm_service import APP_ID, HTML, REPEATED, Reply, action_of, mac
from registry_parts import Certificates

Json = Any
UPLOAD, READ, CONNECT = "UploadQuotePolicy", "GetQuotePolicy", "connect"
ELEVEN_MINUTES = 11 * 60_000
ENOUGH = 1 << 28  # of an endless answer: more than a client with a limit would ever take
GATEWAY = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>\n"

# Strikes before TLS: the connection is reset.
BEFORE_TLS = ("refused",)
# The service never sees the request.
NOT_HANDED_OVER = (
    "lost-before",
    "silent-before",
    "gateway",
    *(f"redirect-{status}" for status in (301, 302, 303, 307, 308)),
)
# The service answers, in a state of its own.
SERVICE_STATES = ("repeated", "clock-ahead", "clock-behind", "store-down", "unknown-appid")
# The service does it, and no whole answer comes back.
LOST_ANSWERS = (
    "lost-after",
    "closed-after",
    "silent-after",
    "cut-head",
    "cut-length",
    "cut-chunk",
    "endless",
    "huge",
    "drip",
)
# The service does it, and something whole, but else, comes back.
OTHER_ANSWERS = (
    "gateway-after",
    "html",
    "not-json",
    "half-json",
    "empty",
    "null-result",
    "unknown-code",
    "no-id",
    "unknown-id",
    "wrong-id",
    "swapped",
    "bare-policy",
    "other-enclave",
    "other-signer",
    "upper-case",
    "verdict",
    "unsigned",
    "old-nonce",
)
# The service says that it did it, and did not, or something else.
STORE_FAULTS = ("lost-write", "stored-empty")
KINDS = (
    *BEFORE_TLS,
    *NOT_HANDED_OVER,
    *SERVICE_STATES,
    *LOST_ANSWERS,
    *OTHER_ANSWERS,
    *STORE_FAULTS,
)


@dataclass
class Fault:
    """One thing that goes wrong.

    Attributes:
        kind: one of ``KINDS``.
        action: of eHSM, or one of BigDL's paths without its slash; of ``refused``: "connect".
        nth: the first request of the action that it strikes, from 1.
        times: how many in a row it strikes.
        seen: requests of the action so far.
        applied: how often it struck.
        sent: bytes of an endless or slow answer that went out.
    """

    kind: str
    action: str = UPLOAD
    nth: int = 1
    times: int = 1
    seen: int = 0
    applied: int = 0
    sent: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no such fault: {self.kind}")
        if (self.kind in BEFORE_TLS) != (self.action == CONNECT):
            raise ValueError(f"{self.kind} does not strike {self.action}")

    def due(self) -> bool:
        """Count a request; whether this one is struck."""
        self.seen += 1
        return self.nth <= self.seen < self.nth + self.times


@dataclass
class Plan:
    """The faults of a service that are in force.

    Attributes:
        elsewhere: where redirects point to; it knows the same tenants and must not be asked.
        decoys: ids of policies that faults made.
        busy: set while a slow answer is on its way.
    """

    service: Service
    faults: tuple[Fault, ...]
    elsewhere: Service | None = None
    decoys: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    busy: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    pair: threading.Barrier = field(default_factory=lambda: threading.Barrier(2, timeout=20))
    exchanged: dict[int, Reply] = field(default_factory=dict)
    earlier: list[dict[str, Json]] = field(default_factory=list)
    running: int = 0

    def strike(self, action: str) -> Fault | None:
        """The fault for a request; the first one that is due."""
        with self.lock:
            due = [fault for fault in self.faults if fault.action == action and fault.due()]
        return due[0] if due else None

    def done(self, fault: Fault) -> None:
        with self.lock:
            fault.applied += 1

    def at_connect(self, handler: Handler) -> bool:
        fault = self.strike(CONNECT)
        if fault is None:
            return False
        self.done(fault)
        reset(handler)
        return True

    def instead(self, handler: Handler) -> None:
        with self.lock:
            self.running += 1
        try:
            self.answer(handler)
        finally:
            with self.lock:
                self.running -= 1

    def answer(self, handler: Handler) -> None:
        action = action_of(handler.path)
        fault = self.strike(handler.path.strip("/") if action is None else action)
        if fault is None:
            reply = handler.reply()
            self.remember(reply)
            handler.give(*reply)
        elif fault.kind in NOT_HANDED_OVER:
            self.keep_from_service(handler, fault)
        elif fault.kind in LOST_ANSWERS:
            self.lose(handler, handler.reply(), fault)
        elif fault.kind in OTHER_ANSWERS:
            reply = handler.reply()
            changed = self.changed(handler, reply, fault)
            if changed == reply:
                raise AssertionError(f"{fault.kind} changed nothing in {reply.data!r}")
            self.done(fault)
            handler.give(*changed)
        else:
            reply = self.in_another_state(handler, fault)
            self.done(fault)
            handler.give(*reply)

    def remember(self, reply: Reply) -> None:
        with contextlib.suppress(ValueError):
            self.earlier.append(json.loads(reply.data))

    # -- not handed over

    def keep_from_service(self, handler: Handler, fault: Fault) -> None:
        self.done(fault)
        if fault.kind == "lost-before":
            reset(handler)
        elif fault.kind == "silent-before":
            self.stay_silent(handler)
        elif fault.kind == "gateway":
            handler.give(502, GATEWAY, "text/html")
        else:
            there = f"https://{self.elsewhere.address}{handler.path}"
            status = int(fault.kind.removeprefix("redirect-"))
            handler.give(status, b"", "text/html", {"Location": there})

    def stay_silent(self, handler: Handler) -> None:
        handler.close_connection = True
        self.busy.set()
        self.released.wait(30)

    # -- the service in another state

    def in_another_state(self, handler: Handler, fault: Fault) -> Reply:
        ehsm = self.service.ehsm
        if fault.kind == "repeated":
            document = {"code": 400, "message": REPEATED, "result": {}}
            return Reply(200, json.dumps(document).encode(), "application/json; charset=utf-8")
        if fault.kind in ("clock-ahead", "clock-behind"):
            skew = ELEVEN_MINUTES if fault.kind == "clock-ahead" else -ELEVEN_MINUTES
            ehsm = replace(ehsm, now=lambda now=ehsm.now: now() + skew)
            handler.clock = ehsm.now
        elif fault.kind == "store-down":
            ehsm = replace(ehsm, store_works=False)
        elif fault.kind == "unknown-appid":
            ehsm = replace(ehsm, tenants={})
        elif fault.kind == "lost-write":
            ehsm = replace(ehsm, policies={})
        reply = handler.reply(ehsm)
        if fault.kind == "stored-empty":
            policy = json.loads(reply.data)["result"]["policyId"]
            ehsm.policies[policy] = APP_ID, {}
        return reply

    # -- done, and no whole answer

    def lose(self, handler: Handler, reply: Reply, fault: Fault) -> None:
        self.done(fault)
        handler.close_connection = True
        kind, data = fault.kind, reply.data
        if kind == "lost-after":
            reset(handler)
        elif kind == "silent-after":
            self.stay_silent(handler)
        elif kind in ("endless", "huge", "drip"):
            self.go_on(handler, data, fault)
        elif kind != "closed-after":
            length = f"Content-Length: {len(data)}\r\n\r\n"
            chunks = f"Transfer-Encoding: chunked\r\n\r\n{len(data):x}\r\n"
            head, body = {
                "cut-head": ("", b""),
                "cut-length": (length, data[:-3]),
                "cut-chunk": (chunks, data + b"\r\n"),
            }[kind]
            start = f"HTTP/1.1 200 OK\r\nContent-Type: {reply.media}\r\n"
            handler.wfile.write(start.encode() + head.encode() + body)

    def go_on(self, handler: Handler, data: bytes, fault: Fault) -> None:
        """Answer for ever: with everything, or by a byte at a time."""
        slow = fault.kind == "drip"
        length = {"drip": len(data), "huge": 2 * ENOUGH}.get(fault.kind)
        head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        head += "\r\n" if length is None else f"Content-Length: {length}\r\n\r\n"
        self.busy.set()
        with contextlib.suppress(OSError):  # the client leaves
            handler.wfile.write(head.encode())
            while fault.sent < ENOUGH and not (slow and self.released.wait(0.2)):
                block = data[fault.sent : fault.sent + 1] if slow else b" " * (1 << 20)
                if not block:
                    break
                handler.wfile.write(block)
                fault.sent += len(block)

    # -- done, and another answer

    def changed(self, handler: Handler, reply: Reply, fault: Fault) -> Reply:
        kind = fault.kind
        if kind == "gateway-after":
            return Reply(504, GATEWAY.replace(b"502 Bad Gateway", b"504 Timeout"), "text/html")
        if kind == "html":
            return Reply(200, GATEWAY.replace(b"502 Bad Gateway", b"Sign in"), HTML)
        if kind == "swapped":
            return self.swap(reply)
        raw = {"not-json": b"policyId: ok\n", "half-json": reply.data[:-2], "empty": b""}
        if kind in raw:
            return reply._replace(data=raw[kind])
        document = CHANGES[kind](self, json.loads(reply.data))
        if kind == "wrong-id":
            self.decoys += [document.get("policyID") or document["result"]["policyId"]]
        return reply._replace(data=json.dumps(document).encode())

    def swap(self, reply: Reply) -> Reply:
        """Give each of two requests that are here at once the answer of the other."""
        number = self.pair.wait()
        self.exchanged[number] = reply
        self.pair.wait()
        return self.exchanged[1 - number]


def with_id(document: dict[str, Json], found: str | None) -> dict[str, Json]:
    """The answer with another id, or without."""
    if "policyID" in document:
        return {} if found is None else {"policyID": found}
    result = {name: value for name, value in document["result"].items() if name != "policyId"}
    return {**document, "result": result | ({} if found is None else {"policyId": found})}


def with_result(document: dict[str, Json], **values: Json) -> dict[str, Json]:
    assert set(values) <= set(document["result"]), "nothing to change"
    return {**document, "result": {**document["result"], **values}}


def without(document: dict[str, Json], *names: str) -> dict[str, Json]:
    result = {name: value for name, value in document["result"].items() if name not in names}
    return {**document, "result": result}


def old_nonce(plan: Plan, document: dict[str, Json]) -> dict[str, Json]:
    """An answer to an earlier request, signed for it."""
    for earlier in reversed(plan.earlier):
        before = earlier.get("result") or {}
        if "sign" in before:
            return {**document, "result": before}
    fields = {**without(document, "sign")["result"], "nonce": "AAAA"}
    sign = mac(plan.service.ehsm.tenants[APP_ID], fields)
    return {**document, "result": {**fields, "sign": sign}}


def wrong_id(plan: Plan, document: dict[str, Json]) -> dict[str, Json]:
    """The id of an older policy for another enclave."""
    if "policyID" in document:
        policy = plan.service.bigdl.new_id()
        other = {"policyType": "SGXMREnclavePolicy", "mrEnclave": "d" * 64}
        plan.service.bigdl.policies[policy] = other
        return with_id(document, policy)
    return with_id(document, plan.service.ehsm.policy("d" * 64, "e" * 64))


CHANGES: dict[str, Callable[[Plan, dict[str, Json]], dict[str, Json]]] = {
    "null-result": lambda _, it: {**it, "result": None},
    "unknown-code": lambda _, it: {**it, "code": 299},
    "no-id": lambda _, it: with_id(it, None),
    "unknown-id": lambda _, it: with_id(it, "15ca0dd5-2d34-4221-a708-3171ffe60001"),
    "wrong-id": wrong_id,
    "bare-policy": lambda _, it: without(it, "mr_enclave", "mr_signer", "createTime"),
    "other-enclave": lambda _, it: with_result(it, mr_enclave="d" * 64),
    "other-signer": lambda _, it: with_result(it, mr_signer="d" * 64),
    "upper-case": lambda _, it: with_result(
        it, **{name: it["result"][name].upper() for name in ("mr_enclave", "mr_signer")}
    ),
    "verdict": lambda _, it: with_result(it, result=0 if it["result"]["result"] else 0xA007),
    "unsigned": lambda _, it: without(it, "sign"),
    "old-nonce": old_nonce,
}


def reset(handler: Handler) -> None:
    """End a connection with RST, as a host that was switched off and on does."""
    handler.close_connection = True
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # Not shut down first, which would say FIN.
    os.close(handler.connection.detach())


@contextlib.contextmanager
def faults(
    service: Service, *planned: Fault, certificates: Certificates | None = None
) -> Iterator[Plan]:
    """Let faults strike a service until the end of the block.

    Args:
        service: what they strike.
        planned: the faults.
        certificates: of the server that redirects point to.
    """
    with contextlib.ExitStack() as stack:
        plan = Plan(service, planned)
        if any(fault.kind.startswith("redirect") for fault in planned):
            assert certificates is not None
            plan.elsewhere = stack.enter_context(start_service(certificates))
            plan.elsewhere.ehsm = service.ehsm
        service.instead, service.at_connect = plan.instead, plan.at_connect
        try:
            yield plan
        finally:
            service.instead = service.at_connect = None
            plan.released.set()
            plan.pair.abort()
            # What still writes would write into the next test.
            deadline = time.monotonic() + 5
            while plan.running and time.monotonic() < deadline:
                time.sleep(0.01)
        for fault in planned:
            assert fault.applied, f"never struck: {fault}"


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """A port of 127.0.0.1 that refuses connections, and that nobody else gets meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
