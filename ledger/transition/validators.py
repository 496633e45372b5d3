"""Epochs in the state: certified keys, convictions, set changes, and how an epoch ends.

`close_epoch` runs at the end of every block. Rules: docs/spec/epochs.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from ledger.bodies.validators import (
    Accuse,
    CertifyKey,
    SetParameters,
    SetValidators,
    Upgrade,
    certify_message,
    members_digest,
    parameters_digest,
    upgrade_digest,
)
from ledger.errors import LedgerError, LedgerNotYetError
from ledger.records.conviction import ConvictionRecord
from ledger.records.subject import SubjectRecord, SubjectStatus
from ledger.records.validators import (
    CERTIFY_AHEAD_MAX,
    EpochRecord,
    ValidatorRecord,
    seats_replaced,
)
from ledger.state import Draft, StateReader
from ledger.state_keys import (
    EPOCH_KEY,
    evidence_key,
    holder_key,
    validator_key,
    validators_key,
)
from ledger.transition.approvals import (
    Consent,
    check_approvals,
    record_approvals,
    require_newer,
    require_threshold,
)
from ledger.transition.context import BlockContext
from ledger.transition.kind import Kind, Lane
from ledger.transition.subject import write_subject
from ledger.validators import Validator, ValidatorSet, quorum_of
from ledger.vote import Ed25519Verifier, Evidence, Verifier
from protocol.approval import Action
from protocol.did import JoinStatement, KeyPurpose, SubjectKind
from protocol.digest import ZERO_DIGEST, DidId, Digest, PolicyId, sha256
from protocol.errors import SignatureError, VerificationError
from protocol.genesis import Genesis
from protocol.keys import PublicKey

GOVERNANCE_GROUP: Final = "governance"
"""Group that approvals about the whole chain name; the governance root decides, not a group."""
GOVERNANCE_POLICY: Final = PolicyId(ZERO_DIGEST)
"""Policy that such approvals name: there is none."""
FIRST_VERSION: Final = 1
"""Protocol version that every chain starts with."""

# Keys.


def certify_key(draft: Draft, signer: DidId, body: CertifyKey, context: BlockContext) -> None:
    """Names the signer's vote key for a coming epoch, once (E20, E21).

    Raises:
        LedgerError: `validator.kind`, `validator.epoch`, `validator.certified`, `validator.key`,
            `validator.proof`, `validator.convicted`; `validator.ahead` when waiting helps.
    """
    subject = draft.subject(signer)
    if subject is None or subject.kind is not SubjectKind.VALIDATOR:
        raise LedgerError("validator.kind", "only validators certify vote keys")
    current = context.validators.epoch
    if body.epoch <= current:
        raise LedgerError("validator.epoch", f"epoch {body.epoch} has begun already")
    if body.epoch > current + CERTIFY_AHEAD_MAX:
        raise LedgerNotYetError("validator.ahead", f"epoch {body.epoch} is too far ahead")
    record = draft.validator(signer)
    if record.convicted is not None:
        raise LedgerError("validator.convicted", f"convicted in epoch {record.convicted}")
    if record.key_for(body.epoch) is not None:
        raise LedgerError("validator.certified", f"epoch {body.epoch} has a key already")
    message = certify_message(context.chain, context.era, signer, body.epoch)
    try:
        body.key.verify(body.proof, message)
    except SignatureError as error:
        raise LedgerError("validator.proof", str(error)) from error
    if draft.holder(body.key) is not None:
        raise LedgerError("validator.key", "this key was in use before")
    write_certified(draft, signer, body.key, epoch=body.epoch, current=current)


def write_certified(draft: Draft, did: DidId, key: PublicKey, *, epoch: int, current: int) -> None:
    """Records a vote key for an epoch and claims it for ever."""
    draft.put(holder_key(key), did)
    following = draft.validator(did).with_key(epoch, key, current=current)
    draft.put(validator_key(did), following.encode())


# Convictions.


def convict(draft: Draft, evidence: Evidence, context: BlockContext, verifier: Verifier) -> None:
    """Records a conviction; the subject's seats are empty from the next epoch on (E40 to E43).

    Raises:
        LedgerError: `evidence.epoch`, `evidence.signature`, or `evidence.known`: one conviction for
            each signer and epoch.
    """
    epoch, signer = evidence.epoch, evidence.signer
    validators = _accused_set(draft, epoch, context)
    if draft.conviction(epoch, signer) is not None:
        raise LedgerError("evidence.known", f"validator {signer} is convicted already")
    try:
        evidence.verify(validators, context.chain, context.era, verifier)
    except VerificationError as error:
        raise LedgerError("evidence.signature", str(error)) from error
    record = ConvictionRecord(evidence=sha256(evidence.encoded), height=context.height)
    draft.put(evidence_key(epoch, signer), record.encode())
    did = validators.members[signer].did
    known = draft.validator(did)
    if known.convicted is None:
        draft.put(validator_key(did), replace(known, convicted=epoch).encode())


def _accused_set(draft: StateReader, epoch: int, context: BlockContext) -> ValidatorSet:
    current = context.validators
    if epoch == current.epoch:
        return current
    known = draft.validators(epoch) if epoch == current.epoch - 1 else None
    if known is None:
        raise LedgerError("evidence.epoch", f"evidence of epoch {epoch} in {current.epoch}")
    return known


def accuse(draft: Draft, _signer: DidId, body: Accuse, context: BlockContext) -> None:
    """Convicts a validator on anybody's word, since the word is two signatures (E44).

    Raises:
        LedgerError: as `convict`.
    """
    convict(draft, body.evidence, context, Ed25519Verifier())


# Decisions of the governance root.


def set_validators(
    draft: Draft, _signer: DidId, body: SetValidators, context: BlockContext
) -> None:
    """Names the seats of the next epoch, which ends this one as soon as a quorum of them has
    certified keys (E30 to E34).

    Raises:
        LedgerError: `validators.replaced` more than f seats, `validators.unknown`,
            `validators.kind`, `validators.convicted`, `validators.uncertified`, `did.*`,
            `approval.*`.
    """
    record = draft.epoch()
    current = context.validators
    old = [member.did for member in current.members]
    replaced = seats_replaced(old, body.members)
    if replaced > current.fault_limit:
        raise LedgerError(
            "validators.replaced", f"{replaced} seats replaced, at most {current.fault_limit}"
        )
    approved = members_digest(current.epoch, body.members)
    _require_consent(draft, Action.VALIDATORS, approved, body.approvals, context)
    for join in body.joins:
        _admit(draft, join, body.members, current.epoch)
    for did in body.members:
        if did not in old:
            _check_newcomer(draft, did, current.epoch + 1)
    draft.put(EPOCH_KEY, replace(record, next_members=body.members).encode())


def _admit(draft: Draft, join: JoinStatement, members: Sequence[DidId], epoch: int) -> None:
    """Writes a newcomer's record; the vote key in it is certified for the next epoch."""
    try:
        record = join.verify()
    except SignatureError as error:
        raise LedgerError("did.join", str(error)) from error
    did, key = record.did, record.key(KeyPurpose.VALIDATOR)
    if did not in members or record.kind is not SubjectKind.VALIDATOR or key is None:
        raise LedgerError("validators.kind", f"{did.hex()[:8]} is no validator of the next set")
    if draft.subject(did) is not None:
        raise LedgerError("did.known", f"subject {did.hex()[:8]} exists already")
    if any(draft.holder(held) is not None for _, held in record.keys):
        raise LedgerError("did.key", "a key belongs to another subject")
    for group in record.groups:
        if draft.group(group) is None:
            raise LedgerNotYetError("group.unknown", f"group {group!r} does not exist")
    write_subject(draft, did, SubjectRecord.of(record))
    write_certified(draft, did, key, epoch=epoch + 1, current=epoch)


