"""Eclipse by members: a revocation reaches everybody but those whose peers all lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocol.catchup import FreshnessAnswer
from protocol.policy import OFFER_FRESHNESS_MS, SERVE_FRESHNESS_MS
from swarmd.freshness import FreshnessRound
from swarmd.simulation.attacks.attack import Attack, AttackResult, Family, at_least, at_most, never
from swarmd.simulation.attacks.trials import Trials
from swarmd.simulation.byzantine.eclipsing_member import EclipsingMember
from swarmd.simulation.lab import HOUR_MS, make_lab, make_policy
from swarmd.simulation.lab_chain import advance, authorise, vouch
from swarmd.simulation.lab_gateway import LabGateway

_STEP_H: Final = 2
_HELD_NONCES: Final = 24
"""Answers that the members hold back: one is handed over each step, for two days."""
_ECLIPSED: Final = 2
_FREE: Final = 2


@dataclass(frozen=True)
class _Limits:
    """How long a group lets its gateways live on what they know, hours."""

    offer_h: int
    serve_h: int

    @property
    def hours(self) -> int:
        """How long the eclipse lasts."""
        return self.serve_h + 24


_GROUPS: Final = (
    _Limits(OFFER_FRESHNESS_MS // HOUR_MS, SERVE_FRESHNESS_MS // HOUR_MS),
    _Limits(6, 12),
)
"""The default, and a group that prefers freshness to availability."""


class _CountsFromArrival(LabGateway):
    """Takes its knowledge for as young as the answer rather than the question: for controls."""

    def hear(self, question: FreshnessRound, *answers: FreshnessAnswer) -> bool:
        """Counts from now on."""
        if not super().hear(question, *answers):
            return False
        self.age.confirm(self.clock.monotonic())
        return True


class _Eclipse:
    """Some gateways whose only peers are members that lie, and some that have one honest peer."""

    def __init__(self, seed: int, limits: _Limits, gateway_type: type[LabGateway]) -> None:
        policy = make_policy(
            offer_freshness_ms=limits.offer_h * HOUR_MS, serve_freshness_ms=limits.serve_h * HOUR_MS
        )
        self.lab = make_lab(gateways=_ECLIPSED + _FREE, policy=policy)
        self.limits = limits
        self.origin = self.lab.open_chain()
        self.release = self.lab.manifest(image=b"eclipsed %d" % seed)
        authorise(self.lab, self.origin, self.release)
        self.gateways = [
            gateway_type(self.lab, number=number) for number in range(_ECLIPSED + _FREE)
        ]
        for gateway in self.gateways:
            gateway.follow(self.origin)
        self.members = [EclipsingMember() for _ in range(_ECLIPSED)]
        self.trials = Trials()
        self._collect()
        advance(self.lab, self.origin, [self.lab.revoke(self.release.manifest_id)])

    def _vouched(self, question: FreshnessRound) -> FreshnessAnswer:
        return vouch(self.lab, self.origin.head, question.nonce, range(len(self.lab.validators)))

    def _collect(self) -> None:
        """Before the revocation: nonces of the victims are answered, and nobody tells them."""
        for gateway, member in zip(self.gateways, self.members, strict=False):
            for number in range(_HELD_NONCES):
                question = gateway.ask(number)
                member.hold_back(question, self._vouched(question))

    def step(self, number: int) -> None:
        """Two hours: everybody asks, the free are answered, the eclipsed get what suits."""
        for gateway in self.gateways:
            gateway.clock.advance(_STEP_H * 3600.0)
        for gateway in self.gateways[_ECLIPSED:]:
            gateway.follow(self.origin)
            question = gateway.ask(_HELD_NONCES + number)
            answer = self._vouched(question)
            gateway.hear(question, answer)
            for member in self.members:
                member.overhear(answer)
        for gateway, member in zip(self.gateways, self.members, strict=False):
            before_ms = gateway.age.age_ms(gateway.clock.monotonic())
            asked = gateway.ask(_HELD_NONCES + number)
            gateway.hear(asked, *member.answers())
            late = member.late_answer()
            if late is not None:
                gateway.hear(*late)
            after_ms = gateway.age.age_ms(gateway.clock.monotonic())
            is_younger = (after_ms or 0) < (before_ms or 0)
            self.trials.note("answers that made it younger", is_taken=is_younger)

    def run(self) -> tuple[int, int, int]:
        """Hours for which an eclipsed one offered and served, and free ones that did after 2 h."""
        manifest, offered_h, served_h, free = self.release.manifest_id, 0, 0, 0
        for hour in range(_STEP_H, self.limits.hours + 1, _STEP_H):
            self.step(hour)
            for gateway in self.gateways[:_ECLIPSED]:
                offered_h = hour if gateway.may_offer(manifest) else offered_h
                served_h = hour if gateway.may_fetch(manifest) else served_h
            free += sum(each.may_fetch(manifest) for each in self.gateways[_ECLIPSED:])
        return offered_h, served_h, free


def _run(seed: int, gateway_type: type[LabGateway] = LabGateway) -> AttackResult:
    verdicts, trials, free, learnt = [], 0, 0, 0
    younger = 0
    for limits in _GROUPS:
        world = _Eclipse(seed, limits, gateway_type)
        offered_h, served_h, late = world.run()
        verdicts += [
            at_most(f"offered with a limit of {limits.offer_h} h", limits.offer_h, offered_h, "h"),
            at_most(f"served with a limit of {limits.serve_h} h", limits.serve_h, served_h, "h"),
        ]
        trials += world.trials.attempts
        younger += world.trials.taken["answers that made it younger"]
        free += late
        for gateway in world.gateways[:_ECLIPSED]:
            gateway.follow(world.origin)
            learnt += gateway.refusal(world.release.manifest_id) == "manifest.revoked"
    verdicts += [
        never("answers that made it younger", younger),
        never("gateways with one honest peer that went on", free),
        at_least("learnt it when the eclipse ended", _ECLIPSED * len(_GROUPS), learnt),
    ]
    return AttackResult(verdicts=tuple(verdicts), attempts=trials)


def _control(seed: int) -> AttackResult:
    """Gateways whose knowledge is as young as the answers, which members can hold back."""
    return _run(seed, _CountsFromArrival)


ECLIPSE: Final = Attack(
    name="eclipse-by-members",
    family=Family.AUTHORITY,
    known_as="eclipse: Heilman et al., USENIX Security 2015; freeze: TUF 1.5.2",
    attacker="members that are all peers of a gateway hold a revocation back, hand over answers of"
    " validators days late, and try on it what others were answered",
    counter="knowledge is as old as the question that f + 1 validators answered (P104); then offers"
    " end, later serving, by the limits of the group; one honest peer is enough to learn",
    run=_run,
    control=_control,
)
"""See its fields."""
