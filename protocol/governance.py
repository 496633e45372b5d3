"""What the governance root says about the whole chain: checkpoints and recoveries.

The governance root is a threshold of offline keys that genesis names. It authorises no image. A
*checkpoint* names one final header: a client whose trust is too old to walk the epochs alone starts
from it, for keys of long retired validators may have been stolen. A *recovery* begins a new era
after more validators were lost than the chain can do without: it names the last final header that
still counts and the validators that go on from it. Rules: docs/spec/governance.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from protocol.approval import (
    APPROVAL_BYTES_MAX,
    Action,
    Approval,
    parse_approval,
    sign_approval,
    verify_threshold,
)
from protocol.did import JoinStatement
from protocol.digest import (
    ZERO_DIGEST,
    BlockId,
    ChainId,
    DidId,
    Digest,
    PolicyId,
    tagged_digest,
)
from protocol.encoding import (
    INTEGER_MAX,
    Fields,
    Value,
    as_array,
    as_bytes,
    as_digest,
    check_range,
    check_sorted_unique,
    decode_canonical,
    encode_canonical,
)
from protocol.errors import EncodingError, PolicyError, SignatureError, VerificationError
from protocol.group import OWNERS_MAX, OwnerRoot
from protocol.keys import SIGNATURE_BYTES, PublicKey, Signer, signing_context
from protocol.limits import KIB, VALIDATORS_MAX, VALIDATORS_MIN

GOVERNANCE_GROUP: Final = "governance"
"""Group that approvals about the whole chain name; the governance root decides, not a group."""
GOVERNANCE_POLICY: Final = PolicyId(ZERO_DIGEST)
"""Policy that such approvals name: there is none."""
CHECKPOINT_BYTES_MAX: Final = 16 * KIB
"""Encoded checkpoint: a header, a set of 32 validators, 32 approvals of about 300 bytes."""
RECOVERY_BYTES_MAX: Final = 64 * KIB
"""Encoded recovery: a header, 32 seats with records of 1 KiB, 32 approvals of 512 bytes."""
SEAT_TAG: Final = "swarmd/recovery-seat/1"
"""Domain of the signature by which a vote key takes its seat in a new era."""
_HEADER_BYTES_MAX: Final = 1024
_SET_BYTES_MAX: Final = 4 * KIB


def checkpoint_digest(height: int, block_id: BlockId) -> Digest:
    """What governance keys approve as CHECKPOINT: a height and the id of its final header."""
    return tagged_digest("swarmd/checkpoint/1", encode_canonical([height, block_id]))


def governance_approval(
    action: Action, subject: Digest, *, era: int, valid_until_ms: int
) -> Approval:
    """The approval that a governance key signs about the whole chain."""
    return Approval(
        era=era,
        action=action,
        subject=subject,
        group=GOVERNANCE_GROUP,
        policy=GOVERNANCE_POLICY,
        valid_until_ms=valid_until_ms,
    )


def verify_governance(
    approvals: Sequence[bytes],
    *,
    root: OwnerRoot,
    chain: ChainId,
    era: int,
    action: Action,
    subject: Digest,
) -> tuple[str, ...]:
    """Checks that the governance root's threshold agreed; returns the holders' names.

    Raises:
        VerificationError: too few of its keys did.
    """
    return verify_threshold(
        approvals,
        root=root,
        threshold=root.threshold,
        chain=chain,
        era=era,
        action=action,
        subject=subject,
        group=GOVERNANCE_GROUP,
        policy=GOVERNANCE_POLICY,
    )


def _read_approval(value: Value) -> bytes:
    return as_bytes(value, "governance approval", maximum=APPROVAL_BYTES_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A header that closes an epoch, as the governance root vouches for it; not verified yet."""

    header: bytes
    """The encoded header; its id is what was approved."""
    validators: bytes
    """The set that the header hands over to, encoded; the header names its digest."""
    approvals: tuple[bytes, ...]
    """CHECKPOINT approvals by governance keys, 1 to 32."""

    def to_value(self) -> Value:
        """The wire form: [header, validators, approvals]."""
        return [self.header, self.validators, list(self.approvals)]

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_canonical(self.to_value())

    @classmethod
    def from_value(cls, value: Value) -> Checkpoint:
        """Reads the wire form; raises EncodingError."""
        header, validators, approvals = as_array(value, "checkpoint", size=3)
        if not isinstance(approvals, (list, tuple)) or not 1 <= len(approvals) <= OWNERS_MAX:
            raise EncodingError(f"checkpoint: approvals are not a list of 1 to {OWNERS_MAX}")
        return cls(
            header=as_bytes(header, "checkpoint header", maximum=_HEADER_BYTES_MAX),
            validators=as_bytes(validators, "checkpoint set", maximum=_SET_BYTES_MAX),
            approvals=tuple(_read_approval(item) for item in approvals),
        )


