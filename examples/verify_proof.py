"""Checks a proof file without swarmd: verify_proof.py PROOF TRUSTED_GENESIS_DIGEST [IMAGE]."""
# ruff: noqa: D103 - one screen a part: what a function does stands behind its name

import hashlib
import io
import json
import sys
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

EMPTY = b"SPARSE_MERKLE_PLACEHOLDER_HASH__"
AUTHORISE, CREATE_GROUP, ROTATE_ROOT, FINALIZE, VOTE_KEY, BYTES_MAX = 1, 5, 20, 3, 3, 5 << 20
CHECKPOINT, RECOVERY, GOVERNANCE, SET = 26, 27, ["governance", bytes(32)], "swarmd/validators/1"
PINNED = Path(__file__).parents[1] / "tests/vectors/ledger/pinned.hex"
PINNED_DIGEST = "12812a52c4a82e34a04564df29b3cd4bf839afc583abe3dcc056dcb29a16392a"
REFUSALS = (ValueError, TypeError, LookupError, AttributeError, StopIteration, InvalidSignature)


def require(condition, reason):
    if not condition:
        raise ValueError(reason)


def decode(data):  # one value of canonical CBOR (RFC 8949, 4.2.1), in its one encoding
    require(data == encode(value := read(io.BytesIO(data), 0)), "not canonical, or longer")
    return value


def read(file, depth):  # the next value
    major, low = divmod(file.read(1)[0], 32)
    require(major != 6 and low < 28 and depth <= 12, "tag, indefinite length or deep nesting")
    if major == 7:
        return {20: False, 21: True, 22: None}[low]
    number = int.from_bytes(file.read(1 << low - 24), "big") if low > 23 else low
    require(number < 1 << (63 if major < 2 else 23), "number or length too large")
    if major < 4:
        text = file.read(number) if major > 1 else b""  # a truncated one is not canonical
        return [number, -1 - number, text, text.decode() if major == 3 else ""][major]
    items = [read(file, depth + 1) for _ in range(number * (major - 3))]
    require(major == 4 or all(type(key) in (int, str) for key in items[::2]), "type of a key")
    return items if major == 4 else dict(zip(items[::2], items[1::2], strict=True))


def encode(value):
    if value is None or isinstance(value, bool):
        return bytes([0xF6 if value is None else 0xF4 + value])
    if isinstance(value, int):
        major, number, tail = int(value < 0), max(value, -1 - value), b""
    elif isinstance(value, bytes | str):
        tail = value if isinstance(value, bytes) else value.encode()
        major, number = 2 + isinstance(value, str), len(tail)
    elif isinstance(value, list):
        major, number, tail = 4, len(value), b"".join(map(encode, value))
    else:  # no encoding begins another one, so that pairs stand in the order of their keys
        pairs = b"".join(sorted(encode(key) + encode(item) for key, item in value.items()))
        major, number, tail = 5, len(value), pairs
    if number < 24:
        return bytes([major << 5 | number]) + tail
    size = next(power for power in range(4) if number < 1 << (8 << power))
    return bytes([major << 5 | 24 + size]) + number.to_bytes(1 << size, "big") + tail


def fields(value, needed, optional=()):  # a map with the fields that are known and no others
    require(set(needed) <= set(value.keys()) <= {*needed, *optional}, "missing or unknown field")
    return value


def sized(value, kind, most=2**63 - 1, least=0):  # an integer or an array within bounds
    size = value if type(value) is int else len(value)
    require(type(value) is kind and least <= size <= most, "another type or size")
    return value


def section(proof, key, rank):  # the statements of one kind, in their one order
    found = proof.get(key, [])
    require(list(map(rank, found)) == sorted(set(map(rank, found))), "order of statements")
    return found


def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def tagged(tag, data):  # SHA-256 under a domain
    return sha(bytes([len(tag)]), tag.encode(), data)


def log_root(leaf, index, size, path):  # RFC 6962: the root that an audit path leads to
    require(0 <= index < size and len(leaf) == 32 and (size == 1) == (path == b""), "audit path")
    half, rest, last = 1 << (size - 1).bit_length() >> 1, path[:-32], path[-32:]
    if index < half:
        return sha(b"\x01", log_root(leaf, index, half, rest), last)
    return sha(b"\x01", last, log_root(leaf, index - half, size - half, rest)) if half else leaf


