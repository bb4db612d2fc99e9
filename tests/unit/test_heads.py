"""Heads: by hand, for the tasks they can serve, from a generator alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from multitask.errors import UserError
from multitask.losses import LOSSES
from multitask.model.bert import Encoding
from multitask.model.heads import HEADS, build_head, loss_for, predict
from multitask.tasks import TASKS, LabelSpec

H = 4
SERVED = [(head, task) for head, spec in HEADS.items() for task in TASKS.values() if spec.serves(task)]


def encoding(rows: list[list[float]]) -> Encoding:
    sentence = torch.tensor(rows)
    return Encoding(sentence, sentence[:, None], torch.ones(len(rows), 1, dtype=torch.bool))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


U = encoding([[1.0, -2.0, 0.5, 3.0], [0.0, 1.0, 0.0, -1.0]])
V = encoding([[2.0, 0.0, -1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])


@pytest.mark.parametrize(("name", "task"), SERVED, ids=lambda value: getattr(value, "name", value))
def test_every_head_gives_its_tasks_shape_and_trains(name: str, task) -> None:
    head = build_head(name, H, task, generator())
    outputs = head(U, V if len(task.columns) == 2 else None)
    assert outputs.shape == ((2, task.label.outputs) if task.label.kind == "classes" else (2,))
    assert predict(outputs, task.label).shape == (2,)
    loss = LOSSES[loss_for(name, task, None, "here")](outputs, torch.tensor([1.0, 0.0]), torch.ones(2))[0]
    assert loss.isfinite()
    for parameter in head.parameters():
        assert torch.autograd.grad(loss, parameter, retain_graph=True)[0].isfinite().all()
    assert head.uses_tokens is False


def weights(head: torch.nn.Module) -> list[Tensor]:
    return [parameter.detach() for parameter in head.parameters()]


def test_linear_by_hand() -> None:
    head = build_head("linear", H, TASKS["sst"], generator())
    weight, bias = weights(head)
    assert weight.shape == (5, H)
    torch.testing.assert_close(head(U), U.sentence @ weight.T + bias)

    head = build_head("linear", H, TASKS["quora"], generator())
    weight, bias = weights(head)
    assert weight.shape == (1, 2 * H)
    by_hand = U.sentence @ weight[0, :H] + V.sentence @ weight[0, H:] + bias
    torch.testing.assert_close(head(U, V), by_hand)


def test_mlp_by_hand() -> None:
    """The sizes of bertaar.txt, 5.1: h, h/2, classes for a sentence; 2h, h, 1 for a pair."""
    head = build_head("mlp", H, TASKS["sst"], generator())
    w1, b1, w2, b2 = weights(head)
    assert [tuple(w.shape) for w in (w1, w2)] == [(H // 2, H), (5, H // 2)]
    torch.testing.assert_close(head(U), (U.sentence @ w1.T + b1).clamp(min=0) @ w2.T + b2)

    head = build_head("mlp", H, TASKS["sts"], generator())
    w1, b1, w2, b2 = weights(head)
    assert [tuple(w.shape) for w in (w1, w2)] == [(H, 2 * H), (1, H)]
    pair = torch.cat([U.sentence, V.sentence], 1)
    torch.testing.assert_close(head(U, V), ((pair @ w1.T + b1).clamp(min=0) @ w2.T + b2)[:, 0])


def test_cosine_by_hand() -> None:
    head = build_head("cosine", 2, TASKS["sts"], generator())
    first = encoding([[3.0, 4.0], [1.0, 0.0], [1.0, 1.0]])
    second = encoding([[4.0, 3.0], [-1.0, 0.5], [7.0, 7.0]])
    torch.testing.assert_close(head(first, second), torch.tensor([5 * 24 / 25, 0.0, 5.0]))
    assert not list(head.parameters())
    unit = replace(TASKS["sts"], label=LabelSpec("score", "similarity", 0, 1))
    torch.testing.assert_close(
        build_head("cosine", 2, unit, generator())(first, second), torch.tensor([24 / 25, 0.0, 1.0])
    )


def test_first_weights_come_from_the_generator_alone() -> None:
    torch.manual_seed(1)
    first = build_head("mlp", H, TASKS["sst"], generator(5)).state_dict()
    torch.manual_seed(2)
    again = build_head("mlp", H, TASKS["sst"], generator(5)).state_dict()
    other = build_head("mlp", H, TASKS["sst"], generator(6)).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_first_weights_are_uniform_within_the_bound() -> None:
    weight, bias = weights(build_head("linear", 400, TASKS["sst"], generator()))
    assert weight.abs().max() <= 400**-0.5 and bias.abs().max() <= 400**-0.5
    assert weight.std().item() == pytest.approx(400**-0.5 / 3**0.5, rel=0.05)


@pytest.mark.parametrize(("head", "task"), [("cosine", "sst"), ("cosine", "quora"), ("bilstn", "sst")])
def test_a_head_that_cannot_serve_is_refused_with_those_that_can(head: str, task: str) -> None:
    with pytest.raises(UserError, match=rf"here: head '{head}' .*heads that serve '{task}': linear, mlp") as caught:
        build_head(head, H, TASKS[task], generator(), "here")
    assert "\n" not in str(caught.value)


def test_losses_follow_the_head_unless_overridden() -> None:
    assert loss_for("cosine", TASKS["sts"], None, "here") == "cosine_mse"
    assert loss_for("cosine", TASKS["sts"], "mse", "here") == "mse"
    assert loss_for("mlp", TASKS["sts"], None, "here") == "mse"
    assert loss_for("linear", TASKS["quora"], None, "here") == "bce"
    with pytest.raises(UserError, match="here: loss 'bce' does not fit head 'mlp' on task 'sst'; valid: cross_entropy"):
        loss_for("mlp", TASKS["sst"], "bce", "here")


def test_every_head_names_known_losses() -> None:
    assert all(loss in LOSSES for head in HEADS.values() for losses in head.losses.values() for loss in losses)


def test_predictions_by_kind() -> None:
    logits = torch.tensor([[0.1, 0.9, 0.0], [3.0, -1.0, 2.0]])
    assert predict(logits, LabelSpec("classes", "x", 0, 2)).tolist() == [1.0, 0.0]
    assert predict(torch.tensor([-0.1, 0.0, 0.2]), LabelSpec("binary", "x", 0, 1)).tolist() == [0.0, 0.0, 1.0]
    scores = predict(torch.tensor([2.5, 4.0], dtype=torch.bfloat16), LabelSpec("score", "x", 0, 5))
    assert scores.tolist() == [2.5, 4.0] and scores.dtype == torch.float32
