"""Wrong software: genuine releases, shown to gateways and devices that they are not for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from ledger.bodies.manifest import ApproveManifest
from ledger.bodies.subject_decisions import CertifySubject, attributes_digest
from ledger.offer import UNKNOWN_DEVICE, Device
from protocol.approval import Action
from protocol.digest import DidId
from protocol.group import Group, Placement
from protocol.manifest import SignedManifest
from protocol.rule import Compare, Comparison, RuleField
from swarmd.simulation.attacks.attack import Attack, AttackResult, Family, at_least, never
from swarmd.simulation.attacks.trials import Trials
from swarmd.simulation.lab import FLEET, make_group, make_lab, make_policy, owner_keys
from swarmd.simulation.lab_chain import advance, attempt
from swarmd.simulation.lab_gateway import LabGateway

_SITE: Final = "site"
"""A group to which no gateway here belongs."""
_CLASSES: Final = ("press", "pump")
"""Hardware classes: of the first gateway and of the second; also groups that take them."""
_SEQUENCES: Final = 3


class _Everywhere(LabGateway):
    """Thinks that it belongs to every group: for controls."""

    def own_groups(self) -> tuple[str, ...]:
        """All groups of the chain."""
        return (FLEET, _SITE, *_CLASSES)


def _class_group(name: str, publisher: DidId) -> Group:
    selector = Compare(RuleField.CLASS, Comparison.EQUAL, name)
    group = make_group(name, make_policy(publishers=(publisher,)))
    return replace(group, placement=Placement(FLEET, selector))


class _Plant:
    """Two gateways of two hardware classes, and releases for each class and for another site."""

    def __init__(self) -> None:
        publisher = make_lab().publisher.did
        site = make_group(_SITE, make_policy(publishers=(publisher,)))
        self.lab = make_lab(groups=(site, *(_class_group(name, publisher) for name in _CLASSES)))
        self.origin = self.lab.open_chain()
        self.trials = Trials()
        self.is_offered_rightly = False
        for gateway, name in zip(self.lab.gateways, _CLASSES, strict=True):
            attributes = (("class", name),)
            digest = attributes_digest(gateway.did, FLEET, 1, attributes)
            approvals = self.lab.approvals(Action.CERTIFY, digest)
            body = CertifySubject(
                did=gateway.did, group=FLEET, attributes=attributes, approvals=approvals
            )
            advance(self.lab, self.origin, [self.lab.transaction(self.lab.publisher, body)])

    def propose(self, sequence: int, *groups: str, **changes: Any) -> SignedManifest:
        """Proposes a release for groups."""
        image = f"{groups} {sequence}".encode()
        content = {"sequence": sequence, "image": image, "groups": tuple(sorted(groups)), **changes}
        release = self.lab.manifest(**content)
        advance(self.lab, self.origin, [self.lab.propose(release)])
        return release

    def authorise(self, sequence: int, group: str, **changes: Any) -> SignedManifest:
        """Has the owners of a group authorise a release."""
        release = self.propose(sequence, group, **changes)
        approval = self.lab.approve(release.manifest_id, group=group)
        advance(self.lab, self.origin, [approval])
        return release

    def replay(self, release: SignedManifest, group: str, approvals: tuple[bytes, ...]) -> None:
        """Hands in approvals that were not given for this release in this group."""
        body = ApproveManifest(manifest=release.manifest_id, group=group, approvals=approvals)
        refused = attempt(self.lab, self.origin, self.lab.transaction(self.lab.publisher, body))
        self.trials.note("foreign approvals", is_taken=refused is None)


def _for_others(plant: _Plant) -> list[SignedManifest]:
    """Releases that the gateway of the first class may not have, and whatever could change that."""
    mine, other = _CLASSES
    lab, found = plant.lab, []
    for sequence in range(1, 2 * _SEQUENCES, 2):
        found += [plant.authorise(sequence, group) for group in (other, _SITE)]
        both = plant.propose(sequence + 1, mine, other)
        advance(lab, plant.origin, [lab.approve(both.manifest_id, group=other)])
        given = lab.approvals(Action.AUTHORISE, both.manifest_id, group=other)
        plant.replay(both, mine, given)  # of the other group's owners, for their group
        plant.replay(both, mine, _by_keys_of(plant, other, both))  # of them, for this one
        earlier = found[-2].manifest_id
        plant.replay(both, mine, lab.approvals(Action.AUTHORISE, earlier, group=mine))
        plant.replay(both, mine, lab.approvals(Action.REVOKE, both.manifest_id, group=mine))
        found.append(both)
    return found


def _by_keys_of(plant: _Plant, group: str, release: SignedManifest) -> tuple[bytes, ...]:
    """Approvals in the first class's group by owners of another one."""
    keys = owner_keys(group)[:2]
    return tuple(
        plant.lab.approval(Action.AUTHORISE, release.manifest_id, key, group=_CLASSES[0])
        for key in keys
    )


