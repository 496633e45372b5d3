"""Adversaries as processes: who may be one, what they say, and a run in which three meet."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
import trio

from chunks.memory_store import MemoryStore
from ledger.consensus_messages import Status, VoteMessage, decode_message
from ledger.simplex.engine import Simplex
from ledger.simplex.interface import ALL, Send
from ledger.vote import VoteKind
from protocol.bitfield import Bitfield
from protocol.digest import ChainId, ManifestId, sha256
from protocol.errors import ConfigError
from protocol.exchange_events import Flushed
from protocol.exchange_events import Send as SendExchange
from protocol.exchange_messages import (
    BitfieldMessage,
    Chunks,
    Reject,
    RejectReason,
    decode_exchange,
)
from protocol.keys import PrivateKey
from protocol.limits import GOSSIP_BYTES_MAX, HELLO_BYTES_MAX
from protocol.relay_messages import Credit, Push, PushedChunk, PushFlag, decode_relay, encode_relay
from protocol.runs import Runs
from swarmd.datadir import DataDir, KeyName
from swarmd.services import consensus, exchange
from swarmd.services.consensus_epoch import ConsensusEpoch
from swarmd.services.exchange_relay_frames import RelayFrame
from swarmd.simulation.byzantine.catalogue import ADVERSARIES
from swarmd.simulation.byzantine.chunk_corrupter import CorruptingStore
from swarmd.simulation.byzantine.endless_peer import REPETITIONS
from swarmd.simulation.byzantine.gossip_flooder import GossipFlooder
from swarmd.simulation.byzantine.stalling_relayer import STALL_S
from swarmd.simulation.byzantine.stranger_flooder import StrangerFlooder
from swarmd.simulation.byzantine.twin import TwinEngine
from swarmd.simulation.processes import rogue_consensus, rogue_exchange, rogue_gossip
from swarmd.simulation.processes.blame import Blame
from swarmd.simulation.processes.grounds import Loopback
from swarmd.simulation.processes.rogue_exchange import RogueLink
from swarmd.simulation.processes.rogue_node import SkewedClock, prepare
from swarmd.simulation.processes.rogues import (
    ROGUES,
    Part,
    RogueCount,
    check_rogues,
    count_processes,
    rogues,
)
from swarmd.simulation.processes.scenario_run import run_processes
from swarmd.simulation.processes.support import PROCESSES_MAX, Isolation, check_processes
from swarmd.simulation.processes.swarm import ProcessSwarm, daemon_command
from swarmd.simulation.processes.twins import is_twin, twin_name
from swarmd.simulation.scenario import (
    Adversary,
    Expectations,
    Gateways,
    Image,
    ReleasePlan,
    Scenario,
)

MANIFEST: Final = ManifestId(sha256(b"manifest"))
KEY: Final = PrivateKey(bytes(32))


@pytest.fixture
def real_parts() -> Iterator[None]:
    """Puts the daemon's parts back that a rogue replaces."""
    before = (consensus.Simplex, consensus.ConsensusEpoch, exchange.PeerLink)
    yield
    vars(consensus).update(Simplex=before[0], ConsensusEpoch=before[1])
    vars(exchange).update(PeerLink=before[2])


# Who may be one ----------------------------------------------------------------------------------


def test_rogues_are_those_of_the_catalogue_and_each_has_its_part() -> None:
    assert set(ROGUES) <= set(ADVERSARIES)
    by_part = {part: {name for name in ROGUES if ROGUES[name] is part} for part in Part}
    assert by_part[Part.CONSENSUS] == set(rogue_consensus.KINDS)
    assert by_part[Part.EXCHANGE] == set(rogue_exchange.KINDS)
    for name in by_part[Part.CONSENSUS]:
        assert ADVERSARIES[name].seat is rogue_consensus.KINDS[name]
    for name in by_part[Part.EXCHANGE]:
        kind = rogue_exchange.KINDS[name]
        assert kind in (ADVERSARIES[name].peer, ADVERSARIES[name].member)


