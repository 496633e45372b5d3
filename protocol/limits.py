"""Every bound of the protocol, with its unit and the reason for its value.

These are not configuration: two nodes with different values would disagree about what is valid.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

ENCODING_DEPTH_MAX: Final = 12
"""Nesting levels of any decoded value; the deepest message (proof file) needs 7."""
ENCODING_ITEMS_MAX: Final = 4096
"""Data items of any decoded value unless its reader says otherwise: a block with 1,024 skip proofs
and 512 transactions has 3,600. The worst input within it costs 10 ms."""

MANIFEST_BYTES_MAX: Final = 16 * KIB
"""Signed manifest, bytes (design: manifests stay small enough for one transaction)."""
COMPONENTS_MAX: Final = 16
"""Components of one manifest."""
PATCHES_PER_COMPONENT_MAX: Final = 4
"""Patch objects of one component: for the releases that most of a fleet runs. A reference has 130
bytes, so that 16 components with four each take half of a manifest."""
OBJECTS_MAX: Final = COMPONENTS_MAX * (1 + PATCHES_PER_COMPONENT_MAX)
"""Components and patches of one manifest."""
TARGET_GROUPS_MAX: Final = 16
"""Device groups one manifest may target."""
DEPENDENCIES_MAX: Final = 16
"""Dependencies, and likewise stepping stones, of one manifest."""
METADATA_ENTRIES_MAX: Final = 32
"""Free text entries of one manifest."""
NAME_BYTES_MAX: Final = 64
"""UTF-8 bytes of a name (group, product, component)."""
TEXT_BYTES_MAX: Final = 512
"""UTF-8 bytes of a free text."""

CHUNK_BYTES_MAX: Final = 1 * MIB
"""Largest chunk: 64 KiB average FastCDC cuts at 4x, fixed chunkers may go to 1 MiB."""
CHUNKS_PER_COMPONENT_MAX: Final = 2**18
"""Chunks of one component; with 64 KiB chunks this is 16 GiB."""
IMAGE_BYTES_MAX: Final = 16 * GIB
"""Bytes of one component as stored, and of all components of a manifest together."""
RECIPE_PAGE_LEAVES: Final = 1024
"""Recipe leaves per page: 36 KiB of lengths and digests, one frame."""
REQUEST_INDICES_MAX: Final = 256
"""Chunk indices in one request."""

TRANSACTION_BYTES_MAX: Final = 20 * KIB
"""Signed transaction: a full manifest plus its envelope."""
BLOCK_BYTES_MAX: Final = 256 * KIB
"""Encoded block."""
BLOCK_TRANSACTIONS_MAX: Final = 512
"""Transactions in one block."""
BLOCK_EVIDENCE_MAX: Final = 4
"""Evidence entries in one block."""
BLOCK_SKIPS_MAX: Final = 1024
"""Skipped views a block may bridge since its parent."""
TRANSACTION_LIFETIME_MS_MAX: Final = 24 * 3600 * 1000
"""Farthest `valid_until` after header time, milliseconds."""
NONCE_WINDOW: Final = 16
"""Nonces per signer that may be used out of order."""
VALIDATORS_MIN: Final = 4
"""Fewer validators tolerate no fault at all."""
VALIDATORS_MAX: Final = 32
"""Certificates are vote lists: 32 keep one below 2.2 KiB."""
BLOCK_INTERVAL_MS_MIN: Final = 250
"""Least header time between two blocks, milliseconds."""
HEARTBEAT_INTERVAL_MS: Final = 600_000
"""An idle chain finalizes an empty block this often, milliseconds."""

STATE_SNAPSHOT_INTERVAL: Final = 2048
"""Heights between two versions of the state that peers keep for those who fetch it as a whole."""
STATE_SNAPSHOTS_KEPT: Final = 2
"""Such versions a node keeps: whoever begins with the newest has as long as the next one takes."""

FRAME_BYTES_MAX: Final = 2 * MIB
"""Largest framed message of any protocol; each protocol sets its own lower bound."""
HELLO_BYTES_MAX: Final = 64 * KIB
"""All that a stranger may send or receive."""
HELLO_SECONDS_MAX: Final = 10
"""How long a stranger may take to become a member, seconds."""
GOSSIP_BYTES_MAX: Final = 24 * KIB
"""Gossip message: one transaction with its author's envelope."""
