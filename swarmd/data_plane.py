"""The data plane of one node: what fetches, serves, keeps and offers images, wired together.

`RunningNode` makes one and tells it of peers, blocks and alarms. Here the parts meet: the exchange
with its links, the image service that decides what is wanted, health, the publisher's staging, and
HTTP for devices. Verdicts come from the authority alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from chunks.store import ChunkStore
from ledger.chain_blocks import CommitResult
from protocol.did import SubjectKind
from protocol.version import ProtocolName, protocol_id
from swarmd.authority import Authority
from swarmd.config import Config
from swarmd.control.protocol import JSON
from swarmd.datadir import DataDir
from swarmd.entropy import Entropy
from swarmd.identity import Identity
from swarmd.ledger_host import LedgerHost
from swarmd.limits.desk import TrafficDesk
from swarmd.limits.service import TrafficService
from swarmd.net.address import PeerKey
from swarmd.net.lane import Lane
from swarmd.net.lane_service import LaneService, LaneSettings, LaneSurroundings
from swarmd.net.network import Network, Stream
from swarmd.patch_making import PatchMaker
from swarmd.peers import PeerRegistry
from swarmd.publisher import Publisher, Seals
from swarmd.sealing_plane import SealingPlane
from swarmd.services.copies_desk import CopiesDesk
from swarmd.services.exchange import ExchangeService
from swarmd.services.exchange_ports import StreamLike
from swarmd.services.exchange_relay_mode import relay_settings
from swarmd.services.exchange_rules import ExchangeRules, ExchangeScore
from swarmd.services.health import HealthService
from swarmd.services.image_http import ImageServer
from swarmd.services.receipts import ReceiptService
from swarmd.services.submission import SubmissionService
from swarmd.storage_plane import StoragePlane


@dataclass(frozen=True, slots=True, kw_only=True)
class Foundation:
    """What the data plane stands on."""

    config: Config
    """The operator's settings."""
    data: DataDir
    """Where files go."""
    identity: Identity
    """This node's keys."""
    entropy: Entropy
    """Lets nodes choose differently."""
    network: Network
    """Streams to peers."""
    registry: PeerRegistry
    """Who the peers are, and how they behave."""
    ledger: LedgerHost
    """Own copy of the chain."""
    authority: Authority
    """The verdicts."""
    store: ChunkStore
    """The images."""
    receipts: ReceiptService
    """Where outcomes are noted."""
    submission: SubmissionService
    """Own transactions."""
    own_groups: Callable[[], tuple[str, ...]]
    """The groups this node serves now."""
    time_ms: Callable[[], int]
    """The best guess of the time, milliseconds since 1970."""

    @property
    def fetches(self) -> bool:
        """Whether this node fetches images by itself."""
        return self.identity.kind is SubjectKind.GATEWAY


