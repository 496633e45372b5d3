"""Bad blocks: garbage, oversized, with a body the header does not commit to, in a foreign turn."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ledger.block import Block
from ledger.consensus_messages import MESSAGE_BYTES_MAX, Message, Propose
from protocol.digest import ChainId, sha256
from protocol.encoding import Value, encode_canonical
from swarmd.simulation.byzantine.rogue import GARBAGE, RogueHost

_KINDS = 6


class BadBlock(RogueHost):
    """Spoils every proposal, in another way in each turn and for each receiver."""

    def outgoing(self, seat: int, message: Message) -> Iterable[Message | bytes]:
        """Replaces proposals."""
        if not isinstance(message, Propose):
            return super().outgoing(seat, message)
        turn = seat + message.block.header.view // len(self.cluster.seats(self.epoch))
        return (_spoil(message.block, turn % _KINDS),)

    def is_bad(self, content: Message | bytes) -> bool:
        """None of its proposals is valid."""
        return isinstance(content, Propose | bytes)


def _spoil(block: Block, turn: int) -> Message | bytes:
    header = block.header
    match turn:
        case 0:
            return GARBAGE
        case 1:
            return encode_canonical([1, bytes(MESSAGE_BYTES_MAX)])
        case 2:
            filler: list[Value] = [b"not in the root"]
            return encode_canonical(
                [1, encode_canonical({0: header.encoded, 1: filler, 2: [], 3: []})]
            )
        case 3:
            return Propose(replace(block, header=replace(header, view=header.view + 1)))
        case 4:
            foreign = ChainId(sha256(b"another chain"))
            return Propose(replace(block, header=replace(header, chain=foreign)))
        case _:
            return Propose(replace(block, header=replace(header, epoch=header.epoch + 1)))
