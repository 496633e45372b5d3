"""Kinds about manifests: L55 to L58, K30 to K49, Q20 to Q22."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.naive.cbor import Malformed
from tests.support.naive.crypto import Signed, key_id, sha
from tests.support.naive.objects import read_capability, read_manifest, role_keys
from tests.support.naive.rules import Facts, truth
from tests.support.naive.world import Refused, World, check, digest_of, known

AUTHORISE, REVOKE, ATTEST, OVERRIDE = 1, 2, 14, 19
PROPOSED, AUTHORISED, REVOKED = 1, 2, 3


def _latest(world: World, group: str, product: str) -> int | None:
    record = world.get("l/", group, "/", product)
    return record[2] if record else None


def _note_event(world: World, group: str, event: int) -> None:
    record = world.get("ev/", group) or {0: 1, 1: [], 2: [], 3: []}
    world.put({**record, event: [*record[event], world.now][-32:]}, "ev/", group)


def image_digest(manifest: dict[int, Any]) -> bytes:
    """K45."""
    parts = [[part[0], part.get(6, part[2])[1]] for part in manifest[7]]
    parts.sort(key=lambda part: part[0].encode())
    return digest_of("swarmd/image/1", [manifest[3], parts])


def _facts(manifest: dict[int, Any]) -> dict[int, Any]:
    return {
        0: 1,
        1: image_digest(manifest),
        2: manifest[4],
        3: sum(part[1] for part in manifest[7]),
        4: len(manifest[7]),
        5: len(manifest[6]),
        6: len(manifest[9]),
        7: len(manifest[10]),
        8: 11 in manifest,
        9: 12 in manifest,
        10: any(6 in part for part in manifest[7]),
    }


def _has_capability(
    world: World, publisher: bytes, group: str, product: str, manifest_id: bytes
) -> bool:
    """A12, A13, for the verb publish."""
    record = world.get("cap/", publisher, group) or {1: []}
    return any(
        1 in each[3]
        and world.now <= each[6]
        and each[4] in (None, product)
        and each[5] in (None, manifest_id)
        for each in map(read_capability, record[1])
    )


def _may_publish(world: World, publisher: bytes, group: str) -> bool:
    """K65."""
    named = world.in_force(group)[8]
    if named:
        return publisher in named
    return group in world.subject(publisher)[5] or (
        group in world.groups_of(publisher) and world.is_selected(publisher, group)
    )


def propose(world: World, signer: bytes, body: dict[int, Any]) -> None:
    """`manifest.propose` (L55)."""
    try:
        signed = Signed(body[0], 16_384)
        manifest = read_manifest(signed.content)
    except Malformed as error:
        raise Refused("manifest.malformed") from error
    check(manifest[1] == world.era, "manifest.era")
    expiry, now = manifest[8], world.now
    check(expiry is None or now <= expiry, "manifest.expired")
    publisher = manifest[2]
    check(publisher == signer and world.subject(publisher)[1] == 3, "manifest.publisher")
    key = world.node_key(publisher, 4)
    assert key is not None
    good = signed.is_by(key, "swarmd/manifest/1", world.chain, world.era)
    check(good, "manifest.signature")
    manifest_id = sha(body[0])
    for group in manifest[6]:
        world.group(group)
        may = _has_capability(world, publisher, group, manifest[3], manifest_id)
        check(may or _may_publish(world, publisher, group), "manifest.publisher")
        life = world.in_force(group).get(14)
        in_life = life is None or (expiry is not None and expiry <= now + life)
        check(in_life, "manifest.lifetime")
        check(world.get("m/", manifest_id, group) is None, "manifest.known")
        latest = _latest(world, group, manifest[3])
        check(latest is None or manifest[5] > latest, "manifest.sequence")
        _open(world, manifest_id, publisher, group)
        record = {0: 1, 1: PROPOSED, 2: publisher, 3: manifest[3], 4: manifest[5]}
        record |= {5: world.policy_id(group), 6: expiry, 7: world.height, 8: None, 9: None}
        record |= {10: [], 11: [], 12: now, 13: None, 14: None, 15: [], 16: False}
        world.put(record, "m/", manifest_id, group)
        _note_event(world, group, 1)
    world.put(_facts(manifest), "mf/", manifest_id)


def _open(world: World, manifest_id: bytes, publisher: bytes, group: str) -> None:
    """Q20 to Q22."""
    listed = (world.get("op/", publisher, group) or {1: []})[1]
    if len(listed) >= 64:
        listed = [each for each in listed if _is_open(world, each, group)]
    check(len(listed) < 64, "manifest.open", later=True)
    world.put({0: 1, 1: [*listed, manifest_id]}, "op/", publisher, group)


def _is_open(world: World, manifest_id: bytes, group: str) -> bool:
    record = world.get("m/", manifest_id, group)
    latest = _latest(world, group, record[3])
    return (
        record[1] == PROPOSED
        and (record[6] is None or world.now <= record[6])
        and (latest is None or record[4] > latest)
    )


def _record(world: World, body: dict[int, Any]) -> dict[int, Any]:
    return known(world.get("m/", body[0], body[1]), "manifest.unknown")


def _check_waiting(world: World, group: str, record: dict[int, Any]) -> None:
    """K40."""
    check(record[1] != REVOKED, "manifest.revoked")
    check(record[6] is None or world.now <= record[6], "manifest.expired")
    if record[1] == PROPOSED:
        latest = _latest(world, group, record[3])
        check(latest is None or record[4] > latest, "manifest.sequence")
        check(world.subject(record[2])[6] == 1, "manifest.publisher")


def _everybody(root: dict[int, Any]) -> set[bytes]:
    named = role_keys(root, "owner")
    for name, _ in root.get(4, []):
        named |= role_keys(root, name)
    return named


def _add(
    world: World,
    body: dict[int, Any],
    action: int,
    subject: bytes,
    keys: set[bytes],
    at: int,
    skip: Callable[[dict[int, Any]], bool] = lambda record: False,
) -> dict[int, Any]:
    """Adds the key ids of new approvals to a record's list; those listed are passed over.

    Where `skip` is true of the record, approvals are checked and nobody is added.
    """
    group = body[1]
    record = _record(world, body)
    found = world.accept(body[2], action, subject, group, record[5], keys)
    if skip(record):
        return record
    if action in (AUTHORISE, ATTEST):
        for public in found:
            check(world.holder(public) != record[2], "approval.self")
    fresh = {public: raw for public, raw in found.items() if key_id(public) not in record[at]}
    check(fresh, "approval.duplicate")
    world.note(fresh, action, body[0], group)  # K46
    listed = sorted([*record[at], *map(key_id, fresh)])
    check(len(listed) <= 128, "approval.full")
    record[at] = listed
    return record


def approve(world: World, signer: bytes, body: dict[int, Any]) -> None:
    """`manifest.approve` (L56)."""
    _check_waiting(world, body[1], _record(world, body))
    keys = _everybody(world.root(body[1]))
    record = _add(world, body, AUTHORISE, body[0], keys, 10)
    judge(world, body[0], body[1], record)


def attest(world: World, signer: bytes, body: dict[int, Any]) -> None:
    """`manifest.attest` (K46)."""
    _check_waiting(world, body[1], _record(world, body))
    keys = role_keys(world.root(body[1]), "builder")
    image = world.get("mf/", body[0])[1]
    record = _add(world, body, ATTEST, image, keys, 15)
    judge(world, body[0], body[1], record)


def override(world: World, signer: bytes, body: dict[int, Any]) -> None:
    """`manifest.override` (K47)."""
    record = _record(world, body)
    group = body[1]
    _check_waiting(world, group, record)
    check(not record[16], "manifest.override")
    keys = role_keys(world.root(group), "owner")
    found = world.accept(body[2], OVERRIDE, body[0], group, record[5], keys)
    threshold = max(world.policy(record[5])[3], world.root(group)[2])
    check(len(found) >= threshold, "approval.threshold")
    world.note(found, OVERRIDE, body[0], group)
    judge(world, body[0], group, {**record, 16: True})


def settle(world: World, signer: bytes, body: dict[int, Any]) -> None:
    """`manifest.settle` (K48)."""
    record = _record(world, body)
    _check_waiting(world, body[1], record)
    check(record[1] == PROPOSED, "manifest.settled")
    judge(world, body[0], body[1], record)
    after = _record(world, body)
    check(after[1] == AUTHORISED, "manifest.unsettled", later=True)


def revoke(world: World, signer: bytes, body: dict[int, Any]) -> None:
    """`manifest.revoke` (L57)."""
    check(_record(world, body)[1] != REVOKED, "manifest.revoked")
    group = body[1]
    owners = role_keys(world.root(group), "owner")
    ids = {key_id(public) for public in owners}

    def suffices(record: dict[int, Any]) -> bool:
        needed = min(world.policy(record[5])[2], len(ids))
        return len(ids & set(record[11])) >= int(needed)

    record = _add(world, body, REVOKE, body[0], owners, 11, suffices)
    if suffices(record):
        record[1], record[9] = REVOKED, world.height
        _note_event(world, group, 3)
    world.put(record, "m/", body[0], group)


def _counting(
    world: World, root: dict[int, Any], record: dict[int, Any], at: int, role: str
) -> set[bytes]:
    """Listed keys that hold a role now and never were the publisher's (K31, K41)."""
    return {
        public
        for public in role_keys(root, role)
        if key_id(public) in record[at] and world.holder(public) != record[2]
    }