def decode_checkpoint(data: bytes) -> Checkpoint:
    """Reads a checkpoint without verifying it.

    Raises:
        EncodingError: malformed or over 16 KiB.
    """
    return Checkpoint.from_value(decode_canonical(data, bytes_max=CHECKPOINT_BYTES_MAX))


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """One validator of a new era."""

    did: DidId
    """Who holds the seat."""
    key: PublicKey
    """Its vote key in the first epoch of the new era."""
    proof: bytes
    """64 bytes by `key` over `seat_message`."""

    def to_value(self) -> Value:
        """The wire form: [did, key, proof]."""
        return [self.did, self.key.to_value(), self.proof]

    @classmethod
    def from_value(cls, value: Value) -> Seat:
        """Reads the wire form; raises EncodingError."""
        did, key, proof = as_array(value, "seat", size=3)
        return cls(
            did=DidId(as_digest(did, "seat's subject")),
            key=PublicKey.from_value(key),
            proof=as_bytes(proof, "seat's proof", size=SIGNATURE_BYTES),
        )


def seat_message(chain: ChainId, era: int, did: DidId, last: BlockId) -> bytes:
    """The bytes a vote key signs to take its seat: context || [did, last final block].

    Args:
        chain: chain id.
        era: the era that begins.
        did: who takes the seat.
        last: id of the header the era goes on from.
    """
    return signing_context(SEAT_TAG, chain, era) + encode_canonical([did, last])


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryPlan:
    """What governance keys sign to begin an era."""

    era: int
    """The era that begins; one above the header's."""
    header: bytes
    """The last final header that counts, encoded."""
    certificate: bytes
    """Its finalize certificate by the validators of the era that ends, encoded; empty: the header
    is that of genesis or of an earlier recovery."""
    time_ms: int
    """Header time of the block that begins the era, above the header's, milliseconds."""
    seats: tuple[Seat, ...]
    """The validators; the position is the index. Up to 32; at least 4 before anybody may sign."""
    joins: tuple[JoinStatement, ...]
    """Records of those the ledger does not know, ascending by DID id."""

    def __post_init__(self) -> None:
        """Refuses a plan that cannot be carried out.

        Raises:
            EncodingError: seats out of range or repeated, records unsorted or of nobody seated.
            SignatureError: a record's keys are not held.
        """
        check_range(self.era, "new era", minimum=1)
        check_range(self.time_ms, "recovery time")
        check_range(len(self.seats), "seats", maximum=VALIDATORS_MAX)
        dids = [seat.did for seat in self.seats]
        keys = [seat.key.raw for seat in self.seats]
        if len(dict.fromkeys(dids)) != len(dids) or len(dict.fromkeys(keys)) != len(keys):
            raise EncodingError("recovery: a subject or a key holds two seats")
        joined = [join.verify().did for join in self.joins]
        check_sorted_unique(joined, "recovery records")
        if any(did not in dids for did in joined):
            raise EncodingError("recovery: a record of a subject without a seat")

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_canonical(
            {
                0: 1,
                1: self.era,
                2: self.header,
                3: self.certificate,
                4: self.time_ms,
                5: [seat.to_value() for seat in self.seats],
                6: [join.to_value() for join in self.joins],
            }
        )

    @property
    def digest(self) -> Digest:
        """What governance keys approve as RECOVERY, in the era that ends."""
        return tagged_digest("swarmd/recovery/1", self.encode())