def _offer_to_wrong_devices(plant: _Plant, gateway: LabGateway) -> None:
    """A release that needs a stepping stone, to devices that do not run it."""
    mine = _CLASSES[0]
    stone = plant.authorise(1, mine)
    release = plant.authorise(2, mine, stepping_stones=(stone.manifest_id,))
    gateway.follow(plant.origin)
    foreign = plant.lab.manifest(image=b"what another device runs").manifest_id
    for device in (
        UNKNOWN_DEVICE,
        Device(device_id=b"1", installed_sequence=1, installed=foreign),
        Device(device_id=b"2", installed_sequence=3, installed=stone.manifest_id),
    ):
        is_offered = gateway.may_offer(release.manifest_id, device)
        plant.trials.note("wrong devices", is_taken=is_offered)
    right = Device(device_id=b"3", installed_sequence=1, installed=stone.manifest_id)
    plant.is_offered_rightly = gateway.may_offer(release.manifest_id, right)


def _show(gateway_type: type[LabGateway]) -> tuple[_Plant, int]:
    """Shows everything to the gateway of the first class.

    Returns:
        What was tried, and how many of the releases the gateway of the other class may have.
    """
    plant = _Plant()
    releases = _for_others(plant)
    gateway, other = gateway_type(plant.lab), LabGateway(plant.lab, number=1)
    for each in (gateway, other):
        each.follow(plant.origin)
    for release in releases:
        taken = gateway.may_fetch(release.manifest_id) or gateway.may_offer(release.manifest_id)
        plant.trials.note("releases for others", is_taken=taken)
    fetchable = sum(other.may_fetch(release.manifest_id) for release in releases)
    _offer_to_wrong_devices(plant, gateway)
    return plant, fetchable


def _run(_seed: int) -> AttackResult:
    plant, fetchable = _show(LabGateway)
    verdicts = (
        *(never(f"{kind} taken", count) for kind, count in plant.trials.taken.items()),
        at_least("taken by those they are for", 2 * _SEQUENCES, fetchable),
        at_least("offered to the right device", 1, plant.is_offered_rightly),
    )
    return AttackResult(verdicts=verdicts, attempts=plant.trials.attempts)


def _control(_seed: int) -> AttackResult:
    """A gateway that takes every group for its own."""
    plant, _ = _show(_Everywhere)
    taken = never("releases for others taken", plant.trials.taken["releases for others"])
    return AttackResult(verdicts=(taken,), attempts=plant.trials.attempts)


WRONG_SOFTWARE: Final = Attack(
    name="wrong-software",
    family=Family.UPDATE,
    known_as="wrong software installation: TUF 1.5.2",
    attacker="a mirror and a publisher show a gateway of one hardware class releases for another"
    " class and another site, with the approvals of other owners, groups and releases; and its"
    " devices releases that they cannot start from",
    counter="groups and selectors by certified class decide for whom a release is (K25, G1);"
    " approvals name group and release (P70, P72); stepping stones and sequences decide on which"
    " device (R86, R87)",
    run=_run,
    control=_control,
)
"""See its fields."""
