"""Old truths: mirrors that repeat what was once final, signed or fresh."""

from __future__ import annotations

from typing import Final

from ledger.bodies.manifest import ApproveManifest
from ledger.chain import Chain
from ledger.offer import Device
from ledger.transition.envelope import read_transaction
from protocol.approval import Action
from protocol.manifest import SignedManifest
from protocol.transaction import SignedTransaction
from swarmd.simulation.attacks.attack import Attack, AttackResult, Family, at_least, never
from swarmd.simulation.attacks.trials import Trials
from swarmd.simulation.byzantine.rollback_mirror import RollbackMirror
from swarmd.simulation.lab import FLEET, make_lab
from swarmd.simulation.lab_chain import advance, attempt, vouch
from swarmd.simulation.lab_gateway import LabGateway, run_of

_RELEASES: Final = 12
_BAD: Final = 9
"""The release, counted from 0, that turns out bad and is revoked."""
_DEVICE: Final = b"device 1"


class _History:
    """A chain with some releases, one of them revoked, and a mirror that heard everything."""

    def __init__(self, seed: int) -> None:
        self.lab = make_lab()
        self.origin: Chain = self.lab.open_chain()
        self.mirror = RollbackMirror()
        self.gateway = LabGateway(self.lab)
        self.releases: list[SignedManifest] = []
        for number in range(_RELEASES):
            image = b"image %d of history %d" % (number, seed)
            release = self.lab.manifest(sequence=number + 1, image=image)
            self.releases.append(release)
            self._commit(self.lab.propose(release))
            self._commit(self.lab.approve(release.manifest_id))
        self.old_runs = len(self.mirror.runs)
        self._commit(self.lab.revoke(self.bad.manifest_id))

    @property
    def bad(self) -> SignedManifest:
        """The release that is revoked in the end."""
        return self.releases[_BAD]

    def _commit(self, signed: SignedTransaction) -> None:
        advance(self.lab, self.origin, [signed])
        head = self.origin.head
        question = self.gateway.ask(head.height)
        answer = vouch(self.lab, head, question.nonce, range(len(self.lab.validators)))
        self.mirror.hear(transaction=signed.signed.raw, statement=answer)
        for start in (1, head.height):  # everything so far, and the newest block alone
            self.mirror.hear(run=run_of(self.origin, start))


def _replay_ledger(world: _History, trials: Trials) -> None:
    """Old runs and old statements, to a gateway that knows better."""
    gateway = world.gateway
    head, root = gateway.chain.head, gateway.chain.state.tree.root
    for body in world.mirror.runs:
        gateway.try_take(body)
        moved = (gateway.chain.head, gateway.chain.state.tree.root) != (head, root)
        trials.note("blocks", is_taken=moved)
    for number, answer in enumerate(world.mirror.statements):
        gateway.clock.advance(60.0)
        question = gateway.ask(1000 + number)
        trials.note("statements", is_taken=gateway.hear(question, answer))


def _replay_transactions(world: _History, trials: Trials) -> None:
    """Old transactions and approvals, to a validator; with the publisher's stolen keys, too."""
    origin, lab = world.origin, world.lab
    old = [read_transaction(raw) for raw in world.mirror.transactions]
    for release in world.releases:
        again = lab.manifest(sequence=release.manifest.sequence, image=b"an older sequence again")
        old.append(lab.propose(again))
    approvals = lab.approvals(Action.AUTHORISE, world.bad.manifest_id)
    body = ApproveManifest(manifest=world.bad.manifest_id, group=FLEET, approvals=approvals)
    old.append(lab.transaction(lab.gateways[1], body))
    for signed in old:
        trials.note("transactions", is_taken=attempt(lab, origin, signed) is None)


def _offer_older(world: _History, trials: Trials) -> None:
    """Each older release, to a device that runs the newest."""
    device = Device(device_id=_DEVICE, installed_sequence=_RELEASES)
    for release in world.releases[:-1]:
        is_offered = world.gateway.may_offer(release.manifest_id, device)
        trials.note("offers", is_taken=is_offered)
    bad = world.bad.manifest_id
    trials.note("offers", is_taken=world.gateway.may_offer(bad, Device(device_id=_DEVICE)))
    trials.note("offers", is_taken=world.gateway.may_fetch(bad))


def _run_rollback(seed: int) -> AttackResult:
    world, trials = _History(seed), Trials()
    world.gateway.follow(world.origin)
    _replay_ledger(world, trials)
    _replay_transactions(world, trials)
    _offer_older(world, trials)
    newest = world.releases[-1].manifest_id
    verdicts = [never(f"old {kind} believed", count) for kind, count in trials.taken.items()]
    verdicts.append(at_least("newest release on offer", 1, world.gateway.may_offer(newest)))
    return AttackResult(verdicts=tuple(verdicts), attempts=trials.attempts)


def _control_rollback(seed: int) -> AttackResult:
    """A gateway that remembers no height, and asks nobody whether its copy is current."""
    world, trials = _History(seed), Trials()
    for body in world.mirror.runs[: world.old_runs]:
        forgetful = LabGateway(world.lab)
        forgetful.try_take(body)
        trials.note("offers", is_taken=forgetful.may_offer(world.bad.manifest_id))
    verdicts = (never("old offers believed", trials.taken["offers"]),)
    return AttackResult(verdicts=verdicts, attempts=trials.attempts)


ROLLBACK: Final = Attack(
    name="rollback",
    family=Family.UPDATE,
    known_as="rollback: TUF 1.5.2, Uptane",
    attacker="a mirror that repeats every old run of blocks, statement of freshness, transaction"
    " and approval, some under the publisher's stolen keys, and old releases for new devices",
    counter="a copy never goes back (L31, L33); a statement names the gateway's own nonce (P104);"
    " nonces, sequences and revocations are for good (L40, L55, L56); a device gets no lower"
    " sequence than it runs (R87)",
    run=_run_rollback,
    control=_control_rollback,
)
"""See its fields."""
