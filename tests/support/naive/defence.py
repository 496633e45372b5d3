"""Self-defence and capabilities: defence.md, access.md A1 to A12."""

from __future__ import annotations

from typing import Any

from tests.support.naive import tree
from tests.support.naive.cbor import Malformed, decode
from tests.support.naive.crypto import Signed, key_id, sha, tagged
from tests.support.naive.forms import digest, display, fields, maybe, one, uint
from tests.support.naive.objects import (
    cap_id,
    read_capability,
    read_header,
    read_proof,
    role_keys,
)
from tests.support.naive.transaction import read_transaction
from tests.support.naive.world import Refused, World, check, digest_of, known, name_key

QUARANTINE, RELEASE, GRANT, WITHDRAW = 22, 23, 24, 25
HOUR, DAY = 3_600_000, 86_400_000


def marks(world: World, did: bytes, group: str) -> list[bytes]:
    """What tells a reporter's owner from others (D11, D12)."""
    root = world.root(group)
    if world.in_force(group)[4] >= root[2]:
        attributes = world.attributes(did, group)
        for name in ("owner", "site"):
            if name in attributes:
                return [digest_of("swarmd/voice/1", [name, attributes[name]])]
    owners = role_keys(root, "owner")
    found = sorted(key_id(key) for key in owners if world.has_approved(did, 4, key, group))
    return found or [tagged("swarmd/voice/1", b"founders")]


def _level(world: World, did: bytes, group: str) -> int:
    """D31, D43."""
    record, conviction = world.get("q/", did, group), world.get("cv/", did)
    if conviction is not None and (record is None or record[7] < conviction[4]):
        return 2
    if record is None or (record[4] is not None and world.now >= record[4]):
        return 0
    return int(record[1])


