"""News withheld: freezes, and two histories shown to two gateways."""

from __future__ import annotations

from typing import Final

from ledger.block import Block
from ledger.certificate import Certificate, contradictions
from ledger.chain import Chain
from ledger.vote import Ed25519Verifier, VoteKind
from protocol.catchup import FreshnessAnswer, parse_freshness
from protocol.digest import ChainId
from protocol.manifest import SignedManifest
from protocol.policy import OFFER_FRESHNESS_MS, SERVE_FRESHNESS_MS
from swarmd.freshness import FreshnessRound
from swarmd.simulation.attacks.attack import Attack, AttackResult, Family, at_least, at_most, never
from swarmd.simulation.attacks.trials import Trials
from swarmd.simulation.byzantine.freeze_mirror import FreezeMirror
from swarmd.simulation.lab import HOUR_MS, make_lab
from swarmd.simulation.lab_chain import advance, authorise, build_next, vouch
from swarmd.simulation.lab_gateway import LabGateway, blocks_answer

_STEP_H: Final = 2
"""Between two questions, hours."""
_HOURS: Final = 9 * 24
"""How long news is withheld: two days beyond the limit of serving."""
_OFFER_H: Final = OFFER_FRESHNESS_MS / HOUR_MS
_SERVE_H: Final = SERVE_FRESHNESS_MS / HOUR_MS
_OLD_NONCES: Final = 2


class _GullibleRound(FreshnessRound):
    """Takes statements about any nonce, signed by anybody: for controls."""

    def add(self, answer: FreshnessAnswer, chain: ChainId) -> None:  # noqa: ARG002
        """Believes every statement."""
        for raw, *_ in answer.statements:
            signed = parse_freshness(raw)
            self._answers[signed.freshness.validator] = signed


class _Frozen:
    """A gateway behind a mirror that withholds the revocation of what it offers."""

    def __init__(
        self, seed: int, *, power_cut_h: int | None, question: type[FreshnessRound] = FreshnessRound
    ) -> None:
        self.lab = make_lab()
        self.origin = self.lab.open_chain()
        self.release = self.lab.manifest(image=b"frozen %d" % seed)
        authorise(self.lab, self.origin, self.release)
        self.gateway = LabGateway(self.lab, is_fresh=False)
        self.gateway.question_type = question
        self.gateway.follow(self.origin)
        self.mirror = FreezeMirror(self.lab, range(self.lab.validator_set.fault_limit))
        self.power_cut_h = power_cut_h
        self.trials = Trials()
        self._confirm_once()
        self.held_at = self.gateway.chain.head
        advance(self.lab, self.origin, [self.lab.revoke(self.release.manifest_id)])

    def _confirm_once(self) -> None:
        everybody = range(len(self.lab.validators))
        for number in range(_OLD_NONCES):
            question = self.gateway.ask(number)
            answer = vouch(self.lab, self.origin.head, question.nonce, everybody)
            assert self.gateway.hear(question, answer), "an honest answer confirms"
            self.mirror.old.append(answer)

    def freeze(self) -> tuple[float, float]:
        """Withholds news step by step; returns how many hours it offered, and served."""
        manifest = self.release.manifest_id
        offered_h = served_h = 0.0
        for hour in range(_STEP_H, _HOURS + 1, _STEP_H):
            self.gateway.clock.advance(_STEP_H * 3600.0)
            question = self.gateway.ask(_OLD_NONCES + hour)
            answers = self.mirror.answers(question.nonce, self.held_at, self.origin.head)
            self.trials.note("statements", is_taken=self.gateway.hear(question, *answers))
            if self.power_cut_h is not None and hour % self.power_cut_h == 0:
                self.gateway.clock.set_wall_ms(0)
                self.gateway.restart()
            offered_h = hour if self.gateway.may_offer(manifest) else offered_h
            served_h = hour if self.gateway.may_fetch(manifest) else served_h
        return offered_h, served_h

    def learns_it_in_the_end(self) -> bool:
        """Whether honest peers find it ready to learn of the revocation."""
        self.gateway.follow(self.origin)
        return self.gateway.refusal(self.release.manifest_id) == "manifest.revoked"


def _run_freeze(seed: int) -> AttackResult:
    attempts, believed, offered_h, served_h, learnt = 0, 0, 0.0, 0.0, 0
    cuts_h = (None, 10)
    for power_cut_h in cuts_h:
        world = _Frozen(seed, power_cut_h=power_cut_h)
        hours = world.freeze()
        offered_h, served_h = max(offered_h, hours[0]), max(served_h, hours[1])
        attempts += world.trials.attempts
        believed += world.trials.taken["statements"]
        learnt += world.learns_it_in_the_end()
    verdicts = (
        at_most("offered for", _OFFER_H, offered_h, "h"),
        at_most("fetched and served for", _SERVE_H, served_h, "h"),
        never("stale statements believed", believed),
        at_least("learnt the revocation later", len(cuts_h), learnt),
    )
    return AttackResult(verdicts=verdicts, attempts=attempts)


