"""Training the whole MiniLM on Quora pairs, squared error of the cosine: ours, sentence-transformers, a plain loop."""

from __future__ import annotations

import io
import random
import shutil
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.material import BATCH, LEARNING_RATE, SEED, Material, Pair, minilm
from benchmarks.side import Pass

# One step's cost in floating-point operations, a token: forward 2 a weight, backward twice as many.
WEIGHTS = 6 * (4 * 384 * 384 + 2 * 384 * 1536)


def stage_recipe(encoder: str = "minilm-l6", **settings: Any) -> dict[str, Any]:
    """Quora's pairs in STS's form, so that the loss is sentence-transformers' CosineSimilarityLoss."""
    stage = {"name": "train", "tasks": ["sts"], "train": "full-model", "lr": LEARNING_RATE}
    defaults = {
        "epochs": 1, "batch_size": BATCH, "dropout": 0.0, "validate": "stage", "fused": True, "precision": "32-true",
        "checkpoint_minutes": 1000.0,
    }  # fmt: skip
    return {
        "name": "bench", "encoder": encoder, "tasks": {"sts": {"head": "cosine"}},
        "defaults": defaults | settings, "stages": [stage],
    }  # fmt: skip


def write_pairs(material: Material) -> None:
    header = ("sentence1", "sentence2", "similarity")
    material.write("sts-train", header, ((one, two, 5 * same) for one, two, same in material.pairs()))
    material.cut("sts-dev", 40)


def train(material: Material, tree: dict[str, Any], workers: int = 0) -> dict[str, Any]:
    """Trains a recipe as `minibert train` does, its driver this process; what its last stage leaves."""
    from rich.console import Console

    from multitask.recipe.checks import build_recipe
    from multitask.storage.storage import Storage
    from ray_jobs.driver.driver import Driver
    from ray_jobs.driver.request import TrainingRequest
    from ray_jobs.options import Workers
    from ray_jobs.screen import Screen
    from ray_jobs.stopping import StopRequest

    storage = Storage(str(material.folder / "storage"))
    shutil.rmtree(material.folder / "storage", ignore_errors=True)
    many = Workers(workers, workers)
    request = TrainingRequest(build_recipe(tree, "bench"), str(material.folder), storage, "bench", many, False)
    began = time.perf_counter()
    driver = Driver(request, Screen(Console(file=io.StringIO())))
    driver.run(StopRequest(""))
    wall = time.perf_counter() - began
    experiment = storage.at("bench")
    trainers = [stage["trainer"] for stage in experiment.read_json("experiment.json")["stages"].values()]
    return {**experiment.read_json(f"{trainers[-1]}/outcome.json"), "wall": wall}


def tokenising_seconds(material: Material) -> float:
    """Of the training file, from its bytes to the cache."""
    from multitask.data.tokens import cache_tokens
    from multitask.model.sources import load_source
    from multitask.storage.storage import Storage
    from multitask.tasks.table import TASKS

    cache = material.folder / "tokens"
    tokenizer, storage = load_source("minilm-l6").tokenizer, Storage(str(cache))
    began = time.perf_counter()
    cache_tokens(
        storage, str(material.folder / "sts-train.csv"), TASKS["sts"], tokenizer, labelled=True, max_length=512
    )
    seconds = time.perf_counter() - began
    shutil.rmtree(cache)
    return seconds


def flops(material: Material) -> float:
    """Of a pass over the pairs, padding not counted: weights, and attention's scores and context."""
    from multitask.model.sources import load_source

    tokenizer = load_source("minilm-l6").tokenizer
    lengths = [len(found.ids) for one, two, _ in material.pairs() for found in tokenizer.encode_batch([one, two])]
    return float(sum(3 * (2 * WEIGHTS * length + 6 * 4 * 384 * length**2) for length in lengths))


def ours(material: Material, **settings: Any) -> Callable[[], Pass]:
    """What `minibert train --workers 0` does, tokenising included; its dev measurement and bundle are not."""
    write_pairs(material)
    work = flops(material)

    def make_pass() -> Pass:
        outcome = train(material, stage_recipe(**settings))
        steps = outcome["training_seconds"]
        return Pass(steps + tokenising_seconds(material), material.amount, {"flops": work, "steps": steps})

    return make_pass


def ours_bf16(material: Material) -> Callable[[], Pass]:
    return ours(material, precision="bf16-mixed")


