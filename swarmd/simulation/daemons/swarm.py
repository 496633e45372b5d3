"""A swarm of whole daemons: made from a seed, started, crashed, cut off and healed by a scenario.

def scenario() -> ...:
    async with daemon_swarm(DaemonPlan(gateways=8), folder, seed=7) as swarm:
        await swarm.start()
        release = await swarm.release(image)
        await swarm.until(lambda: swarm.holds_everywhere(release), "all hold it")
run_simulated(scenario, seed=7)
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import trio

from chunks.store import ImageState
from ledger.bodies.manifest import ApproveManifest, RevokeManifest
from ledger.transition.kind import Body
from protocol.approval import Action, Approval, sign_approval
from protocol.digest import BlockId, ChainId, Digest
from protocol.errors import ConfigError, SwarmError
from protocol.genesis import decode_genesis
from protocol.group import DAY_MS
from protocol.keys import PrivateKey
from protocol.manifest import SignedManifest
from swarmd.config import Config
from swarmd.config_template import render_config
from swarmd.datadir import DataDir, KeyName, load_key, write_atomic
from swarmd.entropy import SeededEntropy
from swarmd.net.address import PeerAddress, PeerKey
from swarmd.network_creation import LabOptions, create_lab
from swarmd.node import Node
from swarmd.peers import Offence
from swarmd.publisher import Release
from swarmd.running_node import RunningNode
from swarmd.services.exchange_ports import StartedStatus
from swarmd.simulation.daemons.disks import TroubledDisk
from swarmd.simulation.daemons.outside import PUBLISHER
from swarmd.simulation.daemons.runtime import SimulatedClock, wait_in_thread
from swarmd.simulation.daemons.wire import DaemonLink, DaemonNetwork

GROUP: Final = "fleet"
PRODUCT: Final = "simulated"
LIMIT_S: Final = 600.0
"""How long anything is waited for unless the caller says otherwise, simulated seconds."""
_LOOK_S: Final = 0.05
"""Between two looks at a condition, simulated seconds."""


class NeverError(SwarmError):
    """What a scenario waited for did not happen in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonPlan:
    """The shape of a swarm."""

    validators: int = 4
    """4 to 32."""
    gateways: int = 4
    """0 or more."""
    degree: int = 4
    """Addresses each gateway starts with, half of them validators'; others are found from there if
    `peer_exchange` is set."""
    peer_exchange: bool = False
    """Whether nodes ask each other for more addresses."""
    heartbeat_ms: int = 60_000
    """Of the chain, milliseconds."""
    link: DaemonLink = field(default_factory=DaemonLink)
    """How every node is connected unless `links` says otherwise."""
    links: Mapping[str, DaemonLink] = field(default_factory=dict)
    """How some nodes are connected, by name."""
    clocks: Mapping[str, SimulatedClock] = field(default_factory=dict)
    """Clocks that are wrong, by name."""


@dataclass(frozen=True, slots=True)
class FinalBlock:
    """A block that became final at a node."""

    at_s: float
    """Simulated seconds."""
    node: str
    """Where."""
    height: int
    """Of the block."""
    block: BlockId
    """Which block."""


@dataclass
class _Running:
    node: Node
    scope: trio.CancelScope
    stop: trio.Event
    ended: trio.Event


