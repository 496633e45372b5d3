"""Outside witnesses: without a recent note on this node's own log, nothing is offered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from protocol.digest import sha256
from protocol.errors import ConfigError
from protocol.keys import PrivateKey
from protocol.policy import Witnesses
from protocol.tlog import (
    Checkpoint,
    Note,
    NoteKey,
    NoteSignature,
    SignatureType,
    cosign,
    log_origin,
    merge_notes,
)
from swarmd.config import FloorConfig
from swarmd.export.tiles import checkpoint_of
from swarmd.floor import Floor
from swarmd.questions import Denial, Permit
from swarmd.services.witnessing import WitnessService
from swarmd.witnesses import NOTE_NAME, SKEW_MS, WitnessBook
from tests.support.authority import Bench, make_bench
from tests.support.ledger import HOUR_MS, advance, make_key, make_lab, make_policy

NAMES = ("witness.example/a", "witness.example/b", "witness.example/c")


def key_of(name: str) -> PrivateKey:
    return make_key(f"key of {name}")


def vkey(name: str) -> NoteKey:
    return NoteKey(name=name, kind=SignatureType.COSIGNATURE, key=key_of(name).public)


def demand(threshold: int = 2) -> Witnesses:
    keys = sorted((vkey(name) for name in NAMES), key=lambda key: key.encode())
    return Witnesses(threshold, tuple(keys))


class Yard:
    """A gateway whose data directory notes are dropped into."""

    def __init__(self, folder: Path, *, policy: bool) -> None:
        book = WitnessBook()
        floor = Floor() if policy else Floor(witnesses=demand(), witness_age_ms=HOUR_MS)
        lab = make_lab(policy=make_policy(witnesses=demand())) if policy else make_lab()
        self.bench: Bench = make_bench(lab, floor=floor, witnesses=book)
        self.path = folder / NOTE_NAME
        self.service = WitnessService(self.path, self.bench.ledger, book)
        self.rule = "policy.witnesses" if policy else "floor.witnesses"

    async def release(self) -> None:
        self.manifest = await self.bench.authorise(self.bench.lab.manifest())

    @property
    def head(self) -> Checkpoint:
        return checkpoint_of(self.bench.chain.head)

    def note(
        self,
        names: tuple[str, ...] = NAMES[:2],
        checkpoint: Checkpoint | None = None,
        *,
        ago_ms: int = 0,
    ) -> Note:
        wanted = checkpoint or self.head
        time_s = (self.bench.chain.head.time_ms - ago_ms) // 1000
        lines = [cosign(wanted, name, key_of(name), time_s=time_s) for name in names]
        return merge_notes([Note(wanted.encode(), (line,)) for line in lines])

    async def drop(self, note: Note | bytes) -> str:
        """Puts a note there; returns what an offer is refused for, or nothing."""
        self.path.write_bytes(note if isinstance(note, bytes) else note.encode())
        await self.service.look()
        return self.refusal()

    def refusal(self) -> str:
        verdict = self.bench.authority.may_offer(self.manifest.manifest_id)
        assert isinstance(self.bench.authority.may_fetch(self.manifest.manifest_id), Permit)
        if isinstance(verdict, Denial):
            assert verdict.may_retry
            return verdict.rule
        return ""


@pytest.fixture(params=["policy", "floor"])
async def yard(request: Any, tmp_path: Path) -> Yard:
    made = Yard(tmp_path, policy=request.param == "policy")
    await made.release()
    return made


async def test_enough_witnesses_of_the_own_log_let_offers_pass(yard: Yard) -> None:
    assert yard.refusal() == yard.rule, "no note at all"
    assert await yard.drop(yard.note()) == ""
    assert await yard.drop(yard.note(NAMES)) == ""
    yard.path.unlink()
    await yard.service.look()
    assert yard.refusal() == yard.rule, "it was taken away"


async def test_a_note_from_before_the_release_does_not_cover_it(yard: Yard) -> None:
    note = yard.note()
    assert await yard.drop(note) == ""
    old, yard.manifest = (
        yard.manifest,
        await yard.bench.authorise(yard.bench.lab.manifest(sequence=2)),
    )
    assert await yard.drop(note) == yard.rule, "an honest log, but too little of it"
    yard.manifest = old
    assert yard.refusal() == ""


async def test_other_logs_do_not_count(yard: Yard) -> None:
    head = yard.head
    others = [
        replace(head, root=sha256(b"what validators showed the witnesses")),
        replace(head, size=head.size - 1),
        replace(head, size=head.size + 1),
        replace(head, origin=log_origin(sha256(b"another chain"), 0)),
        replace(head, origin=log_origin(yard.bench.lab.chain_id, 1)),
    ]
    for other in others:
        assert await yard.drop(yard.note(checkpoint=other)) == yard.rule


async def test_too_few_old_future_and_forged_ones_do_not_count(yard: Yard) -> None:
    good = yard.note(NAMES[:1])
    assert await yard.drop(good) == yard.rule, "too few"
    assert await yard.drop(yard.note(ago_ms=400 * 24 * HOUR_MS)) == yard.rule, "old"
    assert await yard.drop(yard.note(ago_ms=-2 * SKEW_MS)) == yard.rule, "future"
    stranger = cosign(
        yard.head, NAMES[1], make_key("thief"), time_s=yard.bench.chain.head.time_ms // 1000
    )
    assert await yard.drop(Note(good.text, (*good.signatures, stranger))) == yard.rule
    second = yard.note(NAMES[1:2]).signatures[0]
    spoilt = NoteSignature(
        second.name, second.key_id, second.signature[:-1] + bytes([second.signature[-1] ^ 1])
    )
    assert await yard.drop(Note(good.text, (*good.signatures, spoilt))) == yard.rule
    twice = Note(good.text, (*good.signatures, *good.signatures))
    assert await yard.drop(twice) == yard.rule, "one witness counts once"


async def test_garbage_is_no_note(yard: Yard) -> None:
    for data in (b"", b"no note\n", yard.note().encode()[:-1], b"x" * 70_000):
        assert await yard.drop(data) == yard.rule


async def test_an_older_head_that_covers_the_release_is_enough(yard: Yard) -> None:
    before = yard.note()
    await yard.bench.commit(
        lambda: (
            advance(
                yard.bench.lab,
                yard.bench.chain,
                [yard.bench.lab.propose(yard.bench.lab.manifest(sequence=7))],
            ),
        )
    )
    assert await yard.drop(before) == "", "an older head that covers the release is enough"


def offenders() -> Iterator[dict[str, Any]]:
    good = vkey(NAMES[0]).encode()
    yield {"witnesses": (good,), "witness_threshold": 2}
    renamed = replace(vkey(NAMES[0]), name="other.example").encode()
    yield {"witnesses": (good, renamed), "witness_threshold": 1}


@pytest.mark.parametrize("settings", list(offenders()))
def test_a_floor_that_cannot_be_met_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        FloorConfig(**settings).demands()


def test_a_floor_names_witnesses() -> None:
    keys = tuple(vkey(name).encode() for name in NAMES)
    floor = FloorConfig(witnesses=keys, witness_threshold=2).demands()
    assert floor.witnesses == demand()
    assert FloorConfig().demands().witnesses is None
