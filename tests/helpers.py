"""Small stages for tests: a recipe of one stage on the sample data, run as one rank or as several."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_modules.module import StageModule
from lightning_modules.progress import Interrupted, Progress
from lightning_modules.run import Execution, quiet_libraries, run_stage, setup_of
from multitask.bundle.bundle import Bundle, source_bundle
from multitask.data.sample import sample_uri
from multitask.data.special import SPECIAL
from multitask.data.tokens import TokenTable
from multitask.errors import UserError
from multitask.experiment.checkpoints import Checkpoint, CheckpointStore
from multitask.experiment.stage_job import StageJob
from multitask.model.sources import load_source
from multitask.recipe.checks import build_recipe
from multitask.recipe.stages import Stage
from multitask.storage.storage import Storage
from ray_jobs.driver.driver import Driver
from ray_jobs.driver.jobs import job_of
from ray_jobs.driver.request import TrainingRequest
from ray_jobs.options import Workers
from ray_jobs.screen import Screen

CPU = Execution(accelerator="cpu")


# Tasks of one's own over the sample's files of sst and quora.
OWN_TASKS: dict[str, Any] = {
    "tone": {
        "define": {"columns": ["sentence"], "label": {"column": "sentiment", "words": list("abcde")}},
        **{split: f"{sample_uri()}/ids-sst-{split}.csv" for split in ("train", "dev")},
    },
    "same": {
        "define": {
            "columns": ["sentence1", "sentence2"],
            "label": {"column": "is_duplicate", "kind": "binary", "words": ["no", "yes"], "similar": "yes"},
        },
        **{split: f"{sample_uri()}/quora-{split}.csv" for split in ("train", "dev")},
    },
    "alike": {
        "define": {
            "columns": ["sentence1", "sentence2"],
            "label": {"column": "similarity", "kind": "score", "low": 0, "high": 5},
        },
        "loss": "cosent",
        **{split: f"{sample_uri()}/sts-{split}.csv" for split in ("train", "dev")},
    },
    "mood": {
        "define": {"columns": ["sentence"], "label": {"column": "sentiment", "words": list("abcde")}},
        "label_smoothing": 0.1,
        "class_weights": "balanced",
        **{split: f"{sample_uri()}/ids-sst-{split}.csv" for split in ("train", "dev")},
    },
    "tones": {
        "define": {
            "columns": ["sentence"],
            "label": {"column": "sentiment", "kind": "multilabel", "words": list("abcde"), "threshold": {"a": 0.2}},
        },
        **{split: f"{sample_uri()}/ids-sst-{split}.csv" for split in ("train", "dev")},
    },
}


def recipe_tree(**stage: Any) -> dict[str, Any]:
    """One supervised stage on quora, with the tiny encoder; the other tasks are measured, own ones if the stage's."""
    own = {name: task for name, task in OWN_TASKS.items() if name in stage.get("tasks", ())}
    default = {"name": "para", "tasks": ["quora"], "train": "full-model", "lr": 1e-3, "epochs": 2}
    return {
        "name": "small",
        "encoder": "tiny",
        "data": "sample",
        "tasks": {"sst": {"head": "mlp"}, "quora": {"head": "mlp"}, "sts": {"head": "cosine"}, **own},
        "defaults": {"batch_size": 16, "max_examples": 75, "dropout": 0.3},
        "stages": [{**default, **stage}],
    }


def refused_stage(said: str, **stage: Any) -> None:
    """Holds that a recipe with such a stage is refused in one line, in which the pattern `said` is found."""
    with pytest.raises(UserError, match=said) as caught:
        build_recipe(recipe_tree(**stage), "r.yaml")
    assert len(str(caught.value).splitlines()) == 1


def small_driver(
    folder: Path | str, experiment: str = "small", fresh: bool = False, data: str | None = None, **stage: Any
) -> Driver:
    recipe = build_recipe(recipe_tree(**stage), "test")
    return Driver(TrainingRequest(recipe, data, Storage(str(folder)), experiment, Workers(), fresh), Screen())


def tree_driver(folder: Path, stages: list[dict[str, Any]], seeds: int = 1, **top: Any) -> Driver:
    """The driver of that recipe with other stages."""
    experiment = top.pop("experiment", "tree")
    tree = {**recipe_tree(), **top}
    default = {"train": "full-model", "lr": 1e-3, "epochs": 1, "max_examples": 40}
    tree["stages"] = [{**default, **stage} for stage in stages]
    recipe = build_recipe(tree, "test")
    return Driver(
        TrainingRequest(recipe, None, Storage(str(folder)), experiment, Workers(), False, seeds=seeds), Screen()
    )


def small_job(folder: Path | str, experiment: str = "small", **stage: Any) -> StageJob:
    """The job of that recipe's stage, claimed and fenced as the driver does it; it predicts nothing."""
    driver = small_driver(folder, experiment, **stage)
    driver.claim()
    driver.experiment.begin_attempt()
    return only_trains(job_of(driver.plan, driver.plan.nodes[0]))


def only_trains(job: StageJob) -> StageJob:
    """The job without what is measured before training and predicted after it."""
    return replace(job, measure_start=False, data=replace(job.data, predict={}))