def test_shares_are_of_the_nodes_whose_place_is_taken() -> None:
    scenario = Scenario(
        gateways=Gateways(count=10),
        adversaries=(
            Adversary(name="mute_relayer", share=0.3),
            Adversary(name="silent_leader", share=0.25),
            Adversary(name="gossip_mob", count=0),
        ),
    )
    check_rogues(scenario)
    assert rogues(scenario) == (
        RogueCount("mute_relayer", 3, False),
        RogueCount("silent_leader", 1, True),
    )


@pytest.mark.parametrize(
    ("adversary", "reason"),
    [
        (Adversary(name="page_forger", count=1), r"adversaries\[0\].name: 'page_forger' is no pro"),
        (Adversary(name="twin", count=2), "adversaries: 2 validators break .* survive 1"),
        (Adversary(name="mute_relay", count=1), r"adversaries\[0\].name: no adversary"),
        (Adversary(name="nullifier", count=2), "adversaries: 2 validators break .* survive 1"),
        (Adversary(name="free_rider", share=1.0), "adversaries: no honest gateway"),
    ],
)
def test_who_can_be_no_process_is_named(adversary: Adversary, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"^{reason}"):
        check_rogues(Scenario(adversaries=(adversary,)))


def test_only_those_who_need_it_are_not_the_daemon_itself() -> None:
    folder = Path("/somewhere")
    assert daemon_command(folder)[1:] == ["-m", "swarmd", "run", "-C", "/somewhere"]
    skewed = daemon_command(folder, skew_ms=-5)
    rogue = daemon_command(folder, adversary="gossip_mob", seed=3)
    assert skewed[0] == rogue[0] == sys.executable
    assert skewed[3:] == ["/somewhere", "--skew-ms=-5", "--seed=1"]
    assert rogue[3:] == ["/somewhere", "--skew-ms=0", "--seed=3", "--adversary=gossip_mob"]


def test_a_wrong_clock_is_wrong_by_so_much_and_runs_as_fast() -> None:
    clock, right = SkewedClock(-60_000), SkewedClock(0)
    before = right.wall_ms()
    wrong = clock.wall_ms()
    assert before - 60_000 <= wrong <= right.wall_ms() - 60_000
    assert right.monotonic() <= clock.monotonic()


# Validators --------------------------------------------------------------------------------------


def _seat(name: str) -> tuple[Any, list[tuple[int, bytes]]]:
    """A rogue in seat 1 of 4, and what it posts."""
    posted: list[tuple[int, bytes]] = []
    validators = SimpleNamespace(epoch=3, members=range(4))
    parts = {"chain": ChainId(sha256(b"chain")), "era": 0, "signer": KEY, "index": 1}
    kind = rogue_consensus.seated(rogue_consensus.KINDS[name])
    engine = SimpleNamespace(view=7)
    seat = kind(
        {**parts, "validators": validators}, engine, lambda to, data: posted.append((to, data))
    )
    return seat, posted


@pytest.mark.parametrize("name", sorted(rogue_consensus.KINDS))
def test_every_rogue_validator_sits_without_a_world(name: str) -> None:
    seat, posted = _seat(name)
    assert (seat.seat, seat.epoch, seat.others) == (1, 3, [0, 2, 3])
    vote = seat.ballot(VoteKind.NULLIFY, 7, None)
    seat.tell(ALL, VoteMessage(vote))
    seat.tell(2, Status(3, 1, None))
    heard = {to for to, _ in posted}
    assert heard == {"mute_validator": set(), "half_voter": {2, 3}}.get(name, heard)
    if name not in ("mute_validator", "half_voter"):
        assert heard == {0, 2, 3}
    posted.clear()
    if seat.pause_s is not None:
        seat.act()
        assert {to for to, _ in posted} == {0, 2, 3}
        for _, data in posted:
            decode_message(data)


def test_rebels_take_the_place_of_engine_and_epoch(real_parts: None) -> None:
    rogue_consensus.rebel("nullifier")
    assert consensus.ConsensusEpoch is not ConsensusEpoch
    assert issubclass(consensus.ConsensusEpoch, ConsensusEpoch)
    assert consensus.Simplex is not Simplex
    epoch: Any = object.__new__(consensus.ConsensusEpoch)
    told: list[object] = []
    epoch._liar = SimpleNamespace(tell=lambda to, message: told.append((to, message)))
    message = Status(1, 1, None)
    epoch._start_effect(Send(2, message))
    assert told == [(2, message)]


