"""The objects of swarmd.cddl that transactions carry, with what the numbered rules add to CDDL."""

from __future__ import annotations

import itertools
from typing import Any

from tests.support.naive.cbor import decode
from tests.support.naive.crypto import context, tagged, verify
from tests.support.naive.forms import (
    _ROLE,
    ascending,
    blob,
    boolean,
    digest,
    display,
    fields,
    group_name,
    identifier,
    key,
    many,
    matches,
    maybe,
    need,
    one,
    positive,
    role_name,
    row,
    signature,
    uint,
    whole,
)
from tests.support.naive.rules import check_rule

YEAR = 31_622_400_000
_PURPOSES = {1: [1, 2, 3], 2: [1, 2], 3: [1, 2, 4], 4: [4]}


def keys_form(value: Any) -> Any:
    """A key list: purposes strictly ascending."""
    keys = many(row(whole(1, 4), key), 1, 4)(value)
    ascending([purpose for purpose, _ in keys])
    return keys


approvals = many(blob(0, 512), 1, 32)
parameters_form = fields({0: whole(1000, 86_400_000), 1: whole(2000, YEAR)})


def read_record(raw: bytes) -> dict[int, Any]:
    """A subject's inception record (P30 to P33)."""
    value = fields(
        {
            0: one,
            1: whole(1, 4),
            2: display(),
            3: keys_form,
            4: maybe(digest),
            5: many(group_name, 0, 16),
        }
    )(decode(raw, 2048))
    need([purpose for purpose, _ in value[3]] == _PURPOSES[value[1]])
    need(len({raw for _, (_, raw) in value[3]}) == len(value[3]))
    ascending([name.encode() for name in value[5]])
    return dict(value)


join_form = row(blob(0, 4096), many(signature, 1, 4))


def is_joined(raw: bytes, record: dict[int, Any], signatures: list[bytes]) -> bool:
    """Whether every key of the record signed it (P34)."""
    message = context("swarmd/join/1", bytes(32), 0) + raw
    keys = [public for _, (_, public) in record[3]]
    return len(keys) == len(signatures) and all(
        verify(public, signed, message) for public, signed in zip(keys, signatures, strict=True)
    )


_entries = many(row(key, display()), 1, 32)


def check_root(value: Any) -> dict[int, Any]:
    """An owner root (K1 to K3, P40)."""
    root = fields(
        {0: one, 1: positive, 2: whole(1, 32), 3: _entries},
        {4: many(row(role_name, _entries), 1, 8)},
    )(value)
    need(root[2] <= len(root[3]))
    roles = root.get(4, [])
    ascending([name for name, _ in roles])
    need(not {name for name, _ in roles} & {"owner", "publisher"})
    need(sum(len(entries) for _, entries in roles) <= 32)
    names: dict[bytes, str] = {}
    for entries in [root[3]] + [entries for _, entries in roles]:
        ascending([public for (_, public), _ in entries])
        for (_, public), name in entries:
            need(names.setdefault(public, name) == name)
    need(len(set(names.values())) == len(names))
    return dict(root)


def _check_plan(value: Any) -> Any:
    stage = fields(
        {
            1: whole(1, 10_000),
            2: whole(0, YEAR),
            3: whole(0, 10_000),
            4: whole(0, 10_000),
            5: whole(0, 10_000),
            6: whole(1, 1_000_000),
        },
        open_=False,
    )
    plan = fields({1: many(stage, 1, 16), 2: whole(0, 9), 3: whole(1, 2)})(value)
    ascending([entry[1] for entry in plan[1]])
    need(plan[1][-1][1] == 10_000)
    return plan


def _check_defence(value: Any) -> Any:
    rules = fields(
        {
            0: one,
            1: whole(1, 16),
            2: whole(1, 16_000),
            3: whole(3_600_000, 30 * 86_400_000),
            4: whole(0, 1000),
            5: whole(0, 10_000),
            6: whole(3_600_000, YEAR),
            7: whole(0, YEAR),
        },
        open_=False,
    )(value)
    need(rules[2] >= (rules[1] - 1) * 1000 + 1)
    return rules


