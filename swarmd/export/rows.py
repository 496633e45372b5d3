"""Final blocks as plain rows: one for each block, transaction and piece of evidence.

The schema is one for all formats (docs/spec/proofs.md, V60 to V66). Byte strings are lower-case
hex, times milliseconds since 1970. Bodies keep the numbers of their fields as text, so that every
kind of transaction, later ones included, is exported in full.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ledger.block import Block
from ledger.vote import Evidence
from protocol.cose import parse_signed
from protocol.digest import DidId, ManifestId, sha256
from protocol.encoding import Value, decode_canonical
from protocol.errors import VerificationError
from protocol.limits import MANIFEST_BYTES_MAX
from protocol.manifest import parse_manifest
from protocol.transaction import SignedTransaction, parse_transaction
from swarmd.control.protocol import JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of an export."""

    type: str
    """`block`, `transaction` or `evidence`."""
    height: int
    """Height of the block."""
    time_ms: int
    """Header time of the block, milliseconds since 1970."""
    id: str
    """Hex: block id, transaction id, or SHA-256 of the evidence."""
    kind: str
    """Kind of transaction, `block`, or the votes that contradict each other."""
    signer: str
    """Hex DID of who signed a transaction; empty for others."""
    details: Mapping[str, JSON] = field(hash=False)
    """The decoded content."""
    named: frozenset[bytes] = field(repr=False)
    """Byte strings of 32 that it mentions, for picking; not exported."""

    def to_json(self) -> dict[str, JSON]:
        """The row as a JSON object."""
        return {
            "type": self.type,
            "height": self.height,
            "time_ms": self.time_ms,
            "id": self.id,
            "kind": self.kind,
            "signer": self.signer,
            "details": dict(self.details),
        }


def rows_of(block: Block) -> Iterator[Row]:
    """The rows of one block: itself, its transactions, its evidence."""
    header = block.header
    yield Row(
        type="block",
        height=header.height,
        time_ms=header.time_ms,
        id=header.block_id.hex(),
        kind="block",
        signer="",
        details={
            "era": header.era,
            "epoch": header.epoch,
            "view": header.view,
            "proposer": header.proposer,
            "parent": header.parent.hex(),
            "log_size": header.log_size,
            "log_root": header.log_root.hex(),
            "state_root": header.state_root.hex(),
            "transactions": len(block.transactions),
            "evidence": len(block.evidence),
            "skipped_views": [skip.view for skip in block.skips],
        },
        named=frozenset(),
    )
    for raw in block.transactions:
        yield _transaction_row(block, parse_transaction(raw))
    for item in block.evidence:
        yield _evidence_row(block, item)


def _transaction_row(block: Block, signed: SignedTransaction) -> Row:
    content = signed.transaction
    details: dict[str, JSON] = {
        "nonce": content.nonce,
        "era": content.era,
        "valid_until_ms": content.valid_until_ms,
        "body": plain(content.body),
    }
    named = set(_digests(content.body)) | {bytes(content.signer)}
    for raw in _long_strings(content.body):
        manifest = _manifest_of(raw)
        if manifest is not None:
            details["manifest"] = manifest
            named.add(sha256(raw))
    return Row(
        type="transaction",
        height=block.header.height,
        time_ms=block.header.time_ms,
        id=signed.transaction_id.hex(),
        kind=content.kind,
        signer=content.signer.hex(),
        details=details,
        named=frozenset(named | _approval_subjects(content.body)),
    )


def _evidence_row(block: Block, item: Evidence) -> Row:
    first, second = item.first, item.second
    return Row(
        type="evidence",
        height=block.header.height,
        time_ms=block.header.time_ms,
        id=sha256(item.encode()).hex(),
        kind=f"{first.kind.name.lower()}+{second.kind.name.lower()}",
        signer="",
        details={"epoch": item.epoch, "validator": item.signer, "view": first.view},
        named=frozenset(),
    )


def _manifest_of(raw: bytes) -> dict[str, JSON] | None:
    """What a proposed manifest says; None: these bytes are no manifest."""
    try:
        content = parse_manifest(raw).manifest
    except VerificationError:
        return None
    return {
        "id": sha256(raw).hex(),
        "product": content.product,
        "version": content.version,
        "sequence": content.sequence,
        "groups": list(content.groups),
        "size": content.size,
    }


def _approval_subjects(value: Value) -> set[bytes]:
    """What signed statements inside a body are about."""
    found: set[bytes] = set()
    for raw in _long_strings(value):
        try:
            payload = decode_canonical(
                parse_signed(raw, bytes_max=MANIFEST_BYTES_MAX).payload,
                bytes_max=MANIFEST_BYTES_MAX,
            )
        except VerificationError:
            continue
        found.update(_digests(payload))
    return found


def plain(value: Value) -> JSON:
    """A value of ours as JSON: bytes in hex, keys as text."""
    if isinstance(value, bytes):
        return value.hex()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value]


def _leaves(value: Value) -> Iterator[bytes]:
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)


def _digests(value: Value) -> Iterator[bytes]:
    return (raw for raw in _leaves(value) if len(raw) == 32)


def _long_strings(value: Value) -> Iterator[bytes]:
    return (raw for raw in _leaves(value) if len(raw) > 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which rows are wanted; everything, unless told."""

    subject: DidId | None = None
    """Only what this subject signed or what is about it."""
    manifest: ManifestId | None = None
    """Only what is about this manifest."""

    def pick(self, blocks: Iterable[Block]) -> Iterator[Row]:
        """The rows wanted of some blocks, in their order."""
        for block in blocks:
            for row in rows_of(block):
                if all(key in row.named for key in (self.subject, self.manifest) if key):
                    yield row
