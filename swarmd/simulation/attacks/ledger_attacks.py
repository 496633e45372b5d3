"""Attacks of the family `Family.LEDGER`: validators, blocks, state."""

from __future__ import annotations

from functools import partial
from typing import Final

from swarmd.simulation import defective_engines as defects
from swarmd.simulation.attacks.attack import Attack, Family
from swarmd.simulation.attacks.ledger_lies import run_anchors, run_state_lies
from swarmd.simulation.attacks.ledger_runs import (
    Siege,
    run_drift,
    run_fork,
    run_mixture,
    run_old_journal,
)

_LEDGER: Final = Family.LEDGER
_EPOCH_MS: Final = 3000


def _siege(name: str, siege: Siege, *, known_as: str, attacker: str, counter: str) -> Attack:
    return Attack(
        name=name,
        family=_LEDGER,
        known_as=known_as,
        attacker=attacker,
        counter=counter,
        run=siege.run,
        control=None if siege.defect is None else siege.control,
    )


_PROPOSERS: Final = (
    _siege(
        "validator-twins",
        Siege(adversary="twin", defect=defects.VoteTwice, convicts=True),
        known_as="Twins, DiemBFT: arXiv 2004.10617",
        attacker="f validators run twice with one key, neither copy knowing of the other",
        counter="quorums intersect in an honest vote, one notarize in a view (C1, C53, C71); two"
        " votes of a view are evidence (C22, C24)",
    ),
    _siege(
        "forking-proposer",
        Siege(adversary="forking_proposer", defect=defects.NoSkipCheck, convicts=True),
        known_as="equivocation and chain fork",
        attacker="f leaders build on old parents with invented skip proofs, or show two blocks",
        counter="a proposal is judged only with N of its parent and U of every view between (C54)",
    ),
    _siege(
        "double-proposer",
        Siege(adversary="double_proposer", defect=defects.VoteTwice, convicts=True),
        known_as="equivocation; commonware's conflicter",
        attacker="f leaders show everybody two blocks for one view and vote for both",
        counter="one slot for each signer, kind and view; the second vote is evidence (C53)",
    ),
    _siege(
        "skipless-proposer",
        Siege(adversary="skipless_proposer", defect=defects.NoSkipCheck),
        known_as="leader that drops notarized blocks",
        attacker="f leaders propose on their last final block with no or invented skip proofs",
        counter="missing certificates are asked for, and without them nobody votes (C15, C54)",
    ),
    _siege(
        "wrong-roots",
        Siege(adversary="wrong_roots", defect=defects.NoVerdict),
        known_as="invalid state transition",
        attacker="f leaders propose blocks with a wrong state, log, size or next set",
        counter="every voter executes a block before it votes (C54, C60)",
    ),
    _siege(
        "oversized-block",
        Siege(adversary="bad_block"),
        known_as="malformed or oversized proposal",
        attacker="f leaders send garbage, half a MiB, another body, a foreign turn, chain or epoch",
        counter="strict decoding with limits before allocation, header rules (C14, C48, C50)",
    ),
    _siege(
        "silent-leader",
        Siege(adversary="silent_leader", defect=defects.NoPatience),
        known_as="censoring or crashed leader",
        attacker="f validators vote like everybody else and show nobody the blocks they lead",
        counter="nullify after 2 delta, the next leader proposes (C56, C60)",
    ),
)
_VOTERS: Final = (
    _siege(
        "nullify-always",
        Siege(adversary="nullifier", defect=defects.NoParentCheck),
        known_as="commonware's nuller and nullify_only",
        attacker="f validators vote to skip every view at once, and for nothing else",
        counter="a skip takes q votes, and f + 1 honest ones are needed for that (C1, C56)",
    ),
    _siege(
        "vote-withholding",
        Siege(adversary="half_voter", defect=defects.NoRetry),
        known_as="split votes; Jepsen's partial delivery",
        attacker="f validators show each vote to one half of the others",
        counter="certificates are asked for and repeated, views wait for them (C62, C63, C91)",
    ),
    _siege(
        "double-voter",
        Siege(adversary="double_voter", convicts=True),
        known_as="double voting",
        attacker="f validators vote for and against everything, openly",
        counter="contradicting votes are evidence and count once, far from a quorum (C22, C53)",
    ),
    _siege(
        "impersonator",
        Siege(adversary="impersonator", defect=defects.TrustVotes),
        known_as="commonware's impersonator",
        attacker="f validators vote and answer start-up questions in the names of others",
        counter="every signature is checked under the key of the seat it names (C31, C48)",
    ),
    _siege(
        "stale-epoch",
        Siege(adversary="stale_epoch", defect=defects.StaleEpoch, epoch_ms=_EPOCH_MS),
        known_as="replay across sets; commonware's outdated and reconfigurer",
        attacker="f validators repeat votes and certificates of past epochs, sign for later ones",
        counter="a vote names its epoch, and a stream carries one epoch only (C20, C49, E19)",
    ),
    _siege(
        "future-view-flood",
        Siege(adversary="future_flooder", defect=defects.UnboundedParking, convicts=True),
        known_as="memory exhaustion",
        attacker="f validators sign votes for views that nobody has reached",
        counter="votes are kept up to 8 views above the current one, one slot each (C53)",
    ),
    _siege(
        "forged-certificate",
        Siege(adversary="certificate_forger", defect=defects.AnySigners),
        known_as="duplicate signers, forged quorum",
        attacker="f validators send certificates of one signature q times, and altered real ones",
        counter="exactly q signatures, each valid under the key its bit names (C30, C31)",
    ),
    _siege(
        "certificate-replay",
        Siege(adversary="certificate_replayer"),
        known_as="replay",
        attacker="f validators send genuine old certificates and blocks, again and again",
        counter="what is known or below the last final view changes nothing (C53, C93)",
    ),
    _siege(
        "evidence-spam",
        Siege(adversary="evidence_spammer", defect=defects.LazyEvidence, convicts=True),
        known_as="false accusation, slashing spam",
        attacker="f leaders accuse the honest with forged votes, and themselves repeatedly",
        counter="both signatures are checked, one conviction a signer and epoch (C14, C24)",
    ),
)
_TIME_AND_KEYS: Final = (
    _siege(
        "clock-ahead",
        Siege(adversary="clock_ahead"),
        known_as="time skew of +1 h",
        attacker="f validators keep every rule by a clock an hour ahead",
        counter="at most 5 s ahead of the voter's clock; timers only ever skip (C52, C60)",
    ),
    _siege(
        "clock-behind",
        Siege(adversary="clock_behind"),
        known_as="time skew of -1 h",
        attacker="f validators keep every rule by a clock an hour behind",
        counter="at most 60 s behind the voter's clock and 250 ms after the parent (C52)",
    ),
    Attack(
        name="clock-drift-beyond-f",
        family=_LEDGER,
        known_as="time skew at f + 1: expected to stop the chain",
        attacker="two of four clocks are an hour wrong",
        counter="no quorum without the others: the chain stands still and never forks (C2, C62)",
        run=run_drift,
    ),
    _siege(
        "retired-keys",
        Siege(adversary="retired_keys", epoch_ms=_EPOCH_MS),
        known_as="long-range attack, posterior corruption",
        attacker="somebody holds all vote keys of the epoch before and goes on with it",
        counter="a closed epoch is over for who saw its end; vote keys are erased (E19, E24)",
    ),
    _siege(
        "restored-snapshots",
        Siege(adversary="restored_validator"),
        known_as="nothing at stake by snapshot",
        attacker="f validators keep every rule, but old snapshots of their disks come back",
        counter="lost votes are asked for before the first vote after every start (C81 to C85)",
    ),
    Attack(
        name="old-journal",
        family=_LEDGER,
        known_as="lost state: Malachite's and Jepsen's journal truncation",
        attacker="an operator puts an old copy of an honest validator's vote journal back",
        counter="the start-up question finds foreign votes and halts the key (C81 to C85)",
        run=run_old_journal,
        control=partial(run_old_journal, engine=defects.NoQuestion),
    ),
    Attack(
        name="mixed-liars",
        family=_LEDGER,
        known_as="Twins with several strategies",
        attacker="two liars of different kinds, drawn by the seed, among seven validators",
        counter="the rules above together; f is all they may be (C1, C2)",
        run=run_mixture,
    ),
    Attack(
        name="fork-by-twins-beyond-f",
        family=_LEDGER,
        known_as="accountable safety: Casper FFG's slashing, Polygraph",
        attacker="two of four validators run twice, on both sides of a cut: they do fork the chain",
        counter="every fork convicts more than f signers and nobody honest (C22 to C25)",
        run=run_fork,
    ),
)
_LIES: Final = (
    Attack(
        name="state-sync-liar",
        family=_LEDGER,
        known_as="poisoned snapshot",
        attacker="a member answers newcomers with versions and pages of state that are nearly true",
        counter="a version is final by certificate, a page hashes to its root (Y11, Y12, Y21, Y24)",
        run=run_state_lies,
        control=partial(run_state_lies, is_checked=False),
    ),
    Attack(
        name="conflicting-anchors",
        family=_LEDGER,
        known_as="split view of a log, RFC 6962 equivocation",
        attacker="a gateway anchors two receipt logs of one size, or signs in another's name",
        counter="both anchors convict their signer, whoever holds them; no other key (D40, D41)",
        run=run_anchors,
    ),
)

LEDGER_ATTACKS: Final[tuple[Attack, ...]] = (*_PROPOSERS, *_VOTERS, *_TIME_AND_KEYS, *_LIES)
"""In the order of the page."""
