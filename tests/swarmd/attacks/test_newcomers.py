"""Newcomers that join by themselves, and those who should not: tokens used twice, stolen, stale."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from ledger.bodies.receipt import AnchorReceipts
from ledger.bodies.subject import CreateSubject
from protocol.approval import Action
from protocol.did import KeyPurpose, sign_join
from protocol.digest import BlockId, sha256
from protocol.enrolment_messages import EnrolAnswer, EnrolStatus, decode_enrol_answer
from protocol.enrolment_token import claim_seat, sign_token
from protocol.framing import FrameBuffer, encode_frame
from protocol.keys import PrivateKey
from protocol.limits import HELLO_BYTES_MAX
from protocol.transaction import parse_transaction
from protocol.version import ProtocolName, protocol_id
from swarmd.datadir import KeyName, write_atomic
from swarmd.enrolment import load_join
from swarmd.enrolment_request import EnrolmentRequest, TokenFile, write_request
from swarmd.net.address import PeerKey
from swarmd.net.wire import TCPWire
from swarmd.newcomers import NEWCOMERS_NAME, STRANGERS_MAX, STRANGERS_PER_SEAT_MAX
from swarmd.peers import PeerClass
from swarmd.services import doorkeeper as door
from tests.support.forge import Forge
from tests.support.joining import SEAT_KEY, foreign_chain, newcomer, take, token
from tests.support.network_attacker import attack
from tests.support.swarm import GROUP, VALIDATORS, Swarm, swarm, until

NAME = "gateway-9"
MEMBER = "gateway-1"


async def ready(lab: Swarm, *more: str) -> None:
    """Validators and a gateway run and know each other."""
    await lab.start(*VALIDATORS, MEMBER, *more)
    await lab.until_met(*VALIDATORS, MEMBER, *more)


def is_member(lab: Swarm, name: str = NAME) -> bool:
    return lab[VALIDATORS[0]].ledger.chain.state.subject(lab.did(name)) is not None


def told(lab: Swarm, name: str = NAME) -> set[tuple[str, str | None]]:
    """What members, however many it asked, answered a newcomer last."""
    about: Any = lab[name].joining.about()
    if about is None:
        return set()
    return {(item["status"], item["rule"]) for item in about["answers"].values()}


@pytest.mark.slow
async def test_a_gateway_with_a_token_joins_by_itself_and_catches_up(tmp_path: Path) -> None:
    async with swarm(tmp_path, gateways=1) as lab:
        await ready(lab)
        request = newcomer(lab, NAME, token(lab), MEMBER)
        await lab.start(NAME)
        await lab.until_met(MEMBER, NAME)
        await until(lambda: lab.height(NAME) >= lab.height(MEMBER) > 0, "it catches up")
        assert lab[NAME]._own_groups() == (GROUP,)
        assert lab[NAME].joining.about() is None
        seat = lab[NAME].ledger.chain.state.seat(request.claims.seat)
        assert seat is not None
        assert seat.did == request.did
        # A restart finds it a member, and nobody is asked again.
        await lab.crash(NAME)
        await lab.start(NAME)
        await lab.until_met(MEMBER, NAME)
        assert not lab[NAME].joining.is_joining


@pytest.mark.slow
async def test_the_tokens_addresses_suffice(tmp_path: Path) -> None:
    """As for a seat that is bound to the key of a node whose configuration names nobody."""
    async with swarm(tmp_path, gateways=1) as lab:
        await ready(lab)
        newcomer(lab, NAME, token(lab))
        assert lab.directory(NAME).load_config().network.bootstrap == ()
        await lab.start(NAME)
        await lab.until_met(NAME, VALIDATORS[0])
        await until(lambda: not lab[NAME].joining.is_joining, "it is in, by its own copy")


@pytest.mark.slow
async def test_one_newcomer_that_asks_several_members_takes_one_seat_once(tmp_path: Path) -> None:
    async with swarm(tmp_path, gateways=2) as lab:
        await ready(lab, "gateway-2")
        newcomer(lab, NAME, token(lab), MEMBER, "gateway-2", VALIDATORS[0])
        await lab.start(NAME)
        await lab.until_met(NAME, MEMBER, "gateway-2", VALIDATORS[0])
        chain = lab[MEMBER].ledger.chain
        raws = [
            raw
            for height in range(1, chain.head.height + 1)
            if (header := chain.header_at(height)) is not None
            and (block := chain.block(header.block_id)) is not None
            for raw in block.transactions
        ]
        kinds = [parse_transaction(raw).transaction.kind for raw in raws]
        # A member that has not seen the first one final may bring it again: refused, it costs it.
        assert kinds.count("did.create") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("seat.expired", {"expiry_s": 1_000_000_000}),
        ("seat.chain", {"chain": foreign_chain()}),
        ("seat.era", {"era": 1}),
        ("seat.threshold", {"owners": (0,)}),
    ],
)
async def test_tokens_that_are_stale_foreign_or_short_of_owners(
    tmp_path: Path, rule: str, changes: dict[str, Any]
) -> None:
    async with swarm(tmp_path, gateways=1) as lab:
        await ready(lab)
        newcomer(lab, NAME, token(lab, **changes), MEMBER)
        await lab.start(NAME)
        await until(lambda: told(lab) == {("refused", rule)}, "it is told why not")
        assert not is_member(lab)
        assert len(lab[MEMBER].doorkeeper._submitted) == 0, "it cost the member no transaction"
        assert lab.class_of(MEMBER, NAME) is PeerClass.STRANGER


@pytest.mark.slow
async def test_a_token_is_used_once(tmp_path: Path) -> None:
    async with swarm(tmp_path, gateways=1) as lab:
        await ready(lab)
        file = token(lab)
        newcomer(lab, NAME, file, MEMBER)
        await lab.start(NAME)
        await lab.until_met(MEMBER, NAME)
        newcomer(lab, "gateway-8", file, MEMBER)
        await lab.start("gateway-8")
        await until(lambda: told(lab, "gateway-8") == {("refused", "seat.taken")}, "too late")
        assert not is_member(lab, "gateway-8")


@pytest.mark.slow
async def test_a_stolen_token_without_the_holders_key_is_worth_nothing(tmp_path: Path) -> None:
    """The thief has read tokens and even the holder's proof for somebody else, from a ledger."""
    async with swarm(tmp_path, gateways=1) as lab:
        await ready(lab)
        file = token(lab)
        lab.new_gateway(NAME, MEMBER)
        honest = take(lab, NAME, file)
        thief = newcomer(lab, "gateway-8", file, MEMBER)
        data = lab.directory("gateway-8")
        mine = PrivateKey(sha256(b"a thief's key"))
        for proof in (honest.seat.proof, mine.sign(b"anything"), bytes(64)):
            write_request(data, replace(thief, seat=replace(thief.seat, proof=proof)))
            await lab.start("gateway-8")
            await until(lambda: told(lab, "gateway-8") == {("refused", "seat.holder")}, "refused")
            await lab.crash("gateway-8")
        # The holder is not hindered.
        await lab.start(NAME)
        await lab.until_met(MEMBER, NAME)


