"""Recovery files: new keys for a node that lost its own, on their way through its owners' hands.

The node makes the keys and the file; owners of every group it belongs to sign it, or holders of
governance do; a member submits it, and a day of ledger time later the claim. Owners sign the digest
of what the file shows, so that nobody can exchange the keys on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from ledger.bodies.subject_decisions import (
    ClaimKeys,
    Decider,
    RecoverKeys,
    recovery_digest,
    recovery_message,
)
from protocol.approval import APPROVAL_BYTES_MAX, Action, Approval, parse_approval, sign_approval
from protocol.did import KEYS_MAX, Keys, keys_from_value, keys_to_value
from protocol.digest import ChainId, DidId, Digest, PolicyId
from protocol.encoding import (
    Fields,
    Value,
    as_array,
    as_bytes,
    as_digest,
    decode_canonical,
    encode_canonical,
)
from protocol.errors import EncodingError, PolicyError
from protocol.governance import GOVERNANCE_GROUP, GOVERNANCE_POLICY
from protocol.group import OWNERS_MAX, check_group_name
from protocol.keys import SIGNATURE_BYTES, PrivateKey, Signer
from protocol.limits import KIB, TARGET_GROUPS_MAX

RECOVERY_DECISION_BYTES_MAX: Final = 24 * KIB
"""What fits a transaction of 20 KiB, and the rest."""
RECOVERY_KIND: Final = "did.recover"
"""Kind of the transaction; field 4, as in decisions about subjects."""
_SCHEMA: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryDecision:
    """The content of a recovery file."""

    chain: ChainId
    """Chain it is for."""
    era: int
    """Era it is for."""
    valid_until_ms: int
    """Header time after which its approvals enter no block, milliseconds."""
    did: DidId
    """Whose keys."""
    keys: Keys
    """The new keys."""
    next_keys: Digest
    """Commitment to the ones after them."""
    signatures: tuple[bytes, ...]
    """By each new key, in their order."""
    sequence: int
    """The node's key changes once the keys rule."""
    number: int
    """Decisions about the node so far."""
    deciders: tuple[tuple[str, PolicyId], ...]
    """Groups with their policies in force, ascending, or governance alone."""
    approvals: tuple[tuple[bytes, ...], ...]
    """Signed so far, for each decider."""

    def __post_init__(self) -> None:
        """Refuses what is no recovery.

        Raises:
            EncodingError: no decider, lists that do not match them, or approvals of something else.
        """
        if not self.deciders or len(self.deciders) != len(self.approvals):
            raise EncodingError("recovery: one list of approvals for each decider is needed")
        for index, given in enumerate(self.approvals):
            if len(given) > OWNERS_MAX:
                raise EncodingError(f"recovery: {len(given)} approvals, at most {OWNERS_MAX}")
            wanted = self.approval(index)
            if any(parse_approval(raw).approval != wanted for raw in given):
                raise EncodingError("recovery: an approval in the file is for something else")

    @property
    def digest(self) -> Digest:
        """What owners and new keys sign."""
        return recovery_digest(
            self.did,
            sequence=self.sequence,
            number=self.number,
            keys=self.keys,
            next_keys=self.next_keys,
        )

    def approval(self, index: int) -> Approval:
        """What each owner of one decider signs."""
        group, policy = self.deciders[index]
        return Approval(
            era=self.era,
            action=Action.RECOVER,
            subject=self.digest,
            group=group,
            policy=policy,
            valid_until_ms=self.valid_until_ms,
        )

    def signed_by(self, signer: Signer, groups: Sequence[str] = ()) -> RecoveryDecision:
        """This recovery with an approval for each of some deciders.

        Args:
            signer: an owner of those groups.
            groups: which; none: the only one.

        Raises:
            PolicyError: `did.groups` several, and none named, or none of that name;
                `approval.duplicate` this key has signed for one of them before.
        """
        names = [name for name, _ in self.deciders]
        if (not groups and len(names) > 1) or any(group not in names for group in groups):
            raise PolicyError("did.groups", f"name groups you own, of {', '.join(names)}")
        lists = list(self.approvals)
        for index, name in enumerate(names):
            if groups and name not in groups:
                continue
            if any(
                parse_approval(raw).signed.key_id == signer.public.key_id for raw in lists[index]
            ):
                raise PolicyError("approval.duplicate", f"this key has signed for {name!r} before")
            raw = sign_approval(self.approval(index), signer, self.chain).signed.raw
            lists[index] = (*lists[index], raw)
        return replace(self, approvals=tuple(lists))

    @property
    def is_signed(self) -> bool:
        """Whether somebody of each decider has signed."""
        return all(self.approvals)

    def body(self) -> RecoverKeys:
        """The body of `did.recover`."""
        governed = self.deciders[0][0] == GOVERNANCE_GROUP
        return RecoverKeys(
            did=self.did,
            keys=self.keys,
            next_keys=self.next_keys,
            signatures=self.signatures,
            decider=Decider.GOVERNANCE if governed else Decider.GROUPS,
            approvals=self.approvals,
        )

    def claim(self) -> ClaimKeys:
        """The body of `did.claim`."""
        return ClaimKeys(did=self.did, keys=self.keys, next_keys=self.next_keys)

    def encode(self) -> bytes:
        """Canonical bytes of the file."""
        return encode_canonical(
            {
                0: _SCHEMA,
                1: self.chain,
                2: self.era,
                3: self.valid_until_ms,
                4: RECOVERY_KIND,
                5: self.did,
                6: keys_to_value(self.keys),
                7: self.next_keys,
                8: list(self.signatures),
                9: self.sequence,
                10: self.number,
                11: [[name, policy] for name, policy in self.deciders],
                12: [list(given) for given in self.approvals],
            }
        )


