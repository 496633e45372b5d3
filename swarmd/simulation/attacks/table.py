"""All attacks, and the page that shows what became of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from protocol.errors import ConfigError
from swarmd.simulation.attacks.attack import Attack, AttackResult, Family
from swarmd.simulation.attacks.authority_attacks import AUTHORITY_ATTACKS
from swarmd.simulation.attacks.exchange_attacks import EXCHANGE_ATTACKS
from swarmd.simulation.attacks.gossip_attacks import GOSSIP_ATTACKS
from swarmd.simulation.attacks.ledger_attacks import LEDGER_ATTACKS
from swarmd.simulation.attacks.update_attacks import UPDATE_ATTACKS
from swarmd.simulation.swarm_outcome import Verdict, text_of

_ALL: Final[tuple[Attack, ...]] = (
    *UPDATE_ATTACKS,
    *AUTHORITY_ATTACKS,
    *LEDGER_ATTACKS,
    *EXCHANGE_ATTACKS,
    *GOSSIP_ATTACKS,
)

ATTACKS: Final[Mapping[str, Attack]] = MappingProxyType({item.name: item for item in _ALL})
"""All attacks by name, in the order of the page."""

_HEAD: Final = """\
# Attacks, and what becomes of them

Made by `make attacks`; do not edit. Each row is a run of the production code against an adversary,
decided by its seed. *Control* says what the same attack does to a swarm without the defence, which
must lose: else the attack never reached its victim. Run one: `swarmd sim --attack NAME --seed S`.
What is promised to whom is in [threat-model.md](threat-model.md).
"""


def attack(name: str) -> Attack:
    """Finds an attack.

    Raises:
        ConfigError: there is none of this name; the message lists those that exist.
    """
    found = ATTACKS.get(name)
    if found is None:
        raise ConfigError(f"no attack {name!r}; there are: {', '.join(ATTACKS)}")
    return found


def render(results: Mapping[str, tuple[AttackResult, AttackResult | None]]) -> str:
    """The page: one section for each family, one row for each attack that was run.

    Args:
        results: by name, what the attack and its control came to.
    """
    parts = [_HEAD]
    for family in Family:
        rows = [
            _row(item, *results[item.name])
            for item in ATTACKS.values()
            if item.family is family and item.name in results
        ]
        if rows:
            parts.append(f"## {family}\n\n{_table(rows)}")
    return "\n".join(parts)


def _row(item: Attack, result: AttackResult, control: AttackResult | None) -> tuple[str, ...]:
    measured = "; ".join(_said(verdict) for verdict in result.verdicts)
    lost = "-"
    if control is not None:
        broken = [verdict.name for verdict in control.verdicts if not verdict.passed]
        lost = f"loses ({', '.join(broken)})" if broken else "**does not lose**"
    name = f"**{item.name}** ({item.known_as})"
    verdict = measured if result.held else f"**broken**: {measured}"
    return (name, item.attacker, item.counter, f"{result.attempts}", verdict, lost)


def _said(verdict: Verdict) -> str:
    sign = "≥" if verdict.is_minimum else "≤"
    measured = f"{text_of(verdict.measured)} {verdict.unit}".rstrip()
    return f"{verdict.name} {measured} ({sign} {verdict.bound:g})"


def _table(rows: Iterable[tuple[str, ...]]) -> str:
    head = ("attack", "the attacker", "what stops it", "tries", "measured (bound)", "control")
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
