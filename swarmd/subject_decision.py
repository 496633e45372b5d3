"""Decision files about subjects: what owners must agree to, on its way from one to the next.

What an owner signs follows from what is shown: the digest in an approval is computed from the
decision here. The numbers it depends on (how often a subject was decided about, the policy in
force) come from the node that drafted it; a wrong one can only make approvals that do not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from ledger.bodies.subject import SuspendSubject
from ledger.bodies.subject_decisions import (
    CertifySubject,
    ResumeSubject,
    RevokeSubject,
    attributes_digest,
    resume_digest,
)
from ledger.records.subject import Attributes, attributes_to_value, read_attributes
from ledger.transition.kind import Body
from protocol.approval import APPROVAL_BYTES_MAX, Action, Approval, parse_approval, sign_approval
from protocol.digest import ChainId, DidId, Digest, PolicyId
from protocol.encoding import Fields, Value, as_bytes, decode_canonical, encode_canonical
from protocol.errors import EncodingError, PolicyError
from protocol.governance import GOVERNANCE_GROUP, GOVERNANCE_POLICY
from protocol.group import OWNERS_MAX, check_group_name
from protocol.keys import Signer
from protocol.limits import KIB

SUBJECT_DECISION_BYTES_MAX: Final = 24 * KIB
"""32 approvals of 512 bytes, 16 attributes of 128, and the rest."""
_SCHEMA: Final = 1
ACTIONS: Final[Mapping[str, Action]] = MappingProxyType(
    {
        "did.suspend": Action.SUSPEND,
        "did.resume": Action.RESUME,
        "did.revoke": Action.RETIRE,
        "did.certify": Action.CERTIFY,
    }
)
"""Kinds of transactions that such files carry, and what owners sign for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectDecision:
    """The content of a decision file."""

    chain: ChainId
    """Chain it is for."""
    era: int
    """Era it is for."""
    valid_until_ms: int
    """Header time after which its approvals enter no block, milliseconds."""
    kind: str
    """Kind of the transaction; see `ACTIONS`."""
    did: DidId
    """Whom it is about."""
    group: str | None
    """The group whose owners decide; None: the governance root, which only revokes."""
    policy: PolicyId
    """The group's policy in force; zero for the governance root."""
    number: int
    """For `did.resume` the decisions about the subject so far, for `did.certify` the version."""
    attributes: Attributes = ()
    """For `did.certify`."""
    approvals: tuple[bytes, ...] = ()
    """Signed so far, in order of signing."""

    def __post_init__(self) -> None:
        """Refuses what is no decision.

        Raises:
            EncodingError: an unknown kind, governance for what only owners decide, attributes where
                none belong, or approvals of something else.
        """
        if self.kind not in ACTIONS:
            raise EncodingError(f"{self.kind!r} is not decided by such a file")
        if self.group is None and (self.kind, self.policy) != ("did.revoke", GOVERNANCE_POLICY):
            raise EncodingError("the governance root decides about revocations only")
        if self.attributes and self.kind != "did.certify":
            raise EncodingError("attributes belong to did.certify")
        if len(self.approvals) > OWNERS_MAX:
            raise EncodingError(f"{len(self.approvals)} approvals, at most {OWNERS_MAX}")
        wanted = self.approval()
        if any(parse_approval(raw).approval != wanted for raw in self.approvals):
            raise EncodingError("an approval in the file is for something else")

    def approval(self) -> Approval:
        """What each owner signs."""
        match self.kind:
            case "did.resume":
                subject = resume_digest(self.did, self.number)
            case "did.certify":
                assert self.group is not None, "checked when the decision was made"
                subject = attributes_digest(self.did, self.group, self.number, self.attributes)
            case _:
                subject = Digest(self.did)
        return Approval(
            era=self.era,
            action=ACTIONS[self.kind],
            subject=subject,
            group=GOVERNANCE_GROUP if self.group is None else self.group,
            policy=self.policy,
            valid_until_ms=self.valid_until_ms,
        )

    def signed_by(self, signer: Signer) -> SubjectDecision:
        """This decision with one more approval.

        Raises:
            PolicyError: `approval.duplicate`: this key has signed it before.
        """
        raw = sign_approval(self.approval(), signer, self.chain).signed.raw
        if any(parse_approval(old).signed.key_id == signer.public.key_id for old in self.approvals):
            raise PolicyError("approval.duplicate", "this key has signed the decision before")
        return replace(self, approvals=(*self.approvals, raw))

    def body(self) -> Body:
        """The transaction's body with the approvals so far."""
        if self.kind == "did.revoke":
            return RevokeSubject(did=self.did, group=self.group, approvals=self.approvals)
        assert self.group is not None, "checked when the decision was made"
        match self.kind:
            case "did.suspend":
                return SuspendSubject(did=self.did, group=self.group, approvals=self.approvals)
            case "did.resume":
                return ResumeSubject(did=self.did, group=self.group, approvals=self.approvals)
            case _:
                return CertifySubject(
                    did=self.did,
                    group=self.group,
                    attributes=self.attributes,
                    approvals=self.approvals,
                )

    def encode(self) -> bytes:
        """Canonical bytes of the file."""
        return encode_canonical(
            {
                0: _SCHEMA,
                1: self.chain,
                2: self.era,
                3: self.valid_until_ms,
                4: self.kind,
                5: self.did,
                6: self.group,
                7: self.policy,
                8: self.number,
                9: attributes_to_value(self.attributes),
                10: list(self.approvals),
            }
        )


def decode_subject_decision(data: bytes) -> SubjectDecision:
    """Reads a decision file; approvals are compared with what it says, not verified.

    Raises:
        EncodingError: malformed, or over 24 KiB.
    """

    def read(value: Value) -> bytes:
        return as_bytes(value, "approval", maximum=APPROVAL_BYTES_MAX)

    value = decode_canonical(data, bytes_max=SUBJECT_DECISION_BYTES_MAX)
    fields = Fields(value, "decision about a subject")
    fields.constant(0, _SCHEMA)
    decision = SubjectDecision(
        chain=ChainId(fields.digest(1)),
        era=fields.uint(2),
        valid_until_ms=fields.uint(3),
        kind=fields.identifier(4),
        did=DidId(fields.digest(5)),
        group=None if fields.value(6) is None else check_group_name(fields.name(6)),
        policy=PolicyId(fields.digest(7)),
        number=fields.uint(8),
        attributes=read_attributes(fields, 9),
        approvals=fields.items(10, read, maximum=OWNERS_MAX),
    )
    if fields.finish():
        raise EncodingError("decision about a subject: extensions are not allowed")
    return decision
