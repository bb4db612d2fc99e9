"""Every metric of every kind of label, of a model's own answers on one rank and on three, against scikit-learn's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from multitask.measure.evaluate import EVAL_TOKENS, EvalSet, measure, predictions
from multitask.measure.metrics import METRICS
from multitask.measure.rankings import questions_of, ranked
from multitask.model.multitask import MultitaskModel
from multitask.tasks.labels import KINDS, RANKINGS, KindName
from multitask.tasks.own import Definition, spec_of
from multitask.tasks.table import TASKS, TaskSpec
from tests.helpers import table_of, tiny
from tests.unit.test_functions import KIND_OF
from tests.unit.test_rankings import PEERS

CPU = torch.device("cpu")
ROWS = 60
LABELS: dict[KindName, dict[str, object]] = {
    "classes": {"kind": "classes", "words": ["a", "b", "c", "d"]},
    "binary": {"kind": "binary"},
    "score": {"kind": "score", "low": 0, "high": 5},
    "probability": {"kind": "probability"},
    "multilabel": {"kind": "multilabel", "words": ["a", "b", "c"]},
}


def made(kind: KindName, pairs: bool) -> tuple[TaskSpec, MultitaskModel, EvalSet]:
    """A task of a kind, a model whose answers differ, and rows whose labels know something of them; pairs have eight
    first texts."""
    random = np.random.default_rng(1)
    columns = ["first", "second"][: 1 + pairs]
    definition = Definition.model_validate({"columns": columns, "label": {"column": "label", **LABELS[kind]}})
    spec = spec_of("own", definition, "own")
    tensors = {name: 5 * value for name, value in tiny().tensors.items()}
    bundle = replace(tiny(), specs={**TASKS, "own": spec}, tensors=tensors)
    model = bundle.model({"own": spec.head}).eval()
    texts = [[2, *random.integers(10, 400, random.integers(1, 12)), 3] for _ in range(ROWS)]
    if pairs:
        texts = [text for at, second in enumerate(texts) for text in (texts[at % 8], second)]
    empty = table_of(texts, [0.0] * ROWS, per=len(columns))
    outputs = predictions(model, EvalSet.of("own", empty, "cpu"), device=CPU).labels.numpy()
    noise = random.uniform(0, 1, outputs.shape) < 0.3
    other = {"multilabel": 1 - outputs, "binary": 1 - outputs, "classes": (outputs + 1) % 4}
    labels = np.where(noise, other.get(kind, random.uniform(0, 1, outputs.shape)), outputs)
    labels[:4] = {"classes": np.arange(4), "multilabel": [[0, 0, 0], [1, 1, 1]] * 2}.get(kind, [0, 1, 0, 1])
    return spec, model, EvalSet.of("own", replace(empty, labels=torch.tensor(labels).float()), "cpu")


def theirs(metric: str, kind: KindName, spec: TaskSpec, model: MultitaskModel, data: EvalSet) -> float:
    predicted, labels = predictions(model, data, device=CPU), data.table.labels.double().numpy()
    logits, numbers = (None if one is None else one.numpy() for one in (predicted.logits, predicted.labels))
    if metric not in RANKINGS:
        given = logits if METRICS[metric].of_logits else numbers
        assert given is not None
        return float(KIND_OF[kind][metric](labels, given))
    questions, scores = questions_of(data.table, spec.label), numbers if logits is None else logits
    assert scores is not None
    asked = [questions.number == number for number in np.unique(questions.number)]
    lists = [ranked(scores[rows], questions.relevant[rows]) for rows in asked]
    return float(np.mean([PEERS[metric](one) for one in lists if one.any() and not one.all()]))


@pytest.mark.parametrize("pairs", [False, True], ids=["texts", "pairs"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_rank_and_three_measure_as_the_peers(kind: KindName, pairs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EVAL_TOKENS, "cpu", 100)
    spec, model, data = made(kind, pairs)
    parts = [EvalSet.of("own", data.table, "cpu", rank, 3) for rank in range(3)]
    assert all(len(part.batches) > 1 for part in parts)

    def together(mine: torch.Tensor) -> torch.Tensor:
        """All ranks' sum, as each of them gets it."""
        found: list[torch.Tensor] = []
        for part in parts:
            measure(model, {"own": part}, device=CPU, reduce=lambda one: found.append(one) or one)  # type: ignore[func-returns-value]
        return torch.stack(found).sum(dim=0)

    asked = [f"own/{metric}" for metric in spec.metrics]
    assert (set(RANKINGS) <= {*spec.metrics}) == (pairs and kind in ("binary", "score", "probability"))
    one = measure(model, {"own": data}, device=CPU, measures=asked).scores
    three = [measure(model, {"own": part}, device=CPU, reduce=together, measures=asked).scores for part in parts]
    assert three == [one] * 3
    for metric in spec.metrics:
        expected = theirs(metric, kind, spec, model, data)
        value = None if np.isnan(expected) else pytest.approx(expected, abs=1e-12)
        assert one[f"own/{metric}"].value == value, metric
