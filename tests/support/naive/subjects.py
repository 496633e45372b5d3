"""Kinds about subjects: ledger.md L50 to L52, identity.md."""

from __future__ import annotations

from typing import Any

from tests.support.naive.cbor import Malformed, encode
from tests.support.naive.crypto import Signed, context, key_id, read_key, tagged, verify
from tests.support.naive.forms import (
    ascending,
    blob,
    boolean,
    digest,
    display,
    fields,
    group_name,
    many,
    row,
    uint,
    whole,
)
from tests.support.naive.objects import is_joined, read_record, role_keys
from tests.support.naive.world import Refused, World, check, digest_of, known

ENROL, SUSPEND, RECOVER, RESUME, RETIRE, CERTIFY = 4, 6, 10, 11, 12, 13
ACTIVE, SUSPENDED, REVOKED = 1, 2, 3
VALIDATOR = 1
VOTES = 3
_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def write_subject(world: World, did: bytes, record: dict[int, Any]) -> None:
    """Writes a newcomer: `d/` and `k/`."""
    value = {at: record[at] for at in range(1, 6)}
    world.put({0: 1, **value, 6: ACTIVE, 7: 0, 8: [], 9: 0, 10: None}, "d/", did)
    take_keys(world, did, record[3])


def take_keys(world: World, did: bytes, keys: list[Any]) -> None:
    """Writes `k/`."""
    for _, (_, public) in keys:
        world.store[b"k/" + public] = did


def read_newcomer(joined: list[Any], code: str = "did.join") -> tuple[bytes, dict[int, Any]]:
    """The name and record of a join statement that every key signed."""
    raw, signatures = joined
    try:
        record = read_record(raw)
    except Malformed as error:
        raise Refused("tx.body") from error
    check(is_joined(raw, record, signatures), code)
    return tagged("swarmd/did/1", raw), record


def create(world: World, signer: bytes, body: dict[int, Any]) -> None:
    """`did.create`."""
    did, record = read_newcomer(body[0])
    check(record[1] != VALIDATOR, "did.kind")
    groups, lists, seat = record[5], body[1], body[2]
    check(world.subject(did) is None, "did.known")
    confirm = seat is None
    if seat is None:
        check(groups and len(lists) == len(groups), "did.groups")
    else:
        for group in groups:
            world.group(group)
        confirm = use_seat(world, did, record, seat)
        check(len(lists) == (len(groups) if confirm else 0), "seat.confirmation")
    if confirm:
        for group, raws in zip(groups, lists, strict=True):
            asked = 1 if seat is not None else world.in_force(group)[4]
            world.agree(raws, ENROL, did, group, asked)
    check(all(world.holder(raw) is None for _, (_, raw) in record[3]), "did.key")
    write_subject(world, did, record)


_TOKEN = fields(
    {
        1: display(1, 80),
        4: uint,
        7: blob(16),
        8: fields(
            {1: fields({1: whole(1, 1), -1: whole(6, 6), -2: blob(32)}, open_=False)}, open_=False
        ),
        -65537: digest,
        -65538: uint,
        -65539: row(uint, digest),
        -65540: many(display(1, 255), 3, 8),
        -65541: many(group_name, 1, 16),
        -65542: whole(2, 4),
        -65543: boolean,
    },
    open_=False,
)


def did_key(public: bytes) -> str:
    """P36."""
    number = int.from_bytes(b"\xed\x01" + public, "big")
    text = ""
    while number:
        number, digit = divmod(number, 58)
        text = _ALPHABET[digit] + text
    return "did:key:z" + text


def _read_token(raw: bytes) -> Signed:
    signed = Signed(raw, 4096)
    claims = _TOKEN(signed.content)
    read_key([1, claims[8][1][-2]])
    ascending([name.encode() for name in claims[-65541]])
    return signed