def _weight(world: World, rules: dict[int, Any], weight: int, heard: int) -> int:
    """What a voice still counts for (D21)."""
    age = world.now - heard
    return 0 if age >= rules[3] else max(0, weight - age // HOUR * int(rules[4]))


def _counting(
    world: World, rules: dict[int, Any], did: bytes, group: str
) -> list[tuple[list[Any], int]]:
    """Voices that count against a subject, with what they count."""
    record = world.get("r/", did, group) or {1: []}
    each = [(voice, _weight(world, rules, voice[1], voice[2])) for voice in record[1]]
    return [pair for pair in each if pair[1] > 0]


def _reputation(world: World, rules: dict[int, Any], did: bytes, group: str) -> int:
    """D22."""
    if _level(world, did, group):
        return 0
    voices = _counting(world, rules, did, group)
    if len(voices) < rules[1]:
        return 1000
    total = sum(weight for _, weight in voices)
    return 1000 - min(1000, total * 1000 // int(rules[2]))


def report(world: World, signer: bytes, body: dict[int, Any]) -> None:
    """`report.tamper` (D20, D21, D30)."""
    did, group = body[0], body[1]
    check(did != signer, "report.self")
    check(group in world.groups_of(signer), "report.group")
    subject = known(world.subject(did), "report.unknown")
    fit = subject[1] in (2, 3) and subject[6] == 1 and group in world.groups_of(did)
    check(fit and not world.is_seated(did), "report.subject")
    check(16 in world.in_force(group), "report.off")
    rules: dict[int, Any] = world.in_force(group)[16]
    reputation = _reputation(world, rules, signer, group)
    check(reputation > 0, "report.reputation")
    own = marks(world, signer, group)
    stored = (world.get("r/", did, group) or {1: []})[1]
    same = [voice for voice in stored if set(voice[0]) & set(own)]
    recent = any(world.now - voice[2] < HOUR for voice in same)
    check(not recent, "report.repeat", later=True)
    voices = [pair[0] for pair in _counting(world, rules, did, group) if pair[0] not in same]
    weight = max([reputation] + [_weight(world, rules, v[1], v[2]) for v in same])
    merged = own + [mark for voice in same for mark in voice[0] if mark not in own]
    while len(voices) > 15 or sum(len(voice[0]) for voice in voices) > 320:
        weakest = min(_weight(world, rules, v[1], v[2]) for v in voices)
        voices.remove(next(v for v in voices if _weight(world, rules, v[1], v[2]) == weakest))
    voices.append([sorted(merged[:64]), weight, world.now])
    world.put({0: 1, 1: voices}, "r/", did, group)
    _consider(world, rules, did, group)


def _consider(world: World, rules: dict[int, Any], did: bytes, group: str) -> None:
    """D30."""
    weights = [weight for _, weight in _counting(world, rules, did, group)]
    record = world.get("q/", did, group)
    protected = record is not None and world.now < record[5]
    if len(weights) < rules[1] or sum(weights) < rules[2]:
        return
    if _level(world, did, group) or protected:
        return
    today = world.now // DAY
    tally = world.get("qd/", group) or {1: 0, 2: 0, 3: 0}
    count = tally[2] if tally[1] == today else 0
    before = {today: tally[3], today - 1: tally[2]}.get(tally[1], 0)
    members = (world.get("gm/", group) or {1: 0})[1]
    if count + before >= members * rules[5] // 10_000:
        return
    world.put({0: 1, 1: today, 2: count + 1, 3: before}, "qd/", group)
    _set(world, did, group, level=1, cause=1, until=world.after(rules[6]))


def _set(
    world: World,
    did: bytes,
    group: str,
    *,
    level: int,
    cause: int,
    until: int | None,
    immune: int = 0,
) -> None:
    before = world.get("q/", did, group) or {6: 0}
    record = {0: 1, 1: level, 2: cause, 3: world.now, 4: until, 5: immune}
    record |= {6: before[6] + 1, 7: world.height}
    world.put(record, "q/", did, group)


def _changes(world: World, did: bytes, group: str) -> int:
    return int((world.get("q/", did, group) or {6: 0})[6]) + 1


def _member(world: World, did: bytes, group: str) -> None:
    known(world.subject(did), "quarantine.unknown")
    check(group in world.groups_of(did), "quarantine.group")


def set_quarantine(world: World, signer: bytes, body: dict[int, Any]) -> None:
    """`quarantine.set` (D34)."""
    did, group, level, until, raws = (body[at] for at in range(5))
    _member(world, did, group)
    check(until is None or until > world.now, "quarantine.until")
    content = [did, group, level, until, _changes(world, did, group)]
    subject = digest_of("swarmd/quarantine/1", content)
    world.agree(raws, QUARANTINE, subject, group, world.in_force(group)[2])
    _set(world, did, group, level=level, cause=2, until=until)


def release(world: World, signer: bytes, body: dict[int, Any]) -> None:
    """`quarantine.release` (D35)."""
    did, group, raws = body[0], body[1], body[2]
    _member(world, did, group)
    check(_level(world, did, group), "quarantine.none")
    subject = digest_of("swarmd/release/1", [did, group, _changes(world, did, group)])
    policy = world.in_force(group)
    world.agree(raws, RELEASE, subject, group, policy[1])
    immune = world.after(policy[16][7] if 16 in policy else 0)
    _set(world, did, group, level=0, cause=4, until=None, immune=immune)
    if world.get("r/", did, group) is not None:
        world.put({0: 1, 1: []}, "r/", did, group)


def contradict(world: World, signer: bytes, body: dict[int, Any]) -> None:
    """`report.contradiction` (D40 to D43)."""
    did, evidence = body[0], body[1]
    record = known(world.subject(did), "contradiction.unknown")
    before = world.get("cv/", did)
    check(before is None or before[3] != record[7], "contradiction.known")
    key = world.node_key(did) or b""
    check(key, "contradiction.subject")
    try:
        if evidence[0] == 1:
            _check_anchors(world, did, key, evidence)
        else:
            _check_announcement(world, did, key, evidence)
    except Malformed as error:
        raise Refused("contradiction.malformed") from error
    conviction = {
        0: 1,
        1: evidence[0],
        2: digest_of("swarmd/contradiction/1", evidence),
        3: record[7],
        4: world.height,
    }
    world.put(conviction, "cv/", did)
    for group in sorted(record[5]):
        _set(world, did, group, level=2, cause=3, until=None)


def _check_anchors(world: World, did: bytes, key: bytes, evidence: list[Any]) -> None:
    """D41."""
    anchors = []
    for raw in evidence[1:]:
        signed = read_transaction(raw)
        content = signed.content
        check(content[2] == did, "contradiction.subject")
        check(content[1] == world.era, "contradiction.era")
        check(content[5] == "receipt.anchor", "contradiction.consistent")
        anchors.append(fields({0: uint, 1: digest})(content[6]))
        good = signed.is_by(key, "swarmd/transaction/1", world.chain, world.era)
        check(good, "contradiction.signature")
    first, second = anchors
    check(first[0] == second[0] and first[1] != second[1], "contradiction.consistent")


_ANNOUNCEMENT = fields(
    {0: one, 1: uint, 2: digest, 3: display(1, 256), 4: maybe(digest), 5: uint, 6: digest}
)


def _check_announcement(world: World, did: bytes, key: bytes, evidence: list[Any]) -> None:
    """D42."""
    signed = Signed(evidence[1], 1024)
    content = _ANNOUNCEMENT(signed.content)
    check(content[2] == did, "contradiction.subject")
    check(content[1] == world.era, "contradiction.era")
    check(content[4] is not None, "contradiction.consistent")
    header = read_header(evidence[2])
    check(header[1] == world.chain, "contradiction.chain")
    check(header[2] == world.era, "contradiction.era")
    named = sha(evidence[2]) == content[6] and header[5] == content[5]
    check(named, "contradiction.header")
    good = signed.is_by(key, "swarmd/announcement/1", world.chain, world.era)
    check(good, "contradiction.signature")
    proof = read_proof(evidence[3])
    topic = content[3].split("/")
    group = topic[4] if len(topic) == 6 else ""
    expected = f"/swarmd/{world.chain.hex()}/group/{group}/1"
    check(group and content[3] == expected, "contradiction.chain")
    check(proof[0] == name_key("m/", content[4], group), "contradiction.proof")
    check(_holds(header[13], proof), "contradiction.proof")
    if proof[1] is not None:
        record = decode(proof[1], 16_384)
        check(record[8] is None, "contradiction.consistent")


def _holds(root: bytes, proof: dict[int, Any]) -> bool:
    path = sha(proof[0])
    if proof[1] is not None:
        leaf = sha(b"JMT::LeafNode" + path + sha(proof[1]))
    elif 5 in proof:
        other, value = proof[5]
        bits = [f"{int.from_bytes(each, 'big'):0256b}"[: proof[2]] for each in (other, path)]
        if other == path or bits[0] != bits[1]:
            return False
        leaf = sha(b"JMT::LeafNode" + other + value)
    else:
        leaf = tree.EMPTY
    return tree.is_proven(root, proof, path, leaf)


def grant(world: World, signer: bytes, body: dict[int, Any]) -> None:
    """`cap.grant` (A10)."""
    raw, raws = body[0], body[1]
    try:
        capability = read_capability(raw)
    except Malformed as error:
        raise Refused("cap.malformed") from error
    name, did, group = cap_id(raw), capability[1], capability[2]
    check(world.get("ci/", name) is None, "cap.known")
    check(world.now <= capability[6], "cap.expired")
    subject = known(world.subject(did), "cap.subject")
    check(subject[6] == 1, "cap.subject")
    root = world.root(group)
    threshold = max(world.in_force(group)[4], root[2])
    found = world.agree(raws, GRANT, name, group, threshold)
    listed = (world.get("cap/", did, group) or {1: []})[1]
    listed = [each for each in listed if not _is_void(world, each)]
    check(len(listed) < 16, "cap.count")
    world.put({0: 1, 1: [*listed, raw]}, "cap/", did, group)
    granters = sorted(key_id(key) for key in found)
    issue = {0: 1, 1: did, 2: group, 3: world.height, 4: granters, 5: root[1], 6: None}
    world.put(issue, "ci/", name)


def _is_void(world: World, raw: bytes) -> bool:
    return world.now > read_capability(raw)[6] or world.get("ci/", cap_id(raw))[6] is not None


def withdraw(world: World, signer: bytes, body: dict[int, Any]) -> None:
    """`cap.revoke` (A11)."""
    name, raws = body[0], body[1]
    issue = known(world.get("ci/", name), "cap.unknown")
    check(issue[6] is None, "cap.withdrawn")
    did, group = issue[1], issue[2]
    world.agree(raws, WITHDRAW, name, group, world.in_force(group)[2])
    world.put({**issue, 6: world.height}, "ci/", name)
    listed = world.get("cap/", did, group)
    kept = [each for each in listed[1] if cap_id(each) != name]
    world.put({0: 1, 1: kept}, "cap/", did, group)


KINDS = {
    "report.tamper": report,
    "report.contradiction": contradict,
    "quarantine.set": set_quarantine,
    "quarantine.release": release,
    "cap.grant": grant,
    "cap.revoke": withdraw,
}