def test_a_part_that_was_renamed_is_noticed() -> None:
    from swarmd.simulation.processes.replacing import replace_in

    with pytest.raises(AttributeError):
        replace_in("swarmd.services.consensus", "Tendermint", None)


@pytest.mark.slow
def test_a_twin_has_the_keys_of_its_validator_and_a_place_of_its_own(tmp_path: Path) -> None:
    scenario = Scenario(gateways=Gateways(count=1), adversaries=(Adversary(name="twin", count=1),))
    assert count_processes(scenario) == 1
    swarm = ProcessSwarm(scenario, 1, tmp_path / "network", Loopback())
    (twin,) = [name for name in swarm._nodes if is_twin(name)]
    original = next(name for name in swarm._nodes if twin_name(name) == twin)
    one, two = (DataDir(tmp_path / "network" / name) for name in (original, twin))
    for key in (KeyName.TRANSPORT, KeyName.VALIDATOR):
        assert one.load_key(key).public == two.load_key(key).public
    networks = [each.load_config().network for each in (one, two)]
    assert networks[0].listen != networks[1].listen
    own = one.load_key(KeyName.TRANSPORT).public.raw
    assert own not in [address.peer for address in networks[1].bootstrap]
    assert len(networks[1].bootstrap) == 4, "three validators and the publisher"
    for name in (original, twin):
        assert "--adversary=twin" in swarm._nodes[name]._command
    assert original not in swarm.validators
    assert twin not in swarm.validators


def test_twins_are_counted_among_the_processes_there_may_be() -> None:
    most = PROCESSES_MAX - 5
    twin = (Adversary(name="twin", count=1),)
    check_processes(Scenario(gateways=Gateways(count=most)), Isolation.LOOPBACK)
    with pytest.raises(ConfigError, match=rf"at most {PROCESSES_MAX}: {most - 1} gateways"):
        check_processes(
            Scenario(gateways=Gateways(count=most), adversaries=twin), Isolation.LOOPBACK
        )


def test_twins_vote_without_asking(real_parts: None) -> None:
    prepare("twin")
    assert consensus.Simplex is TwinEngine
    assert consensus.ConsensusEpoch is ConsensusEpoch


# Gateways ----------------------------------------------------------------------------------------


class _Owner:
    """What a link asks of the exchange."""

    def may_relay(self, _peer: object, _manifest: object) -> bool:
        return True


def _link(name: str) -> tuple[Any, list[object]]:
    """A rogue link to nobody, and what its upload was told."""
    fed: list[object] = []
    link: Any = object.__new__(type("Link", (RogueLink,), {"name": name}))
    link.peer, link._is_closed, link._queued = b"peer", False, trio.Event()
    link._queue, link._queue_bytes, link._owner = deque(), 0, _Owner()
    link._relayed = rogue_exchange_outbox()
    served = SimpleNamespace(possession=(Bitfield(9),))
    link.upload = SimpleNamespace(_library=SimpleNamespace(find=lambda _manifest: served))
    link._last_served = None
    link._nursery = None
    link._mouth = rogue_exchange.mouth_of(name, link)
    link.feed = fed.append
    return link, fed


def rogue_exchange_outbox() -> Any:
    """The real outbox of a link."""
    from swarmd.services.exchange_relay_frames import RelayOutbox

    return RelayOutbox()


def _queued(link: Any) -> list[bytes]:
    """Bodies of all frames that wait, control first."""
    frames = []
    while (frame := link._relayed.take_control() or link._relayed.take_push()) is not None:
        frames.append(b"".join(frame.parts))
    return frames


CHUNKS: Final = Chunks.of(5, [(0, b"zero"), (1, b"one!")])
PUSH: Final = Push(
    manifest_id=MANIFEST,
    object_number=0,
    flags=PushFlag.RELAYER,
    delegates=(),
    chunks=(PushedChunk(index=0, data=b"zero"),),
)


