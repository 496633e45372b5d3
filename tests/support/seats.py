"""Builders of enrolment tokens and of newcomers that take seats by them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ledger.bodies.subject import CreateSubject
from protocol.did import SubjectKind
from protocol.digest import BlockId, ChainId, sha256
from protocol.enrolment_token import (
    EnrolmentClaims,
    EnrolmentToken,
    SeatClaim,
    claim_seat,
    sign_token,
)
from protocol.keys import PrivateKey
from tests.support.ledger import FLEET, GENESIS_MS, HOUR_MS, Member, make_key, owner_keys

ADDRESSES = tuple(
    f"/ip4/192.0.2.{index}/tcp/7001/p2p/12D3KooWPeerIdOfSomeNodeThatIsReachable{index}"
    for index in range(1, 4)
)
SEAT_KEY = make_key("seat")
"""The key that travels with a token."""
NEWCOMER = Member(label="gateway-new", kind=SubjectKind.GATEWAY, groups=(FLEET,))


def make_claims(chain: ChainId, **changes: Any) -> EnrolmentClaims:
    """Claims of a gateway's seat in the fleet, valid for a day."""
    claims = EnrolmentClaims(
        issuer=owner_keys(FLEET)[0].public,
        expiry_s=(GENESIS_MS + 24 * HOUR_MS) // 1000,
        seat_id=bytes(range(16)),
        holder=SEAT_KEY.public,
        chain=chain,
        era=0,
        checkpoint=(7, BlockId(sha256(b"header"))),
        addresses=ADDRESSES,
        groups=(FLEET,),
        kind=SubjectKind.GATEWAY,
        confirmed=False,
    )
    return replace(claims, **changes)


def make_tokens(claims: EnrolmentClaims, owners: list[PrivateKey]) -> list[EnrolmentToken]:
    """One token by each owner."""
    return [sign_token(claims, key) for key in owners]


def make_seat(
    chain: ChainId,
    member: Member = NEWCOMER,
    *,
    owners: list[PrivateKey] | None = None,
    holder: PrivateKey = SEAT_KEY,
    **changes: Any,
) -> SeatClaim:
    """A seat that a member takes; right in everything but what the arguments say."""
    claims = make_claims(chain, **{"holder": holder.public, **changes})
    signers = owner_keys(FLEET)[:2] if owners is None else owners
    return claim_seat(make_tokens(claims, signers), member.did, holder)


def entry(member: Member, seat: SeatClaim, **changes: Any) -> CreateSubject:
    """The body by which a member takes a seat."""
    return replace(CreateSubject(join=member.join, approvals=(), seat=seat), **changes)
