"""The vectors of sealed images: derivations, a chunk, digests, a ring file with a fixed wrap."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from chunks.sealing import SealingPass
from protocol.digest import ChainId, DidId, sha256
from protocol.keys import PrivateKey
from protocol.sealing import ContentKey, RingName, Sealing
from protocol.sealing_ring import (
    RingFile,
    RingMember,
    SealingKeyStatement,
    sign_ring,
    sign_statement,
    wrap_info,
)
from swarmd.keys.sealing_key import SealingKey

PATH = Path(__file__).parents[1] / "vectors" / "sealing" / "sealing.json"
NAME = RingName(
    chain=ChainId(sha256(b"chain")),
    publisher=DidId(sha256(b"publisher")),
    group="fleet",
    generation=2,
)
KEY = ContentKey(bytes(range(32)), NAME)
MEMBER_KEY = SealingKey(bytes(range(32, 64)))
MEMBER = DidId(sha256(b"member"))
WRAP = bytes.fromhex(
    "442c5fc0be198617483d091eaa32fa0538b72e0fab23beae8ff7cd2bab29cc228f62085ff9c1601f"
    "a1ba16e7488006aabf0d2ff98d406eba567a29baeaa6035c96337053f611fd0e3f65bad5e6e48481"
)
"""Made once by the library, which draws a new ephemeral key each time."""
SEALING = Sealing(ring=KEY.ring(), generation=2, nonce=bytes(range(16)))
CHUNKS = (b"a first chunk of over a block", b"another", b"a first chunk of over a block")
SIGNER = PrivateKey(sha256(b"swarmd vector key: sealing"))


def vectors() -> dict[str, Any]:
    """Everything as JSON."""
    sealing = SealingPass(KEY, SEALING)
    sealed = [sealing.seal(memoryview(chunk)) for chunk in CHUNKS]
    statement = SealingKeyStatement(era=0, did=MEMBER, key=MEMBER_KEY.public)
    ring = RingFile(
        era=0,
        publisher=NAME.publisher,
        group=NAME.group,
        generation=NAME.generation,
        version=3,
        check=KEY.check(),
        members=(RingMember(did=MEMBER, key=MEMBER_KEY.public, wrap=WRAP),),
    )
    return {
        "chain": NAME.chain.hex(),
        "publisher": NAME.publisher.hex(),
        "group": NAME.group,
        "generation": NAME.generation,
        "content_key": KEY.secret().hex(),
        "check": KEY.check().hex(),
        "ring": KEY.ring().hex(),
        "chunk_key": KEY.chunk_key().hex(),
        "nonce": SEALING.nonce.hex(),
        "salt": KEY.salt(SEALING).hex(),
        "plain_chunks": [chunk.hex() for chunk in CHUNKS],
        "sealed_chunks": [chunk.hex() for chunk in sealed],
        "plain_digest": sealing.plain_digest().hex(),
        "member": MEMBER.hex(),
        "member_secret": bytes(range(32, 64)).hex(),
        "member_key": MEMBER_KEY.public.hex(),
        "wrap_info": wrap_info(NAME, KEY.ring(), MEMBER, MEMBER_KEY.public).hex(),
        "wrap": WRAP.hex(),
        "signer": SIGNER.public.raw.hex(),
        "ring_file": sign_ring(ring, SIGNER, NAME.chain).signed.raw.hex(),
        "statement": sign_statement(statement, SIGNER, NAME.chain).signed.raw.hex(),
    }


def render() -> str:
    """The file's text."""
    return json.dumps(vectors(), indent=1) + "\n"


if __name__ == "__main__":
    PATH.write_text(render(), encoding="ascii")
