"""Joining: a node that is no member yet hands its enrolment request to whom its token names.

It goes with hello: whoever does not know this node is asked to enrol it, and greeted again. The
request is handed only to keys that the token or the configuration names, one at a time. What a
single member answers is not believed: the others are asked as well, until the ledger says that
this node is in. Rules: docs/spec/identity.md, I70 to I79.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import trio

from protocol.enrolment_messages import EnrolAnswer, EnrolStatus, decode_enrol_answer
from protocol.errors import RemoteProtocolError, TransportError, VerificationError
from protocol.limits import HELLO_BYTES_MAX, HELLO_SECONDS_MAX
from protocol.version import ProtocolName, protocol_id
from swarmd.enrolment_request import EnrolmentRequest
from swarmd.ledger_host import LedgerHost
from swarmd.net.address import PeerKey
from swarmd.net.network import Network
from swarmd.peers import PeerClass

if TYPE_CHECKING:
    from swarmd.control.protocol import JSON

logger = logging.getLogger(__name__)

TURN_S: Final = float(HELLO_SECONDS_MAX) - 1.0
"""Longest a member may take for one request, seconds; it sends strangers away after ten."""
ANSWERS_MAX: Final = 16
"""Members whose last answer is kept for people to see."""


class JoiningService:
    """Greets peers, and asks those that do not know this node to enrol it."""

    def __init__(
        self,
        *,
        network: Network,
        ledger: LedgerHost,
        greet: Callable[[PeerKey], Awaitable[PeerClass]],
        request: EnrolmentRequest | None,
        members: frozenset[PeerKey],
    ) -> None:
        """Wires the service.

        Args:
            network: to open streams.
            ledger: own copy of the chain; a record of this node in it ends the joining.
            greet: says hello.
            request: what is asked for; None: this node is in, or enters by another way.
            members: keys that may be handed the request.
        """
        self._network = network
        self._ledger = ledger
        self._greet = greet
        self._request = request
        self._members = members
        self._protocol = protocol_id(ledger.chain_id, ProtocolName.ENROL)
        self._turn = trio.Lock()
        self._answers: dict[PeerKey, EnrolAnswer] = {}
        is_confirmed = request is not None and request.claims.confirmed
        self.code: Final = request.code if request and is_confirmed and self.is_joining else None
        """The code owners must confirm; None: none, or this node was in at its start."""

    @property
    def is_joining(self) -> bool:
        """Whether this node has a request and is not in, by its own copy of the ledger."""
        request = self._request
        return request is not None and self._ledger.chain.state.subject(request.did) is None

    async def greet(self, peer: PeerKey) -> PeerClass:
        """Says hello; asks to be enrolled by one that does not know this node, and says it again.

        Raises:
            TransportError: the connection failed.
        """
        found = await self._greet(peer)
        if found is not PeerClass.STRANGER or not self.is_joining or peer not in self._members:
            return found
        answer = await self._ask(peer)
        if answer is None or answer.status is not EnrolStatus.ENROLLED:
            return found
        return await self._greet(peer)

    async def _ask(self, peer: PeerKey) -> EnrolAnswer | None:
        """Hands the request to one peer; None: it gave no answer."""
        assert self._request is not None, "only a joining node asks"
        async with self._turn:  # one at a time: the others would use up quota for nothing
            try:
                with trio.fail_after(TURN_S):
                    answer = await self._exchange(peer, self._request.encode())
            except (TransportError, trio.TooSlowError) as error:
                logger.debug("enrolment by %s: %s", peer[:4].hex(), error)
                return None
            except (VerificationError, RemoteProtocolError) as error:
                logger.info("enrolment by %s: %s", peer[:4].hex(), error)
                return None
        self._note(peer, answer)
        return answer

    async def _exchange(self, peer: PeerKey, request: bytes) -> EnrolAnswer:
        stream = await self._network.open_stream(
            peer, self._protocol, frame_bytes_max=HELLO_BYTES_MAX
        )
        async with stream:
            await stream.send_frame(request)
            await stream.close_write()
            frame = await stream.receive_frame()
        if frame is None:
            raise TransportError(f"peer {peer[:4].hex()} closed the stream without an answer")
        return decode_enrol_answer(frame)

    def _note(self, peer: PeerKey, answer: EnrolAnswer) -> None:
        if self._answers.pop(peer, None) != answer:
            level = logging.WARNING if answer.status is EnrolStatus.REFUSED else logging.INFO
            what = f"{answer.status.name.lower()} {answer.rule}".strip()
            logger.log(level, "enrolment by %s: %s", peer[:4].hex(), what)
        self._answers[peer] = answer
        while len(self._answers) > ANSWERS_MAX:
            self._answers.pop(next(iter(self._answers)))

    def about(self) -> JSON:
        """For people: the code to tell an owner, and what each member answered last."""
        if not self.is_joining:
            return None
        return {
            "code": self.code,
            "answers": {
                peer.hex(): {"status": answer.status.name.lower(), "rule": answer.rule or None}
                for peer, answer in self._answers.items()
            },
        }


def joining_text(about: JSON) -> str:
    """One line for people about what `JoiningService.about` tells."""
    assert isinstance(about, dict), "made by about()"
    code, answers = about["code"], about["answers"]
    assert isinstance(answers, dict), "made by about()"
    told = sorted({_answer_text(item) for item in answers.values()})
    text = f"no member yet; members say: {', '.join(told) or 'nothing so far'}"
    return text if code is None else f"{text}; confirmation code {code}, for an owner"


def _answer_text(answer: JSON) -> str:
    assert isinstance(answer, dict), "made by about()"
    status, rule = answer["status"], answer["rule"]
    return str(status) if rule is None else f"{status} ({rule})"
