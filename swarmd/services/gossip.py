"""Signed gossip: transactions to validators, heads to followers, announcements to groups.

A message is checked before it is relayed: its author must be a member and its signature good, and
what my own copy shows to be false goes no further. What names a height beyond my own copy is parked
(bounded) until the copy is there, never rejected. A false announcement is its author's fault, who
signed it. A relayer answers for what is malformed at any height; not for authors and signatures,
which it judged by a copy that may be older or newer than mine.
Gossip tells *that* something is final; the ledger copy decides whether to believe it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from ledger.records.subject import SubjectStatus
from protocol.announcement import (
    Announcement,
    SignedAnnouncement,
    parse_announcement,
    sign_announcement,
)
from protocol.did import KeyPurpose
from protocol.digest import DidId, ManifestId
from protocol.errors import PolicyError, SignatureError, StorageError, VerificationError
from protocol.keys import PrivateKey
from protocol.transaction import SignedTransaction, parse_transaction
from protocol.version import group_topic, heads_topic, transactions_topic
from swarmd.ledger_host import LedgerHost
from swarmd.net.address import PeerKey
from swarmd.net.network import GossipMessage, Network
from swarmd.peers import Offence, PeerRegistry

logger = logging.getLogger(__name__)

PARKED_MAX: Final = 256
"""Announcements kept for a height this node has not reached; the oldest is dropped first."""
PARKED_PER_RELAYER_MAX: Final = 32
"""Of these, from one relayer: more push out its own, not those of others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GossipHooks:
    """What the service tells the rest of the node; called in the event loop, must not block."""

    head_heard: Callable[[PeerKey, int], None]
    """A relayer knows of a height beyond mine."""
    manifest_announced: Callable[[ManifestId], None]
    """A manifest is announced that my copy holds as authorised."""
    mempool_changed: Callable[[], None]
    """A gossiped transaction was taken."""
    transaction_seen: Callable[[SignedTransaction], None] = lambda _signed: None
    """A well signed transaction of a member came by."""
    falsehood_seen: Callable[[SignedAnnouncement], None] = lambda _signed: None
    """A well signed announcement is false by my copy."""


