"""Members that misuse gossip by number: floods, offers of nothing, one address for all.

What may not come of it: that honest news is late, that queues grow beyond their bounds, that honest
peers are punished for where they live.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import trio

from swarmd.net.config import GossipConfig
from swarmd.net.guards import id_of, quiet_logging
from swarmd.simulation.attacks.attack import AttackResult, at_least, at_most, never
from swarmd.simulation.attacks.gossip_runs import DEADLINE_S, SHARE, Published, share_in_time
from swarmd.simulation.byzantine.gossip_mob import GossipMob, helpful
from swarmd.simulation.daemons.runtime import run_simulated
from swarmd.simulation.gossip_sybil import GossipSybil
from swarmd.simulation.gossip_world import GENUINE, TOPIC, GossipWorld, HonestNode, gossip_world

HONEST: Final = 6
"""Production nodes."""
DEGREE: Final = 3
"""Honest nodes that each of them dials."""
FLOODERS: Final = 1
"""Members that flood, each connected with all."""
PER_S: Final = 400
"""Messages a second of each: twice what one peer may send on a topic."""
FLOOD_S: Final = 1.5
"""How long."""
_NEWS: Final = 3


async def _flood(seed: int, data: Callable[[int, int], bytes]) -> AttackResult:
    quiet_logging()
    mob = GossipMob(judge=helpful)
    async with gossip_world(seed) as world:
        for _ in range(HONEST):
            await world.add()
        await world.join(world.honest, DEGREE)
        flooders = [GossipSybil(world, mob, number) for number in range(FLOODERS)]
        for flooder in flooders:
            for node in world.honest:
                await world.connect(flooder, node)
        await trio.sleep(2.0)
        before = [node.heard.count for node in world.honest]
        counts: list[int] = []
        sent: list[Published] = []
        async with trio.open_nursery() as nursery:
            for number, flooder in enumerate(flooders):
                nursery.start_soon(_count_flood, flooder, partial(data, number), counts)
            for number in range(_NEWS):
                author = world.honest[number]
                news = GENUINE + b"news %d" % number
                sent.append(Published(news, trio.current_time(), author))
                await author.publish(news)
                await trio.sleep(FLOOD_S / _NEWS)
        await trio.sleep(DEADLINE_S + 0.5)
        most = max(
            node.heard.count - start for node, start in zip(world.honest, before, strict=True)
        )
        return _judged_flood(world, sent, most, sum(counts))


async def _count_flood(
    flooder: GossipSybil, data: Callable[[int], bytes], counts: list[int]
) -> None:
    counts.append(await flooder.flood(data, per_s=PER_S, seconds=FLOOD_S))


def _judged_flood(world: GossipWorld, sent: list[Published], most: int, tried: int) -> AttackResult:
    limits = GossipConfig()
    # Each of the peers of a node may pass on so much: what one of them refuses another one passes.
    peers = HONEST - 1 + FLOODERS
    bound = peers * limits.messages_per_topic_per_second_max * (FLOOD_S + 1) + len(sent)
    remembered = max(node.gossip.pubsub.seen_messages.length() for node in world.honest)
    punished = sum(
        _score(node, other) < 0
        for node in world.honest
        for other in world.honest
        if node is not other
    )
    return AttackResult(
        verdicts=(
            at_least(
                f"honest news within {DEADLINE_S:g} s", SHARE, share_in_time(sent, world.honest)
            ),
            at_most("messages handed to one service", bound, most),
            at_most("ids remembered at one node", limits.seen_max, remembered),
            never("honest peers punished", punished),
        ),
        attempts=tried,
    )


def _score(node: HonestNode, other: HonestNode) -> float:
    scorer = node.gossip.router.scorer
    assert scorer is not None, "a daemon's router keeps scores"
    return float(scorer.score(id_of(other.key), [TOPIC]))


def run_flood(seed: int) -> AttackResult:
    """Well-formed messages, all different."""
    return run_simulated(
        partial(_flood, seed, lambda who, number: GENUINE + b"flood %d %d" % (who, number)),
        seed=seed,
    )


def run_invalid(seed: int) -> AttackResult:
    """Messages that no validator takes."""
    return run_simulated(
        partial(_flood, seed, lambda who, number: b"forged %d %d" % (who, number)), seed=seed
    )
