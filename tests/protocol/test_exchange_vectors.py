from __future__ import annotations

import json

from protocol.exchange_messages import MessageKind, decode_exchange, encode_exchange
from tests.support.exchange_vectors import MESSAGES, PATH, render


def test_the_vectors_are_what_the_code_writes() -> None:
    assert PATH.read_text(encoding="ascii") == render()


def test_every_vector_decodes_to_the_message_it_stands_for() -> None:
    vectors = {v["name"]: bytes.fromhex(v["frame_body"]) for v in json.loads(render())["messages"]}
    assert list(vectors) == list(MESSAGES)
    for name, body in vectors.items():
        assert encode_exchange(decode_exchange(body)) == body, name
    assert {body[0] for body in vectors.values()} == {int(kind) for kind in MessageKind}
