"""Runs a simulated swarm: validators decide about releases, gateways distribute them, one seed.

One heap carries consensus, ledger news and image streams, so that one trace hash covers all. What
is measured, and where the two halves meet, is in docs/spec/simulation.md.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable
from typing import Final

from protocol.digest import ManifestId
from swarmd.simulation.scenario import Adversary, Scenario
from swarmd.simulation.swarm_build import SwarmParts, breaking_reasons, healed_s, is_authorised
from swarmd.simulation.swarm_disk import DiskWatch
from swarmd.simulation.swarm_faults import Timeline
from swarmd.simulation.swarm_gateway import SwarmHost
from swarmd.simulation.swarm_ledger import Action
from swarmd.simulation.swarm_outcome import Frame, Outcome, Sample
from swarmd.simulation.swarm_verdicts import Judge, Observed, all_parts, receivers

STEP_S: Final = 0.25
"""How often a run is looked at, simulated seconds."""
SETTLE_S: Final = 1.0
"""How long a run goes on when nothing is left to do, simulated seconds."""
PROGRESS_BLOCKS: Final = 2
"""Blocks above any final one at healing that count as progress."""
SAMPLES_MAX: Final = 400
"""Samples of an outcome; longer runs keep every second, fourth ... one."""
FRAMES_MAX: Final = 12
"""Frames of an outcome, likewise."""
FRAME_NODES_MAX: Final = 96
"""Nodes that frames show."""
FRAME_EDGES_MAX: Final = 200
"""Edges of one frame, the busiest."""
PREFIX_STEP_S: Final = 0.01
"""How much longer than the moment a bound broke a prefix is: times are written so, seconds."""
PREFIX_PROBES: Final = 5
"""Runs that look for a shorter prefix: together they take three times the whole run at most."""
OnStep = Callable[[float, float], None]
"""Told now and then: simulated seconds so far, and the share of the work that is done."""


def run_scenario(
    scenario: Scenario,
    seed: int,
    *,
    until_s: float | None = None,
    on_step: OnStep | None = None,
) -> Outcome:
    """Runs a scenario once.

    Args:
        scenario: what happens.
        seed: decides all that is random.
        until_s: when to end at the latest, simulated seconds: a prefix of the whole run.
        on_step: told of progress.

    Raises:
        ConfigError: the scenario cannot be built; names the key.
    """
    return Swarm(scenario, seed).run(until_s=until_s, on_step=on_step)


def adapt(
    scenario: Scenario,
    *,
    nodes: int | None = None,
    adversaries: tuple[Adversary, ...] = (),
) -> Scenario:
    """A scenario with other gateways or more adversaries.

    Args:
        scenario: to begin with; stays as it is.
        nodes: gateways instead of its own number.
        adversaries: besides its own; one of the same name takes the place of its own.

    Raises:
        ConfigError: names the key and the reason.
    """
    if nodes is not None:
        gateways = dataclasses.replace(scenario.gateways, count=nodes)
        scenario = dataclasses.replace(scenario, gateways=gateways)
    if adversaries:
        names = {each.name for each in adversaries}
        kept = tuple(each for each in scenario.adversaries if each.name not in names)
        scenario = dataclasses.replace(scenario, adversaries=kept + adversaries)
    return scenario


def replay_command(
    name: str,
    seed: int,
    *,
    nodes: int | None = None,
    adversaries: tuple[Adversary, ...] = (),
    until_s: float | None = None,
) -> str:
    """The command line that runs a scenario again.

    Args:
        name: scenario or its file.
        seed: of the run.
        nodes: gateways, if they were changed.
        adversaries: that were added.
        until_s: where the run ends, if before its own end.
    """
    words = ["swarmd", "sim", name, "--seed", str(seed)]
    if nodes is not None:
        words += ["--nodes", str(nodes)]
    for each in adversaries:
        amount = f"{each.count}" if each.share is None else f"{each.share:g}"
        words += ["--adversary", f"{each.name}={amount}"]
    if until_s is not None:
        words += ["--until", f"{until_s:.2f}"]
    return shlex.join(words)


def shortest_prefix_s(scenario: Scenario, outcome: Outcome) -> float | None:
    """The shortest prefix found that breaks the first broken bound of a run, too.

    Where time breaks a bound the moment is known; else it is halved in on. Every answer was tried.

    Args:
        scenario: that was run.
        outcome: that broke a bound.

    Returns:
        Simulated seconds; None if nothing shorter than the run was found.
    """
    name = outcome.failures[0].name

    def breaks(until_s: float) -> bool:
        return not run_scenario(scenario, outcome.seed, until_s=until_s).verdict(name).passed

    known_s = outcome.prefix_s
    if known_s is not None and known_s + PREFIX_STEP_S < outcome.simulated_s:
        found_s = round(known_s + PREFIX_STEP_S, 2)
        return found_s if breaks(found_s) else None
    low_s, high_s = 0.0, outcome.simulated_s
    for _ in range(PREFIX_PROBES):
        middle_s = round((low_s + high_s) / 2, 2)
        if breaks(middle_s):
            high_s = middle_s
        else:
            low_s = middle_s
    return high_s if high_s < outcome.simulated_s else None


class Swarm:
    """One run of a scenario; see the module's docstring."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        """Builds the swarm at time 0.

        Raises:
            ConfigError: the scenario cannot be built; names the key.
        """
        self.scenario: Final = scenario
        self.seed: Final = seed
        self._reasons = breaking_reasons(scenario)
        self.parts: Final = SwarmParts(scenario, seed)
        """Its world and who lives in it."""
        self._steps = list(Timeline(self.parts, seed).steps)
        self._observed = Observed()
        self._plans = list(zip(scenario.releases, self.parts.releases, strict=True))
        self._may_keep: dict[ManifestId, None] = {
            release.manifest_id: None for plan, release in self._plans if is_authorised(plan)
        }
        self._goal: int | None = None
        self._disks = DiskWatch()
        self._recorder = Recorder(self.parts)

    def run(self, *, until_s: float | None = None, on_step: OnStep | None = None) -> Outcome:
        """Runs to the end of all work, of the scenario's time, or of a prefix of it.

        Args:
            until_s: when to end at the latest, simulated seconds.
            on_step: told of progress after each quarter of a second.
        """
        limit_s = self.scenario.duration_s
        if until_s is not None:
            limit_s = min(until_s, limit_s)
        world = self.parts.world
        idle_since: float | None = None
        while world.now < limit_s:
            self._advance(min(world.now + STEP_S, limit_s))
            done = self._observe()
            if on_step is not None:
                on_step(world.now, max(world.now / limit_s, done))
            if done < 1 or self._reasons:
                idle_since = None
            elif idle_since is None:
                idle_since = world.now
            elif world.now >= idle_since + SETTLE_S:
                break
        return self._outcome(is_over=world.now >= self.scenario.duration_s)

    def _advance(self, time_s: float) -> None:
        """Executes events and steps of the timeline until a moment."""
        world = self.parts.world
        while self._steps and self._steps[0].time_s <= time_s:
            step = self._steps.pop(0)
            world.run_until(max(step.time_s, world.now))
            step.apply()
        world.run_until(time_s)

    # Observing -----------------------------------------------------------------------------------

    def _observe(self) -> float:
        """Notes what judges need; returns the share of the work that is done."""
        for gateway in self.parts.gateways:
            gateway.note_finished()
        self._look_at_images()
        self._look_at_disks()
        self._look_at_progress()
        self._recorder.record()
        if self._steps:
            return 0.0
        return self._share_done()

    def _look_at_images(self) -> None:
        observed, now, book = self._observed, self.parts.world.now, self.parts.book
        for gateway in self.parts.gateways:
            if not isinstance(gateway.node, SwarmHost) or not gateway.is_up:
                continue
            for part in gateway.node.parts:
                name = part.release.manifest_id
                is_known = (Action.PUBLISH, name) in book.final_s and name in self._may_keep
                if not is_known and observed.kept_unauthorised_s is None:
                    observed.kept_unauthorised_s = now
                if (Action.REVOKE, name) in book.final_s and gateway.keeps(name):
                    observed.kept_until_s[name] = now

    def _look_at_disks(self) -> None:
        for gateway in self.parts.gateways:
            node = gateway.node
            if gateway.is_up and isinstance(node, SwarmHost):
                lost = self._disks.lost(node, node.withdrawn)
                self._observed.lost_s += [self.parts.world.now] * lost

    def _look_at_progress(self) -> None:
        healed = healed_s(self.scenario)
        if healed is None or self._observed.heal_s is not None or self.parts.world.now < healed:
            return
        cluster = self.parts.cluster
        if self._goal is None:
            self._goal = max(cluster.final, default=0) + PROGRESS_BLOCKS
        if all(host.final.height >= self._goal for host in cluster.honest if host.is_up):
            self._observed.heal_s = self.parts.world.now - healed

    def _share_done(self) -> float:
        """The share of what is awaited: decisions final, images complete or gone, healing."""
        book, done, total = self.parts.book, 0, 0
        honest = [gateway for gateway in receivers(self.parts) if gateway.is_up]
        for plan, release in self._plans:
            name = release.manifest_id
            if not is_authorised(plan):
                continue
            if plan.revoke_s is None:
                total += 1 + len(honest)
                done += (Action.PUBLISH, name) in book.final_s
                # Who lacks it for want of room is not waited for: steps end that, or nothing does.
                done += sum(
                    name in gateway.finished_s or gateway.files.room.is_full for gateway in honest
                )
            else:
                total += 1 + len(honest)
                done += (Action.REVOKE, name) in book.final_s
                done += sum(
                    gateway.images.get(name) is Action.REVOKE and not gateway.keeps(name)
                    for gateway in honest
                )
        if healed_s(self.scenario) is not None:
            total += 1
            done += self._observed.heal_s is not None
        return done / max(total, 1)

    # Outcome -------------------------------------------------------------------------------------

    def _outcome(self, *, is_over: bool) -> Outcome:
        parts, scenario = self.parts, self.scenario
        judge = Judge(parts, self._observed, is_over=is_over)
        return Outcome(
            scenario=scenario.name,
            summary=scenario.summary,
            seed=self.seed,
            nodes=scenario.gateways.count,
            validators=scenario.validators.count,
            adversaries=parts.cast.counts,
            expected_to_break=self._reasons,
            verdicts=judge.verdicts(),
            releases=judge.figures(),
            simulated_s=parts.world.now,
            height=max(parts.cluster.final, default=0),
            event_count=parts.world.event_count,
            trace_hash=parts.world.trace_hash,
            samples=tuple(self._recorder.samples),
            frames=tuple(self._recorder.frames),
            seeders=scenario.seeders.count,
            bad_members=len(parts.cast.members),
            bad_nodes=tuple(
                position
                for position, gateway in enumerate(parts.gateways[:FRAME_NODES_MAX])
                if not gateway.is_honest
            ),
        )


class Recorder:
    """Takes samples and frames of a swarm, ever fewer the longer it runs."""

    def __init__(self, parts: SwarmParts) -> None:
        """Begins with nothing."""
        self._parts = parts
        self._tick = 0
        self._sample_every = 1
        self._frame_every = 1
        self._sent_before = (0.0, 0.0)
        self._time_before = 0.0
        self._moved: dict[tuple[int, int], int] = {}
        self.samples: Final[list[Sample]] = []
        """What was sampled."""
        self.frames: Final[list[Frame]] = []
        """The frames."""

    def record(self) -> None:
        """Takes a sample and a frame, if it is their turn."""
        if self._tick % self._sample_every == 0:
            self.samples.append(self._sample())
            if len(self.samples) > SAMPLES_MAX:
                del self.samples[1::2]
                self._sample_every *= 2
        if self._tick % self._frame_every == 0:
            self.frames.append(self._frame())
            if len(self.frames) > FRAMES_MAX:
                del self.frames[1::2]
                self._frame_every *= 2
        self._tick += 1

    def _sample(self) -> Sample:
        parts = self._parts
        sent = {"seeder": 0, "gateway": 0, "adversary": 0}
        complete = bad_bytes = 0
        for gateway in parts.gateways:
            role = "seeder" if gateway.is_seeder else "gateway"
            if gateway.is_honest and not gateway.is_seeder:
                complete += len(gateway.finished_s)
                bad_bytes += sum(part.figures.bad_bytes for part in all_parts(gateway))
            elif not gateway.is_honest:
                role = "adversary"
            sent[role] += sum(part.figures.sent_bytes for part in all_parts(gateway))
        seeder_use, gateway_use = self._uses()
        return Sample(
            time_s=parts.world.now,
            complete=complete,
            height=max(parts.cluster.final, default=0),
            seeder_bytes=sent["seeder"],
            gateway_bytes=sent["gateway"],
            adversary_bytes=sent["adversary"],
            bad_bytes=bad_bytes,
            seeder_use=seeder_use,
            gateway_use=gateway_use,
        )

    def _uses(self) -> tuple[float, float]:
        """Parts of the uplinks of seeders and of honest gateways that were in use."""
        parts = self._parts
        rates, sent = [0.0, 0.0], [0.0, 0.0]
        for gateway in parts.gateways:
            if gateway.is_honest:
                group = 0 if gateway.is_seeder else 1
                rates[group] += gateway.plan.link.uplink_bytes_per_s
                sent[group] += sum(
                    parts.network.traffic(node.number).sent_bytes for node in gateway.nodes
                )
        past_s = parts.world.now - self._time_before
        uses = [
            min((now - before) / max(rate * past_s, 1e-9), 1.0)
            for now, before, rate in zip(sent, self._sent_before, rates, strict=True)
        ]
        self._sent_before, self._time_before = (sent[0], sent[1]), parts.world.now
        return uses[0], uses[1]

    def _frame(self) -> Frame:
        parts = self._parts
        shown = parts.gateways[:FRAME_NODES_MAX]
        newest = self._newest()
        held: list[float] = []
        moved: dict[tuple[int, int], int] = {}
        numbers = {
            node.number: position
            for position, gateway in enumerate(shown)
            for node in gateway.nodes
        }
        for position, gateway in enumerate(shown):
            part = None if newest is None else gateway.part(newest)
            if not gateway.is_up:
                held.append(-1.0)
            elif part is None:
                held.append(0.0)
            else:
                count = sum(each.size for each in part.served.possession)
                held.append(sum(each.count for each in part.served.possession) / max(count, 1))
            for each in all_parts(gateway):
                for source, size in each.received_bytes.items():
                    if source in numbers:
                        key = (numbers[source], position)
                        moved[key] = moved.get(key, 0) + size
        changes = {
            key: size - self._moved.get(key, 0)
            for key, size in moved.items()
            if size > self._moved.get(key, 0)
        }
        self._moved = moved
        busiest = sorted(changes.items(), key=lambda item: (-item[1], item[0]))
        edges = tuple((*key, size) for key, size in busiest[:FRAME_EDGES_MAX])
        return Frame(time_s=parts.world.now, held=tuple(held), edges=edges)

    def _newest(self) -> ManifestId | None:
        """The release that became final last."""
        final = [name for action, name in self._parts.book.final_s if action is Action.PUBLISH]
        return final[-1] if final else None
