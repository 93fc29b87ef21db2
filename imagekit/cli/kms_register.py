"""``imagekit kms register`` and ``check``: policies for images, and whether they still fit."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imagekit.cli.kms_options import Door, DryRun, with_door
from imagekit.cli.kms_targets import (
    DEFAULT_LOCK,
    AllowDebug,
    AllowStandin,
    ImageName,
    Images,
    Lock,
    MrEnclave,
    MrSigner,
    Record,
    RegistryCaCert,
    Targets,
)
from imagekit.cli.options import Json
from imagekit.cli.ui import ui

if TYPE_CHECKING:
    from imagekit.kms.record import Registration
    from imagekit.kms.registrar import Registrar
    from imagekit.release.registering import Fit, Outcome, Plan


@with_door
def register(
    door: Door,
    image: ImageName = None,
    all_images: Annotated[bool, typer.Option("--all", help="All images of the lock file.")] = False,
    mr_enclave: MrEnclave = None,
    mr_signer: MrSigner = None,
    isv_prod_id: Annotated[int | None, typer.Option(help="Product id, for BigDL.")] = None,
    mr_td: Annotated[str | None, typer.Option(help="MRTD of a TD, for BigDL.")] = None,
    rtmr: Annotated[str | None, typer.Option(help="RTMR0 to RTMR3 in one, for BigDL.")] = None,
    report_data: Annotated[str | None, typer.Option(help="128 hex digits, for BigDL.")] = None,
    policy_type: Annotated[
        str | None, typer.Option(help="BigDL's type; SGXMREnclavePolicy if not given.")
    ] = None,
    lock: Lock = DEFAULT_LOCK,
    record: Record = None,
    images: Images = "oci:out",
    force: Annotated[
        bool, typer.Option("--force", help="Register anew, and signers with public keys too.")
    ] = False,
    allow_standin: AllowStandin = False,
    allow_debug: AllowDebug = False,
    registry_cacert: RegistryCaCert = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Register an image, a whole lock file or given values; what is there already is reused."""
    from imagekit.release.registering import check_plans, plans_of_values, register_plans

    targets = Targets(lock, record, images, allow_standin, allow_debug, registry_cacert)
    values: dict[str, str | int | None] = {
        "mr_enclave": mr_enclave,
        "mr_signer": mr_signer,
        "isv_prod_id": isv_prod_id,
        "mr_td": mr_td,
        "rtmr": rtmr,
        "report_data": report_data,
    }
    typed = any(value is not None for value in values.values())
    targets.exactly_one(image, all_images, typed)
    registrar, _ = door.registrar()
    kind = _type(registrar, policy_type)
    plans = plans_of_values(kind, values) if typed else targets.plans(image, kind)
    for line in check_plans(plans, force):
        ui.warn(line)
    if dry_run:
        _foresee(registrar, targets.record, plans, force, json)
        return
    outcomes = register_plans(
        registrar,
        targets.record,
        plans,
        force=force,
        done=_say if len(plans) > 1 else _say_success,
        talk=ui.warn,
        waiting=targets.waiting,
    )
    _end(outcomes, json)


def _type(registrar: "Registrar", wanted: str | None) -> str:
    from imagekit.errors import UsageError

    if wanted is not None and wanted not in registrar.types:
        raise UsageError(
            f"--policy-type {wanted} is not one of {registrar.service}",
            f"take {', '.join(registrar.types)}",
        )
    return wanted or registrar.types[0]


def _foresee(
    registrar: "Registrar", record: Path, plans: "list[Plan]", force: bool, json: bool
) -> None:
    """Say what would be done; nothing signed is sent."""
    from imagekit.kms.policy import to_json
    from imagekit.kms.registrar import recorded

    facts = []
    for plan in plans:
        found = recorded(registrar, record, plan.policy)
        known = None if found is None else found.policy_id
        decision = "register" if known is None or force else "reuse"
        facts.append(
            {
                "images": sorted(plan.images),
                "policy": to_json(plan.policy),
                "decision": decision,
                "policy_id": known,
            }
        )
        if not json:
            reused = f"{known}, if the service still has it" if decision == "reuse" else "new"
            whose = f"{plan.label}: " if plan.images else ""
            ui.result(f"{whose}{plan.policy.type} {plan.policy.short}: {reused}")
    if json:
        ui.json(
            {"service": registrar.service, "url": registrar.url, "dry_run": True, "plans": facts}
        )
    else:
        ui.say(f"would ask {registrar.service} at {registrar.url}; nothing was sent")


