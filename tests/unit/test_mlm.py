"""The objective mlm: its head, its loss at hidden positions alone, and dev perplexity (mlm-mnrl.txt, 4.2)."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from multitask.data.batches import Batch
from multitask.data.masking import NO_TARGET
from multitask.data.tokens import TokenTable
from multitask.measure.metrics import Score
from multitask.model.config import PRESETS
from multitask.model.mlm import MlmHead
from multitask.objectives import mlm
from multitask.objectives.base import Place
from multitask.objectives.mlm import Mlm
from multitask.tasks.table import TASKS
from ray_jobs.stopping import StopRequest
from tests.helpers import CLS, SEP, UNK, VOCABULARY, module_of, objective_of, random_sentences, small_driver, table_of

CONFIG = PRESETS["tiny"]


def table(count: int = 12, seed: int = 0) -> TokenTable:
    return table_of(random_sentences(2 * count, seed, low=8), [0.0] * count)


def batch_of(objective: Any, task: str = "quora", rows: int = 12) -> Batch:
    batch: Batch = objective.batch(task, np.arange(rows), np.ones(rows, np.float32), "epoch 0")
    return batch


def mlm_objective(tables: dict[str, TokenTable] | None = None, **stage: Any) -> Any:
    return objective_of(tables or {"quora": table()}, objective="mlm", **stage)


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_is_berts(tied: bool) -> None:
    """dense, GELU, LayerNorm, vocabulary: the same numbers as transformers' head with the same weights."""
    bert = pytest.importorskip("transformers.models.bert.modeling_bert", reason="needs transformers for parity")
    from transformers import BertConfig

    theirs = bert.BertLMPredictionHead(BertConfig(**CONFIG.to_dict())).eval()
    ours = MlmHead(CONFIG, tied, torch.Generator().manual_seed(1))
    embeddings = torch.randn(CONFIG.vocab_size, CONFIG.hidden_size)
    with torch.no_grad():
        ours.bias.normal_()
        weight = embeddings if ours.decoder is None else ours.decoder
        theirs.decoder.weight.copy_(weight)
        theirs.decoder.bias.copy_(ours.bias)
        theirs.transform.dense.load_state_dict(ours.dense.state_dict())
        theirs.transform.LayerNorm.load_state_dict(ours.norm.state_dict())
        states = torch.randn(7, CONFIG.hidden_size)
        assert torch.allclose(ours(states, embeddings), theirs(states), atol=1e-5)


def test_a_tied_head_has_no_weights_of_the_vocabularys_own() -> None:
    tied, untied = (MlmHead(CONFIG, kind, torch.Generator().manual_seed(1)) for kind in (True, False))
    sizes = [sum(parameter.numel() for parameter in head.parameters()) for head in (tied, untied)]
    assert sizes[1] - sizes[0] == CONFIG.vocab_size * CONFIG.hidden_size


def by_hand(objective: Any, batch: Batch) -> tuple[Tensor, int]:
    """The loss token by token, from the logits of every position."""
    states = objective.model.encode(batch).tokens
    logits = objective.model.mlm(states, objective.model.encoder.embeddings.word_embeddings.weight)
    total, count = torch.zeros((), dtype=torch.float64), 0
    for row, column in torch.nonzero(batch.targets != NO_TARGET).tolist():
        total = total - logits[row, column].log_softmax(dim=0)[batch.targets[row, column]]
        count += 1
    return total, count


@pytest.mark.parametrize("head", ["tied", "untied"])
def test_the_loss_is_the_hidden_tokens_cross_entropy(head: str) -> None:
    objective = mlm_objective(mlm={"head": head})
    batch = batch_of(objective)
    with torch.no_grad():
        total, count = objective.loss(batch, Place())
        expected, hidden = by_hand(objective, batch)
    assert int(count) == hidden > 10
    assert float(total) == pytest.approx(float(expected), rel=1e-12)


def test_a_tasks_loss_weight_is_a_factor() -> None:
    whole, half = (module_of({"quora": table()}, objective="mlm", loss_weights={"quora": it}) for it in (1.0, 0.5))
    with torch.no_grad():
        losses = [float(module.training_step(batch_of(module.objective), 0)) for module in (whole, half)]
    for module in (whole, half):
        module.read_losses()
    assert losses[1] == pytest.approx(0.5 * losses[0], rel=1e-12)
    assert half.loss == pytest.approx(0.5 * whole.loss, rel=1e-12)


def test_every_sentence_of_a_pair_is_an_example() -> None:
    kind = type(mlm_objective())
    found, rows = kind.examples(Mlm(), TASKS["quora"], table(), np.array([3, 1]))
    assert len(found) == 24 and rows.tolist() == [2, 3, 6, 7]


def test_a_batch_with_nothing_to_hide_costs_nothing() -> None:
    blank = [[CLS, UNK, UNK, SEP], [CLS, SEP]] * 2
    objective = mlm_objective({"quora": table_of(blank, [0.0, 0.0])})
    total, count = objective.loss(batch_of(objective, rows=4), Place())
    total.backward()
    assert (total.item(), count.item()) == (0.0, 0.0)
    module = module_of({"quora": table_of(blank, [0.0, 0.0])}, objective="mlm")
    learned = module.training_step(batch_of(objective, rows=4), 0)
    module.read_losses()
    assert learned.item() == module.loss == 0.0
    trained = {name: weight for name, weight in objective.model.named_parameters() if weight.requires_grad}
    assert trained
    assert all(weight.grad is not None and weight.grad.eq(0).all() for weight in trained.values())


