"""A gateway of a simulated swarm: follows the ledger, and lets its node fetch what is authorised.

Two actors stand for one gateway. `Gateway` follows the chain; its `node` is a `TransferHost`, an
honest one (`SwarmHost`) or an adversary of the catalogue. They meet in two points: a publication
that became final begins an image, a revocation that became final ends it, for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from protocol.digest import ChunkId, ManifestId, sha256
from protocol.exchange_events import Stop, Withdrawn
from protocol.exchange_messages import ExchangeMessage
from protocol.relay_events import RelaySettings
from protocol.relay_messages import Push
from protocol.upload import ServedManifest
from swarmd.simulation.consensus_events import AskRun
from swarmd.simulation.consensus_store import Run
from swarmd.simulation.exchange_host import SimulatedRelease
from swarmd.simulation.links import LinkNetwork, NodeLink
from swarmd.simulation.swarm_disk import GatewayDisk, RoomHost
from swarmd.simulation.swarm_ledger import Action, Decision, Follower, Hint, LedgerBook
from swarmd.simulation.transfer_events import Done, RoomLook, RoomReady, Write
from swarmd.simulation.transfer_host import Disk, TransferHost
from swarmd.simulation.transfer_part import ImagePart
from swarmd.simulation.transfer_relay import Taken, WireMessage
from swarmd.simulation.world import World

UNSYNCED: Final = 0.05
"""Probability that a chunk was not synced when the power failed."""
Held = Mapping[ManifestId, tuple[list[int], ...]]
"""What a node found on its disk: chunks of each component of each image."""


class SwarmHost(RoomHost):
    """An honest node: serves nothing that is not in force, keeps nothing that was revoked."""

    def __init__(
        self,
        world: World,
        network: LinkNetwork,
        link: NodeLink,
        *,
        disk: Disk | None = None,
        relays: RelaySettings | None = None,
    ) -> None:
        """Makes a node without images; see `TransferHost`."""
        super().__init__(world, network, link, disk=disk, relays=relays)
        self.withdrawn: Final[dict[ManifestId, float]] = {}
        """Images that were revoked here, with the time."""
        self.served_late: Final[list[tuple[float, ManifestId]]] = []
        """Chunks of revoked images that it sent all the same; must stay empty."""
        self.kept_bad: Final[list[tuple[float, ManifestId]]] = []
        """Chunks that it took although they do not match; must stay empty."""

    def withdraw(self, manifest_id: ManifestId) -> None:
        """Stops fetching and serving an image, and deletes it."""
        part = self._parts.get(manifest_id)
        if manifest_id in self.withdrawn or part is None:
            self.withdrawn.setdefault(manifest_id, self.now)
            return
        self.withdrawn[manifest_id] = self.now
        self.files.delete(manifest_id)
        for peer in self.peers:
            self._feed_upload(peer, Withdrawn(manifest_id=manifest_id))
        self.feed(part, Stop())
        self._relays.feed(part, Stop())
        for number, possession in enumerate(part.served.possession):
            for index in list(part.held[number]):
                possession.discard(index)

    def use_disk(self, disk: Disk) -> None:
        """Takes another time for verifying from now on."""
        self._disk = disk

    def may_serve(self, _peer: int, manifest_id: ManifestId) -> bool:
        """Whatever is known and not withdrawn."""
        return manifest_id not in self.withdrawn

    def find(self, manifest_id: ManifestId) -> ServedManifest | None:
        """Nothing of what is withdrawn."""
        return None if manifest_id in self.withdrawn else super().find(manifest_id)

    def outgoing(self, _target: int, message: WireMessage) -> tuple[WireMessage, ...]:
        """Sends all messages, and notes pushes that must not be."""
        if isinstance(message, Push) and message.manifest_id in self.withdrawn:
            self.served_late.append((self.now, message.manifest_id))
        return (message,)

    def _count_sent(self, message: ExchangeMessage, served: ManifestId | None) -> None:
        super()._count_sent(message, served)
        if served is not None and served in self.withdrawn:
            self.served_late.append((self.now, served))

    def handle(self, event: object, now: float) -> None:
        """Takes the end of an own operation, unless its image was withdrawn meanwhile."""
        if isinstance(event, Write | Taken | Done | RoomReady | RoomLook):
            if event.part.release.manifest_id in self.withdrawn:
                return
            chunks = _arrived(event)
            if chunks:
                held_before = event.part.figures.gained_bytes
                super().handle(event, now)
                self._check_kept(event.part, chunks, event.part.figures.gained_bytes - held_before)
                return
        super().handle(event, now)

    def _check_kept(
        self, part: ImagePart, chunks: list[tuple[int, int, bytes | memoryview]], gained_bytes: int
    ) -> None:
        """Checks anew what a write kept: never more bytes than those that match."""
        good_bytes = sum(
            len(data)
            for component, index, data in chunks
            if ChunkId(sha256(data)) == part.release.recipes[component].digest(index)
        )
        if gained_bytes > good_bytes:
            self.kept_bad.append((self.now, part.release.manifest_id))


def _arrived(
    event: Write | Taken | Done | RoomReady | RoomLook,
) -> list[tuple[int, int, bytes | memoryview]]:
    """Component, index and bytes of the chunks that an event is about to store."""
    if isinstance(event, Write):
        component = event.effect.component
        return [(component, index, data) for index, data in event.effect.chunks]
    if isinstance(event, Taken):
        push = event.effect.push
        return [(push.object_number, chunk.index, chunk.data) for chunk in push.chunks]
    return []


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayPlan:
    """What a gateway is made of, also after each restart."""

    kind: type[TransferHost]
    """Honest, or an adversary."""
    link: NodeLink
    """How it is attached."""
    poll_s: float
    """Pause between its questions, seconds."""
    disk: Disk = field(default_factory=Disk)
    """How long it takes to verify."""


@dataclass(frozen=True, slots=True)
class _Poll:
    """Time to ask a validator."""

    run: int
    """Which start of the gateway it belongs to."""


class Gateway:
    """See the module's docstring."""

    def __init__(
        self,
        world: World,
        network: LinkNetwork,
        follower: Follower,
        book: LedgerBook,
        plan: GatewayPlan,
        *,
        library: Mapping[ManifestId, SimulatedRelease],
        validators: int,
        is_seeder: bool = False,
    ) -> None:
        """Adds a gateway to the world and switches it on.

        Args:
            world: where it lives.
            network: how its node's messages travel.
            follower: what it knows of the chain.
            book: tells validators of it.
            plan: what it is made of.
            library: the bytes behind each manifest id.
            validators: validators' actors are numbers below this.
            is_seeder: whether it has every image, and only waits for its authorisation.
        """
        self.plan = plan
        self.is_seeder: Final = is_seeder
        self.follower: Final = follower
        self.images: Final[dict[ManifestId, Action]] = {}
        """What it heard of each image last."""
        self.finished_s: Final[dict[ManifestId, float]] = {}
        """When each image was first complete, simulated seconds."""
        self.nodes: Final[list[TransferHost]] = []
        """Its node in each of its lives; the last one is the present one."""
        self.files: Final = GatewayDisk()
        """Its disk, of all lives of a node that keeps the rules."""
        self._world = world
        self._network = network
        self._library = library
        self._validators = validators
        self._next = world.random.randrange(validators)
        self._run = 0
        self.is_up = False
        """Whether it runs."""
        self.number: Final = world.add(self)
        """Its number in the world, for the ledger; `node.number` is the one for images."""
        book.followers.append(self.number)
        self.start()

    @property
    def node(self) -> TransferHost:
        """Its present node."""
        return self.nodes[-1]

    @property
    def is_honest(self) -> bool:
        """Whether it keeps the rules."""
        return isinstance(self.node, SwarmHost)

    def part(self, manifest_id: ManifestId) -> ImagePart | None:
        """What its present node has of an image."""
        for part in self.node.parts:
            if part.release.manifest_id == manifest_id:
                return part
        return None

    def keeps(self, manifest_id: ManifestId) -> bool:
        """Whether it holds any chunk of an image, or would take one."""
        node, part = self.node, self.part(manifest_id)
        if not self.is_up or part is None:
            return False
        return not isinstance(node, SwarmHost) or manifest_id not in node.withdrawn

    # Power ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Switches it on with what its disk holds; its peers are the topology's business."""
        held: Held = {}
        if self.nodes:
            held = {
                part.release.manifest_id: tuple(map(self._synced, part.held))
                for part in self.node.parts
            }
        plan = self.plan
        site = b"" if plan.link.site is None else b"site-%d" % plan.link.site
        self.nodes.append(
            plan.kind(
                self._world,
                self._network,
                plan.link,
                disk=plan.disk,
                relays=RelaySettings(site=site),
            )
        )
        if isinstance(self.node, SwarmHost):
            self.node.files = self.files
        self.is_up = True
        self._run += 1
        for manifest_id, action in self.images.items():
            if action is Action.PUBLISH:
                self._begin(manifest_id, held.get(manifest_id))
        first_s = self._world.random.random() * plan.poll_s
        self._world.post(self.number, first_s, _Poll(self._run))

    def _synced(self, held: list[int]) -> list[int]:
        return [index for index in held if self._world.random.random() >= UNSYNCED]

    def stop(self) -> None:
        """Cuts its power; its peers notice that their streams broke."""
        self.is_up = False
        self.node.leave()

    # Images --------------------------------------------------------------------------------------

    def offer(self, release: SimulatedRelease) -> None:
        """Holds an image whatever the ledger says: what an adversary does."""
        held = [range(len(chunks)) for chunks in release.components]
        self.node.add_image(release, held=held, wants=False)

    def _decide(self, decision: Decision) -> None:
        manifest_id = decision.manifest_id
        before = self.images.get(manifest_id)
        if before is decision.action or before is Action.REVOKE:
            return
        self.images[manifest_id] = decision.action
        if decision.action is Action.PUBLISH:
            self._begin(manifest_id, None)
        elif isinstance(self.node, SwarmHost):
            self.node.withdraw(manifest_id)

    def _begin(self, manifest_id: ManifestId, held: tuple[list[int], ...] | None) -> None:
        """Fetches an image from what is held of it and of others, or serves all of it."""
        release = self._library[manifest_id]
        if self.is_seeder:
            complete = [range(len(chunks)) for chunks in release.components]
            self.node.add_image(release, held=complete, wants=False)
            return
        self.node.add_image(release, held=self._known(release, held or ()))

    def _known(
        self, release: SimulatedRelease, held: tuple[list[int], ...]
    ) -> list[dict[int, None]]:
        """Chunks of a release that are here already: on the disk, or in another image."""
        own = [dict.fromkeys(indices) for indices in held]
        own += [{} for _ in range(len(release.components) - len(own))]
        digests: dict[bytes, None] = {}
        for part in self.node.parts:
            for number, indices in enumerate(part.held):
                recipe = part.release.recipes[number]
                digests.update(dict.fromkeys(recipe.digest(index) for index in indices))
        if digests:
            for number, recipe in enumerate(release.recipes):
                for index in range(recipe.chunk_count):
                    if recipe.digest(index) in digests:
                        own[number][index] = None
        return own

    # Actor ---------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float | None:
        """Never: polls are posted."""
        return None

    def wake(self, now: float) -> None:
        """Never asked for."""
        raise AssertionError(f"a gateway was woken at {now}")

    def handle(self, event: object, now: float) -> None:  # noqa: ARG002
        """Asks the next validator for news."""
        assert isinstance(event, _Poll), f"no event of a gateway: {event!r}"
        if self.is_up and event.run == self._run:
            self._next = (self._next + 1) % self._validators
            self._ask(self._next)
            self._world.post(self.number, self.plan.poll_s, event)

    def receive(self, source: int, message: object, now: float) -> None:  # noqa: ARG002
        """Takes blocks, or a hint that there are some."""
        if not self.is_up:
            return
        if isinstance(message, Hint):
            if message.height > self.follower.height:
                self._ask(source)
        elif isinstance(message, Run):
            decisions = self.follower.follow(message)
            if decisions is not None:
                for decision in decisions:
                    self._decide(decision)
                self._ask(source)

    def _ask(self, validator: int) -> None:
        self._world.send(self.number, validator, AskRun(self.follower.height))

    def note_finished(self) -> None:
        """Takes down which images are complete by now."""
        for part in self.node.parts:
            manifest_id = part.release.manifest_id
            if manifest_id not in self.finished_s and part.download is not None:
                finished = part.figures.finished_at
                if finished is not None:
                    self.finished_s[manifest_id] = finished