def use_seat(world: World, did: bytes, record: dict[int, Any], seat: list[Any]) -> bool:
    """I30 to I33; tells whether owners must confirm."""
    raws, proof = seat
    try:
        tokens = [_read_token(raw) for raw in raws]
    except Malformed as error:
        raise Refused("seat.malformed") from error
    claims = [{**token.content, 1: ""} for token in tokens]
    check(all(claim == claims[0] for claim in claims), "seat.mixed")
    claim = claims[0]
    groups = claim[-65541]
    name = tagged("swarmd/seat-id/1", encode([groups, claim[7]]))
    check(claim[-65537] == world.chain, "seat.chain")
    check(claim[-65538] == world.era, "seat.era")
    check(claim[4] * 1000 >= world.now, "seat.expired")
    check(claim[-65542] == record[1], "seat.kind")
    check(groups == record[5], "seat.groups")
    check(world.get("se/", name) is None, "seat.taken")
    message = context("swarmd/seat/1", world.chain, world.era) + encode([name, did])
    check(verify(claim[8][1][-2], proof, message), "seat.holder")
    _count_owners(world, tokens, groups)
    world.put({0: 1, 1: did, 2: world.height}, "se/", name)
    return bool(claim[-65543])


def _count_owners(world: World, tokens: list[Signed], groups: list[str]) -> None:
    owners = {group: role_keys(world.root(group), "owner") for group in groups}
    everybody = {key_id(key): key for keys in owners.values() for key in keys}
    ids = [token.key_id for token in tokens]
    check(len(set(ids)) == len(ids), "seat.duplicate")
    for token in tokens:
        check(token.key_id in everybody, "seat.owner")
        key = everybody[token.key_id]
        good = token.is_by(key, "swarmd/enrol/1", world.chain, world.era)
        check(good and token.content[1] == did_key(key), "seat.signature")
    signers = {everybody[token.key_id] for token in tokens}
    for group in groups:
        threshold = world.in_force(group)[4]
        check(len(signers & owners[group]) >= threshold, "seat.threshold")


def _check_new_keys(world: World, record: dict[int, Any], keys: list[Any]) -> None:
    """Reuse of keys (L51)."""
    current = record[3]
    for purpose, (_, public) in keys:
        held = world.holder(public)
        check(held is None or [purpose, [1, public]] in current, "did.key")


def _check_purposes(record: dict[int, Any], keys: list[Any]) -> None:
    """One key for each purpose of the record's but votes (L51)."""
    asked = [purpose for purpose, _ in record[3] if purpose != VOTES]
    check([purpose for purpose, _ in keys] == asked, "did.purposes")


def _replaced(record: dict[int, Any], keys: list[Any]) -> list[Any]:
    """The new keys, and the vote key of before."""
    given = dict(keys)
    return [[purpose, given.get(purpose, key)] for purpose, key in record[3]]


def _all_signed(keys: list[Any], signatures: list[bytes], message: bytes) -> bool:
    return len(keys) == len(signatures) and all(
        verify(public, signed, message)
        for (_, (_, public)), signed in zip(keys, signatures, strict=True)
    )


def rotate(world: World, signer: bytes, body: dict[int, Any]) -> None:
    """`did.rotate` (L51)."""
    did, keys, following, signatures = body[0], body[1], body[2], body[3]
    record = known(world.subject(did), "did.unknown")
    check(record[6] == ACTIVE, "did.status")
    check(record[4] == tagged("swarmd/next-keys/1", encode(keys)), "did.commitment")
    _check_purposes(record, keys)
    message = context("swarmd/rotate/1", world.chain, world.era)
    message += encode([did, record[7] + 1, keys, following])
    check(_all_signed(keys, signatures, message), "did.signature")
    _check_new_keys(world, record, keys)
    keys = _replaced(record, keys)
    world.put({**record, 3: keys, 4: following, 7: record[7] + 1, 10: None}, "d/", did)
    take_keys(world, did, keys)


def suspend(world: World, signer: bytes, body: dict[int, Any]) -> None:
    """`did.suspend` (L52, I40)."""
    did, group, raws = body[0], body[1], body[2]
    record = known(world.subject(did), "did.unknown")
    check(record[6] != REVOKED and group not in record[8], "did.status")
    check(record[1] != VALIDATOR, "did.validator")
    check(group in record[5], "did.group")
    world.agree(raws, SUSPEND, did, group, world.in_force(group)[2], fresh=True)
    by = sorted([*record[8], group], key=str.encode)
    world.put({**record, 6: SUSPENDED, 8: by, 9: record[9] + 1}, "d/", did)


