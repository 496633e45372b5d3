"""Groups, policies, owner roots, places and selectors (L53, L54, K16, K18, K50 to K66)."""

from __future__ import annotations

from dataclasses import replace

from ledger.bodies.group import CreateGroup, RotateRoot, SetPolicy, UpdateGroup, VetoPolicy
from protocol.approval import Action
from protocol.calendar import DAY_MS
from protocol.digest import sha256
from protocol.encoding import encode_canonical
from protocol.group import Group, Placement
from protocol.keys import PrivateKey
from protocol.rule import All, AnyOf, Compare, Comparison, Not, OneOf, Rule, RuleField
from protocol.transaction import SignedTransaction
from tests.support.conformance.story import Story
from tests.support.contracts import (
    OWNERS,
    SITE,
    STRANGER,
    amending,
    moving,
    rotating,
    site_group,
    site_policy,
    site_root,
    vetoing,
)
from tests.support.ledger import FLEET, make_group, make_key, make_policy, owner_keys
from tests.support.subjects import certification

FRESH = sorted([make_key(f"site/fresh/{i}") for i in range(3)], key=lambda key: key.public.raw)
LATE = {"valid_until_ms": 1_700_000_000_000 + 600 * DAY_MS}


def _creation(
    story: Story, group: Group, *, raw: bytes | None = None, governors: int = 2
) -> SignedTransaction:
    lab = story.lab
    raw = group.encode() if raw is None else raw
    approvals = tuple(
        lab.approval(
            Action.CREATE_GROUP,
            sha256(raw),
            key,
            group=group.name,
            policy=group.policy.policy_id,
        )
        for key in lab.governance[:governors]
    )
    return lab.transaction(lab.gateways[0], CreateGroup(group=raw, approvals=approvals))


def creation_story() -> Story:
    """`group.create`."""
    story = Story("creation")
    pumps = make_group("pumps")
    below = replace(make_group("below"), placement=Placement(parent=FLEET))
    lost = replace(make_group("lost"), placement=Placement(parent="nowhere"))
    itself = _with_field(pumps.encode(), 4, "pumps")
    weak = replace(pumps, policy=make_policy())
    raw = weak.encode()
    story.no("group.malformed", "no group", _creation(story, pumps, raw=b"\xa0"))
    story.no("group.malformed", "bytes behind a group", _creation(story, pumps, raw=raw + b"\0"))
    story.no("group.known", "a name that is taken", _creation(story, make_group(FLEET)))
    story.no("approval.threshold", "one governor", _creation(story, pumps, governors=1))
    story.no("group.unknown", "no such parent", _creation(story, lost))
    story.no("group.malformed", "its own parent", _creation(story, pumps, raw=itself))
    story.ok("group.create", _creation(story, pumps))
    story.no("group.known", "the same again", _creation(story, pumps))
    story.ok("group.create with a parent", _creation(story, below))
    selector = Compare(RuleField.VENDOR, Comparison.EQUAL, "acme")
    open_ = replace(make_group("open"), placement=Placement(selector=selector))
    story.ok("group.create with a selector", _creation(story, open_))
    return story


def policies_story() -> Story:
    """`policy.set`, `policy.veto`."""
    story = Story("policies", groups=[site_group()])
    bench, lab = story.bench, story.lab
    new = site_policy(approve_threshold=2, revoke_threshold=1)
    other = site_policy(approve_threshold=3, amend_threshold=3)
    good = amending(bench, new)

    def setting(raw: bytes, group: str = SITE) -> SignedTransaction:
        approvals = tuple(lab.approval(Action.AMEND, new.policy_id, k, group=SITE) for k in OWNERS)
        body = SetPolicy(group=group, policy=raw, approvals=approvals)
        return lab.transaction(lab.gateways[1], body)

    unfit = site_policy(enrol_threshold=4)
    low = site_policy(approve_threshold=1, amend_threshold=2)
    for code, name, signed in (
        ("group.unknown", "a policy of no group", setting(new.encode(), "nowhere")),
        ("policy.malformed", "no policy", setting(b"\xa0")),
        (
            "policy.malformed",
            "a default that is repeated",
            setting(_with_field(new.encode(), 20, False)),
        ),
        ("policy.malformed", "an unknown field", setting(_with_field(new.encode(), 21, 1))),
        ("policy.unfit", "more than there are owners", amending(bench, unfit)),
        ("policy.unfit", "below the root's threshold", amending(bench, low)),
        (
            "policy.unfit",
            "more attestations than builders",
            amending(bench, site_policy(attestations=3)),
        ),
        ("policy.same", "the policy in force", amending(bench, site_policy())),
        ("approval.threshold", "one owner of two", amending(bench, new, OWNERS[:1])),
        ("approval.owner", "a stranger", amending(bench, new, [OWNERS[0], STRANGER])),
        ("policy.not_scheduled", "a veto of nothing", vetoing(bench, new.policy_id, OWNERS)),
    ):
        story.no(code, name, signed)
    story.ok("policy.set", good)
    nowhere = VetoPolicy(group="nowhere", policy=new.policy_id, approvals=(b"",))
    story.no("group.unknown", "a veto in no group", lab.transaction(lab.gateways[1], nowhere))
    story.no("policy.not_scheduled", "a veto of another", vetoing(bench, other.policy_id, OWNERS))
    story.no("approval.threshold", "a veto of one", vetoing(bench, new.policy_id, OWNERS[:1]))
    story.no("approval.used", "scheduled again", amending(bench, new))
    story.ok("another takes its place", amending(bench, other))
    story.back("policy.set")
    story.ok("taken back by the policy in force", amending(bench, site_policy()))
    story.back("policy.set")
    story.ok("policy.veto", vetoing(bench, new.policy_id, OWNERS[1:]))
    story.no("approval.used", "scheduled by the same words", amending(bench, new))
    story.ok("scheduled by later words", amending(bench, new, **LATE))
    story.no("approval.used", "vetoed by the same words", vetoing(bench, new.policy_id, OWNERS[1:]))
    story.back("policy.set")
    story.wait(DAY_MS)
    story.no("policy.not_scheduled", "a veto too late", vetoing(bench, new.policy_id, OWNERS))
    story.no("policy.same", "what came into force", amending(bench, new, **LATE))
    story.ok("the next one by the new thresholds", amending(bench, other))
    return story


