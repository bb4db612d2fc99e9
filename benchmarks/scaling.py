"""What a step costs on clusters that are not at hand, from constants measured here: the tables of docs/scaling.md.

    python -m benchmarks.scaling

step = compute + what of the all-reduce is left when backward is through + the word embeddings' rows, which come then.
The rest is not in it: input is made while the device computes, a checkpoint stops training for the copy alone
(docs/log.md).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

TOKENS = 31.2  # a Quora pair's, both sentences
WIRE = 0.93  # of a link's rate that all-reduce gets: the lab at 100 Mbit/s
BACKWARD = 2 / 3  # of compute


# Different tokens in a batch of so many Quora pairs, mean of 20 batches drawn from the training file.
DIFFERENT = {8: 120, 32: 338, 256: 1679, 2048: 6158}


@dataclass(frozen=True)
class Model:
    """layers: weights that every token meets. rest: positions and pooler, the last gradient that DDP sends. width: of a
    word embedding, of which only the rows in use are sent."""

    name: str
    layers: float
    rest: float
    width: int

    @property
    def pair_flops(self) -> float:
        return 6 * self.layers * TOKENS

    def sent(self, batch: int) -> tuple[float, float]:
        """Gradients: of DDP's, and of the word embeddings' rows."""
        return self.layers + self.rest, DIFFERENT[batch] * self.width

    @property
    def last_share(self) -> float:
        return self.rest / (self.layers + self.rest)


@dataclass(frozen=True)
class Cluster:
    """flops: a rank reaches, a second. bytes: a rank sends, a second. latency: of one message, seconds.

    step_seconds: what a step takes however few pairs it has: launches, the optimizer.
    """

    name: str
    ranks: int
    flops: float
    bytes: float
    latency: float
    step_seconds: float


def gbit(rate: float) -> float:
    return rate * 1e9 / 8


MINILM, BASE = Model("MiniLM-L6", 10.6e6, 0.35e6, 384), Model("bert-base", 85.1e6, 0.98e6, 768)
# Peaks in half precision by the vendors' data sheets (T4 65, A100 312, H100 989 TFLOP/s); the shares are assumed.
CLUSTERS = [
    Cluster("6 x T4, 5 Gbit/s (g4dn.xlarge's base rate)", 6, 0.3 * 65e12, gbit(5), 50e-6, 10e-3),
    Cluster("6 x T4, 25 Gbit/s (its burst)", 6, 0.3 * 65e12, gbit(25), 50e-6, 10e-3),
    Cluster("8 x A100, one node, NVLink", 8, 0.4 * 312e12, 230e9, 10e-6, 8e-3),
    Cluster("64 x H100, 8 nodes, 400 Gbit/s a GPU", 64, 0.4 * 989e12, gbit(400) * 0.8, 20e-6, 8e-3),
]
BATCHES = (32, 256, 2048)


def step(model: Model, cluster: Cluster, batch: int, ranks: int, compressed: bool) -> float:
    """Seconds of a step of `batch` pairs over that many ranks."""
    compute = batch / ranks * model.pair_flops / cluster.flops

    def reduce(gradients: float) -> float:
        sent = 2 * (ranks - 1) / ranks * gradients * (2 if compressed else 4) / (cluster.bytes * WIRE)
        return sent + 2 * (ranks - 1) * cluster.latency

    dense, rows = (reduce(gradients) for gradients in model.sent(batch))
    exposed = max(dense - BACKWARD * compute, model.last_share * dense)
    return cluster.step_seconds + compute + exposed + rows


def speed_up(model: Model, cluster: Cluster, batch: int, compressed: bool) -> float:
    one = step(model, cluster, batch, 1, compressed)
    return one / step(model, cluster, batch, cluster.ranks, compressed)


def predictions(model: Model) -> str:
    head = [f"{batch} pairs{how}" for batch in BATCHES for how in ("", ", bf16")]
    lines = [f"| {model.name} | {' | '.join(head)} | an epoch, 2,048 pairs, bf16 |", "| --- " * (len(head) + 2) + "|"]
    for cluster in CLUSTERS:
        cells = [f"{speed_up(model, cluster, batch, how):.1f}" for batch in BATCHES for how in (False, True)]
        epoch = 141_506 / 2048 * step(model, cluster, 2048, cluster.ranks, True)
        lines.append(f"| {cluster.name} | {' | '.join(cells)} | {epoch:.1f} s |")
    return "\n".join(lines)


def lab(measured: dict[str, dict[str, float]]) -> str:
    """The lab's link against the same formula; its compute is what it took without a limit."""
    rates = {"1 Gbit/s": gbit(1), "100 Mbit/s": gbit(0.1)}
    lines = ["| link | gradients | measured, s | predicted, s |", "| --- " * 4 + "|"]
    for rate, sent in rates.items():
        for way, seconds in measured.items():
            compute = seconds["not limited"]
            host = Cluster("lab", 2, 8 / 2 * MINILM.pair_flops / compute, sent, 0.0, 0.0)
            predicted = step(MINILM, host, 8, 2, way == "bf16")
            lines.append(f"| {rate} | {way} | {seconds[rate]:.2f} | {predicted:.2f} |")
    return "\n".join(lines)


def main() -> None:
    kept = Path(__file__).parents[1] / "runs" / "lab-link.json"
    if kept.exists():  # after `make lab-test` on this machine
        print(lab(json.loads(kept.read_text())), end="\n\n")
    print(predictions(BASE), predictions(MINILM), sep="\n\n")


if __name__ == "__main__":
    main()
