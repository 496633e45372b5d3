"""The Simplex engine: `handle(input, now) -> effects`, and `deadline`.

Participants: n validators of one epoch over lossy, reordering links. Goals: agreement while at most
f lie (safety never depends on time); progress while q reach each other; every contradiction of a
validator is provable. Non-goals: execution, the mempool, storage and peers' connections, which are
the host's. The host feeds `Start` once, executes effects in order, answers `Persist`, `Build` and
`Verify`, and feeds `TimerFired` when `deadline` passed. Times are monotonic seconds.

Rules: docs/spec/consensus.md. Deviations from the paper: timers start only when there is a reason
(C65); a leader proposes at most every 250 ms (C66); blocks carry skip proofs (C15); what a vote
depends on (block, certificates) becomes durable with it (C70), so that a power loss of all
validators at once cannot lose a notarized block.
"""

from __future__ import annotations

from typing import assert_never

from ledger.block import Block, decode_block
from ledger.consensus_messages import (
    Blocks,
    CertificateMessage,
    Message,
    NewestVoteAnswer,
    NewestVoteQuery,
    Propose,
    Status,
    VoteMessage,
    Want,
    make_answer,
)
from ledger.header import Header
from ledger.simplex.chain import Chain
from ledger.simplex.core import VIEW_WINDOW
from ledger.simplex.interface import (
    ALL,
    Built,
    Durable,
    Effect,
    Halt,
    Input,
    MessageReceived,
    PeerConnected,
    Persist,
    Record,
    RecordKind,
    Start,
    TimerFired,
    TransactionsPending,
    Verdict,
)
from ledger.simplex.pace import Pace
from ledger.simplex.proposals import Proposals
from ledger.simplex.question import Question
from ledger.simplex.rules import check_place
from ledger.simplex.sync import VOTE_ANSWER_BYTES
from ledger.vote import Vote, VoteKind
from protocol.errors import LocalProtocolError, RemoteProtocolError, VerificationError