weekly = row(whole(1, 127), whole(0, 1439), whole(1, 1440))
_POLICY = (
    {
        0: one,
        1: whole(1, 32),
        2: whole(1, 32),
        3: whole(1, 32),
        4: whole(1, 32),
        5: whole(3_600_000, YEAR),
        6: whole(1, YEAR),
        7: whole(1, YEAR),
        8: many(digest, 0, 32),
    },
    {
        9: lambda value: check_rule(value, subject=False),
        10: whole(1, 32),
        11: many(row(uint, uint), 1, 64),
        12: many(weekly, 1, 16),
        13: many(row(matches(_ROLE), matches(_ROLE)), 1, 16),
        14: whole(1, YEAR),
        15: _check_plan,
        16: _check_defence,
        17: row(whole(1, 16), many(display(1, 512), 1, 16)),
        18: whole(1, YEAR),
        19: whole(1, 32),
        20: boolean,
    },
)


def read_policy(raw: bytes) -> dict[int, Any]:
    """A policy (P41, P42, K10 to K15)."""
    policy = fields(*_POLICY)(decode(raw, 8192))
    need(policy[3] >= policy[1] and policy[6] <= policy[7])
    ascending(policy[8])
    freezes = policy.get(11, [])
    need(all(0 < to - start <= YEAR for start, to in freezes))
    need(all(a[1] < b[0] for a, b in itertools.pairwise(freezes)))
    need(all(start < to for _, start, to in policy.get(12, [])))
    ascending(policy.get(12, []))
    need(all(a < b for a, b in policy.get(13, [])))
    ascending(policy.get(13, []))
    if 17 in policy:
        need(policy[17][0] <= len(policy[17][1]))
        ascending(policy[17][1])
    need(policy.get(20, True) is True)
    return dict(policy)


def role_keys(root: dict[int, Any], role: str) -> set[bytes]:
    """Public keys of those who hold a role; `owner` is one."""
    if role == "owner":
        return {public for (_, public), _ in root[3]}
    return {public for name, e in root.get(4, []) if name == role for (_, public), _ in e}


def fits(policy: dict[int, Any], root: dict[int, Any]) -> bool:
    """K10."""
    owners = len(root[3])
    thresholds = [policy[at] for at in (1, 2, 3, 4)] + [policy.get(10, 1)]
    return (
        max(thresholds) <= owners
        and min(policy[1], policy[3]) >= root[2]
        and policy.get(19, 0) <= len(role_keys(root, "builder"))
        and not any(role_keys(root, a) & role_keys(root, b) for a, b in policy.get(13, []))
    )


def read_placement(value: Any) -> dict[int, Any]:
    """Parent and selector."""
    return dict(
        fields({0: one}, {1: group_name, 2: lambda rule: check_rule(rule, subject=True)})(value)
    )


def read_group(raw: bytes) -> dict[int, Any]:
    """A group (P40 to P43, K60)."""
    group = fields(
        {0: one, 1: group_name, 2: check_root, 3: blob(0, 16_384)},
        {4: group_name, 5: lambda rule: check_rule(rule, subject=True)},
    )(decode(raw, 15_360))
    need(fits(read_policy(group[3]), group[2]) and group.get(4) != group[1])
    return dict(group)


_named_digest = row(whole(-16, -16), digest)
_SEALING = fields({0: one, 1: digest, 2: whole(1, 2**32 - 1), 3: blob(16)})
_CHUNKER = row(whole(1, 2), whole(1, 2**20), whole(1, 2**20), whole(1, 2**20))
_PATCH = fields(
    {
        0: _named_digest,
        1: whole(1, 2**34),
        2: _named_digest,
        3: _CHUNKER,
        4: whole(1, 2**18),
        5: digest,
    }
)
_COMPONENT = fields(
    {
        0: identifier,
        1: whole(1, 2**34),
        2: _named_digest,
        3: _CHUNKER,
        4: whole(1, 2**18),
        5: digest,
    },
    {6: _named_digest, 7: blob(16), 8: blob(16), 9: many(_PATCH, 1, 4), 10: _SEALING},
)


def _metadata(value: Any) -> Any:
    need(isinstance(value, dict) and len(value) <= 32)
    return {display()(name): display(0, 512)(text) for name, text in value.items()}


_MANIFEST = fields(
    {
        0: one,
        1: uint,
        2: digest,
        3: identifier,
        4: display(),
        5: positive,
        6: many(group_name, 1, 16),
        7: many(_COMPONENT, 1, 16),
        8: maybe(uint),
        9: many(digest, 0, 16),
        10: many(row(identifier, uint), 0, 16),
        13: _metadata,
    },
    {11: _named_digest, 12: _named_digest},
)


