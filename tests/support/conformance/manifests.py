"""Manifests and anchors: L55 to L58, K16, K17, K30 to K49, Q20."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from ledger.bodies.manifest import (
    ApproveManifest,
    AttestManifest,
    OverrideManifest,
    ProposeManifest,
    RevokeManifest,
    SettleManifest,
)
from ledger.bodies.receipt import AnchorReceipts
from ledger.bodies.rollout import Command, StopRollout
from protocol.approval import Action
from protocol.calendar import DAY_MS, HOUR_MS, Freeze
from protocol.cose import sign
from protocol.did import KeyPurpose
from protocol.digest import sha256
from protocol.encoding import Value, as_array, decode_canonical, encode_canonical
from protocol.keys import PrivateKey
from protocol.limits import MANIFEST_BYTES_MAX
from protocol.manifest import (
    MANIFEST_TAG,
    ChunkerKind,
    ChunkerParameters,
    PatchReference,
    SignedManifest,
    sign_manifest,
)
from protocol.policy import Policy
from protocol.transaction import SignedTransaction
from tests.support.conformance.story import Story
from tests.support.contracts import (
    AUDITOR,
    BUILDERS,
    OWNERS,
    SITE,
    STRANGER,
    amending,
    approving,
    attesting,
    overriding,
    revoking,
    rotating,
    settling,
    site_group,
    site_policy,
    site_root,
)
from tests.support.contracts import signed as signed_by
from tests.support.ledger import GENESIS_MS, Member, make_group, make_lab
from tests.support.rollout import make_plan
from tests.support.subjects import suspension


def proposals_story() -> Story:
    """`manifest.propose` and `receipt.anchor`."""
    named = make_group("named", site_policy())
    closed = make_group("closed", replace(site_policy(), publishers=(make_lab().gateways[0].did,)))
    brief = make_group("brief", site_policy(manifest_lifetime_ms_max=DAY_MS))
    story = Story("proposals", groups=[named, closed, brief])
    lab = story.lab
    person = lab.publisher.key(KeyPurpose.PERSON)
    gateway = lab.gateways[0]
    good = lab.manifest()

    def made(key: PrivateKey = person, **changes: object) -> SignedManifest:
        return sign_manifest(replace(good.manifest, **changes), key, lab.chain_id)

    def by(signed: SignedManifest, member: Member = lab.publisher) -> SignedTransaction:
        return lab.transaction(member, ProposeManifest(manifest=signed.signed.raw))

    def raw(content: bytes) -> SignedTransaction:
        return lab.transaction(lab.publisher, ProposeManifest(manifest=content))

    late = story.bench.time_ms + 1000 + DAY_MS + 1
    foreign = sign_manifest(good.manifest, person, sha256(b"x"))
    for code, name, signed in (
        ("manifest.malformed", "no manifest", raw(b"\x80")),
        ("manifest.malformed", "bytes behind it", raw(good.signed.raw + b"\0")),
        ("manifest.malformed", "a deceptive version", raw(_deceptive(story, good))),
        ("manifest.era", "a manifest of another era", by(made(era=1))),
        ("manifest.expired", "an expired manifest", by(made(expires_ms=GENESIS_MS + 999))),
        ("manifest.publisher", "proposed by another", by(good, gateway)),
        ("manifest.publisher", "a gateway's manifest", _by_gateway(story, good)),
        (
            "manifest.signature",
            "the publisher's node key",
            by(made(lab.publisher.key(KeyPurpose.NODE))),
        ),
        ("manifest.signature", "a manifest for another chain", by(foreign)),
        ("group.unknown", "no such target", by(made(groups=("nowhere",)))),
        ("manifest.publisher", "not among the named", by(made(groups=("closed",)))),
        ("manifest.lifetime", "no expiry where one is asked", by(made(groups=("brief",)))),
        ("manifest.lifetime", "too long a life", by(made(groups=("brief",), expires_ms=late))),
    ):
        story.no(code, name, signed)
    _patched(story, good, by)
    story.ok("a life to the last moment", by(made(groups=("brief",), expires_ms=late - 1)))
    story.ok("manifest.propose in two groups", by(made(groups=("fleet", "named"))))
    story.ok("manifest.propose", by(good))
    story.no("manifest.known", "the same again", by(good))
    story.ok("receipt.anchor", _anchor(story, 3, b"a"))
    story.no("anchor.shrunk", "a log that shrinks", _anchor(story, 2, b"a"))
    story.no("anchor.conflict", "two roots for one size", _anchor(story, 3, b"b"))
    story.ok("the same anchor again", _anchor(story, 3, b"a"))
    story.ok("a log that grows", _anchor(story, 4, b"b"))
    _open_ones(story)
    return story


def _patched(
    story: Story, good: SignedManifest, by: Callable[[SignedManifest], SignedTransaction]
) -> None:
    """Patches: P65a and P65b."""
    key = story.lab.publisher.key(KeyPurpose.PERSON)
    (part,) = good.manifest.components
    part = replace(part, size=4000)
    cut = ChunkerParameters(kind=ChunkerKind.FIXED, minimum=1024, average=1024, maximum=1024)
    patches = [
        PatchReference(
            base=sha256(b"base %d" % number),
            size=2049 + number,
            digest=sha256(b"patch %d" % number),
            chunker=cut,
            chunk_count=3,
            recipe_root=sha256(b"recipe"),
        )
        for number in range(5)
    ]
    patches.sort(key=lambda patch: patch.base)

    def content(*named: PatchReference) -> bytes:
        return replace(good.manifest, components=(replace(part, patches=named),)).encode()

    def proposal(payload: bytes) -> SignedTransaction:
        raw = sign(payload, key, tag=MANIFEST_TAG, chain=story.lab.chain_id, era=0)
        return story.lab.transaction(story.lab.publisher, ProposeManifest(manifest=raw))

    honest = content(*patches[:2])
    first, second = patches[:2]
    base, other = bytes(first.base), bytes(second.base)
    for name, payload in (
        ("a list of no patches", _with_patches(content(), [])),
        ("five patches", _with_patches(content(), [patch.to_value() for patch in patches])),
        ("patches out of order", _swapped(honest, base, other)),
        ("two patches for one base", honest.replace(other, base)),
        ("the component as its own base", honest.replace(base, bytes(part.digest))),
        ("a patch that is another one", honest.replace(bytes(second.digest), bytes(first.digest))),
        ("a patch that is the component", honest.replace(bytes(first.digest), bytes(part.digest))),
        ("a patch of more than its chunks", _with_fields(honest, first, {1: 3073})),
        ("a patch of less than its chunks", _with_fields(honest, first, {1: 2048})),
        ("a patch longer than its component", _with_fields(honest, first, {1: 4001, 4: 4})),
        ("a patch without a byte", _with_fields(honest, first, {1: 0, 4: 1})),
        ("a patch with a field nobody knows", _with_fields(honest, first, {6: 1})),
    ):
        story.no("manifest.malformed", name, proposal(payload))
    story.ok("a manifest with four patches", proposal(content(*patches[:4])))


def _with_patches(payload: bytes, patches: list[Value]) -> bytes:
    """A manifest's payload with this list of patches in its component."""
    value = decode_canonical(payload, bytes_max=MANIFEST_BYTES_MAX)
    assert isinstance(value, Mapping)
    (part,) = as_array(value[7], "components", size=1)
    assert isinstance(part, Mapping)
    return encode_canonical({**value, 7: [{**part, 9: patches}]})


