"""Genesis and blocks: what everything else serves."""

from __future__ import annotations

from typing import Any

from tests.support.naive import defence, groups, manifests, rollouts, subjects, tree, validators
from tests.support.naive.bodies import BODIES, HOURLY, PROTECTING
from tests.support.naive.cbor import Malformed, decode
from tests.support.naive.crypto import Signed, sha, tagged
from tests.support.naive.forms import blob, digest, display, fields, many, need, one, uint, whole
from tests.support.naive.objects import (
    check_root,
    is_joined,
    join_form,
    parameters_form,
    read_group,
    read_record,
)
from tests.support.naive.transaction import read_transaction
from tests.support.naive.world import Refused, World, check

KINDS = (
    subjects.KINDS
    | groups.KINDS
    | manifests.KINDS
    | rollouts.KINDS
    | defence.KINDS
    | validators.KINDS
)
"""Every kind by name."""
HOUR, DAY = 3_600_000, 86_400_000
UNCOUNTED = (b"n/", b"t/")
"""Records that Q12 counts for nobody."""
_GENESIS = fields(
    {
        0: one,
        1: display(),
        2: whole(0, 0),
        3: uint,
        4: parameters_form,
        5: many(digest, 4, 32),
        6: many(join_form, 0, 8192),
        7: many(blob(0, 15_360), 0, 256),
        8: check_root,
    }
)


def genesis(raw: bytes) -> World:
    """The first state (L23)."""
    document = _GENESIS(decode(raw, 4 * 2**20, 65_536))
    world = World({}, chain=sha(raw), era=0, height=0, now=document[3])
    world.put(document[8], "c/governance")
    found = [read_group(each) for each in document[7]]
    for group, each in zip(found, document[7], strict=True):
        groups.write_group(world, each, group, [])
    for group in found:
        placement = {0: 1} | {at - 3: group[at] for at in (4, 5) if at in group}
        groups.place(world, group[1], placement)
    for joined in document[6]:
        record = read_record(joined[0])
        need(is_joined(joined[0], record, joined[1]))
        subjects.write_subject(world, tagged("swarmd/did/1", joined[0]), record)
    seats = [[did, [1, world.node_key(did, 3)]] for did in document[5]]
    world.put({0: 1, 1: 1, 2: seats}, "v/", (1).to_bytes(8, "big"))
    for did, key in seats:
        world.put({0: 1, 1: [[1, key]], 2: None}, "vk/", did)
    epoch = {0: 1, 1: 1, 2: document[3], 3: 0, 4: 1, 5: document[4], 6: None, 7: None, 8: None}
    world.put(epoch, "c/epoch")
    _census(World({}, chain=world.chain, era=0, height=0, now=0), world)
    return world


def _census(before: World, after: World) -> None:
    """D33: counts the changes of subjects' records."""
    counts: dict[str, int] = {}
    for key in [key for key in after.store if key.startswith(b"d/")]:
        for world, sign in ((before, -1), (after, 1)):
            record = world.subject(key[2:])
            if record is not None and record[1] in (2, 3) and record[6] == 1:
                for group in record[5]:
                    counts[group] = counts.get(group, 0) + sign
    for group, change in counts.items():
        if change:
            known = (after.get("gm/", group) or {1: 0})[1]
            after.put({0: 1, 1: known + change}, "gm/", group)


def _check_envelope(world: World, signed: Signed) -> None:
    """L40."""
    content = signed.content
    check(content[1] == world.era, "tx.era")
    subject = world.subject(content[2])
    check(subject is not None, "tx.signer", later=True)
    key = world.node_key(content[2])
    check(key is not None, "tx.signer_key")
    assert key is not None
    good = signed.is_by(key, "swarmd/transaction/1", world.chain, world.era)
    check(good, "tx.signature")
    check(subject[6] == 1, "tx.signer_status")
    check(content[4] >= world.now, "tx.expired")
    check(content[4] <= world.now + DAY, "tx.lifetime", later=True)
    account = world.get("n/", content[2]) or _ACCOUNT
    offset = content[3] - account[1]
    check(offset >= 0 and not account[2] >> offset & 1, "tx.nonce")
    check(offset < 16, "tx.nonce_ahead", later=True)


