"""The freshness service: validators sign nonces, everybody else asks and keeps its age.

Validators answer at once and batch what arrives together, so that a thousand gateways cost a
signature or two. Askers draw a nonce, send it to every validator they know and, when those are not
f+1, through members; a member passes it on once.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from protocol.catchup import (
    NONCE_BYTES,
    Freshness,
    FreshnessAnswer,
    FreshnessRequest,
    LedgerMessage,
    sign_freshness,
)
from protocol.digest import Digest
from protocol.errors import (
    PolicyError,
    RemoteProtocolError,
    StorageError,
    TransportError,
    VerificationError,
)
from protocol.keys import PrivateKey
from protocol.merkle import inclusion_proof, leaf_hash, merkle_root
from swarmd.clock import Clock
from swarmd.entropy import Entropy
from swarmd.freshness import (
    SAVE_INTERVAL_S,
    FreshnessClock,
    FreshnessRound,
    Head,
    ValidatorKeys,
    ask_interval_s,
)
from swarmd.ledger_host import LedgerHost
from swarmd.net.address import PeerKey
from swarmd.peers import Offence, PeerClass, PeerRegistry

logger = logging.getLogger(__name__)

LAG_HEARTBEATS: Final = 3
"""A chain that made no block for so many heartbeats stands still."""
LAG_MS: Final = 60_000
"""Error of a validator's clock on top of that, milliseconds; header times have the same bound."""
Statement = tuple[bytes, int, tuple[Digest, ...], int]
"""(signed statement, index of the nonce, siblings, batch size)."""
Ask = Callable[[PeerKey, LedgerMessage], Awaitable[LedgerMessage]]
Seat = Callable[[], tuple[PrivateKey, int] | None]
"""Tells the current epoch's vote key and index; None: no seat."""
BATCH_MAX: Final = 1024
"""Nonces under one signature."""
MEMBERS_ASKED_MAX: Final = 3
"""Members through which a nonce is relayed in one round."""
RETRY_S: Final = 1.0
"""Wait after a round that did not confirm, seconds; doubles up to the ask interval."""
ADVANCE_S: Final = 5.0
"""How long a round waits for my copy to reach the height that answers name, up to three times,
seconds."""


class _Batch:
    """Nonces that wait for one signature."""

    def __init__(self) -> None:
        self.nonces: list[bytes] = []
        self.statements: dict[bytes, Statement] = {}
        self.signed = trio.Event()


class NonceSigner:
    """Signs all nonces of one event-loop turn together."""

    def __init__(self, ledger: LedgerHost, seat: Seat, clock: Clock) -> None:
        """`seat` tells the vote key and index of the current epoch."""
        self._ledger = ledger
        self._seat = seat
        self._clock = clock
        self._open: _Batch | None = None

    async def statement(self, nonce: bytes) -> Statement | None:
        """Signs a nonce with those that arrive in the same moment; None: too many, or no seat."""
        batch = self._open
        if batch is not None:
            if len(batch.nonces) >= BATCH_MAX:
                return None
            batch.nonces.append(nonce)
            await batch.signed.wait()
            return batch.statements.get(nonce)
        batch = self._open = _Batch()
        batch.nonces.append(nonce)
        with trio.CancelScope(shield=True):  # others wait for this signature
            await trio.lowlevel.checkpoint()
        self._open = None
        self._sign(batch)
        batch.signed.set()
        return batch.statements.get(nonce)

    def _sign(self, batch: _Batch) -> None:
        seat = self._seat()
        if seat is None:
            return
        key, index = seat
        leaves = [leaf_hash(nonce) for nonce in batch.nonces]
        chain = self._ledger.chain
        head = chain.head
        signed = sign_freshness(
            Freshness(
                era=head.era,
                validator=index,
                epoch=chain.validators.epoch,
                height=head.height,
                block_id=head.block_id,
                nonces=merkle_root(leaves),
                time_ms=self._clock.wall_ms(),
            ),
            key,
            self._ledger.chain_id,
        )
        for position, nonce in enumerate(batch.nonces):
            proof = inclusion_proof(leaves, position)
            batch.statements[nonce] = (signed.signed.raw, position, proof, len(leaves))