def _with_fields(payload: bytes, patch: PatchReference, changes: dict[int, int]) -> bytes:
    """The payload with other fields in one patch."""
    value = decode_canonical(payload, bytes_max=MANIFEST_BYTES_MAX)
    assert isinstance(value, Mapping)
    (part,) = as_array(value[7], "components", size=1)
    assert isinstance(part, Mapping)
    patches = [dict(one) for one in part[9]]  # type: ignore[arg-type,union-attr]  # maps
    for one in patches:
        if one[1] == patch.size:
            one.update(changes)
    return _with_patches(payload, patches)  # type: ignore[arg-type]  # values


def _swapped(payload: bytes, one: bytes, other: bytes) -> bytes:
    return payload.replace(one, b"\0" * 32).replace(other, one).replace(b"\0" * 32, other)


def _anchor(story: Story, size: int, root: bytes) -> SignedTransaction:
    return story.lab.transaction(
        story.lab.gateways[0], AnchorReceipts(size=size, root=sha256(root))
    )


def _deceptive(story: Story, good: SignedManifest) -> bytes:
    content = replace(good.manifest, version="1.0\u202e0.1")
    key = story.lab.publisher.key(KeyPurpose.PERSON)
    return sign(content.encode(), key, tag=MANIFEST_TAG, chain=story.lab.chain_id, era=0)


