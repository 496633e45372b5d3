"""Certificate replayer: shows everybody old certificates, all of them genuine, again and again."""

from __future__ import annotations

from ledger.certificate import Certificate
from ledger.consensus_messages import Blocks, CertificateMessage, Status
from swarmd.simulation.byzantine.rogue import RogueHost


class CertificateReplayer(RogueHost):
    """Replays a few of all certificates it ever saw, and final blocks with theirs."""

    pause_s = 0.4

    def act(self) -> None:
        """Replays some, by chance."""
        engine, chance = self.engine, self.cluster.world.random
        assert engine is not None, "it acts only while its engine runs"
        seen: list[Certificate] = [*self.store.audit[-200:], *engine.certificates]
        for certificate in chance.sample(seen, min(4, len(seen))):
            self.say_all(CertificateMessage(certificate))
        finals = [(block, held) for block, held in self.store.entries if held is not None]
        if finals:
            block, held = chance.choice(finals)
            self.say_all(Blocks((block,), held))
            self.say_all(Status(self.epoch, engine.view, held))