def _control_freeze(seed: int) -> AttackResult:
    """A gateway that takes a statement about another nonce for one about its own."""
    world = _Frozen(seed, power_cut_h=None, question=_GullibleRound)
    offered_h, served_h = world.freeze()
    verdicts = (
        at_most("offered for", _OFFER_H, offered_h, "h"),
        at_most("fetched and served for", _SERVE_H, served_h, "h"),
    )
    return AttackResult(verdicts=verdicts, attempts=world.trials.attempts)


FREEZE: Final = Attack(
    name="indefinite-freeze",
    family=Family.UPDATE,
    known_as="indefinite freeze: TUF 1.5.2; freeze, drop-request: Uptane",
    attacker="whoever stands between a gateway and everybody withholds a revocation for nine days,"
    " answers its questions with old statements and those of f robbed validators, cuts its power"
    " and sets its clock to 1970",
    counter="knowledge is as young as the newest nonce that f + 1 validators signed (P104), by the"
    " monotonic clock, over restarts; beyond 72 h nothing is offered, beyond 7 d nothing fetched or"
    " served",
    run=_run_freeze,
    control=_control_freeze,
)
"""See its fields."""


# Split view ---------------------------------------------------------------------------------------


class _Split:
    """Two gateways, each shown another final block of one height."""

    def __init__(self, seed: int) -> None:
        self.lab = make_lab()
        self.origin: Chain = self.lab.open_chain()
        self.release: SignedManifest = self.lab.manifest(image=b"split %d" % seed)
        authorise(self.lab, self.origin, self.release)
        self.gateways = (LabGateway(self.lab), LabGateway(self.lab))
        for gateway in self.gateways:
            gateway.follow(self.origin)
        plain = build_next(self.origin)
        revoking = build_next(self.origin, [self.lab.revoke(self.release.manifest_id)])
        self.blocks = (revoking, plain)
        faults = self.lab.validator_set.fault_limit
        self.liars = tuple(range(faults + 1))
        honest = range(faults + 1, len(self.lab.validators))
        half = len(honest) // 2
        self.certificates = (
            self._certify(revoking, (*self.liars, *honest[:half])),
            self._certify(plain, (*self.liars, *honest[half:])),
        )

    def _certify(self, block: Block, seats: tuple[int, ...]) -> Certificate:
        header = block.header
        votes = [
            self.lab.vote(VoteKind.FINALIZE, seat, view=header.view, block_id=header.block_id)
            for seat in seats[: self.lab.validator_set.quorum]
        ]
        return Certificate.of(votes, self.lab.validator_set)

    def run_for(self, side: int) -> bytes:
        """What a side is shown."""
        return blocks_answer((self.blocks[side].encoded,), self.certificates[side].encode())

    def show_each_its_own(self) -> int:
        """Splits them; returns how many believe what they are shown."""
        return sum(
            gateway.try_take(self.run_for(side)) for side, gateway in enumerate(self.gateways)
        )

    def convicted(self) -> list[int]:
        """Seats that the two certificates convict, their votes checked."""
        found = []
        for evidence in contradictions(*self.certificates):
            evidence.verify(self.lab.validator_set, self.lab.chain_id, 0, Ed25519Verifier())
            found.append(evidence.signer)
        return found

    @property
    def unnoticed(self) -> int:
        """Gateways without an alarm."""
        return sum(gateway.ledger.alarm is None for gateway in self.gateways)


def _run_split(seed: int) -> AttackResult:
    world = _Split(seed)
    believed = world.show_each_its_own()
    for side, gateway in enumerate(world.gateways):  # each hears of the other's newest block
        gateway.try_take(world.run_for(1 - side))
    convicted = world.convicted()
    offering = sum(gateway.may_offer(world.release.manifest_id) for gateway in world.gateways)
    verdicts = (
        never("split unnoticed once headers meet", world.unnoticed),
        never("still offered by either", offering),
        at_least("liars convicted", len(world.liars), len(set(convicted) & set(world.liars))),
        never("honest convicted", len(set(convicted) - set(world.liars))),
    )
    return AttackResult(verdicts=verdicts, attempts=believed)


def _control_split(seed: int) -> AttackResult:
    """Gateways that never compare what they know."""
    world = _Split(seed)
    believed = world.show_each_its_own()
    offering = sum(gateway.may_offer(world.release.manifest_id) for gateway in world.gateways)
    verdicts = (
        never("split unnoticed once headers meet", world.unnoticed),
        never("still offered by either", offering),
    )
    return AttackResult(verdicts=verdicts, attempts=believed)


SPLIT_VIEW: Final = Attack(
    name="split-view",
    family=Family.UPDATE,
    known_as="split view: RFC 9162, 11.3",
    attacker="f + 1 validators, one more than the chain survives, give two gateways two final"
    " blocks of one height, of which one does not hold a revocation",
    counter="a second certified block of a height raises the alarm, and nothing is offered under it"
    " (L33); both certificates together convict f + 1 (C25)",
    run=_run_split,
    control=_control_split,
)
"""See its fields."""
