"""State facts: values and absences of several keys under one state root, in one small object.

Facts of one tree share siblings: where the paths of two facts part, each is the other's sibling and
nothing is written down. One fact alone is an ordinary proof. Facts stand in the order of their
paths, siblings in the order in which a walk from the root meets them, so that each set of facts has
exactly one encoding. Format: docs/spec/proofs.md, V10 to V17.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ledger.state_hash import DEPTH_MAX, EMPTY_HASH, inner_hash, leaf_hash, path_bit
from ledger.state_tree import KEY_BYTES_MAX, VALUE_BYTES_MAX, StateProof
from protocol.digest import DIGEST_BYTES, Digest, sha256
from protocol.encoding import Value, as_array, as_bytes, as_digest, as_uint
from protocol.errors import EncodingError, LocalProtocolError, VerificationError

FACTS_MAX: Final = 32
"""Facts of one proof file."""
SIBLINGS_MAX: Final = 4096
"""Siblings of all facts together, 128 KiB: 32 paths of 128 levels, which nobody can force."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateFact:
    """What stands under one key, not yet verified."""

    key: bytes
    """The key, at most 256 bytes."""
    value: bytes | None
    """Its value, at most 16 KiB; None: absent."""
    depth: int
    """Levels between the root and where the path ends."""
    other: tuple[Digest, Digest] | None = None
    """For absence: path and value hash of the leaf found instead; None: an empty subtree."""

    @property
    def path(self) -> Digest:
        """Where the key lives in the tree."""
        return sha256(self.key)

    def terminal(self) -> Digest:
        """Hash of what stands at the end of the path.

        Raises:
            VerificationError: the leaf found instead is the key's own, or stands elsewhere.
        """
        path = self.path
        if self.value is not None:
            return leaf_hash(path, sha256(self.value))
        if self.other is None:
            return EMPTY_HASH
        other_path, value_hash = self.other
        apart = int.from_bytes(other_path, "big") ^ int.from_bytes(path, "big")
        if apart == 0 or apart.bit_length() > DEPTH_MAX - self.depth:
            raise VerificationError("a fact of absence names a leaf from elsewhere")
        return leaf_hash(other_path, value_hash)

    def to_value(self) -> Value:
        """The wire form: [key, value or null, depth] and, for another leaf, its path and hash."""
        return [self.key, self.value, self.depth, *(self.other or ())]

    @classmethod
    def from_value(cls, value: Value) -> StateFact:
        """Reads the wire form; raises EncodingError."""
        is_long = isinstance(value, (list, tuple)) and len(value) != 3
        key, known, depth, *rest = as_array(value, "state fact", size=5 if is_long else 3)
        if rest and known is not None:
            raise EncodingError("state fact: a value and another leaf")
        other = None
        if rest:
            other = (as_digest(rest[0], "other leaf's path"), as_digest(rest[1], "other leaf"))
        return cls(
            key=as_bytes(key, "state key", maximum=KEY_BYTES_MAX),
            value=None if known is None else as_bytes(known, "value", maximum=VALUE_BYTES_MAX),
            depth=as_uint(depth, "depth", maximum=DEPTH_MAX),
            other=other,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StateFacts:
    """Facts under one root, with the siblings that lead there; not yet verified."""

    facts: tuple[StateFact, ...]
    """1 to 32, ascending by path."""
    siblings: tuple[Digest, ...]
    """As a walk from the root meets them, left before right; empty subtrees included."""

    @classmethod
    def of(cls, proofs: Iterable[StateProof]) -> StateFacts:
        """Joins proofs under one root; of two for one key the first stays.

        Raises:
            LocalProtocolError: none, or more than 32 keys.
        """
        by_path: dict[bytes, tuple[StateFact, tuple[Digest, ...]]] = {}
        for proof in proofs:
            fact = StateFact(
                key=proof.key, value=proof.value, depth=len(proof.siblings), other=proof.other
            )
            by_path.setdefault(fact.path, (fact, proof.siblings[::-1]))
        if not 1 <= len(by_path) <= FACTS_MAX:
            raise LocalProtocolError(f"{len(by_path)} facts, expected 1 to {FACTS_MAX}")
        ordered = [by_path[path] for path in sorted(by_path)]
        return cls(
            facts=tuple(fact for fact, _ in ordered), siblings=tuple(_needed(ordered, depth=0))
        )

    def root(self) -> Digest:
        """Recomputes the root that the facts imply.

        Raises:
            VerificationError: facts and siblings do not fit each other.
        """
        remaining = iter(self.siblings)
        root = _fold(self.facts, 0, remaining)
        if next(remaining, None) is not None:
            raise VerificationError("state facts: siblings are left over")
        return root

    def verify(self, root: bytes) -> Mapping[bytes, bytes | None]:
        """Checks the facts against a trusted root; returns values by key (None: absent).

        Raises:
            VerificationError: they do not lead to `root`, or do not fit each other.
        """
        actual = self.root()
        if actual != root:
            raise VerificationError(
                f"state facts lead to {actual.hex()[:8]}, expected root {root.hex()[:8]}"
            )
        return {fact.key: fact.value for fact in self.facts}

    def to_value(self) -> Value:
        """The wire form: [facts, bitmap of empty siblings, all others one after the other]."""
        bitmap = bytearray((len(self.siblings) + 7) // 8)
        for index, sibling in enumerate(self.siblings):
            if sibling == EMPTY_HASH:
                bitmap[index >> 3] |= 0x80 >> (index & 7)
        spelled = b"".join(sibling for sibling in self.siblings if sibling != EMPTY_HASH)
        facts: list[Value] = [fact.to_value() for fact in self.facts]
        return [facts, len(self.siblings), bytes(bitmap), spelled]

    @classmethod
    def from_value(cls, value: Value) -> StateFacts:
        """Reads the wire form; raises EncodingError."""
        facts, count, bitmap, spelled = as_array(value, "state facts", size=4)
        if not isinstance(facts, (list, tuple)) or not 1 <= len(facts) <= FACTS_MAX:
            raise EncodingError(f"state facts: not a list of 1 to {FACTS_MAX}")
        read = tuple(StateFact.from_value(item) for item in facts)
        paths = [fact.path for fact in read]
        if any(first >= second for first, second in itertools.pairwise(paths)):
            raise EncodingError("state facts: not ascending by path")
        return cls(
            facts=read,
            siblings=_read_siblings(
                as_uint(count, "sibling count", maximum=SIBLINGS_MAX),
                as_bytes(bitmap, "bitmap of siblings", maximum=SIBLINGS_MAX // 8),
                as_bytes(spelled, "siblings", maximum=SIBLINGS_MAX * DIGEST_BYTES),
            ),
        )


def _needed(
    entries: Sequence[tuple[StateFact, tuple[Digest, ...]]], *, depth: int
) -> Iterator[Digest]:
    """The siblings below one node that no fact of the other side stands for."""
    if entries[0][0].depth == depth:
        return
    middle = _first_right([fact for fact, _ in entries], depth)
    sibling = entries[0][1][depth]
    if middle == 0:
        yield sibling
    else:
        yield from _needed(entries[:middle], depth=depth + 1)
    if middle == len(entries):
        yield sibling
    else:
        yield from _needed(entries[middle:], depth=depth + 1)


def _fold(facts: Sequence[StateFact], depth: int, siblings: Iterator[Digest]) -> Digest:
    """Hash of the node at `depth` that all these facts lie below (V14)."""
    if facts[0].depth == depth:
        terminals = {fact.terminal() for fact in facts if fact.depth == depth}
        if len(terminals) != 1 or any(fact.depth != depth for fact in facts):
            raise VerificationError("state facts contradict each other")
        return terminals.pop()
    middle = _first_right(facts, depth)
    left = _fold(facts[:middle], depth + 1, siblings) if middle else _next(siblings)
    is_last = middle == len(facts)
    right = _next(siblings) if is_last else _fold(facts[middle:], depth + 1, siblings)
    return inner_hash(left, right)


def _next(siblings: Iterator[Digest]) -> Digest:
    sibling = next(siblings, None)
    if sibling is None:
        raise VerificationError("state facts: a sibling is missing")
    return sibling


def _first_right(facts: Sequence[StateFact], depth: int) -> int:
    """Index of the first fact whose path turns right at `depth`; paths ascend."""
    if depth >= DEPTH_MAX:
        raise VerificationError(f"state facts deeper than {DEPTH_MAX} levels")
    return sum(1 for fact in facts if not path_bit(fact.path, depth))


def _read_siblings(count: int, bitmap: bytes, spelled: bytes) -> tuple[Digest, ...]:
    if len(bitmap) != (count + 7) // 8:
        raise EncodingError(f"state facts: bitmap of {len(bitmap)} bytes for {count} siblings")
    bits = int.from_bytes(bitmap, "big")
    if bits & ((1 << (8 * len(bitmap) - count)) - 1):
        raise EncodingError("state facts: bitmap has bits beyond the siblings")
    if len(spelled) != (count - bits.bit_count()) * DIGEST_BYTES:
        raise EncodingError("state facts: bitmap and siblings differ in number")
    parts = [
        Digest(spelled[start : start + DIGEST_BYTES])
        for start in range(0, len(spelled), DIGEST_BYTES)
    ]
    if EMPTY_HASH in parts:
        raise EncodingError("state facts: an empty sibling is spelled out")
    remaining = iter(parts)
    return tuple(
        EMPTY_HASH if bitmap[index >> 3] << (index & 7) & 0x80 else next(remaining)
        for index in range(count)
    )
