"""Runs a scenario with whole daemons instead of their machines, and judges it by the same names.

What a scenario may ask of whole daemons is what happens to them from outside: links, releases,
revocations, partitions, crashes, churn, lost segments, full and slow disks. Nodes that break the
rules exist for machines only; a scenario with them is refused by name.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import trio

from protocol.digest import ManifestId
from protocol.errors import ConfigError
from protocol.manifest import SignedManifest
from swarmd.simulation.daemons.checks import check_outside
from swarmd.simulation.daemons.disks import relieve, trouble
from swarmd.simulation.daemons.judgement import judge
from swarmd.simulation.daemons.outside import HEARTBEAT_MS, PUBLISHER, Findings, View
from swarmd.simulation.daemons.runtime import SimulatedClock, run_simulated
from swarmd.simulation.daemons.swarm import DaemonPlan, DaemonSwarm, daemon_swarm
from swarmd.simulation.daemons.timeline import Timeline, draw_links, draw_skews, of_one_end
from swarmd.simulation.daemons.wire import DaemonLink
from swarmd.simulation.links import NodeLink
from swarmd.simulation.scenario import Fault, FaultKind, LinkClass, Nat, Scenario
from swarmd.simulation.swarm import OnStep
from swarmd.simulation.swarm_outcome import Outcome

DEGREE_MAX: Final = 8
"""Addresses that a gateway starts with; it asks its peers for more."""
_MBIT: Final = 125_000.0


def run_daemons(
    scenario: Scenario, seed: int, folder: Path, *, on_step: OnStep | None = None
) -> Outcome:
    """Runs a scenario once, in an empty folder.

    Args:
        scenario: what happens.
        seed: decides all that is random.
        folder: for the daemons' data; stays behind.
        on_step: told simulated seconds and the part of the duration.

    Raises:
        ConfigError: the scenario asks for what whole daemons cannot do; names the key.
        StorageError: the folder is not empty or cannot be written.
    """
    check_daemons(scenario)
    return run_simulated(lambda: _run(scenario, seed, folder, on_step), seed=seed)


def check_daemons(scenario: Scenario) -> None:
    """Refuses scenarios that whole daemons on simulated time cannot run.

    Raises:
        ConfigError: names the key.
    """
    if scenario.adversaries:
        raise ConfigError("adversaries: whole daemons all keep the rules")
    for name, each in scenario.links.items():
        if each.queue_ms is not None:
            raise ConfigError(
                f"links.{name}.queue_ms: links of level daemons have no queue that overflows; "
                "use level machines or namespaces"
            )
    check_outside(scenario)


async def _run(scenario: Scenario, seed: int, folder: Path, on_step: OnStep | None) -> Outcome:
    links = _links(scenario, seed)
    plan = DaemonPlan(
        validators=scenario.validators.count,
        gateways=scenario.gateways.count,
        degree=min(scenario.gateways.peers, DEGREE_MAX),
        peer_exchange=True,
        heartbeat_ms=HEARTBEAT_MS,
        links=links,
        clocks={
            name: SimulatedClock(skew_s=skew_ms / 1000)
            for name, skew_ms in draw_skews(scenario, seed).items()
        },
    )
    async with daemon_swarm(plan, folder, seed=seed) as swarm:
        await swarm.start()
        driven = _Driven(swarm, links)
        record = await Timeline(scenario, seed, driven, on_step=on_step).run()
        return judge(record, driven, await driven.find(), level="daemons")


def _links(scenario: Scenario, seed: int) -> dict[str, DaemonLink]:
    """The link of every node; validators' are what `[network]` says, half at each end."""
    network = scenario.network
    validator = DaemonLink(
        latency_s=network.latency_ms / 2000,
        jitter_s=network.jitter_ms / 2000,
        loss=of_one_end(network.loss),
        duplication=of_one_end(network.duplication),
    )
    links = {f"validator-{n + 1}": validator for n in range(scenario.validators.count)}
    return links | {
        name: _link(each, scenario) for name, each in draw_links(scenario, seed).items()
    }