def sbert(material: Material, bf16: bool = False) -> Callable[[], Pass]:
    """sentence-transformers' trainer with its defaults, but for what is the same on both sides."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers import SentenceTransformerTrainingArguments as Arguments
    from sentence_transformers.losses import CosineSimilarityLoss

    first, second, same = zip(*material.pairs(), strict=True)
    data = Dataset.from_dict({"sentence1": first, "sentence2": second, "score": same})
    start = SentenceTransformer(modules=sbert_modules(), device="cpu")
    arguments = Arguments(
        str(material.folder), per_device_train_batch_size=BATCH, num_train_epochs=1, learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant", max_grad_norm=0.0, bf16=bf16, use_cpu=True, save_strategy="no", report_to="none",
        logging_strategy="no", disable_tqdm=True, seed=SEED,
    )  # fmt: skip

    def make_pass() -> Pass:
        model = deepcopy(start)
        trainer = SentenceTransformerTrainer(model, arguments, train_dataset=data, loss=CosineSimilarityLoss(model))
        began = time.perf_counter()
        trainer.train()
        return Pass(time.perf_counter() - began, material.amount)

    return make_pass


def sbert_modules() -> list[torch.nn.Module]:
    from sentence_transformers.models import Pooling, Transformer

    transformer = Transformer(str(minilm()))
    return [transformer, Pooling(384, "mean")]


def sbert_bf16(material: Material) -> Callable[[], Pass]:
    return sbert(material, bf16=True)


def plain(material: Material) -> Callable[[], Pass]:
    """The papers' loop: random order, tokenised batch by batch, padded to the longest, a forward a sentence."""
    from multitask.model.bert import MiniBert
    from multitask.model.encoding import mean_pool
    from multitask.model.sources import load_source

    source, pairs = load_source("minilm-l6"), material.pairs()
    tokenizer = source.tokenizer
    tokenizer.enable_padding()
    tokenizer.enable_truncation(512)

    def encode(model: MiniBert, sentences: list[str]) -> Tensor:
        found = tokenizer.encode_batch(sentences)
        ids = torch.tensor([each.ids for each in found])
        mask = torch.tensor([each.attention_mask for each in found]).bool()
        return mean_pool(model(ids, mask), mask)

    def make_pass() -> Pass:
        model = MiniBert(source.config).train()
        model.load_state_dict(source.state)
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
        began = time.perf_counter()
        for batch in shuffled(pairs):
            first, second = (encode(model, [pair[at] for pair in batch]) for at in (0, 1))
            same = torch.tensor([pair[2] for pair in batch])
            loss = F.mse_loss(F.cosine_similarity(first, second), same)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return Pass(time.perf_counter() - began, material.amount)

    return make_pass


def shuffled(pairs: list[Pair]) -> Iterator[list[Pair]]:
    order = random.Random(SEED).sample(pairs, len(pairs))
    yield from (order[at : at + BATCH] for at in range(0, len(order), BATCH))


def gemm(material: Material) -> Callable[[], Pass]:
    """What the machine can do: matrix products of the encoder's own shapes, the fastest of them; in GFLOP."""
    size = 1024
    shapes = [(size, 384, 1536), (size, 1536, 384), (2048, 2048, 2048)]

    def make_pass() -> Pass:
        best = 0.0
        for rows, inner, columns in shapes:
            left, right = torch.randn(rows, inner), torch.randn(inner, columns)
            for _ in range(5):
                torch.mm(left, right)
            times = []
            for _ in range(20):
                began = time.perf_counter()
                for _ in range(5):
                    torch.mm(left, right)
                times.append((time.perf_counter() - began) / 5)
            best = max(best, 2 * rows * inner * columns / float(np.median(times)))
        return Pass(1.0, best / 1e9)

    return make_pass


def bare(material: Material) -> Callable[[], Pass]:
    """The same steps as ours without Lightning: the same batches, model, loss and optimizer in a loop."""
    from lightning_modules.data import StageData
    from lightning_modules.run import setup_of
    from multitask.bundle.bundle import read_bundle
    from multitask.objectives.base import Place
    from multitask.optim import build_optimizer
    from multitask.recipe.stages import Stage
    from multitask.storage.storage import Storage

    write_pairs(material)
    job = claimed(material, stage_recipe())
    stage, storage = Stage.model_validate(job.stage), Storage(job.owner.storage)
    data = StageData(job, stage)
    bundle = read_bundle(storage, job.model.start)

    def make_pass() -> Pass:
        model = bundle.model(job.model.heads, dropout=0.0, encoder_dropout=None, seed=job.seed, mlm=None)
        objective = stage.learns(setup_of(job, stage, data, model, bundle.tokenizer_json))
        model.set_trainable({"sts": objective.reached(model, "sts")}, full_model=True)
        model.train()
        trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
        optimizer = build_optimizer(trained, lr=stage.lr, eps=stage.eps, fused=stage.fused)
        began = time.perf_counter()
        slices = data.slices(objective, 0, 0, 0, 1)
        for at in range(len(slices)):
            total, count = objective.loss(slices[at], Place())
            optimizer.zero_grad()
            (total / count).backward()
            optimizer.step()
        return Pass(time.perf_counter() - began, material.amount)

    return make_pass


def claimed(material: Material, tree: dict[str, Any], place: str | None = None) -> Any:
    """The job of a recipe's only stage, as the driver would hand it to a runner. place: the storage's URI, where it is
    not a folder of the side's own."""
    from rich.console import Console

    from multitask.recipe.checks import build_recipe
    from multitask.storage.storage import Storage
    from ray_jobs.driver.driver import Driver
    from ray_jobs.driver.jobs import job_of
    from ray_jobs.driver.request import TrainingRequest
    from ray_jobs.options import Workers
    from ray_jobs.screen import Screen

    storage = Storage(place or str(material.folder / "storage"))
    request = TrainingRequest(build_recipe(tree, "bench"), str(material.folder), storage, "bench", Workers(), False)
    driver = Driver(request, Screen(Console(file=io.StringIO())))
    driver.claim()
    driver.experiment.begin_attempt()
    return job_of(driver.plan, driver.plan.nodes[0])
