"""Seats of enrolment tokens: taken once, by the holder, as owners gave them."""

from __future__ import annotations

from dataclasses import replace

from ledger.bodies.subject import CreateSubject
from protocol.approval import Action
from protocol.did import KeyPurpose, SubjectKind
from protocol.digest import sha256
from protocol.enrolment_token import EnrolmentToken, claim_seat, parse_token
from tests.support.ledger import (
    FLEET,
    GENESIS_MS,
    HOUR_MS,
    Member,
    make_bench,
    make_group,
    make_key,
    make_policy,
    owner_keys,
)
from tests.support.seats import (
    NEWCOMER,
    SEAT_KEY,
    entry,
    make_claims,
    make_seat,
    make_tokens,
)
from tests.support.subjects import submit

PUMPS = "pumps"
DAY_S = 24 * 3600


def test_a_seat_lets_its_holder_in_once():
    bench = make_bench()
    chain = bench.lab.chain_id
    state = bench.apply(submit(bench, entry(NEWCOMER, make_seat(chain))))
    assert state.subject(NEWCOMER.did).groups == (FLEET,)
    taken = state.seat(make_claims(chain).seat)
    assert (taken.did, taken.height) == (NEWCOMER.did, 1)
    second = Member(label="second", kind=SubjectKind.GATEWAY, groups=(FLEET,))
    again = submit(bench, entry(second, make_seat(chain, second)))
    assert bench.refusal(again).rule == "seat.taken"
    assert bench.refusal(submit(bench, entry(NEWCOMER, make_seat(chain)))).rule == "did.known"


def test_a_reissued_token_is_for_the_same_seat():
    bench = make_bench()
    chain = bench.lab.chain_id
    bench.apply(submit(bench, entry(NEWCOMER, make_seat(chain))))
    second = Member(label="second", kind=SubjectKind.GATEWAY, groups=(FLEET,))
    longer = make_claims(chain).expiry_s + DAY_S
    seat = make_seat(chain, second, expiry_s=longer, holder=make_key("other seat key"))
    assert bench.refusal(submit(bench, entry(second, seat))).rule == "seat.taken"


def test_who_sees_a_token_on_the_ledger_cannot_use_it():
    bench = make_bench()
    chain = bench.lab.chain_id
    seen = make_seat(chain)
    thief = Member(label="thief", kind=SubjectKind.GATEWAY, groups=(FLEET,))
    assert bench.refusal(submit(bench, entry(thief, seen))).rule == "seat.holder"
    tokens = [parse_token(raw) for raw in seen.tokens]
    own = replace(seen, proof=make_key("thief").sign(b"mine now"))
    assert bench.refusal(submit(bench, entry(thief, own))).rule == "seat.holder"
    claims = tokens[0].claims
    other_chain = replace(claims, chain=sha256(b"another"))
    from protocol.enrolment_token import seat_message

    foreign = replace(seen, proof=SEAT_KEY.sign(seat_message(other_chain, thief.did)))
    assert bench.refusal(submit(bench, entry(thief, foreign))).rule == "seat.holder"
    bench.apply(submit(bench, entry(NEWCOMER, seen)))


def test_a_token_may_be_bound_to_a_key_the_newcomer_had_before():
    bench = make_bench()
    node_key = NEWCOMER.key(KeyPurpose.NODE)
    seat = make_seat(bench.lab.chain_id, holder=node_key)
    bench.apply(submit(bench, entry(NEWCOMER, seat)))


