"""All attacks, and the page that shows what became of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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

_COLUMNS: Final = (
    "attack", "the attacker", "what stops it", "tries", "measured (bound)", "control", "held",
)  # fmt: skip
"""Of every table."""
_NAMED: Final = re.compile(r"\| \*\*([a-z0-9-]+)\*\* ")
"""How a row begins."""
_BETWEEN: Final = re.compile(r" (?<!\\)\| ")
"""What stands between two cells."""
_HEAD: Final = """\
# Attacks, and what becomes of them

Made by `make attacks`; do not edit. Each row is a run of the production code against an adversary,
decided by its seed; figures are those of seed 1, *held* says with how many seeds every bound was
kept. *Control* says what the same attack does to a swarm without the defence, which must lose: else
the attack never reached its victim. Run one: `swarmd sim --attack NAME --seed S`. What is promised
to whom is in [threat-model.md](threat-model.md).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackRecord:
    """What an attack came to with several seeds."""

    result: AttackResult
    """With the seed that the page shows."""
    control: AttackResult | None
    """What the control came to with it; None: there is none."""
    seeds_held: int
    """With how many seeds every bound was kept, and the control lost."""
    seeds_run: int
    """With how many it was run."""

    @property
    def passed(self) -> bool:
        """Whether it went as it must with every seed."""
        return self.seeds_held == self.seeds_run


def went_as_it_must(result: AttackResult, control: AttackResult | None) -> bool:
    """Whether an attack was tried and withstood, and its control lost."""
    return result.held and result.attempts > 0 and (control is None or not control.held)


def attack(name: str) -> Attack:
    """Finds an attack.

    Raises:
        ConfigError: there is none of this name; the message lists those that exist.
    """
    found = ATTACKS.get(name)
    if found is None:
        raise ConfigError(f"no attack {name!r}; there are: {', '.join(ATTACKS)}")
    return found


def replay_command(name: str, seed: int) -> str:
    """The command line that runs an attack again."""
    return f"swarmd sim --attack {name} --seed {seed}"


def render(records: Mapping[str, AttackRecord], page: str = "") -> str:
    """The page: one section for each family, one row for each attack.

    Args:
        records: what attacks came to, by name.
        page: the page so far; rows of attacks that were not run again are kept.
    """
    kept = rows_of(page)
    parts = [_HEAD]
    for family in Family:
        rows = [
            row(item, records[item.name]) if item.name in records else kept[item.name]
            for item in ATTACKS.values()
            if item.family is family and (item.name in records or item.name in kept)
        ]
        if rows:
            parts.append(f"## {family}\n\n{_table(rows)}")
    return "\n".join(parts)


def rows_of(page: str) -> dict[str, tuple[str, ...]]:
    """The cells of each row of a page, by the attack's name."""
    rows = {}
    for line in page.splitlines():
        named = _NAMED.match(line)
        if named is not None:
            rows[named[1]] = tuple(_BETWEEN.split(line[2:-2]))
    return rows


def row(item: Attack, record: AttackRecord) -> tuple[str, ...]:
    """The cells of an attack's row, as the page shows them."""
    name = f"**{item.name}** ({item.known_as})"
    measured = measured_text(record.result)
    held = f"{record.seeds_held} of {record.seeds_run}"
    lost = control_text(record.control)
    tries = f"{record.result.attempts}"
    cells = (name, item.attacker, item.counter, tries, measured, lost, held)
    return tuple(cell.replace("|", "\\|") for cell in cells)


def measured_text(result: AttackResult) -> str:
    """What was measured against which bounds, in one line."""
    measured = "; ".join(_said(verdict) for verdict in result.verdicts)
    return measured if result.held else f"**broken**: {measured}"


def control_text(control: AttackResult | None) -> str:
    """What the control lost, in one line."""
    if control is None:
        return "-"
    broken = [verdict.name for verdict in control.verdicts if not verdict.passed]
    return f"loses ({', '.join(broken)})" if broken else "**does not lose**"


def _said(verdict: Verdict) -> str:
    sign = "≥" if verdict.is_minimum else "≤"
    measured = f"{text_of(verdict.measured)} {verdict.unit}".rstrip()
    return f"{verdict.name} {measured} ({sign} {verdict.bound:g})"


def _table(rows: Iterable[tuple[str, ...]]) -> str:
    lines = [_COLUMNS, ("---",) * len(_COLUMNS), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
