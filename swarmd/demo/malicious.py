"""A malicious member, as a process of its own: `python -m swarmd.demo.malicious DIR IMAGE...`.

It holds a valid membership. With images, it has them from the start and serves each chunk with one
bit wrong. With `--announce`, it announces every proposed manifest as authorised before any owner
has approved it, under its own signature: that convicts it.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import trio

from ledger.chain_blocks import CommitResult
from ledger.records.manifest import ManifestStatus
from swarmd.clock import SystemClock
from swarmd.datadir import DataDir, open_data_dir
from swarmd.entropy import SystemEntropy
from swarmd.logs import configure_logging
from swarmd.node import Node
from swarmd.publisher import chunker_for
from swarmd.running_node import RunningNode
from swarmd.simulation.byzantine.chunk_corrupter import corrupting


def main() -> None:
    """Runs the malicious member until it is killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("images", type=Path, nargs="*")
    parser.add_argument("--announce", action="store_true")
    arguments = parser.parse_args()
    data = open_data_dir(arguments.directory)
    configure_logging(data.load_config().node.log_level)
    with data.lock():
        trio.run(_run, data, arguments.images, arguments.announce)


async def _run(data: DataDir, images: list[Path], announces: bool) -> None:
    stop = trio.Event()
    node = Node(
        data,
        clock=SystemClock(),
        entropy=SystemEntropy(),
        stop=stop.set,
        wrap_store=corrupting,
    )
    async with trio.open_nursery() as nursery, node.running() as addresses:
        services = node.services
        assert services is not None, "the node runs"
        for image in images:
            parameters = chunker_for(image.stat().st_size)
            await trio.to_thread.run_sync(services.store.stage, image, parameters)
        if announces:
            services.ledger.listen(partial(_lie, services, nursery))
        for address in addresses:
            print(f"READY {address}", flush=True)  # noqa: T201  (what the demo waits for)
        await stop.wait()


def _lie(services: RunningNode, nursery: trio.Nursery, result: CommitResult) -> None:
    """Announces what was only proposed."""
    for change in result.manifests:
        if change.before is None and change.record.status is ManifestStatus.PROPOSED:
            nursery.start_soon(services.gossip.publish_manifest, change.manifest_id, change.group)


if __name__ == "__main__":
    main()
