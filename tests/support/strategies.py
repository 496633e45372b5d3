"""Hypothesis strategies for every object of the protocol, and the registry of its wire formats.

Keys come from a small fixed pool, so that examples are cheap and failures repeat.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from protocol import address_statement
from protocol.announcement import Announcement, parse_announcement, sign_announcement
from protocol.approval import Action, Approval, parse_approval, sign_approval
from protocol.calendar import Freeze, WeeklyWindow
from protocol.catchup import (
    BlocksAnswer,
    BlocksRequest,
    Freshness,
    FreshnessAnswer,
    FreshnessRequest,
    HeadAnswer,
    HeadRequest,
    LedgerMessage,
    decode_ledger_message,
    encode_ledger_message,
    parse_freshness,
    sign_freshness,
)
from protocol.did import (
    DidRecord,
    JoinStatement,
    KeyPurpose,
    SubjectKind,
    decode_record,
    next_keys_digest,
    sign_join,
)
from protocol.digest import (
    BlockId,
    ChainId,
    DidId,
    Digest,
    ManifestId,
    PolicyId,
    TransactionId,
    sha256,
)
from protocol.encoding import INTEGER_MAX, INTEGER_MIN, Value, decode_canonical, encode_canonical
from protocol.genesis import Genesis, Parameters, decode_genesis
from protocol.governance import Checkpoint
from protocol.group import (
    DAY_MS,
    DURATION_MS_MAX,
    OWNERS_MAX,
    Group,
    OwnerRoot,
    Placement,
    Policy,
    decode_group,
    decode_policy,
)
from protocol.hello import Hello, HelloAnswer, HelloStatus, decode_hello, decode_hello_answer
from protocol.keys import PrivateKey, PublicKey
from protocol.limits import CHUNKS_PER_COMPONENT_MAX, IMAGE_BYTES_MAX, VALIDATORS_MAX
from protocol.manifest import (
    ChunkerKind,
    ChunkerParameters,
    Component,
    Manifest,
    PatchReference,
    parse_manifest,
    sign_manifest,
)
from protocol.peers_messages import (
    PeersAnswer,
    PeersRequest,
    ProbeAnswer,
    ProbeRequest,
    decode_peers_answer,
    decode_peers_request,
    decode_probe_answer,
)
from protocol.policy import AMEND_DELAY_MS_MIN, Witnesses
from protocol.rule import Compare, Comparison, OneOf, Rule, RuleField, Scope, sorted_values
from protocol.rule_codec import rule_from_value
from protocol.sealing import GENERATION_MAX, Sealing
from protocol.sealing_messages import (
    RingAnswer,
    RingRequest,
    RingStatus,
    decode_ring_answer,
    decode_ring_request,
)
from protocol.sealing_ring import (
    RingFile,
    RingMember,
    SealingKeyStatement,
    parse_ring,
    parse_statement,
    ring_members,
    sign_ring,
    sign_statement,
)
from protocol.state_messages import (
    HeaderAnswer,
    HeaderRequest,
    ManifestsAnswer,
    ManifestsRequest,
    StateHeadAnswer,
    StateHeadRequest,
    StatePageAnswer,
    StatePageRequest,
)
from protocol.submit_messages import (
    Refusal,
    SubmitAnswer,
    SubmitBatchAnswer,
    SubmitBatchRequest,
    SubmitRequest,
)
from protocol.text import is_plain_text
from protocol.tlog import NoteKey, SignatureType
from protocol.transaction import Transaction, parse_transaction, sign_transaction
from tests.support.reach_strategies import (
    address_statements,
    peers_answers,
    peers_requests,
    probe_answers,
    probe_requests,
)
from tests.support.rule_oracle import random_rule

CHAIN: Final = ChainId(bytes(range(32)))
"""The chain of every signed example."""
OTHER_CHAIN: Final = ChainId(bytes(range(1, 33)))
"""A chain nothing was signed for."""
PURPOSES: Final = {
    SubjectKind.VALIDATOR: (KeyPurpose.TRANSPORT, KeyPurpose.NODE, KeyPurpose.VALIDATOR),
    SubjectKind.GATEWAY: (KeyPurpose.TRANSPORT, KeyPurpose.NODE),
    SubjectKind.PUBLISHER: (KeyPurpose.TRANSPORT, KeyPurpose.NODE, KeyPurpose.PERSON),
    SubjectKind.PERSON: (KeyPurpose.PERSON,),
}
"""What keys each kind of subject has, said a second time so that tests notice a change."""

few = settings(max_examples=12, derandomize=True, deadline=None, database=None)
"""For costly examples."""
many = settings(max_examples=60, derandomize=True, deadline=None, database=None)
"""For cheap examples."""


@cache
def key(number: int) -> PrivateKey:
    """A private key with a fixed seed: `number` as 32 bytes, big-endian."""
    return PrivateKey(number.to_bytes(32, "big"))


private_keys: SearchStrategy[PrivateKey] = st.integers(0, 31).map(key)
digests: SearchStrategy[Digest] = st.binary(min_size=32, max_size=32).map(Digest)
uints: SearchStrategy[int] = st.one_of(st.integers(0, 300), st.integers(0, INTEGER_MAX))
positive: SearchStrategy[int] = st.one_of(st.integers(1, 300), st.integers(1, INTEGER_MAX))
names: SearchStrategy[str] = st.text(
    st.characters(codec="utf-8").filter(is_plain_text), min_size=1, max_size=16
)
texts: SearchStrategy[str] = st.text(st.characters(codec="utf-8").filter(is_plain_text), max_size=9)
identifiers: SearchStrategy[str] = st.from_regex(r"\A[A-Za-z0-9]([A-Za-z0-9._+:-]{0,8}[a-z+])?\Z")
group_names: SearchStrategy[str] = st.from_regex(r"\A[a-z0-9]([a-z0-9._-]{0,8}[a-z0-9])?\Z")
group_lists: SearchStrategy[tuple[str, ...]] = st.sets(group_names, max_size=4).map(
    lambda found: tuple(sorted(found))
)
scalars: SearchStrategy[Value] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(INTEGER_MIN, INTEGER_MAX),
    st.binary(max_size=8),
    st.text(st.characters(codec="utf-8"), max_size=8),
)
values: SearchStrategy[Value] = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(st.integers(-99, 99), st.text(max_size=3, alphabet="abcä")), inner, max_size=3
        ),
    ),
    max_leaves=6,
)
extensions: SearchStrategy[dict[int | str, Value]] = st.one_of(
    st.just({}), st.dictionaries(st.integers(INTEGER_MIN, -1), scalars, max_size=2)
)


@st.composite
def records(draw: st.DrawFn) -> DidRecord:
    """Inception records of every kind."""
    return draw(records_with_keys())[0]


@st.composite
def records_with_keys(draw: st.DrawFn) -> tuple[DidRecord, tuple[PrivateKey, ...]]:
    """Records with the private keys behind them."""
    kind = draw(st.sampled_from(SubjectKind))
    purposes = PURPOSES[kind]
    count = len(purposes)
    chosen = draw(st.lists(private_keys, min_size=count, max_size=count, unique=True))
    keys = tuple((purpose, one.public) for purpose, one in zip(purposes, chosen, strict=True))
    record = DidRecord(
        kind=kind,
        name=draw(names),
        keys=keys,
        next_keys=draw(st.one_of(st.none(), st.just(next_keys_digest(keys)))),
        groups=draw(group_lists),
        extensions=draw(extensions),
    )
    return record, tuple(chosen)


joins: SearchStrategy[JoinStatement] = records_with_keys().map(lambda pair: sign_join(*pair))


@st.composite
def owner_roots(draw: st.DrawFn, count_max: int = 5) -> OwnerRoot:
    """Owner roots of up to `count_max` keys."""
    keys = draw(st.sets(st.integers(0, 63), min_size=1, max_size=count_max))
    publics = sorted(key(number).public for number in keys)
    roles: dict[str, tuple[tuple[PublicKey, str], ...]] = {}
    for role in sorted(draw(st.sets(st.sampled_from(("auditor", "builder", "ops")), max_size=2))):
        chosen = sorted(draw(st.sets(st.integers(0, 67), min_size=1, max_size=3)))
        holders = (key(number).public for number in chosen)
        roles[role] = tuple(sorted((public, _holder_name(public, publics)) for public in holders))
    return OwnerRoot(
        version=draw(positive),
        threshold=draw(st.integers(1, len(publics))),
        owners=tuple((public, _holder_name(public, publics)) for public in publics),
        roles=tuple(roles.items()),
        extensions=draw(extensions),
    )


def _holder_name(public: PublicKey, owners: list[PublicKey]) -> str:
    return f"owner {owners.index(public)}" if public in owners else f"holder {public.raw.hex()[:8]}"


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    """Rules about releases, of every kind of node."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    return rule_from_value(random_rule(rng), Scope.RELEASE)


