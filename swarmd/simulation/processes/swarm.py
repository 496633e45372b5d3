"""A swarm of daemons as processes: made, started, killed, asked over their control sockets.

Implements `OutsideSwarm`. Nothing here knows what runs inside a process; what a node says of itself
is compared with what the others say.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import trio

from protocol.approval import Action, Approval, sign_approval
from protocol.did import SubjectKind
from protocol.digest import Digest, ManifestId, PolicyId
from protocol.errors import TransportError
from protocol.group import DAY_MS
from swarmd.control.protocol import JSON, ControlError, ErrorCode
from swarmd.datadir import KeyName, load_key
from swarmd.demo.processes import NodeProcess
from swarmd.network_creation import LabNode, LabOptions
from swarmd.simulation.daemons.outside import PUBLISHER, Findings, View
from swarmd.simulation.daemons.timeline import draw_skews
from swarmd.simulation.links import NodeLink
from swarmd.simulation.processes.blame import Blame
from swarmd.simulation.processes.completions import completions
from swarmd.simulation.processes.disks import Disks, ToldDisks
from swarmd.simulation.processes.founding import create, introduce
from swarmd.simulation.processes.grounds import Grounds
from swarmd.simulation.processes.processors import ProcessorWatch, process_s
from swarmd.simulation.processes.rogues import ROGUES, UNASKED, Part, rogues
from swarmd.simulation.processes.twins import is_twin, make_twin
from swarmd.simulation.scenario import Fault, Scenario

_T = TypeVar("_T")
SETTLE_S: Final = 120.0
"""How long nodes may take to find each other, seconds; two dozen share two processors."""
BUSY_SHARE: Final = 0.7
"""Above this the processors, not the links, may have decided how long things took."""
_PRODUCT: Final = "simulated"
_OWNERS: Final = 2
"""Owners that decide."""
_BLOCKS: Final = 100
"""Blocks that one answer lists."""
_COUNTERS_EVERY: Final = 4
"""Looks from one reading of counters to the next."""
_RETRY_S: Final = 0.5
"""Between two questions about something that is awaited, seconds."""


class ProcessSwarm:
    """See the module's docstring."""

    look_s: Final = 0.5
    """A look costs two dozen processes a few milliseconds each."""

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        folder: Path,
        grounds: Grounds,
        disks: Disks | None = None,
    ) -> None:
        """Makes the network's folders; nothing runs yet.

        Args:
            scenario: says how many nodes there are, and who breaks the rules.
            seed: decides which gateways those are, and who knows whom first.
            folder: empty or new; for all data.
            grounds: where the processes stand.
            disks: what gateways write to; None: as on loopback.

        Raises:
            ConfigError: the scenario's numbers cannot be.
            StorageError: the folder is not empty or cannot be written.
        """
        self._scenario = scenario
        self._grounds = grounds
        self._folder = folder
        self._lab: Final = create(folder, scenario)
        introduce(self._lab, grounds, scenario.gateways.peers, seed)
        self._disks: Final = disks or ToldDisks(scenario, folder)
        self._disks.prepare([node.directory for node in self._lab.of_kind(SubjectKind.GATEWAY)])
        self._seed = seed
        self._skews_ms = draw_skews(scenario, seed)
        self._bad: Final = self._draw_bad(scenario, seed)
        self.gateways: Final = self._honest(SubjectKind.GATEWAY)
        """Those that keep the rules."""
        self.validators: Final = self._honest(SubjectKind.VALIDATOR)
        """Those that keep the rules."""
        self.adversaries: Final = tuple((each.name, each.count) for each in rogues(scenario))
        """Kinds with their numbers."""
        self._nodes: Final = {node.name: self._process(node) for node in self._lab.nodes}
        self._add_twins()
        self._running: dict[str, NodeProcess] = {}
        self._blocks: dict[str, dict[int, str]] = {name: {} for name in self._nodes}
        self._sent: dict[str, int] = dict.fromkeys(self._nodes, 0)
        self._sent_before: dict[str, int] = dict.fromkeys(self._nodes, 0)
        self._convicted: dict[tuple[str, str | None], None] = {}
        self._looks = 0
        self._processors = ProcessorWatch()
        self._cpu_before_s = 0.0
        self._cpu_ended_s = 0.0

    def _draw_bad(self, scenario: Scenario, seed: int) -> dict[str, str]:
        """Names of the nodes that break the rules, with their kind."""
        chance = random.Random(f"adversaries {seed}")  # noqa: S311 - replayed by seed
        places = {}
        for kind in (SubjectKind.GATEWAY, SubjectKind.VALIDATOR):
            names = [node.name for node in self._lab.of_kind(kind)]
            places[kind] = chance.sample(names, len(names))
        bad: dict[str, str] = {}
        for each in rogues(scenario):
            kind = SubjectKind.VALIDATOR if each.is_validator else SubjectKind.GATEWAY
            bad |= {places[kind].pop(): each.name for _ in range(each.count)}
        return bad

    def _add_twins(self) -> None:
        """Makes the second processes of validators that have one."""
        for node in self._lab.nodes:
            if (kind := self._bad.get(node.name)) and ROGUES[kind] is Part.TWIN:
                path = make_twin(self._lab, node, self._grounds)
                command = daemon_command(path, adversary=kind, seed=self._seed)
                command = [*self._grounds.command(node.name), *command]
                self._nodes[path.name] = NodeProcess(path, command)
                self._bad[path.name] = kind

    def _honest(self, kind: SubjectKind) -> tuple[str, ...]:
        return tuple(node.name for node in self._lab.of_kind(kind) if node.name not in self._bad)

    def _process(self, node: LabNode) -> NodeProcess:
        directory, name = node.directory.path, node.name
        command = daemon_command(
            directory,
            adversary=self._bad.get(name),
            skew_ms=self._skews_ms.get(name, 0),
            seed=self._seed,
            disk=self._disks.orders(name) if name.startswith("gateway-") else None,
        )
        return NodeProcess(directory, [*self._grounds.command(node.name), *command])

    @property
    def running(self) -> Collection[str]:
        """The nodes that run now."""
        return tuple(self._running)

    @property
    def links(self) -> Mapping[str, NodeLink] | None:
        """Of the place where they stand."""
        return self._grounds.links

    @property
    def pids(self) -> tuple[int, ...]:
        """Of the processes that were started and not ended by us."""
        return tuple(node.pid for node in self._nodes.values() if node.is_running)

    # Life ----------------------------------------------------------------------------------------

    async def start(self, *names: str) -> None:
        """Starts nodes, all of them if none is named; each listens when this returns. Those that
        are being started by somebody else are left to them.

        Raises:
            TransportError: a node ended, or took too long.
        """
        wanted = {name: self._nodes[name] for name in names or self._nodes}
        started = {name: node for name, node in wanted.items() if not node.is_running}
        for node in started.values():
            node.start()
        for name, node in started.items():
            await _in_thread(node.wait_ready)
            self._running[name] = node

    async def settle(self) -> None:
        """Waits until all follow the chain and nobody finds anybody new; then time begins.

        Twins take each other's connections for ever: with them it is enough that all follow.

        Raises:
            TransportError: it took too long, or a node ended.
        """
        before: list[int] = []
        with trio.move_on_after(SETTLE_S):
            while True:
                told = await self._ask_all(tuple(self._running), "status")
                peers = [row["peers"]["members"] + row["peers"]["validators"] for row in told]
                is_calm = peers == before or any(map(is_twin, self._nodes))
                if is_calm and min(peers) and min(row["height"] for row in told):
                    self._let_loose()
                    self._processors = ProcessorWatch()
                    self._cpu_before_s = self._cpu_s()
                    return
                before = peers
                await trio.sleep(2 * _RETRY_S)
        raise TransportError(f"the nodes did not find each other within {SETTLE_S:g} s")

    def _let_loose(self) -> None:
        """Has those that break the rules unasked begin with it."""
        for name, kind in self._bad.items():
            if ROGUES[kind] in UNASKED:
                os.kill(self._nodes[name].pid, signal.SIGUSR1)

    async def crash(self, *names: str) -> None:
        """Ends nodes by SIGKILL."""
        for name in names:
            node = self._running.pop(name)
            self._sent_before[name] += self._sent[name]
            self._sent[name] = 0
            self._cpu_ended_s += process_s(node.pid)
            node.kill()
        await trio.lowlevel.checkpoint()

    def end(self, *, is_orderly: bool) -> None:
        """Ends every process that was started, whether it is ready or not; never fails.

        Args:
            is_orderly: whether nodes may close what they have open.
        """
        for node in self._nodes.values():
            if is_orderly:
                node.signal_stop()
            else:
                node.signal_kill()
        for node in self._nodes.values():
            node.stop()

    def _cpu_s(self) -> float:
        """Processor seconds of all nodes so far, those that were killed included."""
        return self._cpu_ended_s + sum(process_s(pid) for pid in self.pids)

    async def disturb(self, fault: Fault, away: Sequence[str]) -> None:
        """Begins a partition or losses."""
        await trio.lowlevel.checkpoint()
        self._grounds.disturb(fault, away)

    async def calm(self) -> None:
        """Ends both."""
        await trio.lowlevel.checkpoint()
        self._grounds.calm()

    async def trouble(self, fault: Fault, names: Sequence[str]) -> None:
        """Fills or slows the disks of nodes."""
        await _in_thread(partial(self._disks.trouble, fault, names))

    async def relieve(self, fault: Fault, names: Sequence[str]) -> None:
        """Ends that."""
        await _in_thread(partial(self._disks.relieve, fault, names))

    # What people do ------------------------------------------------------------------------------

    async def propose(self, image: bytes, *, version: str) -> ManifestId:
        """Has the publisher stage and propose an image; final when this returns."""
        path = self._folder / f"image-{version}"
        path.write_bytes(image)
        params: dict[str, JSON] = {
            "path": str(path),
            "product": _PRODUCT,
            "version": version,
            "groups": [LabOptions().group],
        }
        try:
            told = await self._ask(PUBLISHER, "publish", params)
        except ControlError as error:
            if error.code is not ErrorCode.NOT_YET:
                raise
            return await self._await_manifest(version)
        return ManifestId(bytes.fromhex(told["manifest"]))

    async def _await_manifest(self, version: str) -> ManifestId:
        """Waits, for ever if need be, until a proposal that was handed in is on the ledger."""
        while True:
            for row in await self._ask(PUBLISHER, "images"):
                if row["version"] == version:
                    return ManifestId(bytes.fromhex(row["manifest"]))
            await trio.sleep(_RETRY_S)

    async def approve(self, manifest: ManifestId) -> None:
        """Has two owners approve a release; final when this returns."""
        await self._decide(Action.AUTHORISE, manifest, "authorised")

    async def revoke(self, manifest: ManifestId) -> None:
        """Has two owners revoke a release; final when this returns."""
        await self._decide(Action.REVOKE, manifest, "revoked")

    async def _decide(self, action: Action, manifest: ManifestId, goal: str) -> None:
        told = await self._ask(PUBLISHER, "manifest", {"manifest": manifest.hex()})
        group = told["groups"][0]
        approval = Approval(
            era=told["era"],
            action=action,
            subject=Digest(manifest),
            group=group["group"],
            policy=PolicyId(bytes.fromhex(group["policy"])),
            valid_until_ms=told["now_ms"] + DAY_MS,
        )
        keys = [load_key(path) for path in self._lab.owner_keys[:_OWNERS]]
        signed = [sign_approval(approval, key, self._lab.chain).signed.raw.hex() for key in keys]
        params: dict[str, JSON] = {
            "manifest": manifest.hex(),
            "action": action.name.lower(),
            "approvals": signed,
        }
        try:
            await self._ask(PUBLISHER, "submit_approvals", params)
        except ControlError as error:
            if error.code is not ErrorCode.NOT_YET:
                raise
            await self._await(manifest, goal)

    async def _await(self, manifest: ManifestId, goal: str) -> None:
        """Waits, for ever if need be, for a decision that was handed in."""
        params: dict[str, JSON] = {"manifest": manifest.hex(), "for": goal, "timeout_s": 3600.0}
        while True:
            try:
                await self._ask(PUBLISHER, "wait", params)
            except ControlError as error:
                if error.code is not ErrorCode.NOT_YET:
                    raise
            else:
                return

    # Looking -------------------------------------------------------------------------------------

    async def look(self) -> View:
        """Asks every node that runs; those that are killed meanwhile do not count.

        Raises:
            TransportError: a node ended by itself.
        """
        complete: dict[str, Collection[Digest]] = {}
        counts = self._looks % _COUNTERS_EVERY == 0
        self._looks += 1
        async with trio.open_nursery() as nursery:
            if counts and any(name.startswith("validator-") for name in self._bad):
                nursery.start_soon(self._read_convicted)
            for name in self.running:
                if name in self.validators:
                    nursery.start_soon(self._read_blocks, name)
                elif counts:
                    nursery.start_soon(self._read_counters, name)
                if name in self.gateways:
                    nursery.start_soon(self._read_images, name, complete)
        return View(
            heights={
                name: max(self._blocks[name], default=0)
                for name in self.validators
                if name in self._running
            },
            complete={name: complete[name] for name in self.gateways if name in complete},
            seeder_bytes=self._sent_by(PUBLISHER),
            gateway_bytes=self._sent_by(*self.gateways),
            adversary_bytes=self._sent_by(*self._bad),
        )

    def _sent_by(self, *names: str) -> int:
        return sum(self._sent[name] + self._sent_before[name] for name in names)

    async def _read_images(self, name: str, complete: dict[str, Collection[Digest]]) -> None:
        rows = await self._ask_running(name, "images")
        if rows is not None:
            complete[name] = tuple(
                Digest(bytes.fromhex(part["sha256"]))
                for row in rows
                for part in row["components"]
                if part["have"] == part["chunks"]
            )

    async def _read_counters(self, name: str) -> None:
        told = await self._ask_running(name, "status")
        if told is not None:
            self._sent[name] = told["exchange"]["sent_bytes"]

    async def _read_blocks(self, name: str) -> None:
        """Reads the blocks that are final at a node since the last time."""
        seen = self._blocks[name]
        while True:
            first = max(seen, default=-1) + 1
            told = await self._ask_running(name, "ledger", {"from": first})
            if told is None:
                return
            seen.update((row["height"], row["block"]) for row in told["blocks"])
            if len(told["blocks"]) < _BLOCKS:
                return

    async def find(self) -> Findings:
        """Compares chains, asks who blames whom, and reads every image that a gateway has."""
        share, cpu_s = self._processors.share(), self._cpu_s() - self._cpu_before_s
        view = await self.look()
        await self._read_counters(PUBLISHER)
        for name in self.running:
            self._blocks[name] = {} if name not in self.validators else self._blocks[name]
            await self._read_blocks(name)
        blame = await self._read_blame()
        notes = [*self._grounds.notes, *blame.notes]
        if self._scenario.expect.bad_share is not None:
            notes.append("expect.bad_share is not judged: nobody outside sees what is refused")
        if share > BUSY_SHARE:
            notes.append(
                f"the processors were busy to {share:.0%}: they, not the links, may have decided"
            )
        return Findings(
            seeder_bytes=self._sent_by(PUBLISHER),
            disagreements=self._disagreements(),
            offences=blame.of_honest,
            spoilt=await self._spoilt(view),
            completions=completions(
                ((name, self._nodes[name].log_path) for name in self.gateways),
                trio.current_time(),
            ),
            cpu_share=share,
            cpu_s=cpu_s,
            notes=tuple(notes),
        )

    def _disagreements(self) -> int:
        """Heights at which not all nodes have the same block."""
        by_height: dict[int, set[str]] = {}
        for name, blocks in self._blocks.items():
            for height, block in () if name in self._bad else blocks.items():
                by_height.setdefault(height, set()).add(block)
        return sum(len(blocks) > 1 for blocks in by_height.values())

    async def _read_blame(self) -> Blame:
        """What honest nodes hold against whom."""
        names = {
            node.directory.load_key(KeyName.TRANSPORT).public.raw.hex()[:16]: node.name
            for node in self._lab.nodes
        }
        blame = Blame({name: kind for name, kind in self._bad.items() if not is_twin(name)})
        for name in self.running:
            if name in self._bad:
                continue
            for peer in await self._ask(name, "peers"):
                blame.note_offences(peer["name"], peer["offences"])
            for entry in await self._ask(name, "receipts", {"count": 1000}):
                if entry["detail"].startswith("banned: "):
                    blame.note_ban(names.get(entry["subject"]), entry["detail"])
        await self._read_convicted()
        for _, culprit in self._convicted:
            blame.note_convicted(culprit)
        return blame

    async def _read_convicted(self) -> None:
        """Reads whom validators hold for convicted; they say so until the epoch ends."""
        told: dict[str, Any] = {}
        for node in self._lab.of_kind(SubjectKind.VALIDATOR):
            if node.name in self._running:
                status = await self._ask_running(node.name, "status")
                told |= {} if status is None else {node.name: status["consensus"]}
        seats = {row["seat"]: name for name, row in told.items()}
        for name in self.validators:
            for seat in told[name]["convicted"] if name in told else ():
                self._convicted[name, seats.get(seat)] = None

    async def _spoilt(self, view: View) -> int:
        """Complete images of gateways whose file is not the image."""
        found = 0
        for name in view.complete:
            for row in await self._ask(name, "images"):
                if not row["complete"] or row["standing"] != "authorised":
                    continue
                told = await self._ask(name, "fetch", {"manifest": row["manifest"]})
                content = await trio.to_thread.run_sync(Path(told["path"]).read_bytes)
                found += hashlib.sha256(content).hexdigest() != told["sha256"]
        return found

    # Asking --------------------------------------------------------------------------------------

    async def _ask(self, name: str, method: str, params: Mapping[str, JSON] | None = None) -> Any:
        return await _in_thread(partial(self._nodes[name].call, method, params))

    async def _ask_running(
        self, name: str, method: str, params: Mapping[str, JSON] | None = None
    ) -> Any:
        """Asks; None: the node was killed meanwhile."""
        node = self._running.get(name)
        try:
            return await self._ask(name, method, params)
        except (TransportError, ControlError) as error:
            if node is None or self._running.get(name) is not node:
                return None
            if not node.is_running:
                raise TransportError(f"{name} ended by itself: {node.last_words()}") from error
            raise

    async def _ask_all(self, names: Sequence[str], method: str) -> list[Any]:
        answers: dict[str, Any] = {}

        async def ask(name: str) -> None:
            answers[name] = await self._ask(name, method)

        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(ask, name)
        return [answers[name] for name in names]


async def _in_thread(call: Callable[[], _T]) -> _T:
    """Waits in a thread, which is left behind where the wait is cancelled: it holds nothing."""
    # trio-typing, which libp2p brings, describes an older trio.
    return await trio.to_thread.run_sync(
        call,
        abandon_on_cancel=True,  # type: ignore[call-arg]
    )


def daemon_command(
    directory: Path,
    *,
    adversary: str | None = None,
    skew_ms: int = 0,
    seed: int = 1,
    disk: Path | None = None,
) -> list[str]:
    """What runs a node: the daemon, or one with other rules, another clock or another disk."""
    if adversary is None and not skew_ms and disk is None:
        return [sys.executable, "-m", "swarmd", "run", "-C", str(directory)]
    module = "swarmd.simulation.processes.rogue_node"
    words = [sys.executable, "-m", module, str(directory), f"--skew-ms={skew_ms}", f"--seed={seed}"]
    words += [] if disk is None else [f"--disk={disk}"]
    return words if adversary is None else [*words, f"--adversary={adversary}"]