def read_header(raw, genesis, validators, certificate=None):  # of the epoch whose set is given
    header = fields(decode(raw), range(16))
    own = [genesis["chain"], genesis["era"], validators[1], tagged(SET, encode(validators))]
    require([header[n] for n in (0, 1, 2, 3, 14)] == [1, *own], "another chain, era, epoch or set")
    if certificate is None:
        return header
    members, (*about, bitmap, joined) = validators[2], decode(certificate)
    require(about == [FINALIZE, header[3], header[4], sha(raw)], "certificate of another block")
    bits, quorum = int.from_bytes(bitmap, "little"), len(members) - (len(members) - 1) // 3
    signers = [at for at in range(8 * len(bitmap)) if bits >> at & 1]
    sizes = [len(bitmap), len(signers), len(joined)]  # exactly q = n - floor((n - 1) / 3) votes
    require(sizes == [(len(members) + 7) // 8, quorum, 64 * quorum], "no quorum")
    message = encode(["swarmd/vote/1", header[1], header[2]]) + encode(about)
    for place, signer in enumerate(signers):
        key = Ed25519PublicKey.from_public_bytes(members[signer][1][1])
        key.verify(joined[64 * place : 64 * place + 64], message)
    return header


def follow(proof, genesis, validators):  # from genesis to the era and the set of the header
    steps, walked = proof.get(4, []), 0
    if 10 in proof:
        raw, following, approvals = sized(decode(proof[10]), list, 3, 3)
        last, validators = fields(decode(raw), range(16)), decode(following)
        genesis, subject = {**genesis, "era": last[2]}, encode([last[5], sha(raw)])
        require([last[0], last[1], last[3] + 1] == [1, genesis["chain"], validators[1]], "chain")
        require(last[14] != last[15] == tagged(SET, following), "another set")
        about = [CHECKPOINT, tagged("swarmd/checkpoint/1", subject), *GOVERNANCE]
        check_consent(approvals, [genesis["governance"]], 1, about, genesis)
    for raw in [*sized(proof.get(9, []), list, 8), None]:
        while steps and (raw is None or decode(steps[0][0])[2] == genesis["era"]):
            closing, fillers, certificate, following = sized(steps.pop(0), list, 4, 4)
            last, closed = read_header(closing, genesis, validators), validators
            require(last[14] != last[15] == tagged(SET, following), "another next set")
            for block in sized(fillers, list, 256, 0):
                filler = read_header(block, genesis, closed)
                link = {**last, 4: filler[4], 5: last[5] + 1, 6: sha(encode(last)), 7: last[4]}
                require(filler == {**link, **{n: filler[n] for n in (8, 9, 10)}}, "not a filler")
                last = filler
            read_header(encode(last), genesis, closed, certificate)
            validators, walked = decode(following), walked + 1
            require(validators[1] == closed[1] + 1, "skips an epoch")
        if raw is not None:
            genesis, validators, walked = *begin_era(raw, genesis, validators), 0
    require(walked <= 26, "old keys alone speak for too many epochs")
    return genesis, validators


def begin_era(raw, genesis, validators):  # checks a recovery, gives the next era and its set
    recovery = fields(decode(raw), (0, 1, 2))
    plan, era, now = fields(decode(recovery[1]), range(7)), genesis["era"], validators[1]
    last = fields(decode(plan[2]), range(16))  # with view 0, the first of an era, not certified
    if [last[2], last[3] + 1, last[15]] != [era, now, tagged(SET, encode(validators))]:
        read_header(plan[2], genesis, validators, plan[3] if plan[3] or last[4] else None)
    versions, is_later = encode([recovery[0], plan[0], plan[1] - era]), plan[4] > last[8]
    require([versions, last[1], is_later] == [b"\x83\1\1\1", genesis["chain"], True], "plan")
    about = [RECOVERY, tagged("swarmd/recovery/1", recovery[1]), *GOVERNANCE]
    check_consent(recovery[2], [genesis["governance"]], 1, about, genesis)
    for did, key, proof in sized(plan[5], list, 32, 4):
        message = encode(["swarmd/recovery-seat/1", last[1], era + 1]) + encode([did, sha(plan[2])])
        Ed25519PublicKey.from_public_bytes(key[1]).verify(proof, message)
    members, epoch = [seat[:2] for seat in plan[5]], last[3] + 1 + (last[14] != last[15])
    return {**genesis, "era": era + 1}, {0: 1, 1: epoch, 2: members}


def owners(root):  # key and name by key id; other roles do not count
    return {tagged("swarmd/key/1", b"\x01" + key[1]): (key[1], name) for key, name in root[3]}


def check_consent(approvals, roots, least, about, genesis):  # all of them valid, and enough
    keys, found = {k: owner for root in roots for k, owner in owners(root).items()}, {}
    for raw in sized(approvals, list, 64, 1):
        protected, unprotected, payload, signature = decode(raw)
        algorithm, said = fields(decode(protected), (1, 4)), decode(payload)
        require([said[key] for key in (0, 2, 3, 4, 5)] == [1, *about], "about another")
        require([algorithm[1], unprotected] == [-8, {}] and 0 <= said[1] <= genesis["era"], "era")
        context = encode(["swarmd/approval/1", genesis["chain"], said[1]])
        message = encode(["Signature1", protected, context, payload])
        key, found[algorithm[4]] = keys[algorithm[4]]
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    require(len(approvals) == len(found) and list(found) == sorted(found), "order of approvals")
    require(all(len({*owners(r)} & {*found}) >= max(least, r[2]) for r in roots), "too few owners")
    return found


def owner_root(consent, record, name, genesis):  # whose keys counted when it was authorised
    raw, approvals = consent.get(3, (b"", []))
    group = decode(raw) if raw else genesis["groups"][name]
    require((name in genesis["groups"]) != (3 in consent) and group[1] == name, "group's origin")
    about, root = [CREATE_GROUP, sha(raw), name, tagged("swarmd/policy/1", group[3])], group[2]
    if raw:
        check_consent(approvals, [genesis["governance"]], 1, about, genesis)
    for raw, policy, approvals in sized(consent[4], list, 32, 1) if 4 in consent else ():
        old, root = root, decode(raw)
        about = [ROTATE_ROOT, tagged("swarmd/owner-root/1", raw), name, policy]
        check_consent(approvals, [old, root], 1, about, genesis)
        require(root[1] == old[1] + 1, "versions of owner roots")
    require(root[1] == record[14], "another owner root")
    return root


def read_facts(value, root):  # [key, value or None] of several keys under one state root
    facts, count, bitmap, joined = sized(value, list, 4, 4)
    paths = [sha(fact[0]) for fact in sized(facts, list, 32, 1)]
    bits = "".join(f"{byte:08b}" for byte in bitmap)
    spelled = [joined[at : at + 32] for at in range(0, len(joined), 32)]
    require("1" not in bits[count:] and EMPTY not in spelled, "bits of the bitmap")
    sizes = [(sized(count, int, 4096) + 7) // 8, 32 * bits[:count].count("0")]
    require([len(bitmap), len(joined), paths] == [*sizes, sorted(set(paths))], "order or siblings")
    siblings = iter([EMPTY if bit == "1" else spelled.pop(0) for bit in bits[:count]])
    turns = [f"{int.from_bytes(path, 'big'):0256b}" for path in paths]
    require(fold(list(zip(facts, paths, turns, strict=True)), 0, siblings) == root, "state root")
    require(next(siblings, None) is None, "siblings are left over")
    return [fact[:2] for fact in facts]


def fold(facts, depth, siblings):  # hash of the node below which all these facts lie
    if all(sized(fact[2], int, 256) > depth for fact, _, _ in facts):
        sides = [[item for item in facts if item[2][depth] == turn] for turn in "01"]
        parts = [fold(side, depth + 1, siblings) if side else next(siblings) for side in sides]
        return sha(b"JMT::IntrnalNode", *parts)
    found = set()
    for (_, value, end, *other), path, turns in facts:
        require(end == depth and (not other or value is None), "where a fact ends")
        if other:
            there = f"{int.from_bytes(other[0], 'big'):0256b}"
            is_apart = there[:depth] == turns[:depth] and there != turns
            require(is_apart and {*map(len, other)} == {32}, "a leaf from elsewhere")
        leaf = sha(b"JMT::LeafNode", *(other or [path, sha(value or b"")]))
        found.add(leaf if other or value is not None else EMPTY)
    return found.pop() if len(found) == 1 else b""  # contradicting facts lead to no root


def read_manifests(proof, facts, now, genesis):  # what is said of manifests on record
    found, values = {}, dict(facts)
    for place, (key, value) in enumerate(facts):
        if key[:2] == b"m/" and value is not None:
            record, about = decode(value), {"id": key[2:34], "group": key[34:].decode()}
            is_open = record[1] == 2 and (record[6] is None or now <= record[6])
            latest = values.get(b"l/" + key[34:] + b"/" + record[3].encode(), b"")
            require(latest == b"" or not is_open or decode(latest)[2] >= record[4], "latest")
            found[place] = {**about, "record": record, "open": is_open}
    for consent in section(proof, 5, lambda item: sized(item[0], int)):
        about, policy = found[fields(consent, (0, 1, 2), (3, 4))[0]], decode(consent[2])
        record = about["record"]
        require(record[5] == tagged("swarmd/policy/1", consent[2]), "another policy")
        wanted = [AUTHORISE, about["id"], about["group"], record[5]]
        root = owner_root(consent, record, about["group"], genesis)
        signers = check_consent(consent[1], [root], policy[1], wanted, genesis)
        require(list(signers) == [k for k in record[10] if k in owners(root)], "other approvals")
        about["owners"] = list(signers.values())
    for raw in section(proof, 6, sha):
        content = decode(decode(raw)[2])
        require(sha(raw) in [item["id"] for item in found.values()], "not among the facts")
        for item in [item for item in found.values() if item["id"] == sha(raw)]:
            recorded = [item["record"][key] for key in (2, 3, 4, 6)] + [item["group"] in content[6]]
            require([content[key] for key in (2, 3, 5, 8)] + [True] == recorded, "another record")
            item["content"] = content
    return list(found.values())


def verify(data, digest, image=None):  # what a file shows if the genesis is trusted
    container = fields(decode(data[:BYTES_MAX]), (0, 1, 2))
    proof = fields(decode(container[2]), (0, 1, 2), range(3, 11))
    require(encode([container[0], proof[0]]) == b"\x82\x01\x02", "another version")
    require((3 in proof or 7 in proof) and sha(container[1]) == digest, "another genesis")
    value = decode(container[1])
    require(all(sized(proof[n], list, 64, 1) for n in range(4, 10) if n in proof), "sections")
    records = {tagged("swarmd/did/1", record): decode(record) for record, _ in value[6]}
    genesis = {"chain": digest, "era": value[2], "governance": value[8]}
    genesis["groups"] = {group[1]: group for group in map(decode, value[7])}
    validators = {0: 1, 1: 1, 2: [[did, dict(records[did][3])[VOTE_KEY]] for did in value[5]]}
    genesis, validators = follow(proof, genesis, validators)
    header = read_header(proof[1], genesis, validators, proof[2])
    facts = read_facts(proof[3], header[13]) if 3 in proof else []
    manifests = read_manifests(proof, facts, header[8], genesis)
    entries = section(proof, 7, lambda item: sized(item[0], int))
    for entry in entries:
        fields(entry, (0, 1, 2) if 2 in entry else (0, 1, 3))
        leaf = sha(b"\x00", entry[2]) if 2 in entry else entry[3]
        require(log_root(leaf, entry[0], header[11], entry[1]) == header[12], "log")
    receipts = section(proof, 8, lambda item: (sized(item[0], int), sized(item[1], int)))
    for receipt in receipts:
        key, anchor = facts[fields(receipt, range(4))[0]]
        require(key[:2] == b"a/" and len(key) == 34, "not an anchor")
        leaf, (_, size, root, *_) = sha(b"\x00", receipt[2]), decode(anchor).values()
        require(log_root(leaf, receipt[1], size, receipt[3]) == root, "receipt log")
    complete = [item for item in manifests if item["open"] and {"owners", "content"} <= set(item)]
    images = [p[n][1] for item in complete for p in item["content"][7] for n in (2, 6) if n in p]
    require(image is None or image in images, "it does not authorise this image")
    shown = {"height": header[5], "time_ms": header[8], "facts": facts, "manifests": manifests}
    return {**shown, "entries": entries, "receipts": receipts}


if __name__ == "__main__":
    try:
        proof, digest, *image = sys.argv[1:] or (PINNED, PINNED_DIGEST)
        data, *image = (Path(name).read_bytes() for name in [proof, *image])
        data = bytes.fromhex(data.decode()) if proof is PINNED else data
        shown = verify(data, bytes.fromhex(digest), *map(sha, image))
        print(json.dumps(shown, default=bytes.hex, indent=1))
    except REFUSALS as error:
        sys.exit(f"refused: {error!r}")
