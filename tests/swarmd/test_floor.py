"""A gateway's own floor: it refuses what it says, and asks for nothing it cannot be shown."""

from __future__ import annotations

import pytest

from ledger.records.manifest import ManifestRecord, ManifestStatus
from protocol.calendar import WeeklyWindow
from protocol.errors import ConfigError
from protocol.owner_root import Holder
from protocol.rule import Compare, Comparison, KOf, RuleField
from swarmd.floor import NO_FLOOR, Floor, parse_floor_rule, parse_floor_window
from tests.support.contracts import AUDITOR, OWNERS, SITE, site_root
from tests.support.ledger import make_lab

LAB = make_lab()
MANIFEST = LAB.manifest(groups=(SITE,)).manifest
RECORD = ManifestRecord(
    status=ManifestStatus.AUTHORISED,
    publisher=LAB.publisher.did,
    product=MANIFEST.product,
    sequence=1,
    policy=LAB.policy_id(),
    expires_ms=None,
    proposed_height=1,
    proposed_ms=1000,
    authorised_height=2,
    authorised_ms=2000,
)


def holders(*keys) -> tuple[Holder, ...]:
    found = (site_root().holder(key.public.key_id) for key in keys)
    return tuple(holder for holder in found if holder is not None)


TWO = holders(*OWNERS[:2])


@pytest.mark.parametrize(
    ("floor", "approved", "rule"),
    [
        (NO_FLOOR, TWO, None),
        (Floor(approvals_min=3), TWO, "floor.approvals"),
        (Floor(approvals_min=3), (*TWO, *holders(AUDITOR)), "floor.approvals"),
        (Floor(products=("valve",)), TWO, "floor.product"),
        (Floor(products=("pump", "valve")), TWO, None),
        (Floor(roles=("auditor",)), TWO, "floor.role"),
        (Floor(roles=("auditor", "owner")), (*TWO, *holders(AUDITOR)), None),
        (Floor(rule=KOf(1, ("auditor",))), TWO, "floor.rule"),
        (Floor(rule=KOf(1, ("auditor",))), holders(OWNERS[0], AUDITOR), None),
        (Floor(rule=Compare(RuleField.LIFETIME_MS, Comparison.AT_MOST, 9)), TWO, "floor.rule"),
        (Floor(rule=Compare(RuleField.APPROVALS, Comparison.AT_LEAST, 2)), TWO, None),
    ],
)
def test_a_release_meets_the_floor_or_the_first_missing_demand_is_named(
    floor, approved, rule
) -> None:
    refusal = floor.check_release(MANIFEST, RECORD, SITE, approved)
    assert (None if refusal is None else refusal[0]) == rule


@pytest.mark.parametrize(
    ("floor", "time_ms", "rule"),
    [
        (NO_FLOOR, 0, None),
        (Floor(soak_ms=500), 2499, "floor.soak"),
        (Floor(soak_ms=500), 2500, None),
        (Floor(windows=(WeeklyWindow(0b1000, 0, 1),)), 59_999, None),  # 1970 began on a Thursday
        (Floor(windows=(WeeklyWindow(0b1000, 0, 1),)), 60_000, "floor.window"),
    ],
)
def test_offers_wait_for_soak_and_window(floor, time_ms, rule) -> None:
    refusal = floor.check_offer(RECORD, time_ms)
    assert (None if refusal is None else refusal[0]) == rule


def test_a_rule_is_json_and_asks_for_what_can_be_shown() -> None:
    assert parse_floor_rule("", "floor.rule") is None
    text = '{"k_of": {"count": 1, "of": ["auditor"]}}'
    assert parse_floor_rule(text, "floor.rule") == KOf(1, ("auditor",))
    for wrong in (
        "{",
        "[]",
        '{"in_group": "fleet"}',
        '{"not": {"age": ["proposed", ">", "1h"]}}',
        '{"count": {"of": "authorised", "within": "1d", "is": ["<", 1]}}',
        '{"window": {"days": ["Mon"], "from": "00:00", "to": "01:00"}}',
        '{"compare": ["vendor", "==", "x"]}',
    ):
        with pytest.raises(ConfigError, match=r"floor\.rule"):
            parse_floor_rule(wrong, "floor.rule")


def test_windows_are_short_texts() -> None:
    assert parse_floor_window("Sat,Sun 01:00-05:30", "w") == WeeklyWindow(0b1100000, 60, 330)
    for wrong in (
        "",
        "Sat",
        "Sat 5:00-6:00",
        "Xyz 01:00-02:00",
        "Sat 02:00-01:00",
        "sat 01:00-02:00",
    ):
        with pytest.raises(ConfigError):
            parse_floor_window(wrong, "w")