class FreshnessService:
    """Keeps this node's age, and answers for a validator."""

    def __init__(
        self,
        *,
        ledger: LedgerHost,
        registry: PeerRegistry,
        clock: Clock,
        entropy: Entropy,
        age: FreshnessClock,
        save: Callable[[bytes], Awaitable[None]],
        validator: Seat | None,
        may_vouch: Callable[[], bool] = lambda: True,
        on_confirmed: Callable[[], None] = lambda: None,
        on_ahead: Callable[[PeerKey, int], None] = lambda _peer, _height: None,
    ) -> None:
        """Wires the service.

        Args:
            ledger: own copy of the chain.
            registry: whom to ask.
            clock: monotonic seconds and the wall clock.
            entropy: source of nonces.
            age: the age, restored from before the restart.
            save: stores the age durably.
            validator: tells vote key and index, where this node may be a validator.
            may_vouch: whether a validator knows where the others stand: one that came back with an
                old copy, and could not ask yet, would make those fresh who know no more.
            on_confirmed: told when the copy was found current after a time in which it was not
                known to be; must not block.
            on_ahead: told the peer through which a validator stated a height beyond this copy, and
                the height (P105); must not block.
        """
        self._on_ahead = on_ahead
        self._may_vouch = may_vouch
        self._on_confirmed = on_confirmed
        self._current_until = -1.0
        self._has_news = trio.Event()
        self._ledger = ledger
        self._registry = registry
        self._clock = clock
        self._entropy = entropy
        self.age: Final = age
        self._save = save
        self._signer = None if validator is None else NonceSigner(ledger, validator, clock)
        self._wake = trio.Event()

    async def own_statements(self, nonce: bytes) -> tuple[Statement, ...]:
        """This node's statement about a nonce, if it is a validator."""
        if self._signer is None or self._ledger.alarm is not None or not self._may_vouch():
            return ()
        statement = await self._signer.statement(nonce)
        return () if statement is None else (statement,)

    @property
    def validator_keys(self) -> ValidatorKeys:
        """Whose statements count, by my copy of the ledger."""
        validators = self._ledger.chain.validators
        return ValidatorKeys(
            epoch=validators.epoch,
            keys=tuple(member.key for member in validators.members),
            fault_limit=validators.fault_limit,
            era=self._ledger.chain.rules.era,
        )

    @property
    def is_current(self) -> bool:
        """Whether this run found its copy current, two ask intervals ago at most."""
        return self._clock.monotonic() <= self._current_until

    def hurry(self) -> None:
        """Asks again soon if knowledge is old: a peer arrived that may know more."""
        if not self.is_current:
            self._wake.set()

    async def run(self, ask: Ask) -> None:
        """Asks at its interval and saves the age, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_asking, ask)
            nursery.start_soon(self._keep_saving)

    async def _keep_asking(self, ask: Ask) -> None:
        retry_s = RETRY_S
        while True:
            interval_s = ask_interval_s(self._offer_limits())
            if await self._ask_round(ask):
                self._note_confirmed(interval_s)
                wait_s, retry_s = interval_s, RETRY_S
            else:
                wait_s, retry_s = min(retry_s, interval_s), min(retry_s * 2, interval_s)
                if wait_s == interval_s:
                    logger.warning("knowledge of the chain could not be confirmed as current")
            with trio.move_on_after(wait_s):
                await self._wake.wait()
            if self._wake.is_set():
                self._wake, retry_s = trio.Event(), RETRY_S

    def _note_confirmed(self, interval_s: float) -> None:
        was_current = self.is_current
        self._current_until = self._clock.monotonic() + 2 * interval_s
        if not was_current:
            self._has_news.set()  # what took long to learn is worth a write
            self._on_confirmed()

    def _offer_limits(self) -> tuple[int, ...]:
        return tuple(policy.offer_freshness_ms for policy in self._ledger.policies())

    async def _ask_round(self, ask: Ask) -> bool:
        chain, keys = self._ledger.chain, self.validator_keys
        question = FreshnessRound(self._entropy.token(NONCE_BYTES), self._clock.monotonic(), keys)
        own = await self.own_statements(question.nonce)
        if own:
            question.add(FreshnessAnswer(statements=own), self._ledger.chain_id)
        await self._ask_all(ask, question, PeerClass.VALIDATOR)
        if question.answer_count <= keys.fault_limit:
            await self._ask_all(ask, question, PeerClass.MEMBER)
        for _ in range(3):
            if self._is_confirmed(question):
                self.age.confirm(question.asked_at)
                return True
            if question.highest <= chain.head.height:
                break
            with trio.move_on_after(ADVANCE_S):
                await self._ledger.wait_advanced()
        return False

    def confirm_round(self, question: FreshnessRound) -> bool:
        """Takes a round that was asked by other means than peers, such as an offline bundle.

        The age counts from when its nonce was drawn, whatever way the answers took.
        """
        if not self._is_confirmed(question):
            return False
        self.age.confirm(question.asked_at)
        self._has_news.set()
        self._on_confirmed()
        return True

    def _is_confirmed(self, question: FreshnessRound) -> bool:
        if self._ledger.alarm is not None:
            return False  # who certified what the rules forbid cannot vouch for my copy
        head = self._ledger.chain.head
        chain_heartbeat_ms = self._ledger.chain.rules.parameters.heartbeat_ms
        own = Head(
            era=head.era,
            epoch=head.epoch,
            height=head.height,
            block_id=head.block_id,
            time_ms=head.time_ms,
        )
        lag_ms_max = LAG_HEARTBEATS * chain_heartbeat_ms + LAG_MS
        return question.is_confirmed(own, self._ledger.block_id_at, lag_ms_max)

    async def _ask_all(self, ask: Ask, question: FreshnessRound, least: PeerClass) -> None:
        relay = least is PeerClass.MEMBER
        peers = [
            peer
            for peer in self._registry.at_least(least)
            if not relay or peer.peer_class is PeerClass.MEMBER
        ]

        async def ask_one(key: PeerKey) -> None:
            request = FreshnessRequest(nonce=question.nonce, relay=relay)
            try:
                answer = await ask(key, request)
                if isinstance(answer, FreshnessAnswer):
                    question.add(answer, self._ledger.chain_id)
                    if question.highest > self._ledger.chain.head.height:
                        self._on_ahead(key, question.highest)
            except (TransportError, PolicyError, RemoteProtocolError) as error:
                logger.debug("freshness: %s", error)
            except VerificationError as error:
                self._registry.blame(key, Offence.FORGED, f"freshness: {error}")

        async with trio.open_nursery() as nursery:
            for peer in peers[: MEMBERS_ASKED_MAX if relay else len(peers)]:
                nursery.start_soon(ask_one, peer.key)

    async def _keep_saving(self) -> None:
        while True:
            self._has_news = trio.Event()
            await self.save_now()
            with trio.move_on_after(SAVE_INTERVAL_S):
                await self._has_news.wait()

    async def save_now(self) -> None:
        """Stores the age; also called at an orderly stop."""
        saved = self.age.save(now=self._clock.monotonic(), wall_ms=self._clock.wall_ms())
        if saved is not None:
            try:
                await self._save(saved)
            except StorageError as error:
                logger.error(  # noqa: TRY400 - no defect
                    "the age of knowledge was not saved: %s", error
                )