def _by_gateway(story: Story, good: SignedManifest) -> SignedTransaction:
    gateway = story.lab.gateways[0]
    content = replace(good.manifest, publisher=gateway.did)
    signed = sign_manifest(content, gateway.key(KeyPurpose.NODE), story.lab.chain_id)
    return story.lab.transaction(gateway, ProposeManifest(manifest=signed.signed.raw))


def _open_ones(story: Story) -> None:
    """64 open manifests; what is closed is swept when one more comes (Q20 to Q22)."""
    lab = story.lab
    story.back("genesis")
    expires = story.bench.time_ms + HOUR_MS
    for part in range(4):
        manifests = [
            lab.manifest(sequence=1 + part * 16 + index, expires_ms=expires + (part > 0) * DAY_MS)
            for index in range(16)
        ]
        proposals = [
            lab.transaction(
                lab.publisher, ProposeManifest(manifest=manifest.signed.raw), nonce=part * 16 + i
            )
            for i, manifest in enumerate(manifests)
        ]
        story.ok(f"proposals {part * 16 + 1} to {part * 16 + 16}", *proposals)
    one_more = lab.manifest(sequence=99)
    story.no("manifest.open", "a 65th open manifest", lab.propose(one_more))
    story.wait(2 * HOUR_MS)
    story.ok("16 have expired and are swept", lab.propose(one_more))


def _policy(**changes: object) -> Policy:
    freeze = Freeze(GENESIS_MS + 2 * DAY_MS, GENESIS_MS + 3 * DAY_MS)
    return site_policy(attestations=1, soak_ms=HOUR_MS, freezes=(freeze,), **changes)


def decisions_story() -> Story:
    """`manifest.approve`, `.attest`, `.settle`, `.override`, `.revoke`."""
    story = Story("decisions", groups=[site_group(_policy())])
    bench, lab = story.bench, story.lab
    manifest = lab.manifest(groups=(SITE,), expires_ms=GENESIS_MS + 30 * DAY_MS)
    unknown = sha256(b"unknown")
    for name, body in (
        ("approval of nothing", ApproveManifest(manifest=unknown, group=SITE, approvals=(b"",))),
        ("attestation of nothing", AttestManifest(manifest=unknown, group=SITE, approvals=(b"",))),
        ("override of nothing", OverrideManifest(manifest=unknown, group=SITE, approvals=(b"",))),
        ("revocation of nothing", RevokeManifest(manifest=unknown, group=SITE, approvals=(b"",))),
        ("settling of nothing", SettleManifest(manifest=unknown, group=SITE)),
    ):
        story.no("manifest.unknown", name, lab.transaction(lab.gateways[1], body))
    story.ok("proposed", lab.propose(manifest))
    for code, name, signed in (
        ("approval.owner", "approval by a stranger", approving(bench, manifest, [STRANGER])),
        ("approval.action", "a revocation for an approval", _crossed(story, manifest)),
        ("approval.owner", "attestation by an owner", attesting(bench, manifest, OWNERS[:1])),
        ("approval.subject", "attestation of the manifest", _about_manifest(story, manifest)),
        ("approval.owner", "revocation by an auditor", revoking(bench, manifest, [AUDITOR])),
        ("approval.threshold", "override by one owner", overriding(bench, manifest, OWNERS[:1])),
        ("manifest.unsettled", "settling before anything", settling(bench, manifest)),
    ):
        story.no(code, name, signed)
    story.ok("manifest.approve by an auditor", approving(bench, manifest, [AUDITOR]))
    story.ok("manifest.approve by two owners", approving(bench, manifest, OWNERS[:2]))
    story.no("approval.duplicate", "approved again", approving(bench, manifest, OWNERS[:2]))
    story.ok("one of them new", approving(bench, manifest, OWNERS))
    story.back("manifest.approve by two owners")
    story.ok("manifest.attest", attesting(bench, manifest, BUILDERS[:1]))
    story.no("approval.duplicate", "attested again", attesting(bench, manifest, BUILDERS[:1]))
    story.no("manifest.unsettled", "settling within the soak", settling(bench, manifest))
    story.wait(HOUR_MS)
    story.ok("manifest.settle", settling(bench, manifest))
    story.no("manifest.settled", "settled already", settling(bench, manifest))
    _authorised(story, manifest)
    _frozen(story, manifest)
    _stale(story, manifest)
    return story


