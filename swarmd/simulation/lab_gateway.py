"""A gateway of a laboratory: the production ledger copy, authority, store and freshness clock.

No network and no event loop: whoever plays the peers hands it what a peer would have sent, as
bytes, and it goes through the decoders and machines that the daemon's services call. Only what
those services do around them (streams, retries, scores) is left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from chunks.memory_store import MemoryStore
from chunks.store import ChunkStore
from ledger.block import Block, decode_block
from ledger.certificate import decode_certificate
from ledger.chain import Chain
from ledger.chain_blocks import CommitResult
from ledger.errors import ForkAlarmError
from ledger.light import EpochForkError
from ledger.offer import UNKNOWN_DEVICE, Device
from ledger.rules.membership import groups_of
from ledger.state_sync import verify_page, verify_state_head
from ledger.vote import Ed25519Verifier
from protocol.catchup import (
    BLOCKS_BYTES_MAX,
    BlocksAnswer,
    FreshnessAnswer,
    decode_ledger_message,
    encode_ledger_message,
)
from protocol.digest import BlockId, Digest, ManifestId, sha256
from protocol.errors import SwarmError, VerificationError
from protocol.state_messages import StateHeadAnswer
from swarmd.authority import Authority
from swarmd.clock import ManualClock
from swarmd.floor import NO_FLOOR, Floor
from swarmd.freshness import FreshnessClock, FreshnessRound, Head, ValidatorKeys
from swarmd.ledger_host import LedgerHost
from swarmd.net.address import PeerKey
from swarmd.peers import PeerRegistry
from swarmd.questions import Denial, Permit, Verdict
from swarmd.services.freshness import LAG_HEARTBEATS, LAG_MS
from swarmd.simulation.lab import Lab


class StateSource(Protocol):
    """A peer that serves the state."""

    @property
    def head(self) -> StateHeadAnswer:
        """The version it serves."""
        ...

    @property
    def block(self) -> Block:
        """The block that commits to it."""
        ...

    @property
    def manifests(self) -> Iterable[bytes]:
        """Signed bytes of every manifest in it."""
        ...

    def page(self, start: Digest) -> bytes:
        """An encoded page of it."""
        ...


class LabGateway:
    """See the module's docstring."""

    question_type: type[FreshnessRound] = FreshnessRound
    """What judges statements of freshness; a control may be without its checks."""
    authority_type: type[Authority] = Authority
    """What answers for it; a control may be without its checks."""

    age: FreshnessClock
    """How old its knowledge is."""
    authority: Authority
    """What answers for it."""

    def __init__(
        self,
        lab: Lab,
        *,
        number: int = 0,
        floor: Floor = NO_FLOOR,
        store: ChunkStore | None = None,
        is_fresh: bool = True,
    ) -> None:
        """Starts with the genesis.

        Args:
            lab: whose chain it follows.
            number: which of the lab's gateways it is.
            floor: what it demands beyond the policies.
            store: where its images are; in memory unless given.
            is_fresh: whether it knows from the start that its copy is current.
        """
        self.lab: Final = lab
        """Whose chain it follows."""
        self.did: Final = lab.gateways[number].did
        """Who it is."""
        self.clock: Final = ManualClock()
        """Its clocks; both begin at 0, which is 1970."""
        self._seen_at = 0.0
        self.chain: Final[Chain] = lab.open_chain()
        """Its copy of the ledger."""
        self.ledger: Final = LedgerHost(self.chain, self._ledger_ms)
        """What holds the copy."""
        self.store: Final[ChunkStore] = store or MemoryStore()
        """Its images."""
        self.registry: Final = PeerRegistry(lab.chain_id, self.clock, lambda *_: None)
        """Whom it met."""
        self._floor = floor
        self._boot(None)
        self.ledger.listen(self._on_commit)
        if is_fresh:
            self.age.confirm(self.clock.monotonic())

    def _boot(self, saved: bytes | None) -> None:
        now, head_ms = self.clock.monotonic(), self.chain.head.time_ms
        self.age = FreshnessClock(saved, now=now, wall_ms=self.clock.wall_ms(), head_ms=head_ms)
        self.authority = self.authority_type(
            ledger=self.ledger,
            genesis=self.lab.genesis,
            age=self.age,
            registry=self.registry,
            own_did=self.did,
            own_groups=self.own_groups,
            floor=self._floor,
            monotonic=self.clock.monotonic,
            time_ms=self._ledger_ms,
        )

    def own_groups(self) -> tuple[str, ...]:
        """Where it is a member, by its copy of the ledger."""
        return groups_of(self.chain.state, self.did)

    def restart(self) -> None:
        """Power fails and comes back at once; the age was saved when it last had to be."""
        self._boot(self.age.save(now=self.clock.monotonic(), wall_ms=self.clock.wall_ms()))

    def _ledger_ms(self) -> int:
        """Header time, and what passed since by the own clock."""
        passed_s = self.clock.monotonic() - self._seen_at
        return self.chain.head.time_ms + round(passed_s * 1000)

    # -- the ledger ----------------------------------------------------------------------------

    def take(self, body: bytes) -> tuple[CommitResult, ...]:
        """Takes a run of blocks as a peer's answer or a section of a bundle brings it.

        Raises:
            SwarmError: refused; where the validators broke the rules, the alarm is raised, too.
        """
        answer = decode_ledger_message(body)
        if not isinstance(answer, BlocksAnswer) or not answer.blocks:
            raise VerificationError("no blocks")
        blocks = tuple(decode_block(raw) for raw in answer.blocks)
        try:
            results = self.chain.follow(blocks, decode_certificate(answer.certificate))
        except ForkAlarmError as error:
            self.ledger.raise_alarm(error)
            raise
        for result in results:
            self._on_commit(result)
            if result.following is not None:
                self._note_closed(result)
        return results

    def _note_closed(self, result: CommitResult) -> None:
        """An epoch ended: how, is compared with what governance vouched for."""
        epoch_ms = self.chain.rules.parameters.epoch_ms
        try:
            self.ledger.trust.closed(result.header, self.clock.monotonic(), epoch_ms)
        except EpochForkError as error:
            self.ledger.raise_alarm(error)

    def fetch_state(self, source: StateSource) -> None:
        """Takes the state whole, as a newcomer does from a peer.

        Raises:
            SwarmError: refused.
        """
        verifier = Ed25519Verifier()
        target = verify_state_head(source.head, self.chain.anchor, verifier)
        sync = self.chain.fetches()
        sync.begin(target)
        while (start := sync.plan.take()) is not None:
            sync.add_page(start, verify_page(source.page(start), target, start))
        sync.add_manifests([(ManifestId(sha256(raw)), raw) for raw in source.manifests])
        sync.finish(source.block)
        for result in self.chain.adopt_fetched(decode_certificate(target.certificate)):
            self._on_commit(result)

    def _on_commit(self, result: CommitResult) -> None:
        self._seen_at = self.clock.monotonic()
        self.authority.on_commit(result)

    def try_take(self, body: bytes) -> int:
        """Takes a run if it is good.

        Returns:
            How many blocks became final by it.
        """
        try:
            return len(self.take(body))
        except SwarmError:
            return 0

    def follow(self, origin: Chain) -> None:
        """Catches up with an honest copy."""
        while self.chain.head.height < origin.head.height:
            self.take(run_of(origin, self.chain.head.height + 1))

    # -- freshness -----------------------------------------------------------------------------

    def ask(self, number: int) -> FreshnessRound:
        """Draws a nonce; `number` tells it from others of this gateway."""
        validators = self.chain.validators
        keys = ValidatorKeys(
            epoch=validators.epoch,
            keys=tuple(member.key for member in validators.members),
            fault_limit=validators.fault_limit,
            era=self.chain.rules.era,
        )
        nonce = sha256(b"nonce %d of " % number + self.did)
        return self.question_type(nonce, self.clock.monotonic(), keys)

    def hear(self, question: FreshnessRound, *answers: FreshnessAnswer) -> bool:
        """Takes answers about a nonce.

        Returns:
            Whether they made the knowledge as young as the question.
        """
        for answer in answers:
            try:
                question.add(answer, self.lab.chain_id)
            except VerificationError:
                continue
        head, lag_ms = self.chain.head, self._lag_ms
        newest = Head(
            era=head.era,
            epoch=head.epoch,
            height=head.height,
            block_id=head.block_id,
            time_ms=head.time_ms,
        )
        if not question.is_confirmed(newest, self._block_id_at, lag_ms):
            return False
        self.age.confirm(question.asked_at)
        return True

    @property
    def _lag_ms(self) -> int:
        return LAG_HEARTBEATS * self.chain.rules.parameters.heartbeat_ms + LAG_MS

    def _block_id_at(self, height: int) -> BlockId | None:
        header = self.chain.header_at(height)
        return None if header is None else header.block_id

    # -- images --------------------------------------------------------------------------------

    def may_fetch(self, manifest: ManifestId) -> bool:
        """Whether it would fetch and store the images."""
        return isinstance(self.authority.may_fetch(manifest), Permit)

    def may_offer(self, manifest: ManifestId, device: Device = UNKNOWN_DEVICE) -> bool:
        """Whether it would offer them to a device."""
        return isinstance(self.authority.may_offer(manifest, device), Permit)

    def may_serve(self, peer: PeerKey, manifest: ManifestId) -> bool:
        """Whether it would send them to a peer."""
        return isinstance(self.authority.may_serve(peer, manifest), Permit)

    def refusal(self, manifest: ManifestId) -> str | None:
        """By which rule it would not fetch; None: it would."""
        verdict: Verdict = self.authority.may_fetch(manifest)
        return verdict.rule if isinstance(verdict, Denial) else None


def run_of(origin: Chain, height: int, bytes_max: int = BLOCKS_BYTES_MAX) -> bytes:
    """The answer of an honest peer that is asked for blocks from a height on."""
    raws, certificate = origin.blocks(height, bytes_max)
    assert certificate is not None, "an honest peer has what it is asked for"
    return blocks_answer(raws, certificate.encode())


def blocks_answer(raws: tuple[bytes, ...], certificate: bytes) -> bytes:
    """An answer of blocks, whatever they are."""
    return encode_ledger_message(BlocksAnswer(blocks=raws, certificate=certificate))
