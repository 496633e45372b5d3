"""`[floor]`: what one gateway demands beyond its groups' policies. It can refuse, never permit.

A floor speaks about what can be shown from signatures and the manifest (whose approvals, which
product, a rule over those), and about offers to devices (freshness, soak, windows). It is asked
after the ledger said yes, so that no setting can let anything pass (K70).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final

from ledger.records.facts import ManifestFacts
from ledger.records.manifest import ManifestRecord
from ledger.rules.evaluate import Facts, evaluate
from ledger.rules.release import release_fields
from protocol.calendar import WeeklyWindow
from protocol.errors import ConfigError
from protocol.manifest import Manifest
from protocol.owner_root import Holder
from protocol.policy import Witnesses
from protocol.rule import All, AnyOf, Compare, KOf, Not, OneOf, Rule, RuleField, Scope, walk
from swarmd.rule_text import parse_rule, parse_window

_SHOWN: Final = (All, AnyOf, Not, KOf, Compare, OneOf)
"""Nodes that ask for what is shown. Time, counters and the publisher's groups would be the
validators' word, and would change between blocks."""
_WINDOW: Final = re.compile(r"([A-Za-z,]{3,27}) ([0-9:]{5})-([0-9:]{5})")

Refusal = tuple[str, str]
"""A stable name of a rule, and a text for people."""


def parse_floor_rule(text: str, what: str) -> Rule | None:
    """Reads the setting `rule`: JSON of a rule, or empty for none.

    Raises:
        ConfigError: malformed, or it asks for what a gateway cannot show.
    """
    if not text:
        return None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{what}: not JSON: {error}") from None
    rule = parse_rule(document, Scope.RELEASE, what)
    for node, _ in walk(rule):
        if not isinstance(node, _SHOWN):
            raise ConfigError(f"{what}: {type(node).__name__} is not for a floor")
    return rule


def parse_floor_window(text: str, what: str) -> WeeklyWindow:
    """Reads a window such as `Sat,Sun 01:00-05:00` (UTC).

    Raises:
        ConfigError: it is something else.
    """
    match = _WINDOW.fullmatch(text)
    if match is None:
        raise ConfigError(f"{what}: {text[:80]!r} is not DAYS HH:MM-HH:MM, as Sat,Sun 01:00-05:00")
    days = match[1].split(",")
    return parse_window({"days": days, "from": match[2], "to": match[3]}, what)


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """A gateway's own demands."""

    approvals_min: int = 1
    """Owner approvals a release needs here."""
    products: tuple[str, ...] = ()
    """The only products taken; empty: any."""
    roles: tuple[str, ...] = ()
    """Roles of which at least one holder each must have approved."""
    rule: Rule | None = None
    """What must be true of the manifest and its approvals."""
    offer_freshness_ms: int | None = None
    """Age of this node's knowledge beyond which nothing is offered, milliseconds."""
    soak_ms: int = 0
    """Least ledger time between authorisation and offers, milliseconds."""
    windows: tuple[WeeklyWindow, ...] = ()
    """When releases are offered; empty: always."""
    witnesses: Witnesses | None = None
    """Outside witnesses that must have cosigned the log; None: none beyond the policies'."""
    witness_age_ms: int = 0
    """How old their cosignatures may be, milliseconds."""

    def check_release(
        self, manifest: Manifest, record: ManifestRecord, group: str, holders: tuple[Holder, ...]
    ) -> Refusal | None:
        """Judges a release by what was verified of it.

        Args:
            manifest: the verified manifest.
            record: where it stands.
            group: group that authorised it.
            holders: whoever signed an approval that was verified here.

        Returns:
            None if nothing is missing, else the first demand that is not met.
        """
        owners = sum(holder.is_owner for holder in holders)
        if owners < self.approvals_min:
            text = f"{owners} approvals, this node's own floor asks for {self.approvals_min}"
            return "floor.approvals", text
        if self.products and manifest.product not in self.products:
            return "floor.product", f"this node takes no {manifest.product!r}"
        for role in self.roles:
            if not any(holder.has_role(role) for holder in holders):
                return "floor.role", f"no {role} has approved"
        if self.rule is None:
            return None
        fields = release_fields(record, ManifestFacts.of(manifest), group)
        fields[RuleField.APPROVALS] = (owners,)
        reason = evaluate(self.rule, Facts(fields=fields, holders=holders))
        return None if reason.truth is True else ("floor.rule", "this node's own rule is not met")

    def check_offer(self, record: ManifestRecord, time_ms: int) -> Refusal | None:
        """Judges an offer at a ledger time; None if nothing is missing."""
        since_ms = record.authorised_ms
        if self.soak_ms and (since_ms is None or time_ms < since_ms + self.soak_ms):
            return "floor.soak", f"this node waits {self.soak_ms} ms after authorisation"
        if self.windows and not any(window.contains(time_ms) for window in self.windows):
            return "floor.window", "outside this node's own windows"
        return None


NO_FLOOR: Final = Floor()
"""Demands nothing beyond one approval, which every policy does."""
