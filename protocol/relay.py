"""`Relay`: how one copy of a manifest's content reaches all members, each sending a share.

Participants: seeders, which hold everything; receivers, any of which may lie, stall or leave; the
host, which verifies, stores, reads, sends and keeps the clock. One `Relay` serves one manifest; a
`RelayScheduler` shares the uplink between several.

Goals: every member sends about what it receives; a seeder sends each chunk about once; whoever
lies costs little and stops nobody, since what is not pushed is pulled (`Download`). Nothing is
passed on before the host verified it, queues are bounded, and every event costs O(1) for each unit
that it concerns.
Non-goals: who may take part (the host joins only permitted peers), durability, fairness.

A node's part for an object is a role (`Role`), told by READY: RECEIVES once the recipe is verified,
HOLDS when complete, SEEDS while it pushes what nobody else has. Rules: docs/spec/relay.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import assert_never

from protocol.digest import ManifestId
from protocol.errors import LocalProtocolError
from protocol.exchange_events import (
    ExchangeOffenceError,
    ObjectDropped,
    Offence,
    PeerBanned,
    PeerId,
    PeerJoined,
    PeerLeft,
    Stop,
    TimerFired,
)
from protocol.relay_chunks import bit_runs
from protocol.relay_events import (
    ChunksDropped,
    ChunksGained,
    ObjectReady,
    PathMeasured,
    PeerGained,
    PeerPossession,
    PeerRequested,
    PushRefused,
    RelayEffect,
    RelayInput,
    RelayReceived,
    RelaySettings,
    SendPossession,
)
from protocol.relay_gate import PullGate
from protocol.relay_giving import Giving
from protocol.relay_members import HOLDING, Member
from protocol.relay_messages import (
    RUNS_MAX,
    Complaint,
    Credit,
    News,
    Push,
    Ready,
    RelayMessage,
    Role,
    Run,
    Skip,
)
from protocol.relay_news import NewsBoard
from protocol.relay_receiving import PendingPush, Receiving
from protocol.relay_state import RelayState
from protocol.relay_statistics import RelayStatistics
from protocol.runs import Runs


class Relay:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        manifest_id: ManifestId,
        own_key: PeerId,
        chunk_counts: Sequence[int],
        settings: RelaySettings,
        entropy: int,
    ) -> None:
        """Starts alone, with no recipe known.

        Args:
            manifest_id: what is relayed.
            own_key: this node's transport key.
            chunk_counts: chunks of each object, from the manifest.
            settings: what this node says of itself.
            entropy: decides what is left to chance.
        """
        state = RelayState(
            manifest_id=manifest_id,
            own_key=own_key,
            chunk_counts=chunk_counts,
            settings=settings,
            entropy=entropy,
        )
        self._state = state
        self._gate = PullGate(state)
        self._receiving = Receiving(state, self._gate)
        self._giving = Giving(state)
        self._news = NewsBoard(state.chance)
        self._banned: dict[PeerId, None] = {}
        self._has_relayed = False
        self._is_stopped = False

    @property
    def manifest_id(self) -> ManifestId:
        """What is relayed."""
        return self._state.manifest_id

    @property
    def tells_news(self) -> bool:
        """Whether this machine tells members what is gained, so that HAVE need not."""
        return self._has_relayed

    def is_receiving(self, number: int) -> bool:
        """Whether pushes of an object are welcome here: then this machine judges what is told."""
        return self._state.receives(number)

    @property
    def is_seeding(self) -> bool:
        """Whether this node pushes an object that is fresh, or is about to."""
        return bool(self._giving.seeders)

    def has_peer(self, peer: PeerId) -> bool:
        """Whether a peer joined, and neither left nor was banned."""
        return self._state.members.find(peer) is not None

    @property
    def deadline(self) -> float | None:
        """When the host must feed `TimerFired`, seconds; None: not needed."""
        times = [*self._gate.due_times(), *self._giving.due_times()]
        if self._news.due_at is not None:
            times.append(self._news.due_at)
        return min(times, default=None)

    def handle(self, event: RelayInput, now: float) -> list[RelayEffect]:
        """Takes one input.

        Args:
            event: what happened.
            now: seconds, monotonic.

        Returns:
            Effects, to be executed in order.

        Raises:
            ExchangeOffenceError: the peer's message breaks the protocol; nothing has changed.
            LocalProtocolError: the host's input makes no sense; nothing has changed.
        """
        self._state.effects = []
        if not self._is_stopped:
            self._on_event(event, now)
            self._act(now)
        return self._state.effects

    def _on_event(self, event: RelayInput, now: float) -> None:
        match event:
            case RelayReceived():
                self._on_message(event.peer, event.message, now)
            case ChunksGained():
                self._on_gained(event.object_number, event.indices, now)
            case PeerRequested():
                self._on_requested(event)
            case PeerGained():
                self._on_told(event.peer, event.object_number, event.indices, now)
            case PeerPossession():
                self._on_possession(event, now)
            case PushRefused():
                first = self._number(event.object_number, event.index)
                self._receiving.refused(event.peer, event.object_number, first)
            case ChunksDropped():
                self._on_dropped(event)
            case ObjectReady():
                self._on_ready_object(event, now)
            case ObjectDropped():
                self._on_dropped_object(event.component)
            case PeerJoined() | PeerLeft() | PeerBanned():
                self._on_presence(event, now)
            case PathMeasured():
                self._giving.uplink_bytes_per_s = event.uplink_bytes_per_s
            case Stop():
                self._stop()
            case TimerFired():
                pass
            case _:
                assert_never(event)

    def _number(self, number: int, index: int) -> int:
        layout = self._state.layout
        if not (
            0 <= number < layout.component_count and 0 <= index < layout.chunk_count_of(number)
        ):
            raise LocalProtocolError(f"no chunk {index} of object {number}")
        return layout.offset(number) + index

    def _numbered(self, number: int, indices: Iterable[int]) -> list[Run]:
        """The chunks of a set of indices, as runs of numbers."""
        pairs = Runs.of(indices).pairs
        if pairs:
            self._number(number, sum(pairs[-1]) - 1)
        offset = self._state.layout.offset(number)
        return [(offset + first, count) for first, count in pairs]

    # Own possession ------------------------------------------------------------------------------

    def _on_ready_object(self, event: ObjectReady, now: float) -> None:
        state, number = self._state, event.object_number
        count = state.layout.chunk_count_of(number)
        if len(event.lengths) != count or event.held >> count:
            raise LocalProtocolError(f"object {number} with {len(event.lengths)} of {count} chunks")
        state.learn(number, event.lengths, event.held)
        if not state.missing[number]:
            self._complete(number, now)
            return
        self._giving.withdraw(number)
        state.set_role(number, Role.RESUMES if event.held else Role.RECEIVES)
        self._gate.ready(number, now)
        if event.held:
            for member in state.members:
                self._report(member, number)

    def _on_dropped_object(self, number: int) -> None:
        """Pushes of an object are not welcome any more; what is held of it stays."""
        if self._state.receives(number):
            self._gate.done(number)
            self._receiving.lost(*self._state.whole(number))
            self._state.set_role(number, None)

    def _report(self, member: Member, number: int) -> None:
        """Tells who holds all what need not be pushed here."""
        if member.roles.get(number) in HOLDING:
            self._state.effects.append(SendPossession(peer=member.peer, object_number=number))

    def _on_gained(self, number: int, indices: Iterable[int], now: float) -> None:
        state = self._state
        given = self._numbered(number, indices)
        if number not in state.roles:
            return
        runs: list[Run] = []
        for run in given:
            absent = state.have.absent_runs(*run)
            state.have.add(*run)
            state.missing[number] -= sum(count for _, count in absent)
            runs += absent
        if not runs:
            return
        if self._has_relayed:
            self._news.note(
                runs,
                now,
                members=len(state.members),
                is_pulling=not self._gate.is_gated(number),
            )
        for entry in self._receiving.gained(runs):
            self._relay(entry, now)
        if not state.missing[number] and state.receives(number):
            self._complete(number, now)

    def _complete(self, number: int, now: float) -> None:
        if self._state.receives(number):
            for member in self._state.members.receivers(number):
                member.received_with[number] = None
        self._gate.done(number)
        self._state.set_role(number, Role.HOLDS)
        self._giving.review(number, now)

    def _on_dropped(self, event: ChunksDropped) -> None:
        state, number = self._state, event.object_number
        for run in self._numbered(number, event.indices):
            rotten = state.have.count(*run)
            state.have.remove(*run)
            state.missing[number] += rotten
            self._gate.repair.forget([run])
            self._receiving.lost(*run)
            if rotten and state.holds(number):
                # It is complete no more: whoever fetches it again says so by `ObjectReady`.
                self._giving.withdraw(number)
                state.set_role(number, None)

    # Members -------------------------------------------------------------------------------------

    def _on_presence(self, event: PeerJoined | PeerLeft | PeerBanned, now: float) -> None:
        if isinstance(event, PeerJoined):
            self._on_joined(event.peer)
            return
        if isinstance(event, PeerBanned):
            self._banned[event.peer] = None
        self._on_left(event.peer, now)

    def _on_joined(self, peer: PeerId) -> None:
        if self._state.members.find(peer) is not None:
            raise LocalProtocolError("a peer joined twice")
        if peer in self._banned:
            return
        member = self._state.members.join(peer)
        if member is not None:
            # Without roles, too: whoever holds the manifest begins to take part by hearing of it.
            self._state.tell_ready(member)
            self._giving.joined()

    def _on_left(self, peer: PeerId, now: float) -> None:
        member = self._state.members.find(peer)
        if member is None:
            return
        touched = dict.fromkeys((*member.roles, *member.seeded))
        self._giving.left(member)
        self._state.members.leave(member)
        self._gate.lost_sender(peer)
        for number in touched:
            self._gate.seeders_changed(number, now)
            self._giving.review(number, now)

    def _on_ready(self, member: Member, message: Ready, now: float) -> None:
        state, before = self._state, member.roles
        if any(number >= state.layout.component_count for number, _ in message.roles):
            raise ExchangeOffenceError(Offence.MALFORMED, "a role for an object that is not there")
        state.members.take_ready(member, message)
        for number in dict.fromkeys((*before, *member.roles)):
            role, old = member.roles.get(number), before.get(number)
            if role is not old:
                self._on_role(member, number, role, now)
        for number in dict.fromkeys((*before, *member.roles)):
            self._giving.review(number, now)

    def _on_role(self, member: Member, number: int, role: Role | None, now: float) -> None:
        state = self._state
        if role is Role.SEEDS:
            member.seeded[number] = None
            self._has_relayed = True
        # Before anybody's possession is told: what may be pushed soon is not to be asked for.
        self._gate.seeders_changed(number, now)
        if role in HOLDING:
            if role is Role.HOLDS:
                self._on_holds(member, number, now)
            if state.roles.get(number) is Role.RESUMES:
                self._report(member, number)
        if not member.receives(number):
            self._giving.stopped_receiving(member, number)

    def _on_holds(self, member: Member, number: int, now: float) -> None:
        whole = self._state.whole(number)
        for run in member.known.absent_runs(*whole):
            self._giving.noted(member, run, now)
        member.known.add(*whole)
        self._gate.announced_all(member, number, now)

    # What others hold ----------------------------------------------------------------------------

    def _on_told(self, peer: PeerId, number: int, indices: Iterable[int], now: float) -> None:
        member = self._state.members.find(peer)
        if member is not None:
            for run in self._numbered(number, indices):
                self._told(member, number, run, now)

    def _told(self, member: Member, number: int, run: Run, now: float) -> None:
        for fresh in member.known.absent_runs(*run):
            self._giving.noted(member, fresh, now)
        member.known.add(*run)
        self._gate.told(member, number, run, now)

    def _on_possession(self, event: PeerPossession, now: float) -> None:
        member, number = self._state.members.find(event.peer), event.object_number
        if member is None:
            return
        first, count = self._state.whole(number)
        fresh = event.bits & ~member.known.window(first, count)
        member.known.remove(first, count)
        member.known.add(first, count, event.bits)
        member.reported[number] = None
        for run in bit_runs(fresh, first, count):
            self._giving.noted(member, run, now)
        self._giving.review(number, now)
        self._gate.told_object(member, number, event.bits, now)

    def _on_requested(self, event: PeerRequested) -> None:
        """The upload answers: pushing the same would send it twice."""
        member = self._state.members.find(event.peer)
        if member is not None:
            for run in self._numbered(event.object_number, event.indices):
                member.known.add(*run)

    # Messages ------------------------------------------------------------------------------------

    def _on_message(self, peer: PeerId, message: RelayMessage, now: float) -> None:
        member = self._state.members.find(peer)
        if member is None:
            return  # it left or was banned, or never may: what was on its way is no offence
        match message:
            case Push():
                entry = self._receiving.take(member, message, now)
                if entry is not None:
                    self._relay(entry, now)
            case News():
                member.load_bytes = message.queued_bytes
                for number, run in self._checked(message.runs):
                    self._told(member, number, run, now)
            case Skip():
                for number, run in self._checked(message.runs):
                    self._told(member, number, run, now)
                    self._gate.open(run)
            case Credit():
                self._check_number(message.firsts[-1])
                self._giving.credited(member, message.firsts, now)
            case Complaint():
                culprit = self._state.members.find(message.culprit)
                if culprit is not None:
                    self._giving.complained(culprit, member)
            case Ready():
                self._on_ready(member, message, now)
            case _:
                assert_never(message)

    def _checked(self, runs: Sequence[Run]) -> list[tuple[int, Run]]:
        self._check_number(sum(runs[-1]) - 1)
        return [part for run in runs for part in self._state.split(run)]

    def _check_number(self, number: int) -> None:
        if number >= self._state.layout.chunk_count:
            raise ExchangeOffenceError(Offence.MALFORMED, f"there is no chunk {number}")

    def _relay(self, entry: PendingPush, now: float) -> None:
        if entry.flags or entry.delegates:
            self._giving.relay(entry.run, entry.flags, entry.delegates, source=entry.peer, now=now)

    # Pushing: for the scheduler ------------------------------------------------------------------

    @property
    def slots(self) -> int:
        """Pushes that shall be under way at once, blocked ones apart."""
        return self._giving.slots

    @property
    def has_work(self) -> bool:
        """Whether `next_push` may find something once peers take frames."""
        return bool(self._giving.duties.duty_count or self._giving.seeders)

    @property
    def is_pressing(self) -> bool:
        """Whether this node has fresh units for relayers that have allowance."""
        return self._giving.is_pressing

    def set_writable(self, peer: PeerId, *, is_writable: bool) -> None:
        """Notes whether a peer may be handed a push: none is under way to it."""
        member = self._state.members.find(peer)
        if member is not None and member.is_writable != is_writable:
            self._giving.set_writable(member, is_writable=is_writable)

    def next_push(self, now: float) -> list[RelayEffect]:
        """Chooses the next push.

        Returns:
            Effects to be executed in order; the last is a `SendPush` if there is anything to push.
        """
        self._state.effects = []
        if not self._is_stopped:
            push = self._giving.next_push(now)
            self._act(now)
            if push is not None:
                self._state.effects.append(push)
        return self._state.effects

    # Time ----------------------------------------------------------------------------------------

    def _act(self, now: float) -> None:
        self._giving.act(now)
        self._has_relayed = self._has_relayed or bool(self._giving.seeders)
        self._gate.act(now)
        if self._news.due_at is not None and now >= self._news.due_at:
            self._tell_news(now)

    def _tell_news(self, now: float) -> None:
        state = self._state
        hearers = [
            member
            for member in state.members
            if Role.SEEDS in member.roles.values()
            or (state.is_near(member) and any(member.receives(n) for n in member.roles))
        ]
        queued_bytes = self._giving.duties.queued_bytes
        for member, runs in self._news.take(now, hearers):
            for start in range(0, len(runs), RUNS_MAX):
                part = tuple(runs[start : start + RUNS_MAX])
                message = News(manifest_id=state.manifest_id, runs=part, queued_bytes=queued_bytes)
                state.send(member, message)

    def _stop(self) -> None:
        self._is_stopped = True
        self._giving.clear()
        self._receiving.clear()
        self._gate.clear()
        self._news.clear()

    # Looking in ----------------------------------------------------------------------------------

    def statistics(self) -> RelayStatistics:
        """Tells what was done and what is under way; looks at all members."""
        members, giving, receiving = list(self._state.members), self._giving, self._receiving
        seeders = giving.seeders
        return RelayStatistics(
            roles=tuple(sorted(self._state.roles.items())),
            members=len(members),
            receivers=sum(any(m.receives(number) for number in m.roles) for m in members),
            given_units=giving.given_count,
            reinjected_units=sum(seeder.reinjected_count for seeder in seeders),
            doubtful_units=sum(seeder.doubtful_count for seeder in seeders),
            paused_relayers=sum(
                record.is_paused for seeder in seeders for _, record in seeder.relayers()
            ),
            convicted=sum(member.is_convicted for member in members),
            owed_units=giving.duties.duty_count,
            owed_bytes=giving.duties.queued_bytes,
            skipped_units=giving.duties.skipped_count,
            pushed_bytes=receiving.pushed_bytes,
            duplicate_bytes=receiving.duplicate_bytes,
            dropped_bytes=receiving.dropped_bytes,
            pending_bytes=receiving.pending_bytes,
            repair_s=self._gate.repair.repair_s,
        )
