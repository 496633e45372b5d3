"""Rings between members: who is believed, who is answered, what an old file never changes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import pytest
import trio
from trio.testing import MockClock

from ledger.bodies.subject import SuspendSubject
from protocol.approval import Action
from protocol.did import KeyPurpose, SubjectKind
from protocol.digest import Digest, sha256
from protocol.errors import (
    EncodingError,
    PolicyError,
    RemoteProtocolError,
    SignatureError,
    TransportError,
)
from protocol.manifest import SignedManifest
from protocol.sealing import Sealing
from protocol.sealing_messages import (
    RingAnswer,
    RingRequest,
    RingStatus,
    decode_ring_answer,
)
from protocol.sealing_ring import (
    RingFile,
    SealingKeyStatement,
    SignedRing,
    parse_ring,
    sign_ring,
    sign_statement,
)
from swarmd.entropy import SeededEntropy
from swarmd.keys.sealing_key import SealingKey
from swarmd.net.address import PeerKey
from swarmd.peers import Peer, PeerClass
from swarmd.ring_making import RingMaker, RingPlan
from swarmd.sealing_rings import RINGS_MAX, RingShelf
from swarmd.services import sealing as service_module
from swarmd.services.sealing import REPEAT_S, RETRY_S, SealingService
from tests.support.authority import PEER, Bench, make_bench
from tests.support.ledger import FLEET, Member, make_group, make_lab

OWN_KEY = SealingKey(b"\1" * 32)
PUBLISHER_KEY = SealingKey(b"\2" * 32)


@dataclass
class FrameStream:
    """One side of a stream whose other side has said all it will say."""

    frames: list[bytes]
    peer: PeerKey = PEER

    def __post_init__(self) -> None:
        self.sent: list[bytes] = []

    async def receive_frame(self) -> bytes | None:
        await trio.lowlevel.checkpoint()
        return self.frames.pop(0) if self.frames else None

    async def send_frame(self, body: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.sent.append(body)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await trio.lowlevel.checkpoint()


class Case:
    """The service of gateway 0 over a real chain, and a publisher that makes rings."""

    def __init__(self, path: Path, **lab: object) -> None:
        self.path = path
        self.bench: Bench = make_bench(make_lab(**lab))  # type: ignore[arg-type]
        self.lab = self.bench.lab
        self.gateway, self.publisher = self.lab.gateways[0], self.lab.publisher
        self.answers: Callable[[bytes], Awaitable[bytes | None]] = self._silence
        self.asked: list[bytes] = []
        self.maker = RingMaker(
            chain=self.lab.chain_id,
            did=self.publisher.did,
            person_key=self.publisher.key(KeyPurpose.PERSON),
            own=PUBLISHER_KEY.public,
            entropy=SeededEntropy(1),
        )
        self.open_shelf()

    def open_shelf(self) -> None:
        self.shelf = RingShelf(self.path, self.lab.chain_id, self.gateway.did, OWN_KEY)
        self.service = SealingService(
            ledger=self.bench.ledger,
            authority=self.bench.authority,
            registry=self.bench.registry,
            shelf=self.shelf,
            own=(self.gateway.did, self.gateway.key(KeyPurpose.NODE), OWN_KEY.public),
            own_groups=lambda: self.bench.groups,
            open_stream=self._open,  # type: ignore[arg-type]
        )

    async def _silence(self, _request: bytes) -> bytes | None:
        await trio.lowlevel.checkpoint()
        return None

    async def _open(self, peer: PeerKey) -> FrameStream:
        case = self

        class Asking(FrameStream):
            async def send_frame(self, body: bytes) -> None:
                case.asked.append(body)
                answer = await case.answers(body)
                self.frames = [] if answer is None else [answer]

        return Asking([], peer)

    def statement(self, member: Member, key: SealingKey = OWN_KEY, *, era: int = 0) -> bytes:
        content = SealingKeyStatement(era=era, did=member.did, key=key.public)
        signed = sign_statement(content, member.key(KeyPurpose.NODE), self.lab.chain_id)
        return signed.signed.raw

    def ring(self, *, own: bool = True, before: SignedRing | None = None) -> SignedRing:
        content = SealingKeyStatement(era=0, did=self.gateway.did, key=OWN_KEY.public)
        plan = RingPlan(group=FLEET, adds=(content,) if own else ())
        key = None
        if before is not None:
            member = before.file.member(self.publisher.did)
            assert member is not None
            name = before.file.name(self.lab.chain_id)
            key = PUBLISHER_KEY.unwrap(member, name, before.file.check)
        return self.maker.make(plan, before, key, era=0)

    def signed_anew(self, ring: SignedRing, **changes: object) -> SignedRing:
        file: RingFile = replace(ring.file, **changes)  # type: ignore[arg-type]
        return sign_ring(file, self.publisher.key(KeyPurpose.PERSON), self.lab.chain_id)

    def id_of(self, ring: SignedRing) -> Digest:
        return ring.file.ring(self.lab.chain_id)

    def connect(self, member: Member, peer_class: PeerClass = PeerClass.MEMBER) -> Peer:
        peer = self.bench.registry.connected(PEER)
        peer.peer_class, peer.did, peer.groups = peer_class, member.did, member.groups
        return peer

    def sealed(self, ring: SignedRing) -> SignedManifest:
        plain = self.lab.manifest()
        component = replace(
            plain.manifest.components[0],
            size=100,
            plain_digest=sha256(b"plain"),
            sealing=Sealing(ring=self.id_of(ring), generation=1, nonce=bytes(16)),
        )
        return self.lab.manifest(components=(component,))


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


# -- what is believed ---------------------------------------------------------------------------


async def test_a_ring_is_kept_opened_and_found_again(case: Case) -> None:
    ring = case.ring()
    heard: list[bool] = []
    case.service.listen(lambda: heard.append(True))
    assert await case.service.take(ring.signed.raw) == (ring, True)
    assert await case.service.take(ring.signed.raw) == (ring, False)
    assert heard == [True]
    case.open_shelf()
    key = case.shelf.content_key(case.id_of(ring))
    assert key is not None
    assert key.ring() == case.id_of(ring)
    stored = b"".join(path.read_bytes() for path in case.path.rglob("*") if path.is_file())
    assert key.secret() not in stored


async def test_old_and_contradicting_versions_change_nothing(case: Case) -> None:
    """A rolled back ring must not take members out again, nor put a withdrawn wrap back."""
    first = case.ring(own=False)
    second = case.ring(before=first)
    await case.service.take(second.signed.raw)
    assert (await case.service.take(first.signed.raw))[1] is False
    assert case.shelf.get(case.id_of(first)) == second
    other = case.signed_anew(second, members=first.file.members)
    with pytest.raises(PolicyError, match=r"sealing\.version"):
        await case.service.take(other.signed.raw)
    assert case.shelf.get(case.id_of(first)) == second
    third = case.signed_anew(second, version=3, members=first.file.members)
    assert (await case.service.take(third.signed.raw))[1] is True
    assert case.shelf.content_key(case.id_of(first)) is None


async def test_only_the_publishers_own_signature_counts(case: Case) -> None:
    ring = case.ring()
    for signer in (
        case.publisher.key(KeyPurpose.NODE),
        case.gateway.key(KeyPurpose.NODE),
        case.lab.governance[0],
    ):
        forged = sign_ring(ring.file, signer, case.lab.chain_id)
        with pytest.raises(SignatureError):
            await case.service.take(forged.signed.raw)
    as_gateway = replace(ring.file, publisher=case.gateway.did)
    forged = sign_ring(as_gateway, case.gateway.key(KeyPurpose.NODE), case.lab.chain_id)
    with pytest.raises(PolicyError, match="no publisher"):
        await case.service.take(forged.signed.raw)
    assert case.shelf.views() == ()


@pytest.mark.parametrize("place", [20, 120, 300, -1])
async def test_no_altered_ring_is_kept(case: Case, place: int) -> None:
    raw = bytearray(case.ring().signed.raw)
    raw[place] ^= 1
    with pytest.raises((SignatureError, EncodingError, PolicyError)):
        await case.service.take(bytes(raw))
    assert case.shelf.views() == ()


async def test_rings_of_other_groups_eras_and_suspended_publishers(tmp_path: Path) -> None:
    case = Case(tmp_path, groups=(make_group("other"),))
    ring = case.ring()
    elsewhere = case.signed_anew(ring, group="other")
    with pytest.raises(PolicyError, match=r"sealing\.publisher"):
        await case.service.take(elsewhere.signed.raw)
    nowhere = case.signed_anew(ring, group="nowhere")
    with pytest.raises(PolicyError, match=r"group\.unknown"):
        await case.service.take(nowhere.signed.raw)
    later = case.signed_anew(ring, era=1)
    with pytest.raises(PolicyError, match=r"sealing\.era"):
        await case.service.take(later.signed.raw)
    case.bench.groups = ("other",)
    with pytest.raises(PolicyError, match=r"sealing\.group"):
        await case.service.take(ring.signed.raw)
    case.bench.groups = (FLEET,)
    did = case.publisher.did
    approvals = case.lab.approvals(Action.SUSPEND, did)
    body = SuspendSubject(did=did, group=FLEET, approvals=approvals)
    await case.bench.apply(case.lab.transaction(case.gateway, body))
    with pytest.raises(PolicyError, match="no active publisher"):
        await case.service.take(ring.signed.raw)
    assert case.shelf.views() == ()


async def test_the_shelf_is_bounded(case: Case) -> None:
    ring = case.ring()
    for generation in range(1, RINGS_MAX + 1):
        case.shelf._rings[sha256(b"%d" % generation)] = ring
    with pytest.raises(PolicyError, match=r"sealing\.rings"):
        await case.service.take(ring.signed.raw)


async def test_damaged_and_renamed_files_are_not_counted_on(case: Case) -> None:
    ring = case.ring()
    await case.service.take(ring.signed.raw)
    (file,) = (case.path / "sealing").glob("*.ring")
    file.with_name(f"{bytes(32).hex()}.ring").write_bytes(file.read_bytes())
    file.write_bytes(file.read_bytes()[:-1])
    case.open_shelf()
    assert case.shelf.views() == ()
    await case.service.take(ring.signed.raw)
    assert case.shelf.content_key(case.id_of(ring)) is not None
    await case.service.forget(case.id_of(ring))
    assert case.shelf.content_key(case.id_of(ring)) is None
    with pytest.raises(PolicyError, match=r"sealing\.ring"):
        await case.service.forget(case.id_of(ring))


async def test_a_wrap_to_a_former_key_leaves_the_ring_closed(case: Case) -> None:
    content = SealingKeyStatement(era=0, did=case.gateway.did, key=SealingKey(b"\5" * 32).public)
    plan = RingPlan(group=FLEET, adds=(content,))
    ring = case.maker.make(plan, None, None, era=0)
    await case.service.take(ring.signed.raw)
    assert [view.is_open for view in case.shelf.views()] == [False]


async def test_statements_are_those_of_active_members(case: Case) -> None:
    other = case.lab.gateways[1]
    assert case.service.verify_statement(case.service.statement(), FLEET)
    assert case.service.verify_statement(case.statement(other), FLEET).statement.did == other.did
    stolen = SealingKeyStatement(era=0, did=other.did, key=OWN_KEY.public)
    forged = sign_statement(stolen, case.gateway.key(KeyPurpose.NODE), case.lab.chain_id)
    with pytest.raises(SignatureError):
        case.service.verify_statement(forged.signed.raw, FLEET)
    with pytest.raises(PolicyError, match=r"sealing\.era"):
        case.service.verify_statement(case.statement(other, era=1), FLEET)
    with pytest.raises(PolicyError, match=r"peer\.group"):
        case.service.verify_statement(case.statement(other), "other")
    stranger = Member(label="stranger", kind=SubjectKind.GATEWAY, groups=(FLEET,))
    with pytest.raises(PolicyError, match=r"sealing\.member"):
        case.service.verify_statement(case.statement(stranger), FLEET)


# -- what is answered ---------------------------------------------------------------------------


async def replies(case: Case, *requests: RingRequest) -> list[RingStatus]:
    stream = FrameStream([request.encode() for request in requests])
    await case.service.answer(stream)  # type: ignore[arg-type]
    return [decode_ring_answer(raw).status for raw in stream.sent]


async def test_members_get_what_is_newer_and_others_learn_nothing(
    case: Case, autojump_clock: MockClock
) -> None:
    ring = case.ring()
    await case.service.take(ring.signed.raw)
    wanted = RingRequest(ring=case.id_of(ring))
    nothing = RingRequest(ring=sha256(b"no ring"))
    key = RingRequest(ring=None)
    assert set(await replies(case, wanted, nothing, key)) == {RingStatus.UNKNOWN}
    case.connect(case.lab.gateways[1], PeerClass.STRANGER)
    assert set(await replies(case, wanted, nothing, key)) == {RingStatus.UNKNOWN}
    outsider = Member(label="outsider", kind=SubjectKind.GATEWAY, groups=("other",))
    case.connect(outsider)
    assert set(await replies(case, wanted, nothing, key)) == {RingStatus.UNKNOWN}
    case.connect(case.lab.gateways[1])
    current = RingRequest(ring=case.id_of(ring), version=1)
    assert await replies(case, current, wanted, wanted, nothing, key) == [
        RingStatus.CURRENT,
        RingStatus.RING,
        RingStatus.UNKNOWN,  # once a minute is enough
        RingStatus.UNKNOWN,
        RingStatus.KEY,
    ]
    await trio.sleep(REPEAT_S)
    assert await replies(case, wanted) == [RingStatus.RING]


async def test_malformed_and_endless_questions_end_the_stream(case: Case) -> None:
    with pytest.raises(RemoteProtocolError):
        await case.service.answer(FrameStream([b"\xff"]))  # type: ignore[arg-type]
    many = [RingRequest(ring=None).encode()] * 100
    stream = FrameStream(many)
    await case.service.answer(stream)  # type: ignore[arg-type]
    assert len(stream.sent) == service_module.REQUESTS_PER_STREAM


# -- what is asked ------------------------------------------------------------------------------


async def test_a_missing_ring_is_asked_for_until_it_comes(
    case: Case, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    without, ring = case.ring(own=False), None
    ring = case.ring(before=without)
    await case.service.take(without.signed.raw)
    await case.bench.propose(case.sealed(without))
    case.connect(case.lab.gateways[1])
    nursery.start_soon(case.service.run)
    await trio.sleep(10 * RETRY_S)
    asked = len(case.asked)
    assert 3 <= asked <= 5, "the pause doubles"

    async def answer(_request: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        return RingAnswer(status=RingStatus.RING, content=ring.signed.raw).encode()

    case.answers = answer
    came = trio.Event()
    case.service.listen(came.set)
    case.service.peer_connected()
    await came.wait()
    assert case.shelf.content_key(case.id_of(ring)) is not None
    await trio.sleep(1000 * RETRY_S)
    assert len(case.asked) == asked + 1
    nursery.cancel_scope.cancel()


async def test_what_peers_answer_is_not_believed_for_their_sake(
    case: Case, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    ring = case.ring()
    other = case.signed_anew(ring, generation=9)
    forged = sign_ring(ring.file, case.gateway.key(KeyPurpose.NODE), case.lab.chain_id)
    await case.bench.propose(case.sealed(ring))
    peer = case.connect(case.lab.gateways[1])
    given: list[bytes | Exception] = [
        b"\xff",
        RingAnswer(status=RingStatus.RING, content=b"\xff").encode(),
        RingAnswer(status=RingStatus.RING, content=other.signed.raw).encode(),
        RingAnswer(status=RingStatus.RING, content=forged.signed.raw).encode(),
        RingAnswer(status=RingStatus.CURRENT).encode(),
        RingAnswer(status=RingStatus.KEY, content=case.statement(case.gateway)).encode(),
        TransportError("gone"),
        RemoteProtocolError("endless frame"),
    ]
    count = len(given)

    async def answer(_request: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        given_now = given.pop(0)
        if isinstance(given_now, Exception):
            raise given_now
        return given_now

    case.answers = answer
    nursery.start_soon(case.service.run)
    for _ in range(count):
        case.service.peer_connected()
        await trio.sleep(1)
    assert given == []
    assert case.shelf.views() == ()
    assert peer.offences == {"malformed": 4}
    nursery.cancel_scope.cancel()


async def test_peers_outside_the_group_are_not_even_asked(
    case: Case, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    await case.bench.propose(case.sealed(case.ring()))
    case.connect(Member(label="outsider", kind=SubjectKind.GATEWAY, groups=("other",)))
    nursery.start_soon(case.service.run)
    await trio.sleep(10 * RETRY_S)
    assert case.asked == []
    nursery.cancel_scope.cancel()


async def test_a_statement_counts_only_for_who_was_asked(case: Case) -> None:
    peer = case.connect(case.lab.gateways[1])
    for content, is_taken in (
        (case.statement(case.lab.gateways[1]), True),
        (case.statement(case.gateway), False),  # genuine, of somebody else
        (b"\xff", False),
    ):

        async def answer(_request: bytes, content: bytes = content) -> bytes:
            await trio.lowlevel.checkpoint()
            return RingAnswer(status=RingStatus.KEY, content=content).encode()

        case.answers = answer
        assert (await case.service.ask_statement(peer, FLEET) is not None) is is_taken


# -- making -------------------------------------------------------------------------------------


def test_removing_somebody_takes_a_new_key_and_adding_keeps_it(case: Case) -> None:
    first = case.ring()
    member = first.file.member(case.publisher.did)
    assert member is not None
    key = PUBLISHER_KEY.unwrap(member, first.file.name(case.lab.chain_id), first.file.check)
    added = SealingKeyStatement(
        era=0, did=case.lab.gateways[1].did, key=SealingKey(b"\3" * 32).public
    )
    second = case.maker.make(RingPlan(group=FLEET, adds=(added,)), first, key, era=0)
    assert (second.file.generation, second.file.version) == (1, 2)
    assert case.id_of(second) == case.id_of(first)
    assert set(first.file.members) < set(second.file.members), "old wraps are carried over"
    removal = RingPlan(group=FLEET, removes=(case.gateway.did,))
    third = case.maker.make(removal, second, key, era=0)
    assert (third.file.generation, third.file.version) == (2, 1)
    assert case.id_of(third) != case.id_of(first)
    assert {one.did for one in third.file.members} == {case.publisher.did, added.did}
    assert not set(third.file.members) & set(second.file.members)
    fresh = case.maker.make(RingPlan(group=FLEET, is_new=True), third, None, era=0)
    assert fresh.file.generation == 3
    assert parse_ring(fresh.signed.raw) == fresh


def test_what_makes_no_sense_makes_no_ring(case: Case) -> None:
    ring = case.ring()
    content = SealingKeyStatement(era=0, did=case.gateway.did, key=OWN_KEY.public)
    low = replace(content, key=bytes(32))
    member = ring.file.member(case.publisher.did)
    assert member is not None
    key = PUBLISHER_KEY.unwrap(member, ring.file.name(case.lab.chain_id), ring.file.check)
    for plan, rule in (
        (RingPlan(group=FLEET, adds=(content,)), "sealing.unchanged"),
        (RingPlan(group=FLEET), "sealing.unchanged"),
        (RingPlan(group=FLEET, removes=(case.lab.gateways[1].did,)), "sealing.member"),
        (RingPlan(group=FLEET, removes=(case.publisher.did,)), "sealing.member"),
    ):
        with pytest.raises(PolicyError) as caught:
            case.maker.make(plan, ring, key, era=0)
        assert caught.value.rule == rule
    with pytest.raises(PolicyError, match=r"sealing\.key"):
        case.maker.make(RingPlan(group=FLEET, adds=(low,)), ring, None, era=0)
    with pytest.raises(EncodingError, match="not a usable"):
        case.maker.make(RingPlan(group=FLEET, adds=(low,)), ring, key, era=0)


async def test_rings_that_are_waited_for_are_bounded(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stolen publisher key may name rings without end; none of them exists."""
    monkeypatch.setattr(service_module, "WANTED_MAX", 3)
    case.service.listen(lambda: None)
    plain = case.lab.manifest()
    for number in range(6):
        component = replace(
            plain.manifest.components[0],
            size=100,
            plain_digest=sha256(b"plain"),
            sealing=Sealing(ring=sha256(b"%d" % number), generation=1, nonce=bytes(16)),
        )
        signed = case.lab.manifest(components=(component,), sequence=number + 1)
        case.bench.keep(signed)
        case.service._look_at(signed.manifest_id)
        assert sha256(b"%d" % number) in case.service._wanted, "the newest is always looked for"
    assert len(case.service._wanted) == 3


def test_a_ring_that_came_while_the_old_one_was_opened_is_the_one_that_counts(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rings are put by a worker thread while the event loop opens them."""
    without = case.ring(own=False)
    ring = case.ring(before=without)
    case.shelf.put(without)
    opened = RingShelf._open

    def late(shelf: RingShelf, signed: SignedRing) -> object:
        key = opened(shelf, signed)
        shelf.put(ring)
        return key

    monkeypatch.setattr(RingShelf, "_open", late)
    case.shelf.content_key(case.id_of(ring))
    assert case.shelf.content_key(case.id_of(ring)) is not None


def test_rings_may_come_while_they_are_listed(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    first = case.ring()
    second, other = (case.signed_anew(first, generation=number) for number in (2, 3))
    case.shelf.put(first)
    case.shelf.put(second)
    opened = RingShelf._open

    def late(shelf: RingShelf, signed: SignedRing) -> object:
        shelf.put(other)
        return opened(shelf, signed)

    monkeypatch.setattr(RingShelf, "_open", late)
    assert len(case.shelf.views()) == 2
