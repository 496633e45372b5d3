"""The sealing service: gets rings from group peers, gives them to group peers, opens content keys.

A ring file counts only if the ledger names its signer a publisher who may propose for the group
(Z22). It is asked for as long as an authorised or proposed sealed manifest of an own group needs
it and this node cannot open it; peers are asked one after the other, newest version wins. What this
node cannot open it fetches, keeps and serves nevertheless.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import trio

from ledger.chain_blocks import CommitResult
from protocol.did import KeyPurpose
from protocol.digest import DidId, Digest, ManifestId, short
from protocol.errors import (
    EncodingError,
    PolicyError,
    RemoteProtocolError,
    SignatureError,
    StorageError,
    TransportError,
    VerificationError,
)
from protocol.keys import Signer
from protocol.manifest import Component, SignedManifest
from protocol.sealing import ContentKey
from protocol.sealing_messages import (
    RingAnswer,
    RingRequest,
    RingStatus,
    decode_ring_answer,
    decode_ring_request,
)
from protocol.sealing_ring import (
    SealingKeyStatement,
    SignedRing,
    SignedStatement,
    parse_ring,
    parse_statement,
    sign_statement,
)
from swarmd.authority import Authority
from swarmd.ledger_host import LedgerHost
from swarmd.net.address import PeerKey
from swarmd.net.network import Stream
from swarmd.peers import Offence, Peer, PeerClass, PeerRegistry
from swarmd.questions import Access, Denial, MemberSubject, PeerSubject
from swarmd.sealing_rings import RingShelf

logger = logging.getLogger(__name__)

LOOKED_THROUGH: Final = 256
"""Newest manifests whose rings are looked after."""
RETRY_S: Final = 60.0
"""Pause before all peers are asked again for a ring that is missing, seconds."""
RETRY_S_MAX: Final = 3600.0
"""The pause doubles up to this, seconds; a new peer or block shortens it."""
ASK_S: Final = 20.0
"""How long one peer may take to answer, seconds: a full ring on a thin link."""
REPEAT_S: Final = 60.0
"""A peer is given one ring file at most once in this time, seconds."""
GIVEN_MAX: Final = 1024
"""(peer, file) pairs remembered for that; the oldest is forgotten first."""
WANTED_MAX: Final = 256
"""Rings asked for at a time. Who may publish can name rings without end; one more than these makes
the one that was asked for in vain the longest be forgotten until the next start."""
REQUESTS_PER_STREAM: Final = 32
"""Requests that one stream may carry."""

OpenStream = Callable[[PeerKey], Awaitable[Stream]]
"""Opens a stream of the sealing protocol; raises TransportError."""


@dataclass(slots=True)
class _Wanted:
    """A ring that is asked for."""

    groups: tuple[str, ...]
    pause_s: float = RETRY_S
    due: float = 0.0


class SealingService:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        ledger: LedgerHost,
        authority: Authority,
        registry: PeerRegistry,
        shelf: RingShelf,
        own: tuple[DidId, Signer, bytes],
        own_groups: Callable[[], tuple[str, ...]],
        open_stream: OpenStream,
    ) -> None:
        """Wires the service.

        Args:
            ledger: own copy of the chain.
            authority: says who may make and read rings.
            registry: the peers.
            shelf: rings on disk.
            own: this node's DID, its node key, its public sealing key.
            own_groups: the groups it serves now.
            open_stream: reaches peers.
        """
        self._ledger = ledger
        self._authority = authority
        self._registry = registry
        self.shelf: Final = shelf
        """The rings."""
        self._own_did, self._node_key, self._sealing_key = own
        self._own_groups = own_groups
        self._open_stream = open_stream
        self._wanted: dict[Digest, _Wanted] = {}
        self._given: OrderedDict[tuple[PeerKey, Digest], float] = OrderedDict()
        self._changed = trio.Event()
        self._writing = trio.Lock()
        self._listeners: list[Callable[[], None]] = []

    # -- what others ask -----------------------------------------------------------------------

    def content_key(self, component: Component) -> ContentKey | None:
        """The key that opens a sealed component, or None."""
        return None if component.sealing is None else self.shelf.content_key(component.sealing.ring)

    def describe(self, component: Component) -> str | None:
        """`open` or `no key` for a sealed component, None for another one."""
        if component.sealing is None:
            return None
        return "no key" if self.content_key(component) is None else "open"

    def statement(self) -> bytes:
        """This node's sealing key statement, signed."""
        content = SealingKeyStatement(
            era=self._ledger.chain.head.era, did=self._own_did, key=self._sealing_key
        )
        return sign_statement(content, self._node_key, self._ledger.chain_id).signed.raw

    def listen(self, listener: Callable[[], None]) -> None:
        """Adds a listener for rings that came; it must not block."""
        self._listeners.append(listener)

    def verify_statement(self, raw: bytes, group: str) -> SignedStatement:
        """Checks a member's statement before something is wrapped to its key.

        Raises:
            EncodingError: malformed.
            SignatureError: not signed by the node key that the ledger has for it.
            PolicyError: no active member of the group, or of a later era.
        """
        signed = parse_statement(raw)
        did = signed.statement.did
        record = self._ledger.chain.state.subject(did)
        key = None if record is None else record.key(KeyPurpose.NODE)
        if record is None or key is None:
            raise PolicyError("sealing.member", f"the ledger knows no node {short(did)}")
        self._check_era(signed.statement.era)
        signed.verify(key, self._ledger.chain_id)
        answer = self._authority.ask(MemberSubject(did), Access.READ_RING, group)
        if isinstance(answer, Denial):
            raise answer.error()
        return signed

    def verify_ring(self, raw: bytes) -> SignedRing:
        """Checks a ring file against the newest final state (Z22).

        Raises:
            EncodingError: malformed.
            SignatureError: not signed by the publisher's key of the ledger.
            PolicyError: not by one who may publish for the group, or of a later era.
        """
        signed = parse_ring(raw)
        file = signed.file
        self._check_era(file.era)
        record = self._ledger.chain.state.subject(file.publisher)
        key = None if record is None else record.key(KeyPurpose.PERSON)
        if key is None:
            raise PolicyError("sealing.publisher", f"{short(file.publisher)} is no publisher")
        signed.verify(key, self._ledger.chain_id)
        answer = self._authority.ask(MemberSubject(file.publisher), Access.SEAL, file.group)
        if isinstance(answer, Denial):
            raise answer.error()
        return signed

    def _check_era(self, era: int) -> None:
        if era > self._ledger.chain.head.era:
            raise PolicyError("sealing.era", f"signed in era {era}, which has not begun here")

    async def take(self, raw: bytes) -> tuple[SignedRing, bool]:
        """Verifies a ring file and keeps it if it is newer than what is here.

        Returns:
            The file, and whether it was kept.

        Raises:
            EncodingError, SignatureError, PolicyError: as `verify_ring`; also if it is of none of
                this node's groups, or contradicts the one here.
            StorageError: it cannot be written.
        """
        signed = self.verify_ring(raw)
        is_own = signed.file.publisher == self._own_did
        if signed.file.group not in self._own_groups() and not is_own:
            raise PolicyError("sealing.group", f"this node does not serve {signed.file.group!r}")
        async with self._writing:
            is_new = await trio.to_thread.run_sync(self.shelf.put, signed)
        if is_new:
            file = signed.file
            logger.info("ring %s/%d version %d", file.group, file.generation, file.version)
            for listener in self._listeners:
                listener()
        return signed, is_new

    async def forget(self, ring: Digest) -> None:
        """Removes a ring; raises PolicyError or StorageError as `RingShelf.remove`."""
        async with self._writing:
            await trio.to_thread.run_sync(self.shelf.remove, ring)

    # -- asking --------------------------------------------------------------------------------

    def on_commit(self, result: CommitResult) -> None:
        """Looks at the manifests of a final block."""
        for change in result.manifests:
            self._look_at(change.manifest_id)

    def peer_connected(self) -> None:
        """Somebody new may have what is missing."""
        for wanted in self._wanted.values():
            wanted.due = 0.0
        self._changed.set()

    def _look_at(self, manifest: ManifestId) -> None:
        signed: SignedManifest | None = self._ledger.manifests.get(manifest)
        if signed is None:
            return
        groups = tuple(sorted(set(signed.manifest.groups) & set(self._own_groups())))
        if not groups:
            return
        for component in signed.manifest.components:
            sealing = component.sealing
            if sealing is not None and self.shelf.content_key(sealing.ring) is None:
                self._want(sealing.ring, groups)

    def _want(self, ring: Digest, groups: tuple[str, ...]) -> None:
        if ring not in self._wanted and len(self._wanted) >= WANTED_MAX:
            vain = max(self._wanted, key=lambda each: self._wanted[each].pause_s)
            del self._wanted[vain]
        self._wanted.setdefault(ring, _Wanted(groups))
        self._changed.set()

    async def run(self) -> None:
        """Asks for what is missing until cancelled."""
        for manifest in self._ledger.manifests.newest(LOOKED_THROUGH):
            self._look_at(manifest)
        while True:
            self._changed = trio.Event()
            now = trio.current_time()
            for ring, wanted in tuple(self._wanted.items()):
                if self.shelf.content_key(ring) is not None:
                    self._wanted.pop(ring, None)
                elif wanted.due <= now:
                    await self._ask_all(ring, wanted.groups)
                    wanted.due = trio.current_time() + wanted.pause_s
                    wanted.pause_s = min(2 * wanted.pause_s, RETRY_S_MAX)
            due = min((wanted.due for wanted in self._wanted.values()), default=None)
            with trio.move_on_at(math.inf if due is None else due):
                await self._changed.wait()

    async def _ask_all(self, ring: Digest, groups: tuple[str, ...]) -> None:
        for peer in self._registry.at_least(PeerClass.MEMBER):
            if self.shelf.content_key(ring) is not None:
                return
            if any(self._may_read(peer.key, group) for group in groups):
                await self._ask_for(peer, ring)

    async def _ask_for(self, peer: Peer, ring: Digest) -> None:
        held = self.shelf.get(ring)
        version = 0 if held is None else held.file.version
        answer = await self._ask(peer.key, RingRequest(ring=ring, version=version))
        if answer is None or answer.status is not RingStatus.RING:
            return
        try:
            signed = parse_ring(answer.content)
            if signed.file.ring(self._ledger.chain_id) != ring:
                raise EncodingError("another ring than the one asked for")
            await self.take(answer.content)
        except EncodingError as error:
            self._registry.blame(peer.key, Offence.MALFORMED, str(error))
        except (SignatureError, PolicyError) as error:
            # It may be right by a newer or an older ledger than mine: no offence.
            logger.info("ring %s from %s is not taken: %s", short(ring), peer.name, error)
        except StorageError as error:
            logger.warning("ring %s is not kept: %s", short(ring), error)

    async def ask_statement(self, peer: Peer, group: str) -> bytes | None:
        """A connected member's sealing key statement, verified, or None."""
        answer = await self._ask(peer.key, RingRequest(ring=None))
        if answer is None or answer.status is not RingStatus.KEY:
            return None
        try:
            signed = self.verify_statement(answer.content, group)
        except (VerificationError, PolicyError) as error:
            logger.info("sealing key of %s is not taken: %s", peer.name, error)
            return None
        return answer.content if signed.statement.did == peer.did else None

    async def _ask(self, peer: PeerKey, request: RingRequest) -> RingAnswer | None:
        raw: bytes | None = None
        try:
            with trio.move_on_after(ASK_S):
                stream = await self._open_stream(peer)
                async with stream:
                    await stream.send_frame(request.encode())
                    raw = await stream.receive_frame()
            return None if raw is None else decode_ring_answer(raw)
        except TransportError:
            return None
        except (RemoteProtocolError, VerificationError) as error:
            self._registry.blame(peer, Offence.MALFORMED, f"sealing: {error}")
            return None

    # -- answering -----------------------------------------------------------------------------

    async def answer(self, stream: Stream) -> None:
        """Serves one inbound stream.

        Raises:
            RemoteProtocolError: the peer broke the protocol.
            TransportError: the stream broke.
        """
        for _ in range(REQUESTS_PER_STREAM):
            raw = await stream.receive_frame()
            if raw is None:
                return
            try:
                request = decode_ring_request(raw)
            except EncodingError as error:
                raise RemoteProtocolError(str(error)) from error
            await stream.send_frame(self._reply(stream.peer, request).encode())

    def _reply(self, peer: PeerKey, request: RingRequest) -> RingAnswer:
        if request.ring is None:
            known = self._registry.get(peer)
            shared = () if known is None else known.groups
            if any(self._may_read(peer, group) for group in set(shared) & set(self._own_groups())):
                return RingAnswer(status=RingStatus.KEY, content=self.statement())
            return RingAnswer(status=RingStatus.UNKNOWN)
        held = self.shelf.get(request.ring)
        if held is None or not self._may_read(peer, held.file.group):
            return RingAnswer(status=RingStatus.UNKNOWN)
        if request.version >= held.file.version:
            return RingAnswer(status=RingStatus.CURRENT)
        if not self._spend(peer, held.digest):
            return RingAnswer(status=RingStatus.UNKNOWN)
        return RingAnswer(status=RingStatus.RING, content=held.signed.raw)

    def _may_read(self, peer: PeerKey, group: str) -> bool:
        answer = self._authority.ask(PeerSubject(peer), Access.READ_RING, group)
        return not isinstance(answer, Denial)

    def _spend(self, peer: PeerKey, file: Digest) -> bool:
        """Whether a peer may be given a ring file now: a full one is worth a megabyte."""
        now = trio.current_time()
        before = self._given.get((peer, file))
        if before is not None and now - before < REPEAT_S:
            return False
        self._given[peer, file] = now
        self._given.move_to_end((peer, file))
        while len(self._given) > GIVEN_MAX:
            self._given.popitem(last=False)
        return True