def uniform(objective: Any) -> None:
    with torch.no_grad():
        objective.model.mlm.bias.zero_()
        objective.model.encoder.embeddings.word_embeddings.weight.zero_()


def test_a_uniform_models_perplexity_is_the_vocabularys_size() -> None:
    objective = mlm_objective({"quora": table(), "sts": table(9, seed=1)})
    tables = {"quora": table(30, 2), "sts": table(5, 3), "sst": table(5, 4)}
    before = objective.measure(tables, Place(), nullcontext)
    uniform(objective)
    found = objective.measure(tables, Place(), nullcontext)
    assert found.keys() == {"quora/perplexity", "sts/perplexity", "mlm/perplexity"}
    assert all(score.value == pytest.approx(VOCABULARY, rel=1e-9) for score in found.values())
    assert all(score.value != pytest.approx(VOCABULARY, rel=1e-6) for score in before.values())


def test_perplexity_is_of_all_hidden_tokens_together() -> None:
    objective = mlm_objective({"quora": table(), "sts": table(9, seed=1)})
    tables = {"quora": table(30, 2), "sts": table(5, 3)}
    sums = {task: objective._dev_loss(task, found, Place(), nullcontext) for task, found in tables.items()}
    found = objective.measure(tables, Place(), nullcontext)
    for task, (total, count) in sums.items():
        assert found[f"{task}/perplexity"].value == pytest.approx(math.exp(total / count))
    total, count = sum(sums.values())
    assert found["mlm/perplexity"].value == pytest.approx(math.exp(total / count))
    again = mlm_objective({"quora": table(), "sts": table(9, seed=1)}, name="another")
    assert again.measure(tables, Place(), nullcontext) == found  # the same tokens hidden, whatever the stage


def test_ranks_measure_perplexity_over_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multitask.measure.evaluate.EVAL_TOKENS", {"cpu": 100})  # several batches
    data = table(40, 2)
    alone = mlm_objective()._dev_loss("quora", data, Place(), nullcontext)
    parts = [mlm_objective()._dev_loss("quora", data, Place(rank, 3), nullcontext) for rank in range(3)]
    assert torch.allclose(sum(parts), alone, rtol=1e-12, atol=0)
    assert all(part[1] > 0 for part in parts)


def test_perplexity_is_measured_on_at_most_so_many_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlm, "DEV_SENTENCES", 7)
    objective, data = mlm_objective(mlm={"rate": 0.99}), table(40, 2)
    _, count = objective._dev_loss("quora", data, Place(), nullcontext).tolist()
    assert 7 * 5 < count < 7 * 31


def test_perplexity_of_nothing_is_null() -> None:
    objective = mlm_objective()
    blank = {"quora": table_of([[CLS, UNK, SEP]] * 4, [0.0, 0.0])}
    nothing = Score(None, "no token was hidden")
    assert objective.measure(blank, Place(), nullcontext) == {"quora/perplexity": nothing, "mlm/perplexity": nothing}


def test_measuring_takes_no_gradient_and_hides_by_berts_rule_too() -> None:
    objective = mlm_objective(mlm={"replace": "bert"})
    objective.model.train()
    objective.measure({"quora": table(3)}, Place(), nullcontext)
    assert objective.model.training
    assert all(weight.grad is None for weight in objective.model.parameters())


def test_the_loss_reaches_encoder_and_head_and_no_other_head() -> None:
    objective = mlm_objective()
    total, _ = objective.loss(batch_of(objective), Place())
    total.backward()
    moved = {name for name, weight in objective.model.named_parameters() if weight.grad is not None}
    assert {"mlm.bias", "mlm.dense.weight", "encoder.embeddings.word_embeddings.weight"} <= moved
    assert not any(name.startswith("heads.") for name in moved)
    trained = {name for name, weight in objective.model.named_parameters() if weight.requires_grad}
    assert trained == moved


def test_a_frozen_encoder_trains_the_head_alone() -> None:
    objective = mlm_objective(train="last-linear-layer")
    objective.model.train()
    assert objective.model.mlm.training and not objective.model.encoder.training  # it is a fixed function
    total, _ = objective.loss(batch_of(objective), Place())
    total.backward()
    moved = {name for name, weight in objective.model.named_parameters() if weight.grad is not None}
    assert moved and all(name.startswith("mlm.") for name in moved)


@pytest.mark.parametrize(
    ("total", "count", "score"),
    [
        (math.log(20.0) * 8, 8.0, Score(pytest.approx(20.0))),
        (709.0, 1.0, Score(pytest.approx(8.218407461554972e307))),
        (1420.0, 2.0, Score(None, "the loss is 710 nats a hidden token: a number holds exp of at most 709.783")),
        (math.inf, 1.0, Score(None, "the loss is inf nats a hidden token: a number holds exp of at most 709.783")),
        (math.nan, 1.0, Score(None, "the loss is nan nats a hidden token: a number holds exp of at most 709.783")),
    ],
)
def test_a_perplexity_beyond_numbers_is_null_and_says_the_loss(total: float, count: float, score: Score) -> None:
    assert mlm.perplexity(total, count) == score


@pytest.mark.slow
def test_a_stage_that_diverges_so_far_ends_well(tmp_path: Path) -> None:
    """The head's weights so large that the right token costs thousands of nats: training goes on, and says so."""
    results = small_driver(tmp_path, objective="mlm", tasks=["sst"], lr=1e3, epochs=1, clip=1.0).run(StopRequest(""))
    row = results["stages"][-1]
    assert row["status"] == "finished" and row["metrics"]["mlm/perplexity"] is None
    assert "nats a hidden token" in row["why"]["mlm/perplexity"]