def _with_field(raw: bytes, key: int, value: object) -> bytes:
    from protocol.encoding import decode_canonical

    content = decode_canonical(raw, bytes_max=16384)
    assert isinstance(content, dict)
    return encode_canonical({**content, key: value})  # type: ignore[dict-item]


def roots_story() -> Story:
    """`group.rotate`."""
    story = Story("roots", groups=[site_group(site_policy(attestations=1))])
    bench, lab = story.bench, story.lab
    root = site_root(FRESH, version=2)
    all_ = [*OWNERS[:2], *FRESH[:2]]
    bad = RotateRoot(group=SITE, root=b"\xa0", approvals=(b"",))
    nowhere = RotateRoot(group="nowhere", root=encode_canonical(root.to_value()), approvals=(b"",))
    few = site_root(FRESH[:1], version=2, threshold=1)
    for code, name, signed in (
        ("group.unknown", "a root of no group", lab.transaction(lab.gateways[1], nowhere)),
        ("root.malformed", "no root", lab.transaction(lab.gateways[1], bad)),
        ("root.version", "a version left out", rotating(bench, site_root(FRESH, version=3), all_)),
        ("root.version", "the same version", rotating(bench, site_root(FRESH), all_)),
        ("root.unfit", "fewer owners than the policy asks", rotating(bench, few, all_)),
        ("root.unfit", "no builders left", rotating(bench, replace(root, roles=()), all_)),
        ("approval.threshold", "one old owner", rotating(bench, root, [OWNERS[0], *FRESH])),
        ("approval.threshold", "one new owner", rotating(bench, root, [*OWNERS, FRESH[0]])),
        ("approval.owner", "a stranger agrees", rotating(bench, root, [*all_, STRANGER])),
        ("approval.duplicate", "a new owner twice", rotating(bench, root, [*all_, FRESH[0]])),
    ):
        story.no(code, name, signed)
    good = rotating(bench, root, all_)
    story.ok("group.rotate", good)
    again = lab.transaction(lab.gateways[1], RotateRoot.read(_fields(good)))
    story.no("root.version", "the rotation again", again)
    third = site_root([OWNERS[0], *FRESH[:2]], version=3)
    story.ok("owners of both count for both", rotating(bench, third, FRESH[:2]))
    return story


def _fields(signed: SignedTransaction):  # type: ignore[no-untyped-def]
    from protocol.encoding import Fields

    return Fields(signed.transaction.body, "repeated")


