"""Every adversary by name: what it attacks, in one line, and how to put it into a world.

Tests, campaigns and scenarios choose from here. Which of the four constructors an adversary has
says where it lives: in the seat of a validator (`seat`), among the peers of an exchange (`peer`),
among the members of a transfer over modelled links (`member`), or wherever somebody hands its
forgeries to a machine (`forger`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from protocol.errors import ConfigError
from swarmd.simulation.byzantine.asker import Asker
from swarmd.simulation.byzantine.bad_block import BadBlock
from swarmd.simulation.byzantine.boaster import Boaster
from swarmd.simulation.byzantine.bomb_maker import BombMaker
from swarmd.simulation.byzantine.bundle_mixer import BundleMixer
from swarmd.simulation.byzantine.certificate_forger import CertificateForger
from swarmd.simulation.byzantine.certificate_replayer import CertificateReplayer
from swarmd.simulation.byzantine.chunk_corrupter import ChunkCorrupter
from swarmd.simulation.byzantine.claiming_peer import ClaimingPeer
from swarmd.simulation.byzantine.claiming_relayer import ClaimingRelayer
from swarmd.simulation.byzantine.colluding_validators import ColludingValidators
from swarmd.simulation.byzantine.conflicting_anchors import ConflictingAnchorer
from swarmd.simulation.byzantine.double_proposer import DoubleProposer
from swarmd.simulation.byzantine.double_voter import DoubleVoter
from swarmd.simulation.byzantine.eavesdropper import Eavesdropper
from swarmd.simulation.byzantine.eclipsing_member import EclipsingMember
from swarmd.simulation.byzantine.endless_peer import EndlessPeer
from swarmd.simulation.byzantine.endless_sender import EndlessSender
from swarmd.simulation.byzantine.evidence_spammer import EvidenceSpammer
from swarmd.simulation.byzantine.failure_faker import FailureFaker
from swarmd.simulation.byzantine.false_complainer import FalseComplainer
from swarmd.simulation.byzantine.far_claimer import FarClaimer
from swarmd.simulation.byzantine.forking_proposer import add_forking_proposer
from swarmd.simulation.byzantine.free_rider import FreeRider
from swarmd.simulation.byzantine.freeze_mirror import FreezeMirror
from swarmd.simulation.byzantine.future_flooder import FutureFlooder
from swarmd.simulation.byzantine.gossip_flooder import GossipFlooder
from swarmd.simulation.byzantine.gossip_mob import GossipMob
from swarmd.simulation.byzantine.greedy_peer import GreedyPeer
from swarmd.simulation.byzantine.half_voter import HalfVoter
from swarmd.simulation.byzantine.impersonator import Impersonator
from swarmd.simulation.byzantine.key_hoarder import KeyHoarder
from swarmd.simulation.byzantine.lying_relayer import LyingRelayer
from swarmd.simulation.byzantine.malicious_mirror import MaliciousMirror
from swarmd.simulation.byzantine.mempool_spammer import MempoolSpammer
from swarmd.simulation.byzantine.misdealing_peer import MisdealingPeer
from swarmd.simulation.byzantine.mute_relayer import MuteRelayer
from swarmd.simulation.byzantine.mute_validator import MuteValidator
from swarmd.simulation.byzantine.nullifier import Nullifier
from swarmd.simulation.byzantine.owner_thief import OwnerThief
from swarmd.simulation.byzantine.page_forger import PageForger
from swarmd.simulation.byzantine.patch_liar import PatchLiar
from swarmd.simulation.byzantine.pause_abuser import PauseAbuser
from swarmd.simulation.byzantine.publisher_thief import PublisherThief
from swarmd.simulation.byzantine.push_corrupter import PushCorrupter
from swarmd.simulation.byzantine.push_flooder import PushFlooder
from swarmd.simulation.byzantine.restored_validator import RestoredValidator
from swarmd.simulation.byzantine.retired_keys import RetiredKeys
from swarmd.simulation.byzantine.rollback_mirror import RollbackMirror
from swarmd.simulation.byzantine.rotting_peer import RottingPeer
from swarmd.simulation.byzantine.silent_leader import SilentLeader
from swarmd.simulation.byzantine.skewed_clock import ClockAhead, ClockBehind
from swarmd.simulation.byzantine.skipless_proposer import SkiplessProposer
from swarmd.simulation.byzantine.slanderer import Slanderer
from swarmd.simulation.byzantine.slow_peer import SlowPeer
from swarmd.simulation.byzantine.stale_epoch import StaleEpoch
from swarmd.simulation.byzantine.stalling_peer import StallingPeer
from swarmd.simulation.byzantine.stalling_relayer import StallingRelayer
from swarmd.simulation.byzantine.state_sync_liar import StateSyncLiar
from swarmd.simulation.byzantine.stranger_flooder import StrangerFlooder
from swarmd.simulation.byzantine.twin import add_twins
from swarmd.simulation.byzantine.wrong_roots import WrongRoots
from swarmd.simulation.consensus_cluster import Cluster
from swarmd.simulation.exchange_host import ExchangeHost
from swarmd.simulation.transfer_host import TransferHost


class Plane(StrEnum):
    """What an adversary attacks."""

    CONSENSUS = "consensus"
    """Agreement and progress of the validators."""
    LEDGER = "ledger"
    """What blocks, proofs and evidence say."""
    EXCHANGE = "exchange"
    """The transfer of chunks."""
    GOSSIP = "gossip"
    """The spreading of news."""
    ROLLOUT = "rollout"
    """What gateways install, and when."""
    AUTHORITY = "authority"
    """Who may decide what, with keys that are stolen or used against everybody."""
    UPDATE = "update"
    """What gateways believe of a release, and for how long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adversary:
    """One way to misbehave."""

    name: str
    """How tests and scenarios call it: lower case, words joined by underscores."""
    plane: Plane
    """What it attacks."""
    summary: str
    """One line for help texts and reports."""
    seat: Callable[[Cluster, int], object] | None = None
    """Adds it to a simulated chain in the place of a process, by index."""
    peer: type[ExchangeHost] | None = None
    """Takes the place of an honest `ExchangeHost`."""
    member: type[TransferHost] | None = None
    """Takes the place of an honest `TransferHost`."""
    forger: type[object] | None = None
    """Makes its lies from honest pieces, for worlds without a place for it."""
    is_refused: bool = False
    """Whether honest receivers must refuse, and attribute, some of what it sends."""
    is_convicted: bool = False
    """Whether its own signatures must convict it sooner or later."""
    weight: int = 1
    """How often it is drawn, relative to others of its plane."""


