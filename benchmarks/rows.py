"""The comparisons: what runs against what, on how much, and what is to be reached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.duel import BEFORE, Measured


@dataclass(frozen=True)
class Contest:
    """Sides that take turns in one go. amount: of what a pass goes through, named by unit; quick: that of
    `make bench-quick`, in one round; None: not in it."""

    amount: int
    unit: str = "pairs"
    threads: int = 2
    rounds: int = 3
    quick: int | None = None


@dataclass(frozen=True)
class Row:
    """sides: ours first, as MODULE:FUNCTION below benchmarks/. value: of the sides' measurements, what is compared with
    the aim. more: whether more is better. show: how a value is written. equal: a fact that both sides have to agree on,
    and how closely (relative).
    """

    name: str
    what: str
    against: str
    contest: Contest
    sides: tuple[str, ...]
    aim: float
    value: Callable[[list[Measured]], float]
    show: str = "{:.2f} x"
    more: bool = True
    equal: tuple[str, float] | None = None

    @property
    def asks_before(self) -> bool:
        """Whether a side is of another build."""
        return any(side.endswith(BEFORE) for side in self.sides)


def faster(measured: list[Measured]) -> float:
    """How many times as fast ours is."""
    return measured[0].rate / measured[1].rate


def slower_steps(measured: list[Measured]) -> float:
    """By what share our steps are slower, without what comes before them."""
    return measured[0].fact("steps") / measured[1].seconds - 1


def slower_when_steady(measured: list[Measured]) -> float:
    """By what share our steps are slower once all that starts has started."""
    return measured[1].fact("steady") / measured[0].fact("steady") - 1


def share_of_peak(measured: list[Measured]) -> float:
    ours, peak = measured
    return ours.fact("flops") / ours.seconds / 1e9 / peak.rate


def sooner(measured: list[Measured]) -> float:
    """The share of the other side's seconds that ours takes."""
    return measured[0].seconds / measured[1].seconds


def sooner_further(measured: list[Measured]) -> float:
    """That share, from stage to stage."""
    return measured[0].fact("further") / measured[1].fact("further")


def lighter(measured: list[Measured]) -> float:
    """The share of the other side's memory that ours takes, at most."""
    return measured[0].peak_mb / measured[1].peak_mb


def peak_gb(measured: list[Measured]) -> float:
    return measured[0].peak_mb / 1000


def more_gb(measured: list[Measured]) -> float:
    """What was taken beyond what was there before."""
    return measured[0].fact("more_mb") / 1000


def seconds(measured: list[Measured]) -> float:
    return measured[0].seconds


def warm(measured: list[Measured]) -> float:
    return measured[0].fact("warm")


def bf16_in_hardware() -> bool:
    """A processor without it makes bf16 products some fifty times as slow: there the row is measured on few pairs."""
    import torch

    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


TRAINING = Contest(4096, quick=512)
BF16 = Contest(4096 if bf16_in_hardware() else 128, rounds=1)
MLM = Contest(2048, rounds=2)
FROZEN_SST, FROZEN_QUORA = Contest(4096, "sentences", rounds=2), Contest(4096, rounds=2)
ENCODING, DEV = Contest(20_000, "sentences"), Contest(6209, "examples")
TOKENS = Contest(400_000)
RANKS, RANKS_32 = Contest(4096, threads=1, rounds=2), Contest(4096, threads=1, rounds=1)
HELP, FIRST = Contest(1, "command", rounds=5), Contest(256)
LONG, LARGE = Contest(32, "texts", rounds=2), Contest(32, "texts", rounds=1)
PLAN = Contest(10**8, "rows", rounds=1)
RAY, LOAD = Contest(256), Contest(1, "bundle", rounds=5)
DEMO, S3 = Contest(1, "demo"), Contest(1, "demo")
BUILD = "the build before"