def _link(each: LinkClass, scenario: Scenario) -> DaemonLink:
    return DaemonLink(
        uplink_bytes_per_s=each.up_mbit * _MBIT,
        downlink_bytes_per_s=each.down_mbit * _MBIT,
        latency_s=each.latency_ms / 1000,
        jitter_s=each.jitter_ms / 1000,
        loss=1 - (1 - each.loss) * (1 - of_one_end(scenario.network.segment_loss)),
        duplication=each.duplication,
        reorder=each.reorder,
        reorder_s=each.reorder_ms / 1000,
        site=each.site,
        is_closed=each.nat is Nat.CLOSED,
    )


class _Driven:
    """A swarm in this process as the driver of scenarios knows it (`OutsideSwarm`)."""

    look_s: Final = 0.25
    """Simulated seconds."""
    adversaries: Final[Sequence[tuple[str, int]]] = ()
    """None."""

    def __init__(self, swarm: DaemonSwarm, links: dict[str, DaemonLink]) -> None:
        self._swarm = swarm
        self._links = links
        self._proposed: dict[ManifestId, SignedManifest] = {}

    @property
    def validators(self) -> Sequence[str]:
        return self._swarm.validators

    @property
    def gateways(self) -> Sequence[str]:
        return self._swarm.gateways

    @property
    def running(self) -> Collection[str]:
        return self._swarm.running

    @property
    def links(self) -> dict[str, NodeLink]:
        return {
            name: NodeLink(
                uplink_bytes_per_s=self._links[name].uplink_bytes_per_s,
                downlink_bytes_per_s=self._links[name].downlink_bytes_per_s,
            )
            for name in (PUBLISHER, *self.gateways)
        }

    async def start(self, *names: str) -> None:
        await self._swarm.start(*names)

    async def crash(self, *names: str) -> None:
        await self._swarm.crash(*names)

    async def disturb(self, fault: Fault, away: Sequence[str]) -> None:
        await trio.lowlevel.checkpoint()
        network = self._swarm.network
        if fault.kind is FaultKind.LOSS:
            for name, link in self._links.items():
                network.set_link(name, replace(link, loss=max(link.loss, fault.loss)))
            return
        rest = [name for name in self._swarm.names if name not in away]
        if fault.kind is FaultKind.ONE_WAY:
            network.cut(away, rest)
        else:
            network.partition(away, rest)

    async def calm(self) -> None:
        await trio.lowlevel.checkpoint()
        self._swarm.network.heal()
        for name, link in self._links.items():
            self._swarm.network.set_link(name, link)

    async def trouble(self, fault: Fault, names: Sequence[str]) -> None:
        await trio.lowlevel.checkpoint()
        for name in names:
            trouble(self._swarm.disk(name), fault)

    async def relieve(self, fault: Fault, names: Sequence[str]) -> None:
        await trio.lowlevel.checkpoint()
        for name in names:
            relieve(self._swarm.disk(name), fault)

    async def propose(self, image: bytes, *, version: str) -> ManifestId:
        signed = await self._swarm.propose(image, version=version)
        self._proposed[signed.manifest_id] = signed
        return signed.manifest_id

    async def approve(self, manifest: ManifestId) -> None:
        await self._swarm.approve(self._proposed[manifest])

    async def revoke(self, manifest: ManifestId) -> None:
        await self._swarm.revoke(self._proposed[manifest])

    async def look(self) -> View:
        """Reads what the daemons of this process hold."""
        await trio.lowlevel.checkpoint()
        swarm, sent = self._swarm, self._swarm.network.sent_by
        return View(
            heights={name: swarm.height(name) for name in swarm.running},
            complete={
                name: swarm.complete_images(name) for name in self.gateways if name in swarm.running
            },
            seeder_bytes=sent(PUBLISHER),
            gateway_bytes=sum(sent(name) for name in self.gateways),
        )

    async def find(self) -> Findings:
        await trio.lowlevel.checkpoint()
        return Findings(
            seeder_bytes=self._swarm.network.sent_by(PUBLISHER),
            disagreements=len(self._swarm.disagreements()),
            offences=self._swarm.offences(),
            event_count=self._swarm.network.event_count,
            trace_hash=self._swarm.network.trace_hash,
        )
