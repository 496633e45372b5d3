"""How a newcomer enters: by owners' approvals of its name, or by a seat they gave away before."""

from __future__ import annotations

from collections.abc import Sequence

from ledger.errors import LedgerError, LedgerNotYetError
from ledger.records.group import GroupRecord
from ledger.records.seat import SeatRecord
from ledger.state import Draft, StateReader
from ledger.state_keys import seat_key
from ledger.transition.approvals import (
    Consent,
    check_approvals,
    record_approvals,
    require_threshold,
)
from ledger.transition.context import BlockContext
from protocol.approval import Action
from protocol.did import DidRecord
from protocol.digest import DidId, Digest
from protocol.enrolment_token import (
    EnrolmentClaims,
    EnrolmentToken,
    SeatClaim,
    parse_token,
    same_seat,
    seat_message,
)
from protocol.errors import EncodingError, SignatureError
from protocol.keys import PublicKey

_MS_PER_S = 1000


def require_enrolment(
    draft: Draft,
    record: DidRecord,
    approvals: Sequence[tuple[bytes, ...]],
    context: BlockContext,
    *,
    needed: int | None = None,
) -> None:
    """Checks that owners of each group of a record approve of its subject (L50).

    Args:
        draft: where approvals are recorded.
        record: the newcomer's.
        approvals: ENROL approvals, a list for each of its groups.
        context: the block.
        needed: how many of each group; None: what its policy asks.

    Raises:
        LedgerError: `did.groups`, `group.unknown`, `approval.*`.
    """
    if not record.groups or len(record.groups) != len(approvals):
        raise LedgerError(
            "did.groups",
            f"{len(approvals)} approval lists for {len(record.groups)} groups (at least 1)",
        )
    for name, given in zip(record.groups, approvals, strict=True):
        group = _find_group(draft, name)
        policy = group.policy_at(context.time_ms)
        consent = Consent(
            root=group.owner_root,
            action=Action.ENROL,
            subject=Digest(record.did),
            group=name,
            policy=policy,
        )
        checked = check_approvals(given, consent, context)
        threshold = draft.policy(policy).enrol_threshold if needed is None else needed
        require_threshold(len(checked), threshold, f"enrolment in {name!r}")
        record_approvals(draft, checked)


def take_seat(
    draft: Draft,
    record: DidRecord,
    seat: SeatClaim,
    approvals: Sequence[tuple[bytes, ...]],
    context: BlockContext,
) -> None:
    """Checks a newcomer's tokens and burns the seat they are for (I30 to I35).

    Raises:
        LedgerError: as `check_seat`; `seat.confirmation`, `approval.*`.
    """
    claims = check_seat(draft, record, seat, context)
    if claims.confirmed:
        if len(approvals) != len(record.groups):
            raise LedgerError("seat.confirmation", "an owner of each group must confirm this seat")
        require_enrolment(draft, record, approvals, context, needed=1)
    elif approvals:
        raise LedgerError("seat.confirmation", "this seat needs no approvals")
    burned = SeatRecord(did=record.did, height=context.height)
    draft.put(seat_key(claims.seat), burned.encode())


def check_seat(
    state: StateReader, record: DidRecord, seat: SeatClaim, context: BlockContext
) -> EnrolmentClaims:
    """Checks everything about a seat but confirmations, cheap things first (I30, I31).

    Returns:
        What the tokens say.

    Raises:
        LedgerError: `seat.malformed`, `seat.mixed`, `seat.chain`, `seat.era`, `seat.expired`,
            `seat.kind`, `seat.groups`, `seat.taken`, `seat.holder`, `seat.owner`,
            `seat.duplicate`, `seat.signature`, `seat.threshold`, `group.unknown`.
    """
    tokens, claims = _read_tokens(seat)
    _check_claims(claims, record, context)
    if state.seat(claims.seat) is not None:
        raise LedgerError("seat.taken", "this seat was taken before")
    _check_holder(claims, record.did, seat.proof)
    issuers = _check_issuers(tokens)
    groups = [(name, _find_group(state, name)) for name in claims.groups]
    for issuer in issuers:
        if all(group.owner_root.owner(issuer.key_id) is None for _, group in groups):
            raise LedgerError("seat.owner", "a token is signed by no owner of the seat's groups")
    for name, group in groups:
        _check_threshold(state, name, group, issuers, context)
    return claims


def _read_tokens(seat: SeatClaim) -> tuple[list[EnrolmentToken], EnrolmentClaims]:
    try:
        tokens = [parse_token(raw) for raw in seat.tokens]
    except EncodingError as error:
        raise LedgerError("seat.malformed", str(error)) from error
    try:
        return tokens, same_seat(tokens)
    except EncodingError as error:
        raise LedgerError("seat.mixed", str(error)) from error


def _check_claims(claims: EnrolmentClaims, record: DidRecord, context: BlockContext) -> None:
    if claims.chain != context.chain:
        raise LedgerError("seat.chain", "the token is for another chain")
    if claims.era != context.era:
        raise LedgerError("seat.era", f"the token is for era {claims.era}, not {context.era}")
    if claims.expiry_s * _MS_PER_S < context.time_ms:
        raise LedgerError("seat.expired", f"the token was valid until {claims.expiry_s} s")
    if claims.kind is not record.kind:
        raise LedgerError("seat.kind", f"the seat is for a {claims.kind.name.lower()}")
    if claims.groups != record.groups:
        raise LedgerError("seat.groups", f"the seat is in {', '.join(claims.groups)}")


def _check_holder(claims: EnrolmentClaims, did: DidId, proof: bytes) -> None:
    try:
        claims.holder.verify(proof, seat_message(claims, did))
    except SignatureError as error:
        raise LedgerError("seat.holder", "the token's holder did not give this seat") from error


def _check_issuers(tokens: Sequence[EnrolmentToken]) -> list[PublicKey]:
    issuers = [token.claims.issuer for token in tokens]
    if len({key.raw for key in issuers}) != len(issuers):
        raise LedgerError("seat.duplicate", "one owner's token is given twice")
    for token in tokens:
        try:
            token.verify()
        except SignatureError as error:
            raise LedgerError("seat.signature", str(error)) from error
    return issuers


def _check_threshold(
    state: StateReader,
    name: str,
    group: GroupRecord,
    issuers: Sequence[PublicKey],
    context: BlockContext,
) -> None:
    count = sum(group.owner_root.owner(key.key_id) is not None for key in issuers)
    needed = state.policy(group.policy_at(context.time_ms)).enrol_threshold
    if count < needed:
        raise LedgerError(
            "seat.threshold", f"a seat in {name!r} needs {needed} owners' tokens, got {count}"
        )


def _find_group(state: StateReader, name: str) -> GroupRecord:
    group = state.group(name)
    if group is None:
        raise LedgerNotYetError("group.unknown", f"group {name!r} does not exist")
    return group