def places_story() -> Story:
    """`group.update` and what selectors select."""
    below = [replace(make_group(f"g{i}"), placement=Placement(f"g{i - 1}")) for i in range(1, 8)]
    chain = [make_group("g0"), *below]
    story = Story("places", groups=[make_group("child"), *chain])
    bench, lab = story.bench, story.lab
    place = Placement(parent=FLEET)
    nowhere = Placement(parent="nowhere")
    body = UpdateGroup(group="nowhere", placement=place.encode(), approvals=(b"",), adoption=())
    malformed = UpdateGroup(group="child", placement=b"\xa0", approvals=(b"",), adoption=())
    intruders: list[PrivateKey] = owner_keys("child")[:2]
    policy = lab.policy_id(FLEET)
    for code, name, signed in (
        ("group.unknown", "the place of no group", lab.transaction(lab.gateways[1], body)),
        ("group.malformed", "no place", lab.transaction(lab.gateways[1], malformed)),
        ("group.same", "where it stands", moving(bench, "child", Placement())),
        (
            "group.unknown",
            "no such parent",
            moving(bench, "child", nowhere, adopters=[], policy=policy),
        ),
        ("group.circular", "below itself", moving(bench, "g0", Placement(parent="g7"))),
        ("group.circular", "its own parent", moving(bench, "g0", Placement(parent="g0"))),
        ("group.depth", "a ninth level", moving(bench, "child", Placement(parent="g7"))),
        ("group.depth", "those below count", moving(bench, "g0", Placement(parent="child"))),
        ("approval.threshold", "not taken in", moving(bench, "child", place, adopters=[])),
        ("approval.owner", "taken in by itself", moving(bench, "child", place, adopters=intruders)),
        (
            "approval.threshold",
            "one owner of two",
            moving(bench, "child", place, keys=intruders[:1]),
        ),
    ):
        story.no(code, name, signed)
    story.ok("group.update", moving(bench, "child", place))
    story.no("group.same", "the same place again", moving(bench, "child", place))
    narrower = Placement(FLEET, Compare(RuleField.VENDOR, Comparison.EQUAL, "acme"))
    adopters = owner_keys(FLEET)[:2]
    unasked = moving(bench, "child", narrower, adopters=adopters)
    story.no("group.adoption", "consent nobody asked for", unasked)
    story.ok("group.update to a selector", moving(bench, "child", narrower))
    story.ok("group.update to nowhere", moving(bench, "child", Placement()))
    story.no("approval.used", "back by the same words", moving(bench, "child", place))
    story.ok("back by later words", moving(bench, "child", place, **LATE))
    return story


_T = Comparison
SELECTORS: list[tuple[str, bool, Rule]] = [
    ("vendor equal", True, Compare(RuleField.VENDOR, _T.EQUAL, "acme")),
    ("vendor not equal", False, Compare(RuleField.VENDOR, _T.NOT_EQUAL, "acme")),
    ("class in", True, OneOf(RuleField.CLASS, ("fan", "pump"))),
    ("class not in", False, OneOf(RuleField.CLASS, ("fan", "valve"))),
    ("region not equal", True, Compare(RuleField.REGION, _T.NOT_EQUAL, "us")),
    ("revision at least", True, Compare(RuleField.HARDWARE_REVISION, _T.AT_LEAST, 3)),
    ("revision less", False, Compare(RuleField.HARDWARE_REVISION, _T.LESS, 3)),
    ("revision in", True, OneOf(RuleField.HARDWARE_REVISION, (2, 3))),
    ("one of the tags", True, Compare(RuleField.TAG, _T.EQUAL, "roof")),
    ("a tag among others is not unequal", False, Compare(RuleField.TAG, _T.NOT_EQUAL, "roof")),
    ("no such tag", False, Compare(RuleField.TAG, _T.EQUAL, "cellar")),
    (
        "all",
        True,
        All(
            (
                Compare(RuleField.VENDOR, _T.EQUAL, "acme"),
                Compare(RuleField.REGION, _T.EQUAL, "eu"),
            )
        ),
    ),
    (
        "any",
        True,
        AnyOf(
            (
                Compare(RuleField.VENDOR, _T.EQUAL, "other"),
                Compare(RuleField.REGION, _T.EQUAL, "eu"),
            )
        ),
    ),
    ("not", False, Not(Compare(RuleField.REGION, _T.EQUAL, "eu"))),
]
ATTRIBUTES = (
    ("class", "pump"),
    ("hardware_revision", "3"),
    ("region", "eu"),
    ("tag:lab", "yes"),
    ("tag:roof", "yes"),
    ("vendor", "acme"),
)


def selectors_story() -> Story:
    """Whom a selector takes: shown by who may propose in the group (K60, K64, K65)."""
    story = Story("selectors", groups=[make_group("lab")])
    bench, lab = story.bench, story.lab
    publisher = lab.publisher.did
    story.ok("attributes by a group without a say", certification(bench, publisher, ATTRIBUTES))
    manifest = lab.manifest(groups=("lab",))
    for name, is_true, rule in SELECTORS:
        story.back("attributes by a group without a say")
        place = Placement(FLEET, rule)
        story.ok(f"selector: {name}", moving(bench, "lab", place))
        proposing = lab.propose(manifest)
        if is_true:
            story.ok(f"selected: {name}", proposing)
        else:
            story.no("manifest.publisher", f"not selected: {name}", proposing)
    story.back("attributes by a group without a say")
    top = Placement(selector=SELECTORS[0][2])
    story.ok("a selector without parent", moving(bench, "lab", top))
    story.no("manifest.publisher", "attributes of no ancestor do not count", lab.propose(manifest))
    story.back("genesis")
    story.ok(
        "a selector before attributes", moving(bench, "lab", Placement(FLEET, SELECTORS[1][2]))
    )
    story.no("manifest.publisher", "what is unknown selects nobody", lab.propose(manifest))
    return story
