"""Thieves of vote keys and owner keys, in every number, against followers and newcomers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from ledger.records.manifest import ManifestRecord
from protocol.digest import ManifestId
from protocol.errors import SwarmError
from protocol.manifest import SignedManifest
from swarmd.authority import Authority
from swarmd.simulation.attacks.attack import Attack, AttackResult, Family, at_least, never
from swarmd.simulation.byzantine.colluding_validators import ColludingValidators
from swarmd.simulation.lab import FLEET, make_lab, owner_keys
from swarmd.simulation.lab_chain import advance, attempt, authorise
from swarmd.simulation.lab_gateway import LabGateway

_VALIDATORS: Final = 4
_OWNERS: Final = 3
_THRESHOLD: Final = 2
"""Owners that must agree."""


@dataclass(kw_only=True)
class Robbery:
    """What thieves of so many keys of each kind achieve; the publisher's keys they always have."""

    validators: int
    """Vote keys stolen."""
    owners: int
    """Owner keys stolen."""
    attempts: int = 0
    """Forged blocks, states and approvals that were shown."""
    accepted: int = 0
    """Gateways that would fetch or offer what the thieves made."""
    alarms: int = 0
    """Gateways that raised the alarm."""
    lost: int = 0
    """Gateways that take no honest release any more."""
    claims: list[str] = field(default_factory=list)
    """What was accepted."""
    gateway_type: type[LabGateway] = LabGateway
    """The victims."""

    def run(self) -> Robbery:
        """Tries everything, each claim against a gateway of its own; returns itself."""
        lab = make_lab(validators=_VALIDATORS)
        origin = lab.open_chain()
        good = lab.manifest(sequence=1, image=b"good")
        authorise(lab, origin, good)
        evil = lab.manifest(sequence=2, image=b"evil")
        advance(lab, origin, [lab.propose(evil)])
        if self.owners:
            attempt(lab, origin, lab.approve(evil.manifest_id, count=self.owners))
            follower = self.gateway_type(lab)
            follower.follow(origin)
            self._look(follower, evil, good, "approved")
        thieves = ColludingValidators(
            lab, origin, seats=range(self.validators), owners=owner_keys(FLEET)[: self.owners]
        )
        for state in thieves.states(evil.manifest_id):
            follower, newcomer = self.gateway_type(lab), self.gateway_type(lab)
            follower.follow(origin)
            follower.try_take(state.run)
            self._look(follower, evil, good, f"block: {state.claim}")
            try:
                newcomer.fetch_state(state)
            except SwarmError:
                newcomer.follow(origin)
            self._look(newcomer, evil, good, f"state: {state.claim}")
        return self

    def _look(
        self, gateway: LabGateway, evil: SignedManifest, good: SignedManifest, claim: str
    ) -> None:
        self.attempts += 1
        if gateway.may_fetch(evil.manifest_id) or gateway.may_offer(evil.manifest_id):
            self.accepted += 1
            self.claims.append(claim)
        self.alarms += gateway.ledger.alarm is not None
        self.lost += not gateway.may_offer(good.manifest_id)


def _robberies(*, owners: range, validators: range) -> list[Robbery]:
    return [
        Robbery(validators=count, owners=others).run() for count in validators for others in owners
    ]


def _matrix(_seed: int) -> AttackResult:
    """Every cell in which fewer owners were robbed than must agree."""
    cells = _robberies(owners=range(_THRESHOLD), validators=range(_VALIDATORS + 1))
    faults = make_lab(validators=_VALIDATORS).validator_set.fault_limit
    few = [cell for cell in cells if cell.validators <= faults]
    verdicts = (
        never("forged images accepted", sum(cell.accepted for cell in cells)),
        never("gateways stopped by at most f", sum(cell.lost + cell.alarms for cell in few)),
        at_least("combinations of keys", (_VALIDATORS + 1) * _THRESHOLD, len(cells)),
    )
    return AttackResult(verdicts=verdicts, attempts=sum(cell.attempts for cell in cells))


def _matrix_control(_seed: int) -> AttackResult:
    """As many owners robbed as must agree: that is what authority means."""
    cells = _robberies(owners=range(_THRESHOLD, _OWNERS + 1), validators=range(1))
    accepted = sum(cell.accepted for cell in cells)
    attempts = sum(cell.attempts for cell in cells)
    verdicts = (never("forged images accepted", accepted),)
    return AttackResult(verdicts=verdicts, attempts=attempts)


KEY_COMPROMISE: Final = Attack(
    name="key-compromise",
    family=Family.UPDATE,
    known_as="key compromise: TUF 1.5.2; vulnerability to key compromises: Uptane",
    attacker="a thief of the publisher's keys, of 0 to 4 of the 4 vote keys and of 0 or 1 of the 3"
    " owner keys, two of which must agree, shows forged approvals, blocks and whole states",
    counter="approvals count against the owner root that the gateway pinned, whatever validators"
    " certify (P74, P75, G2); up to f vote keys certify nothing (C31)",
    run=_matrix,
    control=_matrix_control,
)
"""See its fields."""


# Validators without owners ------------------------------------------------------------------------


class _BelievesValidators(Authority):
    """Counts approvals by what the ledger says of them: for controls."""

    def _check_owners(
        self,
        manifest: ManifestId,  # noqa: ARG002
        group: str,  # noqa: ARG002
        record: ManifestRecord,  # noqa: ARG002
    ) -> tuple[str, ...]:
        return ("whoever the validators say",)


class _BelievingGateway(LabGateway):
    authority_type = _BelievesValidators


def _alone(_seed: int) -> AttackResult:
    """All validators, and nobody else."""
    cell = Robbery(validators=_VALIDATORS, owners=0).run()
    verdicts = (
        never("forged images accepted", cell.accepted),
        at_least("gateways that raise the alarm", cell.attempts, cell.alarms),
        at_least("gateways that offer nothing more", cell.attempts, cell.lost),
    )
    return AttackResult(verdicts=verdicts, attempts=cell.attempts)


def _alone_control(_seed: int) -> AttackResult:
    """Gateways that take the validators' word for the owners'."""
    cell = Robbery(validators=_VALIDATORS, owners=0, gateway_type=_BelievingGateway).run()
    verdicts = (never("forged images accepted", cell.accepted),)
    return AttackResult(verdicts=verdicts, attempts=cell.attempts)


VALIDATORS_ALONE: Final = Attack(
    name="validators-without-owners",
    family=Family.AUTHORITY,
    known_as="compromise of the online repository: TUF 1.5.2; a colluding quorum",
    attacker="all validators and a publisher's thief certify blocks and states in which a release"
    " is authorised: by nobody, by strangers, by other owners, under another policy",
    counter="each gateway counts the owners' signatures itself, against the root it pinned (G2,"
    " P75); what is certified against the rules raises the alarm and ends every offer (L33)",
    run=_alone,
    control=_alone_control,
)
"""See its fields."""