ROWS = [
    Row("sbert", "full-model training, Quora pairs, batch 32, fp32", "sentence-transformers 6.2's trainer", TRAINING,
        ("training:ours", "training:sbert"), 2.7, faster),
    Row("step", "the same, dropout on", BUILD, TRAINING, ("training:ours", "training:ours@before"), 1.15, faster),
    Row("plain", "the same", "a plain loop as the papers had it", TRAINING,
        ("training:ours", "training:plain"), 2.0, faster),
    Row("peak", "the same", "GEMM peak in fp32, measured in the run", TRAINING,
        ("training:ours", "training:gemm"), 0.62, share_of_peak, "{:.0%}"),
    Row("lightning", "its steps: Lightning and callbacks, steady state", "the same steps in a bare loop", TRAINING,
        ("training:ours", "training:bare"), 0.05, slower_steps, "{:+.1%}", more=False),
    Row("bf16", "the same in bf16", "sentence-transformers with bf16", BF16,
        ("training:ours_bf16", "training:sbert_bf16"), 2.0, faster),
    Row("step-bf16", "the same", BUILD, BF16, ("training:ours_bf16", "training:ours_bf16@before"), 1.15, faster),
    Row("memory", "32 texts of 512 tokens, full model: the process's peak", BUILD, LONG,
        ("steps:minilm", "steps:minilm@before"), 0.5, lighter, more=False),
    Row("parts", "the same with `micro_batch: 2`", BUILD, LONG,
        ("steps:minilm_parts", "steps:minilm@before"), 0.5, lighter, more=False),
    Row("large", "bert-large's shape, 32 texts of 512 tokens, `micro_batch: 1`, `recompute`: peak", "", LARGE,
        ("steps:bert_large",), 9.0, peak_gb, "{:.1f} GB", more=False),
    Row("sst", "last-linear-layer, 10 epochs, SST", "the frozen encoder in each epoch again", FROZEN_SST,
        ("frozen:sst_ours", "frozen:sst_again"), 8.0, faster, equal=("metric", 0.0)),
    Row("quora", "last-linear-layer, 10 epochs, Quora", "the frozen encoder in each epoch again", FROZEN_QUORA,
        ("frozen:quora_ours", "frozen:quora_again"), 8.0, faster, equal=("metric", 0.0)),
    Row("mlm", "MLM training, both sentences of the pairs", "transformers' Trainer, its MLM collator", MLM,
        ("frozen:mlm_ours", "frozen:mlm_transformers"), 2.0, faster),
    Row("encode", "encoding sentences of mixed length", "SentenceTransformer.encode", ENCODING,
        ("inference:encode_ours", "inference:encode_sbert"), 1.3, faster, equal=("projection", 1e-5)),
    Row("dev", "dev evaluation of all tasks", "the same forward passes in file order, batch 32, padded", DEV,
        ("inference:dev_ours", "inference:dev_file_order"), 1.5, faster, equal=("predictions", 1e-5)),
    Row("dev-build", "the same", BUILD, DEV, ("inference:dev_ours", "inference:dev_ours@before"), 1.1, faster,
        equal=("predictions", 1e-5)),
    Row("tokens", "tokenising and caching pairs", "the datasets library's map", TOKENS,
        ("tokens:ours", "tokens:datasets"), 1.0, faster),
    Row("warm", "the same again, from the cache", "", TOKENS, ("tokens:ours",), 1.0, warm, "{:.2f} s", more=False),
    Row("tokens-build", "tokenising and caching pairs", BUILD, TOKENS,
        ("tokens:ours", "tokens:ours@before"), 1.1, faster),
    Row("ddp", "two DDP workers of one thread, global batch 64", "one worker of one thread", RANKS,
        ("scale:two_ranks", "scale:one_rank"), 1.85, faster),
    Row("limit", "two trainings at once that share nothing but the machine", "one of them alone", RANKS,
        ("scale:two_alone", "scale:one_rank"), 1.85, faster),
    Row("ray", "Ray, two workers, second half of the steps", "bare Lightning DDP", RANKS,
        ("scale:ray_workers", "scale:two_ranks"), 0.04, slower_when_steady, "{:+.1%}", more=False),
    Row("ddp32", "two DDP workers of one thread, global batch 32", "one worker of one thread", RANKS_32,
        ("scale:two_ranks_of_32", "scale:one_rank_of_32"), 1.85, faster),
    Row("help", "`minibert --help`", "", HELP, ("start:help",), 0.5, seconds, "{:.2f} s", more=False),
    Row("first", "first training step after `minibert train`, local, warm cache", "", FIRST, ("start:first_step",),
        8.0, seconds, "{:.1f} s", more=False),
    Row("first-build", "the same", BUILD, FIRST,
        ("start:first_step", "start:first_step@before"), 0.6, sooner, more=False),
    Row("ray-first", "first step on two Ray workers, tiny encoder", BUILD, RAY,
        ("start:ray", "start:ray@before"), 0.6, sooner, more=False),
    Row("ray-further", "from that stage's last step to the next stage's first", BUILD, RAY,
        ("start:ray", "start:ray@before"), 0.5, sooner_further, more=False),
    Row("load", "a process that loads a bundle and encodes a sentence", BUILD, LOAD,
        ("start:load", "start:load@before"), 0.6, sooner, more=False),
    Row("plan", "plan of an epoch, each rank's: seconds", "", PLAN, ("steps:plan",),
        30.0, seconds, "{:.1f} s", more=False),
    Row("plan-memory", "the same: memory", "", PLAN, ("steps:plan",), 1.0, more_gb, "{:.2f} GB", more=False),
    Row("demo", "`make demo`, installed", BUILD, DEMO, ("start:demo", "start:demo@before"), 0.6, sooner, more=False),
    Row("s3", "the demo of 120 rows onto S3 (moto, same machine)", "onto a folder", S3,
        ("start:demo_s3", "start:demo_folder"), 1.6, sooner, more=False),
]  # fmt: skip
