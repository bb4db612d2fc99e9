"""`log: {conflict: N}`: the cosine between tasks' gradients by part of the encoder, which training does not notice."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from lightning_modules.conflict.encoder import EncoderWeights
from lightning_modules.conflict.instrument import Conflict, cosines
from lightning_modules.module import StageModule
from multitask.data.samplers import derive_seed, subset
from multitask.experiment.stage_job import StageJob
from multitask.objectives.base import Place
from multitask.report.reading import read_evidence
from multitask.report.tables import conflict_tables
from multitask.storage.storage import Storage
from tests.helpers import difference, module_of, newest, random_sentences, run, small_job, stop_at, table_of
from tests.reports import FINISHED, add_dev, texts, trainer, write

TASKS = ["sst", "quora", "sts"]
JOINT: dict[str, Any] = {"tasks": TASKS, "max_examples": 17, "epochs": 1}


def tables() -> dict[str, Any]:
    return {
        "sst": table_of(random_sentences(9, 1), [0, 1, 2, 3, 4, 0, 1, 2, 3], per=1),
        "quora": table_of(random_sentences(16, 2), [0, 1, 1, 0, 1, 0, 0, 1]),
        "sts": table_of(random_sentences(14, 3), [0.0, 1.5, 5.0, 2.5, 4.0, 3.0, 0.5]),
    }


def measured(module: StageModule, steps: int = 0) -> dict[str, float]:
    """What the callback tells of a module over those tables."""
    data: Any = type("Data", (), {"rows": module.objective.setup.rows})
    Conflict(data, 1).on_train_batch_end(module.trainer, module)
    return module.told


def gradients_by_hand(module: StageModule) -> dict[str, dict[str, Tensor]]:
    """Task -> name -> the gradient of its drawn batch's mean loss, by a plain backward."""
    found = {}
    for task in TASKS:
        rows, setup = module.objective.setup.rows[task], module.objective.setup
        drawn = rows[subset(len(rows), setup.batch_size, derive_seed(3, "stage", "conflict", 0, task))]
        module.zero_grad()
        batch = module.objective.batch(task, drawn, np.ones(len(drawn), np.float32), "now")
        total, count = module.objective.loss(batch, Place())
        (total / count).backward()
        weights = module.model.encoder.named_parameters()
        found[task] = {name: torch.zeros_like(w) if w.grad is None else w.grad.clone() for name, w in weights}
    module.zero_grad()
    return found


PARTS = {"embeddings": "embeddings.", "layer_0": "encoder.layer.0.", "layer_1": "encoder.layer.1.", "encoder": ""}


def test_the_cosines_are_those_of_plain_gradients() -> None:
    module = module_of(tables(), batch_size=6)
    told, by_hand = dict(measured(module)), gradients_by_hand(module)
    expected = {}
    for one, other in combinations(TASKS, 2):
        for part, prefix in PARTS.items():
            a, b = (
                torch.cat([value.flatten() for name, value in by_hand[task].items() if name.startswith(prefix)])
                for task in (one, other)
            )
            expected[f"conflict/{one}-{other}/{part}"] = float(a @ b / (a.norm() * b.norm()))
    assert told == pytest.approx(expected, abs=1e-12)
    assert len({round(value, 6) for value in told.values()}) == len(told) == 12


def test_measuring_leaves_no_gradient_and_no_random_state_behind() -> None:
    module = module_of(tables())
    before, weights = torch.get_rng_state(), {n: w.clone() for n, w in module.model.named_parameters()}
    measured(module)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(weight.grad is None and torch.equal(weight, weights[n]) for n, weight in module.model.named_parameters())


def test_a_task_that_does_not_reach_a_part_has_no_cosine_there() -> None:
    products = {"layer_0": torch.tensor([[4.0, -3.0], [-3.0, 9.0]]), "pooler": torch.tensor([[1.0, 0.0], [0.0, 0.0]])}
    found = cosines(["sst", "same-topic"], products)
    assert found == {
        "conflict/sst-same-topic/layer_0": pytest.approx(-0.5),
        "conflict/sst-same-topic/encoder": pytest.approx(-3 / 45**0.5),
    }


def test_the_encoders_parts_are_all_of_it() -> None:
    encoder = EncoderWeights(module_of(tables()).model, "stage")
    ends = [0, *(columns.stop for columns in encoder.parts.values())]
    assert [columns.start for columns in encoder.parts.values()] == ends[:-1]
    assert ends[-1] == sum(weight.numel() for weight in encoder.weights)
    assert encoder.words == encoder.weights[0].shape


def told_of(job: StageJob) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(job.events.uri)
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag.startswith("conflict/")]
    return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in tags}


@pytest.mark.slow
def test_training_is_as_without_and_a_resumed_stage_tells_the_same(tmp_path: Path) -> None:
    plain = small_job(tmp_path, "plain", **JOINT)
    whole, parts = (small_job(tmp_path, name, **JOINT, log={"conflict": 2}) for name in ("whole", "parts"))
    assert run(plain) and run(whole)
    assert not run(parts, stop_at(3))
    assert run(parts)
    assert difference(newest(plain).weights, newest(whole).weights) == 0
    assert told_of(whole) == told_of(parts)
    assert [step for step, _ in told_of(whole)["conflict/sst-quora/encoder"]] == [2, 4, 6]
    assert not told_of(plain)


def test_the_report_has_the_mean_of_each_pair_and_part(tmp_path: Path) -> None:
    home = write(tmp_path, FINISHED)
    with SummaryWriter(str(tmp_path / trainer("sts"))) as writer:
        for step, value in ((50, 0.5), (100, -0.3), (150, 0.7)):
            writer.add_scalar("conflict/sst-quora/layer_0", value, step)
            writer.add_scalar("conflict/sst-sts/encoder", -value, step)
        add_dev(writer, FINISHED[1])
    [table] = conflict_tables(read_evidence(Storage(home.uri)))
    assert texts(table) == {"layer_0": ["+.300", "–"], "encoder": ["–", "−.300"]}
    assert table.header == ["", "sst-quora", "sst-sts"]
    assert [cell.note for cell in table.rows[0]] == ["", "[33%]", ""]
    assert "3 times" in table.notes[0] and table.caption.endswith("of sts")