def _check_newcomer(draft: StateReader, did: DidId, epoch: int) -> None:
    subject = draft.subject(did)
    if subject is None:
        raise LedgerNotYetError("validators.unknown", f"subject {did.hex()[:8]} is not known")
    if subject.kind is not SubjectKind.VALIDATOR or subject.status is not SubjectStatus.ACTIVE:
        raise LedgerError("validators.kind", f"{did.hex()[:8]} is no active validator subject")
    record = draft.validator(did)
    if record.convicted is not None:
        raise LedgerError("validators.convicted", f"{did.hex()[:8]} contradicted itself")
    if record.key_for(epoch) is None:
        raise LedgerNotYetError(
            "validators.uncertified", f"{did.hex()[:8]} certified no key for epoch {epoch}"
        )


def set_parameters(
    draft: Draft, _signer: DidId, body: SetParameters, context: BlockContext
) -> None:
    """Changes the chain's numbers from the next epoch on (E35).

    Raises:
        LedgerError: `approval.*`.
    """
    record = draft.epoch()
    approved = parameters_digest(record.epoch, body.parameters)
    _require_consent(draft, Action.PARAMETERS, approved, body.approvals, context)
    draft.put(EPOCH_KEY, replace(record, next_parameters=body.parameters).encode())


def upgrade(draft: Draft, _signer: DidId, body: Upgrade, context: BlockContext) -> None:
    """Plans a protocol version from an epoch on, or takes the plan back (E50).

    Raises:
        LedgerError: `upgrade.version` not above the one in force, `upgrade.epoch` has begun,
            `upgrade.none` to take back, `approval.*`.
    """
    record = draft.epoch()
    if body.version == 0:
        if record.upgrade is None or body.epoch:
            raise LedgerError("upgrade.none", "there is no such plan to take back")
    elif body.version <= record.version:
        raise LedgerError("upgrade.version", f"version {record.version} is in force")
    elif body.epoch <= record.epoch:
        raise LedgerError("upgrade.epoch", f"epoch {body.epoch} has begun already")
    approved = upgrade_digest(record.epoch, body.version, body.epoch)
    _require_consent(draft, Action.UPGRADE, approved, body.approvals, context)
    plan = (body.version, body.epoch) if body.version else None
    draft.put(EPOCH_KEY, replace(record, upgrade=plan).encode())