selectors: SearchStrategy[Rule] = st.one_of(
    st.builds(Compare, st.just(RuleField.VENDOR), st.just(Comparison.EQUAL), names),
    st.builds(
        lambda values: OneOf(RuleField.HARDWARE_REVISION, sorted_values(sorted(values))),
        st.sets(st.integers(0, 9), min_size=1, max_size=3),
    ),
)
windows: SearchStrategy[WeeklyWindow] = st.builds(
    lambda days, begin, length: WeeklyWindow(days, begin, begin + length),
    st.integers(1, 127),
    st.integers(0, 1439),
    st.just(1),
)
"""Of one minute: lists of them are sorted by the caller."""


@st.composite
def conditions(draw: st.DrawFn, owners: int) -> dict[str, Any]:
    """Optional fields of a policy, each often absent."""
    times = sorted(draw(st.sets(st.integers(0, 10**9), max_size=4)))
    found = draw(st.sets(windows, max_size=3))
    witness = NoteKey(name="w.example", kind=SignatureType.COSIGNATURE, key=key(9).public)
    return {
        "rule": draw(st.none() | rules()),
        "veto_threshold": draw(st.none() | st.integers(1, owners)),
        "freezes": tuple(Freeze(*pair) for pair in zip(times[::2], times[1::2], strict=False)),
        "maintenance": tuple(
            sorted(found, key=lambda one: (one.days, one.from_minute, one.to_minute))
        ),
        "manifest_lifetime_ms_max": draw(st.none() | st.integers(2, DURATION_MS_MAX)),
        "witnesses": draw(st.none() | st.just(Witnesses(1, (witness,)))),
        "soak_ms": draw(st.integers(0, 1)),
        "closed": draw(st.booleans()),
    }


