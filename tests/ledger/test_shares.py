"""Quotas of signers, tenants and lanes (docs/spec/quotas.md)."""

from __future__ import annotations

import pytest

from ledger.bodies.manifest import ProposeManifest
from ledger.bodies.receipt import AnchorReceipts
from ledger.errors import LedgerError, LedgerNotYetError
from ledger.records.tenant import OPEN_PROPOSALS_MAX, OpenProposals, TenantRecord
from ledger.state_keys import open_key
from ledger.transition import proposals, shares
from ledger.transition.block import apply_transaction, begin
from ledger.transition.kind import Lane
from ledger.transition.kinds import KINDS
from protocol.digest import DidId, ManifestId, sha256
from protocol.encoding import decode_canonical, encode_canonical
from protocol.errors import EncodingError
from tests.support.ledger import FLEET, GENESIS_MS, HOUR_MS, make_bench, make_group


def anchor(bench, index=0, size=1):
    body = AnchorReceipts(size=size, root=sha256(b"%d" % size))
    return bench.lab.transaction(bench.lab.gateways[index], body)


def test_gateways_answer_to_their_first_group_and_others_to_themselves():
    bench = make_bench(groups=[make_group("annex")])
    lab = bench.lab
    assert shares.tenant_of(bench.state, lab.gateways[0].did) == FLEET
    assert shares.tenant_of(bench.state, lab.publisher.did) is None
    assert shares.tenant_of(bench.state, lab.validators[0].did) is None
    assert shares.tenant_of(bench.state, DidId(sha256(b"nobody"))) is None


def test_the_gateways_of_a_group_share_an_hourly_rate(monkeypatch):
    monkeypatch.setattr(shares, "TENANT_TRANSACTIONS_PER_HOUR_MAX", 3)
    bench = make_bench(gateways=3)
    manifest = bench.lab.manifest()
    bench.apply(bench.lab.propose(manifest))
    for index in range(3):
        bench.apply(anchor(bench, index))
    error = bench.refusal(anchor(bench, 1, size=2))
    assert (error.rule, type(error)) == ("tx.tenant_rate", LedgerNotYetError)
    bench.apply(bench.lab.revoke(manifest.manifest_id))  # counted, never refused
    assert bench.state.tenant(FLEET).hour_count == 4
    bench.lab.nonces[bench.lab.gateways[1].did] = 1
    bench.apply(anchor(bench, 1, size=2), after_ms=HOUR_MS)
    assert bench.state.tenant(FLEET).hour_count == 1


def test_one_tenant_does_not_use_up_another(monkeypatch):
    monkeypatch.setattr(shares, "TENANT_TRANSACTIONS_PER_HOUR_MAX", 1)
    bench = make_bench()
    bench.apply(anchor(bench))
    assert bench.refusal(anchor(bench, 1)).rule == "tx.tenant_rate"
    bench.apply(bench.lab.propose(bench.lab.manifest()))  # its publisher's own share


def test_state_of_a_tenant_is_bounded_and_what_adds_none_still_passes(monkeypatch):
    bench = make_bench()
    bench.apply(anchor(bench))
    used = bench.state.tenant(FLEET).state_bytes
    assert 0 < used < 200, "one anchor, and none of the records that count"
    monkeypatch.setattr(shares, "TENANT_STATE_BYTES_MAX", used)
    bench.apply(anchor(bench, size=2))
    error = bench.refusal(anchor(bench, 1))
    assert error.rule == "tx.tenant_share"
    assert not isinstance(error, LedgerNotYetError)
    assert bench.state.tenant(FLEET).state_bytes == used


def test_rotation_passes_an_exhausted_signer_a_few_times_an_hour(monkeypatch):
    monkeypatch.setattr(shares, "TRANSACTIONS_PER_HOUR_MAX", 0)
    bench = make_bench()
    gateway = bench.lab.gateways[0]
    most = KINDS["did.rotate"].hourly_max
    assert most is not None
    for _ in range(most):
        bench.apply(bench.lab.transaction(gateway, bench.lab.rotation(gateway)))
        gateway.rotation += 1
    error = bench.refusal(bench.lab.transaction(gateway, bench.lab.rotation(gateway), nonce=most))
    assert (error.rule, type(error)) == ("tx.rate", LedgerNotYetError)
    following = bench.lab.transaction(gateway, bench.lab.rotation(gateway), nonce=most)
    bench.apply(following, after_ms=HOUR_MS)


BOUNDED_BY_STATE = {
    "did.claim": "ends a recovery that owners approved, once",
    "validator.certify": "a seat certifies a coming epoch once",
}
"""Protecting kinds whose bound is neither an approval nor evidence nor a number."""


def test_every_kind_that_protects_is_bounded():
    for kind in KINDS.values():
        shown = {"approvals", "approval", "evidence"} & {*kind.body.__dataclass_fields__}
        is_counted = kind.hourly_max is not None
        if kind.lane is Lane.PROTECTING:
            assert shown or is_counted or kind.name in BOUNDED_BY_STATE, kind.name
        else:
            assert not is_counted, f"{kind.name}: the number is for protecting kinds only"