def test_one_thing_wrong_with_a_seat():
    bench = make_bench(groups=[make_group(PUMPS)])
    chain, owners = bench.lab.chain_id, owner_keys(FLEET)
    wide = Member(label="wide", kind=SubjectKind.GATEWAY, groups=(FLEET, PUMPS))
    publisher = Member(label="publisher-2", kind=SubjectKind.PUBLISHER, groups=(FLEET,))
    validator = Member(label="validator-9", kind=SubjectKind.VALIDATOR, groups=(FLEET,))
    lost = Member(label="lost", kind=SubjectKind.GATEWAY, groups=("nowhere",))
    good = make_seat(chain)
    stranger = [*owners[:1], make_key("stranger")]
    mixed = replace(good, tokens=(good.tokens[0], make_seat(chain, expiry_s=1).tokens[1]))
    tampered = good.tokens[1][:-1] + bytes((good.tokens[1][-1] ^ 1,))
    cases = [
        (NEWCOMER, make_seat(chain, owners=owners[:1]), "seat.threshold"),
        (NEWCOMER, make_seat(chain, owners=stranger), "seat.owner"),
        (NEWCOMER, make_seat(chain, owners=[owners[0], owners[0]]), "seat.duplicate"),
        (NEWCOMER, make_seat(chain, owners=owner_keys(PUMPS)[:2]), "seat.owner"),
        (NEWCOMER, make_seat(chain, owners=bench.lab.governance[:2]), "seat.owner"),
        (NEWCOMER, make_seat(sha256(b"another")), "seat.chain"),
        (NEWCOMER, make_seat(chain, era=1), "seat.era"),
        (NEWCOMER, make_seat(chain, expiry_s=GENESIS_MS // 1000), "seat.expired"),
        (NEWCOMER, make_seat(chain, groups=(FLEET, PUMPS)), "seat.groups"),
        (NEWCOMER, make_seat(chain, kind=SubjectKind.PUBLISHER), "seat.kind"),
        (publisher, make_seat(chain, publisher), "seat.kind"),
        (validator, make_seat(chain, validator), "did.kind"),
        (wide, make_seat(chain, wide), "seat.groups"),
        (lost, make_seat(chain, lost, groups=("nowhere",)), "group.unknown"),
        (NEWCOMER, mixed, "seat.mixed"),
        (NEWCOMER, replace(good, tokens=(good.tokens[0], tampered)), "seat.signature"),
        (NEWCOMER, replace(good, tokens=(b"\x80",)), "seat.malformed"),
        (NEWCOMER, replace(good, proof=bytes(64)), "seat.holder"),
    ]
    for member, seat, rule in cases:
        bench.lab.nonces.clear()
        assert bench.refusal(submit(bench, entry(member, seat))).rule == rule, rule
    bench.lab.nonces.clear()
    approvals = (bench.lab.approvals(Action.ENROL, NEWCOMER.did),)
    both = entry(NEWCOMER, good, approvals=approvals)
    assert bench.refusal(submit(bench, both)).rule == "seat.confirmation"
    bench.apply(submit(bench, entry(NEWCOMER, good)))


def test_a_token_of_another_era_does_not_pass_by_naming_this_one():
    bench = make_bench()
    from protocol.cose import sign
    from protocol.enrolment_token import ENROLMENT_TAG

    chain = bench.lab.chain_id
    tokens: list[EnrolmentToken] = []
    for owner in owner_keys(FLEET)[:2]:
        claims = make_claims(chain, issuer=owner.public)
        raw = sign(claims.encode(), owner, tag=ENROLMENT_TAG, chain=chain, era=1)
        tokens.append(parse_token(raw))
    seat = claim_seat(tokens, NEWCOMER.did, SEAT_KEY)
    assert bench.refusal(submit(bench, entry(NEWCOMER, seat))).rule == "seat.signature"


def test_expiry_is_header_time():
    bench = make_bench()
    seat = make_seat(bench.lab.chain_id, expiry_s=GENESIS_MS // 1000 + 60)
    bench.time_ms = GENESIS_MS + 60_000
    assert bench.refusal(submit(bench, entry(NEWCOMER, seat))).rule == "seat.expired"
    bench.time_ms = GENESIS_MS + 58_000
    bench.apply(submit(bench, entry(NEWCOMER, seat)))


def test_every_group_gives_its_own_seat():
    policy = make_policy(enrol_threshold=1)
    bench = make_bench(groups=[make_group(PUMPS)], policy=policy)
    chain = bench.lab.chain_id
    wide = Member(label="wide", kind=SubjectKind.GATEWAY, groups=(FLEET, PUMPS))
    claims = make_claims(chain, groups=wide.groups)

    def body(fleet, pumps):
        owners = [*owner_keys(FLEET)[:fleet], *owner_keys(PUMPS)[:pumps]]
        return entry(wide, claim_seat(make_tokens(claims, owners), wide.did, SEAT_KEY))

    assert bench.refusal(submit(bench, body(2, 1))).rule == "seat.threshold"
    assert bench.refusal(submit(bench, body(3, 0))).rule == "seat.threshold"
    bench.apply(submit(bench, body(1, 2)))


def test_owners_who_left_give_no_seat_any_more():
    """Tokens count by the owner root and policy in force, not by those at their signing."""
    bench = make_bench(policy=make_policy(enrol_threshold=3))
    seat = make_seat(bench.lab.chain_id)
    assert bench.refusal(submit(bench, entry(NEWCOMER, seat))).rule == "seat.threshold"
    bench.apply(
        submit(bench, entry(NEWCOMER, make_seat(bench.lab.chain_id, owners=owner_keys(FLEET))))
    )


def test_a_seat_that_asks_for_confirmation_needs_an_owner_who_saw_the_code():
    bench = make_bench()
    chain = bench.lab.chain_id
    seat = make_seat(chain, confirmed=True)
    confirm = bench.lab.approvals(Action.ENROL, NEWCOMER.did, count=1)
    other = bench.lab.approvals(Action.ENROL, bench.lab.gateways[0].did, count=1)
    stranger = (bench.lab.approval(Action.ENROL, NEWCOMER.did, make_key("stranger")),)
    for approvals, rule in (
        ((), "seat.confirmation"),
        ((other,), "approval.subject"),
        ((stranger,), "approval.owner"),
        ((confirm, confirm), "seat.confirmation"),
    ):
        refused = submit(bench, entry(NEWCOMER, seat, approvals=approvals))
        assert bench.refusal(refused).rule == rule
    # Without the seat, one owner's word is not enough.
    alone = CreateSubject(join=NEWCOMER.join, approvals=(confirm,))
    assert bench.refusal(submit(bench, alone)).rule == "approval.threshold"
    state = bench.apply(submit(bench, entry(NEWCOMER, seat, approvals=(confirm,))))
    assert state.subject(NEWCOMER.did) is not None


def test_a_seat_does_not_release_keys_of_others():
    bench = make_bench()
    from protocol.did import sign_join

    gateway = bench.lab.gateways[0]
    taken = gateway.key(KeyPurpose.TRANSPORT)
    record = replace(
        NEWCOMER.record,
        keys=((KeyPurpose.TRANSPORT, taken.public), NEWCOMER.record.keys[1]),
    )
    join = sign_join(record, [taken, NEWCOMER.key(KeyPurpose.NODE)])
    claims = make_claims(bench.lab.chain_id)
    seat = claim_seat(make_tokens(claims, owner_keys(FLEET)[:2]), record.did, SEAT_KEY)
    body = CreateSubject(join=join, approvals=(), seat=seat)
    assert bench.refusal(submit(bench, body)).rule == "did.key"
    assert bench.state.seat(claims.seat) is None, "a refused newcomer burns no seat"


def test_a_late_block_cannot_take_a_seat_of_the_past():
    bench = make_bench()
    seat = make_seat(bench.lab.chain_id)
    bench.time_ms = GENESIS_MS + 25 * HOUR_MS
    assert bench.refusal(submit(bench, entry(NEWCOMER, seat))).rule == "seat.expired"
