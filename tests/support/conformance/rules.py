"""Every operator of the policy language, true and false (K20 to K29), and malformed rules."""

from __future__ import annotations

from typing import Any

from ledger.bodies.group import SetPolicy
from ledger.bodies.manifest import ApproveManifest
from protocol.approval import Action
from protocol.calendar import DAY_MS, HOUR_MS
from protocol.digest import tagged_digest
from protocol.encoding import decode_canonical, encode_canonical
from protocol.transaction import SignedTransaction
from tests.support.conformance.story import Story
from tests.support.contracts import (
    AUDITOR,
    OWNERS,
    SITE,
    approving,
    settling,
    site_group,
    site_policy,
    submit,
)
from tests.support.ledger import PRODUCT, make_lab

TRUE, FALSE = [5, 3, 6, 1], [5, 3, 6, 9]
"""The sequence is at least 1; at least 9. Manifests of this story have sequence 3."""
UNKNOWN = [5, 16, 6, 0]
"""About the latest sequence, while there is none."""
LIFE_MS = 5 * DAY_MS
WEDNESDAY_MS = 1_700_006_400_000
"""2023-11-15 00:00 UTC. Proposals are made 12 h later."""


def _field_cases() -> list[tuple[str, bool, list[Any]]]:
    """Every field and every comparison."""
    publisher = make_lab().publisher.did.hex()
    fields: list[tuple[str, int, Any, Any]] = [
        ("product", 1, PRODUCT, "fan"),
        ("version", 2, "1.3", "1.4"),
        ("sequence", 3, 3, 4),
        ("size", 4, 7, 8),
        ("components", 5, 1, 2),
        ("target groups", 6, 1, 2),
        ("lifetime", 7, LIFE_MS, LIFE_MS + 1),
        ("has SBOM", 8, 0, 1),
        ("has SUIT envelope", 9, 0, 1),
        ("stepping stones", 10, 0, 1),
        ("dependencies", 11, 0, 1),
        ("publisher", 12, publisher, "00"),
        ("group", 13, SITE, "fleet"),
        ("approvals", 14, 2, 3),
        ("attestations", 15, 0, 1),
        ("is sealed", 17, 0, 1),
    ]
    cases: list[tuple[str, bool, list[Any]]] = []
    for name, number, good, bad in fields:
        cases.append((f"{name} equal", True, [5, number, 1, good]))
        cases.append((f"{name} not equal", False, [5, number, 2, good]))
        cases.append((f"{name} in", True, [6, number, sorted([good, bad], key=_order)]))
        cases.append((f"{name} not in", False, [6, number, [bad]]))
    for comparison, name, below, same, above in (
        (1, "equal", False, True, False),
        (2, "not equal", True, False, True),
        (3, "less", False, False, True),
        (4, "at most", False, True, True),
        (5, "more", True, False, False),
        (6, "at least", True, True, False),
    ):
        for constant, outcome in ((2, below), (3, same), (4, above)):
            cases.append((f"3 {name} {constant}", outcome, [5, 3, comparison, constant]))
    return cases


def _node_cases() -> list[tuple[str, bool, list[Any]]]:
    """Every node but comparisons."""
    auditor = AUDITOR.public.key_id
    return [
        ("all of true", True, [1, TRUE, TRUE]),
        ("all with a false part", False, [1, TRUE, FALSE]),
        ("all with an unknown part", False, [1, TRUE, UNKNOWN]),
        ("any with a true part", True, [2, FALSE, TRUE]),
        ("any with an unknown and a true part", True, [2, UNKNOWN, TRUE]),
        ("any of false", False, [2, FALSE, FALSE]),
        ("not false", True, [3, FALSE]),
        ("not true", False, [3, TRUE]),
        ("unknown", False, UNKNOWN),
        ("not unknown", False, [3, UNKNOWN]),
        ("not all of false and unknown", True, [3, [1, FALSE, UNKNOWN]]),
        ("two owners", True, [4, 2, ["owner"]]),
        ("three owners", False, [4, 3, ["owner"]]),
        ("an auditor", True, [4, 1, ["auditor"]]),
        ("a key by its id", True, [4, 1, [auditor]]),
        ("an auditor once, as role and key", False, [4, 2, ["auditor", auditor]]),
        ("owners and auditor", True, [4, 3, ["auditor", "owner"]]),
        ("a builder", False, [4, 1, ["builder"]]),
        ("Wednesday noon", True, [7, 0b100, 720, 721]),
        ("Wednesday until noon", False, [7, 0b100, 0, 720]),
        ("all days but Wednesday", False, [7, 0b1111011, 0, 1440]),
        ("no age yet", True, [8, 1, 1, 0]),
        ("an hour since proposal", False, [8, 1, 6, HOUR_MS]),
        ("never authorised", False, [8, 2, 6, 0]),
        ("never revoked", False, [8, 3, 6, 0]),
        ("one proposal in an hour", True, [9, 1, HOUR_MS, 1, 1]),
        ("two proposals in an hour", False, [9, 1, HOUR_MS, 6, 2]),
        ("no authorisation in an hour", True, [9, 2, HOUR_MS, 1, 0]),
        ("a revocation in an hour", False, [9, 3, HOUR_MS, 5, 0]),
        ("the publisher's group", True, [10, "fleet"]),
        ("another group", False, [10, SITE]),
    ]


def _order(constant: Any) -> Any:
    return constant.encode() if isinstance(constant, str) else constant