def _answer(link: Any, message: Any) -> list[Any]:
    link.send(SendExchange(peer=b"peer", message=message, served=MANIFEST))
    return [decode_exchange(body) for body in _queued(link)]


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("stalling_peer", 0),
        ("claiming_relayer", 0),
        ("mute_relayer", 0),
        ("lying_relayer", 0),
        ("free_rider", 0),
        ("stalling_relayer", 0),
        ("endless_peer", REPETITIONS),
        ("misdealing_peer", 1),
    ],
)
async def test_what_leaves_is_what_the_rogue_makes_of_an_answer(name: str, answers: int) -> None:
    link, fed = _link(name)
    async with trio.open_nursery() as nursery:
        link._nursery = nursery
        said = _answer(link, CHUNKS)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert len(said) == answers
    if said:
        genuine = [(index, bytes(data)) for index, data in said[0].chunks]
        assert (genuine == list(CHUNKS.chunks)) == (name == "endless_peer")
    assert fed == [Flushed(payload_bytes=8)], "whatever left, the upload believes it did"


async def test_a_claimer_claims_all_and_pushes_nothing_and_its_relay_believes_it_did() -> None:
    link, _ = _link("claiming_relayer")
    part = BitfieldMessage(manifest_id=MANIFEST, component=0, bits=Bitfield(9).encode())
    (claim,) = _answer(link, part)
    assert Bitfield.decode(claim.bits, 9).is_full
    left: list[int] = []
    async with trio.open_nursery() as nursery:
        link._nursery = nursery
        link.send_relayed(RelayFrame(encode_relay(PUSH), MANIFEST, lambda: left.append(1)))
    assert left == [1]
    assert _queued(link) == []
    link.send_relayed(RelayFrame(encode_relay(_credit()), MANIFEST))
    assert [decode_relay(body) for body in _queued(link)] == [_credit()]


def _credit() -> Credit:
    return Credit(manifest_id=MANIFEST, firsts=(0,))


def test_refusals_go_the_ordinary_way() -> None:
    link, _ = _link("misdealing_peer")
    refusal = Reject(request_id=1, indices=Runs.of((1,)), reason=RejectReason.NOT_AVAILABLE)
    link.send(SendExchange(peer=b"peer", message=refusal, served=None))
    assert [effect.message for effect in link._queue] == [refusal]


async def test_a_staller_sends_the_same_seconds_late(autojump_clock: object) -> None:
    link, _ = _link("stalling_relayer")
    async with trio.open_nursery() as nursery:
        link._nursery = nursery
        link.send_relayed(RelayFrame(encode_relay(PUSH), MANIFEST))
        await trio.sleep(STALL_S - 0.1)
        assert _queued(link) == []
    assert [decode_relay(body) for body in _queued(link)] == [PUSH]


def test_stores_and_links_are_replaced_by_name(real_parts: None) -> None:
    store = MemoryStore()
    assert prepare(None)(store) is store
    assert isinstance(prepare("push_corrupter")(store), CorruptingStore)
    assert prepare("gossip_mob")(store) is store
    assert exchange.PeerLink.__name__ == "PeerLink"
    prepare("mute_relayer")
    assert issubclass(exchange.PeerLink, RogueLink)
    assert exchange.PeerLink.name == "mute_relayer"


# Gossip and hello --------------------------------------------------------------------------------


async def test_who_withholds_passes_nothing_on_and_offers_nothing() -> None:
    passed: list[object] = []

    async def publish(_forwarder: object, message: object) -> None:
        passed.append(message)

    router = SimpleNamespace(publish=publish, gossip_heartbeat=lambda: {"peer": {"topic": [b"x"]}})
    services: Any = SimpleNamespace(network=SimpleNamespace(_gossip=SimpleNamespace(router=router)))
    rogue_gossip.withhold(services)
    await router.publish("forwarder", SimpleNamespace(data=b"news"))
    assert passed == []
    assert not router.gossip_heartbeat()


