"""Writes the vectors of the relay's messages: `python -m tests.support.relay_vectors`."""

from __future__ import annotations

import json
from pathlib import Path

from protocol.digest import ManifestId, sha256
from protocol.relay_messages import (
    CHUNK_NUMBER_MAX,
    Complaint,
    Credit,
    News,
    Push,
    PushedChunk,
    PushFlag,
    Ready,
    RelayMessage,
    Role,
    Skip,
    encode_relay,
)

PATH = Path(__file__).parents[1] / "vectors" / "relay" / "messages.json"
MANIFEST = ManifestId(sha256(b"swarmd vector manifest"))

MESSAGES: dict[str, RelayMessage] = {
    "ready": Ready(
        manifest_id=MANIFEST,
        roles=((0, Role.RECEIVES), (1, Role.HOLDS), (15, Role.SEEDS), (79, Role.RESUMES)),
        is_leaf=True,
        site=b"depot",
    ),
    "ready-nothing": Ready(manifest_id=MANIFEST, roles=()),
    "push": Push(
        manifest_id=MANIFEST,
        object_number=3,
        flags=PushFlag.RELAYER,
        delegates=(),
        chunks=(PushedChunk(index=5, data=b"five"), PushedChunk(index=6, data=b"six")),
    ),
    "push-delegates": Push(
        manifest_id=MANIFEST,
        object_number=0,
        flags=PushFlag.SITE,
        delegates=(b"delegate", b"another."),
        chunks=(
            PushedChunk(
                index=262_143, data=bytes.fromhex("28b52ffd2020010000"), is_compressed=True
            ),
        ),
    ),
    "credit": Credit(manifest_id=MANIFEST, firsts=(0, 24, 256, CHUNK_NUMBER_MAX)),
    "skip": Skip(manifest_id=MANIFEST, runs=((0, 3), (4, 1), (70_000, 100_000))),
    "complaint": Complaint(manifest_id=MANIFEST, culprit=b"k" * 32),
    "news": News(manifest_id=MANIFEST, runs=((7, 1), (CHUNK_NUMBER_MAX, 1)), queued_bytes=2**40),
}


def render() -> str:
    """The file's text."""
    vectors = [
        {"name": name, "frame_body": b"".join(encode_relay(message)).hex()}
        for name, message in MESSAGES.items()
    ]
    return json.dumps({"manifest": MANIFEST.hex(), "messages": vectors}, indent=1) + "\n"


if __name__ == "__main__":
    PATH.write_text(render(), encoding="ascii")
