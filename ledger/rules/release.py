"""Collects what a policy may ask about a manifest in a group, from the state (K27)."""

from __future__ import annotations

from dataclasses import dataclass

from ledger.records.facts import ManifestFacts
from ledger.records.manifest import ManifestRecord
from ledger.rules.evaluate import Facts, FactValue
from ledger.rules.membership import belongs_to
from ledger.state import StateReader
from protocol.digest import DidId, Digest, ManifestId
from protocol.owner_root import BUILDER_ROLE, Holder, OwnerRoot
from protocol.policy import Policy
from protocol.rule import Counter, InGroup, Moment, RuleField, walk


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A manifest in a group, as a policy sees it at a header time."""

    record: ManifestRecord
    """Where it stands; may be newer than what the state holds."""
    root: OwnerRoot
    """The group's owner root in force."""
    holders: tuple[Holder, ...]
    """Who approved and still counts: named by the root, and not the publisher."""
    builders: tuple[Holder, ...]
    """Builders that attested the image and still count."""
    facts: Facts
    """What the policy's rule may ask for."""

    @property
    def owners(self) -> tuple[Holder, ...]:
        """The owners among those that approved."""
        return tuple(holder for holder in self.holders if holder.is_owner)


def collect_release(
    state: StateReader,
    manifest: ManifestId,
    group: str,
    record: ManifestRecord,
    policy: Policy,
    *,
    time_ms: int,
) -> Release:
    """Collects the facts for judging `record` under `policy` at a header time."""
    known, content = state.group(group), state.facts(manifest)
    assert known is not None, "a manifest is proposed in existing groups only"
    assert content is not None, "facts are written with the proposal"
    root = known.owner_root
    holders = counting_holders(state, root, record.approvers, record.publisher)
    builders = tuple(
        holder
        for holder in counting_holders(state, root, record.attesters, record.publisher)
        if holder.has_role(BUILDER_ROLE)
    )
    events = state.events(group)
    latest = state.latest(group, record.product)
    moments = {Moment.PROPOSED: record.proposed_ms}
    if events.authorised:
        moments[Moment.LAST_AUTHORISED] = events.authorised[-1]
    if events.revoked:
        moments[Moment.LAST_REVOKED] = events.revoked[-1]
    fields = release_fields(record, content, group)
    fields[RuleField.APPROVALS] = (sum(holder.is_owner for holder in holders),)
    fields[RuleField.ATTESTATIONS] = (len(builders),)
    if latest is not None:
        fields[RuleField.LATEST_SEQUENCE] = (latest.sequence,)
    facts = Facts(
        fields=fields,
        time_ms=time_ms,
        holders=holders,
        moments=moments,
        events={counter: events.of(counter) for counter in Counter},
        publisher_groups=_publisher_groups(state, record.publisher, policy),
    )
    return Release(record=record, root=root, holders=holders, builders=builders, facts=facts)


def counting_holders(
    state: StateReader, root: OwnerRoot, key_ids: tuple[Digest, ...], publisher: DidId
) -> tuple[Holder, ...]:
    """Whoever stands behind key ids under a root; retired keys and the publisher's do not count."""
    found = (root.holder(key_id) for key_id in key_ids)
    return tuple(
        holder for holder in found if holder is not None and state.holder(holder.key) != publisher
    )


def _publisher_groups(
    state: StateReader, publisher: DidId, policy: Policy
) -> tuple[str, ...] | None:
    """Looked up only for a rule that asks, and only the groups that it names."""
    if policy.rule is None:
        return None
    named = dict.fromkeys(node.group for node, _ in walk(policy.rule) if isinstance(node, InGroup))
    if not named:
        return None
    return tuple(group for group in named if belongs_to(state, publisher, group))


def release_fields(
    record: ManifestRecord, content: ManifestFacts, group: str
) -> dict[RuleField, tuple[FactValue, ...]]:
    """The fields that follow from a manifest, its proposal and its group."""
    fields: dict[RuleField, tuple[FactValue, ...]] = {
        RuleField.PRODUCT: (record.product,),
        RuleField.VERSION: (content.version,),
        RuleField.SEQUENCE: (record.sequence,),
        RuleField.SIZE: (content.size,),
        RuleField.COMPONENTS: (content.components,),
        RuleField.TARGET_GROUPS: (content.target_groups,),
        RuleField.HAS_SBOM: (int(content.has_sbom),),
        RuleField.HAS_SUIT: (int(content.has_suit),),
        RuleField.STEPPING_STONES: (content.stepping_stones,),
        RuleField.DEPENDENCIES: (content.dependencies,),
        RuleField.PUBLISHER: (record.publisher.hex(),),
        RuleField.GROUP: (group,),
        RuleField.IS_SEALED: (int(content.is_sealed),),
    }
    if record.expires_ms is not None:
        fields[RuleField.LIFETIME_MS] = (record.expires_ms - record.proposed_ms,)
    return fields