def _in_freeze(policy: dict[int, Any], now: int) -> bool:
    return any(start <= now < to for start, to in policy.get(11, []))


def is_satisfied(world: World, manifest_id: bytes, group: str, record: dict[int, Any]) -> bool:
    """K31 to K35."""
    policy, root = world.policy(record[5]), world.root(group)
    owners = _counting(world, root, record, 10, "owner")
    builders = _counting(world, root, record, 15, "builder")
    frozen = _in_freeze(policy, world.now) or _in_freeze(world.in_force(group), world.now)
    return (
        len(owners) >= max(policy[1], root[2])
        and len(builders) >= policy.get(19, 0)
        and world.now - record[12] >= policy.get(18, 0)
        and (record[16] or not frozen)
        and (
            9 not in policy
            or truth(policy[9], rule_facts(world, manifest_id, group, record)) is True
        )
    )


def rule_facts(world: World, manifest_id: bytes, group: str, record: dict[int, Any]) -> Facts:
    """What a group's rule may ask about a manifest (K24, K27 to K29)."""
    root, content = world.root(group), world.get("mf/", manifest_id)
    events = world.get("ev/", group) or {1: [], 2: [], 3: []}
    values: dict[int, list[Any]] = {
        1: [record[3]],
        2: [content[2]],
        3: [record[4]],
        4: [content[3]],
        5: [content[4]],
        6: [content[5]],
        8: [int(content[8])],
        9: [int(content[9])],
        10: [content[6]],
        11: [content[7]],
        12: [record[2].hex()],
        13: [group],
        14: [len(_counting(world, root, record, 10, "owner"))],
        15: [len(_counting(world, root, record, 15, "builder"))],
        17: [int(content[10])],
    }
    if record[6] is not None:
        values[7] = [record[6] - record[12]]
    latest = _latest(world, group, record[3])
    if latest is not None:
        values[16] = [latest]
    moments = {1: record[12]}
    moments |= {at: events[at][-1] for at in (2, 3) if events[at]}
    roles = ["owner"] + [name for name, _ in root.get(4, [])]
    counted = [
        (key_id(public), {role for role in roles if public in role_keys(root, role)})
        for public in _everybody(root)
        if key_id(public) in record[10] and world.holder(public) != record[2]
    ]
    return Facts(
        values,
        now=world.now,
        counted=counted,
        moments=moments,
        events={at: events[at] for at in (1, 2, 3)},
        groups=world.groups_of(record[2]),
    )


