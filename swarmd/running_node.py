"""A running node: machines and services of one node, wired together and run in one nursery.

Everything it takes from the world comes in as an argument; `swarmd.node` opens the stores.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

import trio

from chunks.store import ChunkStore, ImageState
from chunks.store_recovery import image_path
from ledger.chain import Chain
from ledger.chain_blocks import CommitResult
from ledger.rules.membership import groups_of
from protocol.did import SubjectKind, did_text
from protocol.digest import Digest
from protocol.genesis import Genesis
from protocol.keys import PrivateKey
from protocol.limits import HELLO_BYTES_MAX, HELLO_SECONDS_MAX
from protocol.version import ProtocolName, protocol_id
from swarmd.authority import Authority
from swarmd.clock import Clock
from swarmd.config import Config
from swarmd.control.protocol import JSON
from swarmd.control.server import serve_control
from swarmd.data_plane import DataPlane, Foundation
from swarmd.datadir import DataDir
from swarmd.enrolment_request import load_own_request
from swarmd.entropy import Entropy
from swarmd.epoch_keys import EpochKeys
from swarmd.identity import Identity
from swarmd.keys.passphrase import PassphraseSource
from swarmd.ledger_host import LedgerHost
from swarmd.member_keys import MemberKeys
from swarmd.net.address import PeerAddress, PeerKey, bootstrap_peers
from swarmd.net.network import Network, NetworkConfig, open_network
from swarmd.net.wire import TCPWire, Wire
from swarmd.newcomers import NEWCOMERS_NAME, Newcomers
from swarmd.node_time import NodeTime
from swarmd.peers import Offence, Peer, PeerClass, PeerRegistry, RegistryAdmission
from swarmd.questions import Access, Allowed, OperatorSubject
from swarmd.reach_plane import Grounds, ReachPlane
from swarmd.receipts import ReceiptKind, ReceiptLog
from swarmd.services.bundle_desk import BundleDesk
from swarmd.services.consensus import ConsensusService
from swarmd.services.consensus_epoch import STREAM_BYTES_MAX as CONSENSUS_BYTES_MAX
from swarmd.services.consensus_epoch import Surroundings
from swarmd.services.cosigning import CosigningService
from swarmd.services.doorkeeper import Doorkeeper
from swarmd.services.follower import FollowerService
from swarmd.services.freshness import FreshnessService
from swarmd.services.gossip import GossipHooks, GossipService
from swarmd.services.hello import HelloService
from swarmd.services.joining import JoiningService
from swarmd.services.ledger_service import STREAM_BYTES_MAX as LEDGER_BYTES_MAX
from swarmd.services.ledger_service import LedgerService
from swarmd.services.operator import Operator, Parts
from swarmd.services.pruning import PruningService
from swarmd.services.reach_report import ReachReport
from swarmd.services.receipts import ReceiptService
from swarmd.services.settling import SettlingService
from swarmd.services.state_sync import StateSyncService
from swarmd.services.submission import SubmissionService
from swarmd.services.tamper import TamperService
from swarmd.services.vote_keys import VoteKeys
from swarmd.services.witnessing import WitnessService
from swarmd.witnesses import NOTE_NAME, WitnessBook

logger = logging.getLogger(__name__)

FRESHNESS_FILE: Final = "freshness.cbor"
"""In the data directory: the age of knowledge at its last save."""
STOP_S: Final = 10.0
"""An orderly stop may take this long before tasks are simply cancelled, seconds."""
STOP_ANSWER_S: Final = 0.2
"""Between the answer to `stop` and the stop itself, seconds."""


class RunningNode:
    """The wired services of a node with open stores."""

    def __init__(
        self,
        *,
        data: DataDir,
        clock: Clock,
        entropy: Entropy,
        stop: Callable[[], None],
        config: Config,
        genesis: Genesis,
        identity: Identity,
        chain: Chain,
        store: ChunkStore,
        receipt_log: ReceiptLog,
        passphrases: PassphraseSource,
    ) -> None:
        """Takes what `Node.running` opened."""
        self._data = data
        self._clock = clock
        self._entropy = entropy
        self._stop = stop
        self._config = dataclasses.replace(config, network=config.network.effective())
        self._genesis = genesis
        self._identity = identity
        self._chain = chain
        self.store: Final = store
        """The images."""
        self._receipt_log = receipt_log
        self._passphrases = passphrases
        self._nursery: trio.Nursery | None = None
        self.time: Final = NodeTime(chain, clock, data.path / FRESHNESS_FILE)
        """What time it is for this node."""
        self.ledger: Final = LedgerHost(chain, self.time.next_ms)
        """Own copy of the chain."""
        self._keys = MemberKeys(chain)
        self._request = load_own_request(data, identity.did)
        self._newcomers = Newcomers(data.path / NEWCOMERS_NAME)
        self._expect_checkpoint()
        self.registry: Final = PeerRegistry(self.ledger.chain_id, clock, self._on_ban)
        self._witness_book = WitnessBook()
        self._authority = Authority(
            ledger=self.ledger,
            genesis=genesis,
            age=self.time.age,
            registry=self.registry,
            own_did=identity.did,
            own_groups=self._own_groups,
            floor=config.floor.demands(),
            monotonic=clock.monotonic,
            time_ms=self.time.ledger_ms,
            operators=(0, os.geteuid()),
            witnesses=self._witness_book,
        )

    def _expect_checkpoint(self) -> None:
        """Believes no chain that contradicts the header which this node's token names (I77)."""
        if self._request is not None and self._request.claims.era == self._chain.rules.era:
            self.ledger.expect(*self._request.claims.checkpoint)

    def _own_groups(self) -> tuple[str, ...]:
        return groups_of(self._chain.state, self._identity.did)

    # -- wiring --------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def serve(self, wire: Wire | None) -> AsyncIterator[tuple[str, ...]]:
        """Opens network and control socket and runs every service within the block."""
        listen = tuple((item.host, item.port) for item in self._config.network.listen)
        section = self._config.network
        network_config = NetworkConfig(
            seed=self._identity.transport_key.seed(),
            listen=listen,
            wire=wire or TCPWire(idle_s=section.probe_after_s, is_metered=section.metered),
            stranger_connections_max=section.stranger_connections_max,
            member_connections_max=section.member_connections_max,
        )
        admission = RegistryAdmission(self.registry, self._keys.is_enrolled)
        async with open_network(network_config, admission=admission) as network:
            self._wire_services(network)
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                try:
                    await self._start_services(nursery)
                    yield tuple(address.multiaddr for address in network.listen_addresses)
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + STOP_S):
                        await self.freshness.save_now()
                        await self.receipts.flush()
                finally:
                    self._nursery = None  # the network, which ends later, still hears of peers
                nursery.cancel_scope.cancel()

    def _wire_services(self, network: Network) -> None:
        self.network = network
        ledger, registry, identity = self.ledger, self.registry, self._identity
        self.freshness = FreshnessService(
            ledger=ledger,
            registry=registry,
            clock=self._clock,
            entropy=self._entropy,
            age=self.time.age,
            save=self.time.save_age,
            validator=self._vote_seat,
            may_vouch=self._may_vouch,
            on_confirmed=self._on_confirmed,
            on_ahead=self._on_ahead,
        )
        self.cosigning = CosigningService(ledger=ledger, registry=registry, seat=self._vote_seat)
        self.ledger_service = LedgerService(
            cosigning=self.cosigning,
            network=network,
            ledger=ledger,
            registry=registry,
            freshness=self.freshness,
            on_pending=self._mempool_changed,
        )
        self.hello = HelloService(
            network=network,
            ledger=ledger,
            registry=registry,
            own_did=identity.did,
            on_member=self._on_member,
            on_demoted=self._on_demoted,
        )
        self.state_sync = StateSyncService(
            ledger=ledger,
            registry=registry,
            service=self.ledger_service,
            store=self._chain.fetches(),
            anchor=lambda: self._chain.current_anchor,
        )
        self.follower = FollowerService(
            ledger=ledger,
            registry=registry,
            service=self.ledger_service,
            fetch_state=self.state_sync.fetch,
            patience_s=self._engine_patience_s,
            has_engine=identity.kind is SubjectKind.VALIDATOR,
            is_metered=self._config.network.metered,
        )
        self._wire_writing(network)
        is_validator = identity.kind is SubjectKind.VALIDATOR
        self.consensus = self._make_consensus(network) if is_validator else None
        self._wire_images()
        self._wire_joining(network)
        self._wire_reach(network)

    def _wire_reach(self, network: Network) -> None:
        """What finds, dials and keeps peers."""
        self.reach_plane = ReachPlane(
            Grounds(
                chain=self.ledger.chain_id,
                settings=self._config.network,
                folder=self._data.path,
                network=network,
                registry=self.registry,
                entropy=self._entropy,
                keys=self._keys,
                era=lambda: self._chain.head.era,
                time_ms=self.time.ledger_ms,
                is_current=lambda: self.freshness.is_current,
                is_fetching=lambda: self.exchange.is_busy,
                token_addresses=self._token_addresses,
                greet=self.joining.greet,
                did=self._identity.did,
                node_key=self._identity.node_key,
            )
        )
        self.reach = self.reach_plane.reach

    def _wire_writing(self, network: Network) -> None:
        """Gossip, own transactions and receipts."""
        ledger, registry, identity = self.ledger, self.registry, self._identity
        self.receipts = ReceiptService(
            log=self._receipt_log,
            ledger=ledger,
            own_did=identity.did,
            time_ms=self.time.ledger_ms,
        )
        self._wire_tamper()
        self.gossip = GossipService(
            network=network,
            ledger=ledger,
            registry=registry,
            author=(identity.did, identity.node_key),
            groups=self._own_groups,
            is_validator=identity.kind is SubjectKind.VALIDATOR,
            hooks=GossipHooks(
                head_heard=self.follower.hear,
                manifest_announced=lambda _manifest: self.images.wake(),
                mempool_changed=self._mempool_changed,
                transaction_seen=lambda signed: self.tamper.on_transaction(signed, True),
                falsehood_seen=self.tamper.on_falsehood,
            ),
        )
        self.submission = SubmissionService(
            ledger=ledger,
            own_did=identity.did,
            key=identity.node_key,
            time_ms=self.time.next_ms,
            offer=self.ledger_service.offer_to_validators,
            gossip=self.gossip.publish_transaction,
            on_pending=self._mempool_changed,
            needs_gossip=self._lacks_validators,
            look=self.follower.look if self._config.network.metered else None,
        )

    def _token_addresses(self) -> tuple[PeerAddress, ...]:
        """Whom this node's token names, while this node joins."""
        if self._request is None or self._chain.state.subject(self._request.did) is not None:
            return ()
        return self._request.addresses

    def _wire_joining(self, network: Network) -> None:
        """Both sides of enrolment: this node's own, and newcomers' that come here."""
        self.joining = JoiningService(
            network=network,
            ledger=self.ledger,
            greet=self.hello.greet,
            request=self._request,
            members=frozenset(
                address.peer
                for address in (
                    *bootstrap_peers(self._config.network.bootstrap),
                    *self._token_addresses(),
                )
            ),
        )
        self.doorkeeper = Doorkeeper(
            ledger=self.ledger,
            submission=self.submission,
            registry=self.registry,
            newcomers=self._newcomers,
            now_ms=self.time.next_ms,
        )

    def _wire_tamper(self) -> None:
        """What watches for tampering; gossip tells it what it saw."""
        self.tamper = TamperService(
            ledger=self.ledger,
            registry=self.registry,
            receipts=self.receipts,
            own_did=self._identity.did,
            own_groups=self._own_groups,
        )
        self.registry.listen(self.tamper.on_offence)
        self.ledger.listen_submissions(self.tamper.on_transaction)

    def _wire_images(self) -> None:
        self.data_plane = DataPlane(
            Foundation(
                config=self._config,
                data=self._data,
                identity=self._identity,
                entropy=self._entropy,
                network=self.network,
                registry=self.registry,
                ledger=self.ledger,
                authority=self._authority,
                store=self.store,
                receipts=self.receipts,
                submission=self.submission,
                own_groups=self._own_groups,
                time_ms=self.time.next_ms,
            )
        )
        self.exchange = self.data_plane.exchange
        self.images = self.data_plane.images
        self.health = self.data_plane.health
        self.publisher = self.data_plane.publisher

    def _make_settling(self) -> SettlingService:
        def seat() -> int | None:
            held = self._vote_seat()
            return None if held is None else held[1]

        return SettlingService(
            ledger=self.ledger,
            own_did=self._identity.did,
            is_publisher=self._identity.kind is SubjectKind.PUBLISHER,
            seat=seat,
        )

    def _vote_seat(self) -> tuple[PrivateKey, int] | None:
        return None if self.consensus is None else self.consensus.seat

    def _engine_patience_s(self) -> float:
        return 0.0 if self.consensus is None else self.consensus.patience_s()

    def _make_consensus(self, network: Network) -> ConsensusService:
        keys = EpochKeys(self._data, self._entropy, self._passphrases)
        keys.load()
        return ConsensusService(
            Surroundings(
                network=network,
                ledger=self.ledger,
                registry=self.registry,
                clock=self._clock,
                entropy=self._entropy,
            ),
            own_did=self._identity.did,
            vote_keys=VoteKeys(
                keys=keys,
                ledger=self.ledger,
                own_did=self._identity.did,
                submit=self.submission.submit,
            ),
            delta_s=self._config.ledger.view_timeout_ms / 1000,
            on_ahead=lambda peer: self.follower.hear(peer, self._chain.head.height + 1),
        )

    # -- running -------------------------------------------------------------------------------

    def _serve_protocols(self) -> None:
        """Answers peers from now on."""
        chain_id = self.ledger.chain_id
        handle = self.network.handle
        handle(
            protocol_id(chain_id, ProtocolName.HELLO),
            self.hello.answer,
            streams_per_peer_max=2,
            deadline_s=float(HELLO_SECONDS_MAX),
        )
        handle(
            protocol_id(chain_id, ProtocolName.ENROL),
            self.doorkeeper.answer,
            streams_per_peer_max=1,
            deadline_s=float(HELLO_SECONDS_MAX),
            frame_bytes_max=HELLO_BYTES_MAX,
        )
        handle(
            protocol_id(chain_id, ProtocolName.LEDGER),
            self.ledger_service.answer,
            streams_per_peer_max=8,
            deadline_s=None,  # it is kept open; each question has its time
            frame_bytes_max=LEDGER_BYTES_MAX,
        )
        self.data_plane.serve_protocols()
        if self.consensus is not None:
            handle(
                protocol_id(chain_id, ProtocolName.CONSENSUS),
                self.consensus.answer,
                streams_per_peer_max=2,
                deadline_s=None,
                frame_bytes_max=CONSENSUS_BYTES_MAX,
            )

    async def _start_services(self, nursery: trio.Nursery) -> None:
        self._serve_protocols()
        self.reach_plane.serve()
        self.ledger.listen(self._on_commit)
        self.ledger.listen_alarm(self.images.on_alarm)
        operator = Operator(self._parts())
        await nursery.start(
            partial(
                serve_control,
                self._data.control_socket,
                operator.handlers(),
                may_operate=self._may_operate,
            )
        )
        nursery.start_soon(self._watch_peers)
        if not self._config.network.metered:
            # It would subscribe. Own transactions are gossiped all the same.
            nursery.start_soon(self.gossip.run)
        nursery.start_soon(PruningService(self.ledger, self._config.ledger.keep_blocks).run)
        await self.data_plane.start(nursery)
        witnessing = WitnessService(self._data.path / NOTE_NAME, self.ledger, self._witness_book)
        nursery.start_soon(witnessing.run)
        nursery.start_soon(self.freshness.run, self.ledger_service.ask)
        nursery.start_soon(self.submission.run)
        nursery.start_soon(self.doorkeeper.run)
        nursery.start_soon(self.receipts.run, self.submission.submit)
        nursery.start_soon(self.tamper.run, self.submission.submit)
        if self._identity.kind is not SubjectKind.GATEWAY:
            nursery.start_soon(self._make_settling().run, self.submission.submit)
        if self.consensus is not None:
            nursery.start_soon(self.consensus.run)
        nursery.start_soon(self.follower.run)
        await self.data_plane.serve_devices(nursery)
        nursery.start_soon(self.reach_plane.run)

    def _parts(self) -> Parts:
        return Parts(
            ledger=self.ledger,
            authority=self._authority,
            registry=self.registry,
            network=self.network,
            store=self.store,
            exchange=self.exchange,
            images=self.images,
            receipts=self.receipts,
            submission=self.submission,
            consensus=self.consensus,
            publisher=self.publisher,
            sealing=self.data_plane.sealing.desk,
            bundles=self._bundle_desk(),
            keeping=self.data_plane.storage.desk,
            traffic=self.data_plane.traffic_desk,
            copies=self.data_plane.copies,
            cosigning=self.cosigning,
            ask=self.ledger_service.ask,
            doorkeeper=self.doorkeeper,
            reach=ReachReport(self.reach_plane),
            image_path=partial(_image_file, self._data.images),
            about=self._about,
            stop=lambda: self._spawn(self._stop_soon),
        )

    def _bundle_desk(self) -> BundleDesk:
        return BundleDesk(
            data=self._data.path,
            ledger=self.ledger,
            genesis=self._genesis,
            authority=self._authority,
            registry=self.registry,
            store=self.store,
            images=self.images,
            note_use=self.data_plane.storage.keeping.note_use,
            image_path=partial(_image_file, self._data.images),
            sealing=self.data_plane.sealing.service,
            receipts=self.receipts,
            freshness=self.freshness,
            ask=self.ledger_service.ask,
            entropy=self._entropy,
            monotonic=self._clock.monotonic,
        )

    def _may_operate(self, uid: int) -> bool:
        return isinstance(self._authority.ask(OperatorSubject(uid), Access.OPERATE), Allowed)

    async def _stop_soon(self) -> None:
        """Begins the stop once whoever asked for it has had time to read the answer."""
        await trio.sleep(STOP_ANSWER_S)
        self._stop()

    def _about(self) -> dict[str, JSON]:
        http = self.data_plane.http
        return {
            "name": self._config.node.name,
            "role": self._identity.kind.name.lower(),
            "did": did_text(self.ledger.chain_id, self._identity.did),
            "groups": list(self._own_groups()),
            "addresses": [item.multiaddr for item in self.network.listen_addresses],
            "http": None if http is None else http.url,
            "lanes": self.data_plane.about_lanes(),
            "ledger_time_ms": self.time.ledger_ms(),
            "joining": self.joining.about(),
            "knowledge_age_ms": self.time.age.age_ms(self._clock.monotonic()),
        }

    # -- events --------------------------------------------------------------------------------

    def _spawn(self, task: Callable[..., Awaitable[object]], *args: object) -> None:
        """Starts a task beside the services; once they stop, nothing is started any more."""
        if self._nursery is not None:
            self._nursery.start_soon(task, *args)

    async def _watch_peers(self) -> None:
        async for event in self.network.events:
            if event.is_connected:
                self.registry.connected(event.peer)
            else:
                self.registry.disconnected(event.peer)
                self.data_plane.peer_disconnected(event.peer)
                self.ledger_service.peer_disconnected(event.peer)
                self.reach.peer_disconnected(event.peer)

    def _on_member(self, peer: Peer) -> None:
        logger.info("peer %s is a %s", peer.name, peer.peer_class.name.lower())
        self.follower.hear(peer.key, peer.height)
        if peer.peer_class is PeerClass.READER:
            return
        self._spawn(self.network.admit_to_gossip, peer.key)
        self.reach_plane.peer_connected(peer)
        self.data_plane.peer_connected(peer.key)
        if self.consensus is not None and peer.peer_class is PeerClass.VALIDATOR:
            self.consensus.peer_connected(peer.key)
        self.freshness.hurry()

    def _on_demoted(self, peer: Peer) -> None:
        self.reach_plane.peer_demoted(peer.key)
        self._spawn(self.network.disconnect_via, peer.key)
        self.data_plane.peer_disconnected(peer.key)
        if peer.peer_class is PeerClass.STRANGER:
            self._spawn(self.network.disconnect, peer.key)
        else:
            self._spawn(self.network.expel, peer.key)

    def _on_commit(self, result: CommitResult) -> None:
        self._authority.on_commit(result)
        self.submission.on_commit(result)
        self.receipts.on_commit(result)
        self.hello.review()  # who belongs to a group decides about transfers that go on
        self.data_plane.on_commit(result)
        self.reach_plane.on_commit()
        self.gossip.review()
        if self._announces(result.header.proposer):
            self._spawn(self.gossip.publish_head)
        if self.publisher is not None:
            for change in result.manifests:
                if change.record.authorised_height == result.header.height:
                    self._spawn(self.gossip.publish_manifest, change.manifest_id, change.group)

    def _lacks_validators(self) -> bool:
        """Whether fewer than a quorum of validators, this node included, are within reach."""
        own = self._vote_seat() is not None
        reached = len(self.registry.at_least(PeerClass.VALIDATOR)) + own
        return reached < self._chain.validators.quorum

    def _announces(self, proposer: int) -> bool:
        """Whether this validator tells followers of a block: its proposer does, and the f after it.

        So one at least is honest; a follower that misses all asks by itself after a heartbeat.
        """
        seat = self._vote_seat()
        validators = self._chain.validators
        count = len(validators.members)
        return seat is not None and (seat[1] - proposer) % count <= validators.fault_limit

    def _may_vouch(self) -> bool:
        """Whether this validator, if it is one, has learnt where the others stand."""
        return self.consensus is None or self.consensus.may_vouch

    def _on_ahead(self, peer: PeerKey, height: int) -> None:
        self.follower.hear(peer, height)

    def _on_confirmed(self) -> None:
        self.images.wake()

    def _mempool_changed(self) -> None:
        if self.consensus is not None:
            self.consensus.transactions_changed()

    def _on_ban(self, peer: PeerKey, offence: Offence) -> None:
        """Sends a peer away that has used up its credit."""
        self._spawn(self.network.disconnect, peer)
        known = self.registry.get(peer)
        if known is not None and known.did is not None:  # strangers' keys cost them nothing
            self.receipts.note_once(
                ReceiptKind.REFUSED, subject=peer.hex()[:16], detail=f"banned: {offence.label}"
            )


def _image_file(root: Path, digest: Digest) -> Path:
    return image_path(root, digest, ImageState.COMPLETE)