def _require_consent(
    draft: Draft,
    action: Action,
    subject: Digest,
    approvals: Sequence[bytes],
    context: BlockContext,
) -> None:
    """Checks the governance root's threshold; an approval serves once, in its epoch only."""
    root = draft.governance_root()
    consent = Consent(
        root=root,
        action=action,
        subject=subject,
        group=GOVERNANCE_GROUP,
        policy=GOVERNANCE_POLICY,
    )
    checked = check_approvals(approvals, consent, context)
    require_threshold(len(checked), root.threshold, action.name.lower())
    require_newer(draft, checked)
    record_approvals(draft, checked)


# The end of an epoch.


def close_epoch(draft: Draft, context: BlockContext) -> ValidatorSet | None:
    """Ends the epoch if it is due and a quorum of the next seats has keys (E10 to E14).

    Returns:
        The next set, already written to the state; None while the epoch goes on.
    """
    record = draft.epoch()
    is_due = context.time_ms >= record.start_ms + record.parameters.epoch_ms
    if record.next_members is None and not is_due:
        return None
    following = next_set(draft, context.validators)
    if following is None:
        return None
    version, plan = record.version, record.upgrade
    if plan is not None and following.epoch >= plan[1]:
        version, plan = plan[0], None
    opened = EpochRecord(
        epoch=following.epoch,
        start_ms=context.time_ms,
        start_height=context.height,
        version=version,
        parameters=record.next_parameters or record.parameters,
        next_members=None,
        next_parameters=None,
        upgrade=plan,
    )
    draft.put(EPOCH_KEY, opened.encode())
    draft.put(validators_key(following.epoch), following.encode())
    return following


def next_set(state: StateReader, current: ValidatorSet) -> ValidatorSet | None:
    """The set that would follow now, or None while fewer than q of its seats have keys (E12)."""
    named = state.epoch().next_members
    dids = named or tuple(member.did for member in current.members)
    epoch = current.epoch + 1
    members = tuple(Validator(did, _seat_key(state, did, epoch)) for did in dids)
    held = sum(1 for member in members if member.key is not None)
    return ValidatorSet(epoch, members) if held >= quorum_of(len(members)) else None


def _seat_key(state: StateReader, did: DidId, epoch: int) -> PublicKey | None:
    """A seat's key; None for one whose subject was revoked after it had been named (E11)."""
    subject = state.subject(did)
    is_active = subject is not None and subject.status is SubjectStatus.ACTIVE
    return state.validator(did).key_for(epoch) if is_active else None


def write_first_epoch(draft: Draft, genesis: Genesis, validators: ValidatorSet) -> None:
    """Writes what genesis says about the first epoch; its keys are those of the records."""
    record = EpochRecord(
        epoch=validators.epoch,
        start_ms=genesis.time_ms,
        start_height=0,
        version=FIRST_VERSION,
        parameters=genesis.parameters,
        next_members=None,
        next_parameters=None,
        upgrade=None,
    )
    draft.put(EPOCH_KEY, record.encode())
    draft.put(validators_key(validators.epoch), validators.encode())
    for member in validators.members:
        if member.key is not None:
            first = ValidatorRecord(keys=((validators.epoch, member.key),))
            draft.put(validator_key(member.did), first.encode())


KINDS: Final = (
    Kind(
        name="validator.certify",
        body=CertifyKey,
        read=CertifyKey.read,
        apply=certify_key,
        lane=Lane.PROTECTING,
    ),
    Kind(
        name="validator.accuse",
        body=Accuse,
        read=Accuse.read,
        apply=accuse,
        lane=Lane.PROTECTING,
    ),
    Kind(
        name="validators.set",
        body=SetValidators,
        read=SetValidators.read,
        apply=set_validators,
        lane=Lane.PROTECTING,
    ),
    Kind(
        name="gov.parameters",
        body=SetParameters,
        read=SetParameters.read,
        apply=set_parameters,
        lane=Lane.PROTECTING,
    ),
    Kind(
        name="gov.upgrade",
        body=Upgrade,
        read=Upgrade.read,
        apply=upgrade,
        lane=Lane.PROTECTING,
    ),
)
"""Transaction kinds of this area."""
