"""The hello exchange: bounds, and what an answer may reveal."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from protocol.digest import DidId, sha256
from protocol.encoding import INTEGER_MAX, encode_canonical
from protocol.errors import EncodingError
from protocol.governance import Checkpoint
from protocol.hello import (
    EPOCH_STEP_BYTES_MAX,
    EPOCH_STEPS_MAX,
    MEMBERSHIP_BYTES_MAX,
    Hello,
    HelloAnswer,
    HelloStatus,
    decode_hello,
    decode_hello_answer,
    leading_epoch_steps,
)
from protocol.limits import HELLO_BYTES_MAX

HELLO = Hello(
    era=0, epoch=3, height=40, did=DidId(sha256(b"did")), membership=bytes(MEMBERSHIP_BYTES_MAX)
)
LARGEST = dataclasses.replace(HELLO, era=INTEGER_MAX, epoch=INTEGER_MAX, height=INTEGER_MAX)
CHECKPOINT = Checkpoint(
    header=bytes(600), validators=bytes(80 + 75 * 32), approvals=(bytes(320),) * 32
)
"""As large as 32 validators and 32 governance keys make one."""
SHOWING = (HelloStatus.WELCOME, HelloStatus.READER)


@pytest.mark.parametrize("status", HelloStatus)
def test_membership_is_shown_to_members_and_only_to_them(status: HelloStatus) -> None:
    shown = HELLO if status in SHOWING else None
    hidden = None if status in SHOWING else HELLO
    answer = HelloAnswer(status=status, epoch_steps=(), hello=shown)
    assert decode_hello_answer(answer.encode()) == answer
    with pytest.raises(EncodingError, match="only to them"):
        HelloAnswer(status=status, epoch_steps=(), hello=hidden)
    forged: Any = {0: 1, 1: int(status), 2: [], 3: hidden.encode() if hidden else None, 4: None}
    with pytest.raises(EncodingError, match="only to them"):
        decode_hello_answer(encode_canonical(forged))


@pytest.mark.parametrize("status", [0, 5, 2**40, -1])
def test_unknown_statuses_are_refused(status: int) -> None:
    with pytest.raises(EncodingError):
        decode_hello_answer(encode_canonical({0: 1, 1: status, 2: [], 3: None, 4: None}))


def test_a_proof_beyond_its_bound_is_refused() -> None:
    long = dataclasses.replace(HELLO, membership=bytes(MEMBERSHIP_BYTES_MAX + 1))
    with pytest.raises(EncodingError):
        decode_hello(long.encode())


@pytest.mark.parametrize("validators", [4, 7, 16, 32])
def test_what_is_taken_from_the_front_always_fits(validators: int) -> None:
    votes = validators - (validators - 1) // 3
    steps = tuple(bytes(420 + 80 + 64 * votes + 73 * validators) for _ in range(200))
    taken = leading_epoch_steps(steps)
    assert taken == steps[: len(taken)]
    assert len(taken) >= {4: 40, 7: 30, 16: 17, 32: 9}[validators]
    answer = HelloAnswer(
        status=HelloStatus.WELCOME, epoch_steps=taken, hello=LARGEST, checkpoint=CHECKPOINT
    )
    assert len(answer.encode()) <= HELLO_BYTES_MAX
    assert decode_hello_answer(answer.encode()) == answer
    with pytest.raises(EncodingError, match="too many or too long"):
        HelloAnswer(status=HelloStatus.REFUSED, epoch_steps=steps[: len(taken) + 1], hello=None)


def test_no_more_than_the_bound_of_epoch_steps() -> None:
    assert len(leading_epoch_steps([b"step"] * 100)) == EPOCH_STEPS_MAX
    assert leading_epoch_steps([]) == ()
    assert leading_epoch_steps([b"step", bytes(EPOCH_STEP_BYTES_MAX + 1), b"step"]) == (b"step",)


@pytest.mark.parametrize("step", ["text", 7, None, [b"step"], bytes(EPOCH_STEP_BYTES_MAX + 1)])
def test_malformed_epoch_steps_are_refused(step: Any) -> None:
    with pytest.raises(EncodingError):
        decode_hello_answer(encode_canonical({0: 1, 1: 3, 2: [step], 3: None, 4: None}))


def test_checkpoints_travel_with_every_answer() -> None:
    answer = HelloAnswer(
        status=HelloStatus.REFUSED, epoch_steps=(), hello=None, checkpoint=CHECKPOINT
    )
    assert decode_hello_answer(answer.encode()) == answer
    for broken in (b"", b"\x80", CHECKPOINT.encode()[:-1], bytes(20_000)):
        with pytest.raises(EncodingError):
            decode_hello_answer(encode_canonical({0: 1, 1: 3, 2: [], 3: None, 4: broken}))
