"""A validator's daemon that lies to the others: the real service with another engine and outbox.

`seated` makes, of a `RogueHost` of level machines, one that hands its lies to the daemon's outboxes
instead of a simulated world: `outgoing`, `act` and the engine are those of the class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import trio

from ledger.consensus_messages import Message, encode_message
from ledger.simplex.engine import Simplex
from ledger.simplex.interface import ALL, Effect, Send
from protocol.digest import ChainId
from protocol.keys import PrivateKey
from swarmd.services.consensus_epoch import ConsensusEpoch
from swarmd.simulation.byzantine.boaster import Boaster
from swarmd.simulation.byzantine.double_proposer import DoubleProposer
from swarmd.simulation.byzantine.double_voter import DoubleVoter
from swarmd.simulation.byzantine.half_voter import HalfVoter
from swarmd.simulation.byzantine.mute_validator import MuteValidator
from swarmd.simulation.byzantine.nullifier import Nullifier
from swarmd.simulation.byzantine.rogue import RogueHost
from swarmd.simulation.byzantine.silent_leader import SilentLeader
from swarmd.simulation.byzantine.skipless_proposer import SkiplessProposer
from swarmd.simulation.processes.replacing import replace_in

KINDS: Final[dict[str, type[RogueHost]]] = {
    "boaster": Boaster,
    "double_proposer": DoubleProposer,
    "double_voter": DoubleVoter,
    "half_voter": HalfVoter,
    "mute_validator": MuteValidator,
    "nullifier": Nullifier,
    "silent_leader": SilentLeader,
    "skipless_proposer": SkiplessProposer,
}
"""By name; those that need nothing of a simulated world but messages."""


class Seat(RogueHost):
    """What a rogue host needs of its surroundings, taken from a daemon."""

    def __init__(  # pylint: disable=super-init-not-called
        self, parts: dict[str, Any], engine: Simplex, post: Callable[[int, bytes], None]
    ) -> None:
        """Sits down; there is no world to enter.

        Args:
            parts: what the engine was made of.
            engine: of this epoch.
            post: gives bytes to the outbox for a seat.
        """
        self.engine = engine
        self.epoch = parts["validators"].epoch
        self._chain: Final[ChainId] = parts["chain"]
        self._era: Final[int] = parts["era"]
        self._signer: Final[PrivateKey] = parts["signer"]
        self._seats: Final = len(parts["validators"].members)
        self._own: Final[int] = parts["index"]
        self._post = post

    @property
    def seat(self) -> int | None:
        """Own index in the set."""
        return self._own

    @property
    def others(self) -> list[int]:
        """All seats but the own one."""
        return [seat for seat in range(self._seats) if seat != self._own]

    @property
    def ledger(self) -> tuple[ChainId, int]:
        """The chain and the era that it votes in."""
        return self._chain, self._era

    def sign(self, message: bytes) -> bytes:
        """Signs with the key of this epoch."""
        return self._signer.sign(message)

    def say_in(
        self,
        epoch: int,  # noqa: ARG002 - the daemon's streams name the epoch
        seat: int,
        content: Message | bytes,
        *,
        is_bad: bool = False,  # noqa: ARG002 - nobody marks what is bad over a real network
    ) -> None:
        """Sends something to a seat."""
        self._post(seat, content if isinstance(content, bytes) else encode_message(content))

    def tell(self, to: int, message: Message) -> None:
        """Hands each receiver what `outgoing` makes of the message."""
        for seat in self.others:
            if to in (ALL, seat):
                for item in self.outgoing(seat, message):
                    self.say(seat, item)


def seated(kind: type[RogueHost]) -> type[Seat]:
    """The class of a rogue host that sits in a daemon."""
    return type(kind.__name__, (Seat, kind), {})


def rebel(name: str) -> None:
    """Has the consensus service of this process run rogue epochs from now on."""
    kind = seated(KINDS[name])
    made: dict[str, Any] = {}

    def make_engine(**parts: Any) -> Simplex:
        made.update(parts)
        return kind.engine_type(**parts)

    class RogueEpoch(ConsensusEpoch):
        """One epoch, with a liar between engine and outboxes."""

        def __init__(self, around: Any, **parts: Any) -> None:
            super().__init__(around, **parts)
            self._liar = kind(dict(made), parts["engine"], self._post)

        async def run(self) -> None:
            """Runs the engine, and misbehaves unasked beside it."""
            async with trio.open_nursery() as nursery:
                if self._liar.pause_s is not None:
                    nursery.start_soon(self._keep_acting, self._liar.pause_s)
                await super().run()
                nursery.cancel_scope.cancel()

        async def _keep_acting(self, pause_s: float) -> None:
            while True:
                await trio.sleep(pause_s)
                if self._started:
                    self._liar.act()

        def _start_effect(self, effect: Effect) -> None:
            if isinstance(effect, Send):
                self._liar.tell(effect.to, effect.message)
            else:
                super()._start_effect(effect)

    replace_in("swarmd.services.consensus", "Simplex", make_engine)
    replace_in("swarmd.services.consensus", "ConsensusEpoch", RogueEpoch)
