"""The comparisons: what runs against what, on how much, and what is to be reached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.duel import Measured

PAIRS = 4096


@dataclass(frozen=True)
class Row:
    """sides: ours first, as MODULE:FUNCTION below benchmarks/. amount: of what a pass goes through, named by unit.

    value: of the sides' measurements, what is compared with the aim. more: whether more is better. show: how a value
    is written. equal: a fact that both sides have to agree on, and how closely (relative).
    """

    name: str
    what: str
    against: str
    sides: tuple[str, ...]
    aim: float
    value: Callable[[list[Measured]], float]
    show: str = "{:.2f} x"
    more: bool = True
    amount: int = PAIRS
    unit: str = "pairs"
    threads: int = 2
    rounds: int = 3
    equal: tuple[str, float] | None = None
    quick: int | None = None  # the amount of `make bench-quick`, in one round; None: not in it


def faster(measured: list[Measured]) -> float:
    """How many times as fast ours is."""
    return measured[0].rate / measured[1].rate


def slower(measured: list[Measured]) -> float:
    """By what share ours is slower."""
    return measured[1].rate / measured[0].rate - 1


def share_of_peak(measured: list[Measured]) -> float:
    ours, peak = measured
    return ours.fact("flops") / ours.seconds / 1e9 / peak.rate


def seconds(measured: list[Measured]) -> float:
    return measured[0].seconds


ROWS = [
    Row("sbert", "full-model training, Quora pairs, batch 32, fp32", "sentence-transformers 6.2's trainer",
        ("training:ours", "training:sbert"), 2.0, faster, quick=640),
    Row("plain", "the same", "a plain loop as the papers had it",
        ("training:ours", "training:plain"), 2.0, faster, quick=640),
    Row("peak", "the same", "GEMM peak in fp32, measured in the run",
        ("training:ours", "training:gemm"), 0.55, share_of_peak, "{:.0%}"),
    Row("bf16", "the same in bf16", "sentence-transformers with bf16",
        ("training:ours_bf16", "training:sbert_bf16"), 2.0, faster, rounds=1),
    Row("sst", "last-linear-layer, 10 epochs, SST", "the frozen encoder in each epoch again",
        ("frozen:sst_ours", "frozen:sst_again"), 8.0, faster, unit="sentences", rounds=2, equal=("metric", 0.0)),
    Row("quora", "last-linear-layer, 10 epochs, Quora", "the frozen encoder in each epoch again",
        ("frozen:quora_ours", "frozen:quora_again"), 8.0, faster, rounds=2, equal=("metric", 0.0)),
    Row("mlm", "MLM training, both sentences of the pairs", "transformers' Trainer, its MLM collator",
        ("frozen:mlm_ours", "frozen:mlm_transformers"), 2.0, faster, rounds=2),
    Row("encode", "encoding sentences of mixed length", "SentenceTransformer.encode",
        ("inference:encode_ours", "inference:encode_sbert"), 1.3, faster, amount=20000, unit="sentences",
        equal=("projection", 1e-5)),
    Row("dev", "dev evaluation of all tasks", "the same forward passes in file order, batch 32",
        ("inference:dev_ours", "inference:dev_file_order"), 1.5, faster, unit="examples", equal=("predictions", 1e-5)),
    Row("tokens", "tokenising and caching pairs", "the datasets library's map",
        ("tokens:ours", "tokens:datasets"), 1.0, faster, amount=400_000),
    Row("warm", "the same again, from the cache", "",
        ("tokens:ours",), 1.0, lambda measured: measured[0].fact("warm"), "{:.2f} s", more=False, amount=400_000,
        rounds=1),
    Row("ddp", "two DDP workers of one thread, global batch 64", "one worker of one thread",
        ("scale:two_ranks", "scale:one_rank"), 1.85, faster, threads=1),
    Row("ddp32", "the same, global batch 32", "one worker of one thread",
        ("scale:two_ranks_of_32", "scale:one_rank_of_32"), 1.85, faster, threads=1),
    Row("ray", "Ray, steady state, two workers", "bare Lightning DDP",
        ("scale:ray_workers", "scale:two_ranks"), 0.03, slower, "{:+.1%}", more=False, threads=1),
    Row("lightning", "Lightning and callbacks, steady state", "the same step in a bare loop",
        ("training:ours_steps", "training:bare"), 0.05, slower, "{:+.1%}", more=False),
    Row("help", "`minibert --help`", "", ("start:help",), 0.5, seconds, "{:.2f} s", more=False, amount=1, unit="",
        rounds=5),
    Row("first", "first training step after `minibert train`, local, warm cache", "", ("start:first_step",), 8.0,
        seconds, "{:.1f} s", more=False, amount=256),
]  # fmt: skip
