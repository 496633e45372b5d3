"""Judges a run of daemons by the verdicts of machines' swarms, from what was seen outside."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from swarmd.simulation.daemons.outside import PUBLISHER, Findings, OutsideSwarm
from swarmd.simulation.daemons.timeline import Record, ReleaseProgress
from swarmd.simulation.links import NodeLink
from swarmd.simulation.swarm_build import healed_s
from swarmd.simulation.swarm_outcome import Outcome, ReleaseFigures, Verdict
from swarmd.simulation.transfer import fluid_bound_s


def judge(record: Record, swarm: OutsideSwarm, findings: Findings, *, level: str) -> Outcome:
    """Makes an outcome of what was seen.

    Args:
        record: of the run, which has ended.
        swarm: that was driven.
        findings: of its end.
        level: what ran.
    """
    scenario = record.scenario
    judgement = _Judgement(record, swarm, findings)
    return Outcome(
        scenario=scenario.name,
        summary=scenario.summary,
        seed=record.seed,
        nodes=scenario.gateways.count,
        validators=scenario.validators.count,
        adversaries=tuple(swarm.adversaries),
        expected_to_break=(),
        verdicts=tuple(judgement.verdicts()),
        releases=tuple(judgement.figures(release) for release in record.releases),
        simulated_s=record.ended_s,
        height=record.height,
        event_count=findings.event_count,
        trace_hash=findings.trace_hash,
        samples=tuple(record.samples),
        frames=(),
        bad_members=sum(count for _, count in swarm.adversaries),
        level=level,
        cpu_share=findings.cpu_share,
        cpu_s=findings.cpu_s,
        notes=findings.notes,
    )


class _Judgement:
    def __init__(self, record: Record, swarm: OutsideSwarm, findings: Findings) -> None:
        self._record: Final = record
        self._findings = findings
        self._gateways = swarm.gateways
        self._links: Mapping[str, NodeLink] | None = swarm.links
        self._present = [name for name in record.view.complete if not self._is_excused(name)]

    def _is_excused(self, name: str) -> bool:
        """Whether it lacks a release for want of room (SI36)."""
        in_force = [each for each in self._record.releases if each.plan.revoke_s is None]
        has_all = all(name in release.finished_s for release in in_force)
        return name in self._record.full and not has_all

    def verdicts(self) -> list[Verdict]:
        record, findings = self._record, self._findings
        expect, ended = record.scenario.expect, record.ended_s
        found = [
            _never("agreement", [ended] * findings.disagreements),
            _never("authorised-only", record.unauthorised_s),
            _never("nothing-lost", record.lost_s),
            _never("blame", [ended] * findings.offences),
        ]
        if findings.spoilt is not None:
            found.append(_never("nothing-bad-kept", [ended] * findings.spoilt))
        waits = [
            math.inf if release.final_s is None else release.final_s - release.plan.publish_s
            for release in record.releases
        ]
        found += self._at_most("finality", expect.finality_s, max(waits), "s")
        if healed_s(record.scenario) is not None:
            taken = math.inf if record.heal_s is None else record.heal_s
            found += self._at_most("liveness", expect.heal_s, taken, "s")
        found += self._completeness()
        found += self._revocation()
        size = sum(len(release.image) for release in record.releases)
        images = findings.seeder_bytes / size
        return [*found, *self._at_most("seeder-images", expect.seeder_images, images, "")]

    def _revocation(self) -> list[Verdict]:
        record = self._record
        revoked = [release for release in record.releases if release.plan.revoke_s is not None]
        if not revoked:
            return []
        healed = healed_s(record.scenario) or 0.0
        taken = max(
            math.inf
            if release.revoked_s is None
            else max(release.kept_until_s - max(release.revoked_s, healed), 0.0)
            for release in revoked
        )
        return self._at_most("revocation", record.scenario.expect.revocation_s, taken, "s")

    def _completeness(self) -> list[Verdict]:
        record, present = self._record, self._present
        expect = record.scenario.expect
        in_force = [release for release in record.releases if release.plan.revoke_s is None]
        found: list[Verdict] = []
        if expect.complete is not None and in_force:
            ready = sum(all(name in release.finished_s for release in in_force) for name in present)
            share = ready / len(present) if present else 1.0
            failed = record.ended_s if share < expect.complete else None
            found.append(
                Verdict(
                    name="complete",
                    bound=expect.complete,
                    measured=share,
                    is_minimum=True,
                    failed_s=failed,
                )
            )
        if self._links is None:
            return found
        for name, limit, share in (
            ("makespan-p50", expect.makespan_p50, 0.5),
            ("makespan-p99", expect.makespan_p99, 0.99),
            ("makespan-max", expect.makespan_max, 1.0),
        ):
            taken = [self._makespan(release, share, len(present)) for release in in_force]
            found += self._at_most(name, limit, max(taken, default=0.0), "bounds")
        return found

    def _makespan(self, release: ReleaseProgress, share: float, count: int) -> float:
        """Time within which a share of the gateways finished, in fluid bounds."""
        figures = self.figures(release)
        needed = max(math.ceil(share * count - 1e-9), 1)
        if needed > len(figures.finished_s):
            return math.inf
        return figures.finished_s[needed - 1] / figures.bound_s

    def figures(self, release: ReleaseProgress) -> ReleaseFigures:
        """How one release went."""
        releases, final = self._record.releases, release.final_s
        finished = self._record.finished_s(release, self._findings.completions)
        times = [] if final is None else finished.values()
        return ReleaseFigures(
            name=release.plan.name or f"release {releases.index(release) + 1}",
            manifest="" if release.manifest is None else release.manifest.hex(),
            is_authorised=True,
            published_s=release.plan.publish_s,
            final_s=final,
            revoked_s=release.revoked_s,
            bound_s=self._bound_s(release),
            finished_s=tuple(sorted(max(time - (final or 0.0), 0.0) for time in times)),
        )

    def _bound_s(self, release: ReleaseProgress) -> float:
        """The fluid bound of what is new in a release, seconds; infinite without rates."""
        if self._links is None:
            return math.inf
        size = len(release.image)
        if release is not self._record.releases[0]:
            size = max(round(size * release.plan.changed), 1)
        leechers = [self._links[name] for name in self._gateways]
        return fluid_bound_s(size, [self._links[PUBLISHER]], leechers)

    def _at_most(self, name: str, limit: float | None, measured: float, unit: str) -> list[Verdict]:
        if limit is None:
            return []
        return [
            Verdict(
                name=name,
                bound=limit,
                measured=measured if math.isfinite(measured) else None,
                unit=unit,
                failed_s=None if measured <= limit else self._record.ended_s,
            )
        ]


def _never(name: str, times: Sequence[float]) -> Verdict:
    return Verdict(
        name=name, bound=0, measured=float(len(times)), failed_s=min(times, default=None)
    )
