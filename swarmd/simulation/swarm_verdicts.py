"""Measures a simulated swarm against its scenario's bounds (docs/spec/simulation.md).

A bound that time breaks, such as "final after 10 s at most", is broken at a known moment; so a
prefix of the run shows it. What is still open when the run ends is no failure before that moment.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from protocol.digest import ManifestId
from protocol.exchange_events import Offence
from swarmd.simulation.exchange_host import SimulatedRelease
from swarmd.simulation.links import NodeLink
from swarmd.simulation.scenario import Expectations, ReleasePlan
from swarmd.simulation.swarm_build import SwarmParts, healed_s, is_authorised
from swarmd.simulation.swarm_gateway import Gateway, SwarmHost
from swarmd.simulation.swarm_ledger import Action
from swarmd.simulation.swarm_outcome import ReleaseFigures, Verdict
from swarmd.simulation.transfer import fluid_bound_s
from swarmd.simulation.transfer_part import ImagePart


@dataclass(slots=True)
class Observed:
    """What only an observer of the whole run knows."""

    heal_s: float | None = None
    """From the end of the last fault until all honest validators made progress."""
    kept_until_s: dict[ManifestId, float] = field(default_factory=dict)
    """When an honest gateway last kept a revoked image, simulated seconds."""
    lost_s: list[float] = field(default_factory=list)
    """Looks at which an honest gateway lacked what it had held, or called complete."""
    kept_unauthorised_s: float | None = None
    """When an honest gateway first kept an image that was not in force."""


class Judge:
    """Judges one swarm at its present moment."""

    def __init__(self, parts: SwarmParts, observed: Observed, *, is_over: bool) -> None:
        """Takes a swarm.

        Args:
            parts: the swarm.
            observed: what the run noted.
            is_over: whether the scenario's time is up, so that what is open has failed.
        """
        self._parts = parts
        self._observed = observed
        self._is_over = is_over
        self._now = parts.world.now
        self._expect: Expectations = parts.scenario.expect

    def verdicts(self) -> tuple[Verdict, ...]:
        """All verdicts of the scenario, always in the same order."""
        found = [*self._safety(), *self._finality(), *self._completeness(), *self._costs()]
        return tuple(found)

    # Safety --------------------------------------------------------------------------------------

    def _safety(self) -> Iterable[Verdict]:
        parts = self._parts
        times = [float(text.split("s:", 1)[0]) for text in parts.cluster.violations]
        yield self._never("agreement", times)
        late = [
            moment
            for node in self._honest_nodes()
            for moment, manifest_id in node.served_late
            if moment > node.withdrawn[manifest_id]
        ]
        unauthorised = [moment for moment, _ in parts.book.unauthorised]
        kept = self._observed.kept_unauthorised_s
        yield self._never(
            "authorised-only", [*late, *unauthorised, *([] if kept is None else [kept])]
        )
        bad = [moment for node in self._honest_nodes() for moment, _ in node.kept_bad]
        yield self._never("nothing-bad-kept", bad)
        yield self._never("nothing-lost", self._observed.lost_s)
        yield self._never("blame", [self._now] * self._wrongly_blamed())

    def _never(self, name: str, times: Sequence[float]) -> Verdict:
        return Verdict(
            name=name, bound=0, measured=float(len(times)), failed_s=min(times, default=None)
        )

    def _honest_nodes(self) -> Iterable[SwarmHost]:
        for gateway in self._parts.gateways:
            for node in gateway.nodes:
                if isinstance(node, SwarmHost):
                    yield node

    def _wrongly_blamed(self) -> int:
        """Honest nodes that honest nodes disconnected for a chunk that did not match."""
        honest = {node.number: None for node in self._honest_nodes()}
        return sum(
            peer in honest and offence is Offence.CORRUPT_CHUNK
            for node in self._honest_nodes()
            for peer, offence in node.offences
        )

    # Finality ------------------------------------------------------------------------------------

    def _finality(self) -> Iterable[Verdict]:
        limit = self._expect.finality_s
        if limit is not None:
            measured, failed = 0.0, list[float]()
            for plan, release in self._plans():
                if is_authorised(plan):
                    final = self._final_s(release, Action.PUBLISH)
                    taken = math.inf if final is None else final - plan.publish_s
                    measured = max(measured, taken)
                    failed += self._deadline(plan.publish_s, taken, limit)
            yield _at_most("finality", limit, measured, failed, "s")
        end, limit = healed_s(self._parts.scenario), self._expect.heal_s
        if end is not None and limit is not None:
            taken = math.inf if self._observed.heal_s is None else self._observed.heal_s
            yield _at_most("liveness", limit, taken, self._deadline(end, taken, limit), "s")

    def _deadline(self, start_s: float, taken_s: float, limit_s: float) -> list[float]:
        """When a time limit was broken, if it was."""
        if taken_s <= limit_s:
            return []
        moment = start_s + limit_s
        if moment < self._now:
            return [moment]
        return [self._now] if self._is_over else []

    def _plans(self) -> Iterable[tuple[ReleasePlan, SimulatedRelease]]:
        return zip(self._parts.scenario.releases, self._parts.releases, strict=True)

    def _final_s(self, release: SimulatedRelease, action: Action) -> float | None:
        return self._parts.book.final_s.get((action, release.manifest_id))

    # Distribution --------------------------------------------------------------------------------

    def figures(self) -> tuple[ReleaseFigures, ...]:
        """How each release went."""
        return tuple(
            self._figures(number, plan, release)
            for number, (plan, release) in enumerate(self._plans())
        )

    def _figures(self, number: int, plan: ReleasePlan, release: SimulatedRelease) -> ReleaseFigures:
        final = self._final_s(release, Action.PUBLISH)
        return ReleaseFigures(
            name=plan.name or f"release {number + 1}",
            manifest=release.manifest_id.hex(),
            is_authorised=is_authorised(plan),
            published_s=plan.publish_s,
            final_s=final,
            revoked_s=self._final_s(release, Action.REVOKE),
            bound_s=self._bound_s(number, plan),
            finished_s=() if final is None else self._finished_s(release, final),
        )

    def _finished_s(self, release: SimulatedRelease, final_s: float) -> tuple[float, ...]:
        times = [gateway.finished_s.get(release.manifest_id) for gateway in receivers(self._parts)]
        return tuple(sorted(time - final_s for time in times if time is not None))

    def _bound_s(self, number: int, plan: ReleasePlan) -> float:
        """The fluid bound; uplinks of adversaries do not count, their wishes do."""
        parts = self._parts
        size = sum(len(chunk) for chunk in parts.releases[number].components[0])
        if number:
            size = max(round(size * plan.changed), 1)
        seeders = [gateway.plan.link for gateway in parts.gateways if gateway.is_seeder]
        others = [_counted(gateway) for gateway in parts.gateways if not gateway.is_seeder]
        return fluid_bound_s(size, seeders, others)

    def _completeness(self) -> Iterable[Verdict]:
        expect, wanted = self._expect, self._present()
        in_force = list(self._in_force())
        if expect.complete is not None and in_force:
            ready = sum(
                all(release.manifest_id in gateway.finished_s for _, release in in_force)
                for gateway in wanted
            )
            share = ready / len(wanted) if wanted else 1.0
            failed = self._now if share < expect.complete and self._is_over else None
            yield Verdict(
                name="complete",
                bound=expect.complete,
                measured=share,
                is_minimum=True,
                failed_s=failed,
            )
        yield from self._makespans()
        has_revocation = any(plan.revoke_s is not None for plan, _ in self._plans())
        if expect.revocation_s is not None and has_revocation:
            yield self._revocation(expect.revocation_s)

    def _present(self) -> list[Gateway]:
        """Those that are up; whoever lacks a release for want of room is not awaited (SI36)."""
        up = [gateway for gateway in receivers(self._parts) if gateway.is_up]
        return [gateway for gateway in up if not self._is_excused(gateway)]

    def _is_excused(self, gateway: Gateway) -> bool:
        return gateway.files.room.is_full and not all(
            release.manifest_id in gateway.finished_s for _, release in self._in_force()
        )

    def _in_force(self) -> Iterable[tuple[ReleasePlan, SimulatedRelease]]:
        for plan, release in self._plans():
            if is_authorised(plan) and plan.revoke_s is None:
                yield plan, release

    def _makespans(self) -> Iterable[Verdict]:
        expect = self._expect
        limits = (
            ("makespan-p50", expect.makespan_p50, 0.5),
            ("makespan-p99", expect.makespan_p99, 0.99),
            ("makespan-max", expect.makespan_max, 1.0),
        )
        for name, limit, share in limits:
            if limit is None:
                continue
            measured, failed = 0.0, list[float]()
            for plan, figures in zip(self._parts.scenario.releases, self.figures(), strict=True):
                if not figures.is_authorised or plan.revoke_s is not None:
                    continue
                taken = _quantile(figures.finished_s, len(self._present()), share)
                bound = figures.bound_s
                measured = max(measured, taken / bound)
                if figures.final_s is not None:
                    failed += self._deadline(figures.final_s, taken, limit * bound)
                elif self._is_over:
                    failed.append(self._now)
            yield _at_most(name, limit, measured, failed, "bounds")

    def _revocation(self, limit: float) -> Verdict:
        measured, failed = 0.0, list[float]()
        healed = healed_s(self._parts.scenario) or 0.0
        kept_until = self._observed.kept_until_s
        for plan, release in self._plans():
            if plan.revoke_s is None:
                continue
            final = self._final_s(release, Action.REVOKE)
            if final is None:
                measured = math.inf
                failed += [self._now] if self._is_over else []
                continue
            start = max(final, healed)
            taken = max(kept_until.get(release.manifest_id, 0.0) - start, 0.0)
            measured = max(measured, taken)
            if taken > limit:
                failed.append(start + limit)
        return _at_most("revocation", limit, measured, failed, "s")

    # Costs ---------------------------------------------------------------------------------------

    def _costs(self) -> Iterable[Verdict]:
        expect, parts = self._expect, self._parts
        if expect.seeder_images is not None:
            sent: dict[ManifestId, int] = {}
            for gateway in parts.gateways:
                for part in all_parts(gateway) if gateway.is_seeder else ():
                    name = part.release.manifest_id
                    sent[name] = sent.get(name, 0) + part.figures.sent_bytes
            size = sum(len(chunk) for chunk in parts.releases[0].components[0])
            images = max(sent.values(), default=0) / size
            yield self._cost("seeder-images", expect.seeder_images, images)
        if expect.bad_share is not None:
            received = [part.figures for each in receivers(parts) for part in all_parts(each)]
            needed = max(sum(each.gained_bytes for each in received), 1)
            bad = sum(each.bad_bytes for each in received)
            yield self._cost("bad-share", expect.bad_share, bad / needed)

    def _cost(self, name: str, limit: float, measured: float) -> Verdict:
        failed = self._now if measured > limit else None
        return Verdict(name=name, bound=limit, measured=measured, failed_s=failed)


def receivers(parts: SwarmParts) -> list[Gateway]:
    """The honest gateways that fetch."""
    return [each for each in parts.gateways if each.is_honest and not each.is_seeder]


def all_parts(gateway: Gateway) -> Iterable[ImagePart]:
    """What a gateway did with each image, in all its lives."""
    for node in gateway.nodes:
        yield from node.parts


def _counted(gateway: Gateway) -> NodeLink:
    link = gateway.plan.link
    return link if gateway.is_honest else replace(link, uplink_bytes_per_s=0.0)


def _quantile(times: Sequence[float], count: int, share: float) -> float:
    """The time within which a share of `count` nodes finished; infinite if fewer did."""
    needed = max(math.ceil(share * count - 1e-9), 1)
    return times[needed - 1] if needed <= len(times) else math.inf


def _at_most(
    name: str, limit: float, measured: float, failed: Sequence[float], unit: str
) -> Verdict:
    return Verdict(
        name=name,
        bound=limit,
        measured=measured if math.isfinite(measured) else None,
        unit=unit,
        failed_s=min(failed, default=None),
    )
