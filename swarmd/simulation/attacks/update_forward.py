"""Fast forward: versions and heights pushed so far ahead that nothing honest can follow."""

from __future__ import annotations

from typing import Final

from ledger.bodies.manifest import ApproveManifest
from ledger.chain import Chain
from protocol.approval import Action
from protocol.encoding import INTEGER_MAX
from protocol.group import Group
from protocol.manifest import SignedManifest
from swarmd.simulation.attacks.attack import Attack, AttackResult, Family, at_least, never
from swarmd.simulation.attacks.trials import Trials
from swarmd.simulation.byzantine.far_claimer import FarClaimer
from swarmd.simulation.lab import FLEET, Lab, make_lab, make_policy, make_root, owner_keys
from swarmd.simulation.lab_chain import advance, attempt, vouch
from swarmd.simulation.lab_gateway import LabGateway

_ALONE: Final = "alone"
"""A group in which one owner decides: for the control."""
_TRIES: Final = 8
"""Far releases that are proposed."""


def _lab() -> Lab:
    publisher = make_lab().publisher.did
    policy = make_policy(
        approve_threshold=1, amend_threshold=1, revoke_threshold=1, publishers=(publisher,)
    )
    root = make_root(owner_keys(_ALONE), threshold=1)
    return make_lab(groups=(Group(name=_ALONE, owner_root=root, policy=policy),))


def _release(lab: Lab, origin: Chain, group: str, sequence: int, image: bytes) -> SignedManifest:
    release = lab.manifest(sequence=sequence, image=image, groups=(group,))
    attempt(lab, origin, lab.propose(release))
    return release


def _push_sequences(lab: Lab, origin: Chain, group: str, trials: Trials) -> None:
    """Thieves of the publisher's keys and of one owner key try to use up all sequences at once."""
    for number in range(_TRIES):
        far = _release(lab, origin, group, INTEGER_MAX, b"far %d" % number)
        one = lab.approvals(Action.AUTHORISE, far.manifest_id, count=1, group=group)
        other = lab.approvals(Action.REVOKE, far.manifest_id, count=2, group=group)[1:]
        for approvals in (one, one * 2, (*one, *other)):
            body = ApproveManifest(manifest=far.manifest_id, group=group, approvals=approvals)
            attempt(lab, origin, lab.transaction(lab.gateways[1], body))
            latest = origin.latest(group, far.manifest.product)
            is_moved = latest is not None and latest.sequence == INTEGER_MAX
            trials.note("far sequences", is_taken=is_moved)


def _is_kept_out(lab: Lab, origin: Chain, group: str) -> bool:
    """Whether an honest release with the next sequence cannot be authorised any more."""
    honest = _release(lab, origin, group, 2, b"honest")
    refused = attempt(lab, origin, lab.approve(honest.manifest_id, group=group))
    return refused is not None


def _push_heights(lab: Lab, origin: Chain, trials: Trials) -> bool:
    """F robbed validators claim and sign blocks far ahead; returns whether it stays current."""
    gateway = LabGateway(lab)
    gateway.follow(origin)
    liar = FarClaimer(lab, seats=range(lab.validator_set.fault_limit))
    head = gateway.chain.head
    for number, body in enumerate(liar.runs(head)):
        gateway.try_take(body)
        trials.note("far blocks", is_taken=gateway.chain.head != head)
        question = gateway.ask(number)
        rest = range(lab.validator_set.fault_limit, len(lab.validators))
        claimed = liar.claim(head, question.nonce)
        is_current = gateway.hear(question, claimed, vouch(lab, head, question.nonce, rest))
        trials.note("kept from being current", is_taken=not is_current)
    return gateway.ledger.alarm is None


def _run(_seed: int) -> AttackResult:
    lab, trials = _lab(), Trials()
    origin = lab.open_chain()
    first = _release(lab, origin, FLEET, 1, b"first")
    advance(lab, origin, [lab.approve(first.manifest_id)])
    _push_sequences(lab, origin, FLEET, trials)
    is_calm = _push_heights(lab, origin, trials)
    verdicts = [never(kind, count) for kind, count in trials.taken.items()]
    verdicts.append(never("honest releases kept out", _is_kept_out(lab, origin, FLEET)))
    verdicts.append(at_least("without alarm", 1, is_calm))
    return AttackResult(verdicts=tuple(verdicts), attempts=trials.attempts)


def _control(_seed: int) -> AttackResult:
    """The same thief in a group in which one owner decides alone."""
    lab, trials = _lab(), Trials()
    origin = lab.open_chain()
    _push_sequences(lab, origin, _ALONE, trials)
    kept_out = never("honest releases kept out", _is_kept_out(lab, origin, _ALONE))
    far = never("far sequences", trials.taken["far sequences"])
    return AttackResult(verdicts=(far, kept_out), attempts=trials.attempts)


FAST_FORWARD: Final = Attack(
    name="fast-forward",
    family=Family.UPDATE,
    known_as="fast-forward: TUF 1.5.2",
    attacker="a thief of the publisher's keys and of one of three owner keys proposes and half"
    " approves the highest sequence there is; f validators sign blocks and claims far ahead",
    counter="the latest release moves with an authorisation only (L56), a copy by whole certified"
    " blocks (L31, C31); what one validator claims counts neither for nor against (P104)",
    run=_run,
    control=_control,
)
"""See its fields."""