@st.composite
def policies(draw: st.DrawFn, least: int = 1, owners: int = OWNERS_MAX) -> Policy:
    """Policies that fit a root with threshold `least` and so many `owners`."""
    approve = draw(st.integers(least, owners))
    serve = draw(st.integers(1, DURATION_MS_MAX))
    publishers = draw(st.sets(digests, max_size=2))
    return Policy(
        approve_threshold=approve,
        revoke_threshold=draw(st.integers(1, owners)),
        amend_threshold=draw(st.integers(approve, owners)),
        enrol_threshold=draw(st.integers(1, owners)),
        amend_delay_ms=draw(st.integers(AMEND_DELAY_MS_MIN, DURATION_MS_MAX)),
        offer_freshness_ms=draw(st.integers(1, serve)),
        serve_freshness_ms=serve,
        publishers=tuple(DidId(one) for one in sorted(publishers)),
        extensions=draw(extensions),
        **draw(conditions(owners)),
    )


@st.composite
def groups(draw: st.DrawFn) -> Group:
    """Groups whose policy fits their owners."""
    root = draw(owner_roots())
    return Group(
        name=draw(group_names),
        owner_root=root,
        policy=draw(policies(least=root.threshold, owners=len(root.owners))),
        placement=draw(
            st.builds(Placement, st.none() | st.just("the-parent-of-it"), st.none() | selectors)
        ),
        extensions=draw(extensions),
    )


@st.composite
def genesis_documents(draw: st.DrawFn) -> Genesis:
    """Genesis documents of four to six validators and a few others."""
    validators = draw(st.integers(4, 6))
    drawn = draw(st.lists(groups(), max_size=2))
    found = {group.name: replace(group, placement=Placement()) for group in drawn}
    membership = tuple(sorted(found))
    subjects: list[JoinStatement] = []
    for index in range(validators + draw(st.integers(0, 2))):
        kind = SubjectKind.VALIDATOR if index < validators else SubjectKind.GATEWAY
        subjects.append(subject(kind, 1000 + 10 * index, groups=membership))
    dids = [join.record.did for join in subjects[:validators]]
    return Genesis(
        name=draw(names),
        era=0,
        time_ms=draw(uints),
        parameters=Parameters(
            heartbeat_ms=draw(st.integers(1000, DAY_MS)),
            epoch_ms=draw(st.integers(2000, 366 * DAY_MS)),
            extensions=draw(extensions),
        ),
        validators=tuple(draw(st.permutations(dids))),
        joins=tuple(sorted(subjects, key=lambda join: join.record.did)),
        groups=tuple(found[name] for name in membership),
        governance_root=draw(owner_roots()),
        extensions=draw(extensions),
    )


