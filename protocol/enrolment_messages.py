"""What a member answers a newcomer that hands it an enrolment request.

The request itself is opaque here; it is a newcomer's record, tokens and proof, and holds nothing
secret. The answer tells a stranger its own fate and nothing else: no height, no name, no group.
Rules: docs/spec/identity.md, I70 to I79.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from protocol.encoding import Fields, check_identifier, decode_canonical, encode_canonical
from protocol.errors import EncodingError

ENROL_ANSWER_BYTES_MAX: Final = 256
"""Status and a rule."""
ENROL_RULE_CHARACTERS_MAX: Final = 64
"""Length of a rule such as `seat.taken`."""


class EnrolStatus(IntEnum):
    """What became of a request."""

    ENROLLED = 1
    """It is final: say hello again."""
    SUBMITTED = 2
    """It is on its way into a block: say hello again soon."""
    WAITING = 3
    """It waits here until an owner of each group has confirmed the newcomer's code."""
    REFUSED = 4
    """The ledger refuses it by the rule given; here and now, as far as this member knows."""
    BUSY = 5
    """This member takes no more at the moment; another one may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolAnswer:
    """The one message a member sends back."""

    status: EnrolStatus
    """What became of the request."""
    rule: str = ""
    """The rule that refuses it; empty with any other status."""

    def __post_init__(self) -> None:
        """Refuses a rule without a refusal, and the other way round; raises EncodingError."""
        if (self.status is EnrolStatus.REFUSED) != bool(self.rule):
            raise EncodingError("enrol answer: a refusal names its rule, and nothing else does")
        if self.rule:
            check_identifier(self.rule, "enrol answer: rule")

    def encode(self) -> bytes:
        """Canonical bytes."""
        return encode_canonical({0: 1, 1: int(self.status), 2: self.rule})


def decode_enrol_answer(data: bytes) -> EnrolAnswer:
    """Reads an answer.

    Raises:
        EncodingError: malformed or over its bounds.
    """
    fields = Fields(decode_canonical(data, bytes_max=ENROL_ANSWER_BYTES_MAX), "enrol answer")
    fields.constant(0, 1)
    answer = EnrolAnswer(
        status=fields.enum(1, EnrolStatus),
        rule=fields.text(2, maximum=ENROL_RULE_CHARACTERS_MAX),
    )
    fields.finish()
    return answer