class GossipService:
    """Publishes and judges gossip."""

    def __init__(
        self,
        *,
        network: Network,
        ledger: LedgerHost,
        registry: PeerRegistry,
        author: tuple[DidId, PrivateKey],
        groups: Callable[[], tuple[str, ...]],
        is_validator: bool,
        hooks: GossipHooks,
    ) -> None:
        """Wires the service.

        Args:
            network: to publish and subscribe.
            ledger: own copy of the chain.
            registry: where misbehaviour is scored.
            author: this node's DID and node key.
            groups: groups whose announcements concern this node now.
            is_validator: whether transactions go to the mempool here.
            hooks: what to tell others.
        """
        self._network = network
        self._ledger = ledger
        self._registry = registry
        self._did, self._key = author
        self._is_validator = is_validator
        self._hooks = hooks
        chain = ledger.chain_id
        self._transactions = transactions_topic(chain)
        self._heads = heads_topic(chain)
        self._own_groups = groups
        self._groups: dict[str, str] = {}
        self._moved = trio.Event()
        self._parked: dict[bytes, tuple[PeerKey, SignedAnnouncement]] = {}

    async def run(self) -> None:
        """Subscribes and handles messages until cancelled; follows changes of own groups."""
        async with trio.open_nursery() as nursery:
            for topic in (self._transactions, self._heads):
                await self._subscribe(topic, nursery)
            while True:
                moved = self._moved
                await self._follow_groups(nursery)
                await moved.wait()

    async def _subscribe(self, topic: str, nursery: trio.Nursery) -> None:
        validator = functools.partial(self._is_relayable, topic)
        channel = await self._network.subscribe(topic, validator)
        nursery.start_soon(self._receive, channel)

    async def _follow_groups(self, nursery: trio.Nursery) -> None:
        """Joins the topics of groups this node came into, leaves those it is no member of."""
        chain = self._ledger.chain_id
        wanted = {group_topic(chain, group): group for group in self._own_groups()}
        for topic in [topic for topic in self._groups if topic not in wanted]:
            del self._groups[topic]
            await self._network.unsubscribe(topic)
            self._parked = {
                key: entry
                for key, entry in self._parked.items()
                if entry[1].announcement.topic != topic
            }
        for topic, group in wanted.items():
            if topic not in self._groups:
                self._groups[topic] = group
                await self._subscribe(topic, nursery)

    async def _receive(self, channel: trio.MemoryReceiveChannel[GossipMessage]) -> None:
        async for message in channel:
            if message.topic == self._transactions:
                try:
                    await self._take_transaction(message)
                except StorageError as error:
                    logger.error(  # noqa: TRY400 - no defect
                        "gossiped transaction lost: %s", error
                    )
            else:
                self._take_announcement(message.relayer, parse_announcement(message.data))

    def _is_relayable(self, topic: str, relayer: PeerKey, data: bytes) -> bool:
        """The cheap check before a message is passed on; False costs the relayer points."""
        try:
            if topic == self._transactions:
                return self._check_author_of_transaction(data)
            signed = parse_announcement(data)
            if not self._check_author(topic, signed):
                return False
            if (falsehood := self._falsehood(signed.announcement)) is not None:
                self._blame_author(signed, relayer, falsehood)
                return False
            return True
        except SignatureError as error:  # its author's keys may be others at the relayer's height
            logger.debug("gossip relayed by %s: %s", relayer[:4].hex(), error)
            return False
        except VerificationError as error:
            self._registry.blame(relayer, Offence.MALFORMED, f"gossip: {error}")
            return False

    def _check_author_of_transaction(self, data: bytes) -> bool:
        signed = parse_transaction(data)
        chain = self._ledger.chain
        subject = chain.state.subject(signed.transaction.signer)
        key = None if subject is None else subject.key(KeyPurpose.NODE)
        if subject is None or key is None or subject.status is not SubjectStatus.ACTIVE:
            return False  # enrolled in a block I do not have, perhaps: nobody's fault
        signed.verify(key, self._ledger.chain_id)
        self._hooks.transaction_seen(signed)
        return True

    def _check_author(self, topic: str, signed: SignedAnnouncement) -> bool:
        content = signed.announcement
        chain = self._ledger.chain
        if content.topic != topic:
            raise VerificationError("announcement was made for another topic")
        if content.era != chain.head.era:
            return False  # of before a recovery, or of one that my copy does not know
        subject = chain.state.subject(content.author)
        key = None if subject is None else subject.key(KeyPurpose.NODE)
        if subject is None or key is None:
            # Its author may be newer than my copy: parked, never rejected. Who relayed it could not
            # know better at a lower height, and would pay for what one member makes up.
            return content.height > chain.head.height
        signed.verify(key, self._ledger.chain_id)
        return subject.status is SubjectStatus.ACTIVE

    async def _take_transaction(self, message: GossipMessage) -> None:
        if not self._is_validator:
            return
        try:
            await self._ledger.submit(message.data, is_own=False)
        except PolicyError as error:
            logger.debug("gossiped transaction not taken: %s", error)
        else:
            self._hooks.mempool_changed()

    def _take_announcement(self, relayer: PeerKey, signed: SignedAnnouncement) -> None:
        content = signed.announcement
        chain = self._ledger.chain
        if content.height > chain.head.height:
            self._park(relayer, signed)
            self._hooks.head_heard(relayer, content.height)
        elif (falsehood := self._falsehood(content)) is not None:
            self._blame_author(signed, relayer, falsehood)
        elif content.manifest is not None:
            self._hooks.manifest_announced(content.manifest)

    def _park(self, relayer: PeerKey, signed: SignedAnnouncement) -> None:
        own = [key for key, (by, _) in self._parked.items() if by == relayer]
        if len(own) >= PARKED_PER_RELAYER_MAX:
            del self._parked[own[0]]
        self._parked[signed.signed.raw] = (relayer, signed)
        while len(self._parked) > PARKED_MAX:
            self._parked.pop(next(iter(self._parked)))

    def _falsehood(self, content: Announcement) -> str | None:
        """What my copy, if it reaches that height, shows to be wrong with an announcement."""
        if content.height > self._ledger.chain.head.height:
            return None
        if self._ledger.block_id_at(content.height) not in (None, content.block_id):
            return f"announces another block at height {content.height}"
        if content.manifest is None:
            return None
        if content.topic == self._heads:
            return "announces a manifest on a topic of no group"
        group = self._groups.get(content.topic)
        if group is None:
            return None  # this node left the group while the message was on its way
        record = self._ledger.chain.state.manifest(content.manifest, group)
        authorised_at = None if record is None else record.authorised_height
        if authorised_at is None or authorised_at > content.height:
            return f"announces manifest {content.manifest.hex()[:8]}, which is not authorised"
        return None

    def _blame_author(self, signed: SignedAnnouncement, relayer: PeerKey, falsehood: str) -> None:
        """Holds a false announcement against who signed it, connected or not."""
        self._hooks.falsehood_seen(signed)
        subject = self._ledger.chain.state.subject(signed.announcement.author)
        key = None if subject is None else subject.key(KeyPurpose.TRANSPORT)
        culprit = relayer if key is None else PeerKey(key.raw)
        self._registry.blame(culprit, Offence.FALSE_ANNOUNCEMENT, falsehood)

    def review(self) -> None:
        """Looks at own groups and parked announcements again; call from a commit listener."""
        if set(self._own_groups()) != set(self._groups.values()):
            self._moved.set()
            self._moved = trio.Event()
        height = self._ledger.chain.head.height
        ready = [
            key for key, (_, signed) in self._parked.items() if signed.announcement.height <= height
        ]
        for key in ready:
            relayer, signed = self._parked.pop(key)
            try:
                if self._check_author(signed.announcement.topic, signed):
                    self._take_announcement(relayer, signed)
            except SignatureError as error:
                logger.debug("parked announcement: %s", error)

    async def publish_transaction(self, raw: bytes) -> None:
        """Gossips a signed transaction."""
        await self._network.publish(self._transactions, raw)

    async def publish_head(self) -> None:
        """Gossips that my newest head is final."""
        await self._publish(self._heads, None)

    async def publish_manifest(self, manifest: ManifestId, group: str) -> None:
        """Gossips to a group that a manifest is authorised at my newest head."""
        await self._publish(group_topic(self._ledger.chain_id, group), manifest)

    async def _publish(self, topic: str, manifest: ManifestId | None) -> None:
        head = self._ledger.chain.head
        announcement = Announcement(
            era=head.era,
            author=self._did,
            topic=topic,
            manifest=manifest,
            height=head.height,
            block_id=head.block_id,
        )
        signed = sign_announcement(announcement, self._key, self._ledger.chain_id)
        await self._network.publish(topic, signed.signed.raw)
