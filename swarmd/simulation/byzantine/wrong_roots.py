"""Wrong roots: proposes well-formed blocks whose header lies about what executing them yields."""

from __future__ import annotations

from dataclasses import replace

from ledger.block import Block
from ledger.header import Header
from ledger.simplex.interface import Build
from protocol.digest import sha256
from swarmd.simulation.byzantine.rogue import RogueHost

_KINDS = 4


class WrongRoots(RogueHost):
    """Lies about log, state, the number of entries, and the next set, in turn."""

    def _build(self, request: Build) -> Block | None:
        block = super()._build(request)
        if block is None:
            return None
        turn = request.view // len(self.cluster.seats(self.epoch)) % _KINDS
        return replace(block, header=_spoil(block.header, turn))


def _spoil(header: Header, turn: int) -> Header:
    wrong = sha256(b"wrong")
    match turn:
        case 0:
            return replace(header, state_root=wrong)
        case 1:
            return replace(header, log_root=wrong)
        case 2:
            return replace(header, log_size=header.log_size + 1)
        case _:
            return replace(header, next_validators=wrong)
