"""Kinds about groups and policies: L53, L54, K16, K18, K50 to K63."""

from __future__ import annotations

from typing import Any

from tests.support.naive.cbor import Malformed, decode
from tests.support.naive.crypto import key_id, sha, tagged
from tests.support.naive.objects import (
    check_root,
    fits,
    read_group,
    read_placement,
    read_policy,
    role_keys,
)
from tests.support.naive.world import Refused, World, check, digest_of

AMEND, CREATE_GROUP, VETO, ROTATE_ROOT, UPDATE_GROUP = 3, 5, 15, 20, 21


def _text_order(name: str) -> bytes:
    return name.encode()


def write_group(world: World, raw: bytes, group: dict[int, Any], creators: list[bytes]) -> None:
    """`g/`, `o/` and `p/` of a new group."""
    policy_id = tagged("swarmd/policy/1", group[3])
    world.put({0: 1, 1: group[2], 2: policy_id, 3: None, 4: sorted(creators)}, "g/", group[1])
    world.store[b"o/" + group[1].encode()] = raw
    world.store[b"p/" + policy_id] = group[3]


def check_place(world: World, name: str, placement: dict[int, Any]) -> None:
    """K61."""
    parent, selector = placement.get(1), placement.get(2)
    if parent is not None:
        check(parent != name, "group.circular")
        world.group(parent)
        above = [parent, *world.ancestors(parent)]
        check(name not in above, "group.circular")
        check(len(above) + _height(world, name) <= 8, "group.depth")
    listed = "" if parent is None else parent
    if parent is not None or selector is not None:
        siblings = world.children(listed)
        check(name in siblings or len(siblings) < 200, "group.children")


def _height(world: World, name: str) -> int:
    """Groups on the longest path from this one down."""
    return 1 + max((_height(world, child) for child in world.children(name)), default=0)


def place(world: World, name: str, placement: dict[int, Any]) -> None:
    """Writes `gp/` and the lists `gc/`."""
    before = world.placement(name)
    for old in {before.get(1, "")}:
        children = world.children(old)
        target = placement.get(1, "")
        leaves = name in children and (target != old or (old == "" and 2 not in placement))
        if leaves:
            world.put({0: 1, 1: [child for child in children if child != name]}, "gc/", old)
    if 1 in placement or 2 in placement:
        listed = placement.get(1, "")
        children = world.children(listed)
        if name not in children:
            following = sorted([*children, name], key=_text_order)
            world.put({0: 1, 1: following}, "gc/", listed)
    if world.get("gp/", name) is not None or placement != {0: 1}:
        world.put(placement, "gp/", name)


def create(world: World, signer: bytes, body: dict[int, Any]) -> None:
    """`group.create` (L53)."""
    raw, raws = body[0], body[1]
    try:
        group = read_group(raw)
    except Malformed as error:
        raise Refused("group.malformed") from error
    check(world.get("g/", group[1]) is None, "group.known")
    placement = {0: 1}
    if 4 in group:
        placement[1] = group[4]
    if 5 in group:
        placement[2] = group[5]
    policy_id = tagged("swarmd/policy/1", group[3])
    found = world.govern(raws, CREATE_GROUP, sha(raw), group=group[1], policy=policy_id, once=False)
    check_place(world, group[1], placement)
    write_group(world, raw, group, [key_id(public) for public in found])
    place(world, group[1], placement)


def update(world: World, signer: bytes, body: dict[int, Any]) -> None:
    """`group.update` (K62, K63)."""
    name, raw, raws, adoption = body[0], body[1], body[2], body[3]
    world.group(name)
    try:
        placement = read_placement(decode(raw, 4224))
    except Malformed as error:
        raise Refused("group.malformed") from error
    before = world.placement(name)
    check(placement != before, "group.same")
    subject = tagged("swarmd/group-update/1", raw)
    world.agree(raws, UPDATE_GROUP, subject, name, world.in_force(name)[3], fresh=True)
    parent = placement.get(1)
    if parent is None or parent == before.get(1):
        check(not adoption, "group.adoption")
    else:
        consent = digest_of("swarmd/group-adoption/1", [name])
        threshold = world.in_force(parent)[4]
        world.agree(adoption, UPDATE_GROUP, consent, parent, threshold, fresh=True)
    check_place(world, name, placement)
    place(world, name, placement)


def rotate(world: World, signer: bytes, body: dict[int, Any]) -> None:
    """`group.rotate` (K50 to K52)."""
    name, raw, raws = body[0], body[1], body[2]
    record = world.group(name)
    try:
        following = check_root(decode(raw, 8192))
    except Malformed as error:
        raise Refused("root.malformed") from error
    old = record[1]
    check(following[1] == old[1] + 1, "root.version")
    policy_id = world.policy_id(name)
    policies = [policy_id]
    if record[3] is not None:
        policies.append(record[3][0])
    check(all(fits(world.policy(each), following) for each in policies), "root.unfit")
    before, after = role_keys(old, "owner"), role_keys(following, "owner")
    subject = tagged("swarmd/owner-root/1", raw)
    found = world.accept(raws, ROTATE_ROOT, subject, name, policy_id, before | after)
    enough = len(before & set(found)) >= max(old[2], world.policy(policy_id)[3])
    check(enough and len(after & set(found)) >= following[2], "approval.threshold")
    world.note(found, ROTATE_ROOT, subject, name)
    signers = sorted(key_id(public) for public in found)
    rotation = {0: 1, 1: following, 2: signers, 3: policy_id, 4: world.era, 5: world.height}
    world.put(rotation, "or/", name, "/", following[1].to_bytes(8, "big"))
    world.put({**record, 1: following}, "g/", name)


def set_policy(world: World, signer: bytes, body: dict[int, Any]) -> None:
    """`policy.set` (L54)."""
    name, raw, raws = body[0], body[1], body[2]
    record = world.group(name)
    try:
        policy = read_policy(raw)
    except Malformed as error:
        raise Refused("policy.malformed") from error
    check(fits(policy, record[1]), "policy.unfit")
    in_force = world.policy_id(name)
    following = tagged("swarmd/policy/1", raw)
    waiting = record[3] is not None and world.now < record[3][1]
    check(following != in_force or waiting, "policy.same")
    old = world.policy(in_force)
    world.agree(raws, AMEND, following, name, old[3], fresh=True)
    scheduled = [following, world.after(old[5])]
    world.put({**record, 2: in_force, 3: scheduled}, "g/", name)
    world.store[b"p/" + following] = raw


def veto(world: World, signer: bytes, body: dict[int, Any]) -> None:
    """`policy.veto` (K16)."""
    name, target, raws = body[0], body[1], body[2]
    record = world.group(name)
    waiting = record[3] is not None and world.now < record[3][1]
    check(waiting and record[3][0] == target, "policy.not_scheduled")
    policy = world.in_force(name)
    threshold = policy.get(10, max(1, len(record[1][3]) - policy[3] + 1))
    world.agree(raws, VETO, target, name, threshold, fresh=True)
    world.put({**record, 3: None}, "g/", name)


KINDS = {
    "group.create": create,
    "group.update": update,
    "group.rotate": rotate,
    "policy.set": set_policy,
    "policy.veto": veto,
}
