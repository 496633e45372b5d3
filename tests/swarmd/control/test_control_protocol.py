"""Lines of the control protocol and the reading of parameters, without a socket."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import (
    ConfigError,
    NotYetError,
    PolicyError,
    RemoteProtocolError,
    StorageError,
    SwarmError,
    VerificationError,
)
from swarmd.control.params import PATH_CHARACTERS_MAX, Params
from swarmd.control.protocol import (
    ANSWER_BYTES_MAX,
    LINE_BYTES_MAX,
    MESSAGE_CHARACTERS_MAX,
    Answer,
    ControlError,
    ErrorCode,
    Failure,
    Progress,
    Request,
    Result,
    decode_answer,
    decode_request,
    encode_answer,
    encode_request,
    failure_of,
    one_line,
)

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
FAILURES = st.builds(
    Failure, st.sampled_from(ErrorCode), st.text().map(one_line), st.text().map(one_line)
)
ANSWERS = (
    st.builds(Progress, st.dictionaries(st.text(), JSON_VALUES, max_size=4))
    | st.builds(Result, JSON_VALUES)
    | FAILURES
)


@pytest.mark.slow
@given(st.text(min_size=1, max_size=64), st.dictionaries(st.text(), JSON_VALUES, max_size=4))
def test_requests_round_trip_as_one_line(method: str, params: dict[str, Any]) -> None:
    line = encode_request(Request(method, params))
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode_request(line) == Request(method, params)


@pytest.mark.slow
@given(ANSWERS)
def test_answers_round_trip_as_one_line(answer: Answer) -> None:
    line = encode_answer(answer)
    assert line.count(b"\n") == 1
    assert line.isascii()
    assert decode_answer(line) == answer


@pytest.mark.slow
@given(st.binary(max_size=200) | JSON_VALUES.map(lambda value: json.dumps(value).encode()))
def test_whatever_arrives_is_read_or_refused(line: bytes) -> None:
    for decode in (decode_request, decode_answer):
        with contextlib.suppress(RemoteProtocolError):
            decode(line)


def test_a_request_over_the_bound_is_the_callers_mistake() -> None:
    with pytest.raises(ConfigError, match=f"at most {LINE_BYTES_MAX}"):
        encode_request(Request("echo", {"x": "y" * LINE_BYTES_MAX}))


@pytest.mark.parametrize("value", [{"x": b"raw"}, float("nan"), object(), "x" * ANSWER_BYTES_MAX])
def test_an_answer_that_cannot_be_sent_ends_the_request_as_internal(value: Any) -> None:
    answer = decode_answer(encode_answer(Result(value)))
    assert isinstance(answer, Failure)
    assert answer.code is ErrorCode.INTERNAL


def test_a_circle_in_an_answer_ends_the_request_as_internal() -> None:
    circle: dict[str, Any] = {}
    circle["self"] = circle
    answer = decode_answer(encode_answer(Result(circle)))
    assert isinstance(answer, Failure)


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b'{"progress": 7}',
        b'{"progress": {}, "more": 1}',
        b'{"result": 1, "error": 2}',
        b'{"error": "text"}',
        b'{"error": {"code": "odd", "rule": "", "message": ""}}',
        b'{"error": {"code": "refused", "message": ""}}',
        b'{"result": Infinity}',
    ],
)
def test_answers_of_another_form_are_refused(line: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_answer(line)


@pytest.mark.parametrize(
    ("error", "code", "rule"),
    [
        (PolicyError("a.rule", "m"), ErrorCode.REFUSED, "a.rule"),
        (NotYetError("a.rule", "m"), ErrorCode.NOT_YET, "a.rule"),
        (ConfigError("m"), ErrorCode.USAGE, ""),
        (StorageError("m"), ErrorCode.REFUSED, ""),
        (VerificationError("m"), ErrorCode.REFUSED, ""),
        (ControlError(ErrorCode.NOT_YET, "m", rule="r"), ErrorCode.NOT_YET, "r"),
    ],
)
def test_each_error_says_what_to_do_next(error: SwarmError, code: ErrorCode, rule: str) -> None:
    failure = failure_of(error)
    assert (failure.code, failure.rule) == (code, rule)
    raised = failure.to_error()
    assert (raised.code, raised.rule, str(raised)) == (code, rule, failure.message)


def test_an_error_without_words_is_named() -> None:
    assert failure_of(StorageError()).message == "StorageError"


def test_messages_are_one_bounded_line() -> None:
    assert one_line("a\r\n\tb \x1b[31m\u202ec") == "a b [31m c"
    assert len(one_line("x" * 10**6)) == MESSAGE_CHARACTERS_MAX


def test_all_parameters_are_read_by_type() -> None:
    params = Params(
        {
            "text": "a",
            "path": "/a b",
            "uint": 7,
            "seconds": 1,
            "flag": True,
            "hex": "00ff",
            "hexes": ["aa", "bbcc"],
            "texts": ["x", "y"],
            "map": {"k": ""},
            "choice": "b",
            "null": None,
        }
    )
    assert params.text("text") == "a"
    assert params.path("path") == "/a b"
    assert params.uint("uint", minimum=7, maximum=7) == 7
    assert params.seconds("seconds", maximum=1) == 1.0
    assert params.boolean("flag") is True
    assert params.hex_bytes("hex", size=2) == b"\x00\xff"
    assert params.hex_list("hexes", items_max=2, bytes_max=2) == (b"\xaa", b"\xbb\xcc")
    assert params.texts("texts", items_max=2) == ("x", "y")
    assert params.text_map("map", items_max=1) == {"k": ""}
    assert params.choice("choice", ("a", "b")) == "b"
    assert not params.has("null")
    assert not params.has("absent")
    assert params.has("text")
    params.finish()


Read = Callable[[Params], object]


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (7, lambda p: p.text("x")),
        ("", lambda p: p.text("x")),
        ("a\nb", lambda p: p.text("x")),
        ("\u202e", lambda p: p.text("x")),
        ("\ud800", lambda p: p.text("x")),
        ("ab", lambda p: p.text("x", maximum=1)),
        ("c", lambda p: p.choice("x", ("a", "b"))),
        (["a"], lambda p: p.choice("x", ("a", "b"))),
        ("relative", lambda p: p.path("x")),
        ("/nul\0", lambda p: p.path("x")),
        ("/" * (PATH_CHARACTERS_MAX + 1), lambda p: p.path("x")),
        (None, lambda p: p.path("x")),
        (True, lambda p: p.uint("x")),
        (1.0, lambda p: p.uint("x")),
        (-1, lambda p: p.uint("x")),
        (2**63, lambda p: p.uint("x")),
        (5, lambda p: p.uint("x", maximum=4)),
        ("1", lambda p: p.seconds("x", maximum=9)),
        (False, lambda p: p.seconds("x", maximum=9)),
        (-0.1, lambda p: p.seconds("x", maximum=9)),
        (9.1, lambda p: p.seconds("x", maximum=9)),
        (1, lambda p: p.boolean("x")),
        ("0", lambda p: p.hex_bytes("x", size=1)),
        ("AB", lambda p: p.hex_bytes("x", size=1)),
        ("zz", lambda p: p.hex_bytes("x", size=1)),
        ("a b ", lambda p: p.hex_bytes("x", size=2)),
        ("aabb", lambda p: p.hex_bytes("x", size=1)),
        (7, lambda p: p.hex_bytes("x", size=1)),
        ([], lambda p: p.hex_list("x", items_max=2, bytes_max=2)),
        (["aa"] * 3, lambda p: p.hex_list("x", items_max=2, bytes_max=2)),
        (["aabbcc"], lambda p: p.hex_list("x", items_max=2, bytes_max=2)),
        ([""], lambda p: p.hex_list("x", items_max=2, bytes_max=2)),
        ("aa", lambda p: p.hex_list("x", items_max=2, bytes_max=2)),
        ([7], lambda p: p.texts("x", items_max=2)),
        ([""], lambda p: p.texts("x", items_max=2)),
        (["a"] * 3, lambda p: p.texts("x", items_max=2)),
        ([], lambda p: p.text_map("x", items_max=1)),
        ({"a": "", "b": ""}, lambda p: p.text_map("x", items_max=1)),
        ({"a": 1}, lambda p: p.text_map("x", items_max=1)),
        ({"": "a"}, lambda p: p.text_map("x", items_max=1)),
    ],
)
def test_a_wrong_parameter_is_named(value: object, read: Read) -> None:
    with pytest.raises(ConfigError, match="parameter 'x'"):
        read(Params({"x": value}))


def test_a_missing_and_an_unknown_parameter_are_named() -> None:
    with pytest.raises(ConfigError, match="'x' is missing"):
        Params({}).uint("x")
    params = Params({"x": 1, "surplus": 2})
    params.uint("x")
    with pytest.raises(ConfigError, match="unknown parameter 'surplus'"):
        params.finish()