def test_floods_are_new_each_time_large_and_of_one_seed() -> None:
    flooder, again = GossipFlooder(1), GossipFlooder(1)
    messages = [flooder.message() for _ in range(9)]
    assert len(set(messages)) == 9
    assert messages == [again.message() for _ in range(9)]
    assert all(len(message) <= GOSSIP_BYTES_MAX for message in messages)
    strangers = StrangerFlooder(1)
    said = [strangers.hello() for _ in range(9)]
    assert said.count(None) == 3
    assert max(len(each) for each in said if each) == HELLO_BYTES_MAX
    assert len({strangers.seed() for _ in range(9)}) == 9
    assert GossipFlooder(2).message() not in messages


# Blame -------------------------------------------------------------------------------------------


def test_culprits_are_named_and_the_honest_counted() -> None:
    blame = Blame({"gateway-2": "mute_relayer", "gateway-1": "push_corrupter"})
    blame.note_offences("gateway-1", {"bad_chunk": 2, "stalled": 1})
    blame.note_offences("gateway-3", {"stalled": 4})
    blame.note_offences(None, {"malformed": 1})
    blame.note_ban("gateway-1", "banned: bad_chunk")
    blame.note_ban("gateway-3", "banned: stalled")
    assert blame.of_honest == 0
    assert blame.notes == (
        "gateway-1 (push_corrupter): bad_chunk 2, banned 1, stalled 1",
        "gateway-2 (mute_relayer): blamed for nothing",
    )
    blame.note_offences("gateway-3", {"malformed": 1})
    blame.note_ban("gateway-4", "banned: forged")
    blame.note_convicted("validator-1")
    assert blame.of_honest == 3


# A whole run -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.network
def test_a_liar_among_validators_and_two_among_gateways_are_named_and_nobody_else(
    tmp_path: Path,
) -> None:
    scenario = Scenario(
        name="rogues",
        duration_s=200.0,
        gateways=Gateways(count=3),
        image=Image(size_kib=4096),
        releases=(ReleasePlan(publish_s=0.5), ReleasePlan(publish_s=3.0)),
        adversaries=(
            Adversary(name="double_proposer", count=1),
            Adversary(name="misdealing_peer", count=1),
            Adversary(name="gossip_flooder", count=1),
        ),
        expect=Expectations(finality_s=190.0, seeder_images=20.0),
    )
    outcome = run_processes(scenario, 1, tmp_path / "network", Isolation.LOOPBACK)
    assert outcome.passed, outcome.explain()
    assert outcome.verdict("blame").measured == 0
    assert outcome.verdict("nothing-bad-kept").passed
    assert [len(release.finished_s) for release in outcome.releases] == [1, 1]
    assert outcome.bad_members == 3
    named = {note.split("(")[1].split(")")[0]: note for note in outcome.notes if "(" in note}
    assert set(named) >= {"double_proposer", "misdealing_peer", "gossip_flooder"}
    assert "convicted" in named["double_proposer"]
    assert "banned" in named["gossip_flooder"]


@pytest.mark.slow
@pytest.mark.network
def test_beside_two_processes_with_one_key_the_chain_goes_on_and_nobody_else_is_blamed(
    tmp_path: Path,
) -> None:
    scenario = Scenario(
        name="twins",
        duration_s=200.0,
        gateways=Gateways(count=1),
        image=Image(size_kib=32),
        releases=(ReleasePlan(publish_s=4.0),),
        adversaries=(Adversary(name="twin", count=1),),
        expect=Expectations(finality_s=190.0, seeder_images=20.0),
    )
    outcome = run_processes(scenario, 1, tmp_path / "network", Isolation.LOOPBACK)
    assert outcome.passed, outcome.explain()
    assert outcome.bad_members == 1
    (twin,) = [note for note in outcome.notes if "(twin)" in note]
    (log,) = (tmp_path / "network").glob("validator-*-twin.log")
    assert twin.split()[0] == log.name.removesuffix("-twin.log")
    assert "seat" in log.read_text(), "the second one votes, too"
    for other in (tmp_path / "network").glob("*.log"):
        assert "Traceback" not in other.read_text()