@pytest.mark.slow
async def test_tokens_of_who_is_no_owner_tell_nothing_about_groups(tmp_path: Path) -> None:
    """A made-up token gets the same answer for a group that exists and for one that does not."""
    async with swarm(tmp_path, gateways=1) as lab:
        await ready(lab)
        stranger = PrivateKey(sha256(b"no owner"))
        claims = replace(token(lab).claims, issuer=stranger.public)
        file = TokenFile.of([sign_token(claims, stranger)], SEAT_KEY)
        newcomer(lab, NAME, file, MEMBER)
        await lab.start(NAME)
        await until(lambda: told(lab) == {("refused", "seat.owner")}, "no owner")
        await lab.crash(NAME)
        data = lab.directory(NAME)
        record = replace(load_join(data.join).record, groups=("no-such-group",))
        keys = [data.load_key(KeyName.TRANSPORT), data.load_key(KeyName.NODE)]
        elsewhere = replace(claims, groups=("no-such-group",))
        seat = claim_seat([sign_token(elsewhere, stranger)], record.did, SEAT_KEY)
        request = EnrolmentRequest(join=sign_join(record, keys), seat=seat)
        answer = await judged(lab, MEMBER, request)
        assert answer == EnrolAnswer(status=EnrolStatus.REFUSED, rule="seat.owner")


