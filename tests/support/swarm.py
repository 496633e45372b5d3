"""Whole production nodes in one process: a laboratory that tests start, crash and tamper with.

Every node is a `swarmd.node.Node` over its own data directory. They share a wire in memory unless a
test gives them another; everything else is what the daemon runs. Waiting is always for a condition,
within `LIMIT_S`.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from chunks.store import ChunkStore, ImageState
from ledger.bodies.manifest import ApproveManifest, RevokeManifest
from ledger.bodies.subject import CreateSubject, RotateKeys, SuspendSubject, rotation_message
from ledger.transition.kind import Body
from protocol.approval import Action, Approval, sign_approval
from protocol.did import KeyPurpose, Keys, SubjectKind, rotating
from protocol.digest import ChainId, DidId, Digest, PolicyId
from protocol.genesis import decode_genesis
from protocol.group import DAY_MS
from protocol.keys import PrivateKey
from protocol.limits import STATE_SNAPSHOT_INTERVAL
from protocol.manifest import SignedManifest
from swarmd.clock import Clock, SystemClock
from swarmd.config import Config, Endpoint
from swarmd.config_template import render_config
from swarmd.datadir import DataDir, KeyName, load_key, write_atomic
from swarmd.enrolment import JoinFile, NodePlan, create_node, load_join
from swarmd.entropy import Entropy, SeededEntropy, SystemEntropy
from swarmd.net.address import PeerAddress, PeerKey, bootstrap_peers
from swarmd.net.memory import MemoryWire
from swarmd.net.wire import Wire
from swarmd.network_creation import LabOptions, create_lab, node_config
from swarmd.node import Node
from swarmd.peers import PeerClass
from swarmd.publisher import Release
from swarmd.running_node import RunningNode

LIMIT_S = 60.0
"""Every wait ends by then, seconds: far more than it takes, for a machine that is busy."""
GROUP = "fleet"
PRODUCT = "pump"
VALIDATORS = tuple(f"validator-{number}" for number in range(1, 5))
BASE_PORT = 10_000 + 200 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
"""First port of a laboratory on TCP; each test process has its own, below the system's range."""
_LABS: dict[LabOptions, Path] = {}


async def until(condition: Callable[[], object], what: str = "condition") -> None:
    """Lets the nodes run until something holds."""
    with trio.move_on_after(LIMIT_S) as scope:
        while not condition():  # noqa: ASYNC110 - any state of a node may be waited for
            await trio.sleep(0.002)
    assert not scope.cancelled_caught, f"never: {what}"


def lab_copy(path: Path, options: LabOptions, cache: Path) -> Path:
    """A laboratory's folder: made once for each shape, copied for each test."""
    if options not in _LABS:
        made = cache / f"lab-{len(_LABS)}"
        create_lab(made, options, SeededEntropy(1, repr(options)), SystemClock())
        _LABS[options] = made
    shutil.copytree(_LABS[options], path)
    return path


@dataclass
class Process:
    """One node that runs, or ran."""

    name: str
    node: Node
    scope: trio.CancelScope
    ended: trio.Event
    stop: trio.Event

    @property
    def services(self) -> RunningNode:
        assert self.node.services is not None, "the node runs"
        return self.node.services