class DaemonSwarm:
    """See the module's docstring."""

    def __init__(self, plan: DaemonPlan, folder: Path, nursery: trio.Nursery, *, seed: int) -> None:
        """Made by `daemon_swarm`."""
        self.plan: Final = plan
        self.folder: Final = folder
        self.network: Final = DaemonNetwork(seed=seed)
        """Links, partitions, the trace."""
        self.finals: list[FinalBlock] = []
        """Every block that became final anywhere, in order."""
        self._seed = seed
        self._nursery = nursery
        self._running: dict[str, _Running] = {}
        self._starts: dict[str, int] = {}
        self._disks: dict[str, TroubledDisk] = {}
        genesis = decode_genesis((folder / "genesis.cbor").read_bytes())
        self._chain: Final[ChainId] = genesis.chain

    def __getitem__(self, name: str) -> RunningNode:
        """What runs inside a node.

        Raises:
            KeyError: it does not run.
        """
        services = self._running[name].node.services
        assert services is not None, "a started node has its services"
        return services

    # Names ---------------------------------------------------------------------------------------

    @property
    def running(self) -> tuple[str, ...]:
        """Names of the nodes that run."""
        return tuple(self._running)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all nodes: validators, the publisher, gateways."""
        return (*self.validators, PUBLISHER, *self.gateways)

    @property
    def validators(self) -> tuple[str, ...]:
        """`validator-1` and so on."""
        return tuple(f"validator-{n}" for n in range(1, self.plan.validators + 1))

    @property
    def gateways(self) -> tuple[str, ...]:
        """`gateway-1` and so on."""
        return tuple(f"gateway-{n}" for n in range(1, self.plan.gateways + 1))

    def directory(self, name: str) -> DataDir:
        """A node's folder."""
        return DataDir(self.folder / name)

    def peer(self, name: str) -> PeerKey:
        """A node's transport key."""
        return PeerKey(self.directory(name).load_key(KeyName.TRANSPORT).public.raw)

    def address(self, name: str) -> PeerAddress:
        """Where a node listens."""
        listen = self.directory(name).load_config().network.listen[0]
        return PeerAddress(self.peer(name), listen.host, listen.port)

    def disk(self, name: str) -> TroubledDisk:
        """What a node's image store writes to; the same in all its lives."""
        if name not in self._disks:
            storage = self.directory(name).load_config().storage
            self._disks[name] = TroubledDisk(storage.reserve_bytes, wait_in_thread)
        return self._disks[name]

    # Life ----------------------------------------------------------------------------------------

    async def start(self, *names: str) -> None:
        """Starts nodes in order, all of them if none is named; each listens when this returns.

        Raises:
            ConfigError, StorageError, TransportError: a node does not start.
        """
        for name in names or self.names:
            self._starts[name] = self._starts.get(name, 0) + 1
            entropy = SeededEntropy(self._seed, f"{name}/{self._starts[name]}")
            stop = trio.Event()
            node = Node(
                self.directory(name),
                clock=self.plan.clocks.get(name) or SimulatedClock(),
                entropy=entropy,
                stop=stop.set,
                wire=self.network.wire_of(name, self.plan.links.get(name, self.plan.link)),
                files=self.disk(name),
            )
            running = _Running(node, trio.CancelScope(), stop, trio.Event())
            await self._nursery.start(partial(self._run, name, running))
            self._running[name] = running

    async def _run(self, name: str, running: _Running, *, task_status: StartedStatus) -> None:
        data = self.directory(name)
        data.check_usable()
        try:
            with running.scope, data.lock():
                async with running.node.running():
                    services = running.node.services
                    assert services is not None, "it runs"
                    services.ledger.listen(
                        lambda result: self.finals.append(
                            FinalBlock(
                                trio.current_time(),
                                name,
                                result.header.height,
                                result.header.block_id,
                            )
                        )
                    )
                    task_status.started()
                    await running.stop.wait()
        finally:
            running.ended.set()

    async def stop(self, *names: str) -> None:
        """Stops nodes as an operator does."""
        for name in names or self.running:
            running = self._running.pop(name)
            running.stop.set()
            await running.ended.wait()

    async def crash(self, *names: str) -> None:
        """Ends nodes without anything that an orderly stop does; what they wrote stays."""
        for name in names or self.running:
            running = self._running.pop(name)
            running.scope.cancel()
            await running.ended.wait()

    # Waiting -------------------------------------------------------------------------------------

    async def until(
        self, condition: Callable[[], object], what: str, *, limit_s: float = LIMIT_S
    ) -> float:
        """Lets the swarm run until something holds; returns how long that took, seconds.

        Raises:
            NeverError: it did not hold within `limit_s` simulated seconds.
        """
        started = trio.current_time()
        while not condition():
            if trio.current_time() - started >= limit_s:
                raise NeverError(f"not within {limit_s:.0f} s: {what}")
            await trio.sleep(_LOOK_S)
        return trio.current_time() - started

    def height(self, name: str) -> int:
        """Height of a node's copy of the chain."""
        return self[name].ledger.chain.head.height

    def complete_images(self, name: str) -> tuple[Digest, ...]:
        """The images that a node has, complete and servable."""
        return tuple(
            record.image
            for record in self[name].store.images()
            if record.state is ImageState.COMPLETE
        )

    def holds(self, name: str, release: SignedManifest) -> bool:
        """Whether a node has every image of a release, complete."""
        complete = self.complete_images(name)
        return all(part.digest in complete for part in release.manifest.components)

    def offences(self) -> int:
        """Offences that running nodes hold against each other, though all keep the rules; that
        somebody who was cut off did not answer in time is none.
        """
        found = 0
        for name in self.running:
            for other in self.names:
                known = self[name].registry.get(self.peer(other))
                offences = {} if known is None else known.offences
                found += sum(offences.values()) - offences.get(Offence.STALLED.label, 0)
        return found

    def holders(self, release: SignedManifest) -> tuple[str, ...]:
        """The running gateways that have every image of a release."""
        return tuple(
            name for name in self.gateways if name in self._running and self.holds(name, release)
        )

    def disagreements(self) -> tuple[int, ...]:
        """Heights at which two nodes took different blocks for final: none, ever."""
        seen: dict[int, BlockId] = {}
        return tuple(
            dict.fromkeys(
                final.height
                for final in self.finals
                if seen.setdefault(final.height, final.block) != final.block
            )
        )

    # What people do ------------------------------------------------------------------------------

    @property
    def owners(self) -> tuple[PrivateKey, ...]:
        """Keys of the group's owners."""
        paths = sorted((self.folder / "keys").glob("owner-*.key"))
        return tuple(load_key(path) for path in paths)

    async def submit(self, body: Body) -> int:
        """Has the publisher submit a transaction; returns the height at which it was final.

        Raises:
            PolicyError: the ledger refuses it.
        """
        submission = self[PUBLISHER].submission
        return await submission.wait_final(await submission.submit(body), LIMIT_S)

    async def propose(self, image: bytes, *, version: str = "1.0") -> SignedManifest:
        """Stages an image at the publisher and proposes it; final when this returns."""
        publisher = self[PUBLISHER].publisher
        assert publisher is not None, "it is a publisher"
        path = self.folder / f"image-{version}"
        path.write_bytes(image)
        release = Release(path=path, product=PRODUCT, version=version, groups=(GROUP,), metadata={})
        signed = await publisher.stage(release)
        submission = self[PUBLISHER].submission
        await submission.wait_final(await publisher.propose(signed), LIMIT_S)
        return signed

    async def approve(self, release: SignedManifest) -> int:
        """Has two owners approve a release; returns the height at which that was final."""
        approvals = self._approvals(Action.AUTHORISE, release)
        return await self.submit(
            ApproveManifest(manifest=release.manifest_id, group=GROUP, approvals=approvals)
        )

    async def revoke(self, release: SignedManifest) -> int:
        """Has two owners revoke a release; returns the height at which that was final."""
        approvals = self._approvals(Action.REVOKE, release)
        return await self.submit(
            RevokeManifest(manifest=release.manifest_id, group=GROUP, approvals=approvals)
        )

    async def release(self, image: bytes, *, version: str = "1.0") -> SignedManifest:
        """Proposes and approves an image."""
        signed = await self.propose(image, version=version)
        await self.approve(signed)
        return signed

    def _approvals(self, action: Action, release: SignedManifest) -> tuple[bytes, ...]:
        chain = self[PUBLISHER].ledger.chain
        group = chain.state.group(GROUP)
        assert group is not None, "the laboratory has one group"
        approval = Approval(
            era=chain.head.era,
            action=action,
            subject=Digest(release.manifest_id),
            group=GROUP,
            policy=group.policy,
            valid_until_ms=SimulatedClock().wall_ms() + DAY_MS,
        )
        return tuple(
            sign_approval(approval, key, self._chain).signed.raw for key in self.owners[:2]
        )


