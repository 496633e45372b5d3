"""Validators' cosignatures of the log's head: given to whoever asks, and gathered from others.

A validator cosigns what its own final headers say, each with the time of that header. So a
cosignature follows from the header and the key alone: asked again it is the same, a copy that was
restored from a backup contradicts nothing it signed, and no asker chooses a byte of what is signed
but the height. Only the newest heights are answered, from a cache. Rules: docs/spec/tlog.md, T13
to T16.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from ledger.header import Header
from protocol.catchup import CosignAnswer, CosignRequest, LedgerMessage
from protocol.errors import (
    NotYetError,
    PolicyError,
    RemoteProtocolError,
    SignatureError,
    StorageError,
    TransportError,
    VerificationError,
)
from protocol.keys import PrivateKey
from protocol.submit_messages import Refusal
from protocol.tlog import (
    Checkpoint,
    NoteKey,
    NoteSignature,
    SignatureType,
    cosign,
    validator_name,
)
from swarmd.export.tiles import checkpoint_of
from swarmd.ledger_host import LedgerHost
from swarmd.net.address import PeerKey
from swarmd.peers import PeerClass, PeerRegistry

logger = logging.getLogger(__name__)

HEIGHTS_BACK: Final = 64
"""How far below its head a validator cosigns: a minute of a busy chain."""
GATHER_S: Final = 5.0
"""Longest gathering; what is there by then counts, seconds."""
RETRY_S: Final = 0.5
"""Pause before a validator that is not that far is asked again, seconds."""
Ask = Callable[[PeerKey, LedgerMessage], Awaitable[LedgerMessage]]
Seat = Callable[[], tuple[PrivateKey, int] | None]


class CosigningService:
    """Both sides of cosigning."""

    def __init__(self, *, ledger: LedgerHost, registry: PeerRegistry, seat: Seat) -> None:
        """Wires the service.

        Args:
            ledger: own copy of the chain.
            registry: who is a validator.
            seat: the current epoch's vote key and index; None: this node cosigns nothing.
        """
        self._ledger = ledger
        self._registry = registry
        self._seat = seat
        self._kept: dict[tuple[int, bytes], CosignAnswer] = {}

    async def answer(self, request: CosignRequest) -> CosignAnswer | Refusal:
        """Cosigns the log as it was after one of this validator's newest final blocks."""
        seat, chain = self._seat(), self._ledger.chain
        if seat is None or self._ledger.alarm is not None:
            return Refusal(rule="cosign.none", message="this node cosigns nothing", may_retry=False)
        newest = chain.head.height
        if request.height > newest:
            return Refusal(rule="cosign.behind", message=f"this is height {newest}", may_retry=True)
        header = chain.head if request.height == newest else None
        if header is None and request.height > newest - HEIGHTS_BACK:
            try:
                header = await self._ledger.run(lambda: chain.header_at(request.height))
            except StorageError as error:
                logger.warning("header %d: %s", request.height, error)
        if header is None or header.epoch != chain.validators.epoch:
            return Refusal(
                rule="cosign.old", message="not among the newest heights", may_retry=False
            )
        return self._cosigned(header, *seat)

    def _cosigned(self, header: Header, key: PrivateKey, index: int) -> CosignAnswer:
        """The cosignature that belongs to a final header; made once."""
        name = (header.height, key.public.raw)
        known = self._kept.get(name)
        if known is None:
            did = self._ledger.chain.validators.members[index].did
            checkpoint = checkpoint_of(header)
            line = cosign(
                checkpoint,
                validator_name(checkpoint.origin, did),
                key,
                time_s=header.time_ms // 1000,
            )
            known = CosignAnswer(did=did, cosignature=line.signature)
            if len(self._kept) >= HEIGHTS_BACK:
                del self._kept[next(iter(self._kept))]
            self._kept[name] = known
        return known

    async def gather(self, header: Header, ask: Ask) -> tuple[NoteSignature, ...]:
        """Asks the connected validators, and this node itself, to cosign a final header's log.

        Args:
            header: newest final header of this node.
            ask: sends one request on the ledger stream.

        Returns:
            Valid lines of distinct members of the current set, in the order of their seats; at most
            one each. What liars answered is passed over.
        """
        checkpoint, request = checkpoint_of(header), CosignRequest(height=header.height)
        found: dict[int, NoteSignature] = {}

        def take(answer: LedgerMessage) -> None:
            if isinstance(answer, CosignAnswer):
                index, line = self._verified(answer, checkpoint)
                found.setdefault(index, line)

        async def ask_one(peer: PeerKey) -> None:
            while True:
                try:
                    take(await ask(peer, request))
                except NotYetError:
                    await trio.sleep(RETRY_S)
                    continue
                except (TransportError, PolicyError, RemoteProtocolError) as error:
                    logger.debug("no cosignature from %s: %s", peer[:4].hex(), error)
                except VerificationError as error:
                    logger.warning("a false cosignature from %s: %s", peer[:4].hex(), error)
                return

        with trio.move_on_after(GATHER_S):
            take(await self.answer(request))
            async with trio.open_nursery() as nursery:
                for peer in self._registry.at_least(PeerClass.VALIDATOR):
                    nursery.start_soon(ask_one, peer.key)
        return tuple(found[index] for index in sorted(found))

    def _verified(self, answer: CosignAnswer, checkpoint: Checkpoint) -> tuple[int, NoteSignature]:
        """The member that cosigned and its line.

        Raises:
            SignatureError: it is no cosignature of this checkpoint by a member of the set.
        """
        validators = self._ledger.chain.validators
        index = validators.seat_of(answer.did)
        member = None if index is None else validators.key_of(index)
        if index is None or member is None:
            raise SignatureError(f"{answer.did[:4].hex()} holds no seat")
        name = validator_name(checkpoint.origin, answer.did)
        key = NoteKey(name=name, kind=SignatureType.COSIGNATURE, key=member)
        key.verify(answer.cosignature, checkpoint.encode())
        return index, NoteSignature(name, key.key_id, answer.cosignature)
