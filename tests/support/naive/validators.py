"""Validators, epochs, governance: epochs.md, governance.md G10, G11."""

from __future__ import annotations

from typing import Any

from tests.support.naive.cbor import Malformed, encode
from tests.support.naive.crypto import context, key_id, sha, tagged, verify
from tests.support.naive.objects import read_evidence, read_header
from tests.support.naive.subjects import read_newcomer, write_subject
from tests.support.naive.world import Refused, World, check, digest_of, known

VALIDATORS, PARAMETERS, UPGRADE, CHECKPOINT = 7, 8, 9, 26


def _quorum(seats: int) -> int:
    return seats - (seats - 1) // 3


def _record(world: World, did: bytes) -> dict[int, Any]:
    return world.get("vk/", did) or {0: 1, 1: [], 2: None}


def _vote_key(world: World, did: bytes, epoch: int) -> Any:
    """[1, key] that a subject certified for an epoch, or None."""
    for number, key in _record(world, did)[1]:
        if number == epoch:
            return key
    return None


def _certify(world: World, did: bytes, epoch: int, key: Any) -> None:
    record = _record(world, did)
    current = world.epoch()[1]
    kept = [each for each in record[1] if each[0] >= current]
    world.put({**record, 1: sorted([*kept, [epoch, key]])}, "vk/", did)
    world.store[b"k/" + key[1]] = did


def certify(world: World, signer: bytes, body: dict[int, Any]) -> None:
    """`validator.certify` (E20, E21)."""
    epoch, key, proof = body[0], body[1], body[2]
    check(world.subject(signer)[1] == 1, "validator.kind")
    current = world.epoch()[1]
    check(epoch > current, "validator.epoch")
    check(epoch <= current + 4, "validator.ahead", later=True)
    check(_record(world, signer)[2] is None, "validator.convicted")
    check(_vote_key(world, signer, epoch) is None, "validator.certified")
    message = context("swarmd/certify-key/1", world.chain, world.era) + encode([signer, epoch])
    check(verify(key[1], proof, message), "validator.proof")
    check(world.holder(key[1]) is None, "validator.key")
    _certify(world, signer, epoch, key)


def convict(world: World, raw: bytes) -> None:
    """Evidence in a block (E40 to E42)."""
    try:
        first, second = read_evidence(raw)
    except Malformed as error:
        raise Refused("tx.body") from error
    epoch, index = first[1], first[4]
    current = world.epoch()[1]
    seats = (world.validators(epoch) if current - 1 <= epoch <= current else None) or {}
    check(seats, "evidence.epoch")
    place = (epoch.to_bytes(8, "big"), bytes([index]))
    check(world.get("e/", *place) is None, "evidence.known")
    check(index < len(seats[2]) and seats[2][index][1] is not None, "evidence.signature")
    did, (_, key) = seats[2][index]
    for vote in (first, second):
        message = context("swarmd/vote/1", world.chain, world.era)
        message += encode([vote[0], vote[1], vote[2], vote[3]])
        check(verify(key, vote[5], message), "evidence.signature")
    world.put({0: 1, 1: sha(raw), 2: world.height}, "e/", *place)
    record = _record(world, did)
    if record[2] is None:
        world.put({**record, 2: epoch}, "vk/", did)


def accuse(world: World, signer: bytes, body: dict[int, Any]) -> None:
    """`validator.accuse` (E41)."""
    convict(world, body[0])


