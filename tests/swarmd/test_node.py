from __future__ import annotations
from pathlib import Path
import os
import time
import pytest
import trio
from tests.support.swarm import swarm, until

VALIDATORS = ("validator-1", "validator-2", "validator-3", "validator-4")

async def test_smoke(tmp_path: Path) -> None:
    t=time.time()
    async with swarm(tmp_path) as lab:
        print("lab", time.time()-t)
        await lab.start(*VALIDATORS, "publisher-1", "gateway-1", "gateway-2")
        print("started", time.time()-t)
        await lab.until_met(*VALIDATORS, "publisher-1", "gateway-1", "gateway-2")
        print("met", time.time()-t)
        signed = await lab.release(os.urandom(300_000))
        print("released", time.time()-t)
        digest = signed.manifest.components[0].digest
        await until(lambda: lab.holds("gateway-1", digest) and lab.holds("gateway-2", digest))
        print("held", time.time()-t)
    print("end", time.time()-t)
