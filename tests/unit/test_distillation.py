"""Distillation's losses: torch's numbers, finite differences, examples without labels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.data import rows_of
from multitask.data.batches import collate
from multitask.data.samplers import training_rows
from multitask.data.tokens import TokenTable
from multitask.model.dropout import Draws, Dropout
from multitask.objectives.base import Place
from multitask.objectives.distillation import Taught, with_labels
from multitask.objectives.losses import LOSSES
from multitask.tasks.labels import KINDS, LabelSpec
from multitask.tasks.table import TASKS
from tests.helpers import (
    objective_of,
    random_sentences,
    table_of,
    tiny,
)
from tests.unit.test_cross_encoder import LABELS

CPU = torch.device("cpu")
SPECS = {
    "classes": LabelSpec("classes", "label", 0, 4),
    "binary": LabelSpec("binary", "label", 0, 1),
    "score": LabelSpec("score", "label", 1, 5),
    "probability": LabelSpec("probability", "label", 0, 1),
    "multilabel": LabelSpec("multilabel", "label", 0, 2),
}
assert SPECS.keys() == KINDS.keys() == LABELS.keys()


def drawn(kind: str, seed: int, count: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(count, *SPECS[kind].shape, generator=generator, dtype=torch.float64)


def by_torch(outputs: Tensor, teacher: Tensor, kind: str, temperature: float) -> Tensor:
    """The batch's mean by torch's own losses: a yes or no is two classes, several are yes or no each."""
    if kind == "score":
        return F.mse_loss(outputs, teacher) / 16
    if kind != "classes":
        outputs, teacher = (torch.stack((torch.zeros_like(it), it), dim=-1).flatten(0, -2) for it in (outputs, teacher))
    p, q = (teacher / temperature).softmax(-1), (outputs / temperature).log_softmax(-1)
    return F.kl_div(q, p, reduction="batchmean") * temperature**2


@pytest.mark.parametrize("temperature", [1.0, 3.5])
@pytest.mark.parametrize("kind", SPECS)
def test_a_kinds_loss_is_torchs_and_its_gradient_that_of_finite_differences(kind: str, temperature: float) -> None:
    outputs, teacher, label = drawn(kind, 1), drawn(kind, 2), SPECS[kind]
    losses = KINDS[label.kind].taught(outputs, teacher, label, temperature)
    assert losses.shape == (7,) and (losses > 0).all()
    assert losses.mean().item() == pytest.approx(by_torch(outputs, teacher, kind, temperature).item(), rel=1e-12)
    assert KINDS[label.kind].taught(teacher, teacher, label, temperature).abs().max() < 1e-14
    student = outputs.requires_grad_()
    assert torch.autograd.gradcheck(lambda it: KINDS[label.kind].taught(it, teacher, label, temperature), student)


def test_extreme_logits_of_halves_have_a_finite_loss() -> None:
    far = torch.tensor([200.0, -200.0], dtype=torch.bfloat16)
    found = KINDS["binary"].taught(far, -far, SPECS["binary"], 1.0)
    assert found.dtype == torch.float32 and found.tolist() == [200, 200]


# Task, sentences an example, what its teacher says of it.
TAUGHT: dict[str, tuple[str, int, dict[str, Any]]] = {
    "classes": ("sst", 1, {"temperature": 2.0, "weight": 0.7}),
    "binary": ("quora", 2, {"temperature": 3.0}),
    "score": ("sts", 2, {}),
    "embeddings": ("sts", 2, {"embeddings": True, "weight": 1.0}),
}


def student(kind: str, labels: list[float], smart: dict[str, Any] | None = None, **changed: Any) -> Any:
    """The objective of a stage in float64 that a made-up teacher teaches, over as many examples as labels."""
    task, per, teacher = TAUGHT[kind]
    teacher = teacher | changed
    table = table_of(random_sentences(per * len(labels)), labels, per)
    made = objective_with(table, task, {"bundle": "a/b", **teacher}, smart)
    generator, per = torch.Generator().manual_seed(3), per if kind == "embeddings" else 1
    width = (tiny().config.hidden_size,) if kind == "embeddings" else TASKS[task].label.shape
    values = torch.randn(per * len(labels), *width, generator=generator, dtype=torch.float64)
    made.taught[task] = Taught(values, torch.arange(per * len(labels)), per)
    return made


def objective_with(table: TokenTable, task: str, teacher: dict[str, Any], smart: dict[str, Any] | None = None) -> Any:
    return objective_of({task: table}, teachers={task: teacher}, smart=smart)


def loss_of(made: Any, rows: list[int], weights: list[float] | None = None) -> tuple[Tensor, Tensor]:
    (task,) = made.setup.tasks
    given = np.array(weights or [1.0] * len(rows), np.float32)
    total, count = made.loss(made.batch(task, np.array(rows), given, "now"), Place())
    return total, count


@pytest.mark.parametrize("kind", TAUGHT)
def test_the_encoders_gradient_is_that_of_finite_differences(kind: str) -> None:
    made, rows = student(kind, [1, 0, 1, float("nan")]), [0, 1, 2, 3]
    weight = made.model.encoder.embeddings.position_embeddings.weight
    made.loss(made.batch(made.setup.tasks[0], np.array(rows), np.ones(4, np.float32), "now"), Place())[0].backward()
    at = divmod(int(weight.grad.abs().argmax()), weight.shape[1])
    found, step = weight.grad[at].item(), 1e-5
    ends = []
    for moved in (step, -2 * step):
        with torch.no_grad():
            weight[at] += moved
        ends.append(loss_of(made, rows)[0].item())
    assert found == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6) and abs(found) > 1e-6


def test_smart_beside_a_teacher_of_encodings_compares_equal_masks() -> None:
    """In a stage's first step the held weights are the model's: what is left of SMART's proximal term is mask noise."""
    totals = []
    for smart in ({"weight": 0.0}, None):
        made = student("embeddings", [1.0, 2.0, 3.0], smart=smart, weight=0.5)
        for module in made.model.modules():
            if isinstance(module, Dropout):
                module.p = 0.3
        made.model.train()

        def begin(model: Any = made.model) -> None:
            model.draws = Draws(5)

        begin()
        batch = made.batch("sts", np.arange(3), np.ones(3, np.float32), "now")
        totals.append(made.loss(batch, Place(reseed=begin))[0].item())
    assert totals[0] == pytest.approx(totals[1], abs=1e-12)