def read_manifest(content: Any) -> dict[int, Any]:
    """A manifest (P61 to P65b)."""
    manifest = _MANIFEST(content)
    ascending([name.encode() for name in manifest[6]])
    ascending(manifest[9])
    ascending([product.encode() for product, _ in manifest[10]])
    components = manifest[7]
    need(len({part[0] for part in components}) == len(components))
    need(sum(part[1] for part in components) <= 2**34)
    patches = [patch for part in components for patch in part.get(9, ())]
    need(sum(one[1] for one in (*components, *patches)) <= 2**34)
    named = {part[2][1] for part in components}
    need(len(named | {patch[2][1] for patch in patches}) == len(named) + len(patches))
    for part in components:
        need((6 in part) == (10 in part))
        _check_cut(part, longer=16 if 10 in part else 0)
        ascending([patch[0][1] for patch in part.get(9, ())])
        for patch in part.get(9, ()):
            need(patch[0][1] != part[2][1] and patch[1] <= part[1])
            _check_cut(patch, longer=0)
    return dict(manifest)


def _check_cut(item: Any, *, longer: int) -> None:
    """Whether chunks of these sizes can make so many bytes (P64)."""
    kind, low, average, high = item[3]
    count, size = item[4], item[1]
    need(low <= average <= high)
    need(kind != 1 or low == average == high)
    need(kind != 2 or average & (average - 1) == 0)
    bare = size - longer * count
    need(count <= size and (count - 1) * low < bare <= count * high)
    need(high + longer <= 2**20)


CAPABILITY = fields(
    {
        0: one,
        1: digest,
        2: group_name,
        3: many(whole(1, 7), 1, 7),
        4: maybe(identifier),
        5: maybe(digest),
        6: uint,
        7: uint,
    },
    open_=False,
)


def read_capability(raw: bytes) -> dict[int, Any]:
    """A capability (A1)."""
    value = CAPABILITY(decode(raw, 512))
    ascending(value[3])
    need(value[4] is None or value[5] is None)
    return dict(value)


_VOTE = row(whole(1, 3), uint, uint, maybe(digest), whole(0, 31), signature)


def read_evidence(raw: bytes) -> tuple[list[Any], list[Any]]:
    """Two votes that contradict each other (C20 to C23)."""
    first, second = row(_VOTE, _VOTE)(decode(raw, 2048))
    for vote in (first, second):
        need((vote[0] == 2) == (vote[3] is None))
    need((first[1], first[2], first[4]) == (second[1], second[2], second[4]))
    order = [(vote[0], vote[3] or b"") for vote in (first, second)]
    need(order[0] < order[1])
    kinds = (first[0], second[0])
    need(kinds in ((1, 1), (3, 3), (2, 3)))
    return first, second


_HEADER = fields(
    {
        0: one,
        1: digest,
        2: uint,
        3: uint,
        4: uint,
        5: uint,
        6: digest,
        7: uint,
        8: whole(0, 253_402_300_799_999),
        9: whole(0, 31),
        10: digest,
        11: uint,
        12: digest,
        13: digest,
        14: digest,
        15: digest,
    },
    open_=False,
)


def read_header(raw: bytes) -> dict[int, Any]:
    """A header (C10)."""
    return dict(_HEADER(decode(raw, 512)))


_PROOF = fields(
    {
        0: blob(0, 256),
        1: maybe(blob(0, 16_384)),
        2: whole(0, 256),
        3: blob(0, 32),
        4: many(digest, 0, 256),
    },
    {5: row(digest, digest)},
    open_=False,
)


def read_proof(raw: bytes) -> dict[int, Any]:
    """A state proof (L4)."""
    proof = _PROOF(decode(raw, 16_384))
    depth, bitmap = proof[2], proof[3]
    need(len(bitmap) == (depth + 7) // 8)
    bits = "".join(f"{byte:08b}" for byte in bitmap)
    need("1" not in bits[depth:] and bits[:depth].count("0") == len(proof[4]))
    need(1 not in proof or proof[1] is None or 5 not in proof)
    need(b"SPARSE_MERKLE_PLACEHOLDER_HASH__" not in proof[4])
    return dict(proof)


def cap_id(raw: bytes) -> bytes:
    """A3."""
    return tagged("swarmd/capability/1", raw)