def _say(outcome: "Outcome") -> None:
    """Say what became of one policy of several, as soon as it is known."""
    _say_success(outcome)
    if outcome.error is not None:
        ui.warn(f"{outcome.plan.label}: {outcome.error.problem} ({outcome.error.hint})")


def _say_success(outcome: "Outcome") -> None:
    if outcome.registered is None:
        return
    state = {
        "registered": "registered",
        "reused": "there already, read back and equal",
        "kept": "recorded already; this service cannot be asked",
    }[outcome.registered.state]
    ui.say(f"{outcome.plan.label}: {state}")


def _end(outcomes: "list[Outcome]", json: bool) -> None:
    from imagekit.release.registering import RegistrationError

    failed = [outcome.error for outcome in outcomes if outcome.error is not None]
    if json:
        ui.json({"policies": [_facts(outcome) for outcome in outcomes]})
    else:
        for outcome in outcomes:
            if outcome.registered is not None:
                policy_id = outcome.registered.registration.policy_id
                names = sorted(outcome.plan.images)
                for name in names:
                    ui.say(f"image: {name}")
                ui.result(f"[INFO] policyID: {policy_id}")
    if len(outcomes) == 1 and failed:
        raise failed[0]
    if failed:
        raise RegistrationError(outcomes)


def _facts(outcome: "Outcome") -> dict[str, Any]:
    from imagekit.kms.policy import to_json

    facts: dict[str, Any] = {
        "images": sorted(outcome.plan.images),
        "policy": to_json(outcome.plan.policy),
    }
    if outcome.registered is not None:
        registration = outcome.registered.registration
        return {**facts, "state": outcome.registered.state, "policy_id": registration.policy_id}
    assert outcome.error is not None
    error = outcome.error
    return {**facts, "error": error.problem, "hint": error.hint, "exit_code": error.exit_code}


@with_door
def check(
    door: Door,
    image: ImageName = None,
    policy_id: Annotated[
        str | None, typer.Option(help="The id that pods of the image have, as in their Secret.")
    ] = None,
    lock: Lock = DEFAULT_LOCK,
    record: Record = None,
    allow_standin: AllowStandin = False,
    allow_debug: AllowDebug = False,
    registry_cacert: RegistryCaCert = None,
    json: Json = False,
) -> None:
    """Say for every image of the lock file whether its policy still fits, and what is left over."""
    from imagekit.errors import CheckError, UsageError
    from imagekit.release.registering import check_one, check_registrations, enclaves_of_lock

    if policy_id is not None and image is None:
        raise UsageError("--policy-id of which image?", "give the image too")
    targets = Targets(lock, record, "", allow_standin, allow_debug, registry_cacert)
    registrar, _ = door.registrar()
    leftover: list[Registration] = []
    if image is not None and policy_id is not None:
        fits = [check_one(registrar, policy_id, targets.subject(image))]
    else:
        enclaves = (
            {(one := targets.subject(image)).reference: one.enclave}
            if image is not None
            else enclaves_of_lock(lock)
        )
        report = check_registrations(registrar, targets.record, enclaves)
        fits, leftover = report.fits, report.leftover if image is None else []
    _report(fits, leftover, json)
    bad = [fit for fit in fits if not fit.good]
    if bad:
        raise CheckError(
            f"{len(bad)} of {len(fits)} images have no policy that fits: "
            f"{bad[0].reference}: {bad[0].state}",
            "register them: imagekit kms register --all; pods need the new id in their Secret",
        )


def _report(fits: "list[Fit]", leftover: "list[Registration]", json: bool) -> None:
    from dataclasses import asdict

    from imagekit.kms.policy import to_json

    if json:
        left = [
            {
                "policy_ids": list(one.ids),
                "images": sorted(one.images),
                "policy": to_json(one.policy),
            }
            for one in leftover
        ]
        ui.json({"images": [asdict(fit) for fit in fits], "leftover": left})
        return
    for fit in fits:
        ui.result(f"{fit.state:<12} {fit.reference} {fit.policy_id}".rstrip())
    for one in leftover:
        for policy_id in one.ids:
            ui.result(f"{'left over':<12} {policy_id}: {one.policy.short}")
    if leftover:
        ui.say("what is left over still lets those enclaves attest; eHSM has no way to remove it")
