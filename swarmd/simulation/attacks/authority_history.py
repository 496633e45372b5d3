"""Long range: a history written with retired keys, for gateways that were away."""

from __future__ import annotations

from typing import Final

from ledger.bodies.governance import SetCheckpoint
from ledger.errors import ForkAlarmError
from ledger.light import CHECKPOINT_EPOCHS_MAX, EpochForkError
from protocol.approval import Action
from protocol.errors import NotYetError, SwarmError
from protocol.governance import (
    GOVERNANCE_GROUP,
    GOVERNANCE_POLICY,
    checkpoint_digest,
)
from protocol.manifest import SignedManifest
from swarmd.simulation.attacks.attack import Attack, AttackResult, Family, at_least, at_most, never
from swarmd.simulation.byzantine.key_hoarder import KeyHoarder
from swarmd.simulation.lab import Lab, make_lab
from swarmd.simulation.lab_gateway import LabGateway, run_of

_EPOCHS: Final = CHECKPOINT_EPOCHS_MAX + 4
"""Hand-overs in the false history."""
_HONEST_EPOCHS: Final = 3
_EVIL: Final = 2
"""Sequence of the release that no owner approved."""


def _follow(gateway: LabGateway, thief: KeyHoarder, *, asks_trust: bool = True) -> int:
    """Follows a history as far as the gateway lets itself be led; hand-overs believed."""
    first = gateway.chain.head.epoch
    try:
        while gateway.ledger.alarm is None and gateway.chain.head != thief.chain.head:
            if asks_trust:
                gateway.ledger.trust.require(gateway.chain.validators.epoch)
            if not gateway.take(run_of(thief.chain, gateway.chain.head.height + 1)):
                break  # nothing in it that this gateway does not have
    except (NotYetError, EpochForkError, ForkAlarmError) as error:
        if not isinstance(error, NotYetError):
            gateway.ledger.raise_alarm(error)
    return gateway.chain.head.epoch - first


def _record_checkpoint(history: KeyHoarder) -> None:
    """Governance vouches for the newest epoch that was closed."""
    chain, lab = history.chain, history.lab
    height = chain.head.height
    while (header := chain.header_at(height)) is None or not header.closes_epoch:
        height -= 1
    subject = checkpoint_digest(header.height, header.block_id)
    approvals = tuple(
        lab.approval(
            Action.CHECKPOINT,
            subject,
            key,
            group=GOVERNANCE_GROUP,
            policy=GOVERNANCE_POLICY,
            valid_until_ms=history.until_ms,
        )
        for key in lab.governance[:2]
    )
    body = SetCheckpoint(header=header.encoded, approvals=approvals)
    signed = lab.transaction(lab.gateways[0], body, valid_until_ms=history.until_ms)
    history.advance(signed)


def _false_history(lab: Lab) -> tuple[KeyHoarder, SignedManifest]:
    """What the thief shows, and the release in it that no owner approved."""
    thief = KeyHoarder(lab, pace_ms=2000)
    thief.authorise(lab.manifest(sequence=1, image=b"revoked in truth"))
    evil = lab.manifest(sequence=_EVIL, image=b"evil")
    thief.advance(lab.propose(evil))
    thief.pass_epochs(_EPOCHS)
    return thief, evil


def _run(_seed: int) -> AttackResult:
    lab = make_lab()
    thief, evil = _false_history(lab)
    sleeper = LabGateway(lab)
    led = _follow(sleeper, thief)
    honest = KeyHoarder(lab, pace_ms=1000)
    honest.pass_epochs(_HONEST_EPOCHS)
    present = LabGateway(lab)
    _follow(present, honest)
    before = present.chain.head
    _follow(present, thief)
    _record_checkpoint(honest)
    warned = LabGateway(lab)
    warned.ledger.learn_checkpoint(honest.chain.checkpoint())
    _follow(warned, thief)
    late = _is_alarmed_by_checkpoint(sleeper, honest)
    accepted = sum(each.may_fetch(evil.manifest_id) for each in (sleeper, present, warned))
    verdicts = (
        at_most("hand-overs a sleeper follows", CHECKPOINT_EPOCHS_MAX, led),
        never("images accepted without owners", accepted),
        never("led astray who was there", present.chain.head != before),
        at_least("alarms once governance speaks", 2, late + (warned.ledger.alarm is not None)),
    )
    return AttackResult(verdicts=verdicts, attempts=_EPOCHS)


def _is_alarmed_by_checkpoint(sleeper: LabGateway, honest: KeyHoarder) -> bool:
    """Whether one that was led astray notices when it learns of governance's word."""
    try:
        sleeper.ledger.learn_checkpoint(honest.chain.checkpoint())
    except EpochForkError as error:
        sleeper.ledger.raise_alarm(error)
    except SwarmError:
        return False
    return sleeper.ledger.alarm is not None


def _control(_seed: int) -> AttackResult:
    """A sleeper that follows old keys for ever."""
    lab = make_lab()
    thief, _ = _false_history(lab)
    led = _follow(LabGateway(lab), thief, asks_trust=False)
    verdicts = (at_most("hand-overs a sleeper follows", CHECKPOINT_EPOCHS_MAX, led),)
    return AttackResult(verdicts=verdicts, attempts=_EPOCHS)


LONG_RANGE: Final = Attack(
    name="long-range",
    family=Family.AUTHORITY,
    known_as="long-range attack, posterior corruption: Deirmentzoglou et al., IEEE Access 7, 2019",
    attacker="a thief of every vote key that was ever retired writes another history from genesis,"
    " in which a revocation is missing and a release waits that no owner approved",
    counter="who was there compares, who was away follows 26 hand-overs and then needs governance"
    " (G12, G13); owners' signatures are counted in any history (G2)",
    run=_run,
    control=_control,
)
"""See its fields."""
