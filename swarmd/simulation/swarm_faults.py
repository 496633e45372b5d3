"""What befalls a simulated swarm, and when: publications, revocations and faults as a timeline."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from protocol.limits import KIB
from swarmd.simulation.consensus_events import AskRun
from swarmd.simulation.consensus_store import Run
from swarmd.simulation.exchange_host import SimulatedRelease
from swarmd.simulation.scenario import Fault, FaultKind, Target
from swarmd.simulation.swarm_build import SwarmParts, is_authorised
from swarmd.simulation.swarm_gateway import SwarmHost
from swarmd.simulation.swarm_ledger import Action, Decision, Follower, Hint, Submit
from swarmd.simulation.transfer_host import Disk

_RESUBMIT_S: Final = 2.0
"""How often owners repeat a decision that they have not seen final, seconds."""


@dataclass(frozen=True, slots=True)
class Step:
    """One entry of the timeline."""

    time_s: float
    """When, simulated seconds."""
    apply: Callable[[], None]
    """What happens."""


@dataclass(frozen=True, slots=True)
class _Repeat:
    """Time to say a decision again."""

    decision: Decision


class Office:
    """The owners' office: hands decisions to all validators until it sees them final."""

    def __init__(self, parts: SwarmParts) -> None:
        """Adds it to the world."""
        self._world = parts.world
        self._hosts = range(len(parts.cluster.hosts))
        self._follower = Follower(parts.cluster, parts.owners)
        self._seen: dict[tuple[Action, bytes], None] = {}
        self.number: Final = parts.world.add(self)
        """Its number in the world."""
        parts.book.followers.append(self.number)

    def submit(self, decision: Decision) -> None:
        """Begins to hand in a decision."""
        self.handle(_Repeat(decision), self._world.now)

    @property
    def deadline(self) -> float | None:
        """Never: repetitions are posted."""
        return None

    def wake(self, now: float) -> None:
        """Never asked for."""
        raise AssertionError(f"the office was woken at {now}")

    def handle(self, event: object, now: float) -> None:  # noqa: ARG002
        """Says a decision again."""
        assert isinstance(event, _Repeat), f"no event of an office: {event!r}"
        if (event.decision.action, event.decision.manifest_id) in self._seen:
            return
        for host in self._hosts:
            self._world.send(self.number, host, Submit(event.decision))
        self._world.post(self.number, _RESUBMIT_S, event)

    def receive(self, source: int, message: object, now: float) -> None:  # noqa: ARG002
        """Takes hints and blocks."""
        if isinstance(message, Hint):
            self._ask(source)
        elif isinstance(message, Run):
            decisions = self._follower.follow(message)
            if decisions is not None:
                for decision in decisions:
                    self._seen[decision.action, decision.manifest_id] = None
                self._ask(source)

    def _ask(self, validator: int) -> None:
        self._world.send(self.number, validator, AskRun(self._follower.height))


