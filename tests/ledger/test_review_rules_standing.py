"""Attacks on the seams of standing: revoked, convicted and recovered subjects meet other rules."""

from __future__ import annotations

from dataclasses import replace

from ledger.records.defence import Cause, QuarantineRecord, SelfConvictionRecord
from ledger.standing import quarantine_level
from ledger.state import LedgerState
from ledger.state_keys import quarantine_key, self_conviction_key
from protocol.contradiction import Offence
from protocol.defence import QuarantineLevel
from protocol.digest import Digest
from tests.support.epochs import certify, newcomer, set_validators
from tests.support.ledger import FLEET, make_bench
from tests.support.subjects import revocation


def test_a_validator_revoked_before_its_epoch_begins_has_no_seat():
    bench = make_bench()
    lab, late = bench.lab, newcomer(0)
    named = set_validators(lab, 1, [late, *lab.validators[1:]], joins=[late])
    bench.apply(lab.transaction(lab.gateways[0], named))
    bench.apply(revocation(bench, late.did, governed=True))
    for member in lab.validators[1:]:
        bench.apply(lab.transaction(member, certify(lab, member, 2)))
    following = bench.state.validators(2)
    assert following is not None
    assert following.members[0].did == late.did
    assert [member.key is None for member in following.members] == [True, False, False, False]


def test_an_old_record_does_not_hide_a_conviction():
    """A group that the culprit belongs to through another one kept its expired quarantine."""
    bench = make_bench()
    did = bench.lab.gateways[0].did
    old = QuarantineRecord(
        level=QuarantineLevel.NO_SERVING,
        cause=Cause.OPINION,
        since_ms=1,
        until_ms=2,
        trusted_until_ms=0,
        sequence=1,
        height=5,
    )
    conviction = SelfConvictionRecord(
        offence=Offence.CONFLICTING_ANCHORS, evidence=Digest(bytes(32)), rotations=0, height=6
    )

    def level(record: QuarantineRecord) -> QuarantineLevel:
        writes = {
            quarantine_key(did, FLEET): record.encode(),
            self_conviction_key(did): conviction.encode(),
        }
        state = LedgerState(bench.state.tree.update(writes), bench.state.log)
        return quarantine_level(state, did, FLEET, bench.time_ms)

    assert level(old) is QuarantineLevel.NO_EXCHANGE
    released = replace(old, level=QuarantineLevel.NONE, cause=Cause.RELEASE, until_ms=None)
    assert level(released) is QuarantineLevel.NO_EXCHANGE
    for height in (6, 7):  # what owners decided since then, or the conviction's own record
        assert level(replace(released, height=height)) is QuarantineLevel.NONE