async def judged(lab: Swarm, member: str, request: EnrolmentRequest) -> EnrolAnswer:
    """What a member answers to whoever proved the transport key of a request's record."""
    key = request.join.record.key(KeyPurpose.TRANSPORT)
    assert key is not None
    return await lab[member].doorkeeper._judge(PeerKey(key.raw), request)


@pytest.mark.slow
@pytest.mark.parametrize("lie", [EnrolStatus.REFUSED, EnrolStatus.ENROLLED, EnrolStatus.WAITING])
async def test_one_members_word_keeps_nobody_out(tmp_path: Path, lie: EnrolStatus) -> None:
    """It refuses, or says that it did what it did not; the others are asked all the same."""
    async with swarm(tmp_path, gateways=1) as lab:
        await ready(lab)
        rule = "seat.taken" if lie is EnrolStatus.REFUSED else ""
        asked: list[PeerKey] = []

        async def judge(peer: PeerKey, _request: EnrolmentRequest) -> EnrolAnswer:
            await trio.lowlevel.checkpoint()
            asked.append(peer)
            return EnrolAnswer(status=lie, rule=rule)

        lab[MEMBER].doorkeeper._judge = judge  # type: ignore[method-assign]
        newcomer(lab, NAME, token(lab), MEMBER, VALIDATORS[3])
        await lab.start(NAME)
        await lab.until_met(NAME, VALIDATORS[3])
        await until(lambda: is_member(lab), "it is in")
        assert len(asked) <= 2


@pytest.mark.slow
async def test_whoever_sits_at_an_address_under_another_key_is_not_handed_the_request(
    tmp_path: Path,
) -> None:
    async with swarm(tmp_path, gateways=1) as lab:
        newcomer(lab, NAME, token(lab), MEMBER)
        impostor = PrivateKey(sha256(b"impostor"))
        path = lab.directory(MEMBER).key_path(KeyName.TRANSPORT)
        write_atomic(path, impostor.to_pem())
        await lab.start(MEMBER, NAME)
        greeted: list[PeerKey] = []
        greet = lab[NAME].joining._greet

        async def noted(peer: PeerKey) -> PeerClass:
            greeted.append(peer)
            return await greet(peer)

        lab[NAME].joining._greet = noted
        await until(lambda: len(greeted) >= 2, "hello was said, and said again")
        assert set(greeted) == {PeerKey(impostor.public.raw)}
        assert not lab[MEMBER].doorkeeper._budget._by_address, "no request was brought to it"


# -- the checkpoint ----------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_chain_that_contradicts_the_tokens_checkpoint_is_not_believed(
    tmp_path: Path,
) -> None:
    """Every signature on it is good: so would a chain be that is forged with old, stolen keys."""
    async with swarm(tmp_path, gateways=1) as lab:
        await ready(lab)
        await lab.submit(_anchor(), by=MEMBER)
        false = (1, BlockId(sha256(b"the block of the other history")))
        newcomer(lab, NAME, token(lab, checkpoint=false), MEMBER)
        await lab.start(NAME)
        await until(lambda: lab[NAME].ledger.alarm is not None, "it raises the alarm")
        assert "chain.checkpoint" in str(lab[NAME].ledger.alarm)
        assert lab.height(NAME) == 0, "nothing of it was adopted"
        # Not after a restart either.
        await lab.crash(NAME)
        await lab.start(NAME)
        await until(lambda: lab[NAME].ledger.alarm is not None, "again")
        assert lab.height(NAME) == 0


