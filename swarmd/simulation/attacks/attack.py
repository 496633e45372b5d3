"""What an attack is: who attacks with what, what must hold all the same, and a measuring run.

An attack's run is decided by its seed. It puts an adversary against the production code, in one of
the simulated worlds or against a single machine, and returns verdicts. Where that is possible it
has a `control`: the same attack against a swarm without the defence, which must lose. So nobody
takes an attack that never reached its victim for one that was withstood.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from swarmd.simulation.swarm_outcome import Verdict


class Family(StrEnum):
    """Where an attack is described; also its section in `docs/attacks.md`."""

    UPDATE = "Updates (TUF, Uptane)"
    """What TUF (specification 1.0, section 1.5.2) and Uptane (standard 2.1, 4.2) call attacks."""
    AUTHORITY = "Keys and owners"
    """Stolen keys, and members that use their own against everybody."""
    LEDGER = "Ledger"
    """Validators, blocks, state."""
    EXCHANGE = "Exchange of chunks (BitTorrent)"
    """Peers that send wrong chunks, none, or too many."""
    GOSSIP = "Gossip and discovery (gossipsub, eclipse)"
    """Spreading of news, choice of peers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackResult:
    """What an attack came to with one seed."""

    verdicts: tuple[Verdict, ...]
    """What was measured against its bound; at least one."""
    attempts: int
    """How often the adversary tried: wrong chunks sent, forged blocks shown, and so on; above 0."""

    @property
    def held(self) -> bool:
        """Whether every promise was kept."""
        return all(verdict.passed for verdict in self.verdicts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """See the module's docstring."""

    name: str
    """Lower case, words joined by hyphens."""
    family: Family
    """Its section."""
    known_as: str
    """What the literature calls it, with the source."""
    attacker: str
    """What the attacker holds and does, one sentence."""
    counter: str
    """What withstands it, with the rules of docs/spec that say so; one sentence."""
    run: Callable[[int], AttackResult]
    """Runs it with a seed."""
    control: Callable[[int], AttackResult] | None = None
    """The same attack without the defence: must lose."""
    is_long: bool = False
    """Whether it takes more than about two seconds: then only `make attacks` runs it."""


def never(name: str, count: float) -> Verdict:
    """A verdict on what must not happen even once."""
    return at_most(name, 0, count)


def at_most(name: str, bound: float, measured: float, unit: str = "") -> Verdict:
    """A verdict on what may not exceed a bound; infinite: it never came to an end."""
    return Verdict(
        name=name,
        bound=bound,
        measured=measured if math.isfinite(measured) else None,
        unit=unit,
        failed_s=None if measured <= bound else 0.0,
    )


def at_least(name: str, bound: float, measured: float, unit: str = "") -> Verdict:
    """A verdict on what may not fall short of a bound."""
    return Verdict(
        name=name,
        bound=bound,
        measured=measured,
        unit=unit,
        is_minimum=True,
        failed_s=None if measured >= bound else 0.0,
    )
