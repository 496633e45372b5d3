"""What dishonest validators share: the production engine without scruples, and a host that twists.

A rogue runs the real engine, so that the others keep believing in it; `RogueHost.outgoing` sees
every message before it leaves and says what goes out instead, to each seat another lie if it likes.
What it knows to be bad it marks, so that the invariants can tell whether every receiver refused it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Final

from ledger.consensus_messages import Message, encode_message
from ledger.simplex.engine import Simplex
from ledger.simplex.interface import ALL
from ledger.vote import Vote, VoteKind, vote_message
from protocol.digest import BlockId, ChainId
from swarmd.simulation.consensus_cluster import ERA, Cluster
from swarmd.simulation.consensus_events import Tagged
from swarmd.simulation.consensus_host import ConsensusHost

GARBAGE: Final = b"\xff no message at all"
"""Bytes that no decoder takes."""


class Rogue(Simplex):
    """The production engine without what stops an honest operator's mistake."""

    @property
    def may_vote(self) -> bool:
        """It never asks before it votes."""
        return self._started and not self._ended

    def _halt(self, reason: str) -> None:
        """It never stops."""


class RogueHost(ConsensusHost):
    """A process that holds a validator's key and lies."""

    engine_type: ClassVar[type[Simplex]] = Rogue
    """What it runs."""
    skew: ClassVar[int] = 0
    """Error of its wall clock, milliseconds."""
    pause_s: ClassVar[float | None] = None
    """Seconds between two calls of `act`; None: it only reacts."""

    def __init__(self, cluster: Cluster, index: int) -> None:
        """Adds the host in the seat of process `index`."""
        self._act_at = 0.0
        super().__init__(
            cluster, index, engine=self.engine_type, is_honest=False, skew_ms=self.skew
        )

    # -- for subclasses ------------------------------------------------------------------------

    def outgoing(self, _seat: int, message: Message) -> Iterable[Message | bytes]:
        """What leaves instead of a message to a seat; by default the message."""
        return (message,)

    def is_bad(self, _content: Message | bytes) -> bool:
        """Whether what `outgoing` made breaks a rule that any receiver can check at once."""
        return False

    def act(self) -> None:
        """Does something unasked; called every `pause_s` while the host is up and has a seat."""

    def say(self, seat: int, content: Message | bytes, *, is_bad: bool = False) -> None:
        """Sends something to all processes of a seat, tagged with the current epoch.

        Args:
            seat: index of the receiver in the set.
            content: what to send; bytes go out as they are.
            is_bad: it breaks a rule that any receiver can check at once.
        """
        self.say_in(self.epoch, seat, content, is_bad=is_bad)

    def say_in(
        self, epoch: int, seat: int, content: Message | bytes, *, is_bad: bool = False
    ) -> None:
        """Like `say`, tagged with any epoch."""
        cluster = self.cluster
        if cluster.wire and not isinstance(content, bytes):
            content = encode_message(content)
        payload = Tagged(epoch, content, is_bad)
        for actor in cluster.actors[cluster.seats(self.epoch)[seat]]:
            if actor != self.actor:
                cluster.world.send(self.actor, actor, payload)

    def say_all(self, content: Message | bytes, *, is_bad: bool = False) -> None:
        """Sends something to every other seat."""
        for seat in self.others:
            self.say(seat, content, is_bad=is_bad)

    @property
    def others(self) -> list[int]:
        """All seats but the own one."""
        return [seat for seat in range(len(self.cluster.seats(self.epoch))) if seat != self.seat]

    def ballot(
        self,
        kind: VoteKind,
        view: int,
        block_id: BlockId | None,
        *,
        epoch: int | None = None,
        seat: int | None = None,
    ) -> Vote:
        """Signs any vote with the own key.

        Args:
            kind: what to vote.
            view: in which view.
            block_id: for which block; None for nullify.
            epoch: as of which epoch; None: the current one.
            seat: under whose name; None: the own seat, the only one under which it is valid.
        """
        epoch = self.epoch if epoch is None else epoch
        own = self.seat
        assert own is not None, "only a process with a seat votes"
        chain, era = self.ledger
        message = vote_message(chain, era, kind, epoch=epoch, view=view, block_id=block_id)
        return Vote(kind, epoch, view, block_id, own if seat is None else seat, self.sign(message))

    @property
    def ledger(self) -> tuple[ChainId, int]:
        """The chain and the era that it votes in."""
        return self.cluster.chain, ERA

    def sign(self, message: bytes) -> bytes:
        """Signs with the key of the current epoch."""
        return self.cluster.signer(self.index, self.epoch).sign(message)

    # -- host ----------------------------------------------------------------------------------

    def transmit(self, to: int, message: Message) -> None:
        """Hands each receiver what `outgoing` makes of the message."""
        for seat in self.others:
            if to in (ALL, seat):
                for item in self.outgoing(seat, message):
                    self.say(seat, item, is_bad=self.is_bad(item))

    @property
    def deadline(self) -> float | None:
        """The earlier of the engine's deadline and the next misdeed."""
        times = [super().deadline]
        if self.pause_s is not None and self.is_up and self.engine is not None:
            times.append(self._act_at)
        return min((time for time in times if time is not None), default=None)

    def wake(self, now: float) -> None:
        """Misbehaves when it is time, then feeds the timer."""
        if self.pause_s is not None and self.engine is not None and now >= self._act_at:
            self._act_at = now + self.pause_s
            self.act()
        if self.is_up and (self.engine is None or self.engine.deadline is not None):
            super().wake(now)
