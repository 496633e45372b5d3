"""Malicious mirror: answers with what is almost right, for every object there is.

It knows everything that honest peers have sent, and holds no key. Whatever it makes differs from
the honest bytes in at least one bit, so that taking one of its answers is always an error.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

BYTES_ADDED_MAX = 40
"""Most bytes it appends or inserts."""


class MaliciousMirror:
    """Turns honest answers into wrong ones."""

    def __init__(self, chance: random.Random) -> None:
        """Lies as `chance` has it."""
        self._chance = chance

    def altered(self, honest: bytes) -> bytes:
        """One object with something wrong: bits, length, order, or all of it."""
        while True:
            data = self._alter(bytearray(honest))
            if data != honest:
                return data

    def _alter(self, data: bytearray) -> bytes:
        chance = self._chance
        place = chance.randrange(len(data))
        match chance.randrange(6):
            case 0 | 1:
                data[place] ^= 1 << chance.randrange(8)
            case 2:
                del data[place:]
            case 3:
                data[place:place] = chance.randbytes(chance.randint(1, BYTES_ADDED_MAX))
            case 4:
                del data[place : place + chance.randint(1, BYTES_ADDED_MAX)]
            case _:
                other = chance.randrange(len(data))
                data[place], data[other] = data[other], data[place]
        return bytes(data)

    def instead(self, honest: Sequence[bytes], index: int, others: Sequence[bytes]) -> bytes:
        """Something for one place of many: altered, from another place, or from another object."""
        match self._chance.randrange(4):
            case 0:
                wrong = self._chance.choice(honest)
            case 1:
                wrong = self._chance.choice(others)
            case 2:
                wrong = self._chance.randbytes(len(honest[index]))
            case _:
                return self.altered(honest[index])
        return wrong if wrong != honest[index] else self.altered(wrong)