@cache
def subject(kind: SubjectKind, first_key: int, *, groups: tuple[str, ...] = ()) -> JoinStatement:
    """A subject whose keys are numbered from `first_key`."""
    chosen = [key(first_key + offset) for offset in range(len(PURPOSES[kind]))]
    record = DidRecord(
        kind=kind,
        name=f"{kind.name.lower()} {first_key}",
        keys=tuple(
            (purpose, one.public) for purpose, one in zip(PURPOSES[kind], chosen, strict=True)
        ),
        next_keys=None,
        groups=groups,
    )
    return sign_join(record, chosen)


@st.composite
def patches(draw: st.DrawFn, *, component: str, number: int, size: int) -> PatchReference:
    """The component's patch of this number: at most `size` bytes, in fixed chunks."""
    size = draw(st.integers(1, min(size, 2**20)))
    length = 2 ** draw(st.integers(8, 16))
    return PatchReference(
        base=sha256(b"base %d" % number),
        size=size,
        digest=sha256(b"patch %d for %s" % (number, component.encode())),
        chunker=ChunkerParameters(
            kind=ChunkerKind.FIXED, minimum=length, average=length, maximum=length
        ),
        chunk_count=-(-size // length),
        recipe_root=draw(digests),
    )


sealings = st.builds(
    Sealing,
    ring=digests,
    generation=st.integers(1, GENERATION_MAX),
    nonce=st.binary(min_size=16, max_size=16),
)


@st.composite
def components(draw: st.DrawFn, name: str) -> Component:
    """Components whose size, count and chunker agree."""
    kind = draw(st.sampled_from(ChunkerKind))
    average = 2 ** draw(st.integers(8, 16))
    fixed = kind is ChunkerKind.FIXED
    minimum = average if fixed else draw(st.integers(1, average))
    maximum = average if fixed else draw(st.integers(average, 4 * average))
    # A quarter of the largest image at most: two components, their tags and patches must fit.
    count = draw(st.integers(1, min(CHUNKS_PER_COMPONENT_MAX, IMAGE_BYTES_MAX // 4 // minimum)))
    least = max(count, (count - 1) * minimum + 1)
    most = min(count * maximum, IMAGE_BYTES_MAX // 4)
    size = draw(st.integers(least, most)) if least <= most else least
    sealing = draw(st.none() | sealings)
    if sealing is not None:
        size += count * sealing.overhead_bytes
    return Component(
        name=name,
        size=size,
        digest=draw(digests),
        chunker=ChunkerParameters(kind=kind, minimum=minimum, average=average, maximum=maximum),
        chunk_count=count,
        recipe_root=draw(digests),
        plain_digest=None if sealing is None else draw(digests),
        sealing=sealing,
        vendor_id=draw(st.one_of(st.none(), st.binary(min_size=16, max_size=16))),
        class_id=draw(st.one_of(st.none(), st.binary(min_size=16, max_size=16))),
        patches=tuple(
            sorted(
                (
                    draw(patches(component=name, number=number, size=size))
                    for number in range(draw(st.integers(0, 2)))
                ),
                key=lambda one: one.base,
            )
        ),
    )


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Manifests of one or two components."""
    named = sorted(draw(st.sets(identifiers, min_size=1, max_size=2)))
    products = sorted(draw(st.sets(identifiers, max_size=2)))
    stones = sorted(draw(st.sets(digests, max_size=2)))
    return Manifest(
        era=draw(uints),
        publisher=DidId(draw(digests)),
        product=draw(identifiers),
        version=draw(names),
        sequence=draw(positive),
        groups=draw(group_lists.filter(bool)),
        components=tuple(draw(components(name)) for name in named),
        expires_ms=draw(st.one_of(st.none(), uints)),
        stepping_stones=tuple(ManifestId(stone) for stone in stones),
        dependencies=tuple((product, draw(uints)) for product in products),
        sbom_digest=draw(st.one_of(st.none(), digests)),
        suit_digest=draw(st.one_of(st.none(), digests)),
        metadata=draw(st.dictionaries(names, texts, max_size=2)),
    )


approvals: SearchStrategy[Approval] = st.builds(
    Approval,
    era=uints,
    action=st.sampled_from(Action),
    subject=digests,
    group=group_names,
    policy=digests.map(PolicyId),
    valid_until_ms=uints,
)
transactions: SearchStrategy[Transaction] = st.builds(
    Transaction,
    era=uints,
    signer=digests.map(DidId),
    nonce=uints,
    valid_until_ms=uints,
    kind=identifiers,
    body=st.dictionaries(st.integers(-20, 20), values, max_size=3),
)
announcements: SearchStrategy[Announcement] = st.builds(
    Announcement,
    era=uints,
    author=digests.map(DidId),
    topic=names,
    manifest=st.one_of(st.none(), digests.map(ManifestId)),
    height=uints,
    block_id=digests.map(BlockId),
)
hellos: SearchStrategy[Hello] = st.builds(
    Hello,
    era=uints,
    epoch=uints,
    height=uints,
    did=digests.map(DidId),
    membership=st.binary(max_size=40),
)


checkpoints: SearchStrategy[Checkpoint] = st.builds(
    Checkpoint,
    header=st.binary(min_size=1, max_size=30),
    validators=st.binary(min_size=1, max_size=30),
    approvals=st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=3).map(tuple),
)


@st.composite
def hello_answers(draw: st.DrawFn) -> HelloAnswer:
    """Answers to members and to strangers."""
    status = draw(st.sampled_from(HelloStatus))
    shows = status in (HelloStatus.WELCOME, HelloStatus.READER)
    return HelloAnswer(
        status=status,
        epoch_steps=tuple(draw(st.lists(st.binary(max_size=40), max_size=3))),
        hello=draw(hellos) if shows else None,
        checkpoint=draw(st.none() | checkpoints),
    )


freshnesses: SearchStrategy[Freshness] = st.builds(
    Freshness,
    era=uints,
    validator=st.integers(0, VALIDATORS_MAX - 1),
    epoch=uints,
    height=uints,
    block_id=digests.map(BlockId),
    nonces=digests,
    time_ms=uints,
)
_statements = st.tuples(
    st.binary(max_size=30),
    st.integers(0, 1023),
    st.lists(digests, max_size=3).map(tuple),
    st.integers(0, 1024),
)
_blocks_answers = st.one_of(
    st.just(BlocksAnswer(blocks=(), certificate=b"")),
    st.builds(
        BlocksAnswer,
        blocks=st.lists(st.binary(max_size=30), min_size=1, max_size=3).map(tuple),
        certificate=st.binary(min_size=1, max_size=30),
    ),
)
_refusals = st.builds(Refusal, rule=identifiers, message=texts, may_retry=st.booleans())
ledger_messages: SearchStrategy[LedgerMessage] = st.one_of(
    st.just(HeadRequest()),
    st.builds(HeadAnswer, header=st.binary(max_size=30), certificate=st.binary(max_size=30)),
    st.builds(BlocksRequest, from_height=positive),
    _blocks_answers,
    st.builds(SubmitRequest, transaction=st.binary(max_size=30)),
    st.builds(SubmitAnswer, transaction_id=digests.map(TransactionId)),
    st.builds(FreshnessRequest, nonce=st.binary(min_size=32, max_size=32), relay=st.booleans()),
    st.builds(FreshnessAnswer, statements=st.lists(_statements, max_size=3).map(tuple)),
    _refusals,
    st.builds(
        SubmitBatchRequest,
        transactions=st.lists(st.binary(max_size=30), min_size=1, max_size=3).map(tuple),
    ),
    st.builds(
        SubmitBatchAnswer,
        refusals=st.lists(st.none() | _refusals, min_size=1, max_size=3).map(tuple),
    ),
    st.builds(StateHeadRequest, epoch=st.integers(0, INTEGER_MAX)),
    st.builds(
        StateHeadAnswer,
        steps=st.lists(st.binary(max_size=30), max_size=2).map(tuple),
        headers=st.lists(st.binary(max_size=30), min_size=1, max_size=2).map(tuple),
        certificate=st.binary(min_size=1, max_size=30),
        log=st.binary(min_size=1, max_size=30),
    ),
    st.builds(StatePageRequest, height=positive, start=digests),
    st.builds(StatePageAnswer, page=st.binary(max_size=30)),
    st.builds(
        ManifestsRequest,
        manifests=st.lists(digests.map(ManifestId), min_size=1, max_size=3, unique=True).map(tuple),
    ),
    st.builds(ManifestsAnswer, manifests=st.lists(st.binary(max_size=30), max_size=3).map(tuple)),
    st.builds(HeaderRequest, height=positive),
    st.builds(HeaderAnswer, header=st.binary(max_size=30)),
)


keys_of_members = st.binary(min_size=32, max_size=32)
statements = st.builds(SealingKeyStatement, era=uints, did=digests, key=keys_of_members)


@st.composite
def ring_files(draw: st.DrawFn) -> RingFile:
    """Rings of a few members."""
    wraps = st.binary(min_size=80, max_size=80)
    members = st.builds(RingMember, did=digests, key=keys_of_members, wrap=wraps)
    drawn = draw(st.lists(members, min_size=1, max_size=3, unique_by=lambda one: one.did))
    return RingFile(
        era=draw(uints),
        publisher=DidId(draw(digests)),
        group=draw(group_names),
        generation=draw(st.integers(1, GENERATION_MAX)),
        version=draw(st.integers(1, 2**32 - 1)),
        check=draw(keys_of_members),
        members=ring_members(drawn),
    )


ring_requests = st.builds(RingRequest, ring=st.none() | digests, version=st.integers(0, 2**32 - 1))
ring_answers = st.one_of(
    st.builds(RingAnswer, status=st.sampled_from((RingStatus.CURRENT, RingStatus.UNKNOWN))),
    st.builds(
        RingAnswer,
        status=st.sampled_from((RingStatus.RING, RingStatus.KEY)),
        content=st.binary(min_size=1, max_size=64),
    ),
)


@dataclass(frozen=True)
class Format:
    """One wire format: how to make objects, write and read them."""

    name: str
    """For test ids."""
    objects: SearchStrategy[Any]
    """Valid objects."""
    encode: Callable[[Any], bytes]
    """Object to bytes."""
    decode: Callable[[bytes], Any]
    """Bytes to object; raises `VerificationError` and nothing else."""
    is_signed: bool = False
    """Whether the bytes are a COSE_Sign1."""


def _signed(
    name: str,
    contents: SearchStrategy[Any],
    sign: Callable[[Any, PrivateKey, ChainId], Any],
    parse: Callable[[bytes], Any],
) -> Format:
    objects = st.builds(sign, contents, private_keys, st.just(CHAIN))
    return Format(name, objects, lambda made: made.signed.raw, parse, is_signed=True)


def _decode_root(data: bytes) -> OwnerRoot:
    return OwnerRoot.from_value(decode_canonical(data, bytes_max=8192))


def _decode_join(data: bytes) -> JoinStatement:
    return JoinStatement.from_value(decode_canonical(data, bytes_max=8192))


SIGNED_FORMATS: Final = (
    _signed("manifest", manifests(), sign_manifest, parse_manifest),
    _signed("approval", approvals, sign_approval, parse_approval),
    _signed("transaction", transactions, sign_transaction, parse_transaction),
    _signed("announcement", announcements, sign_announcement, parse_announcement),
    _signed("freshness", freshnesses, sign_freshness, parse_freshness),
    _signed("ring-file", ring_files(), sign_ring, parse_ring),
    _signed("sealing-key-statement", statements, sign_statement, parse_statement),
    _signed(
        "address-statement",
        address_statements(),
        address_statement.sign_statement,
        address_statement.parse_statement,
    ),
)
"""Every COSE object."""
FORMATS: Final = (
    *SIGNED_FORMATS,
    Format("record", records(), DidRecord.encode, decode_record),
    Format("join", joins, lambda made: encode_canonical(made.to_value()), _decode_join),
    Format("root", owner_roots(), lambda made: encode_canonical(made.to_value()), _decode_root),
    Format("policy", policies(), Policy.encode, decode_policy),
    Format("group", groups(), Group.encode, decode_group),
    Format("genesis", genesis_documents(), Genesis.encode, decode_genesis),
    Format("hello", hellos, Hello.encode, decode_hello),
    Format("hello-answer", hello_answers(), HelloAnswer.encode, decode_hello_answer),
    Format("ledger-message", ledger_messages, encode_ledger_message, decode_ledger_message),
    Format("ring-request", ring_requests, RingRequest.encode, decode_ring_request),
    Format("ring-answer", ring_answers, RingAnswer.encode, decode_ring_answer),
    Format("peers-request", peers_requests, PeersRequest.encode, decode_peers_request),
    Format("peers-answer", peers_answers, PeersAnswer.encode, decode_peers_answer),
    Format("probe-request", probe_requests, ProbeRequest.encode, decode_peers_request),
    Format("probe-answer", probe_answers, ProbeAnswer.encode, decode_probe_answer),
)
"""Every format of the vocabulary."""
