"""Decision files: what several key holders must agree to, on its way from one to the next.

One person drafts a decision and passes the file around; each holder looks at what it says, signs
and passes it on; anybody hands the complete file to a node. What is signed follows from what is
shown: the digest in every approval is computed from the decision here, by its signer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from ledger.bodies.codec import MapValue
from ledger.bodies.governance import SetCheckpoint
from ledger.bodies.group import (
    ROOT_BYTES_MAX,
    CreateGroup,
    RotateRoot,
    SetPolicy,
    UpdateGroup,
    VetoPolicy,
)
from ledger.bodies.manifest import OverrideManifest
from ledger.bodies.validators import (
    SetParameters,
    SetValidators,
    Upgrade,
    members_digest,
    parameters_digest,
    upgrade_digest,
)
from ledger.header import decode_header
from ledger.transition.kind import Body
from ledger.transition.kinds import decode_body, kind_of
from protocol.approval import (
    APPROVAL_BYTES_MAX,
    Action,
    Approval,
    parse_approval,
    sign_approval,
)
from protocol.digest import ChainId, Digest, PolicyId, sha256
from protocol.encoding import (
    Fields,
    Key,
    Value,
    as_bytes,
    decode_canonical,
    encode_canonical,
)
from protocol.errors import EncodingError, PolicyError
from protocol.governance import GOVERNANCE_GROUP, GOVERNANCE_POLICY, checkpoint_digest
from protocol.group import OWNERS_MAX, OwnerRoot, decode_group, decode_placement, decode_policy
from protocol.keys import Signer
from protocol.limits import KIB
from protocol.rotation import root_digest

DECISION_BYTES_MAX: Final = 64 * KIB
"""A decision fits a transaction of 20 KiB; 32 approvals come on top."""
_PLACEHOLDER: Final = b"\x00"
"""Stands for the approvals while a body is read that has none yet; bodies need at least one."""


@dataclass(frozen=True, slots=True)
class _Terms:
    """What an approval of one kind of decision must say."""

    approvals_key: int
    """Field of the body that takes the approvals."""
    action: Action
    """What is agreed to."""
    read: Callable[[Body, int], tuple[Digest, str, PolicyId | None]]
    """(body, epoch) -> (subject, group, policy); None: the policy that the file names."""


def _chain_wide(subject: Digest) -> tuple[Digest, str, PolicyId]:
    return subject, GOVERNANCE_GROUP, GOVERNANCE_POLICY


def _validators(body: Body, epoch: int) -> tuple[Digest, str, PolicyId]:
    assert isinstance(body, SetValidators), "the kind decides the class"
    return _chain_wide(members_digest(epoch, body.members))


def _parameters(body: Body, epoch: int) -> tuple[Digest, str, PolicyId]:
    assert isinstance(body, SetParameters), "the kind decides the class"
    return _chain_wide(parameters_digest(epoch, body.parameters))


def _upgrade(body: Body, epoch: int) -> tuple[Digest, str, PolicyId]:
    assert isinstance(body, Upgrade), "the kind decides the class"
    return _chain_wide(upgrade_digest(epoch, body.version, body.epoch))


def _checkpoint(body: Body, _epoch: int) -> tuple[Digest, str, PolicyId]:
    assert isinstance(body, SetCheckpoint), "the kind decides the class"
    header = decode_header(body.header)
    return _chain_wide(checkpoint_digest(header.height, header.block_id))


def _group(body: Body, _epoch: int) -> tuple[Digest, str, PolicyId]:
    assert isinstance(body, CreateGroup), "the kind decides the class"
    group = decode_group(body.group)
    return sha256(body.group), group.name, group.policy.policy_id


def _set_policy(body: Body, _epoch: int) -> tuple[Digest, str, None]:
    assert isinstance(body, SetPolicy), "the kind decides the class"
    return Digest(decode_policy(body.policy).policy_id), body.group, None


def _veto_policy(body: Body, _epoch: int) -> tuple[Digest, str, None]:
    assert isinstance(body, VetoPolicy), "the kind decides the class"
    return Digest(body.policy), body.group, None


def _update_group(body: Body, _epoch: int) -> tuple[Digest, str, None]:
    assert isinstance(body, UpdateGroup), "the kind decides the class"
    return decode_placement(body.placement).digest(), body.group, None


def _rotate_root(body: Body, _epoch: int) -> tuple[Digest, str, None]:
    assert isinstance(body, RotateRoot), "the kind decides the class"
    root = OwnerRoot.from_value(decode_canonical(body.root, bytes_max=ROOT_BYTES_MAX))
    return root_digest(root), body.group, None


def _override(body: Body, _epoch: int) -> tuple[Digest, str, None]:
    assert isinstance(body, OverrideManifest), "the kind decides the class"
    return Digest(body.manifest), body.group, None


TERMS: Final[Mapping[str, _Terms]] = MappingProxyType(
    {
        "validators.set": _Terms(2, Action.VALIDATORS, _validators),
        "gov.parameters": _Terms(1, Action.PARAMETERS, _parameters),
        "gov.upgrade": _Terms(2, Action.UPGRADE, _upgrade),
        "gov.checkpoint": _Terms(1, Action.CHECKPOINT, _checkpoint),
        "group.create": _Terms(1, Action.CREATE_GROUP, _group),
        "policy.set": _Terms(2, Action.AMEND, _set_policy),
        "policy.veto": _Terms(2, Action.VETO, _veto_policy),
        "group.update": _Terms(2, Action.UPDATE_GROUP, _update_group),
        "group.rotate": _Terms(2, Action.ROTATE_ROOT, _rotate_root),
        "manifest.override": _Terms(2, Action.OVERRIDE, _override),
    }
)
"""Kinds of transactions that decision files can carry: the governance root's and owners'."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The content of a decision file."""

    chain: ChainId
    """Chain it is for."""
    era: int
    """Era it is for."""
    epoch: int
    """Epoch it is decided in; several decisions name it, so that none serves twice."""
    valid_until_ms: int
    """Header time after which its approvals enter no block, milliseconds."""
    kind: str
    """Kind of the transaction."""
    content: MapValue
    """The transaction's body without its approvals."""
    approvals: tuple[bytes, ...] = ()
    """Signed so far, in order of signing."""
    policy: PolicyId | None = None
    """Policy of the group that owners' approvals name; None for what governance decides."""

    def __post_init__(self) -> None:
        """Refuses what is no decision.

        Raises:
            EncodingError: a kind that files do not carry, a malformed body, too many approvals.
        """
        if self.kind not in TERMS:
            raise EncodingError(f"{self.kind!r} is not decided by a file")
        if len(self.approvals) > OWNERS_MAX:
            raise EncodingError(f"{len(self.approvals)} approvals, at most {OWNERS_MAX}")
        if self._terms.approvals_key in self.content:
            raise EncodingError("a decision's body carries approvals of its own")
        self.approval()

    @property
    def _terms(self) -> _Terms:
        return TERMS[self.kind]

    def body(self) -> Body:
        """The transaction's body with the approvals so far; one placeholder where there are none.

        Raises:
            EncodingError: the content is malformed.
        """
        approvals: list[Value] = list(self.approvals or (_PLACEHOLDER,))
        value = {**self.content, self._terms.approvals_key: approvals}
        return decode_body(self.kind, value)

    def approval(self) -> Approval:
        """What each holder signs; computed from the content.

        Raises:
            EncodingError: the content is malformed.
        """
        subject, group, chain_policy = self._terms.read(self.body(), self.epoch)
        policy = chain_policy or self.policy
        if policy is None or (chain_policy is not None and self.policy is not None):
            raise EncodingError("a decision names a policy exactly if owners of a group decide")
        return Approval(
            era=self.era,
            action=self._terms.action,
            subject=subject,
            group=group,
            policy=policy,
            valid_until_ms=self.valid_until_ms,
        )

    def signed_by(self, key: Signer) -> Decision:
        """The same with one more signature.

        Raises:
            PolicyError: this key signed already.
        """
        signed = sign_approval(self.approval(), key, self.chain)
        known = [parse_approval(raw).signed.key_id for raw in self.approvals]
        if signed.signed.key_id in known:
            raise PolicyError("approval.duplicate", "this key has signed this decision already")
        return replace(self, approvals=(*self.approvals, signed.signed.raw))

    def encode(self) -> bytes:
        """The bytes of the file."""
        value: dict[Key, Value] = {
            0: 1,
            1: self.chain,
            2: self.era,
            3: self.epoch,
            4: self.valid_until_ms,
            5: self.kind,
            6: dict(self.content),
            7: list(self.approvals),
        }
        if self.policy is not None:
            value[8] = self.policy
        return encode_canonical(value)