@pytest.mark.slow
async def test_a_true_checkpoint_is_passed(tmp_path: Path) -> None:
    async with swarm(tmp_path, gateways=1) as lab:
        await ready(lab)
        height = await lab.submit(_anchor(), by=MEMBER)
        header = lab[MEMBER].ledger.chain.header_at(height)
        assert header is not None
        newcomer(lab, NAME, token(lab, checkpoint=(height, header.block_id)), MEMBER)
        await lab.start(NAME)
        await until(lambda: lab.height(NAME) > height, "it goes past")
        assert lab[NAME].ledger.alarm is None


@pytest.mark.slow
async def test_a_copy_that_holds_another_block_already_says_so_at_the_start(tmp_path: Path) -> None:
    async with swarm(tmp_path, gateways=1) as lab:
        forge = Forge(lab)
        lab.new_gateway(NAME, MEMBER)
        await lab.start(NAME)
        await forge.give(lab[NAME], *[forge.advance() for _ in range(3)])
        await lab.crash(NAME)
        take(lab, NAME, token(lab, checkpoint=(2, BlockId(sha256(b"another")))))
        await lab.start(NAME)
        assert "chain.checkpoint" in str(lab[NAME].ledger.alarm)
        forge.close()


def _anchor() -> AnchorReceipts:
    return AnchorReceipts(size=1, root=sha256(b"x"))


# -- confirmation ------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_newcomer_waits_for_its_code_over_a_restart_of_the_member(tmp_path: Path) -> None:
    async with swarm(tmp_path, gateways=1) as lab:
        await ready(lab)
        request = newcomer(lab, NAME, token(lab, confirmed=True), MEMBER)
        await lab.start(NAME)
        await until(lab[MEMBER].doorkeeper.waiting, "it waits at this one too")
        assert told(lab) <= {("waiting", None)}
        about: Any = lab[NAME].joining.about()
        assert about["code"] == request.code == lab[NAME].joining.code
        assert not is_member(lab)
        await lab.crash(MEMBER)
        await lab.start(MEMBER)
        await lab.until_met(*VALIDATORS, MEMBER)
        desk = lab[MEMBER].doorkeeper
        (kept,) = desk.waiting()
        assert (kept.request, kept.by_itself, kept.missing) == (request, True, (GROUP,))
        (approval,) = lab.approvals(Action.ENROL, request.did, owners=(2,))
        body = CreateSubject(join=request.join, approvals=((approval,),), seat=request.seat)
        await lab.submit(body, by=MEMBER)
        await lab.until_met(MEMBER, NAME)
        await until(lambda: not desk.waiting(), "nobody waits any more")


@pytest.mark.slow
async def test_strangers_fill_few_places_and_nobody_elses(tmp_path: Path) -> None:
    async with swarm(tmp_path, gateways=1) as lab:
        await ready(lab)
        waiting = EnrolAnswer(status=EnrolStatus.WAITING)
        busy = EnrolAnswer(status=EnrolStatus.BUSY)
        answers: list[EnrolAnswer] = []
        for seat in range(STRANGERS_MAX):
            file = token(lab, confirmed=True, seat_id=sha256(b"%d" % seat)[:16])
            for number in range(STRANGERS_PER_SEAT_MAX + 1):
                request = newcomer(lab, f"gateway-{seat}x{number}", file, MEMBER)
                answers.append(await judged(lab, MEMBER, request))
        desk = lab[MEMBER].doorkeeper
        assert answers.count(waiting) == STRANGERS_MAX == len(desk.waiting())
        assert set(answers) == {waiting, busy}
        assert answers[STRANGERS_PER_SEAT_MAX] == busy, "places of one seat"
        # An operator's newcomer still has a place, and no transaction was spent.
        other = newcomer(lab, NAME, token(lab, confirmed=True, seat_id=bytes(16)), MEMBER)
        await desk.keep(other)
        assert desk.find(other.did) is not None
        assert len(desk._submitted) == 0
        size = (lab.directory(MEMBER).path / NEWCOMERS_NAME).stat().st_size
        assert size < 64 * 1024