def _setting(story: Story, rule: Any) -> SignedTransaction:
    """`policy.set` of a policy with a rule as it stands on the wire."""
    lab = story.lab
    content = decode_canonical(site_policy().encode(), bytes_max=8192)
    assert isinstance(content, dict)
    raw = encode_canonical({**content, 9: rule})
    subject = tagged_digest("swarmd/policy/1", raw)
    approvals = tuple(lab.approval(Action.AMEND, subject, key, group=SITE) for key in OWNERS[:2])
    return lab.transaction(lab.gateways[1], SetPolicy(group=SITE, policy=raw, approvals=approvals))


def rules_story() -> Story:
    """For each rule: it becomes the policy's, a manifest is approved, and settling tells truth.

    `manifest.settled`: it was authorised, so the rule was true. `manifest.unsettled`: it was not.
    """
    story = Story("rules", groups=[site_group()])
    for name, is_true, rule in [*_field_cases(), *_node_cases()]:
        story.back("genesis")
        story.ok(f"rule: {name}", _setting(story, rule))
        _to_noon(story)
        _judge(story, name, is_true=is_true)
    _history(story)
    _malformed(story)
    return story


def _to_noon(story: Story) -> None:
    """The next block but one stands at noon of the Thursday week's Wednesday."""
    noon = WEDNESDAY_MS + 7 * DAY_MS + 12 * HOUR_MS
    story.wait(noon - 1000 - story.bench.time_ms)


def _judge(story: Story, name: str, *, is_true: bool, sequence: int = 3) -> None:
    lab, bench = story.lab, story.bench
    expires = bench.time_ms + 1000 + LIFE_MS
    manifest = lab.manifest(sequence=sequence, groups=(SITE,), expires_ms=expires)
    subject = manifest.manifest_id
    approvals = tuple(
        lab.approval(Action.AUTHORISE, subject, key, group=SITE) for key in [*OWNERS[:2], AUDITOR]
    )
    body = ApproveManifest(manifest=subject, group=SITE, approvals=approvals)
    story.ok(f"judged: {name}", lab.propose(manifest), submit(bench, body))
    bench.time_ms -= 1000
    code = "manifest.settled" if is_true else "manifest.unsettled"
    story.no(code, f"settling: {name}", settling(bench, manifest))
    bench.time_ms += 1000


def _history(story: Story) -> None:
    """Moments and counts after an authorisation and a revocation."""
    from tests.support.contracts import revoking

    lab, bench = story.lab, story.bench
    story.back("genesis")
    before = lab.manifest(sequence=2, groups=(SITE,))
    story.ok("proposed before", lab.propose(before))  # judged by the policy without a rule
    for name, is_true, rule in (
        ("authorised within two hours", True, [8, 2, 3, 2 * HOUR_MS]),
        ("authorised long ago", False, [8, 2, 6, 2 * HOUR_MS]),
        ("revoked within two hours", True, [8, 3, 3, 2 * HOUR_MS]),
        ("one authorisation today", True, [9, 2, DAY_MS, 1, 1]),
        ("no authorisation in the last minute", True, [9, 2, 60_000, 1, 0]),
        ("one revocation today", True, [9, 3, DAY_MS, 6, 1]),
        ("one proposal today", True, [9, 1, DAY_MS, 1, 1]),
        ("two proposals in nine days", True, [9, 1, 9 * DAY_MS, 1, 2]),
        ("latest sequence", True, [5, 16, 1, 2]),
        ("latest sequence above", False, [5, 16, 5, 2]),
    ):
        story.back("proposed before")
        story.ok(f"rule: {name}", _setting(story, rule))
        _to_noon(story)
        story.wait(-HOUR_MS)
        story.ok(f"authorised before: {name}", approving(bench, before, OWNERS[:2]))
        story.ok(f"revoked before: {name}", revoking(bench, before, OWNERS[:2]))
        story.wait(HOUR_MS)
        _judge(story, name, is_true=is_true)


def _malformed(story: Story) -> None:
    """Rules that are none (K20 to K25)."""
    story.back("genesis")
    deep: list[Any] = TRUE
    for _ in range(8):
        deep = [3, deep]
    for name, rule in (
        ("nine levels", deep),
        ("257 nodes", [1, *[TRUE] * 256]),
        ("more than 4 KiB", [1, *[[6, 1, ["x" * 60, "y" * 60]]] * 60]),
        ("no part", [1]),
        ("two parts of not", [3, TRUE, TRUE]),
        ("an unknown node", [11, TRUE]),
        ("an unknown field", [5, 18, 1, 1]),
        ("a field of subjects", [5, 32, 1, "acme"]),
        ("text in order", [5, 1, 3, "pump"]),
        ("text for a number", [5, 3, 1, "3"]),
        ("a number for text", [5, 1, 1, 3]),
        ("an unknown comparison", [5, 3, 7, 1]),
        ("no constants", [6, 3, []]),
        ("constants out of order", [6, 3, [2, 1]]),
        ("constants of two types", [6, 3, [1, "2"]]),
        ("k_of of nobody", [4, 1, []]),
        ("k_of of none", [4, 0, ["owner"]]),
        ("keys before roles", [4, 1, [bytes(32), "owner"]]),
        ("roles out of order", [4, 1, ["owner", "auditor"]]),
        ("a window on no day", [7, 0, 0, 1]),
        ("a window backwards", [7, 1, 2, 1]),
        ("an unknown moment", [8, 4, 1, 1]),
        ("an unknown event", [9, 4, 1, 1, 1]),
        ("a count of 32", [9, 1, 1, 1, 32]),
        ("no group name", [10, "A/b"]),
        ("a field too many", [10, "fleet", 1]),
    ):
        story.no("policy.malformed", f"malformed rule: {name}", _setting(story, rule))