@dataclass
class Swarm:
    """A laboratory and the nodes of it that run."""

    path: Path
    nursery: trio.Nursery
    wire: Wire
    chain: ChainId
    running: dict[str, Process] = field(default_factory=dict)

    def __getitem__(self, name: str) -> RunningNode:
        """The services of a running node."""
        return self.running[name].services

    def directory(self, name: str) -> DataDir:
        return DataDir(self.path / name)

    def key(self, name: str, key: KeyName = KeyName.NODE) -> PrivateKey:
        return self.directory(name).load_key(key)

    @property
    def owners(self) -> list[PrivateKey]:
        return [load_key(path) for path in sorted((self.path / "keys").glob("owner-*.key"))]

    def names(self, role: str) -> list[str]:
        """All nodes of a role, running or not."""
        return sorted(path.name for path in self.path.glob(f"{role}-*"))

    def configure(self, name: str, change: Callable[[Config], Config]) -> None:
        """Rewrites a node's configuration."""
        directory = self.directory(name)
        write_atomic(directory.config, render_config(change(directory.load_config())).encode())

    def address(self, name: str) -> PeerAddress:
        """Where a node listens, and the transport key in its folder now."""
        listen = self.directory(name).load_config().network.listen[0]
        return PeerAddress(self.peer(name), listen.host, listen.port)

    def peer(self, name: str) -> PeerKey:
        return PeerKey(self.key(name, KeyName.TRANSPORT).public.raw)

    def only_peers(self, name: str, *others: str) -> None:
        """Leaves a node no other addresses than these; nobody tells it of more."""
        addresses = tuple(self.address(other) for other in others)
        self.configure(
            name,
            lambda config: dataclasses.replace(
                config,
                network=dataclasses.replace(
                    config.network, bootstrap=addresses, peer_exchange=False
                ),
            ),
        )

    def isolate(self, name: str, *allowed: str) -> None:
        """No other node dials this one, and it dials only `allowed`."""
        self.only_peers(name, *allowed)
        for folder in self.path.glob("*/config.toml"):
            other = folder.parent.name
            if other != name:
                mine = self.directory(other).load_config().network.bootstrap
                kept = tuple(item for item in bootstrap_peers(mine) if item.peer != self.peer(name))
                self.configure(
                    other,
                    lambda config, kept=kept: dataclasses.replace(  # type: ignore[misc]
                        config, network=dataclasses.replace(config.network, bootstrap=kept)
                    ),
                )

    # -- life ----------------------------------------------------------------------------------

    async def start(
        self,
        *names: str,
        clock: Clock | None = None,
        entropy: Entropy | None = None,
        wire: Wire | None = None,
        wrap_store: Callable[[ChunkStore], ChunkStore] = lambda store: store,
        before: Callable[[RunningNode], None] | None = None,
        lock: bool = True,
        snapshot_interval: int = STATE_SNAPSHOT_INTERVAL,
    ) -> None:
        """Starts nodes; each is listening when this returns."""
        for name in names:
            data = self.directory(name)
            stop, ended = trio.Event(), trio.Event()
            node = Node(
                data,
                clock=clock or SystemClock(),
                entropy=entropy or SystemEntropy(),
                stop=stop.set,
                wire=wire or self.wire,
                wrap_store=wrap_store,
                snapshot_interval=snapshot_interval,
            )
            process = Process(name, node, trio.CancelScope(), ended, stop)
            await self.nursery.start(self._run, process, data, before, lock)
            self.running[name] = process

    async def _run(
        self,
        process: Process,
        data: DataDir,
        before: Callable[[RunningNode], None] | None,
        lock: bool,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        data.check_usable()
        try:
            with process.scope, data.lock() if lock else trio.CancelScope():
                async with process.node.running():
                    if before is not None:
                        before(process.services)
                    task_status.started()
                    await process.stop.wait()
        finally:
            process.ended.set()

    async def stop(self, *names: str) -> None:
        """Stops nodes in order."""
        for name in names:
            process = self.running.pop(name)
            process.stop.set()
            await process.ended.wait()

    async def crash(self, *names: str) -> None:
        """Ends nodes without any of what an orderly stop does."""
        for name in names:
            process = self.running.pop(name)

            async def lost(_saved: bytes) -> None:
                await trio.lowlevel.checkpoint()

            process.services.freshness._save = lost
            process.scope.cancel()
            await process.ended.wait()

    def is_alive(self, name: str) -> bool:
        return name in self.running and not self.running[name].ended.is_set()

    # -- waiting -------------------------------------------------------------------------------

    async def until_met(self, *names: str) -> None:
        """Waits until these nodes know each other as members."""
        for name in names:
            for other in names:
                if other != name:
                    await until(
                        lambda name=name, other=other: (
                            self.class_of(name, other)  # type: ignore[misc]
                            >= PeerClass.MEMBER
                        ),
                        f"{name} knows {other}",
                    )

    def class_of(self, name: str, other: str) -> PeerClass:
        """What a node takes another one for."""
        return self[name].registry.peer_class(self.peer(other))

    def height(self, name: str) -> int:
        return self[name].ledger.chain.head.height

    async def until_height(self, height: int, *names: str) -> None:
        for name in names or tuple(self.running):
            await until(
                lambda name=name: self.height(name) >= height,  # type: ignore[misc]
                f"{name} at height {height}",
            )

    def holds(self, name: str, digest: Digest) -> bool:
        """Whether a node has a complete image."""
        return any(
            record.image == digest and record.state is ImageState.COMPLETE
            for record in self[name].store.images()
        )

    # -- what people do ------------------------------------------------------------------------

    @property
    def policy(self) -> PolicyId:
        node = next(iter(self.running.values())).services
        group = node.ledger.chain.state.group(GROUP)
        assert group is not None
        return group.policy

    def approvals(
        self, action: Action, subject: bytes, *, owners: Sequence[int] = (0, 1)
    ) -> tuple[bytes, ...]:
        """Approvals by some owners."""
        node = next(iter(self.running.values())).services
        approval = Approval(
            era=node.ledger.chain.head.era,
            action=action,
            subject=Digest(subject),
            group=GROUP,
            policy=self.policy,
            valid_until_ms=SystemClock().wall_ms() + DAY_MS,
        )
        return tuple(
            sign_approval(approval, self.owners[index], self.chain).signed.raw for index in owners
        )

    async def submit(self, body: Body, *, by: str = "publisher-1") -> int:
        """Submits a transaction by a node; returns the height at which it became final."""
        submission = self[by].submission
        return await submission.wait_final(await submission.submit(body), LIMIT_S)

    async def propose(
        self, image: bytes, *, version: str = "1.0", product: str = PRODUCT
    ) -> SignedManifest:
        """Stages and proposes an image; final when this returns."""
        publisher = self["publisher-1"].publisher
        assert publisher is not None
        path = self.path / f"image-{version}"
        path.write_bytes(image)
        release = Release(path=path, product=product, version=version, groups=(GROUP,), metadata={})
        signed = await publisher.stage(release)
        transaction = await publisher.propose(signed)
        await self["publisher-1"].submission.wait_final(transaction, LIMIT_S)
        return signed

    async def approve(self, signed: SignedManifest, *, owners: Sequence[int] = (0, 1)) -> int:
        approvals = self.approvals(Action.AUTHORISE, signed.manifest_id, owners=owners)
        return await self.submit(
            ApproveManifest(manifest=signed.manifest_id, group=GROUP, approvals=approvals)
        )

    async def revoke(self, signed: SignedManifest, *, owners: Sequence[int] = (0, 1)) -> int:
        approvals = self.approvals(Action.REVOKE, signed.manifest_id, owners=owners)
        return await self.submit(
            RevokeManifest(manifest=signed.manifest_id, group=GROUP, approvals=approvals)
        )

    async def release(
        self, image: bytes, *, version: str = "1.0", product: str = PRODUCT
    ) -> SignedManifest:
        """Proposes and has two owners approve an image."""
        signed = await self.propose(image, version=version, product=product)
        await self.approve(signed)
        return signed

    async def suspend(self, name: str) -> int:
        did = self.did(name)
        return await self.submit(
            SuspendSubject(did=did, group=GROUP, approvals=self.approvals(Action.SUSPEND, did))
        )

    def did(self, name: str) -> DidId:
        return load_join(self.directory(name).join).record.did

    def new_gateway(self, name: str, *peers: str) -> JoinFile:
        """Makes the folder of a gateway that the ledger does not know."""
        return self._new_node(SubjectKind.GATEWAY, name, *peers)

    def new_validator(self, name: str, *peers: str) -> JoinFile:
        """Makes the folder of a validator that the ledger does not know."""
        return self._new_node(SubjectKind.VALIDATOR, name, *peers)

    def _new_node(self, kind: SubjectKind, name: str, *peers: str) -> JoinFile:
        port = 60_000 + len(list(self.path.glob("*/config.toml")))
        plan = NodePlan(
            kind=kind,
            name=name,
            groups=(GROUP,),
            reachable=(("127.0.0.1", port),),
        )
        config = node_config(plan, listen=(Endpoint("127.0.0.1", port),), http=None)
        directory = self.directory(name)
        join = create_node(directory, plan, config, SeededEntropy(9, name))
        shutil.copy(self.path / "genesis.cbor", directory.genesis)
        self.only_peers(name, *peers)
        return join

    async def enrol(self, join: JoinFile) -> int:
        """Admits a new node by two owners."""
        approvals = self.approvals(Action.ENROL, join.record.did)
        return await self.submit(CreateSubject(join=join.statement, approvals=(approvals,)))

    def rotation(self, name: str) -> tuple[RotateKeys, Callable[[], None]]:
        """A rotation to the keys a node committed to, and what puts them in its folder."""
        directory = self.directory(name)
        purposes = rotating(_purposes(name))
        following = {
            purpose: load_key(directory.key_path(KeyName(purpose.name.lower()).next))
            for purpose in purposes
        }
        keys: Keys = tuple((purpose, key.public) for purpose, key in following.items())
        did = self.did(name)
        message = rotation_message(self.chain, 0, did, sequence=1, keys=keys, next_keys=None)
        body = RotateKeys(
            did=did,
            keys=keys,
            next_keys=None,
            signatures=tuple(key.sign(message) for key in following.values()),
        )

        def install() -> None:
            for purpose, key in following.items():
                path = directory.key_path(KeyName(purpose.name.lower()))
                write_atomic(path, key.to_pem())

        return body, install


def _purposes(name: str) -> Sequence[KeyPurpose]:
    third = {"validator": (KeyPurpose.VALIDATOR,), "publisher": (KeyPurpose.PERSON,)}
    return (KeyPurpose.TRANSPORT, KeyPurpose.NODE, *third.get(name.split("-", maxsplit=1)[0], ()))


@asynccontextmanager
async def swarm(
    tmp_path: Path, *, wire: Wire | None = None, http: Sequence[str] = (), **options: object
) -> AsyncIterator[Swarm]:
    """A laboratory with nothing running; what runs at the end is crashed.

    Args:
        tmp_path: the test's own folder; a shared cache stands beside it.
        wire: what carries bytes; None: one wire in memory for all.
        http: gateways that serve devices, each on a free port.
        options: fields of `LabOptions`.
    """
    settings = {"gateways": 2, "heartbeat_ms": 60_000, "base_port": BASE_PORT, **options}
    shape = LabOptions(**settings)  # type: ignore[arg-type]
    path = lab_copy(tmp_path / "lab", shape, tmp_path.parent)
    chain = decode_genesis((path / "genesis.cbor").read_bytes()).chain
    async with trio.open_nursery() as nursery:
        lab = Swarm(path, nursery, wire or MemoryWire(), chain)
        for name in lab.names("gateway"):
            listen = Endpoint("127.0.0.1", 0) if name in http else None
            lab.configure(
                name,
                lambda config, listen=listen: dataclasses.replace(  # type: ignore[misc]
                    config, http=dataclasses.replace(config.http, listen=listen)
                ),
            )
        yield lab
        await lab.crash(*lab.running)
        nursery.cancel_scope.cancel()
