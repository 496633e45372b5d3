"""Nothing signed or hashed for one purpose can be shown as something else."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from ledger.vote import VoteKind, vote_message
from protocol.announcement import ANNOUNCEMENT_TAG
from protocol.approval import APPROVAL_TAG
from protocol.catchup import FRESHNESS_TAG
from protocol.cose import parse_signed, sign, signature_input
from protocol.did import SubjectKind, sign_join
from protocol.digest import sha256, tagged_digest
from protocol.enrolment_token import ENROLMENT_TAG
from protocol.errors import SignatureError
from protocol.keys import signing_context
from protocol.manifest import MANIFEST_TAG
from protocol.transaction import TRANSACTION_TAG
from tests.support.strategies import CHAIN, OTHER_CHAIN, PURPOSES, key, subject

COSE_TAGS = (
    MANIFEST_TAG,
    APPROVAL_TAG,
    TRANSACTION_TAG,
    ANNOUNCEMENT_TAG,
    FRESHNESS_TAG,
    ENROLMENT_TAG,
)
ROOT = Path(__file__).parents[2]


def tags_in_sources() -> list[str]:
    """Every domain tag in the three agreed packages, once for each place that spells it out."""
    found: list[str] = []
    for package in ("protocol", "ledger", "chunks"):
        for path in sorted((ROOT / package).rglob("*.py")):
            found += re.findall(r'[ (]"(swarmd/[a-z-]+/[0-9]+)"', path.read_text(encoding="utf-8"))
    return found


def test_no_two_places_use_one_tag() -> None:
    found = tags_in_sources()
    assert set(COSE_TAGS) <= set(found)
    assert sorted(set(found)) == sorted(found)


def test_no_tag_is_the_beginning_of_another() -> None:
    for first, second in itertools.permutations(set(tags_in_sources()), 2):
        assert not second.startswith(first)


@pytest.mark.parametrize("first", COSE_TAGS)
def test_contexts_differ_in_tag_chain_and_era(first: str) -> None:
    contexts = [
        signing_context(tag, chain, era)
        for tag in COSE_TAGS
        for chain in (CHAIN, OTHER_CHAIN)
        for era in (0, 1, 255, 256)
    ]
    assert len(set(contexts)) == len(contexts)
    for one, other in itertools.permutations(contexts, 2):
        assert not other.startswith(one)
    assert signature_input(b"", signing_context(first, CHAIN, 0), b"")[0] == 0x84


def test_votes_and_join_statements_never_look_like_cose() -> None:
    vote = vote_message(CHAIN, 0, VoteKind.NULLIFY, epoch=1, view=1, block_id=None)
    join = signing_context("swarmd/join/1", CHAIN, 0)
    assert vote[0] == join[0] == 0x83  # an array of three, where COSE signs an array of four


def test_a_join_signature_is_no_vote_and_a_vote_no_join() -> None:
    keys = [key(index) for index in range(1, 4)]
    record = subject(SubjectKind.VALIDATOR, 1).record
    statement = sign_join(record, keys)
    voting = keys[2].public
    for kind, block in ((VoteKind.NULLIFY, None), (VoteKind.FINALIZE, sha256(b"b"))):
        message = vote_message(
            CHAIN,
            0,
            kind,
            epoch=1,
            view=1,
            block_id=block,  # type: ignore[arg-type]
        )
        with pytest.raises(SignatureError):
            voting.verify(statement.signatures[2], message)
    assert len(PURPOSES[SubjectKind.VALIDATOR]) == 3


@pytest.mark.parametrize("signed", COSE_TAGS)
@pytest.mark.parametrize("shown", COSE_TAGS)
def test_a_signature_of_one_kind_verifies_as_that_kind_only(signed: str, shown: str) -> None:
    parsed = parse_signed(sign(b"\xa0", key(1), tag=signed, chain=CHAIN, era=0), bytes_max=512)
    if signed == shown:
        parsed.verify(key(1).public, tag=shown, chain=CHAIN, era=0)
    else:
        with pytest.raises(SignatureError):
            parsed.verify(key(1).public, tag=shown, chain=CHAIN, era=0)


def test_tagged_digests_are_separated() -> None:
    assert tagged_digest("ab", b"c") != tagged_digest("a", b"bc")
    assert tagged_digest("a", b"") != sha256(b"a")