class DataPlane:
    """See the module's docstring."""

    def __init__(self, base: Foundation) -> None:
        """Wires the services; nothing runs before `start`."""
        self._base = base
        identity = base.identity
        self.traffic: Final = self._make_traffic()
        """Rates of image traffic."""
        self.traffic_desk: Final = TrafficDesk(self.traffic)
        """Control methods about them."""
        self.exchange: Final = ExchangeService(
            own_key=base.network.peer,
            store=base.store,
            authority=ExchangeRules(base.authority, base.receipts.answered),
            score=ExchangeScore(base.registry),
            open_stream=self._open_stream,
            entropy=base.entropy,
            packing=base.config.network.packing,
            traffic=self.traffic,
            relays=relay_settings(base.config.network.relay, base.config.network.site),
        )
        """Chunks from and to peers."""
        self.traffic.on_unasked = self.exchange.refuse_pushes
        self._switch_traffic(not self.traffic.is_off)
        self.lanes: Final = self._make_lanes()
        """Connections that carry chunks beside those for peers."""
        self.health: Final = HealthService(
            ledger=base.ledger,
            receipts=base.receipts,
            own_did=identity.did,
            own_groups=base.own_groups,
        )
        """What devices report."""
        self.storage: Final = StoragePlane(base, exchange=self.exchange, health=self.health)
        """What is kept on the disk."""
        self.copies: Final = CopiesDesk(
            ledger=base.ledger,
            authority=base.authority,
            exchange=self.exchange,
            registry=base.registry,
            own_did=identity.did,
        )
        """Control method about who else holds a release."""
        self.images: Final = self.storage.images
        """What is wanted, held, promoted and given up."""
        self.sealing: Final = SealingPlane(base)
        """Rings of sealed images, and opening them."""
        self.publisher: Final = self._make_publisher()
        """Staging and proposing, if this node holds a publisher's key."""
        self.http: ImageServer | None = None
        """Serves devices, once started and if configured."""

    def _make_lanes(self) -> LaneService:
        base = self._base
        section = base.config.network
        lane_protocol = protocol_id(base.ledger.chain_id, ProtocolName.LANE)
        settings: LaneSettings | None = None
        if section.lane_port is not None and base.network.is_on_tcp:
            settings = LaneSettings(
                hosts=tuple(dict.fromkeys(endpoint.host for endpoint in section.listen)),
                port=section.lane_port,
                folder=base.data.path,
            )
        return LaneService(
            settings,
            LaneSurroundings(
                network=base.network,
                chain=base.ledger.chain_id,
                era=lambda: base.ledger.chain.rules.era,
                key=base.identity.transport_key,
                entropy=base.entropy,
                may_use=lambda peer: base.registry.may_open(peer, lane_protocol),
                idle_s=section.probe_after_s,
            ),
            self._serve_stream,
        )

    def _make_traffic(self) -> TrafficService:
        base = self._base

        def is_near(peer: bytes) -> bool:
            known = base.registry.get(PeerKey(peer))
            return known is not None and known.is_lan

        service = TrafficService(
            base.config.traffic.plan(),
            folder=base.data.path,
            time_ms=base.time_ms,
            is_near=is_near,
        )
        service.on_switch = self._switch_traffic
        return service

    def _switch_traffic(self, is_allowed: bool) -> None:
        """Ends all exchange of images with peers, or begins it again."""
        if is_allowed:
            self.exchange.resume()
        else:
            self.exchange.pause()

    def _make_publisher(self) -> Publisher | None:
        base = self._base
        if base.identity.person_key is None:
            return None
        return Publisher(
            ledger=base.ledger,
            store=base.store,
            submission=base.submission,
            did=base.identity.did,
            key=base.identity.person_key,
            make_room=self.storage.make_room,
            seals=Seals(self.sealing.service.shelf, base.identity.did, base.entropy),
            patches=PatchMaker(base.ledger, base.store, base.data.path / "patches"),
        )

    # Running -------------------------------------------------------------------------------------

    def serve_protocols(self) -> None:
        """Answers peers from now on."""
        self._base.network.handle(
            protocol_id(self._base.ledger.chain_id, ProtocolName.EXCHANGE),
            self._serve_stream,
            streams_per_peer_max=2,
            deadline_s=None,
        )
        self.lanes.serve_protocol()
        self.sealing.serve_protocols()

    async def start(self, nursery: trio.Nursery) -> None:
        """Starts every service of the data plane but `serve_devices`."""
        base = self._base
        await nursery.start(partial(self.exchange.run))
        await self.lanes.bind()
        nursery.start_soon(self.lanes.run)
        nursery.start_soon(self.traffic.run)
        self.sealing.start(nursery)
        if base.identity.kind is SubjectKind.GATEWAY:
            # Before anything may be given up: what devices run is kept for them.
            await self.health.load()
            nursery.start_soon(self.health.run, base.submission.submit)
        self.storage.start(nursery)

    async def serve_devices(self, nursery: trio.Nursery) -> None:
        """Opens HTTP for devices, where it is configured."""
        base = self._base
        if base.config.http.listen is None or base.identity.kind is not SubjectKind.GATEWAY:
            return
        self.http = ImageServer(
            endpoint=base.config.http.listen,
            store=base.store,
            permit=self.storage.permit_for_digest,
            receipts=base.receipts,
            note_outcome=self.health.note_image,
            find_plain=self.sealing.plain.find,
        )
        await nursery.start(partial(self.http.run))

    def about_lanes(self) -> dict[str, JSON]:
        """Port and counts of lanes, for people."""
        return dict(dataclasses.asdict(self.lanes.statistics()))

    # Events --------------------------------------------------------------------------------------

    def peer_connected(self, peer: PeerKey) -> None:
        """Notes that streams to a member can be opened."""
        self.exchange.peer_connected(peer)
        self.sealing.service.peer_connected()

    def peer_disconnected(self, peer: PeerKey) -> None:
        """Notes that a peer is gone or suspended: whatever goes to or comes from it ends now."""
        self.exchange.peer_disconnected(peer)
        self.lanes.peer_gone(peer)

    def on_commit(self, result: CommitResult) -> None:
        """Looks again at what is open after a final block."""
        self.images.on_commit(result)
        self.sealing.on_commit(result)

    async def _open_stream(self, peer: bytes) -> StreamLike:
        """Opens a lane, or where that is not possible a stream of the connection for peers."""
        protocol = protocol_id(self._base.ledger.chain_id, ProtocolName.EXCHANGE)
        open_plain = partial(self._base.network.open_stream, protocol=protocol)
        stream = await self.lanes.open_or(PeerKey(peer), open_plain)
        stream.gate = self.traffic.gate(stream.peer)
        return stream

    async def _serve_stream(self, stream: Lane | Stream) -> None:
        """Serves a stream that a peer opened, within the rates."""
        stream.gate = self.traffic.gate(stream.peer)
        await self.exchange.serve_stream(stream)