_REFUSED: Final = (
    "bad_block",
    "certificate_forger",
    "clock_ahead",
    "evidence_spammer",
    "impersonator",
    "skipless_proposer",
    "wrong_roots",
)
_CONVICTED: Final = (
    "double_proposer",
    "double_voter",
    "evidence_spammer",
    "future_flooder",
)


def _seat(
    name: str, summary: str, add: Callable[[Cluster, int], object], weight: int = 1
) -> Adversary:
    return Adversary(
        name=name,
        plane=Plane.CONSENSUS,
        summary=summary,
        seat=add,
        is_refused=name in _REFUSED,
        is_convicted=name in _CONVICTED,
        weight=weight,
    )


def _forger(name: str, plane: Plane, summary: str, forger: type[object]) -> Adversary:
    return Adversary(name=name, plane=plane, summary=summary, forger=forger)


def _peer(name: str, summary: str, peer: type[ExchangeHost]) -> Adversary:
    return Adversary(name=name, plane=Plane.EXCHANGE, summary=summary, peer=peer)


def _member(name: str, summary: str, member: type[TransferHost]) -> Adversary:
    return Adversary(name=name, plane=Plane.EXCHANGE, summary=summary, member=member)


_ALL: Final = (
    _seat("twin", "two processes hold one key and know nothing of each other", add_twins, 3),
    _seat("forking_proposer", "leads on old parents, or with two blocks", add_forking_proposer, 3),
    _seat("silent_leader", "votes, but shows nobody the blocks it leads", SilentLeader),
    _seat("nullifier", "votes to skip every view at once", Nullifier),
    _seat("half_voter", "shows each vote to one half of the others", HalfVoter),
    _seat("asker", "asks everybody for everything, all the time", Asker),
    _seat("bad_block", "garbage, oversized blocks, foreign turns", BadBlock),
    _seat("boaster", "claims to be far ahead and helps nobody", Boaster),
    _seat("certificate_forger", "certificates of its own signature, or altered", CertificateForger),
    _seat("certificate_replayer", "genuine old certificates, again and again", CertificateReplayer),
    _seat("double_proposer", "shows everybody two blocks for a view", DoubleProposer),
    _seat("double_voter", "votes for and against everything, openly", DoubleVoter),
    _seat("evidence_spammer", "accuses the honest, and itself repeatedly", EvidenceSpammer),
    _seat("future_flooder", "signs votes for views nobody has reached", FutureFlooder),
    _seat("impersonator", "votes and answers in the names of others", Impersonator),
    _seat("mute_validator", "hears everything and never says a word", MuteValidator),
    _seat("skipless_proposer", "leads without proof that views were skipped", SkiplessProposer),
    _seat("stale_epoch", "says today what was true in an earlier epoch", StaleEpoch),
    _seat("wrong_roots", "proposes blocks with wrong log, state or set", WrongRoots),
    _seat("clock_ahead", "keeps every rule by a clock an hour ahead", ClockAhead),
    _seat("clock_behind", "keeps every rule by a clock an hour behind", ClockBehind),
    _seat("restored_validator", "comes back with old snapshots of its disk", RestoredValidator),
    _seat("retired_keys", "holds all keys of the epoch before and goes on with it", RetiredKeys),
    Adversary(
        name="conflicting_anchors",
        plane=Plane.LEDGER,
        summary="anchors two logs of receipts of one size",
        forger=ConflictingAnchorer,
    ),
    Adversary(
        name="state_sync_liar",
        plane=Plane.LEDGER,
        summary="answers newcomers with what is nearly the state",
        forger=StateSyncLiar,
    ),
    Adversary(
        name="gossip_mob",
        plane=Plane.GOSSIP,
        summary="many members in one hand keep news from the others",
        forger=GossipMob,
    ),
    _peer("chunk_corrupter", "answers in time, with one bit wrong in each chunk", ChunkCorrupter),
    _peer("claiming_peer", "claims everything, holds nothing", ClaimingPeer),
    _peer("endless_peer", "answers each request again and again", EndlessPeer),
    _peer("misdealing_peer", "genuine chunks cut short, under wrong indices", MisdealingPeer),
    _peer("page_forger", "recipe pages that describe another image", PageForger),
    _peer("rotting_peer", "honest, with a disk that rots", RottingPeer),
    _peer("slow_peer", "takes every request, sends a byte a second", SlowPeer),
    _peer("stalling_peer", "takes requests and never answers", StallingPeer),
    _member("claiming_relayer", "claims to hold everything and sends nothing", ClaimingRelayer),
    _member("false_complainer", "complains to everybody about everybody", FalseComplainer),
    _member("free_rider", "takes from everybody, gives and claims nothing", FreeRider),
    _member("greedy_peer", "asks everybody for everything, for ever", GreedyPeer),
    _member("lying_relayer", "credits every unit and passes none on", LyingRelayer),
    _member("mute_relayer", "takes everything, passes nothing on", MuteRelayer),
    _member("push_corrupter", "relays in time, with one bit wrong in each chunk", PushCorrupter),
    _member("push_flooder", "pushes far more than anybody can take", PushFlooder),
    _forger("bomb_maker", Plane.UPDATE, "packs 16 MiB as one chunk", BombMaker),
    _forger("bundle_mixer", Plane.UPDATE, "makes bundles of parts of others", BundleMixer),
    _forger("eavesdropper", Plane.UPDATE, "keeps sealed images and guesses", Eavesdropper),
    _forger("endless_sender", Plane.UPDATE, "sends what never ends", EndlessSender),
    _forger("colluding_validators", Plane.AUTHORITY, "certify what suits", ColludingValidators),
    _forger("eclipsing_member", Plane.AUTHORITY, "the only peer; keeps news back", EclipsingMember),
    _forger("failure_faker", Plane.ROLLOUT, "one site reports failures only", FailureFaker),
    _forger("key_hoarder", Plane.AUTHORITY, "another history, of retired keys", KeyHoarder),
    _forger("mempool_spammer", Plane.LEDGER, "fills mempool and blocks", MempoolSpammer),
    _forger("owner_thief", Plane.AUTHORITY, "decides with too few owner keys", OwnerThief),
    _forger("pause_abuser", Plane.ROLLOUT, "pauses everything, again and again", PauseAbuser),
    _forger("publisher_thief", Plane.AUTHORITY, "publishes with stolen keys", PublisherThief),
    _forger("slanderer", Plane.AUTHORITY, "one owner's many names complain", Slanderer),
    _forger("far_claimer", Plane.UPDATE, "signs blocks and heights far ahead", FarClaimer),
    _forger("gossip_flooder", Plane.GOSSIP, "fills every topic with noise", GossipFlooder),
    _forger("stranger_flooder", Plane.GOSSIP, "strangers say nonsense at hello", StrangerFlooder),
    _forger("freeze_mirror", Plane.UPDATE, "withholds news, repeats old vows", FreezeMirror),
    _forger("malicious_mirror", Plane.UPDATE, "alters whatever it hands on", MaliciousMirror),
    _forger("patch_liar", Plane.UPDATE, "patches that make something else", PatchLiar),
    _forger("rollback_mirror", Plane.UPDATE, "repeats all that was once true", RollbackMirror),
    _member("stalling_relayer", "does everything right, seconds late", StallingRelayer),
)

ADVERSARIES: Final[Mapping[str, Adversary]] = MappingProxyType({item.name: item for item in _ALL})
"""All adversaries, by name."""


def adversary(name: str) -> Adversary:
    """Finds an adversary.

    Raises:
        ConfigError: there is none of this name; the message lists those that exist.
    """
    found = ADVERSARIES.get(name)
    if found is None:
        raise ConfigError(f"no adversary {name!r}; there are: {', '.join(sorted(ADVERSARIES))}")
    return found


def of_plane(plane: Plane) -> tuple[Adversary, ...]:
    """All adversaries that attack a plane, in the order of the catalogue."""
    return tuple(item for item in ADVERSARIES.values() if item.plane is plane)


def draw_adversary(chance: random.Random, *, plane: Plane = Plane.CONSENSUS) -> Adversary:
    """Draws one by weight, among those that can be put into a world of this plane."""
    among = of_plane(plane)
    return chance.choices(among, [item.weight for item in among])[0]
