"""Attacks of the family `Family.EXCHANGE`: peers that send wrong chunks, none, or too many."""

from __future__ import annotations

from functools import partial
from typing import Final

from swarmd.simulation.attacks import exchange_pull as pull
from swarmd.simulation.attacks.attack import Attack, AttackResult, Family, at_most
from swarmd.simulation.attacks.exchange_relay import (
    SMALL_BYTES,
    RelaySiege,
    run_free_riders,
    run_greedy,
    run_push_flood,
)
from swarmd.simulation.byzantine.claiming_relayer import ClaimingRelayer
from swarmd.simulation.byzantine.false_complainer import FalseComplainer
from swarmd.simulation.byzantine.free_rider import FreeRider
from swarmd.simulation.byzantine.lying_relayer import LyingRelayer
from swarmd.simulation.byzantine.mute_relayer import MuteRelayer
from swarmd.simulation.byzantine.push_corrupter import PushCorrupter
from swarmd.simulation.byzantine.stalling_relayer import StallingRelayer
from swarmd.simulation.scenario_file import load_scenario
from swarmd.simulation.swarm import run_scenario

_EXCHANGE: Final = Family.EXCHANGE


def _siege(
    name: str,
    siege: RelaySiege,
    *,
    known_as: str,
    attacker: str,
    counter: str,
    is_long: bool = True,
) -> Attack:
    return Attack(
        name=name,
        family=_EXCHANGE,
        known_as=known_as,
        attacker=attacker,
        counter=counter,
        run=siege.run,
        control=siege.control if siege.cut_max is not None else None,
        is_long=is_long,
    )


def run_rollout(seed: int) -> AttackResult:
    """Three gateways in ten spoil every chunk during a whole rollout, consensus and all."""
    outcome = run_scenario(load_scenario("corrupters"), seed)
    bad = sum(sample.bad_bytes for sample in outcome.samples[-1:])
    chunks = bad // (outcome.nodes and 16 * 1024)
    pairs = outcome.bad_members * (outcome.nodes - outcome.bad_members)
    most = at_most("bad chunks for each pair of a liar and a victim", 4.0, chunks / pairs)
    return AttackResult(verdicts=(*outcome.verdicts, most), attempts=chunks)