def go_on(progress: Progress) -> bool:
    return False


def stop_at(step: int) -> Callable[[Progress], bool]:
    """A report that asks to stop when that many steps are done, of all epochs together."""
    return lambda progress: progress.doing == "step" and (progress.epoch - 1) * progress.total + progress.done >= step


def run(
    job: StageJob, report: Callable[[Progress], bool] = go_on, every: float = 0.0, execution: Execution = CPU
) -> bool:
    """Runs a job as one rank; whether it came to its end."""
    quiet_libraries()
    try:
        run_stage(job, execution, report, every=every)
    except Interrupted:
        return False
    return True


def newest(job: StageJob) -> Checkpoint:
    found = CheckpointStore(job.folder.at("checkpoints")).newest()
    assert found is not None
    return found


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest absolute difference over two sets of tensors of the same names."""
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def table_of(sentences: Sequence[Sequence[int]], labels: Sequence[float], per: int = 2) -> TokenTable:
    """The table of those sentences' tokens, `per` of them an example."""
    offsets = np.cumsum([0, *map(len, sentences)])
    return TokenTable(
        input_ids=torch.tensor([token for sentence in sentences for token in sentence], dtype=torch.int32),
        offsets=torch.from_numpy(offsets),
        labels=torch.tensor(labels, dtype=torch.float32),
        ids=[f"example {at}" for at in range(len(labels))],
        sentences=per,
        source="made up",
        sha256="",
        quarantined=[],
    )


@cache
def tiny() -> Bundle:
    return source_bundle(load_source("tiny"))


VOCABULARY = tiny().tokenizer.get_vocab_size()
SPECIALS = [tiny().tokenizer.token_to_id(token) for token in SPECIAL]
ORDINARY = sorted(set(range(VOCABULARY)) - set(SPECIALS))
CLS, SEP, UNK, MASK = (tiny().tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]", "[UNK]", "[MASK]"))
WORDS = np.array([*ORDINARY, *[UNK] * (len(ORDINARY) // 20)])


def random_sentences(count: int, seed: int = 0, low: int = 1, high: int = 30) -> list[list[int]]:
    """[CLS], `low` to `high` tokens of the tiny vocabulary, one in twenty unknown, [SEP]."""
    random = np.random.default_rng(seed)
    return [[CLS, *random.choice(WORDS, random.integers(low, high + 1)).tolist(), SEP] for _ in range(count)]


def objective_of(tables: dict[str, TokenTable], **stage: Any) -> Any:
    """The objective of a stage over those tables, double precision and no dropout."""
    losses = {"sst": "cross_entropy", "quora": "bce", "sts": "cosine_mse", **stage.pop("losses", {})}
    loss_settings = stage.pop("loss_settings", {})
    default = {"name": "stage", "tasks": list(tables), "train": "full-model", "lr": 1e-3, "dropout": 0.0}
    settings = Stage.model_validate({**default, **stage})
    heads = {"sst": "linear", "quora": "linear", "sts": "cosine"}
    model = tiny().model(heads, encoder_dropout=0.0, seed=3, mlm=settings.token_head(), copy_top=settings.branches)
    model = model.double()
    data: Any = SimpleNamespace(tables={}, rows={})
    for task, table in tables.items():
        data.tables[task], data.rows[task] = settings.learns.examples(
            settings.options, model.specs[task], table, np.arange(len(table))
        )
    job: Any = SimpleNamespace(seed=3, about={}, model=SimpleNamespace(losses=losses, loss_settings=loss_settings))
    objective = settings.learns(setup_of(job, settings, data, model, tiny().tokenizer_json))
    model.set_trainable({task: objective.reached(model, task) for task in tables}, settings.train == "full-model")
    return objective


def module_of(tables: dict[str, TokenTable], kind: type[StageModule] = StageModule, **stage: Any) -> StageModule:
    """The module of a stage over those tables, under a trainer of one process."""
    default = {"name": "stage", "tasks": list(tables), "train": "full-model", "lr": 1e-3}
    job: Any = SimpleNamespace(seed=3)
    module = kind(objective_of(tables, **stage), Stage.model_validate({**default, **stage}), job)
    module.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, barebones=True)
    return module


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file may grow beyond that many bytes: what a full disk looks like from here.

    Around a test's own lines only, since pytest's output may go to a file too.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Ranks:
    """Stands for Gather: a first round notes what each rank sends, a second gives every rank all of it."""

    def __init__(self, world: int) -> None:
        self.sent: list[list[Tensor]] = [[] for _ in range(world)]
        self.rank, self.turn = 0, 0

    def note(self, tensor: Tensor) -> Tensor:
        self.sent[self.rank].append(tensor)
        return torch.cat([tensor] * len(self.sent))

    def hand_out(self, tensor: Tensor) -> Tensor:
        parts = [sent[self.turn] for sent in self.sent]
        assert torch.equal(parts[self.rank], tensor)
        assert len({part.shape for part in parts}) == 1, "gathering needs the same shape on every rank"
        self.turn += 1
        return torch.cat(parts)
