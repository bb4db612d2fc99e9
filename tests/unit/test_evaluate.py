"""Exact dev metrics: every example once, however many ranks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from multitask.bundle.bundle import Bundle, source_bundle
from multitask.data.batches import Features
from multitask.data.files import find_file
from multitask.data.sample import sample_uri
from multitask.data.samplers import stacked, subset
from multitask.data.tokens import TokenTable, cache_tokens, load_tokens
from multitask.measure.evaluate import (
    EVAL_TOKENS,
    EvalSet,
    Measured,
    encode_sentences,
    feature_places,
    measure,
    predictions,
    scattered,
)
from multitask.measure.metrics import Score
from multitask.model.multitask import MultitaskModel
from multitask.model.sources import load_source
from multitask.storage.storage import Storage
from multitask.tasks.table import TASKS

CPU = torch.device("cpu")
HEADS = {"sst": "mlp", "quora": "linear", "sts": "cosine"}


@pytest.fixture(autouse=True)
def several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EVAL_TOKENS, "cpu", 200)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """Random weights ten times as large as usual, so that predictions differ."""
    source = source_bundle(load_source("tiny"))
    return replace(source, tensors={name: 10 * value for name, value in source.tensors.items()})


@pytest.fixture
def model(bundle: Bundle) -> MultitaskModel:
    return bundle.model(HEADS, dropout=0.5).train()


@pytest.fixture(scope="module")
def tables(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TokenTable]:
    """The first 40 examples of the sample's dev files."""
    folder, tables = tmp_path_factory.mktemp("data"), {}
    storage = Storage(str(folder / "runs"))
    for task in HEADS:
        lines = Path(find_file(sample_uri(), TASKS[task], "dev")).read_text().splitlines()
        (folder / f"{task}.csv").write_text("\n".join(lines[:41]) + "\n")
        uri, spec = str(folder / f"{task}.csv"), TASKS[task]
        path = cache_tokens(storage, uri, spec, bundle.tokenizer, labelled=True, max_length=64)
        tables[task] = load_tokens(storage, path)
    return tables


def values(measured: Measured) -> dict[str, float | None]:
    return {name: found.value for name, found in measured.scores.items()}


@pytest.mark.parametrize("task", HEADS)
def test_any_number_of_ranks_predicts_the_same(model: MultitaskModel, tables: dict[str, TokenTable], task: str) -> None:
    table = tables[task]
    alone = predictions(model, EvalSet.of(task, table, "cpu"), device=CPU).labels
    assert (alone.dtype, alone.shape) == (torch.float64, (len(table),))
    assert len(alone.unique()) > 1
    assert len(EvalSet.of(task, table, "cpu").batches) > 3
    for world in (2, 3):
        sets = [EvalSet.of(task, table, "cpu", rank, world) for rank in range(world)]
        rows = torch.cat([batch.rows for data in sets for batch in data.batches])
        assert sorted(rows.tolist()) == list(range(len(table)))
        summed = sum(predictions(model, data, device=CPU).labels for data in sets)
        assert torch.equal(summed, alone)


def test_more_ranks_than_batches(model: MultitaskModel, tables: dict[str, TokenTable]) -> None:
    sets = [EvalSet.of("sst", tables["sst"], "cpu", rank, 99) for rank in range(99)]
    assert not sets[-1].batches
    assert predictions(model, sets[-1], device=CPU).labels.count_nonzero() == 0