_PULLED: Final = (
    Attack(
        name="chunk-corrupters",
        family=_EXCHANGE,
        known_as="pollution: Liang and others, INFOCOM 2005",
        attacker="three of ten peers answer in time and in full, one bit wrong in each chunk",
        counter="a chunk is hashed before it is kept; who sent it is asked no more (X25)",
        run=pull.run_corrupters,
        control=partial(pull.run_corrupters, host=pull.TrustingHost),
        is_long=True,
    ),
    Attack(
        name="page-forgers",
        family=_EXCHANGE,
        known_as="forged piece hashes (BEP 30, BEP 52)",
        attacker="three of ten peers serve well-formed recipe pages of another image",
        counter="a page is proved against the manifest's root before anything is kept (X25)",
        run=pull.run_page_forgers,
        control=partial(pull.run_page_forgers, host=pull.TrustingHost),
    ),
    Attack(
        name="misdealing-peers",
        family=_EXCHANGE,
        known_as="wrong blocks of the right piece",
        attacker="three of ten peers send genuine chunks under wrong indices, short, or unasked",
        counter="lengths are the recipe's, every answer names an open request (X20, X25, X26)",
        run=pull.run_misdealers,
        control=partial(pull.run_misdealers, host=pull.TrustingHost),
    ),
    Attack(
        name="endless-sender",
        family=_EXCHANGE,
        known_as="endless data",
        attacker="three of ten peers repeat each answer fifty times",
        counter="every index is answered once, a second answer ends the stream (X20, X26, X44)",
        run=pull.run_endless,
    ),
    Attack(
        name="possession-liars",
        family=_EXCHANGE,
        known_as="fake-block and uncooperative-peer attack: Dhungel and others, IPTPS 2008",
        attacker="three of ten peers claim the whole image, then reject, keep busy or say nothing",
        counter="a reject frees a chunk at once, patience ends after 5 s (X13, X41, X43)",
        run=pull.run_claimers,
    ),
    Attack(
        name="stallers",
        family=_EXCHANGE,
        known_as="chatty or silent peers",
        attacker="three of ten peers take requests and never answer with a chunk",
        counter="an overdue request's chunks are asked of others, its peer of nothing (X41)",
        run=pull.run_stallers,
    ),
    Attack(
        name="drip-feeders",
        family=_EXCHANGE,
        known_as="slow retrieval",
        attacker="three of ten peers do everything right, at a thousand bytes a second",
        counter="a peer's window is what it delivers in two round trips; endgame (X40, X43)",
        run=pull.run_drips,
    ),
    Attack(
        name="rotting-disks",
        family=_EXCHANGE,
        known_as="framing of honest peers",
        attacker="nobody: on three of ten honest disks every third chunk has rotted",
        counter="what does not match is rejected, not sent, and a reject is no offence (X27)",
        run=pull.run_rot,
        control=partial(pull.run_rot, is_checked=False),
    ),
    Attack(
        name="outsider-probes",
        family=_EXCHANGE,
        known_as="membership and content probing",
        attacker="a member of another group asks for an image it may not know of",
        counter="the same bytes whether the manifest exists here or not (X21, X22)",
        run=pull.run_outsider,
        control=partial(pull.run_outsider, is_asked=False),
    ),
)
_RELAYED: Final = (
    _siege(
        "push-corrupters",
        RelaySiege(kinds=(PushCorrupter,), image_bytes=SMALL_BYTES, cut_max=1),
        known_as="pollution: 3 of 32 peers cost others up to 415 %, Dhungel and others 2008",
        attacker="three of ten relayers pass units on in time, one bit wrong in each chunk",
        counter="one chunk that does not match cuts its sender for good (RL12, RL15, RL29)",
        is_long=False,
    ),
    _siege(
        "lying-relayers",
        RelaySiege(kinds=(LyingRelayer,), image_bytes=SMALL_BYTES),
        known_as="false reporting of contributions",
        attacker="three of ten relayers return a credit for every unit and pass none on",
        counter="a credit counts when a third member has announced the unit (RL27, RL28)",
        is_long=False,
    ),
    _siege(
        "mute-relayers",
        RelaySiege(kinds=(MuteRelayer,)),
        known_as="uncooperative peers",
        attacker="three of ten relayers take everything and pass nothing on",
        counter="units go to relayers that credit; the uncredited are given out again (RL26, RL28)",
    ),
    _siege(
        "claiming-relayers",
        RelaySiege(kinds=(ClaimingRelayer,)),
        known_as="fake seeders",
        attacker="three of ten relayers say at once that they hold everything, and send nothing",
        counter="a seeder gives on; chunks that do not come are asked of others (RL21, RL41, X41)",
    ),
    _siege(
        "stalling-relayers",
        RelaySiege(kinds=(StallingRelayer,)),
        known_as="delay attack",
        attacker="three of ten relayers credit at once and pass units on five seconds late",
        counter="what was told of and does not come is pulled after the repair delay (RL40, RL41)",
    ),
    _siege(
        "false-complainers",
        RelaySiege(kinds=(FalseComplainer,)),
        known_as="slander, bad-mouthing",
        attacker="three of ten relayers complain to everybody about everybody",
        counter="it takes complaints of max(2, f + 1) distinct members to end a relayer (RL29)",
    ),
    _siege(
        "mixed-relayers",
        RelaySiege(kinds=(PushCorrupter, StallingRelayer, LyingRelayer), cut_max=1),
        known_as="colluding malicious peers",
        attacker="three of ten relayers spoil, stall or lie, a third of them each",
        counter="the rules above together",
    ),
    _siege(
        "free-riders",
        RelaySiege(kinds=(FreeRider,), share=0.4),
        known_as="free-riding: Locher and others, BitThief, 2006",
        attacker="four of ten members say they are leaves, take from all and give nothing",
        counter="a seeder gives each unit to who relays it; leaves get theirs from relayers (RL17)",
    ),
    Attack(
        name="large-view-free-riders",
        family=_EXCHANGE,
        known_as="large view exploit: Sirivianos and others, IPTPS 2007",
        attacker="four of ten members know everybody, where the honest know part, and give nothing",
        counter="no reciprocity to cheat: the honest are served by what they relay (RL16, RL26)",
        run=run_free_riders,
        is_long=True,
    ),
    Attack(
        name="request-flood",
        family=_EXCHANGE,
        known_as="Sybils that take upload slots: Konrath and others, P2P 2007",
        attacker="three of ten members ask everybody for everything, again and again",
        counter="pushes first, then by need; asking for a chunk claims nothing (X51, X52, RL29)",
        run=run_greedy,
        is_long=True,
    ),
    Attack(
        name="push-flood",
        family=_EXCHANGE,
        known_as="unsolicited data",
        attacker="a member pushes genuine units, dozens of MiB more than disks can take",
        counter="2 MiB of one sender wait; who never welcomed a push ends the stream (RL13, RL14)",
        run=run_push_flood,
    ),
    Attack(
        name="corrupters-in-a-rollout",
        family=_EXCHANGE,
        known_as="pollution of an update",
        attacker="three of ten gateways spoil every chunk they send during a rollout",
        counter="the rules above, with validators, owners and ledger news in the same world",
        run=run_rollout,
        is_long=True,
    ),
)

EXCHANGE_ATTACKS: Final[tuple[Attack, ...]] = (*_PULLED, *_RELAYED)
"""In the order of the page."""
