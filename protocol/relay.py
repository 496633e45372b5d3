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
)
from protocol.relay_gate import PullGate
from protocol.relay_giving import Giving
from protocol.relay_hearing import Hearing
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
        self._hearing = Hearing(state, self._gate, self._giving)
        self._is_stopped = False
        self.held_until: float | None = None
        """Until when the scheduler holds pushes back for the sake of another image, seconds."""

    @property
    def manifest_id(self) -> ManifestId:
        """What is relayed."""
        return self._state.manifest_id

    @property
    def tells_news(self) -> bool:
        """Whether this machine tells members that receive what is gained, so that HAVE need not."""
        return self._state.has_relayed and bool(self._state.roles)

    def tells(self, peer: PeerId) -> bool:
        """Whether a peer is told by this machine: a member that receives something."""
        member = self._state.members.find(peer)
        if member is None or not self.tells_news:
            return False
        return any(member.receives(number) for number in member.roles)

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
        times += (time for time in (self._news.due_at, self.held_until) if time is not None)
        return min(times, default=None)

    def host_late(self, late_s: float) -> None:
        """Notes how long after it meant to the host acted, seconds: does it lack processor time?"""
        self._giving.size.late(late_s)

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
        if self.held_until is not None and now >= self.held_until:
            self.held_until = None
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
            case PeerRequested() | PeerGained() | PeerPossession():
                self._on_claim(event, now)
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
                self._hearing.report(member, number)

    def _on_dropped_object(self, number: int) -> None:
        """Pushes of an object are not welcome any more; what is held of it stays."""
        if self._state.receives(number):
            self._gate.done(number)
            self._receiving.lost(*self._state.whole(number))
            self._state.set_role(number, None)

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
        if self._state.has_relayed:
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
        match event:
            case PeerJoined():
                self._hearing.joined(event.peer)
            case PeerLeft():
                self._hearing.left(event.peer, now)
            case PeerBanned():
                self._hearing.banned(event.peer, now)

    def _on_claim(self, event: PeerRequested | PeerGained | PeerPossession, now: float) -> None:
        member, number = self._state.members.find(event.peer), event.object_number
        if member is None:
            return
        match event:
            case PeerRequested():
                # The upload answers: pushing the same would send it twice.
                for run in self._numbered(number, event.indices):
                    for unheard in member.known.absent_runs(*run):
                        member.asked.add(*unheard)
                    member.known.add(*run)
            case PeerGained():
                for run in self._numbered(number, event.indices):
                    self._hearing.told(member, number, run, now)
            case PeerPossession():
                self._hearing.told_object(member, number, event.bits, now)

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
                    self._hearing.told(member, number, run, now)
            case Skip():
                for number, run in self._checked(message.runs):
                    self._hearing.told(member, number, run, now)
                    self._gate.open(run)
            case Credit():
                self._check_number(message.firsts[-1])
                self._giving.credited(member, message.firsts, now)
            case Complaint():
                culprit = self._state.members.find(message.culprit)
                if culprit is not None:
                    self._giving.complained(culprit, member)
            case Ready():
                self._hearing.ready(member, message, now)
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
    def is_active(self) -> bool:
        """Whether the image is being relayed here: pushes go out, are owed, or are expected."""
        return not self._is_stopped and (self.has_work or self._gate.is_expecting)

    @property
    def is_pressing(self) -> bool:
        """Whether this node has fresh units for relayers that have allowance."""
        return self._giving.is_pressing

    def set_writable(self, peer: PeerId, *, is_writable: bool) -> None:
        """Notes whether a peer may be handed a push: none is under way to it."""
        member = self._state.members.find(peer)
        if member is not None and member.is_writable != is_writable:
            self._giving.set_writable(member, is_writable=is_writable)

    def set_uplink_idle(self, *, is_idle: bool) -> None:
        """Notes whether the uplink is about to have nothing to send, as far as is known."""
        self._giving.is_uplink_idle = is_idle

    def next_push(self, now: float) -> list[RelayEffect]:
        """Chooses the next push.

        Returns:
            Effects to be executed in order; the last is a `SendPush` if there is anything to push.
        """
        self._state.effects = []
        if not self._is_stopped:
            push = self._giving.next_push(now) if self._giving.may_push else None
            self._act(now)
            if push is not None:
                self._state.effects.append(push)
        return self._state.effects

    # Time ----------------------------------------------------------------------------------------

    def _act(self, now: float) -> None:
        self._giving.act(now)
        self._state.has_relayed = self._state.has_relayed or bool(self._giving.seeders)
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
