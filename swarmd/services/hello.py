"""The hello service: turns strangers into members, readers or validators, or keeps them out.

Dialing side: shows its membership, judges the answer, then closes its half to say that it agrees;
only then does the answering side treat it as a member, so that neither speaks to a peer that is
not ready. Judging: what my own copy says about the DID and its transport key, or a membership
proof at a header at least as new as mine, whichever is newer. So a newcomer, a node with rotated
keys and one that was away for a year get in, and a key that was suspended a block ago does not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import trio

from ledger.errors import LedgerNotYetError
from ledger.header import decode_header
from ledger.light import (
    EpochForkError,
    EpochHistory,
    EpochStep,
    TrustAnchor,
    decode_epoch_step,
)
from ledger.membership import (
    make_membership_proof,
    membership_epoch,
    verify_membership_proof,
)
from ledger.records.subject import SubjectRecord, SubjectStatus
from ledger.rules.membership import groups_of
from ledger.vote import Ed25519Verifier
from protocol.did import KeyPurpose, SubjectKind
from protocol.digest import DidId
from protocol.errors import NotYetError, RemoteProtocolError, TransportError, VerificationError
from protocol.hello import (
    EPOCH_STEPS_MAX,
    Hello,
    HelloAnswer,
    HelloStatus,
    decode_hello,
    decode_hello_answer,
    leading_epoch_steps,
)
from protocol.keys import PublicKey
from protocol.limits import HELLO_BYTES_MAX, HELLO_SECONDS_MAX, MIB
from protocol.version import ProtocolName, protocol_id
from swarmd.ledger_host import LedgerHost
from swarmd.net.address import PeerKey
from swarmd.net.network import Network, Stream
from swarmd.peers import Offence, Peer, PeerClass, PeerRegistry
from swarmd.recent_map import RecentMap

logger = logging.getLogger(__name__)

GREETINGS_MAX: Final = 16
"""Hellos to one peer in a row while each brings this node epochs further: 52 of 32 validators take
four."""
STEPS_BYTES_KEPT: Final = 2 * MIB
"""Hand-overs kept in memory for those who say hello; twice as much at the utmost. Reading 64 takes
tens of milliseconds, and anybody may ask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a peer has been found to be."""

    peer_class: PeerClass
    """Its class; STRANGER: not convinced."""
    did: DidId | None
    """Who it is; None for a stranger."""
    record: SubjectRecord | None
    """Its record; None for a stranger."""
    proven_height: int
    """Height of the header that shows it."""


STRANGER: Final = Standing(peer_class=PeerClass.STRANGER, did=None, record=None, proven_height=0)
"""The standing of everybody who has shown nothing."""


class HelloService:
    """Says and answers hello, and keeps standings current as blocks become final."""

    def __init__(
        self,
        *,
        network: Network,
        ledger: LedgerHost,
        registry: PeerRegistry,
        own_did: DidId,
        on_member: Callable[[Peer], None],
        on_demoted: Callable[[Peer], None],
    ) -> None:
        """Wires the service; both callbacks are called in the event loop and must not block.

        Args:
            network: to open streams.
            ledger: own copy of the chain.
            registry: where standings are kept.
            own_did: who this node is.
            on_member: a peer became reader, member or validator.
            on_demoted: a peer lost its standing.
        """
        self._network = network
        self._ledger = ledger
        self._registry = registry
        self._own_did = own_did
        self._on_member = on_member
        self._on_demoted = on_demoted
        self._proof: tuple[int, bytes] = (-1, b"")
        self._steps: Final = RecentMap[int, bytes](STEPS_BYTES_KEPT)
        self._verifier: Final = Ed25519Verifier()
        self._history = EpochHistory(self._own_anchor(), self._verifier)
        self._protocol = protocol_id(ledger.chain_id, ProtocolName.HELLO)

    async def greet(self, key: PeerKey) -> PeerClass:
        """Says hello to a peer that this node dialed.

        Returns:
            What the peer is; STRANGER when either side was not convinced.

        Raises:
            TransportError: the connection failed.
        """
        for _ in range(GREETINGS_MAX):
            epoch = self._trusted.validators.epoch
            found = await self._greet_once(key)
            if found is not PeerClass.STRANGER or self._trusted.validators.epoch == epoch:
                break  # convinced, or nothing new was learnt that could convince us next time
        return found

    async def _greet_once(self, key: PeerKey) -> PeerClass:
        peer = self._registry.connected(key)
        with trio.move_on_after(HELLO_SECONDS_MAX) as scope:
            stream = await self._network.open_stream(
                key, self._protocol, frame_bytes_max=HELLO_BYTES_MAX
            )
            try:
                await stream.send_frame((await self._own_hello()).encode())
                frame = await stream.receive_frame()
                standing, height = self._judge_answer(key, frame)
                if standing.peer_class is PeerClass.STRANGER:
                    await stream.reset()
                    return PeerClass.STRANGER
                # First, so that the other side knows us before our first question reaches it.
                await stream.close_write()
                self._admit(peer, standing, height)
            except EpochForkError as error:
                self._ledger.raise_alarm(error)
                await stream.reset()
                return PeerClass.STRANGER
            except (VerificationError, RemoteProtocolError) as error:
                self._registry.blame(key, Offence.MALFORMED, f"hello: {error}")
                await stream.reset()
                return PeerClass.STRANGER
        if scope.cancelled_caught:
            raise TransportError(f"peer {key[:4].hex()} did not answer hello in time")
        return standing.peer_class

    def _judge_answer(self, key: PeerKey, frame: bytes | None) -> tuple[Standing, int]:
        if frame is None:
            raise TransportError("peer closed the hello stream without an answer")
        answer = decode_hello_answer(frame)
        self._catch_up_trust()
        self._ledger.learn_checkpoint(answer.checkpoint)
        self._follow_steps([decode_epoch_step(raw) for raw in answer.epoch_steps])
        if answer.hello is None:
            logger.info("peer %s did not accept us: %s", key[:4].hex(), answer.status.name.lower())
            return STRANGER, 0
        standing = self._judge(key, answer.hello)
        if standing.peer_class < PeerClass.MEMBER:
            logger.info("peer %s shows no membership", key[:4].hex())
            return STRANGER, 0
        return standing, answer.hello.height

    async def answer(self, stream: Stream) -> None:
        """Handles an inbound hello stream; the network adapter bounds its time."""
        key = stream.peer
        peer = self._registry.connected(key)
        try:
            frame = await stream.receive_frame()
            if frame is None:
                return
            hello = decode_hello(frame)
            standing = self._judge(key, hello)
        except (VerificationError, RemoteProtocolError) as error:
            self._registry.blame(key, Offence.MALFORMED, f"hello: {error}")
            await stream.reset()
            return
        status = _status_of(standing)
        shown = status in (HelloStatus.WELCOME, HelloStatus.READER)
        answer = HelloAnswer(
            status=status,
            epoch_steps=await self._steps_since(key, hello),
            hello=await self._own_hello() if shown else None,
            checkpoint=self._ledger.chain.checkpoint(),
        )
        await stream.send_frame(answer.encode())
        await stream.close_write()
        if shown and await stream.receive_frame() is None:
            self._admit(peer, standing, hello.height)

    # -- epochs --------------------------------------------------------------------------------

    def _own_anchor(self) -> TrustAnchor:
        """Whom this node believes by its own copy of the ledger."""
        chain = self._ledger.chain
        return replace(chain.anchor, validators=chain.validators)

    @property
    def _trusted(self) -> TrustAnchor:
        """Whom this node believes: by its ledger, or by hand-overs it was shown beyond that."""
        return self._history.anchor

    def _catch_up_trust(self) -> None:
        """Begins anew from the own ledger where that has come farther than what was shown."""
        if self._ledger.chain.validators.epoch > self._trusted.validators.epoch:
            self._history = EpochHistory(self._own_anchor(), self._verifier)

    def _follow_steps(self, steps: Sequence[EpochStep]) -> None:
        """Follows hand-overs as far as this node may (G12); more would only take memory.

        Those of epochs that the own ledger passed while the answer was under way show nothing new.

        Raises:
            EpochForkError: a second valid successor of an epoch.
            VerificationError: a step does not verify.
        """
        useful = range(self._history.first, self._ledger.trust.limit)
        headers = [decode_header(step.header) for step in steps]
        pairs = zip(steps, headers, strict=True)
        self._history.advance([step for step, header in pairs if header.epoch in useful])
        for header in headers:  # verified now: before, anybody could have made this node alarm
            if header.epoch in useful:
                self._ledger.trust.compare(header)

    def _anchor_for(self, epoch: int) -> TrustAnchor | None:
        """Whom to believe about headers of an epoch; None: nobody so far."""
        known = self._ledger.chain.state.validators(epoch)
        if known is not None and epoch <= self._ledger.chain.validators.epoch:
            return replace(self._ledger.chain.anchor, validators=known)
        if epoch > self._ledger.trust.limit:
            return None  # only keys that may have been stolen speak for it (G12)
        return self._history.anchor_of(epoch)

    async def _steps_since(self, peer: PeerKey, hello: Hello) -> tuple[bytes, ...]:
        """The hand-overs a peer lacks, as many as one answer holds; strangers get them too."""
        chain = self._ledger.chain
        if hello.era != chain.head.era or hello.epoch >= chain.validators.epoch:
            return ()
        end = min(hello.epoch + EPOCH_STEPS_MAX, chain.validators.epoch)
        wanted = range(hello.epoch, end)
        held = [self._steps.get(epoch) for epoch in wanted]
        if None in held:
            first = hello.epoch + held.index(None)
            loaded = await self._ledger.serve(peer, lambda: chain.epoch_steps(first, end - first))
            for epoch, step in enumerate(loaded, start=first):
                raw = step.encode()
                self._steps.put(epoch, raw, len(raw))
            held = [*held[: first - hello.epoch], *(step.encode() for step in loaded)]
        return leading_epoch_steps([raw for raw in held if raw is not None])

    async def _own_hello(self) -> Hello:
        chain = self._ledger.chain
        head = chain.head
        self._catch_up_trust()
        if self._proof[0] != head.height:
            self._proof = (head.height, await self._make_proof())
        return Hello(
            era=head.era,
            epoch=self._trusted.validators.epoch,
            height=head.height,
            did=self._own_did,
            membership=self._proof[1],
        )

    async def _make_proof(self) -> bytes:
        """Proof of the own membership; empty while this copy cannot show it."""
        chain = self._ledger.chain
        if chain.head.height == 0:
            return b""
        try:
            return await self._ledger.run(lambda: make_membership_proof(chain, self._own_did))
        except LedgerNotYetError as error:
            logger.debug("no membership proof: %s", error)
            return b""

    def _judge(self, key: PeerKey, hello: Hello) -> Standing:
        """Decides what a peer is, from my copy and from its proof.

        Raises:
            VerificationError: the proof is forged or malformed.
        """
        chain = self._ledger.chain
        own_height = chain.head.height
        anchor = None
        is_comparable = hello.era == chain.head.era and hello.height >= own_height
        if hello.membership and is_comparable:
            anchor = self._anchor_for(membership_epoch(hello.membership))
        if anchor is not None:
            try:
                shown = verify_membership_proof(
                    hello.membership, anchor, PublicKey(key), height_min=own_height
                )
            except NotYetError:
                logger.debug("peer %s shows an old proof", key[:4].hex())
            else:
                if shown.did != hello.did:
                    raise VerificationError("membership proof is about somebody else")
                return self._standing(shown.did, shown.record, shown.height)
        record = chain.state.subject(hello.did)
        if record is None or record.key(KeyPurpose.TRANSPORT) != PublicKey(key):
            return STRANGER
        return self._standing(hello.did, record, own_height)

    def _standing(self, did: DidId, record: SubjectRecord, height: int) -> Standing:
        if record.status is SubjectStatus.SUSPENDED:
            return Standing(
                peer_class=PeerClass.READER, did=did, record=record, proven_height=height
            )
        if record.status is not SubjectStatus.ACTIVE:
            return STRANGER
        votes = any(member.did == did for member in self._ledger.chain.validators.members)
        is_validator = record.kind is SubjectKind.VALIDATOR and votes
        peer_class = PeerClass.VALIDATOR if is_validator else PeerClass.MEMBER
        return Standing(peer_class=peer_class, did=did, record=record, proven_height=height)

    def _admit(self, peer: Peer, standing: Standing, height: int) -> None:
        assert standing.record is not None, "only a peer with a record is admitted"
        if self._registry.get(peer.key) is not peer or not self._network.is_connected(peer.key):
            return  # it left meanwhile; whoever came back under this key says hello again
        peer.peer_class = standing.peer_class
        peer.did = standing.did
        peer.name = standing.record.name
        peer.groups = self._groups_of(standing.did, standing.record)
        peer.height = height
        peer.proven_height = standing.proven_height
        self._on_member(peer)

    def _groups_of(self, did: DidId | None, record: SubjectRecord) -> tuple[str, ...]:
        """Groups a peer belongs to by my copy; what its record lists if that is beyond my copy."""
        state = self._ledger.chain.state
        if did is None or state.subject(did) is None:
            return record.groups
        return groups_of(state, did)

    def review(self) -> None:
        """Looks at every peer again after a block became final; call from a commit listener.

        Groups too: attributes, parents and selectors may be others now (K60).
        """
        chain = self._ledger.chain
        self._compare_closing()
        for peer in self._registry:
            if peer.did is None or chain.head.height < peer.proven_height:
                continue
            record = chain.state.subject(peer.did)
            if record is None or record.key(KeyPurpose.TRANSPORT) != PublicKey(peer.key):
                standing = STRANGER
            else:
                standing = self._standing(peer.did, record, chain.head.height)
                peer.groups = groups_of(chain.state, peer.did)
            if standing.peer_class != peer.peer_class:
                logger.info("peer %s is now %s", peer.name, standing.peer_class.name.lower())
                before, peer.peer_class = peer.peer_class, standing.peer_class
                if standing.peer_class > before:
                    self._on_member(peer)
                elif standing.peer_class < PeerClass.MEMBER:  # a seat that ended is no disgrace
                    self._on_demoted(peer)

    def _compare_closing(self) -> None:
        """Stops if my ledger closed an epoch otherwise than I was shown before."""
        head = self._ledger.chain.head
        if head.closes_epoch:
            try:
                self._history.check_closing(head.epoch, head.block_id)
            except EpochForkError as error:
                self._ledger.raise_alarm(error)


def _status_of(standing: Standing) -> HelloStatus:
    """Tells strangers one thing only: "not yet" for some would show them the height of my copy."""
    if standing.peer_class is PeerClass.READER:
        return HelloStatus.READER
    if standing.peer_class >= PeerClass.MEMBER:
        return HelloStatus.WELCOME
    return HelloStatus.REFUSED
