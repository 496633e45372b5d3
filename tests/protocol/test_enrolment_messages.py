"""What a member answers a newcomer: bounds, and that a refusal and only a refusal has a rule."""

from __future__ import annotations

import pytest

from protocol.encoding import encode_canonical
from protocol.enrolment_messages import (
    ENROL_ANSWER_BYTES_MAX,
    EnrolAnswer,
    EnrolStatus,
    decode_enrol_answer,
)
from protocol.errors import EncodingError


@pytest.mark.parametrize("status", EnrolStatus)
def test_answers_come_back(status: EnrolStatus) -> None:
    rule = "seat.taken" if status is EnrolStatus.REFUSED else ""
    answer = EnrolAnswer(status=status, rule=rule)
    assert decode_enrol_answer(answer.encode()) == answer
    assert len(answer.encode()) < ENROL_ANSWER_BYTES_MAX


@pytest.mark.parametrize("status", EnrolStatus)
def test_a_refusal_and_nothing_else_names_a_rule(status: EnrolStatus) -> None:
    rule = "" if status is EnrolStatus.REFUSED else "seat.taken"
    with pytest.raises(EncodingError):
        EnrolAnswer(status=status, rule=rule)
    with pytest.raises(EncodingError):
        decode_enrol_answer(encode_canonical({0: 1, 1: int(status), 2: rule}))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xa0",
        encode_canonical({0: 2, 1: 1, 2: ""}),
        encode_canonical({0: 1, 1: 6, 2: ""}),
        encode_canonical({0: 1, 1: 4, 2: "x" * 65}),
        encode_canonical({0: 1, 1: 4, 2: "two words"}),
        encode_canonical({0: 1, 1: 4, 2: "line\n"}),
        encode_canonical({0: 1, 1: 1, 2: "", 3: 0}),
        encode_canonical({0: 1, 1: 1, 2: "", -1: bytes(300)}),
    ],
)
def test_malformed_answers_are_refused(raw: bytes) -> None:
    with pytest.raises(EncodingError):
        decode_enrol_answer(raw)
