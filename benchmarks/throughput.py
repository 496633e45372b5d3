"""Sustained transactions a second of four validator processes on loopback, beside the floor.

    python -m benchmarks.throughput [--seconds 20] [--signers 47]

The validators are daemons; this process is a gateway that hands over transactions, signed by many
gateways, to each validator and follows the chain. As many wait as nonce windows allow; those of 47
gateways of one group are as many as the group may have waiting (docs/spec/quotas.md, Q43). The
floor is measured in the same run: what the signature checks and flushes of such blocks alone would
take, all validators on this machine's cores. The processor time of all five processes is
given too, since it says what a machine with nothing else to do would reach. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import trio

from benchmarks.finality import fsync_ms
from ledger.bodies.receipt import AnchorReceipts
from ledger.chain_blocks import CommitResult
from ledger.transition.kinds import kind_of
from protocol.catchup import (
    decode_ledger_message,
    encode_ledger_message,
)
from protocol.did import SubjectKind
from protocol.digest import ChainId, DidId, TransactionId, sha256
from protocol.keys import PrivateKey
from protocol.limits import NONCE_WINDOW
from protocol.submit_messages import (
    BATCH_TRANSACTIONS_MAX,
    SubmitBatchAnswer,
    SubmitBatchRequest,
)
from protocol.transaction import SignedTransaction, Transaction, sign_transaction
from swarmd.clock import SystemClock
from swarmd.config_template import render_config
from swarmd.datadir import DataDir, KeyName, write_atomic
from swarmd.demo.processes import NodeProcess, free_ports
from swarmd.entropy import SystemEntropy
from swarmd.net.address import PeerKey
from swarmd.net.network import Stream
from swarmd.network_creation import Lab, LabOptions, create_lab
from swarmd.node import Node
from swarmd.peers import PeerClass
from swarmd.services.ledger_service import STREAM_BYTES_MAX

VALIDATORS = 4
"""Validator processes."""
WARM_UP_S = 4.0
"""Time before measuring begins, seconds."""
LIFETIME_MS = 3_600_000
"""Validity of the transactions."""
FLUSHES_PER_BLOCK = 3
"""Of one validator: two appends to its vote journal, one commit of the ledger."""
BATCHES_PER_STREAM = 1000
"""A stream takes 1,024 requests."""
RETRY_S = 0.05
"""Pause before what was refused for now is sent again, seconds."""


@dataclass
class Signer:
    """A gateway whose transactions are sent from here."""

    did: DidId
    key: PrivateKey
    nonce: int = 0
    """Next nonce to send."""
    final: int = 0
    """Transactions that are final."""

    def next(self, chain: ChainId, now_ms: int) -> SignedTransaction:
        """Signs the next anchor."""
        body = AnchorReceipts(size=self.nonce + 1, root=sha256(b"%d" % self.nonce))
        transaction = Transaction(
            era=0,
            signer=self.did,
            nonce=self.nonce,
            valid_until_ms=now_ms + LIFETIME_MS,
            kind=kind_of(body),
            body=body.to_value(),
        )
        self.nonce += 1
        return sign_transaction(transaction, self.key, chain)


@dataclass
class Load:
    """Keeps every signer's window full at every validator, and counts what becomes final."""

    node: Node
    signers: dict[DidId, Signer]
    owner_of: dict[TransactionId, DidId] = field(default_factory=dict)
    count: int = 0
    blocks: int = 0
    refusals: dict[str, int] = field(default_factory=dict)
    wake: trio.Event = field(default_factory=trio.Event)

    def on_commit(self, result: CommitResult) -> None:
        """Counts a final block."""
        for name, _kind in result.transactions:
            owner = self.owner_of.pop(name, None)
            if owner is not None:
                self.count += 1
                self.signers[owner].final += 1
        self.blocks += bool(result.transactions)
        self.wake.set()
        self.wake = trio.Event()

    def due(self) -> Iterator[SignedTransaction]:
        """Transactions that windows have room for, signers in turn."""
        services = self.node.services
        assert services is not None, "the node runs"
        now_ms = services.ledger_time_ms()
        chain = services.ledger.chain_id
        for _ in range(NONCE_WINDOW):
            for signer in self.signers.values():
                if signer.nonce < signer.final + NONCE_WINDOW:
                    signed = signer.next(chain, now_ms)
                    self.owner_of[signed.transaction_id] = signer.did
                    yield signed

    async def run(self) -> None:
        """Sends until cancelled."""
        services = self.node.services
        assert services is not None, "the node runs"
        async with trio.open_nursery() as nursery:
            channels = []
            for peer in services.registry.at_least(PeerClass.VALIDATOR):
                send, receive = trio.open_memory_channel[bytes](100_000)
                channels.append(send)
                nursery.start_soon(self._keep_handing_over, peer.key, receive)
            while True:
                wake = self.wake
                for signed in self.due():
                    for channel in channels:
                        channel.send_nowait(signed.signed.raw)
                await wake.wait()

    async def _keep_handing_over(
        self, peer: PeerKey, raws: trio.MemoryReceiveChannel[bytes]
    ) -> None:
        services = self.node.services
        assert services is not None, "the node runs"
        left: list[bytes] = []
        while True:
            stream = await services.network.open_stream(
                peer, services.ledger_service.protocol, frame_bytes_max=STREAM_BYTES_MAX
            )
            for _ in range(BATCHES_PER_STREAM):
                batch = left or [await raws.receive()]
                while len(batch) < BATCH_TRANSACTIONS_MAX:
                    try:
                        batch.append(raws.receive_nowait())
                    except trio.WouldBlock:
                        break
                left = await self._hand_over(stream, batch)
                if left:
                    await trio.sleep(RETRY_S)
            await stream.reset()

    async def _hand_over(self, stream: Stream, batch: Sequence[bytes]) -> list[bytes]:
        """Sends a batch and reads the answer; returns what should be tried again."""
        request = SubmitBatchRequest(transactions=tuple(batch))
        await stream.send_frame(encode_ledger_message(request))
        frame = await stream.receive_frame()
        assert frame is not None, "a validator answers everything it is asked"
        answer = decode_ledger_message(frame)
        assert isinstance(answer, SubmitBatchAnswer), "a member may submit"
        left = []
        for raw, refusal in zip(batch, answer.refusals, strict=True):
            if refusal is not None:
                self.refusals[refusal.rule] = self.refusals.get(refusal.rule, 0) + 1
                if refusal.may_retry:
                    left.append(raw)
        return left


