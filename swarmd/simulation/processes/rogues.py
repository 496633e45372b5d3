"""Adversaries that exist as processes: which of the catalogue, and in whose place.

A rogue is the daemon itself, with one part of it replaced: what its consensus engine, its exchange
links, its gossip or its store do instead; or it is there twice. It has the keys and the data of the
node whose place it takes, and speaks the real protocols over the real network. What it says instead
of the truth is decided by the class of `byzantine/` that decides it at level machines.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from protocol.errors import ConfigError
from swarmd.simulation.byzantine.catalogue import ADVERSARIES
from swarmd.simulation.byzantine.catalogue import adversary as find_adversary
from swarmd.simulation.scenario import Adversary, Scenario


class Part(StrEnum):
    """Which part of a daemon a rogue replaces."""

    CONSENSUS = "consensus"
    """What a validator votes, proposes and tells other validators."""
    TWIN = "twin"
    """A validator's uniqueness: there are two processes with its keys."""
    EXCHANGE = "exchange"
    """What a gateway sends to those who fetch or relay."""
    STORE = "store"
    """What a gateway reads from its own disk."""
    GOSSIP = "gossip"
    """What a gateway passes on of others' news, or invents."""
    HELLO = "hello"
    """What strangers say who come from a gateway's machine."""


_PARTS: Final = (
    (
        Part.CONSENSUS,
        "boaster",
        "double_proposer",
        "double_voter",
        "half_voter",
        "mute_validator",
        "nullifier",
        "silent_leader",
        "skipless_proposer",
    ),
    (
        Part.EXCHANGE,
        "claiming_relayer",
        "endless_peer",
        "free_rider",
        "lying_relayer",
        "misdealing_peer",
        "mute_relayer",
        "stalling_peer",
        "stalling_relayer",
    ),
    (Part.TWIN, "twin"),
    (Part.STORE, "chunk_corrupter", "push_corrupter"),
    (Part.GOSSIP, "gossip_flooder", "gossip_mob"),
    (Part.HELLO, "stranger_flooder"),
)
ROGUES: Final = MappingProxyType({name: part for part, *names in _PARTS for name in names})
"""By name, the part that each replaces."""


UNASKED: Final = (Part.GOSSIP, Part.HELLO)
"""Parts whose rogues act by themselves, once they are let loose."""


@dataclass(frozen=True, slots=True)
class RogueCount:
    """How many rogues of one kind there are."""

    name: str
    """Of the catalogue."""
    count: int
    """Processes."""
    is_validator: bool
    """Whether they are validators, else gateways."""


def check_rogues(scenario: Scenario) -> None:
    """Refuses adversaries that are no processes, and more than a run can have.

    Raises:
        ConfigError: names the key.
    """
    for number, each in enumerate(scenario.adversaries):
        if each.name not in ROGUES:
            what = f"adversaries[{number}].name"
            try:
                find_adversary(each.name)
            except ConfigError as error:
                raise ConfigError(f"{what}: {error}") from None
            raise ConfigError(
                f"{what}: {each.name!r} is no process; there are: {', '.join(sorted(ROGUES))}"
            )
    found = rogues(scenario)
    limit = (scenario.validators.count - 1) // 3
    bad = sum(each.count for each in found if each.is_validator)
    if bad > limit:
        raise ConfigError(
            f"adversaries: {bad} validators break the rules, {scenario.validators.count} survive "
            f"{limit}; what must break is run at level machines"
        )
    if sum(each.count for each in found if not each.is_validator) >= scenario.gateways.count:
        raise ConfigError("adversaries: no honest gateway")


def rogues(scenario: Scenario) -> tuple[RogueCount, ...]:
    """Kinds of adversaries with their numbers, those of which there are none left out."""
    found = [_count(each, scenario) for each in scenario.adversaries]
    return tuple(each for each in found if each.count)


def count_processes(scenario: Scenario) -> int:
    """Processes beside one for each node: the second ones of twins."""
    return sum(each.count for each in rogues(scenario) if ROGUES[each.name] is Part.TWIN)


def _count(each: Adversary, scenario: Scenario) -> RogueCount:
    is_validator = ROGUES[each.name] in (Part.CONSENSUS, Part.TWIN)
    total = scenario.validators.count if is_validator else scenario.gateways.count
    count = round((each.share or 0.0) * total) if each.count is None else each.count
    return RogueCount(each.name, count, is_validator)


assert set(ROGUES) <= set(ADVERSARIES), "rogues are called as in the catalogue"