def resume(world: World, signer: bytes, body: dict[int, Any]) -> None:
    """`did.resume` (I41)."""
    did, group, raws = body[0], body[1], body[2]
    record = known(world.subject(did), "did.unknown")
    check(record[6] == SUSPENDED and group in record[8], "did.status")
    subject = digest_of("swarmd/resume/1", [did, record[9]])
    world.agree(raws, RESUME, subject, group, world.in_force(group)[4], noted=False)
    by = [name for name in record[8] if name != group]
    status = SUSPENDED if by else ACTIVE
    world.put({**record, 6: status, 8: by, 9: record[9] + 1}, "d/", did)


def revoke(world: World, signer: bytes, body: dict[int, Any]) -> None:
    """`did.revoke` (I42)."""
    did, group, raws = body[0], body[1], body[2]
    record = known(world.subject(did), "did.unknown")
    check(record[6] != REVOKED, "did.status")
    check(not world.is_seated(did), "did.validator")
    if group is None:
        world.govern(raws, RETIRE, did, once=False)
    else:
        check(record[1] != VALIDATOR, "did.validator")
        check(group in record[5], "did.group")
        world.agree(raws, RETIRE, did, group, world.in_force(group)[2])
    world.put({**record, 6: REVOKED, 9: record[9] + 1, 10: None}, "d/", did)


def certify(world: World, signer: bytes, body: dict[int, Any]) -> None:
    """`did.certify` (I43)."""
    did, group, attributes, raws = body[0], body[1], body[2], body[3]
    record = known(world.subject(did), "did.unknown")
    check(record[6] != REVOKED, "did.status")
    check(group in record[5], "did.group")
    before = world.get("at/", did, group)
    version = before[1] + 1 if before else 1
    subject = digest_of("swarmd/attributes/1", [did, group, version, attributes])
    world.agree(raws, CERTIFY, subject, group, world.in_force(group)[4], noted=False)
    world.put({0: 1, 1: version, 2: attributes}, "at/", did, group)


def recover(world: World, signer: bytes, body: dict[int, Any]) -> None:
    """`did.recover` (I50 to I52)."""
    did, keys, following, signatures, decider, lists = (body[at] for at in range(6))
    record = known(world.subject(did), "did.unknown")
    check(record[6] != REVOKED, "did.status")
    content = [did, record[7] + 1, record[9], keys, following]
    subject = digest_of("swarmd/key-recovery/1", content)
    message = context("swarmd/recover/1", world.chain, world.era) + encode([subject])
    check(_all_signed(keys, signatures, message), "did.signature")
    _check_purposes(record, keys)
    _check_new_keys(world, record, keys)
    check(decider == 2 or record[1] not in (1, 3), "did.decider")
    if decider == 2:
        check(len(lists) == 1, "did.groups")
        world.govern(lists[0], RECOVER, subject, once=False, noted=False)
    else:
        check(len(lists) == len(record[5]), "did.groups")
        for group, raws in zip(record[5], lists, strict=True):
            world.agree(raws, RECOVER, subject, group, world.in_force(group)[3], noted=False)
    pending = [subject, record[9], world.after(86_400_000)]
    world.put({**record, 9: record[9] + 1, 10: pending}, "d/", did)


def claim(world: World, signer: bytes, body: dict[int, Any]) -> None:
    """`did.claim` (I53)."""
    did, keys, following = body[0], body[1], body[2]
    record = known(world.subject(did), "did.unknown")
    check(record[10] is not None, "did.pending")
    content = [did, record[7] + 1, record[10][1], keys, following]
    subject = digest_of("swarmd/key-recovery/1", content)
    check(record[10][0] == subject, "did.pending")
    check(world.now >= record[10][2], "did.waiting", later=True)
    _check_new_keys(world, record, keys)
    keys = _replaced(record, keys)
    world.put({**record, 3: keys, 4: following, 7: record[7] + 1, 10: None}, "d/", did)
    take_keys(world, did, keys)


KINDS = {
    "did.create": create,
    "did.rotate": rotate,
    "did.suspend": suspend,
    "did.resume": resume,
    "did.revoke": revoke,
    "did.certify": certify,
    "did.recover": recover,
    "did.claim": claim,
}