def draft_decision(
    body: Body,
    *,
    chain: ChainId,
    era: int,
    epoch: int,
    valid_until_ms: int,
    policy: PolicyId | None = None,
) -> Decision:
    """Makes a decision without signatures of a body; the body's approvals are left out."""
    kind = kind_of(body)
    if kind not in TERMS:
        raise EncodingError(f"{kind!r} is not decided by a file")
    value = dict(body.to_value())
    value.pop(TERMS[kind].approvals_key, None)
    return Decision(
        chain=chain,
        era=era,
        epoch=epoch,
        valid_until_ms=valid_until_ms,
        kind=kind,
        content=value,
        policy=policy,
    )


def decode_decision(data: bytes) -> Decision:
    """Reads a decision file; signatures are checked by whoever accepts them.

    Raises:
        EncodingError: malformed or over 64 KiB.
    """
    fields = Fields(decode_canonical(data, bytes_max=DECISION_BYTES_MAX), "decision")
    fields.constant(0, 1)
    content = fields.value(6)
    if not isinstance(content, Mapping):
        raise EncodingError("decision: its body is not a map")
    decision = Decision(
        chain=ChainId(fields.digest(1)),
        era=fields.uint(2),
        epoch=fields.uint(3),
        valid_until_ms=fields.uint(4),
        kind=fields.text(5, maximum=64),
        content=content,
        approvals=fields.items(7, _read_approval, maximum=OWNERS_MAX),
        policy=fields.optional(8, lambda key: PolicyId(fields.digest(key))),
    )
    if fields.finish():
        raise EncodingError("decision: extensions are not allowed")
    return decision


def _read_approval(value: Value) -> bytes:
    raw = as_bytes(value, "approval", maximum=APPROVAL_BYTES_MAX)
    parse_approval(raw)
    return raw