def processor_s(pids: Sequence[int]) -> float:
    """Processor time that processes have used so far, seconds (proc(5), `stat`)."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


async def sustained(lab: Lab, pids: Sequence[int], seconds: float) -> dict[str, float]:
    """Runs the load and measures it; `pids` are those whose processor time counts."""
    loader, *others = lab.of_kind(SubjectKind.GATEWAY)
    node = Node(
        DataDir(loader.directory.path),
        clock=SystemClock(),
        entropy=SystemEntropy(),
        stop=lambda: None,
    )
    signers = {
        item.join.record.did: Signer(item.join.record.did, item.directory.load_key(KeyName.NODE))
        for item in others
    }
    async with node.running():
        services = node.services
        assert services is not None, "the node runs"
        while len(services.registry.at_least(PeerClass.VALIDATOR)) < VALIDATORS:  # noqa: ASYNC110
            await trio.sleep(0.1)
        load = Load(node, signers)
        services.ledger.listen(load.on_commit)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load.run)
            await trio.sleep(WARM_UP_S)
            count, blocks, started = load.count, load.blocks, time.perf_counter()
            used = processor_s(pids)
            await trio.sleep(seconds)
            elapsed = time.perf_counter() - started
            count, blocks = load.count - count, load.blocks - blocks
            used = processor_s(pids) - used
            nursery.cancel_scope.cancel()
        sys.stderr.write(f"refusals: {load.refusals}\n")
    return {
        "transactions_per_s": count / elapsed,
        "blocks_per_s": blocks / elapsed,
        "transactions_per_block": count / max(blocks, 1),
        "cores_used": used / elapsed,
        "processor_ms_per_transaction": 1000 * used / max(count, 1),
    }


def call_running_only(lab: Lab) -> None:
    """Tells nodes to call only those that run: the other gateways lend their keys, no more."""
    running = [*lab.of_kind(SubjectKind.VALIDATOR), lab.of_kind(SubjectKind.GATEWAY)[0]]
    for node in running:
        others = tuple(
            address for other in running if other is not node for address in other.join.addresses
        )
        network = dataclasses.replace(node.config.network, bootstrap=others)
        config = dataclasses.replace(node.config, network=network)
        write_atomic(node.directory.config, render_config(config).encode())


def verify_ms(lab: Lab) -> float:
    """Median time of one signature check as a validator makes it."""
    item = lab.of_kind(SubjectKind.GATEWAY)[1]
    key = item.directory.load_key(KeyName.NODE)
    signed = Signer(item.join.record.did, key).next(lab.chain, 0)
    times = []
    for _ in range(500):
        started = time.perf_counter()
        signed.verify(key.public, lab.chain)
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--signers", type=int, default=47)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="swarmd-throughput-") as name:
        folder = Path(name)
        count = VALIDATORS + arguments.signers + 1
        options = LabOptions(
            validators=VALIDATORS,
            gateways=arguments.signers + 1,
            publishers=0,
            base_port=free_ports(2 * count),
        )
        lab = create_lab(folder / "network", options, SystemEntropy(), SystemClock())
        call_running_only(lab)
        processes = [
            NodeProcess(item.directory.path) for item in lab.of_kind(SubjectKind.VALIDATOR)
        ]
        try:
            for process in processes:
                process.start()
            pids = [os.getpid(), *(process.pid for process in processes)]
            measured = trio.run(sustained, lab, pids, arguments.seconds)
        finally:
            for process in processes:
                process.stop()
        verify, fsync = verify_ms(lab), fsync_ms(folder)
    cores = os.cpu_count() or 1
    per_block = measured["transactions_per_block"]
    floor_ms = VALIDATORS * per_block * verify / min(cores, VALIDATORS) + FLUSHES_PER_BLOCK * fsync
    floor = 1000 * per_block / floor_ms if floor_ms else 0.0
    result = {
        "name": "ledger.throughput/n=4",
        **{key: round(value, 1) for key, value in measured.items()},
        "verify_ms": round(verify, 4),
        "fsync_ms": round(fsync, 3),
        "floor_transactions_per_s": round(floor),
        "ratio": round(measured["transactions_per_s"] / floor, 4) if floor else 0.0,
        "machine": f"{cores} cpus, python {sys.version.split()[0]}",
    }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    try:
        main()
    except subprocess.SubprocessError as error:
        sys.exit(str(error))
