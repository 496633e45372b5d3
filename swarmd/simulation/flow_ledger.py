"""What a fleet costs chain and anchors: bytes a day and requests a second at every level of a tree.

Validators make blocks. Members fetch them from members: the first level from validators, each
further level from the one above, every node serving `fan_out` others. All members follow all blocks
(docs/spec/protocol.md, P100 on), so what each gateway writes into the chain every gateway fetches:
the model shows from which size on that is what a fleet costs.

Counted for each node: empty blocks, transactions, announcements of heads as gossip copies them,
manifests, the releases' own transactions, and freshness: a question passes through the level above
to validators, whose statements come back the same way. Sizes are those of the real formats, which a
test encodes; what frames, security and TCP add is `overhead`. Standard library only.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Final

from protocol.errors import ConfigError
from protocol.limits import VALIDATORS_MAX

_DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatSizes:
    """Bytes of what travels, as encoded; defaults are measured (`test_flow_ledger.py`)."""

    block_bytes: int = 340
    """Answer with one empty block, without its certificate's signatures."""
    signature_bytes: int = 64
    """Each signature of the certificate."""
    request_bytes: int = 9
    """Question for blocks."""
    announcement_bytes: int = 276
    """Announcement of a head."""
    anchor_bytes: int = 219
    """Transaction that fixes a receipt log."""
    release_bytes: int = 1108
    """Transactions that propose and authorise a release of one component with two owners."""
    manifest_bytes: int = 282
    """Signed manifest of one component."""
    question_bytes: int = 40
    """Question for freshness."""
    statement_bytes: int = 554
    """A validator's statement with a proof in a full batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerScenario:
    """A fleet and its habits. Checks itself when made."""

    gateways: int
    """How many gateways follow the chain."""
    validators: int = 4
    """How many validators make it."""
    fan_out: int = 64
    """Members that each node of the tree serves."""
    heartbeat_s: float = 600.0
    """An idle chain makes a block this often, seconds."""
    block_interval_s: float = 1.0
    """Least time between blocks with transactions, seconds."""
    releases_per_day: float = 1.0
    """Releases authorised."""
    anchors_per_day: float = 1.0
    """Receipt roots that each gateway anchors; at most 24, since it does so hourly at most."""
    other_transactions_per_day: float = 0.0
    """Everything else in the chain, all signers together, of the size of an anchor."""
    freshness_s: float = 3600.0
    """How often each gateway asks whether its copy is current, seconds; hourly at least."""
    gossip_degree: int = 6
    """Mesh of the gossip."""
    overhead: float = 1.15
    """Bytes on the wire for each encoded byte: frames, encryption, multiplexing, TCP and IP."""
    sizes: FormatSizes = FormatSizes()
    """Sizes of the formats."""

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            ConfigError: a field is out of its range; names field and range.
        """
        for name, low, high in (
            ("gateways", 1, 10**9),
            ("validators", 1, VALIDATORS_MAX),
            ("fan_out", 2, 4096),
            ("heartbeat_s", 1.0, _DAY_S),
            ("block_interval_s", 0.01, _DAY_S),
            ("releases_per_day", 0.0, 1e6),
            ("anchors_per_day", 0.0, 24.0),
            ("other_transactions_per_day", 0.0, 1e9),
            ("freshness_s", 1.0, _DAY_S),
            ("gossip_degree", 2, 256),
            ("overhead", 1.0, 10.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"{name}: {value}, expected {low} to {high}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelLoad:
    """What one node of a level carries."""

    name: str
    """`validators`, `anchors 1` (which ask validators), ..., `gateways`."""
    nodes: int
    """Nodes of the level."""
    children: float
    """Nodes of the next level that each serves, on average."""
    download_bytes_per_day: float
    """What it receives, on the wire."""
    upload_bytes_per_day: float
    """What it sends, on the wire."""
    requests_per_s: float
    """Questions it answers or passes on, on average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerFigures:
    """What the fleet costs."""

    levels: tuple[LevelLoad, ...]
    """From validators to gateways."""
    gateway_bytes_per_day: dict[str, float]
    """What a gateway receives, by kind: blocks, transactions, announcements, manifests, freshness;
    on the wire."""
    blocks_per_day: float
    """Blocks, empty and other."""
    transactions_per_s: float
    """Transactions, on average."""
    chain_bytes_per_day: float
    """What the chain grows by: encoded blocks and transactions."""

    def as_dict(self) -> dict[str, object]:
        """All figures, ready for JSON."""
        return asdict(self)


def run_ledger(scenario: LedgerScenario) -> LedgerFigures:
    """Computes a day of a fleet."""
    sizes = scenario.sizes
    quorum = scenario.validators - (scenario.validators - 1) // 3
    statements = (scenario.validators - 1) // 3 + 1
    anchors = scenario.gateways * scenario.anchors_per_day
    # Two transactions make a release: proposal and approval.
    transactions = anchors + scenario.other_transactions_per_day + 2 * scenario.releases_per_day
    blocks = _blocks_per_day(scenario, transactions)
    block_bytes = blocks * (sizes.block_bytes + quorum * sizes.signature_bytes)
    transaction_bytes = (
        transactions - 2 * scenario.releases_per_day
    ) * sizes.anchor_bytes + scenario.releases_per_day * sizes.release_bytes
    asked = _DAY_S / scenario.freshness_s
    kinds = {
        "blocks": block_bytes,
        "transactions": transaction_bytes,
        # f + 1 validators announce; a member gets a copy from each of its mesh but one (ADR 0005).
        "announcements": blocks
        * statements
        * sizes.announcement_bytes
        * (scenario.gossip_degree - 1),
        "manifests": scenario.releases_per_day * sizes.manifest_bytes,
        "freshness": asked * statements * sizes.statement_bytes,
    }
    kinds = {kind: size * scenario.overhead for kind, size in kinds.items()}
    return LedgerFigures(
        levels=_levels(scenario, kinds, blocks, asked),
        gateway_bytes_per_day=kinds,
        blocks_per_day=blocks,
        transactions_per_s=transactions / _DAY_S,
        chain_bytes_per_day=block_bytes + transaction_bytes,
    )


def _blocks_per_day(scenario: LedgerScenario, transactions: float) -> float:
    """Transactions at random times share a block if they come within its interval."""
    slots = _DAY_S / scenario.block_interval_s
    with_some = slots * -math.expm1(-transactions / slots)
    # A heartbeat's block is made where nothing came for as long: the gaps are exponential.
    gap_s = _DAY_S / with_some if with_some else math.inf
    beats = _DAY_S / scenario.heartbeat_s
    if gap_s < math.inf:
        chance = math.exp(-scenario.heartbeat_s / gap_s)
        beats = with_some * chance / (1 - chance) if chance < 1 else beats
    return with_some + beats


def level_sizes(gateways: int, fan_out: int) -> list[int]:
    """Nodes of each level below the validators, the gateways last.

    Gateways that serve others are gateways, too: a level counts those nodes in that role.
    """
    sizes = [gateways]
    while sizes[0] > fan_out:
        sizes.insert(0, -(-sizes[0] // fan_out))
    return sizes


def _levels(
    scenario: LedgerScenario, kinds: dict[str, float], blocks: float, asked: float
) -> tuple[LevelLoad, ...]:
    sizes, overhead = scenario.sizes, scenario.overhead
    below = level_sizes(scenario.gateways, scenario.fan_out)
    counts = [scenario.validators, *below]
    names = ["validators", *(f"anchors {n + 1}" for n in range(len(below) - 1)), "gateways"]
    statements = (scenario.validators - 1) // 3 + 1
    fetched = kinds["blocks"] + kinds["transactions"] + kinds["manifests"]
    gossip = kinds["announcements"]
    own = scenario.anchors_per_day * sizes.anchor_bytes * overhead
    question = asked * sizes.question_bytes * overhead
    loads = []
    for level, (name, nodes) in enumerate(zip(names, counts, strict=True)):
        children = counts[level + 1] / nodes if level + 1 < len(counts) else 0.0
        # Questions and transactions of all gateways pass through every level above them; each
        # question reaches f + 1 validators.
        beneath = scenario.gateways / nodes if level + 1 < len(counts) else 0.0
        heard = statements if level == 0 else 1
        sent_up = statements if level == 1 else 1
        passed = beneath if level + 1 < len(counts) else 1.0
        upload = gossip + children * fetched + beneath * kinds["freshness"]
        download = gossip + children * blocks * sizes.request_bytes * overhead
        download += beneath * (own + heard * question)
        if level == 0:
            # A transaction comes to one validator, and from it to the others.
            download += kinds["transactions"] * (1 - 1 / scenario.validators)
            upload += kinds["transactions"] * (1 - 1 / scenario.validators)
        else:
            download += fetched + passed * kinds["freshness"]
            upload += blocks * sizes.request_bytes * overhead + passed * (own + sent_up * question)
        loads.append(
            LevelLoad(
                name=name,
                nodes=nodes,
                children=children,
                download_bytes_per_day=download,
                upload_bytes_per_day=upload,
                requests_per_s=(
                    children * blocks + beneath * (heard * asked + scenario.anchors_per_day)
                )
                / _DAY_S,
            )
        )
    return tuple(loads)