def _crossed(story: Story, manifest: SignedManifest) -> SignedTransaction:
    signed = revoking(story.bench, manifest, OWNERS[:1])
    body = ApproveManifest(
        manifest=manifest.manifest_id,
        group=SITE,
        approvals=tuple(signed.transaction.body[2]),
    )
    return story.lab.transaction(story.lab.gateways[1], body)


def _about_manifest(story: Story, manifest: SignedManifest) -> SignedTransaction:
    return attesting(story.bench, manifest, BUILDERS[:1], subject=manifest.manifest_id)


def _authorised(story: Story, manifest: SignedManifest) -> None:
    bench, lab = story.bench, story.lab
    lower = lab.manifest(image=b"other", groups=(SITE,))
    story.no("manifest.sequence", "a sequence that is not above", lab.propose(lower))
    story.ok("a further approval is recorded", approving(bench, manifest, OWNERS[2:]))
    story.ok("manifest.override of what is authorised", overriding(bench, manifest, OWNERS[:2]))
    story.no("manifest.override", "overridden twice", overriding(bench, manifest, OWNERS[:2]))
    story.back("manifest.settle")
    story.ok("manifest.revoke by one of two", revoking(bench, manifest, OWNERS[:1]))
    story.no("approval.duplicate", "revoked by the same", revoking(bench, manifest, OWNERS[:1]))
    story.ok("manifest.revoke", revoking(bench, manifest, OWNERS[:2]))
    for name, signed in (
        ("approval of what is revoked", approving(bench, manifest, OWNERS[2:])),
        ("attestation of what is revoked", attesting(bench, manifest, BUILDERS[1:])),
        ("override of what is revoked", overriding(bench, manifest, OWNERS[:2])),
        ("settling of what is revoked", settling(bench, manifest)),
        ("revocation of what is revoked", revoking(bench, manifest, OWNERS[2:])),
    ):
        story.no("manifest.revoked", name, signed)
    story.no("manifest.sequence", "the floor stays", lab.propose(lower))


def _frozen(story: Story, manifest: SignedManifest) -> None:
    bench = story.bench
    story.back("manifest.attest")
    story.wait(2 * DAY_MS)
    story.no("manifest.unsettled", "settling in a freeze", settling(bench, manifest))
    story.ok("manifest.override in a freeze", overriding(bench, manifest, OWNERS[:2]))
    story.no("manifest.settled", "the override authorised it", settling(bench, manifest))
    story.back("manifest.attest")
    story.wait(3 * DAY_MS)
    story.ok("after the freeze", settling(bench, manifest))