_ACCOUNT = {0: 1, 1: 0, 2: 0, 3: 0, 4: 0, 5: 0, 6: 0}


def _charge(before: World, after: World, signed: Signed) -> None:
    """Q10 to Q16."""
    content, size = signed.content, len(signed.raw)
    signer, kind, hour = content[2], content[5], after.now // HOUR
    growth = _growth(before, after)
    ordinary = kind not in PROTECTING
    subject = after.subject(signer)
    if subject[1] == 2 and subject[5]:
        tenant = after.get("t/", subject[5][0]) or {0: 1, 1: 0, 2: 0, 3: 0}
        count = 1 + (tenant[2] if tenant[1] == hour else 0)
        total = tenant[3] + growth
        check(not ordinary or count <= 72_000, "tx.tenant_rate", later=True)
        check(not (ordinary and growth) or total <= 256 * 2**20, "tx.tenant_share")
        after.put({0: 1, 1: hour, 2: count, 3: total}, "t/", subject[5][0])
    account = after.get("n/", signer) or _ACCOUNT
    if account[3] != hour:
        account = {**account, 3: hour, 4: 0, 6: 0}
    used = account[5] + growth + size
    check(not ordinary or account[4] < 3600, "tx.rate", later=True)
    check(not ordinary or used <= 64 * 2**20, "tx.share")
    guarded = account[6]
    if kind in HOURLY:
        check(guarded < HOURLY[kind], "tx.rate", later=True)
        guarded += 1
    lowest, bits = account[1], account[2] | 1 << (content[3] - account[1])
    while bits & 1:
        lowest, bits = lowest + 1, bits >> 1
    record = {0: 1, 1: lowest, 2: bits, 3: hour, 4: account[4] + 1, 5: used, 6: guarded}
    after.put(record, "n/", signer)


def _growth(before: World, after: World) -> int:
    total = 0
    for key, value in after.store.items():
        old = before.store.get(key)
        if old == value or key.startswith(UNCOUNTED):
            continue
        total += len(value) - len(old) if old is not None else len(key) + len(value)
    return max(total, 0)


def apply_transaction(world: World, raw: bytes) -> World:
    """The world after one transaction; `world` is not changed."""
    try:
        signed = read_transaction(raw)
    except Malformed as error:
        raise Refused("tx.malformed") from error
    _check_envelope(world, signed)
    kind = signed.content[5]
    check(kind in BODIES, "tx.body")
    try:
        body: dict[int, Any] = BODIES[kind](signed.content[6])
    except Malformed as error:
        raise Refused("tx.body") from error
    after = world.copy()
    KINDS[kind](after, signed.content[2], body)
    _census(world, after)
    _charge(world, after, signed)
    return after


def apply_block(
    parent: World,
    *,
    height: int,
    time_ms: int,
    transactions: list[bytes],
    evidence: list[bytes],
) -> World:
    """The world after a block (L30, Q30, E10); raises Refused for the first entry at fault."""
    world = World(
        dict(parent.store), chain=parent.chain, era=parent.era, height=height, now=time_ms
    )
    count = size = 0
    for raw in transactions:
        if _kind(raw) not in PROTECTING:
            count, size = count + 1, size + len(raw)
            check(count <= 384 and size <= 196_608, "block.share", later=True)
        world = apply_transaction(world, raw)
    for raw in evidence:
        validators.convict(world, raw)
    validators.close_epoch(world)
    return world


def _kind(raw: bytes) -> str:
    try:
        return str(read_transaction(raw).content[5])
    except Malformed as error:
        raise Refused("tx.malformed") from error


def state_root(world: World) -> bytes:
    """The root that the header names."""
    return tree.root(world.store)
