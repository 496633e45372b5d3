"""Writes the vectors of the exchange's messages: `python -m tests.support.exchange_vectors`."""

from __future__ import annotations

import json
from pathlib import Path

from protocol.bitfield import Bitfield, bits_of
from protocol.digest import ManifestId, sha256
from protocol.exchange_messages import (
    BitfieldMessage,
    Cancel,
    Chunks,
    ExchangeMessage,
    Have,
    Interest,
    NotInterested,
    RecipePageMessage,
    RecipeRequest,
    Reject,
    RejectReason,
    Request,
    Unknown,
    encode_exchange,
)
from protocol.runs import Runs

PATH = Path(__file__).parents[1] / "vectors" / "exchange" / "messages.json"
MANIFEST = ManifestId(sha256(b"swarmd vector manifest"))
LARGEST = 262_143

MESSAGES: dict[str, ExchangeMessage] = {
    "interest": Interest(manifest_id=MANIFEST, components=(0, 3, 15)),
    "not-interested": NotInterested(manifest_id=MANIFEST),
    "recipe-request": RecipeRequest(
        request_id=2**63 - 1, manifest_id=MANIFEST, component=15, page=255
    ),
    "recipe-page": RecipePageMessage(request_id=0, page=b"a page, opaque here"),
    "bitfield": BitfieldMessage(
        manifest_id=MANIFEST, component=0, bits=Bitfield(10, bits_of([0, 9])).encode()
    ),
    "have": Have(
        manifest_id=MANIFEST, component=1, indices=Runs.of((0, 23, 24, 255, 256, LARGEST))
    ),
    "request": Request(
        request_id=2**31 + 7, manifest_id=MANIFEST, component=2, indices=Runs.of((5, 6, 7, LARGEST))
    ),
    "chunks": Chunks.of(2**31 + 7, ((5, b"five"), (LARGEST, b"x"))),
    "chunks-packed": Chunks.of(
        2**31 + 7, ((5, b"five"), (6, bytes.fromhex("28b52ffd2020010000"))), frozenset((6,))
    ),
    "cancel": Cancel(request_id=2**31 + 7, indices=Runs.of((6,))),
    "reject-chunks": Reject(
        request_id=2**31 + 7, indices=Runs.of((6, 7)), reason=RejectReason.NOT_AVAILABLE
    ),
    "reject-page": Reject(request_id=0, indices=Runs.of(()), reason=RejectReason.UNKNOWN),
    "unknown": Unknown(manifest_id=MANIFEST),
}


def render() -> str:
    """The file's text."""
    vectors = [
        {"name": name, "frame_body": encode_exchange(message).hex()}
        for name, message in MESSAGES.items()
    ]
    return json.dumps({"manifest": MANIFEST.hex(), "messages": vectors}, indent=1) + "\n"


if __name__ == "__main__":
    PATH.write_text(render(), encoding="ascii")