def _stale(story: Story, manifest: SignedManifest) -> None:
    """Expired, overtaken, of a suspended publisher, of a publisher that approves."""
    bench, lab = story.bench, story.lab
    story.back("manifest.attest")
    story.wait(30 * DAY_MS)
    story.no("manifest.expired", "approval of what expired", approving(bench, manifest, OWNERS[2:]))
    story.no("manifest.expired", "settling of what expired", settling(bench, manifest))
    story.ok("revocation of what expired", revoking(bench, manifest, OWNERS[:2]))
    story.back("manifest.attest")
    story.ok("its publisher is suspended", suspension(bench, lab.publisher.did))
    story.no("manifest.publisher", "settling meanwhile", settling(bench, manifest))
    story.back("manifest.attest")
    newer = lab.manifest(sequence=2, groups=(SITE,))
    story.ok("a newer one is proposed", lab.propose(newer))
    story.ok("attested", attesting(bench, newer, BUILDERS[:1]))
    story.wait(HOUR_MS)
    story.ok("the newer one is authorised", approving(bench, newer, OWNERS[:2]))
    story.no("manifest.sequence", "settling of what was overtaken", settling(bench, manifest))
    story.no(
        "manifest.sequence",
        "approval of what was overtaken",
        approving(bench, manifest, OWNERS[2:]),
    )


def fewer_owners_story() -> Story:
    """Revocations and approvals after a rotation to other owners (K53, L57)."""
    strict = site_policy(revoke_threshold=1)
    story = Story("fewer", groups=[site_group(strict)])
    bench, lab = story.bench, story.lab
    three = replace(strict, revoke_threshold=3, rollout=make_plan())
    story.ok("revoking asks for three", amending(bench, three))
    story.wait(DAY_MS)
    manifest = lab.manifest(groups=(SITE,))
    story.ok("proposed under it", lab.propose(manifest))
    story.ok("authorised, with a rollout", approving(bench, manifest, OWNERS[:2]))
    story.ok("one owner revokes", revoking(bench, manifest, OWNERS[:1]))
    story.ok("a second one revokes", revoking(bench, manifest, OWNERS[1:2]))
    story.ok("the policy asks for one", amending(bench, strict))
    story.wait(DAY_MS)
    two = site_root(sorted(OWNERS[:2], key=lambda key: key.public.raw), version=2)
    story.ok("rotated to the two who revoked", rotating(bench, two, OWNERS[:2]))
    halt = StopRollout(
        manifest=manifest.manifest_id, group=SITE, command=Command.HALT, sequence=0, approvals=()
    )
    policy = three.policy_id
    halting = signed_by(bench, Action.ROLLOUT, halt.subject, OWNERS[:2], policy=policy)
    by_one = lab.transaction(lab.gateways[1], replace(halt, approvals=halting[:1]))
    story.no("approval.threshold", "halted by one of two", by_one)
    by_all = lab.transaction(lab.gateways[1], replace(halt, approvals=halting))
    story.ok("halted by all there are, where three were asked", by_all)
    story.no("approval.owner", "who left revokes no more", revoking(bench, manifest, OWNERS[2:]))
    story.ok("all there are have revoked", revoking(bench, manifest, OWNERS[:1]))
    story.no("manifest.revoked", "revoked for good", revoking(bench, manifest, OWNERS[1:2]))
    return story


def separation_story() -> Story:
    """A publisher whose key is an owner's (K41)."""
    person = make_lab().publisher.key(KeyPurpose.PERSON)
    owners = sorted([person, *OWNERS[:2]], key=lambda key: key.public.raw)
    story = Story("separation", groups=[site_group(owner_root=site_root(owners))])
    bench, lab = story.bench, story.lab
    manifest = lab.manifest(groups=(SITE,))
    story.ok("proposed by an owner", lab.propose(manifest))
    story.no("approval.self", "approved by its publisher", approving(bench, manifest, [person]))
    story.no("approval.self", "among others", approving(bench, manifest, [OWNERS[0], person]))
    story.ok("approved by the others", approving(bench, manifest, OWNERS[:2]))
    story.ok(
        "revoked by its publisher and one more", revoking(bench, manifest, [OWNERS[0], person])
    )
    return story
