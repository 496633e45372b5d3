"""The control protocol: how the command line and other local tools speak to a running daemon.

Newline-delimited JSON over a Unix socket. One request at a time on a connection:

    {"swarmd": 1, "method": "status", "params": {}}

Answer lines: any number of `{"progress": {...}}` (an empty one only says "still at work"), then
exactly one of `{"result": ...}` and `{"error": {"code", "rule", "message"}}`. A client that hangs
up cancels its request. This module is pure: it encodes, decodes and bounds lines.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NoReturn, assert_never

from protocol.errors import (
    ConfigError,
    NotYetError,
    PolicyError,
    RemoteProtocolError,
    SwarmError,
)
from protocol.limits import MIB

CONTROL_VERSION: Final = 1
"""Raised when a request of the old version would be misunderstood."""
LINE_BYTES_MAX: Final = 1 * MIB
"""One request line, newline included; the longest, a publication's, takes about 40 KiB."""
ANSWER_BYTES_MAX: Final = 2 * MIB
"""One answer line, newline included: the largest proof in hex fits, or 8,000 images."""
METHOD_CHARACTERS_MAX: Final = 64
"""Longest method name."""
MESSAGE_CHARACTERS_MAX: Final = 2000
"""Longest error message; longer ones are cut."""
HEARTBEAT_S: Final = 5.0
"""A daemon at work on a request says so this often, seconds."""

JSON = str | int | float | bool | None | Sequence["JSON"] | Mapping[str, "JSON"]
"""What JSON can carry."""


class ErrorCode(StrEnum):
    """How a request failed, as far as the caller's next step is concerned."""

    REFUSED = "refused"
    """Not allowed, or failed: doing the same again will not help."""
    USAGE = "usage"
    """The request is malformed: mend the command line."""
    NOT_YET = "not_yet"
    """Waiting would help."""
    INTERNAL = "internal"
    """A defect of the daemon; its log has the traceback."""


class ControlError(SwarmError):
    """A daemon's error answer.

    Attributes:
        code: what the caller should do next.
        rule: stable name of the rule that refused, or empty.
    """

    def __init__(self, code: ErrorCode, message: str, *, rule: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.rule = rule


@dataclass(frozen=True, slots=True)
class Request:
    """A request."""

    method: str
    """Name of the method."""
    params: Mapping[str, object]
    """Its parameters by name."""


@dataclass(frozen=True, slots=True)
class Progress:
    """News of a request that is being worked on."""

    fields: Mapping[str, object]
    """Empty for a heartbeat."""


@dataclass(frozen=True, slots=True)
class Result:
    """The end of a request that succeeded."""

    value: JSON
    """What the method returns."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The end of a request that failed."""

    code: ErrorCode
    """What the caller should do next."""
    rule: str
    """Stable name of the rule that refused, or empty."""
    message: str
    """One line for people."""

    def to_error(self) -> ControlError:
        """The error that a client raises."""
        return ControlError(self.code, self.message, rule=self.rule)


Answer = Progress | Result | Failure
"""One answer line."""


def one_line(text: str) -> str:
    """Makes a message one bounded line without control characters."""
    cut = text[: 4 * MESSAGE_CHARACTERS_MAX]
    flat = "".join(char if char.isprintable() else " " for char in cut)
    return " ".join(flat.split())[:MESSAGE_CHARACTERS_MAX]


def failure_of(error: SwarmError) -> Failure:
    """How an error of ours is told to a client."""
    rule = error.rule if isinstance(error, (PolicyError, ControlError)) else ""
    match error:
        case ControlError():
            code = error.code
        case NotYetError():
            code = ErrorCode.NOT_YET
        case ConfigError():
            code = ErrorCode.USAGE
        case _:
            code = ErrorCode.REFUSED
    return Failure(code, rule, one_line(str(error)) or type(error).__name__)


def _encode_line(value: JSON) -> bytes:
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.encode("ascii") + b"\n"


def encode_request(request: Request) -> bytes:
    """Writes a request line.

    Raises:
        ConfigError: it exceeds the line bound.
    """
    params: dict[str, JSON] = dict(request.params)  # type: ignore[arg-type]  # checked by json
    line = _encode_line({"swarmd": CONTROL_VERSION, "method": request.method, "params": params})
    if len(line) > LINE_BYTES_MAX:
        raise ConfigError(f"request of {len(line)} bytes, at most {LINE_BYTES_MAX} allowed")
    return line


def encode_answer(answer: Answer) -> bytes:
    """Writes an answer line.

    An answer over the line bound, or one that is not JSON, becomes an `internal` failure: the
    client always gets its one ending line.
    """
    body: dict[str, JSON]
    match answer:
        case Progress(fields):
            body = {"progress": dict(fields)}  # type: ignore[arg-type]  # checked by json
        case Result(value):
            body = {"result": value}
        case Failure(code, rule, message):
            body = {"error": {"code": code.value, "rule": rule, "message": message}}
        case _:
            assert_never(answer)
    try:
        line = _encode_line(body)
    except (TypeError, ValueError, RecursionError) as error:
        return encode_answer(
            Failure(ErrorCode.INTERNAL, "", one_line(f"answer is not JSON: {error}"))
        )
    if len(line) > ANSWER_BYTES_MAX:
        return encode_answer(
            Failure(ErrorCode.INTERNAL, "", f"answer of {len(line)} bytes is over the line bound")
        )
    return line


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _unique_pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key appears twice")
    return fields


def _decode_line(line: bytes) -> dict[str, object]:
    try:
        value = json.loads(
            line.decode("utf-8"),
            parse_constant=_refuse_constant,
            object_pairs_hook=_unique_pairs,
        )
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError(one_line(f"not a JSON line: {error}")[:200]) from None
    if not isinstance(value, dict):
        raise RemoteProtocolError("expected a JSON object")
    return value


def decode_request(line: bytes) -> Request:
    """Reads a request line.

    Raises:
        RemoteProtocolError: not JSON, another version, or fields missing, unknown or of wrong type.
    """
    fields = _decode_line(line)
    if fields.get("swarmd") != CONTROL_VERSION or isinstance(fields["swarmd"], bool):
        raise RemoteProtocolError(
            f'control protocol version: expected "swarmd": {CONTROL_VERSION} in the request'
        )
    method, params = fields.get("method"), fields.get("params", {})
    if not isinstance(method, str) or not 0 < len(method) <= METHOD_CHARACTERS_MAX:
        raise RemoteProtocolError('"method" is not a short text')
    if not isinstance(params, dict):
        raise RemoteProtocolError('"params" is not an object')
    if unknown := sorted(set(fields) - {"swarmd", "method", "params"}):
        raise RemoteProtocolError(f"unknown field {unknown[0][:64]!r} in the request")
    return Request(method, params)


def decode_answer(line: bytes) -> Answer:
    """Reads an answer line.

    Raises:
        RemoteProtocolError: not JSON, or none of the three forms.
    """
    fields = _decode_line(line)
    match fields:
        case {"progress": dict(progress), **rest} if not rest:
            return Progress(progress)
        case {"result": result, **rest} if not rest:
            return Result(result)  # type: ignore[arg-type]  # json.loads made it
        case {"error": {"code": str(code), "rule": str(rule), "message": str(message)}}:
            if code in list(ErrorCode):
                return Failure(ErrorCode(code), one_line(rule), one_line(message))
    raise RemoteProtocolError("answer is neither progress, result nor error")