def decode_plan(data: bytes) -> RecoveryPlan:
    """Reads a recovery plan and checks its records.

    Raises:
        EncodingError: malformed, over 64 KiB, or parts that do not fit each other.
        SignatureError: a record's keys are not held.
    """
    fields = Fields(decode_canonical(data, bytes_max=RECOVERY_BYTES_MAX), "recovery plan")
    fields.constant(0, 1)
    plan = RecoveryPlan(
        era=fields.uint(1, minimum=1),
        header=fields.bytes(2, maximum=_HEADER_BYTES_MAX),
        certificate=fields.bytes(3, maximum=_SET_BYTES_MAX),
        time_ms=fields.uint(4),
        seats=fields.items(5, Seat.from_value, maximum=VALIDATORS_MAX),
        joins=fields.items(6, JoinStatement.from_value, maximum=VALIDATORS_MAX),
    )
    if fields.finish():
        raise EncodingError("recovery plan: extensions are not allowed")
    return plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """A recovery file: a plan with the governance root's approvals; not verified yet."""

    plan: RecoveryPlan
    """What begins."""
    approvals: tuple[bytes, ...]
    """RECOVERY approvals by governance keys, up to 32, signed for the era that ends."""

    def encode(self) -> bytes:
        """The canonical bytes of the file."""
        return encode_canonical({0: 1, 1: self.plan.encode(), 2: list(self.approvals)})

    def with_seat(self, seat: Seat, join: JoinStatement | None) -> Recovery:
        """The same with one more validator, while nobody has signed yet.

        Args:
            seat: the seat with its proof.
            join: the subject's record, if the ledger does not know it.

        Raises:
            PolicyError: governance keys have signed already.
            EncodingError: the subject or key has a seat already.
        """
        if self.approvals:
            raise PolicyError("recovery.signed", "governance has signed; draft another recovery")
        joins = self.plan.joins if join is None else (*self.plan.joins, join)
        ordered = tuple(sorted(joins, key=lambda item: item.record.did))
        plan = replace(self.plan, seats=(*self.plan.seats, seat), joins=ordered)
        return Recovery(plan=plan, approvals=())

    def signed_by(self, key: Signer, chain: ChainId, valid_until_ms: int = INTEGER_MAX) -> Recovery:
        """The same with one more governance key's consent.

        Raises:
            PolicyError: this key signed already, or there are too few seats to begin an era.
        """
        if len(self.plan.seats) < VALIDATORS_MIN:
            raise PolicyError(
                "recovery.seats", f"{len(self.plan.seats)} seats, at least {VALIDATORS_MIN}"
            )
        content = governance_approval(
            Action.RECOVERY,
            self.plan.digest,
            era=self.plan.era - 1,
            valid_until_ms=valid_until_ms,
        )
        signed = sign_approval(content, key, chain).signed
        if signed.key_id in [parse_approval(raw).signed.key_id for raw in self.approvals]:
            raise PolicyError("approval.duplicate", "this key has signed this recovery already")
        return Recovery(plan=self.plan, approvals=(*self.approvals, signed.raw))

    def verify(self, root: OwnerRoot, chain: ChainId, last: BlockId) -> tuple[str, ...]:
        """Checks the governance root's consent and that every seat's key is held.

        Args:
            root: the governance root of genesis.
            chain: chain id.
            last: id of the plan's header.

        Returns:
            Names of the governance keys' holders that count.

        Raises:
            VerificationError: too few governance keys, too few seats, or a vote key that is not
                held.
        """
        if len(self.plan.seats) < VALIDATORS_MIN:
            raise VerificationError(
                f"recovery: {len(self.plan.seats)} seats, at least {VALIDATORS_MIN}"
            )
        names = verify_governance(
            self.approvals,
            root=root,
            chain=chain,
            era=self.plan.era - 1,
            action=Action.RECOVERY,
            subject=self.plan.digest,
        )
        for index, seat in enumerate(self.plan.seats):
            message = seat_message(chain, self.plan.era, seat.did, last)
            try:
                seat.key.verify(seat.proof, message)
            except SignatureError as error:
                raise SignatureError(f"recovery: seat {index} is not taken: {error}") from error
        return names


def decode_recovery(data: bytes) -> Recovery:
    """Reads a recovery file without verifying its consent.

    Raises:
        EncodingError: malformed or over 64 KiB.
        SignatureError: a record's keys are not held.
    """
    fields = Fields(decode_canonical(data, bytes_max=RECOVERY_BYTES_MAX), "recovery")
    fields.constant(0, 1)
    recovery = Recovery(
        plan=decode_plan(fields.bytes(1, maximum=RECOVERY_BYTES_MAX)),
        approvals=fields.items(2, _read_approval, maximum=OWNERS_MAX),
    )
    if fields.finish():
        raise EncodingError("recovery: extensions are not allowed")
    return recovery