def _connect(swarm: DaemonSwarm, seed: int) -> None:
    """Gives each gateway a few addresses, chosen by the seed; all others know the validators."""
    chance = random.Random(f"addresses {seed}")  # noqa: S311 - replayed, guards nothing
    addresses = {name: swarm.address(name) for name in swarm.names}
    for name in swarm.names:
        known: Collection[str] = swarm.validators
        if name in swarm.gateways:
            half = max(1, swarm.plan.degree // 2)
            others = [other for other in (*swarm.gateways, PUBLISHER) if other != name]
            few = chance.sample(swarm.validators, min(half, len(swarm.validators)))
            known = [*few, *chance.sample(others, min(swarm.plan.degree - half, len(others)))]
        bootstrap = tuple(addresses[other] for other in known if other != name)
        _configure(swarm.directory(name), partial(_reaching, bootstrap, swarm.plan))


def _reaching(bootstrap: tuple[PeerAddress, ...], plan: DaemonPlan, config: Config) -> Config:
    network = dataclasses.replace(
        config.network, bootstrap=bootstrap, peer_exchange=plan.peer_exchange, lane_port=None
    )
    return dataclasses.replace(
        config, network=network, http=dataclasses.replace(config.http, listen=None)
    )


def _configure(directory: DataDir, change: Callable[[Config], Config]) -> None:
    write_atomic(directory.config, render_config(change(directory.load_config())).encode())


@asynccontextmanager
async def daemon_swarm(plan: DaemonPlan, folder: Path, *, seed: int) -> AsyncIterator[DaemonSwarm]:
    """Makes a swarm in an empty folder; nothing runs at first, and what runs at the end is crashed.

    Args:
        plan: its shape.
        folder: holds all data directories; a file system in memory spares minutes.
        seed: decides keys, addresses, jitter and loss.

    Raises:
        ConfigError: the plan cannot be.
        StorageError: the folder is not empty or cannot be written.
    """
    if plan.degree < 1:
        raise ConfigError(f"degree {plan.degree}, expected at least 1")
    options = LabOptions(
        validators=plan.validators,
        gateways=plan.gateways,
        group=GROUP,
        heartbeat_ms=plan.heartbeat_ms,
    )
    create_lab(folder, options, SeededEntropy(seed, "keys"), SimulatedClock())
    async with trio.open_nursery() as nursery:
        swarm = DaemonSwarm(plan, folder, nursery, seed=seed)
        _connect(swarm, seed)
        yield swarm
        await swarm.crash()
        nursery.cancel_scope.cancel()
