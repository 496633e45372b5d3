"""Gossip mob: what many identities in one hand do with the news they are given.

How they speak is in `swarmd.simulation.gossip_sybil`; here is what they decide: pass on, keep,
delay or choose. It may change at any moment for all of them at once.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

DEGRADED_S: Final = 4.0
"""How late a degrading mob passes on the half that it passes on, seconds."""

Judge = Callable[[bytes], float | None]
"""How late a message of this content is passed on, seconds; None: never."""


def silent(_: bytes) -> float | None:
    """Passes nothing on."""
    return None


def helpful(_: bytes) -> float | None:
    """Passes everything on at once."""
    return 0.0


def censoring(victim: bytes) -> Judge:
    """Passes on everything but what contains a victim's mark."""
    return lambda data: None if victim in data else 0.0


def degrading(seed: int) -> Judge:
    """Drops one half of the messages and delays the other."""
    chance = random.Random(f"degrade {seed}")  # noqa: S311 - replayed by seed, guards nothing
    return lambda _: DEGRADED_S if chance.random() < 0.5 else None


@dataclass(slots=True)
class GossipMob:
    """What all Sybils of one hand have in common."""

    judge: Judge = field(default=silent)
    """What they do with messages, from now on."""
    is_luring: bool = False
    """Whether they offer messages that nobody published, and never deliver them."""
    withheld: int = 0
    """Messages they were given and did not pass on at once."""
    entries: int = 0
    """Connections they made, each to enter a mesh by."""
    offers: int = 0
    """Messages offered that do not exist."""
