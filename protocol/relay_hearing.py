"""What members say of themselves: their part, what they hold; and that they come and go."""

from __future__ import annotations

from protocol.errors import LocalProtocolError
from protocol.exchange_events import ExchangeOffenceError, Offence, PeerId
from protocol.relay_chunks import bit_runs
from protocol.relay_events import SendPossession
from protocol.relay_gate import PullGate
from protocol.relay_giving import Giving
from protocol.relay_members import HOLDING, Member
from protocol.relay_messages import Ready, Role, Run
from protocol.relay_state import RelayState


class Hearing:
    """See the module's docstring. Passes on what concerns the gate and the giving side."""

    def __init__(self, state: RelayState, gate: PullGate, giving: Giving) -> None:
        """Starts without members."""
        self._state = state
        self._gate = gate
        self._giving = giving
        self._banned: dict[PeerId, None] = {}

    def joined(self, peer: PeerId) -> None:
        """Adds a peer, unless it is banned, and tells it this node's part."""
        if self._state.members.find(peer) is not None:
            raise LocalProtocolError("a peer joined twice")
        if peer in self._banned:
            return
        member = self._state.members.join(peer)
        if member is not None:
            # Without roles, too: whoever holds the manifest begins to take part by hearing of it.
            self._state.tell_ready(member)
            self._giving.joined()

    def left(self, peer: PeerId, now: float) -> None:
        """Forgets a peer: what it had to do is done by others."""
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

    def banned(self, peer: PeerId, now: float) -> None:
        """Forgets a peer for good."""
        self._banned[peer] = None
        self.left(peer, now)

    def ready(self, member: Member, message: Ready, now: float) -> None:
        """Takes what a member says of itself.

        Raises:
            ExchangeOffenceError: it names what the manifest does not have; nothing has changed.
        """
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
            state.has_relayed = True
        # Before anybody's possession is told: what may be pushed soon is not to be asked for.
        self._gate.seeders_changed(number, now)
        if role in HOLDING:
            if role is Role.HOLDS:
                self._on_holds(member, number, now)
            if state.roles.get(number) is Role.RESUMES:
                self.report(member, number)
        if not member.receives(number):
            self._giving.stopped_receiving(member, number)

    def _on_holds(self, member: Member, number: int, now: float) -> None:
        whole = self._state.whole(number)
        for run in member.known.absent_runs(*whole):
            self._giving.noted(member, run, now)
        member.known.add(*whole)
        self._gate.announced_all(member, number, now)

    def told(self, member: Member, number: int, run: Run, now: float) -> None:
        """Notes that a member told that it holds a run of an object."""
        if self._giving.is_seeding:
            for fresh in member.known.absent_runs(*run):
                self._giving.noted(member, fresh, now)
        member.known.add(*run)
        self._gate.told(member, number, run, now)

    def told_object(self, member: Member, number: int, bits: int, now: float) -> None:
        """Notes what a member told by a bitfield, which replaces what it said before."""
        first, count = self._state.whole(number)
        fresh = bits & ~member.known.window(first, count)
        member.known.remove(first, count)
        member.known.add(first, count, bits)
        member.reported[number] = None
        for run in bit_runs(fresh, first, count):
            self._giving.noted(member, run, now)
        self._giving.review(number, now)
        self._gate.told_object(member, number, bits, now)

    def report(self, member: Member, number: int) -> None:
        """Tells a member that holds all of an object what need not be pushed here."""
        if member.roles.get(number) in HOLDING:
            self._state.effects.append(SendPossession(peer=member.peer, object_number=number))
