"""The ledger stream, both sides: heads, blocks, submission and freshness.

Answering side: everybody who is at least a reader may ask; each request has one answer, and a
refusal names its rule. Asking side: `ask` for one request, `catch_up` to follow a peer to its
head. A block that the validators certified although the rules forbid it raises the node's alarm
and changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

import trio

from ledger.block import decode_block
from ledger.certificate import decode_certificate
from ledger.chain_blocks import CommitResult
from ledger.errors import BlockNotReadyError, ForkAlarmError
from ledger.state_range import StatePage
from protocol.catchup import (
    BLOCKS_BYTES_MAX,
    BLOCKS_MAX,
    LEDGER_FRAME_BYTES_MAX,
    BlocksAnswer,
    BlocksRequest,
    CosignRequest,
    FreshnessAnswer,
    FreshnessRequest,
    HeadAnswer,
    HeadRequest,
    LedgerMessage,
    decode_ledger_message,
    encode_ledger_message,
)
from protocol.digest import TransactionId, sha256
from protocol.errors import (
    NotYetError,
    PolicyError,
    RemoteProtocolError,
    StorageError,
    TransportError,
    VerificationError,
)
from protocol.state_messages import (
    HeaderAnswer,
    HeaderRequest,
    ManifestsAnswer,
    ManifestsRequest,
    StateHeadRequest,
    StatePageAnswer,
    StatePageRequest,
)
from protocol.submit_messages import (
    Refusal,
    SubmitAnswer,
    SubmitBatchAnswer,
    SubmitBatchRequest,
    SubmitRequest,
    batches,
)
from protocol.version import ProtocolName, protocol_id
from swarmd.freshness import FreshnessRound
from swarmd.judgement_line import Outcome
from swarmd.ledger_host import LedgerHost
from swarmd.net.address import PeerKey
from swarmd.net.network import Network, Stream
from swarmd.peers import Offence, PeerClass, PeerRegistry
from swarmd.services.cosigning import CosigningService
from swarmd.services.freshness import FreshnessService, Statement
from swarmd.services.ledger_streams import IDLE_S, LedgerStreams
from swarmd.services.refusal_budget import RefusalBudget

logger = logging.getLogger(__name__)

ANSWER_S_MAX: Final = 15.0
"""Longest wait for an answer: 512 KiB at 300 kbit/s, seconds."""
ANSWERING_S_MAX: Final = 300.0
"""Longest that one answer may take to be made and taken, seconds."""
REQUESTS_PER_STREAM_MAX: Final = 1024
"""A stream that asks more often than this is closed; its peer opens another."""
SHORT_BLOCKS: Final = 8
"""Fewer blocks than these, in fewer bytes than `SHORT_BYTES`, are all that a peer had, unless an
epoch ends there."""
SHORT_BYTES: Final = BLOCKS_BYTES_MAX // 2
"""An answer is full before this only if it has many blocks: the largest is half as long."""
CATCH_UP_S_MAX: Final = 60.0
"""Longest catching up with one peer before another gets its turn: one that sends a block now and
then must not keep this node from those that have more, seconds."""
FORM_RULES: Final = ("tx.malformed", "tx.body", "tx.signature")
"""Refusals that no older copy of the ledger excuses; the others may have lost a race."""
PRUNED_RULE: Final = "blocks.pruned"
"""Refusal of blocks whose bodies this node dropped."""
LARGE_RULE: Final = "blocks.large"
"""Refusal of blocks that became final with so many others that no answer holds them."""
KNOWN_RULES: Final = ("mempool.known", "tx.final")
"""Refusals that mean: it is here already; good news to whoever hands it over again."""


class LedgerService:
    """Answers and asks on the ledger protocol."""

    def __init__(
        self,
        *,
        network: Network,
        ledger: LedgerHost,
        registry: PeerRegistry,
        freshness: FreshnessService,
        on_pending: Callable[[], None],
        cosigning: CosigningService | None = None,
    ) -> None:
        """Wires the service; it is passive until `answer` or `ask` is called.

        Args:
            network: to open streams.
            ledger: own copy of the chain.
            registry: classes and scores of peers.
            freshness: signs or relays nonces.
            on_pending: told when the mempool took a transaction.
            cosigning: cosigns the log; None: this node does not.
        """
        self._on_pending = on_pending
        self._ledger = ledger
        self._registry = registry
        self._freshness = freshness
        self._cosigning = cosigning
        self._catching_up = trio.Lock()
        self._refusals = RefusalBudget()
        self._relaying: dict[PeerKey, None] = {}
        self._page_limiter = trio.CapacityLimiter(1)
        self.protocol: Final = protocol_id(ledger.chain_id, ProtocolName.LEDGER)
        self._streams = LedgerStreams(network, self.protocol, STREAM_BYTES_MAX)

    def peer_disconnected(self, peer: PeerKey) -> None:
        """A connection ended; streams kept for questions went with it."""
        self._streams.forget(peer)

    async def answer(self, stream: Stream) -> None:
        """Handles an inbound ledger stream until the peer closes it."""
        try:
            for _ in range(REQUESTS_PER_STREAM_MAX):
                frame: bytes | None = None
                with trio.move_on_after(IDLE_S):
                    frame = await stream.receive_frame()
                if frame is None:
                    break
                with trio.fail_after(ANSWERING_S_MAX):
                    reply = await self._reply(stream.peer, decode_ledger_message(frame))
                    await stream.send_frame(encode_ledger_message(reply))
        except trio.TooSlowError as error:
            raise TransportError(f"an answer took longer than {ANSWERING_S_MAX} s") from error
        except (VerificationError, RemoteProtocolError) as error:
            self._registry.blame(stream.peer, Offence.MALFORMED, f"ledger request: {error}")
            await stream.reset()

    async def _reply(self, peer: PeerKey, request: LedgerMessage) -> LedgerMessage:
        chain = self._ledger.chain
        match request:
            case HeadRequest():
                tip = chain.tip
                certificate = tip.certificate
                return HeadAnswer(
                    header=tip.header.encode(),
                    certificate=b"" if certificate is None else certificate.encode(),
                )
            case BlocksRequest():
                return await self._ledger.serve(peer, lambda: self._blocks(request.from_height))
            case StateHeadRequest():
                return await self._ledger.serve(peer, lambda: chain.state_head(request.epoch))
            case StatePageRequest():
                return await self._state_page(request)
            case ManifestsRequest():
                wanted = request.manifests
                found = await self._ledger.serve(peer, lambda: chain.manifests(wanted))
                return ManifestsAnswer(manifests=found)
            case HeaderRequest():
                header = await self._ledger.serve(peer, lambda: chain.header_at(request.height))
                return HeaderAnswer(header=b"" if header is None else header.encode())
            case SubmitRequest() | SubmitBatchRequest():
                return await self._accept(peer, request)
            case FreshnessRequest():
                return await self._answer_freshness(peer, request)
            case CosignRequest() if self._cosigning is not None:
                return await self._cosigning.answer(request)
            case _:
                raise RemoteProtocolError(f"{type(request).__name__} is no request")

    async def _state_page(self, request: StatePageRequest) -> LedgerMessage:
        """One page at a time for all peers together, beside whatever the chain does."""

        def read() -> StatePage | None:
            return self._ledger.chain.state_page(request.height, request.start)

        try:
            page = await trio.to_thread.run_sync(read, limiter=self._page_limiter)
        except StorageError as error:
            logger.info("a page of state %d: %s", request.height, error)
            page = None
        if page is None:
            return Refusal(
                rule="state.gone", message=f"version {request.height} is not kept", may_retry=False
            )
        return StatePageAnswer(page=page.encode())

    def _blocks(self, from_height: int) -> BlocksAnswer | Refusal:
        chain = self._ledger.chain
        if from_height <= chain.head.height and from_height < chain.first_block:
            return Refusal(
                rule=PRUNED_RULE,
                message=f"blocks from {chain.first_block} on are kept",
                may_retry=False,
            )
        blocks, certificate = self._ledger.chain.blocks(from_height, BLOCKS_BYTES_MAX)
        if certificate is None:
            return BlocksAnswer(blocks=(), certificate=b"")
        if len(blocks) > BLOCKS_MAX or sum(map(len, blocks)) > BLOCKS_BYTES_MAX:
            return Refusal(
                rule=LARGE_RULE,
                message=f"blocks from {from_height} to a certificate fit no answer",
                may_retry=False,
            )
        return BlocksAnswer(blocks=blocks, certificate=certificate.encode())

    async def _accept(
        self, peer: PeerKey, request: SubmitRequest | SubmitBatchRequest
    ) -> LedgerMessage:
        if self._registry.peer_class(peer) < PeerClass.MEMBER:
            return Refusal(rule="peer.reader", message="only members submit", may_retry=False)
        if isinstance(request, SubmitBatchRequest):
            return SubmitBatchAnswer(refusals=await self._accept_all(peer, request.transactions))
        raw = request.transaction
        (refusal,) = await self._accept_all(peer, (raw,))
        return refusal or SubmitAnswer(transaction_id=TransactionId(sha256(raw)))

    async def _accept_all(self, peer: PeerKey, raws: Sequence[bytes]) -> tuple[Refusal | None, ...]:
        outcomes = await self._ledger.submit_all(raws, is_own=False)
        if any(isinstance(outcome, bytes) for outcome in outcomes):
            self._on_pending()
        return tuple(self._refusal(peer, outcome) for outcome in outcomes)

    def _refusal(self, peer: PeerKey, outcome: Outcome) -> Refusal | None:
        """What to answer; a refusal that is nobody's bad luck is held against the peer."""
        if isinstance(outcome, bytes):
            return None
        if isinstance(outcome, StorageError):
            raise outcome
        may_retry = isinstance(outcome, NotYetError)
        if not may_retry:
            if outcome.rule in KNOWN_RULES:
                return None
            is_malformed = outcome.rule in FORM_RULES
            if is_malformed or not self._refusals.spend(peer, trio.current_time()):
                self._registry.blame(peer, Offence.REFUSED_TRANSACTION, str(outcome))
        return Refusal(rule=outcome.rule, message=str(outcome)[:500], may_retry=may_retry)

    async def _answer_freshness(self, peer: PeerKey, request: FreshnessRequest) -> LedgerMessage:
        statements = await self._freshness.own_statements(request.nonce)
        may_relay = self._registry.peer_class(peer) >= PeerClass.MEMBER
        if request.relay and may_relay and peer not in self._relaying:
            self._relaying[peer] = None  # one at a time: each costs a question to every validator
            try:
                statements += await self._relay_freshness(peer, request.nonce)
            finally:
                del self._relaying[peer]
        return FreshnessAnswer(statements=statements[: len(self._ledger.chain.validators.members)])

    async def _relay_freshness(self, asker: PeerKey, nonce: bytes) -> tuple[Statement, ...]:
        """Passes a nonce to the validators this node knows, once, and collects what comes back."""
        collected: list[Statement] = []

        async def ask_one(validator: PeerKey) -> None:
            request = FreshnessRequest(nonce=nonce, relay=False)
            try:
                answer = await self.ask(validator, request)
                if isinstance(answer, FreshnessAnswer) and answer.statements:
                    # Checked here: who passes on a forgery answers for it.
                    own = FreshnessAnswer(statements=answer.statements[:1])
                    question = FreshnessRound(nonce, 0.0, self._freshness.validator_keys)
                    question.add(own, self._ledger.chain_id)
                    collected.extend(own.statements)
            except (TransportError, PolicyError, RemoteProtocolError) as error:
                logger.debug("freshness relay: %s", error)
            except VerificationError as error:
                self._registry.blame(validator, Offence.FORGED, f"freshness: {error}")

        with trio.move_on_after(ANSWER_S_MAX / 2):
            async with trio.open_nursery() as nursery:
                for validator in self._registry.at_least(PeerClass.VALIDATOR):
                    if validator.key != asker:
                        nursery.start_soon(ask_one, validator.key)
        return tuple(collected)

    async def ask(self, peer: PeerKey, request: LedgerMessage) -> LedgerMessage:
        """Sends one request and returns its answer.

        Raises:
            TransportError: no connection, or no answer in time.
            PolicyError: the peer refused; `NotYetError` when waiting may help.
            VerificationError: the answer is malformed.
        """
        with trio.move_on_after(ANSWER_S_MAX):
            frame = await self._streams.ask(peer, encode_ledger_message(request))
            if frame is None:
                raise TransportError(f"peer {peer[:4].hex()} closed the stream without an answer")
            answer = decode_ledger_message(frame)
            if isinstance(answer, Refusal):
                error = NotYetError if answer.may_retry else PolicyError
                raise error(answer.rule, answer.message)
            return answer
        raise TransportError(f"peer {peer[:4].hex()} did not answer in {ANSWER_S_MAX} s")

    async def catch_up(self, peer: PeerKey, told: int = 0) -> None:
        """Follows a peer to its head, batch by batch; one peer at a time, for a while.

        After a short answer that reaches the told height nothing more is asked: what became final
        in the moment between is told again, or found in the next round.

        Args:
            peer: whom to follow.
            told: the height it told; 0: none.

        Raises:
            TransportError: the connection failed on the way; what was adopted stays.
            NotYetError: `anchor.checkpoint`: the next blocks rest on old keys alone (G12).
        """
        ends_at = trio.current_time() + CATCH_UP_S_MAX
        async with self._catching_up:
            while self._ledger.alarm is None and trio.current_time() < ends_at:
                self._ledger.trust.require(self._ledger.chain.validators.epoch)
                start = self._ledger.chain.head.height + 1
                answer = await self.ask(peer, BlocksRequest(from_height=start))
                if not isinstance(answer, BlocksAnswer):
                    self._registry.blame(peer, Offence.MALFORMED, "not an answer to blocks")
                    return
                if not answer.blocks or not await self._adopt(peer, answer):
                    return
                if self._is_reached(told) and _is_short(answer):
                    return

    def _is_reached(self, told: int) -> bool:
        """Whether this copy is as high as a peer told, with more blocks of its epoch to come."""
        head = self._ledger.chain.head
        return head.height >= told and not head.closes_epoch

    async def _adopt(self, peer: PeerKey, answer: BlocksAnswer) -> bool:
        """Takes over a batch; returns whether asking for more makes sense."""
        chain = self._ledger.chain

        def follow() -> tuple[CommitResult, ...]:
            blocks = tuple(decode_block(raw) for raw in answer.blocks)
            if blocks[0].header.era != chain.rules.era:
                return ()  # a recovery that one of us has not adopted is no offence (G27)
            return chain.follow(blocks, decode_certificate(answer.certificate))

        try:
            return bool(await self._ledger.run_commit(follow))
        except ForkAlarmError as error:
            self._ledger.raise_alarm(error)
        except (VerificationError, BlockNotReadyError) as error:
            self._registry.blame(peer, Offence.FORGED, f"blocks: {error}")
        return False

    async def offer_to_validators(self, raws: Sequence[bytes]) -> None:
        """Hands transactions to every connected validator; failures are the resender's matter."""
        async with trio.open_nursery() as nursery:
            for validator in self._registry.at_least(PeerClass.VALIDATOR):
                nursery.start_soon(self._offer, validator.key, raws)

    async def _offer(self, validator: PeerKey, raws: Sequence[bytes]) -> None:
        for batch in batches(raws):
            try:
                answer = await self.ask(validator, SubmitBatchRequest(transactions=batch))
            except (TransportError, PolicyError, VerificationError, RemoteProtocolError) as error:
                logger.debug("%d transactions not handed over: %s", len(batch), error)
                return
            if not isinstance(answer, SubmitBatchAnswer) or len(answer.refusals) != len(batch):
                self._registry.blame(validator, Offence.MALFORMED, "not an answer to the batch")
                return
            for raw, refusal in zip(batch, answer.refusals, strict=True):
                if refusal is not None:
                    logger.info("transaction %s: %s", sha256(raw).hex()[:8], refusal.message)


STREAM_BYTES_MAX: Final = LEDGER_FRAME_BYTES_MAX
"""Frame bound to register the protocol with."""


def _is_short(answer: BlocksAnswer) -> bool:
    """Whether an answer held so little that its peer had no more."""
    return len(answer.blocks) < SHORT_BLOCKS and sum(map(len, answer.blocks)) < SHORT_BYTES
