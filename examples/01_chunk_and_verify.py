"""Cuts an image into chunks, describes it by a recipe, and shows what a changed byte does.

Run: python examples/01_chunk_and_verify.py
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from chunks.file_store import FileStore
from chunks.recipe_page import make_page, verify_page
from protocol.errors import DigestMismatchError
from protocol.manifest import DEFAULT_CHUNKER


def generated_image(size: int) -> bytes:
    """Bytes that look random and are the same at every run."""
    blocks = (hashlib.sha256(number.to_bytes(8, "big")).digest() for number in range(size // 32))
    return b"".join(blocks)


def main() -> None:
    """Runs the example."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image = folder / "rootfs.img"
        image.write_bytes(generated_image(2**20))

        publisher = FileStore.open(folder / "publisher")
        staged = publisher.stage(image, DEFAULT_CHUNKER)
        recipe = staged.recipe
        print(f"{staged.size_bytes} bytes in {recipe.chunk_count} chunks")
        print(
            f"a manifest would name digest {staged.image.hex()[:16]}… and recipe root "
            f"{recipe.root.hex()[:16]}…"
        )

        page = make_page(recipe, 0)
        verify_page(page, recipe.root, recipe.chunk_count)
        print("the recipe's page leads to the root: a gateway may now allocate space")

        publisher.promote(staged.image)
        gateway = FileStore.open(folder / "gateway")
        download = gateway.begin(staged.image, staged.size_bytes, recipe)
        spoilt = bytes([publisher.read_chunk(staged.image, 0)[0] ^ 1])
        spoilt += publisher.read_chunk(staged.image, 0)[1:]
        try:
            gateway.write_chunk(download, 0, spoilt)
        except DigestMismatchError as error:
            print(f"a chunk with one bit wrong is refused: {error}"[:78] + "…")
        for index in range(recipe.chunk_count):
            gateway.write_chunk(download, index, publisher.read_chunk(staged.image, index))
        gateway.finish(download)
        print("the whole image matches its digest and is complete")
        publisher.close()
        gateway.close()


if __name__ == "__main__":
    main()
