"""Sybils among the members of a gossip topic: the test plans of the gossipsub 1.1 evaluation.

The evaluation (Vyzovitis and others, PL-TechRep-2020-001) asks that news reach everybody within
6 s and that meshes recover within a minute. The Sybils are members, which takes as many
confirmations by owners; strangers are not admitted to gossip at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from typing import Final

import trio

from swarmd.net.guards import quiet_logging
from swarmd.simulation.attacks.attack import AttackResult, at_least, at_most
from swarmd.simulation.byzantine.gossip_mob import GossipMob, Judge, helpful, silent
from swarmd.simulation.daemons.runtime import run_simulated
from swarmd.simulation.gossip_sybil import GossipSybil
from swarmd.simulation.gossip_world import GENUINE, GossipWorld, HonestNode, gossip_world

DEADLINE_S: Final = 6.0
"""Within which news must arrive."""
SHARE: Final = 0.99
"""Part of all pairs of a message and an honest node for which it must."""
RECOVERED_S: Final = 60.0
"""Within which the part must be reached again after an attack has begun."""
WARM_UP_S: Final = 5.0
"""How long honest nodes are alone in a plan that attacks a running network."""


class Start(Enum):
    """When the Sybils come."""

    LATER = auto()
    """When the honest network runs."""
    TOGETHER = auto()
    """While honest nodes connect to each other."""
    FIRST = auto()
    """Every honest node knows them before it knows an honest one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Siege:
    """Who, how many, and what they do."""

    honest: int
    """Production nodes."""
    sybils: int
    """Sybils."""
    degree: int = 5
    """Honest nodes that each honest node dials; it is dialed by about as many."""
    links: int = 10
    """Targets that each Sybil connects to."""
    targets: int | None = None
    """The first so many honest nodes are attacked; None: all."""
    publishers: int | None = None
    """The first so many honest nodes publish in turns; None: all."""
    judge: Judge = field(default=silent)
    """What Sybils do with messages."""
    start: Start = Start.LATER
    """When they come."""
    lures: bool = False
    """Whether they offer messages that do not exist."""
    flash_s: float | None = None
    """They pass everything on for so long, and only then begin; None: they begin at once."""
    messages: int = 8
    """Messages published, one a second, once the attack has begun."""
    watched: int | None = None
    """Whether the first so many must hear, and others need not; None: all must."""

    def run(self, seed: int) -> AttackResult:
        """Against the production gossip."""
        return run_simulated(partial(_play, self, seed), seed=seed)

    def control(self, seed: int) -> AttackResult:
        """Against nodes that push to their mesh and do nothing else."""
        return run_simulated(partial(_play, self, seed, is_pushing=True), seed=seed)


@dataclass(frozen=True, slots=True)
class Published:
    """A message, when and by whom it was published."""

    data: bytes
    at_s: float
    author: HonestNode

    def latency_s(self, node: HonestNode) -> float:
        """How long it took to reach a node, seconds; infinite: it did not."""
        return node.heard.at_s.get(self.data, math.inf) - self.at_s


async def _play(siege: Siege, seed: int, *, is_pushing: bool = False) -> AttackResult:
    quiet_logging()
    mob = GossipMob(judge=siege.judge if siege.flash_s is None else helpful)
    mob.is_luring = siege.lures
    async with gossip_world(seed) as world:
        for _ in range(siege.honest):
            await world.add(is_pushing=is_pushing)
        if siege.start is Start.FIRST:
            await _enter(world, mob, siege)
            await trio.sleep(1.0)
        await world.join(world.honest, siege.degree)
        if siege.start is Start.LATER:
            await trio.sleep(WARM_UP_S)
        if siege.start is not Start.FIRST:
            await _enter(world, mob, siege)
        if siege.flash_s is not None:
            await trio.sleep(siege.flash_s)
            mob.judge = siege.judge
        attacked_s = trio.current_time()
        sent = await _publish(world, siege)
        await trio.sleep(DEADLINE_S + 0.5)
        return _judged(sent, world.honest[: siege.watched], attacked_s, mob)


async def _enter(world: GossipWorld, mob: GossipMob, siege: Siege) -> None:
    """Connects all Sybils with honest nodes they choose."""
    targets = world.honest[: siege.targets]
    for number in range(siege.sybils):
        sybil = GossipSybil(world, mob, number)
        for target in world.chance.sample(targets, min(siege.links, len(targets))):
            mob.entries += 1
            await world.connect(sybil, target)


async def _publish(world: GossipWorld, siege: Siege) -> list[Published]:
    authors = world.honest[: siege.publishers]
    sent: list[Published] = []
    for number in range(siege.messages):
        author = authors[number % len(authors)]
        data = GENUINE + b"%d by %d" % (number, author.number)
        sent.append(Published(data, trio.current_time(), author))
        await author.publish(data)
        await trio.sleep(1.0)
    return sent


def share_in_time(sent: Sequence[Published], nodes: Sequence[HonestNode]) -> float:
    """The part of all pairs of a message and a node, not its author, that met in time."""
    pairs = [(message, node) for message in sent for node in nodes if node is not message.author]
    in_time = sum(message.latency_s(node) <= DEADLINE_S for message, node in pairs)
    return in_time / max(len(pairs), 1)


def _judged(
    sent: Sequence[Published], nodes: Sequence[HonestNode], attacked_s: float, mob: GossipMob
) -> AttackResult:
    late = [message for message in sent if share_in_time([message], nodes) < SHARE]
    recovered_s = late[-1].at_s + 1.0 - attacked_s if late else 0.0
    return AttackResult(
        verdicts=(
            at_least(f"told within {DEADLINE_S:g} s", SHARE, share_in_time(sent, nodes)),
            at_most("recovered after", RECOVERED_S, recovered_s, "s"),
        ),
        attempts=mob.entries if mob.withheld or mob.offers else 0,
    )