@pytest.mark.parametrize("kind", TAUGHT)
def test_an_example_without_a_label_learns_from_the_teacher_alone(kind: str) -> None:
    task, _, teacher = TAUGHT[kind]
    weight = teacher.get("weight", 0.5)
    labels = [1.0, 0.0, float("nan"), float("nan")]
    made = student(kind, labels)
    total, count = loss_of(made, [0, 1, 2, 3])
    assert count == 4
    alone = [loss_of(made, [row])[0].item() for row in range(4)]
    assert total.item() == pytest.approx(sum(alone), rel=1e-9)
    batch = made.batch(task, np.arange(4), np.ones(4, np.float32), "now")
    outputs, said = made.model(batch), made.taught[task].of(np.arange(4))
    if kind == "embeddings":
        first, second = said.chunk(2)
        apart = F.mse_loss(made.model.features(batch), torch.cat((first, second)), reduction="none").mean(1)
        apart = (apart[:4] + apart[4:]) / 2
    else:
        label = TASKS[task].label
        apart = KINDS[label.kind].taught(outputs, said, label, teacher.get("temperature", 1.0))
    assert alone[3] == pytest.approx(weight * apart[3].item(), rel=1e-9)
    own = LOSSES[made.setup.losses[task]].sums(outputs[:1], batch.labels[:1], batch.weights[:1])[0].item()
    assert alone[0] == pytest.approx((1 - weight) * own + weight * apart[0].item(), rel=1e-9)
    filled, counted = loss_of(made, [0, 3], [1.0, 0.0])
    assert counted == 1 and filled.item() == pytest.approx(alone[0], rel=1e-9)


def taught_by_halves(task: str, labels: list[float], teacher: dict[str, Any], **stage: Any) -> Any:
    """The objective of a student over those labels, whose teacher says .5 of every example."""
    per = len(TASKS[task].columns)
    table = table_of(random_sentences(per * len(labels)), labels, per)
    made = objective_of({task: table}, teachers={task: {"bundle": "a/b", **teacher}}, **stage)
    made.taught[task] = Taught(torch.full((len(labels), *TASKS[task].label.shape), 0.5), torch.arange(len(labels)), 1)
    return made


def test_a_loss_of_pairs_leaves_out_those_without_a_label() -> None:
    made = taught_by_halves("sts", [1.0, float("nan"), 4.0], {}, losses={"sts": "cosent"})
    pair, alone, all_ = (loss_of(made, rows)[0].item() for rows in ([0, 2], [1], [0, 2, 1]))
    assert all_ == pytest.approx(pair + alone, rel=1e-9)
    outputs = made.model(made.batch("sts", np.array([1]), np.ones(1, np.float32), "now"))
    apart = KINDS["score"].taught(outputs, torch.tensor([0.5]), TASKS["sts"].label, 1.0)
    assert alone == pytest.approx(0.5 * apart.item(), rel=1e-9) and pair > alone


def test_balanced_classes_are_counted_where_there_are_labels() -> None:
    nan = float("nan")
    some, others = ([0.0, 0.0, 0.0, 1.0, *more] for more in ([], [nan, nan]))
    made = [
        taught_by_halves("sst", labels, {}, loss_settings={"sst": {"class_weights": "balanced"}}, rdrop=0.5)
        for labels in (some, others)
    ]
    weights = [one.settings["sst"]["class_weights"] for one in made]
    assert torch.equal(*weights) and weights[0][1] == 3 * weights[0][0]
    assert loss_of(made[1], [4, 5])[0].isfinite()


def test_several_labels_may_be_missing_too() -> None:
    table = table_of(random_sentences(2), [0, 0], 1)
    table = replace(table, labels=torch.tensor([[1.0, 0.0], [float("nan")] * 2]))
    assert table.labelled == 1
    known = with_labels(collate("sst", table, np.arange(2), np.ones(2, np.float32)))
    assert known.weights.tolist() == [1, 0] and known.labels.tolist() == [[1, 0], [0, 0]]


def test_rows_without_a_label_do_not_change_which_others_are_used() -> None:
    labels = [1.0] * 20
    table = table_of(random_sentences(20), labels, 1)
    more = table_of(random_sentences(50), [*labels, *[float("nan")] * 30], 1)
    for cap in (None, 7):
        rows = rows_of(more, cap, 3, "sst")
        assert rows_of(table, cap, 3, "sst").tolist() == training_rows(20, cap, 3, "sst").tolist()
        assert rows[rows < 20].tolist() == training_rows(20, cap, 3, "sst").tolist()
        assert (np.diff(rows) > 0).all() and (rows >= 20).sum() == (cap or 30)


# Teachers of tasks, in a storage.