def set_validators(world: World, signer: bytes, body: dict[int, Any]) -> None:
    """`validators.set` (E30 to E32)."""
    members, joins, raws = body[0], body[1], body[2]
    epoch = world.epoch()
    current = [seat[0] for seat in world.seats()]
    replaced = max(len(set(current) - set(members)), len(set(members) - set(current)))
    check(replaced <= (len(current) - 1) // 3, "validators.replaced")
    subject = digest_of("swarmd/next-validators/1", [epoch[1], members])
    world.govern(raws, VALIDATORS, subject)
    for joined in joins:
        did, record = read_newcomer(joined)
        check(record[1] == 1 and did in members, "validators.kind")
        check(world.subject(did) is None, "did.known")
        check(all(world.holder(key) is None for _, (_, key) in record[3]), "did.key")
        for group in record[5]:
            world.group(group)
        write_subject(world, did, record)
        _certify(world, did, epoch[1] + 1, record[3][2][1])
    for did in members:
        if did in current:
            continue
        record = known(world.subject(did), "validators.unknown")
        check(record[1] == 1 and record[6] == 1, "validators.kind")
        check(_record(world, did)[2] is None, "validators.convicted")
        key = _vote_key(world, did, epoch[1] + 1)
        check(key is not None, "validators.uncertified", later=True)
    world.put({**epoch, 6: members}, "c/epoch")


def set_parameters(world: World, signer: bytes, body: dict[int, Any]) -> None:
    """`gov.parameters` (E35)."""
    epoch = world.epoch()
    subject = digest_of("swarmd/next-parameters/1", [epoch[1], body[0]])
    world.govern(body[1], PARAMETERS, subject)
    world.put({**epoch, 7: body[0]}, "c/epoch")


def upgrade(world: World, signer: bytes, body: dict[int, Any]) -> None:
    """`gov.upgrade` (E50)."""
    version, first, raws = body[0], body[1], body[2]
    epoch = world.epoch()
    if version == 0:
        check(epoch[8] is not None and first == 0, "upgrade.none")
    else:
        check(version > epoch[4], "upgrade.version")
        check(first > epoch[1], "upgrade.epoch")
    subject = digest_of("swarmd/upgrade/1", [epoch[1], version, first])
    world.govern(raws, UPGRADE, subject)
    world.put({**epoch, 8: [version, first] if version else None}, "c/epoch")


def _set_digest(validators: dict[int, Any]) -> bytes:
    return tagged("swarmd/validators/1", encode(validators))


def checkpoint(world: World, signer: bytes, body: dict[int, Any]) -> None:
    """`gov.checkpoint` (G10, G11)."""
    raw, raws = body[0], body[1]
    try:
        header = read_header(raw)
    except Malformed as error:
        raise Refused("checkpoint.malformed") from error
    check(header[1] == world.chain and header[2] == world.era, "checkpoint.header")
    ended, following = world.validators(header[3]), world.validators(header[3] + 1)
    check(ended is not None and following is not None, "checkpoint.header")
    check(header[14] == _set_digest(ended), "checkpoint.header")
    check(header[15] == _set_digest(following), "checkpoint.header")
    before = world.get("c/checkpoint")
    check(before is None or read_header(before[1])[5] < header[5], "checkpoint.old")
    subject = digest_of("swarmd/checkpoint/1", [header[5], sha(raw)])
    found = world.govern(raws, CHECKPOINT, subject, once=False)
    signers = sorted(key_id(key) for key in found)
    world.put({0: 1, 1: raw, 2: signers}, "c/checkpoint")


def close_epoch(world: World) -> None:
    """E10 to E12, at the end of a block."""
    epoch = world.epoch()
    if world.now < epoch[2] + epoch[5][1] and epoch[6] is None:
        return
    following = epoch[1] + 1
    members = epoch[6] or [seat[0] for seat in world.seats()]
    seats = []
    for did in members:
        convicted = _record(world, did)[2] is not None
        active = world.subject(did)[6] == 1
        fit = active and not convicted
        seats.append([did, _vote_key(world, did, following) if fit else None])
    if sum(seat[1] is not None for seat in seats) < _quorum(len(seats)):
        return
    value = {0: 1, 1: following, 2: world.now, 3: world.height, 4: epoch[4]}
    value |= {5: epoch[7] or epoch[5], 6: None, 7: None, 8: epoch[8]}
    if epoch[8] is not None and following >= epoch[8][1]:
        value |= {4: epoch[8][0], 8: None}
    world.put(value, "c/epoch")
    world.put({0: 1, 1: following, 2: seats}, "v/", following.to_bytes(8, "big"))


KINDS = {
    "validator.certify": certify,
    "validator.accuse": accuse,
    "validators.set": set_validators,
    "gov.parameters": set_parameters,
    "gov.upgrade": upgrade,
    "gov.checkpoint": checkpoint,
}
