"""Rule 1: ranks change speed, not results. Rule 2: resume equals never having stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_modules.data import StageData
from multitask.bundle.bundle import read_bundle
from multitask.data.sample import sample_uri
from multitask.experiment.checkpoints import CheckpointStore
from multitask.experiment.events import event_files
from multitask.experiment.records import read_records
from multitask.experiment.stage_job import StageJob
from multitask.measure.evaluate import EvalSet, measure
from multitask.model.averages import average_of
from multitask.recipe.stages import Stage
from multitask.storage.storage import Storage
from tests.helpers import difference, newest, run, small_job, stop_at
from tests.ranks import run_ranks

EXACT = {"precision": "64-true"}

ONE = {"": torch.ones(1)}  # for sets of tensors that may be empty

# A stage that was run before teaches; 33 rows with a label and as many without in batches of 13: the last holds one.
TAUGHT: dict[str, Any] = {
    "max_examples": 33, "batch_size": 13, "teachers": {"quora": {"bundle": "supervised-one/para", "temperature": 2.0,
    "unlabelled": f"{sample_uri()}/quora-dev.csv"}},
}  # fmt: skip
# 33 examples in batches of 16: the last one holds one example, for two ranks. Two of 65 do so too.
MLM: dict[str, Any] = {"objective": "mlm", "tasks": ["sst", "quora", "sts"], "max_examples": 9}
RANKING: dict[str, Any] = {"objective": "ranking", "tasks": ["quora"], "max_examples": 33}
COMPLETION: dict[str, Any] = {"objective": "completion", "tasks": ["quora", "sts"]}
HARD = {"hard_negatives": True, "symmetric": True}
PAIRS = {"positives": "pairs"}
PARTS: dict[str, Any] = {"unfreeze": 1, "reinit": 1, "layer_decay": 0.5, "lr_scale": {"heads": 2.0}, "clip": 0.1}
# Rates that change no prediction: the first epoch is the best, and the second one the last.
PATIENCE: dict[str, Any] = {"patience": 1, "epochs": 9, "lr": 1e-7, "keep": {"best": "quora/accuracy"}}
JOINT: dict[str, Any] = {"tasks": ["sst", "quora", "sts"], "max_examples": 17, "mixing": "annealed"}
SURGERY: dict[str, Any] = {**JOINT, "mixing": "round-robin", "loss_weights": "uncertainty"}
OWN: dict[str, Any] = {**JOINT, "tasks": ["tone", "same", "tones"]}
ONE_EPOCH: dict[str, dict[str, Any]] = {
    "supervised": {"max_examples": 65},
    "taught": TAUGHT,
    "mlm": MLM,
    "mlm-untied": {**MLM, "tasks": ["quora"], "mlm": {"head": "untied", "replace": "bert"}},
    "ranking": {**RANKING, "tasks": ["quora", "sts"], "ranking": HARD},
    "ranking-scale-1": {**RANKING, "ranking": {"scale": 1.0}},
    "ranking-a-pair-a-rank": {**RANKING, "max_examples": 15, "batch_size": 2},  # some ranks, some batches have none
    "contrastive": {"objective": "contrastive", "tasks": ["sst", "quora"], "max_examples": 9},
    "contrastive-pairs": {**RANKING, "objective": "contrastive", "max_examples": 70, "contrastive": PAIRS},
    "completion": {**COMPLETION, "max_examples": 70},  # 33 similar pairs of quora
    "joint": {**JOINT, "loss_weights": {"sst": 0.5}, "weight_decay": 0.1, "clip": 0.5, "log": {"conflict": 2}},
    "joint-pcgrad": {**SURGERY, "surgery": "pcgrad", "weight_decay": 0.1, "clip": 0.5},
    "mlm-gradvac": {**MLM, "surgery": "gradvac"},
    "branches": {**JOINT, "copy_top": 1, "clip": 0.5, "layer_decay": 0.5},
    "branches-pcgrad": {**SURGERY, "copy_top": 1, "surgery": "pcgrad"},
    "ranking-pcgrad": {**RANKING, "tasks": ["quora", "sts"], "ranking": HARD, "surgery": "pcgrad"},
    "own": {**OWN, "mixing": "proportional", "loss_weights": "uncertainty"},
    "ema": {**JOINT, "average": {"ema": 0.9}},
    "losses": {**OWN, "tasks": ["alike", "mood"]},
    "own-sampler": {**JOINT, "mixing": "round-robin", "sampler": "tests.own:short_first"},
    "own-objective": {**RANKING, "objective": "tests.own:Alignment", "options": {"power": 1.0}},
    "parts": {**PARTS, "max_examples": 33},
    "patience": {**PATIENCE, "max_examples": 17},
    "own-ranking": {**RANKING, "tasks": ["same"], "ranking": HARD},
    "joint-bilstm": {**JOINT, "tasks": ["sst", "quora"], "heads": {"sst": "bilstm"}},
    "joint-frozen": {
        **JOINT, "tasks": ["sst", "quora"], "train": "last-linear-layer", "mixing": {"sst": 1.0, "quora": 2.0},
    },
}  # fmt: skip


QUICK = [
    "supervised", "taught", "mlm", "ranking", "contrastive", "completion", "joint", "joint-pcgrad", "mlm-gradvac",
    "branches",
    "own", "ema", "losses", "own-objective", "own-sampler", "parts", "patience",
]  # fmt: skip
SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ONE_EPOCH if kind not in QUICK]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[StageJob, StageJob]]:
    """Kind -> its job, run by one rank and by two; the quick ones in one start of the ranks, and so the others."""
    folder, done = tmp_path_factory.mktemp("ranks"), {}

    def of(kind: str) -> tuple[StageJob, StageJob]:
        if kind not in done:
            jobs = {}
            for name, stage in ONE_EPOCH.items():
                if (name in QUICK) == (kind in QUICK):
                    worlds = (
                        small_job(folder, f"{name}-{at}", **{"epochs": 1, **stage, **EXACT}) for at in ("one", "two")
                    )
                    jobs[name] = tuple(worlds)
                    assert run(jobs[name][0])
            run_ranks(*(two for _, two in jobs.values()), world=2)
            done.update(jobs)
        return done[kind]

    return of


@pytest.mark.parametrize("kind", [*QUICK, *SLOW])
def test_two_ranks_equal_one_in_float64(both: Callable[[str], tuple[StageJob, StageJob]], kind: str) -> None:
    jobs = both(kind)
    one, two = (newest(job) for job in jobs)
    assert one.state.position == two.state.position
    assert one.state.examples == two.state.examples > 0
    assert one.state.seen == two.state.seen != ""
    assert difference(one.weights, two.weights) < 1e-9
    assert difference(one.optimizer, two.optimizer) < 1e-9  # its moments are the gradients'
    assert bool(one.average) == (kind == "ema")
    assert not one.average or difference(one.average, two.average) < 1e-9
    assert difference(one.extra | ONE, two.extra | ONE) < 1e-9
    metrics = [job.folder.read_json("outcome.json")["metrics"] for job in jobs]
    assert metrics[0] == pytest.approx(metrics[1], abs=1e-9)
    start = read_bundle(Storage(jobs[0].owner.storage), jobs[0].model.start).tensors
    shared = start.keys() & one.weights.keys()
    moved = {name for name in shared if not torch.equal(one.weights[name].float(), start[name])}
    assert bool(moved) == (kind != "joint-frozen")


def test_two_ranks_measure_the_conflict_of_one(both: Callable[[str], tuple[StageJob, StageJob]]) -> None:
    one, two = (conflicts_told(job) for job in both("joint"))
    assert one.keys() == two.keys() != set()
    for tag in one:
        assert two[tag] == pytest.approx(one[tag], abs=1e-6), tag  # events hold 32 bits


def conflicts_told(job: StageJob) -> dict[str, list[float]]:
    events = EventAccumulator(job.events.uri)
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag.startswith("conflict/")]
    return {tag: [point.value for point in events.Scalars(tag)] for tag in tags}


# Two epochs of five steps. A stop asked for after step n comes after step n + 1, all ranks agreeing on it, or in the
# measurement after an epoch's last step; that after step 10 leaves no training to do.
KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    "best": {"keep": {"best": "quora/accuracy"}},
    "stage": {"validate": "stage", "schedule": "cosine", "warmup": 0.3, "clip": 0.5, "weight_decay": 0.1},
    "frozen": {"train": "last-linear-layer", "tasks": ["sst"], "lr": 1e-2},
    "frozen-bilstm": {"train": "last-linear-layer", "tasks": ["sst"], "heads": {"sst": "bilstm"}},
    "taught": {"teachers": {"quora": {"bundle": "tiny", "embeddings": True, "weight": 0.9}}},
    "mlm": {**MLM, "keep": {"best": "mlm/perplexity"}},
    "ranking": {**RANKING, "tasks": ["quora", "sts"], "max_examples": 30, "ranking": HARD},
    "contrastive": {"objective": "contrastive", "tasks": ["sst", "quora"], "max_examples": 20, "dropout": 0.1},
    "completion": {**COMPLETION, "max_examples": 70, "keep": {"best": "completion/perplexity"}},
    "joint": {**JOINT, "max_examples": 30},
    "ema": {"average": {"ema": 0.8}, "keep": {"best": "quora/accuracy"}},
    "last": {**MLM, "average": {"last": 2}, "precision": "bf16-true"},
    "gradvac": {**SURGERY, "max_examples": 30, "surgery": "gradvac"},
    "branches": {**JOINT, "max_examples": 30, "copy_top": 1},
    "own": {**OWN, "max_examples": 30, "keep": {"best": "tone/accuracy"}},
    "sampler": {**JOINT, "max_examples": 30, "mixing": "round-robin", "sampler": "tests.own:short_first"},
    "parts": {**PARTS, "freeze": 0},
    "patience": PATIENCE,
}
STOPS = {
    "full": [(1, 2), (5, 5), (10, 10)],
    "best": [(10, 10)],
    "stage": [(4, 5)],
    "frozen": [(3, 4)],
    "frozen-bilstm": [(6, 7)],
    "taught": [(3, 4)],
    "mlm": [(3, 4)],
    "ranking": [(2, 3), (4, 4)],
    "contrastive": [(3, 4)],
    "completion": [(3, 4)],
    "joint": [(1, 2), (7, 8)],  # between two tasks, and in the second epoch, mixed otherwise
    "ema": [(7, 8)],
    "last": [(7, 8)],  # in the second epoch
    "gradvac": [(1, 2)],
    "branches": [(3, 4)],
    "own": [(3, 4)],
    "sampler": [(1, 2), (7, 8)],
    "parts": [(6, 7)],
    "patience": [(7, 8), (10, 10)],
}
assert STOPS.keys() == KINDS.keys()


def small_steps(job: StageJob) -> int:
    """Steps an epoch, from the data alone."""
    stage = Stage.model_validate(job.stage)
    return StageData(job, stage).steps_per_epoch


@pytest.mark.parametrize(
    ("kind", "asked", "stopped"), [(kind, *stop) for kind, stops in STOPS.items() for stop in stops]
)
def test_a_resumed_stage_equals_an_undisturbed_one(tmp_path: Path, kind: str, asked: int, stopped: int) -> None:
    stage = KINDS[kind]
    whole, parts = small_job(tmp_path, "whole", **stage), small_job(tmp_path, "parts", **stage)
    assert run(whole)
    assert not run(parts, stop_at(asked))
    assert not parts.folder.exists("outcome.json")
    assert newest(parts).state.position.steps == stopped
    assert run(parts)
    assert difference(newest(whole).weights, newest(parts).weights) == 0
    assert difference(newest(whole).optimizer, newest(parts).optimizer) == 0
    assert newest(whole).average.keys() == newest(parts).average.keys()
    assert all(torch.equal(value, newest(parts).average[name]) for name, value in newest(whole).average.items())
    extras = [{name: tensor.tolist() for name, tensor in newest(job).extra.items()} for job in (whole, parts)]
    assert extras[0] == extras[1]
    outcomes = [job.folder.read_json("outcome.json") for job in (whole, parts)]
    assert outcomes[0]["metrics"] == outcomes[1]["metrics"]
    assert outcomes[0]["kept_epoch"] == outcomes[1]["kept_epoch"]
    assert outcomes[0]["steps"] == outcomes[1]["steps"] == 2 * small_steps(whole)
    bundles = [read_bundle(job.folder, "bundle").tensors for job in (whole, parts)]
    assert difference(*bundles) == 0


@pytest.mark.parametrize("average", [None, {"ema": 0.8}, {"last": 3}])
def test_keep_best_keeps_the_weights_that_were_best(tmp_path: Path, average: dict[str, Any] | None) -> None:
    job = small_job(tmp_path, keep={"best": "quora/accuracy"}, epochs=6, lr=1e-2, average=average)
    assert run(job)
    records = read_records(job.folder, upto=30)
    scores = [record.metrics["quora/accuracy"] or 0.0 for record in records]
    outcome = job.folder.read_json("outcome.json")
    assert outcome["kept_epoch"] == 1 + scores.index(max(scores))
    assert outcome["metrics"]["quora/accuracy"] == max(scores)
    kept = CheckpointStore(job.folder.at("checkpoints")).at(5 * outcome["kept_epoch"])
    bundle = read_bundle(job.folder, "bundle")
    wanted = kept.weights
    if average:
        mean = average_of(**{"ema": None, "last": None, **average})
        mean.restore(kept.average)
        wanted = mean.mean()
        assert difference(wanted, kept.weights) > 0
    assert difference({name: bundle.tensors[name] for name in kept.weights}, wanted) == 0
    dev = EvalSet.of("quora", StageData(job, Stage.model_validate(job.stage)).dev_tables["quora"], "cpu")
    measured = measure(bundle.model(), {"quora": dev}, device=torch.device("cpu"))
    assert measured.scores["quora/accuracy"].value == max(scores)


def test_a_stage_runs_on_a_storage_that_is_no_directory(tmp_path: Path) -> None:
    here, there = small_job(tmp_path), small_job("memory://runs")
    assert run(here)
    assert not run(there, stop_at(7))
    assert run(there)
    assert difference(newest(here).weights, newest(there).weights) == 0
    assert {"bundle", "checkpoints", "metrics.jsonl", "outcome.json"} <= set(there.folder.list())
    assert [name.partition("/")[0] for name in event_files(there.folder)] == ["para seed=11711"] * 2


def test_compressed_gradients_round_and_nothing_more(tmp_path: Path) -> None:
    """Half the bytes: two ranks then differ from one by bfloat16's rounding, and are still equal to themselves."""
    stage = {"dropout": 0.0, "encoder_dropout": 0.0, "max_examples": 48, "epochs": 1, "compress": "bf16"}
    stage |= {"precision": "32-true"}
    one, *two = (small_job(tmp_path, name, **stage) for name in ("one", "two", "again"))
    assert run(one)
    run_ranks(*two, world=2)
    moments = [
        {name: value for name, value in newest(job).optimizer.items() if name.endswith("exp_avg")}
        for job in (one, *two)
    ]
    size = max(float(value.abs().max()) for value in moments[0].values())
    assert 0 < difference(moments[0], moments[1]) < 2**-7 * size
    assert newest(one).state.seen == newest(two[0]).state.seen  # in float32 too
    assert difference(newest(two[0]).weights, newest(two[1]).weights) == 0


@pytest.mark.slow
def test_three_ranks_resume_bit_equal(tmp_path: Path) -> None:
    """From three ranks on, gloo's summation order depends on DDP's buckets (lightning_modules/callbacks.py: Resume)."""
    kinds: dict[str, dict[str, Any]] = {"full": {}} | {
        kind: KINDS[kind] for kind in ("mlm", "ranking", "completion", "joint")
    }
    whole, parts = (
        {kind: small_job(tmp_path, f"{name}-{kind}", **stage) for kind, stage in kinds.items()}
        for name in ("whole", "parts")
    )
    run_ranks(*whole.values(), world=3)
    run_ranks(*parts.values(), world=3, stop_step=2)
    assert {newest(job).state.position.steps for job in parts.values()} == {3}
    run_ranks(*parts.values(), world=3)
    for kind in kinds:
        assert difference(newest(whole[kind]).weights, newest(parts[kind]).weights) == 0
        assert difference(newest(whole[kind]).optimizer, newest(parts[kind]).optimizer) == 0