@pytest.mark.parametrize("task", HEADS)
def test_encoded_once_and_for_all_predicts_the_same(
    model: MultitaskModel, tables: dict[str, TokenTable], task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = EvalSet.of(task, tables[task], "cpu")
    rows = np.arange(len(data.table))
    features = encode_sentences(model, data, rows, device=CPU)
    encoded = data.with_features(Features(features, feature_places(rows, data.table)))
    expected = predictions(model, data, device=CPU).labels

    def refuse(*_: object) -> None:
        raise AssertionError("encoded again")

    monkeypatch.setattr(model.encoder, "forward", refuse)
    assert torch.equal(predictions(model, encoded, device=CPU).labels, expected)


def test_measuring_leaves_the_model_as_it_was(model: MultitaskModel, tables: dict[str, TokenTable]) -> None:
    data = EvalSet.of("sst", tables["sst"], "cpu")
    one, two = (predictions(model, data, device=CPU).labels for _ in range(2))
    assert torch.equal(one, two)  # no dropout
    assert model.training
    assert torch.is_grad_enabled()


def test_all_metrics_are_measured_and_progress_is_told(model: MultitaskModel, tables: dict[str, TokenTable]) -> None:
    sets = {task: EvalSet.of(task, table, "cpu") for task, table in tables.items()}
    told: dict[str, list[int]] = {task: [] for task in sets}
    measured = measure(model, sets, device=CPU, progress={task: done.append for task, done in told.items()})
    assert not any(found.why for found in measured.scores.values())
    expected = {task: predictions(model, data, device=CPU).labels.numpy() for task, data in sets.items()}
    labels = {task: table.labels.double().numpy() for task, table in tables.items()}
    sst, quora = (float((expected[task] == labels[task]).mean()) for task in ("sst", "quora"))
    sts = float(np.corrcoef(expected["sts"], labels["sts"])[0, 1])
    assert values(measured) == {
        "sst/accuracy": sst,
        "quora/accuracy": quora,
        "sts/pearson": pytest.approx(sts, abs=1e-12),
        "overall/mean": pytest.approx((sst + quora + sts) / 3, abs=1e-12),
        "overall/normalised": pytest.approx((sst + quora + (sts + 1) / 2) / 3, abs=1e-12),
    }
    for task, table in tables.items():
        assert told[task][-1] == len(table)


def test_overall_scores_are_of_the_metrics_that_are_named(model: MultitaskModel, tables: dict[str, TokenTable]) -> None:
    sets = {task: EvalSet.of(task, tables[task], "cpu") for task in ("sst", "sts")}
    found = values(measure(model, sets, device=CPU, overall_of=["sst/pearson", "sts/pearson"]))
    assert found.keys() == {"sst/accuracy", "sst/pearson", "sts/pearson", "overall/mean", "overall/normalised"}
    predicted = predictions(model, sets["sst"], device=CPU).labels.numpy()
    r = float(np.corrcoef(predicted, tables["sst"].labels.double().numpy())[0, 1])
    assert found["sst/pearson"] == pytest.approx(r, abs=1e-12)
    assert found["overall/mean"] == pytest.approx((r + (found["sts/pearson"] or 0)) / 2, abs=1e-12)
    assert found["overall/normalised"] == pytest.approx((r + (found["sts/pearson"] or 0) + 2) / 4, abs=1e-12)
    assert "overall/mean" not in values(measure(model, sets, device=CPU, overall_of=["sst/accuracy", "quora/accuracy"]))


def spoiled(bundle: Bundle, value: float) -> MultitaskModel:
    """A model whose sts head says the same of every pair."""
    model = bundle.model({**HEADS, "sts": "linear"})
    with torch.no_grad():
        for parameter in model.heads["sts"].parameters():
            parameter.fill_(value)
    return model


@pytest.mark.parametrize(("value", "why"), [(0.0, "constant prediction 0.0"), (float("nan"), "not finite")])
def test_what_cannot_be_measured_is_null_and_says_why(
    bundle: Bundle, tables: dict[str, TokenTable], value: float, why: str
) -> None:
    sets = {task: EvalSet.of(task, table, "cpu") for task, table in tables.items()}
    measured = measure(spoiled(bundle, value), sets, device=CPU)
    undefined = measured.scores["sts/pearson"]
    assert undefined.value is None and why in str(undefined.why) and undefined.interval is None
    assert measured.scores["sst/accuracy"].value is not None
    nothing = Score(None, "sts/pearson undefined")
    assert measured.scores["overall/mean"] == measured.scores["overall/normalised"] == nothing


def test_a_reduction_is_over_all_examples(model: MultitaskModel, tables: dict[str, TokenTable]) -> None:
    """Three ranks in turn, each of which gets the other two's predictions from the reduction."""
    table = tables["sts"]
    sets = [EvalSet.of("sts", table, "cpu", rank, 3) for rank in range(3)]
    whole = sum(predictions(model, data, device=CPU).labels for data in sets)
    assert isinstance(whole, Tensor)
    expected = measure(model, {"sts": EvalSet.of("sts", table, "cpu")}, device=CPU).scores
    for data in sets:
        assert measure(model, {"sts": data}, device=CPU, reduce=lambda _: whole).scores == expected


def test_what_batches_give_stands_at_its_places() -> None:
    told: list[int] = []
    batches = [torch.tensor([3, 0]), torch.tensor([2])]
    found = scattered(torch.zeros(4, 2), batches, lambda rows: rows, lambda rows: rows[:, None].half() + 1, told.append)
    assert found.tolist() == [[1, 1], [0, 0], [3, 3], [4, 4]] and found.dtype == torch.float32
    assert told == [2, 3]


def test_sentences_are_encoded_in_the_tables_order(model: MultitaskModel, tables: dict[str, TokenTable]) -> None:
    table = tables["quora"]
    rows = np.arange(len(table))
    whole = encode_sentences(model, EvalSet.of("quora", table, "cpu"), rows, device=CPU)
    assert whole.shape == (2 * len(table), model.config.hidden_size)
    assert whole.abs().sum(dim=1).min() > 0
    sets = [EvalSet.of("quora", table, "cpu", rank, 3) for rank in range(3)]
    parts = [encode_sentences(model, data, rows, device=CPU) for data in sets]
    assert torch.equal(parts[0] + parts[1] + parts[2], whole)
    ids = table.sentence(7)[None].long()
    with model.evaluating():
        states = model.encoder(ids, torch.ones_like(ids))
    assert torch.allclose(whole[7], states[0].mean(dim=0), atol=1e-4)


def test_only_some_rows_are_encoded(model: MultitaskModel, tables: dict[str, TokenTable]) -> None:
    table = tables["quora"]
    rows = subset(len(table), 5, seed=1)
    some = encode_sentences(model, EvalSet.of("quora", table, "cpu", rows=rows), rows, device=CPU)
    everything = np.arange(len(table))
    whole = encode_sentences(model, EvalSet.of("quora", table, "cpu"), everything, device=CPU)
    assert some.shape == (10, model.config.hidden_size)
    sentences = stacked(rows, 2)
    found = Features(some, feature_places(rows, table)).of(sentences)
    assert torch.allclose(found, whole[sentences], atol=1e-5)
    places = feature_places(rows, table)
    assert set(torch.nonzero(places >= 0).flatten().tolist()) == set(sentences.tolist())
    assert sorted(places[sentences].tolist()) == list(range(10))