def sign_recovery(draft: RecoveryDecision, keys: Sequence[PrivateKey]) -> RecoveryDecision:
    """Signs a recovery by the keys that shall rule, in the order of its keys."""
    message = recovery_message(draft.chain, draft.era, draft.digest)
    return replace(draft, signatures=tuple(key.sign(message) for key in keys))


def decide_by_governance() -> tuple[tuple[str, PolicyId], ...]:
    """The deciders of a recovery that governance decides."""
    return ((GOVERNANCE_GROUP, GOVERNANCE_POLICY),)


def decode_recovery_decision(data: bytes) -> RecoveryDecision:
    """Reads a recovery file; approvals are compared with what it says, not verified.

    Raises:
        EncodingError: malformed, or over 24 KiB.
    """
    fields = Fields(decode_canonical(data, bytes_max=RECOVERY_DECISION_BYTES_MAX), "recovery")
    fields.constant(0, _SCHEMA)
    if fields.identifier(4) != RECOVERY_KIND:
        raise EncodingError("not a recovery file")
    decision = RecoveryDecision(
        chain=ChainId(fields.digest(1)),
        era=fields.uint(2),
        valid_until_ms=fields.uint(3),
        did=DidId(fields.digest(5)),
        keys=keys_from_value(fields.array(6, maximum=KEYS_MAX)),
        next_keys=fields.digest(7),
        signatures=fields.items(8, _read_signature, maximum=KEYS_MAX),
        sequence=fields.uint(9),
        number=fields.uint(10),
        deciders=fields.items(11, _read_decider, minimum=1, maximum=TARGET_GROUPS_MAX),
        approvals=fields.items(12, _read_list, minimum=1, maximum=TARGET_GROUPS_MAX),
    )
    if fields.finish():
        raise EncodingError("recovery: extensions are not allowed")
    return decision


def _read_signature(value: Value) -> bytes:
    return as_bytes(value, "recovery signature", size=SIGNATURE_BYTES)


def _read_decider(value: Value) -> tuple[str, PolicyId]:
    name, policy = as_array(value, "recovery: decider", size=2)
    if not isinstance(name, str):
        raise EncodingError("recovery: decider is not a name")
    return check_group_name(name), PolicyId(as_digest(policy, "recovery: policy"))


def _read_list(value: Value) -> tuple[bytes, ...]:
    if not isinstance(value, (list, tuple)):
        raise EncodingError("recovery: approvals are not a list")
    return tuple(as_bytes(item, "approval", maximum=APPROVAL_BYTES_MAX) for item in value)