class Timeline:
    """Turns a scenario into steps."""

    def __init__(self, parts: SwarmParts, seed: int) -> None:
        """Draws whom the faults concern."""
        self._parts = parts
        self._office = Office(parts)
        self._chance = random.Random(f"faults {seed}")  # noqa: S311 - replayed by seed
        steps = [*self._publications()]
        for fault in parts.scenario.faults:
            steps += self._fault(fault)
        self.steps: Final = sorted(steps, key=lambda step: step.time_s)
        """All steps by time; of equal times in the order of the scenario."""

    def _publications(self) -> list[Step]:
        steps: list[Step] = []
        plans = zip(self._parts.scenario.releases, self._parts.releases, strict=True)
        for plan, release in plans:
            owners, name = self._parts.owners, release.manifest_id
            published = owners.decide(Action.PUBLISH, name, plan.approvals)
            steps.append(Step(plan.publish_s, partial(self._office.submit, published)))
            if not is_authorised(plan):
                steps.append(Step(plan.publish_s, partial(self._offer, release)))
            if plan.revoke_s is not None:
                revoked = owners.decide(Action.REVOKE, name)
                steps.append(Step(plan.revoke_s, partial(self._office.submit, revoked)))
        return steps

    def _offer(self, release: SimulatedRelease) -> None:
        """Adversaries hold and offer what nobody authorised."""
        for gateway in self._parts.gateways:
            if not gateway.is_honest:
                gateway.offer(release)

    # Faults --------------------------------------------------------------------------------------

    def _fault(self, fault: Fault) -> list[Step]:
        match fault.kind:
            case FaultKind.PARTITION | FaultKind.ONE_WAY:
                return self._partition(fault)
            case FaultKind.CRASH:
                return self._crash(fault)
            case FaultKind.CHURN:
                return self._churn(fault)
            case FaultKind.SLOW_DISK:
                return self._slow_disk(fault)
            case FaultKind.FULL_DISK:
                return self._full_disk(fault)
            case FaultKind.LOSS:
                return self._lossy(fault)

    def _draw_gateways(self, fault: Fault) -> list[int]:
        """Positions of the gateways that a fault concerns, seeders never."""
        if fault.target is Target.VALIDATORS:
            return []
        seeders = self._parts.scenario.seeders.count
        among = range(seeders, len(self._parts.gateways))
        return sorted(self._chance.sample(among, round(fault.share * len(among))))

    def _draw_seats(self, fault: Fault) -> list[int]:
        if fault.target is Target.GATEWAYS:
            return []
        cluster = self._parts.cluster
        honest = [seat for seat in range(len(cluster.actors)) if len(cluster.actors[seat]) == 1]
        return sorted(self._chance.sample(honest, round(fault.share * len(honest))))

    def _partition(self, fault: Fault) -> list[Step]:
        parts, cluster = self._parts, self._parts.cluster
        gateways, seats = self._draw_gateways(fault), self._draw_seats(fault)

        def cut() -> None:
            away = [actor for seat in seats for actor in cluster.actors[seat]]
            if seats:
                # Of two processes with one key, one stands on each side.
                away += [actors[1] for actors in cluster.actors if len(actors) > 1]
            for position in gateways:
                gateway = parts.gateways[position]
                away += [gateway.number, gateway.node.number]
            if fault.kind is FaultKind.ONE_WAY:
                parts.world.mute(away)
            else:
                parts.world.partition(dict.fromkeys(away, 1))
            parts.cut_streams()

        def heal() -> None:
            parts.world.heal()
            parts.connect_all()

        steps = [Step(fault.start_s, cut)]
        return steps if fault.end_s is None else [*steps, Step(fault.end_s, heal)]

    def _crash(self, fault: Fault) -> list[Step]:
        gateways, seats = self._draw_gateways(fault), self._draw_seats(fault)
        hosts = self._parts.cluster.hosts

        def crash() -> None:
            for host in hosts:
                if host.index in seats and host.is_up:
                    host.crash()
            for position in gateways:
                self._stop(position)

        def restart() -> None:
            for host in hosts:
                if host.index in seats and not host.is_up:
                    host.start()
            for position in gateways:
                self._start(position)

        steps = [Step(fault.start_s, crash)]
        return steps if fault.end_s is None else [*steps, Step(fault.end_s, restart)]

    def _churn(self, fault: Fault) -> list[Step]:
        assert fault.end_s is not None, "scenarios are checked"
        steps: list[Step] = []
        latest = max(fault.start_s, fault.end_s - fault.away_s)
        for position in self._draw_gateways(fault):
            start = self._chance.uniform(fault.start_s, latest)
            back = min(start + fault.away_s, fault.end_s)
            steps.append(Step(start, partial(self._stop, position)))
            steps.append(Step(back, partial(self._start, position)))
        return steps

    def _stop(self, position: int) -> None:
        gateway = self._parts.gateways[position]
        if gateway.is_up:
            gateway.stop()

    def _start(self, position: int) -> None:
        gateway = self._parts.gateways[position]
        if not gateway.is_up:
            gateway.start()
            self._parts.connect(position)

    def _slow_disk(self, fault: Fault) -> list[Step]:
        calm_ms = self._parts.scenario.gateways.verify_ms
        gateways = [self._parts.gateways[position] for position in self._draw_gateways(fault)]

        def turn(verify_ms: float) -> None:
            disk = Disk(verify_s=verify_ms / 1000)
            for gateway in gateways:
                gateway.plan = replace(gateway.plan, disk=disk)
                if isinstance(gateway.node, SwarmHost):
                    gateway.node.use_disk(disk)

        steps = [Step(fault.start_s, partial(turn, fault.verify_ms))]
        return steps if fault.end_s is None else [*steps, Step(fault.end_s, partial(turn, calm_ms))]

    def _full_disk(self, fault: Fault) -> list[Step]:
        rooms = [
            self._parts.gateways[position].files.room for position in self._draw_gateways(fault)
        ]

        def fill() -> None:
            for room in rooms:
                room.fill(fault.free_kib * KIB, fault.takes)

        def clear() -> None:
            for room in rooms:
                room.clear()

        steps = [Step(fault.start_s, fill)]
        return steps if fault.end_s is None else [*steps, Step(fault.end_s, clear)]

    def _lossy(self, fault: Fault) -> list[Step]:
        assert fault.end_s is not None, "scenarios are checked"
        world, calm = self._parts.world, self._parts.world.link

        def begin() -> None:
            world.link = replace(calm, loss=fault.loss)

        def end() -> None:
            world.link = calm

        return [Step(fault.start_s, begin), Step(fault.end_s, end)]