def judge(world: World, manifest_id: bytes, group: str, record: dict[int, Any]) -> None:
    """Authorises a proposed manifest if all conditions hold (K30), and writes its record."""
    if record[1] == PROPOSED and is_satisfied(world, manifest_id, group, record):
        record = {**record, 1: AUTHORISED, 8: world.height, 13: world.now}
        record[14] = world.root(group)[1]
        latest = {0: 1, 1: manifest_id, 2: record[4]}
        world.put(latest, "l/", group, "/", record[3])
        _note_event(world, group, 2)
        plan = world.policy(record[5]).get(15)
        if plan is not None:
            rollout = {0: 1, 1: 1, 2: 0, 3: world.now, 4: plan[2]}
            world.put(rollout | dict.fromkeys(range(5, 13), 0), "ro/", manifest_id, group)
    world.put(record, "m/", manifest_id, group)


def anchor(world: World, signer: bytes, body: dict[int, Any]) -> None:
    """`receipt.anchor` (L58)."""
    before = world.get("a/", signer)
    if before is not None:
        check(body[0] >= before[1], "anchor.shrunk")
        check(body[0] != before[1] or body[1] == before[2], "anchor.conflict")
    world.put({0: 1, 1: body[0], 2: body[1], 3: world.height}, "a/", signer)


KINDS = {
    "manifest.propose": propose,
    "manifest.approve": approve,
    "manifest.attest": attest,
    "manifest.override": override,
    "manifest.settle": settle,
    "manifest.revoke": revoke,
    "receipt.anchor": anchor,
}