def propose(bench, sequence, **changes):
    manifest = bench.lab.manifest(sequence=sequence, **changes)
    return manifest, bench.lab.transaction(
        bench.lab.publisher, ProposeManifest(manifest=manifest.signed.raw)
    )


@pytest.fixture
def full(monkeypatch):
    """A bench whose publisher holds as many manifests open as it may; the first expires."""
    monkeypatch.setattr(proposals, "OPEN_PROPOSALS_MAX", 4)
    bench = make_bench()
    expiring = GENESIS_MS + HOUR_MS
    made = [propose(bench, 1, expires_ms=expiring)]
    made += [propose(bench, sequence) for sequence in (2, 3)]
    made.append(propose(bench, 1, product="valve"))
    for _, signed in made:
        bench.apply(signed)
    return bench, [manifest for manifest, _ in made]


def refused_one_more(bench):
    nonce = bench.state.account(bench.lab.publisher.did).nonce
    bench.lab.nonces[bench.lab.publisher.did] = nonce
    _, signed = propose(bench, 9)
    error = bench.refusal(signed)
    assert (error.rule, type(error)) == ("manifest.open", LedgerNotYetError)
    return signed


def test_open_proposals_are_bounded_and_expiry_makes_room(full):
    bench, made = full
    bench.apply(refused_one_more(bench), after_ms=2 * HOUR_MS)
    held = bench.state.open_proposals(bench.lab.publisher.did, FLEET).manifests
    assert made[0].manifest_id not in held
    assert len(held) == 4


def test_revocation_makes_room(full):
    bench, made = full
    following = refused_one_more(bench)
    bench.apply(bench.lab.revoke(made[3].manifest_id))
    bench.apply(following)


def test_a_newer_authorised_release_makes_room_of_all_below_it(full):
    bench, made = full
    following = refused_one_more(bench)
    bench.apply(bench.lab.approve(made[1].manifest_id))
    bench.apply(following)
    held = bench.state.open_proposals(bench.lab.publisher.did, FLEET).manifests
    assert made[0].manifest_id not in held, "below the release"
    assert made[1].manifest_id not in held, "authorised"
    assert held[:2] == (made[2].manifest_id, made[3].manifest_id)


def test_a_closed_proposal_stays_refused_in_its_own_right(full):
    bench, _ = full
    bench.apply(refused_one_more(bench), after_ms=2 * HOUR_MS)
    _, again = propose(bench, 1, expires_ms=GENESIS_MS + HOUR_MS)
    assert bench.refusal(again).rule == "manifest.expired"


def test_the_quarter_of_a_block_is_for_what_protects(monkeypatch):
    monkeypatch.setattr(shares, "ORDINARY_COUNT_MAX", 2)
    bench = make_bench()
    manifest = bench.lab.manifest()
    bench.apply(bench.lab.propose(manifest))
    block = begin(bench.state, bench.lab.context(height=2, time_ms=bench.time_ms + 1))
    apply_transaction(block, anchor(bench))
    apply_transaction(block, anchor(bench, 1))
    before = dict(block.state.writes)
    late = anchor(bench, 1, size=2)
    with pytest.raises(LedgerNotYetError) as caught:
        apply_transaction(block, late)
    assert caught.value.rule == "block.share"
    assert block.state.writes == before
    apply_transaction(block, bench.lab.revoke(manifest.manifest_id))
    monkeypatch.setattr(shares, "ORDINARY_COUNT_MAX", 9)
    monkeypatch.setattr(shares, "ORDINARY_BYTES_MAX", block.ordinary.size_bytes)
    with pytest.raises(LedgerError) as caught:
        apply_transaction(block, late)
    assert caught.value.rule == "block.share"


def test_the_reserved_part_is_a_quarter():
    assert (shares.ORDINARY_COUNT_MAX, shares.ORDINARY_BYTES_MAX) == (384, 192 * 1024)


RECORDS = [
    TenantRecord(hour=1, hour_count=2, state_bytes=3),
    OpenProposals(manifests=(ManifestId(sha256(b"1")), ManifestId(sha256(b"2")))),
]


@pytest.mark.parametrize("record", RECORDS, ids=["tenant", "open proposals"])
def test_records_read_back_and_nothing_else_does(record):
    raw = record.encode()
    assert type(record).decode(raw) == record
    value = dict(decode_canonical(raw, bytes_max=1000))
    wrong = [{**value, 0: 2}, {**value, 9: 1}, {**value, -1: 1}, {**value, 1: "x"}]
    wrong += [{key: item for key, item in value.items() if key != missing} for missing in value]
    if isinstance(record, OpenProposals):
        wrong.append({0: 1, 1: [sha256(b"x")] * (OPEN_PROPOSALS_MAX + 1)})
    for item in wrong:
        with pytest.raises(EncodingError):
            type(record).decode(encode_canonical(item))
    for length in range(len(raw)):
        with pytest.raises(EncodingError):
            type(record).decode(raw[:length])


def test_open_keys_of_two_publishers_never_meet():
    one, two = DidId(sha256(b"1")), DidId(sha256(b"2"))
    assert open_key(one, "a") != open_key(two, "a") != open_key(two, "ab")
