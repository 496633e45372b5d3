"""Images cut into chunks, and the crash-safe store that keeps them.

Chunkers cut an image, a recipe lists its chunks under a Merkle root, the store writes only chunks
that match, and survives power failure at any instruction. Knows no ledger and no network;
everything here is synchronous and called through worker threads.
"""

__project__ = "swarmd"
