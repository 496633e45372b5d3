"""State-sync liar: answers newcomers that fetch the state with what is nearly true.

Every lie is made from an honest answer, one thing wrong with each, so that nothing but the check
that this one thing needs can find it. No lie may ever reach a newcomer's store, and each names the
peer that told it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ledger.header import decode_header
from ledger.state_range import StatePage
from protocol.digest import sha256
from protocol.state_messages import StateHeadAnswer

GARBAGE = b"\xff no answer at all"


class StateSyncLiar:
    """Turns honest answers into lies."""

    def heads(self, honest: StateHeadAnswer) -> Iterator[StateHeadAnswer]:
        """Versions that are not final, or not the one their headers commit to."""
        first = decode_header(honest.headers[0])
        for forged in (
            replace(first, state_root=sha256(b"another state")),
            replace(first, log_size=first.log_size + 1),
            replace(first, height=first.height + 1),
        ):
            yield replace(honest, headers=(forged.encoded, *honest.headers[1:]))
        flipped = honest.certificate[:-1] + bytes((honest.certificate[-1] ^ 1,))
        yield replace(honest, certificate=flipped)
        yield replace(honest, certificate=GARBAGE)
        yield replace(honest, log=GARBAGE)
        yield replace(honest, headers=(*honest.headers, honest.headers[0]))

    def pages(self, honest: StatePage) -> Iterator[bytes]:
        """Pages with a value changed, a leaf left out, a leaf invented, or no page at all."""
        key, value = honest.leaves[0]
        rest = honest.leaves[1:]
        yield replace(honest, leaves=((key, value + b"!"), *rest)).encode()
        yield replace(honest, leaves=rest).encode()
        yield replace(honest, leaves=honest.leaves[:-1]).encode()
        yield replace(honest, leaves=(*honest.leaves, (b"invented", b"leaf"))).encode()
        yield honest.encode()[:-1]
        yield GARBAGE