class Simplex(Proposals):
    """One validator's consensus machine for one epoch."""

    _started = False
    _pending = False

    def handle(self, event: Input, now: float) -> list[Effect]:
        """Takes one input.

        Args:
            event: what happened.
            now: monotonic clock, seconds.

        Returns:
            What the host must do, in order.

        Raises:
            RemoteProtocolError: the peer broke the protocol; nothing changed, score it.
            LocalProtocolError: the host used the engine wrongly; nothing changed.
        """
        if self._ended:
            return []
        self._now = now
        effects: list[Effect] = []
        self._effects = effects
        if isinstance(event, Start) == self._started:
            raise LocalProtocolError("an engine is started exactly once, and first of all")
        match event:
            case MessageReceived(peer, message):
                self._on_message(peer, message)
            case Durable(sequence):
                self._on_durable(sequence)
            case TimerFired():
                pass
            case Verdict(block_id, ok):
                self._on_verdict(block_id, ok)
            case Built(view, block):
                self._on_built(view, block)
            case TransactionsPending(pending):
                self._pending = pending
            case PeerConnected(peer):
                self._on_connected(peer)
            case Start():
                self._on_start(event)
            case _:
                assert_never(event)
        self._advance()
        return effects

    @property
    def may_vote(self) -> bool:
        """Whether the start-up question is answered and the key not halted (C82)."""
        return self._halted is None and not self._question.is_open and not self._ended

    @property
    def deadline(self) -> float | None:
        """When the host must feed `TimerFired`, monotonic seconds; None while there is nothing."""
        if not self._started or self._ended:
            return None
        times: list[float | None] = [self._retry_at, self._ask_deadline()]
        if self._armed_at is None:
            if not self._active():
                times.append(self._final_at + self._parameters.heartbeat_s)
        elif self.may_vote:
            if self._may_lead() and self._pace.build_at > self._now:
                times.append(self._pace.build_at)
            if self._ballots.may(VoteKind.NULLIFY, self._view):
                times.append(self._armed_at + self._patience_s())
        return min((time for time in times if time is not None), default=None)

    # -- start ---------------------------------------------------------------------------------

    def _on_start(self, event: Start) -> None:
        self._check_start(event.final)
        self._started = True
        self._chain = Chain(event.final, event.certificate, epoch=self._validators.epoch)
        self._accused = {(item.epoch, item.signer): item for item in event.evidence}
        self._pace = Pace(self._parameters, len(self._validators.members), self._now)
        self._question = Question(event.nonce, quorum=self._validators.quorum)
        self._reset_sync()
        self._final_at = self._now
        self._view = self._chain.view + 1
        if self._chain.certificate is not None:
            for vote in self._chain.certificate.votes():
                self._newest.note(vote)
        damage = self._restore_all(event.records)
        self._view = max(self._view, self._ballots.newest_view)
        self._unsaved.clear()
        self._finalize_due = True
        # The host that says so has no journal to write it to, and will say so again.
        self._halted = self._halted or event.halted
        if self._halted is not None:
            self._effects.append(Halt(self._halted))
        elif damage is not None:
            self._halt(f"journal is damaged: {damage}")
        self._send(ALL, NewestVoteQuery(event.nonce))
        self._send(ALL, self._status())

    def _check_start(self, final: Header) -> None:
        """An epoch begins on the block that closed the one before and named its set (E17)."""
        epoch, digest = self._validators.epoch, self._validators.digest
        if final.epoch == epoch and final.validators == digest and not final.closes_epoch:
            return
        if final.epoch == epoch - 1 and final.closes_epoch and final.next_validators == digest:
            return
        raise LocalProtocolError(f"engine of epoch {epoch} on a block of epoch {final.epoch}")

    def _restore_all(self, records: tuple[Record, ...]) -> VerificationError | None:
        """Takes over the journal; returns what is wrong with it, since nothing may be missing."""
        damage: VerificationError | None = None
        for record in records:
            if record.epoch == self._validators.epoch:
                try:
                    self._restore(record)
                except VerificationError as error:
                    damage = damage or error
        return damage

    def _restore(self, record: Record) -> None:
        """Takes over one record of the journal (C80).

        Raises:
            VerificationError: it is not what this validator wrote.
        """
        match record.kind:
            case RecordKind.VOTE:
                vote = record.vote()
                key = (self._validators, self._chain_id, self._era, self._verifier)
                if vote.signer != self._index or not vote.is_valid(*key):
                    raise VerificationError(f"vote of view {record.view} is not ours")
                self._ballots.restore(vote)
                if vote.view > self._chain.view:
                    self._count(vote)
            case RecordKind.CERTIFICATE:
                certificate = record.certificate()
                certificate.verify(self._validators, self._chain_id, self._era, self._verifier)
                if certificate.view > self._chain.view:
                    for vote in certificate.votes():
                        self._newest.note(vote)
                    self._certify(certificate)
            case RecordKind.BLOCK:
                block = decode_block(record.payload)
                self._chain.add(block)
                if block.header.view > self._chain.view:
                    self._state(block.header.view).proposal = block
            case RecordKind.HALT:
                self._halted = record.payload.decode("utf-8")

    # -- messages ------------------------------------------------------------------------------

    def _on_message(self, peer: int, message: Message) -> None:
        self._check_peer(peer)
        match message:
            case VoteMessage(vote):
                self._accept_vote(vote)
                if vote.signer == peer:
                    self._pace.note_heard(peer, self._now)
                if vote.view > self._view + VIEW_WINDOW:
                    self._tell(peer)
            case Propose(block):
                self._on_propose(peer, block)
                self._pace.note_heard(peer, self._now)
            case CertificateMessage(certificate):
                self._accept_certificate(peer, certificate)
            case Want():
                self._on_want(peer, message)
            case Blocks():
                self._on_blocks(peer, message)
            case Status():
                self._on_status(peer, message)
            case NewestVoteQuery():
                self._on_query(peer, message)
            case NewestVoteAnswer():
                self._on_answer(peer, message)
            case _:
                assert_never(message)

    def _check_peer(self, peer: int) -> None:
        if not 0 <= peer < len(self._validators.members):
            raise LocalProtocolError(f"no validator {peer} in this set")

    def _on_propose(self, peer: int, block: Block) -> None:
        view = block.header.view
        if peer != self._validators.leader(view):
            raise RemoteProtocolError(f"validator {peer} does not lead view {view}")
        if not max(self._view, self._chain.view + 1) <= view <= self._view + VIEW_WINDOW:
            return
        state = self._views.get(view)
        if state is not None and state.proposal is not None:
            return
        try:
            check_place(block, chain=self._chain_id, era=self._era, validators=self._validators)
        except VerificationError as error:
            raise RemoteProtocolError(f"validator {peer}: {error}") from error
        self._state(view).proposal = block
        self._pace.note_proposal(self._now)

    def _on_query(self, peer: int, query: NewestVoteQuery) -> None:
        if not self._spend(peer, VOTE_ANSWER_BYTES):
            return
        answer = make_answer(
            query,
            self._newest.of(peer),
            self._signer,
            chain=self._chain_id,
            era=self._era,
            asker=peer,
            answerer=self._index,
        )
        self._send(peer, answer)

    def _on_answer(self, peer: int, answer: NewestVoteAnswer) -> None:
        if answer.nonce != self._question.nonce or self._question.is_answered_by(peer):
            return
        if (answer.asker, answer.answerer) != (self._index, peer):
            raise RemoteProtocolError(f"validator {peer} answers somebody else's question")
        if not answer.is_valid(self._validators, self._chain_id, self._era, self._verifier):
            raise RemoteProtocolError(f"validator {peer} sent an invalid answer")
        if answer.vote is not None and self._is_foreign(answer.vote):
            self._halt(f"validator {peer} holds a vote of view {answer.vote.view} we do not know")
            return
        self._question.note(peer)
        self._finalize_due = True

    def _on_connected(self, peer: int) -> None:
        self._check_peer(peer)
        self._send(peer, self._status())
        if self._question.is_open and not self._question.is_answered_by(peer):
            self._send(peer, NewestVoteQuery(self._question.nonce))

    # -- the turn ------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Does everything the state now calls for; ends with the journal and the retries."""
        cast: list[Vote] = []
        self._clear_wants()
        if self._finals:
            self._commit_final()
            if self._ended:
                return
            self._want_final_blocks()
        self._arm()
        if self.may_vote:
            if self._finalize_due:
                self._finalize(cast)
            if not self._finals:
                # While final blocks are being fetched, nothing can be executed on top of them.
                self._lead()
                self._judge(cast)
            self._time_out(cast)
        if cast:
            self._persist(cast)
        self._ask()
        self._retry()

    def _persist(self, votes: list[Vote]) -> None:
        """Makes votes durable together with what they depend on, and holds them back (C70)."""
        records = [
            Record(RecordKind.CERTIFICATE, held.epoch, held.view, held.encode())
            for held in self._unsaved
        ]
        self._unsaved.clear()
        for vote in votes:
            if vote.kind is VoteKind.NOTARIZE:
                block = self._chain.blocks[vote.block_id] if vote.block_id is not None else None
                assert block is not None, "we notarize only blocks we hold"
                records.append(Record(RecordKind.BLOCK, vote.epoch, vote.view, block.encoded))
            records.append(Record(RecordKind.VOTE, vote.epoch, vote.view, vote.encode()))
        self._sequence += 1
        self._effects.append(Persist(self._sequence, tuple(records)))
        self._hold(self._sequence, votes)

    def _hold(self, sequence: int, votes: list[Vote]) -> None:
        """Holds votes back until their records are durable (C70)."""
        self._held.append((sequence, votes))

    def _on_durable(self, sequence: int) -> None:
        if sequence > self._sequence:
            raise LocalProtocolError(f"no write {sequence} was asked for")
        ready = [entry for entry in self._held if entry[0] <= sequence]
        self._held = [entry for entry in self._held if entry[0] > sequence]
        for after, votes in ready:
            self._release(after, votes)

    def _release(self, after: int, votes: list[Vote]) -> None:
        for vote in votes:
            if vote.view >= self._chain.view:
                self._send(ALL, VoteMessage(vote), after)
                self._count(vote)

    # -- voting --------------------------------------------------------------------------------

    def _finalize(self, cast: list[Vote]) -> None:
        """Votes finalize where a notarize certificate is held and no nullify was cast (C59)."""
        self._finalize_due = False
        for view in sorted(self._views):
            block_id = self._views[view].notarized
            if block_id is None or view <= self._chain.view:
                continue
            if self._ballots.may(VoteKind.FINALIZE, view):
                cast.append(self._ballots.cast(VoteKind.FINALIZE, view, block_id))

    def _judge(self, cast: list[Vote]) -> None:
        """Votes on the proposal of the current view once everything it rests on is known (C54)."""
        state = self._views.get(self._view)
        if state is None or state.proposal is None:
            return
        if not self._ballots.may(VoteKind.NOTARIZE, self._view):
            return
        if state.verdict is None and self._verify_asked is not state:
            self._examine_proposal(state, state.proposal)
        block_id = state.proposal.block_id
        if state.verdict is True and block_id not in self._chain.blocks:
            # Its height became final while it was judged: only a broken fault bound allows that.
            state.verdict = False
        if state.verdict is True:
            cast.append(self._ballots.cast(VoteKind.NOTARIZE, self._view, block_id))
        elif state.verdict is False and self._ballots.may(VoteKind.NULLIFY, self._view):
            cast.append(self._ballots.cast(VoteKind.NULLIFY, self._view, None))

    # -- time ----------------------------------------------------------------------------------

    def _active(self) -> bool:
        """Whether there is a reason to make progress (C65)."""
        if self._pending or self._now >= self._final_at + self._parameters.heartbeat_s:
            return True
        if self._finals or self._notarized_view > self._chain.view:
            return True
        awake: dict[int, None] = {}
        for view, state in self._views.items():
            if view >= self._view:
                if state.proposal is not None:
                    return True
                awake.update(dict.fromkeys(state.signers()))
        return len(awake) > self._validators.fault_limit

    def _arm(self) -> None:
        if not self._active():
            self._armed_at = None
        elif self._armed_at is None:
            self._armed_at = self._now

    def _patience_s(self) -> float:
        """How long the current view may take before it is nullified, seconds (C60 to C64)."""
        state = self._views.get(self._view)
        leader = self._validators.leader(self._view)
        if state is not None and (VoteKind.NULLIFY, leader) in state.votes:
            return 0.0
        if self._pace.has_passed(self._view) or self._validators.key_of(leader) is None:
            return 0.0
        delta = self._pace.delta_s(self._view - self._chain.view)
        if state is not None and state.proposal is not None:
            return 3 * delta
        if leader != self._index and self._pace.is_silent(
            leader, self._validators.quorum, self._index, self._now
        ):
            return 0.0
        return 2 * delta

    def _time_out(self, cast: list[Vote]) -> None:
        if self._armed_at is None or not self._ballots.may(VoteKind.NULLIFY, self._view):
            return
        if self._now >= self._armed_at + self._patience_s():
            cast.append(self._ballots.cast(VoteKind.NULLIFY, self._view, None))

    def _retry(self) -> None:
        """While something is unfinished, tells the others again what they may have missed (C63)."""
        if self._armed_at is None and not self._question.is_open and not self._finals:
            self._retry_at = None
            return
        if self._retry_at is None:
            self._retry_at = self._now + self._retry_pause_s
            return
        if self._now < self._retry_at:
            return
        self._retry_pause_s = min(
            self._retry_pause_s * self._parameters.backoff, self._parameters.retry_s_max
        )
        self._retry_at = self._now + self._retry_pause_s
        self._send(ALL, self._status())
        self._repeat_question()
        if self._halted is None:
            self._repeat_votes()

    def _repeat_question(self) -> None:
        if not self._question.is_open:
            return
        for peer in range(len(self._validators.members)):
            if peer != self._index and not self._question.is_answered_by(peer):
                self._send(peer, NewestVoteQuery(self._question.nonce))

    def _repeat_votes(self) -> None:
        """Sends the entry certificate, own durable votes and our proposal again."""
        entry = self._entry_certificate()
        if entry is not None:
            self._send(ALL, CertificateMessage(entry))
        held = [vote for _, votes in self._held for vote in votes]
        unfinished = [view for view in (self._notarized_view,) if view > self._chain.view]
        for view in dict.fromkeys([*unfinished, self._view]):
            for vote in self._ballots.of_view(view):
                if vote not in held:
                    self._send(ALL, VoteMessage(vote))
        state = self._views.get(self._view)
        if state is None or state.proposal is None:
            return
        if self._validators.leader(self._view) == self._index:
            voters = state.signers()
            for peer in range(len(self._validators.members)):
                if peer not in voters and peer != self._index:
                    self._send_proposal(state, peer)
