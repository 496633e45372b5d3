"""Attacks of the family `Family.GOSSIP`: spreading of news, choice of peers."""

from __future__ import annotations

from functools import partial
from typing import Final

from swarmd.net.dial_plan import Origin
from swarmd.simulation.attacks.attack import Attack, Family
from swarmd.simulation.attacks.gossip_connections import run_poison, run_slander, run_strangers
from swarmd.simulation.attacks.gossip_daemons import run_withholders
from swarmd.simulation.attacks.gossip_floods import run_flood, run_invalid
from swarmd.simulation.attacks.gossip_runs import Siege, Start
from swarmd.simulation.byzantine.gossip_mob import censoring, degrading

_GOSSIP: Final = Family.GOSSIP
_PLAN: Final = "gossipsub 1.1 evaluation, PL-TechRep-2020-001, section"
_MANY: Final = 180
"""Sybils at one node: with its honest peers they fill the 192 places of members."""


def _siege(
    name: str,
    siege: Siege,
    *,
    known_as: str,
    attacker: str,
    counter: str,
    control: Siege | None = None,
    is_long: bool = True,
) -> Attack:
    return Attack(
        name=name,
        family=_GOSSIP,
        known_as=f"{_PLAN} {known_as}",
        attacker=attacker,
        counter=counter,
        run=siege.run,
        control=None if control is None else control.control,
        is_long=is_long,
    )


_SYBILS: Final = (
    _siege(
        "gossip-eclipse",
        Siege(honest=12, sybils=36, messages=6),
        known_as="8, in small",
        attacker="three Sybils for each honest member enter every mesh and pass nothing on",
        counter="news is offered to all peers outside the mesh, those pruned from it too",
        control=Siege(honest=12, sybils=36, messages=6),
        is_long=False,
    ),
    _siege(
        "gossip-eclipse-one",
        Siege(honest=100, sybils=_MANY, targets=1, watched=1),
        known_as="7: eclipse of a single target",
        attacker="180 Sybils fill the places of one member, beside 100 honest ones",
        counter="its honest peers, which it dials itself, offer it what its mesh keeps back",
    ),
    _siege(
        "gossip-eclipse-all",
        Siege(honest=100, sybils=400),
        known_as="8: eclipse of the entire network",
        attacker="400 Sybils, each at ten of 100 honest members, pass nothing on",
        counter="as above; own news goes to twelve more peers besides the mesh",
        control=Siege(honest=16, sybils=48),
    ),
    _siege(
        "gossip-eclipse-publishers",
        Siege(honest=100, sybils=_MANY, targets=3, publishers=3),
        known_as="9: eclipse of all publishers",
        attacker="180 Sybils at each of the three members that publish",
        counter="as above",
    ),
    _siege(
        "gossip-censorship",
        Siege(honest=100, sybils=400, publishers=1, judge=censoring(b"by 0")),
        known_as="10: censorship of a single target",
        attacker="400 Sybils pass on everything but what one member publishes",
        counter="as above: what a peer does not pass on another one offers",
        control=Siege(honest=16, sybils=48, publishers=1, judge=censoring(b"by 0")),
    ),
    _siege(
        "gossip-degradation",
        Siege(honest=100, sybils=400, judge=degrading(1)),
        known_as="11: network degradation",
        attacker="400 Sybils drop half of what they are given and delay the rest by 4 s",
        counter="as above",
    ),
    _siege(
        "gossip-cold-boot",
        Siege(honest=100, sybils=400, start=Start.TOGETHER),
        known_as="12: cold boot",
        attacker="400 Sybils connect while the honest members start",
        counter="as above; no mesh was warm before",
        control=Siege(honest=16, sybils=48, start=Start.TOGETHER),
    ),
    _siege(
        "gossip-covert-flash",
        Siege(honest=100, sybils=400, flash_s=8.0),
        known_as="13: covert flash",
        attacker="400 Sybils serve well for eight seconds and fall silent at one moment",
        counter="as above: no score that was earned before is needed",
        control=Siege(honest=16, sybils=48, flash_s=8.0),
    ),
    _siege(
        "gossip-attack-at-dawn",
        Siege(honest=100, sybils=400, start=Start.FIRST),
        known_as="14: attack at dawn",
        attacker="every honest member meets the Sybils before it meets an honest one",
        counter="as above",
        control=Siege(honest=16, sybils=48, start=Start.FIRST),
    ),
    _siege(
        "gossip-lures",
        Siege(honest=8, sybils=8, links=8, messages=6, lures=True),
        known_as="3, IHAVE spam; gossipsub 1.1, section on broken promises",
        attacker="Sybils offer 64 messages a second that do not exist, and pass nothing on",
        counter="offers a second are limited for each peer, and every offer is asked for once",
    ),
    Attack(
        name="gossip-withholders",
        family=_GOSSIP,
        known_as="news blackout, indefinite freeze by silence",
        attacker="no daemon publishes or passes on gossip, validators and publisher included",
        counter="followers ask by themselves; hello and freshness answers tell of heights",
        run=run_withholders,
        is_long=True,
    ),
    Attack(
        name="gossip-flood",
        family=_GOSSIP,
        known_as="message spam; libp2p DoS mitigation guide",
        attacker="a member publishes 400 well-formed messages a second, all different",
        counter="200 a second of each peer on a topic, a bounded queue, no blame for relaying",
        run=run_flood,
        is_long=True,
    ),
    Attack(
        name="gossip-forgeries",
        family=_GOSSIP,
        known_as=f"{_PLAN} 15: colocation; invalid message spam",
        attacker="a member behind everybody's address publishes 400 forged messages a second",
        counter="validated before it is relayed; addresses count in no score: fleets share them",
        run=run_invalid,
        is_long=True,
    ),
)
_PEERS: Final = (
    Attack(
        name="stranger-flood",
        family=_GOSSIP,
        known_as="Sybil flood on hello; connection exhaustion",
        attacker="strangers take every place they get, come back twice a second, and come first",
        counter="places by class: strangers have few, give way to each other, not members",
        run=run_strangers,
        control=partial(run_strangers, has_classes=False),
    ),
    Attack(
        name="address-slander",
        family=_GOSSIP,
        known_as="DDoS by peer exchange: Heilman and others, USENIX Security 2015; BEP 11",
        attacker="forty members state eight ports each, all of them a victim's",
        counter="unproven addresses are rationed by host, by peer and in all (U2, U5)",
        run=run_slander,
        control=partial(run_slander, origin=Origin.CONFIGURED),
    ),
    Attack(
        name="bootstrap-poisoning",
        family=_GOSSIP,
        known_as="eclipse by filled address tables: Heilman and others, USENIX Security 2015",
        attacker="peer exchange names 6,000 addresses that nobody answers at",
        counter="what the operator named is always wanted, proven addresses go last (U1, U6, U9)",
        run=run_poison,
    ),
)

GOSSIP_ATTACKS: Final[tuple[Attack, ...]] = (*_SYBILS, *_PEERS)
"""In the order of the page."""