@pytest.mark.slow
async def test_strangers_use_up_neither_nonces_nor_the_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With good tokens without number, and validators that answer nothing."""
    async with swarm(tmp_path, gateways=1) as lab:
        await lab.start(MEMBER)
        monkeypatch.setattr(door, "ANSWER_S", 0.01)
        answers: list[EnrolStatus] = []
        for number in range(door.IN_FLIGHT_MAX + 2):
            file = token(lab, seat_id=sha256(b"%d" % number)[:16])
            request = newcomer(lab, f"gateway-x{number}", file, MEMBER)
            answers.append((await judged(lab, MEMBER, request)).status)
        many = door.IN_FLIGHT_MAX
        assert answers == [EnrolStatus.SUBMITTED] * many + [EnrolStatus.BUSY] * 2
        submission = lab[MEMBER].submission
        assert submission._next_nonce() == many, "the rest of the window is the member's"
        desk = lab[MEMBER].doorkeeper
        monkeypatch.setattr(door, "IN_FLIGHT_MAX", many + 1)
        desk._submitted.extend([trio.current_time()] * door.HOURLY_MAX)
        request = newcomer(lab, NAME, token(lab), MEMBER)
        assert (await judged(lab, MEMBER, request)).status is EnrolStatus.BUSY


# -- what a stranger may send ------------------------------------------------------------------


async def ask(lab: Swarm, number: int, body: bytes) -> list[EnrolAnswer]:
    """Opens the enrolment protocol under a fresh key and sends something."""
    answers: list[EnrolAnswer] = []
    buffer = FrameBuffer(HELLO_BYTES_MAX)
    async with attack(lab[MEMBER].network.listen_addresses[0], number) as attacker:
        stream = await attacker.select(protocol_id(lab.chain, ProtocolName.ENROL))
        await stream.write(body)
        with trio.move_on_after(3):
            try:
                while not answers:
                    answers += [
                        decode_enrol_answer(raw) for raw in buffer.feed(await stream.read(4096))
                    ]
            except Exception:  # noqa: BLE001 - reset by the member
                return answers
    return answers


@pytest.mark.slow
async def test_a_request_is_taken_from_the_newcomer_itself_only(tmp_path: Path) -> None:
    async with swarm(tmp_path, gateways=1) as lab:
        await lab.start(MEMBER, wire=TCPWire())
        request = newcomer(lab, NAME, token(lab), MEMBER)
        body = encode_frame(request.encode(), bytes_max=HELLO_BYTES_MAX)
        (answer,) = await ask(lab, 500, body)
        assert answer == EnrolAnswer(status=EnrolStatus.REFUSED, rule="enrol.peer")


@pytest.mark.slow
async def test_an_address_that_asks_too_often_is_put_off(tmp_path: Path) -> None:
    async with swarm(tmp_path, gateways=1) as lab:
        await lab.start(MEMBER, wire=TCPWire())
        request = newcomer(lab, NAME, token(lab), MEMBER)
        body = encode_frame(request.encode(), bytes_max=HELLO_BYTES_MAX)
        statuses = []
        for number in range(door.ADDRESS_BURST + 1):  # each under another key, which costs nothing
            (answer,) = await ask(lab, 500 + number, body)
            statuses.append(answer.status)
        refused = [EnrolStatus.REFUSED] * door.ADDRESS_BURST
        assert statuses == [*refused, EnrolStatus.BUSY]
        assert lab[MEMBER].network.statistics().handler_faults == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        b"\xff" * 16,
        encode_frame(b"junk", bytes_max=HELLO_BYTES_MAX),
        encode_frame(b"\xa0", bytes_max=HELLO_BYTES_MAX),
        (HELLO_BYTES_MAX + 1).to_bytes(4, "big"),
    ],
    ids=["no frame", "no request", "empty map", "oversized"],
)
async def test_malformed_requests_cost_the_stranger(tmp_path: Path, body: bytes) -> None:
    async with swarm(tmp_path, gateways=1) as lab:
        await lab.start(MEMBER, wire=TCPWire())
        victim = lab[MEMBER]
        offences: list[str] = []
        victim.registry.listen(lambda _key, offence, _detail: offences.append(offence.label))
        assert await ask(lab, 600, body) == []
        await until(lambda: offences == ["malformed"], "blamed")
        assert lab.is_alive(MEMBER)
        assert victim.network.statistics().handler_faults == 0
